package oauth

// What can go wrong, told without ever showing a token.

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"
	"unicode"

	"github.com/claude-balancer/claude-balancer/secret"
)

var (
	// ErrNotRefreshable says that the credential is an API key or a token
	// without a refresh token: a new one can only come from the operator.
	ErrNotRefreshable = errors.New("the credential cannot be refreshed")
	// ErrClosed says that the Source starts no refresh any more.
	ErrClosed = errors.New("the token source is closed")
)

// NeedsLoginError says that the account's login is over: only a new one helps.
type NeedsLoginError struct {
	Reason string // in words
}

// Error implements error.
func (e *NeedsLoginError) Error() string { return "a new login is needed: " + e.Reason }

// BackoffError says that a refresh has failed and when the next may be tried.
type BackoffError struct {
	Until time.Time
	Err   error // of the last refresh
}

// Error implements error.
func (e *BackoffError) Error() string {
	return fmt.Sprintf("%v; not tried again before %s", e.Err, e.Until.UTC().Format(time.RFC3339))
}

// Unwrap returns what the last refresh failed of.
func (e *BackoffError) Unwrap() error { return e.Err }

// Error is the failure of a call to the provider's OAuth service. Its text
// holds no credential, even where the provider echoes one.
type Error struct {
	Op          string        // what was tried
	Status      int           // HTTP status; 0 = no answer
	Code        string        // the member error, such as invalid_grant; "" if there is none
	Description string        // the provider's words
	URI         string        // the member error_uri
	RetryAfter  time.Duration // the provider's wish; 0 = none
	Err         error         // why there is no answer, or none that can be used
}

// Error implements error.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Status != 0 {
		fmt.Fprintf(&b, ": status %d", e.Status)
	}
	for _, part := range []string{e.Code, e.Description} {
		if part != "" {
			b.WriteString(": " + part)
		}
	}
	if e.Err != nil {
		b.WriteString(": " + scrub(e.Err.Error()))
	}
	return b.String()
}

// reason is the provider's refusal in its words, or as good as we have them.
func (e *Error) reason() string {
	switch {
	case e.Code != "" && e.Description != "":
		return e.Code + ": " + e.Description
	case e.Code != "" || e.Description != "":
		return e.Code + e.Description
	}
	return fmt.Sprintf("status %d", e.Status)
}

// Unwrap returns the cause, if it is not the provider's refusal.
func (e *Error) Unwrap() error { return e.Err }

// Dead reports whether the refresh token is refused for good. Only these codes
// say so: no status, and nothing that may pass.
func (e *Error) Dead() bool {
	switch e.Code {
	case "invalid_grant", "invalid_refresh_token", "refresh_token_reused":
		return !e.OnHold()
	}
	return false
}

// OnHold reports whether the provider holds the account: it has to be cleared
// there, a new login does not help.
func (e *Error) OnHold() bool {
	return strings.Contains(e.URI, "account_on_hold") || e.Code == "account_on_hold"
}

// Transient reports whether the same call may succeed later.
func (e *Error) Transient() bool {
	return e.Err != nil || e.Status == http.StatusTooManyRequests || e.Status == http.StatusRequestTimeout || e.Status >= 500
}

// refusal reads an error answer: RFC 6749, or Anthropic's envelope, whose
// member error is an object. Members of other types are ignored. The secrets
// are those that were sent.
func refusal(op string, status int, body []byte, secrets ...secret.String) *Error {
	var answer struct {
		Error       json.RawMessage `json:"error"`
		Description json.RawMessage `json:"error_description"`
		URI         json.RawMessage `json:"error_uri"`
	}
	_ = json.Unmarshal(body, &answer) // what is no JSON object leaves the status to speak
	code, description := text(answer.Error), text(answer.Description)
	if code == "" {
		var envelope struct {
			Type    json.RawMessage `json:"type"`
			Message json.RawMessage `json:"message"`
		}
		_ = json.Unmarshal(answer.Error, &envelope)
		code, description = text(envelope.Type), text(envelope.Message)
	}
	return &Error{
		Op: op, Status: status,
		Code: scrub(code, secrets...), Description: scrub(description, secrets...), URI: scrub(text(answer.URI), secrets...),
	}
}

// text is a JSON string's value, or "" for anything else.
func text(raw json.RawMessage) string {
	var s string
	_ = json.Unmarshal(raw, &s)
	return s
}

// maxText bounds, in bytes, what is repeated of the provider's words.
const maxText = 300

var credentialPattern = regexp.MustCompile(`sk-ant-[A-Za-z0-9_-]+`)

// scrub makes foreign text fit to be shown: no credential, no control
// characters, not long. It masks before it cuts, so that no part of a
// credential is left at the end.
func scrub(s string, secrets ...secret.String) string {
	for _, one := range secrets {
		if !one.IsZero() {
			s = strings.ReplaceAll(s, one.Reveal(), secret.Redacted)
		}
	}
	s = credentialPattern.ReplaceAllString(s, secret.Redacted)
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "") + "…"
	}
	return s
}
