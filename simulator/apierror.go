package simulator

// Errors in the service's envelope.

import (
	"encoding/json"
	"maps"
	"net/http"
)

// Types of errors.
const (
	invalidRequest      = "invalid_request_error"
	authenticationError = "authentication_error"
	billingError        = "billing_error"
	permissionError     = "permission_error"
	notFound            = "not_found_error"
	rateLimit           = "rate_limit_error"
	apiFault            = "api_error"
	timeoutError        = "timeout_error"
	overloaded          = "overloaded_error"
)

// apiError is an error as a client of the service sees it.
type apiError struct {
	status  int
	kind    string
	message string
	code    string // details.error_code
	header  http.Header
}

// onHold is the answer for an organization that is on hold.
var onHold = apiError{
	status: http.StatusForbidden, kind: permissionError,
	message: "Your organization is on hold. Please contact support.", code: "organization_on_hold",
}

// fail answers with an error.
func (x *Exchange) fail(e apiError) {
	maps.Copy(x.Writer.Header(), e.header)
	x.send(e.status, "application/json", e.envelope(x.requestID))
}

func (e apiError) envelope(requestID string) []byte {
	type details struct {
		Code string `json:"error_code"`
	}
	var body struct {
		Type  string `json:"type"`
		Error struct {
			Type    string   `json:"type"`
			Message string   `json:"message"`
			Details *details `json:"details,omitempty"`
		} `json:"error"`
		RequestID string `json:"request_id"`
	}
	body.Type = "error"
	body.Error.Type, body.Error.Message = e.kind, e.message
	if e.code != "" {
		body.Error.Details = &details{e.code}
	}
	body.RequestID = requestID
	b, _ := json.Marshal(body) // strings alone cannot fail
	return b
}

func badRequest(message string) *apiError {
	return &apiError{status: http.StatusBadRequest, kind: invalidRequest, message: message}
}

func missing(message string) *apiError {
	return &apiError{status: http.StatusNotFound, kind: notFound, message: message}
}

// kinds are the error types of the statuses.
var kinds = map[int]string{
	400: invalidRequest, 401: authenticationError, 402: billingError, 403: permissionError, 404: notFound,
	408: timeoutError, 409: "conflict_error", 413: "request_too_large", 429: rateLimit, 500: apiFault,
	501: "not_supported", 504: timeoutError, 529: overloaded,
}

// texts are the usual messages of the error types.
var texts = map[string]string{
	rateLimit:    accountLimit,
	apiFault:     "Internal server error",
	overloaded:   "Overloaded",
	timeoutError: "Request timed out",
}

// errorFor returns the usual error for a status.
func errorFor(status int) apiError {
	kind := kinds[status]
	if kind == "" {
		kind = invalidRequest
		if status >= 500 {
			kind = apiFault
		}
	}
	text := texts[kind]
	if text == "" {
		text = http.StatusText(status)
	}
	return apiError{status: status, kind: kind, message: text}
}
