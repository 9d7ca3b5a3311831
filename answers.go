package claudebalancer

import (
	"encoding/json"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/claude-balancer/claude-balancer/anthropic"
)

// Error types of Anthropic's envelope.
const (
	typeInvalidRequest = "invalid_request_error"
	typeAuthentication = "authentication_error"
	typeBilling        = "billing_error"
	typePermission     = "permission_error"
	typeNotFound       = "not_found_error"
	typeTooLarge       = "request_too_large"
	typeRateLimit      = "rate_limit_error"
	typeTimeout        = "timeout_error"
	typeAPI            = "api_error"
	typeOverloaded     = "overloaded_error"
)

// refusal is an answer of the balancer's own: an error it tells the client.
type refusal struct {
	status     int
	typ        string
	message    string
	extra      map[string]any
	header     http.Header   // further headers
	retryAfter time.Duration // 0 = no Retry-After
	noRetry    bool          // tells clients that trying again is of no use
}

// Error implements error, so that the failover transport can return it.
func (e *refusal) Error() string { return e.message }

// longWait is what clients still wait for; above it they are told not to retry.
const longWait = time.Minute

// write sends the refusal in the form of the client's kind: Anthropic's
// envelope for Anthropic's clients, a plain `error` string for any other.
func (e *refusal) write(w http.ResponseWriter, r *http.Request, id string) {
	body := make(map[string]any, len(e.extra)+3)
	for k, v := range e.extra {
		body[k] = v
	}
	if anthropic.IsAnthropicClient(r.Header) {
		body["type"] = "error"
		body["error"] = map[string]string{"type": e.typ, "message": e.message}
		body["request_id"] = id
	} else {
		body["error"] = e.message
	}
	e.send(w, r, id, body)
}

// writePlain sends the refusal in the plain form, whoever asks.
func (e *refusal) writePlain(w http.ResponseWriter, r *http.Request) {
	e.send(w, r, "", map[string]any{"error": e.message})
}

func (e *refusal) send(w http.ResponseWriter, r *http.Request, id string, body map[string]any) {
	h := w.Header()
	for k, v := range e.header {
		h[k] = v
	}
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if id != "" {
		h.Set("X-Request-Id", id)
		h.Set("Request-Id", id) // where Anthropic's clients look for it
	}
	if e.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(e.retryAfter.Seconds()))))
	}
	if e.noRetry || e.retryAfter > longWait {
		h.Set("X-Should-Retry", "false")
	}
	w.WriteHeader(e.status)
	if r.Method != http.MethodHead {
		// The client may be gone; there is nobody to tell.
		_ = json.NewEncoder(w).Encode(body)
	}
}

// streamError is the event that ends a stream which broke on the way.
func streamError(message, id string) []byte {
	data, err := json.Marshal(map[string]any{
		"type":       "error",
		"error":      map[string]string{"type": typeAPI, "message": message},
		"request_id": id,
	})
	if err != nil { // strings always marshal
		panic(err)
	}
	return append(append([]byte("\n\nevent: error\ndata: "), data...), "\n\n"...)
}

// Refusals that depend on nothing but the request.
var (
	refuseBadPath = &refusal{status: http.StatusBadRequest, typ: typeInvalidRequest,
		message: "The path has dot segments, empty segments, backslashes or encoded slashes. Ask for the plain path."}
	refuseUpgrade = &refusal{status: http.StatusBadRequest, typ: typeInvalidRequest,
		message: "This endpoint does not switch protocols. Send the request without an Upgrade header."}
	refuseTooLarge = &refusal{status: http.StatusRequestEntityTooLarge, typ: typeTooLarge,
		message: "The request body is larger than the balancer's max_body allows."}
	refuseStalled = &refusal{status: http.StatusRequestTimeout, typ: typeTimeout,
		message: "The request body did not arrive in time."}
	refuseUnreadable = &refusal{status: http.StatusBadRequest, typ: typeInvalidRequest,
		message: "The request body could not be read to its end."}
	refuseBuffered = &refusal{status: http.StatusServiceUnavailable, typ: typeOverloaded, retryAfter: 5 * time.Second,
		message: "The balancer holds as many request bodies as max_buffered allows. Try again in a few seconds."}
	refuseNoAccounts = &refusal{status: http.StatusServiceUnavailable, typ: typeAPI, noRetry: true,
		message: "No accounts available. Please add accounts using the CLI.",
		extra:   map[string]any{"hint": "caddy claude-balancer add <name> --mode console|max"}}
)
