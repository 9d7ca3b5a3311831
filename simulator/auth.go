package simulator

// Who calls, and whether the credential is good.

import (
	"net/http"
	"strings"
)

// oauthBeta is the anthropic-beta value without which an access token is not
// taken by the API.
const oauthBeta = "oauth-2025-04-20"

// sent returns the credential that a request carries: a bearer token, which may
// be an API key, or an API key in its own header.
func (s *Simulator) sent(r *http.Request) (token, key string) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		token = ""
	}
	return token, r.Header.Get("X-Api-Key")
}

// caller returns the account that a request's credential was issued to, be it
// still good or not, or nil.
func (s *Simulator) caller(r *http.Request) *account {
	token, key := s.sent(r)
	if token == "" {
		token = key
	}
	if c := s.lookup(token); c != nil && c.kind != refreshToken {
		return c.account
	}
	return nil
}

// admit checks the credential and the headers that every call needs.
func (s *Simulator) admit(r *http.Request, need access) *apiError {
	c, problem := s.authenticate(r, need)
	if problem != nil {
		return problem
	}
	if c.account.held.Load() {
		return &onHold
	}
	if need == apiCall && r.Header.Get("Anthropic-Version") == "" {
		return &apiError{status: http.StatusBadRequest, kind: invalidRequest, message: "anthropic-version: header is required"}
	}
	return nil
}

func (s *Simulator) authenticate(r *http.Request, need access) (*credential, *apiError) {
	token, key := s.sent(r)
	switch {
	case token != "" && key != "":
		return nil, unauthorized("Authorization and x-api-key must not be sent together")
	case key != "":
		if c := s.lookup(key); c != nil && c.kind == apiKey && need == apiCall {
			return c, nil
		}
		return nil, unauthorized("invalid x-api-key")
	case token == "":
		return nil, unauthorized("x-api-key header is required")
	}

	c := s.lookup(token)
	switch {
	case c == nil || c.kind == refreshToken || c.kind == apiKey && need == bearer:
		return nil, unauthorized("Invalid bearer token")
	case c.kind == apiKey:
		return c, nil
	case need == apiCall && !hasBeta(r.Header, oauthBeta):
		return nil, unauthorized("OAuth authentication is currently not supported.")
	case c.revoked.Load():
		return nil, unauthorized("OAuth access token has been revoked")
	case s.now().UnixNano() >= c.expires.Load():
		return nil, unauthorized("OAuth token has expired. Please obtain a new token or refresh your existing token.")
	}
	return c, nil
}

// hasBeta reports whether one of the anthropic-beta lists holds a value.
func hasBeta(h http.Header, want string) bool {
	for _, list := range h["Anthropic-Beta"] {
		for value := range strings.SplitSeq(list, ",") {
			if strings.TrimSpace(value) == want {
				return true
			}
		}
	}
	return false
}

func unauthorized(message string) *apiError {
	return &apiError{status: http.StatusUnauthorized, kind: authenticationError, message: message}
}
