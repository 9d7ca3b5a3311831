package access

// The form of a refusal.

import (
	"net/http"
	"strconv"
	"time"
)

// Refusal is an answer that keeps a client out: what to answer, and in words
// what the client can do.
type Refusal struct {
	Status     int           // HTTP status
	Type       string        // error.type of the Anthropic envelope
	Message    string        // one sentence or two, shown to the client
	RetryAfter time.Duration // when to come back, whole seconds; 0 = coming back does not help
	Header     http.Header   // of the answer, Retry-After included
	BadKey     bool          // a key of ours was presented and is not good: Guard counts it
}

// Error types of the Anthropic envelope that this package answers with.
const (
	typeAuthentication = "authentication_error"
	typePermission     = "permission_error"
	typeNotFound       = "not_found_error"
	typeInvalidRequest = "invalid_request_error"
	typeRateLimit      = "rate_limit_error"
	typeBilling        = "billing_error"
	typeNotSupported   = "not_supported" // a gateway's own
)

// Without this header clients repeat a refusal for minutes before they show it.
const shouldRetry = "X-Should-Retry"

// longWait is the wait above which a client should tell its user and not sit
// it out.
const longWait = time.Minute

// refuse makes a refusal that no repeat will change.
func refuse(status int, errorType, message string) *Refusal {
	return &Refusal{Status: status, Type: errorType, Message: message, Header: http.Header{shouldRetry: {"false"}}}
}

// refuseFor makes a 429 that ends after wait.
func refuseFor(wait time.Duration, errorType, message string) *Refusal {
	wait = wholeSeconds(wait)
	h := http.Header{"Retry-After": {strconv.FormatInt(int64(wait/time.Second), 10)}}
	if wait > longWait {
		h.Set(shouldRetry, "false")
	}
	return &Refusal{Status: http.StatusTooManyRequests, Type: errorType, Message: message, RetryAfter: wait, Header: h}
}

// wholeSeconds rounds up, to a second at least: who comes back then gets in.
func wholeSeconds(d time.Duration) time.Duration {
	return max((d + time.Second - 1).Truncate(time.Second), time.Second)
}
