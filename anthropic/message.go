package anthropic

// Reading the body of an error.

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/claude-balancer/claude-balancer/secret"
)

const (
	maxMessage = 500      // bytes
	maxError   = 64 << 10 // bytes of an error body that are looked at
)

// errorBody is what an error answer, or the data of an error event, says.
// Source: API reference, Errors; details.error_code is in the official SDKs.
type errorBody struct {
	kind    string // error.type
	message string // error.message, or the start of the body if there is no envelope
	code    string // error.details.error_code
	lower   string // message in lower case
}

// readError reads Anthropic's envelope, also one that is cut short, and the
// plain form {"error":"…"}.
func readError(body []byte) errorBody {
	body = body[:min(len(body), maxError)]
	inner := member(body, "error")
	e := errorBody{
		kind:    text(member(inner, "type"), maxWord),
		message: text(member(inner, "message"), maxError),
		code:    text(member(member(inner, "details"), "error_code"), maxWord),
	}
	if e.message == "" {
		e.message = text(inner, maxError)
	}
	if e.message == "" {
		e.message = string(body[:min(len(body), 2*maxMessage)])
	}
	e.lower = strings.ToLower(e.message)
	return e
}

// says reports whether the message has any of the phrases, which are
// lower-case.
func (e errorBody) says(phrases ...string) bool {
	for _, p := range phrases {
		if strings.Contains(e.lower, p) {
			return true
		}
	}
	return false
}

// credentialPattern finds the provider's credentials, whole or cut short.
var credentialPattern = regexp.MustCompile(`sk-ant-[A-Za-z0-9_-]*`)

// printable makes a message fit to be shown, logged and kept: one line of valid
// UTF-8, at most 500 bytes, without a credential that upstream may echo.
func printable(s string) string {
	s = credentialPattern.ReplaceAllLiteralString(s[:min(len(s), 2*maxMessage)], secret.Redacted)
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	s = strings.TrimSpace(s)
	if len(s) <= maxMessage {
		return s
	}
	s = s[:maxMessage]
	for !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return s
}
