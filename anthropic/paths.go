package anthropic

// Which resource of the API a request is for.

import (
	"net/http"
	"strings"
)

// Endpoint is a group of paths that the balancer treats alike.
type Endpoint uint8

// The endpoints. Source: API reference.
const (
	Other       Endpoint = iota // anything else below /v1/: bound to its account, or unknown
	Messages                    // /v1/messages
	CountTokens                 // /v1/messages/count_tokens
	Models                      // /v1/models, /v1/models/{id}
	Batches                     // /v1/messages/batches, /v1/messages/batches/{id}[/…]
	Files                       // /v1/files, /v1/files/{id}[/…]
	Skills                      // /v1/skills, /v1/skills/{id}[/…]
	Denied                      // /v1/oauth/*, /v1/organizations/*: never proxied
)

var endpointNames = [...]string{"other", "messages", "count_tokens", "models", "batches", "files", "skills", "denied"}

// String returns the endpoint's name in snake_case.
func (e Endpoint) String() string {
	if int(e) < len(endpointNames) {
		return endpointNames[e]
	}
	return endpointNames[Other]
}

// Target is what a request is aimed at.
type Target struct {
	Endpoint Endpoint
	ID       string // the id in the path: msgbatch_…, file_…, skill_…, or a model's id; "" if none
	List     bool   // a GET on a collection
	Create   bool   // a POST that makes a batch, file or skill; not its sub-actions such as cancel

	repeatable bool
}

// Repeatable reports whether the request may be sent once more although the
// first try may have reached upstream: reads, messages and count_tokens. Any
// other request makes or changes something.
func (t Target) Repeatable() bool { return t.repeatable }

// Classify says what a request is for. The path is decoded and clean: it has no
// dot segments and no empty ones. A slash at its end makes no difference.
func Classify(method, path string) Target {
	var t Target
	t.repeatable = method == http.MethodGet || method == http.MethodHead
	rest, ok := strings.CutPrefix(strings.TrimSuffix(path, "/"), "/v1/")
	if !ok {
		return t
	}
	first, rest, _ := strings.Cut(rest, "/")
	switch first {
	case "messages":
		t.messages(method, rest)
	case "models":
		t.Endpoint = Models
		t.collection(method, rest)
	case "files":
		t.Endpoint = Files
		t.collection(method, rest)
	case "skills":
		t.Endpoint = Skills
		t.collection(method, rest)
	default:
		// Folded: a path that upstream may read as one of these is none for us.
		if strings.EqualFold(first, "oauth") || strings.EqualFold(first, "organizations") {
			return Target{Endpoint: Denied}
		}
	}
	return t
}

func (t *Target) messages(method, rest string) {
	next, rest, _ := strings.Cut(rest, "/")
	switch {
	case next == "":
		t.Endpoint = Messages
		t.repeatable = true
	case next == "count_tokens" && rest == "":
		t.Endpoint = CountTokens
		t.repeatable = true
	case next == "batches":
		t.Endpoint = Batches
		t.collection(method, rest)
	}
}

func (t *Target) collection(method, rest string) {
	t.ID, _, _ = strings.Cut(rest, "/")
	t.List = t.ID == "" && method == http.MethodGet
	t.Create = t.ID == "" && method == http.MethodPost && t.Endpoint != Models
}
