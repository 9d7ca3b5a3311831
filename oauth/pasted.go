package oauth

// What people paste after a login.

import (
	"net/url"
	"strings"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/secret"
)

const (
	maxPasted = 8 << 10 // bytes
	getCode   = "open the login's URL in a browser, allow access and paste the code that the page shows"
)

// parsePasted reads CODE#STATE, a bare code, or the callback URL that the
// browser came to, with or without its scheme. state is "" if none is there.
// Its errors are the asker's fault and repeat nothing of what was pasted.
func parsePasted(pasted secret.String) (code secret.String, state string, err error) {
	s := strings.TrimSpace(pasted.Reveal())
	switch {
	case s == "":
		return code, "", api.BadRequest("the code is empty: %s", getCode)
	case len(s) > maxPasted:
		return code, "", api.BadRequest("the code is longer than %d bytes: %s", maxPasted, getCode)
	case strings.ContainsFunc(s, notInCodes):
		return code, "", api.BadRequest("the code has a space or another character that no code has: %s", getCode)
	case strings.HasPrefix(s, "sk-ant-"):
		return code, "", api.BadRequest("this is a token or API key, not a code: %s", getCode)
	}
	raw, state, _ := strings.Cut(s, "#")
	if _, query, isURL := strings.Cut(raw, "?"); isURL {
		raw, state, err = parseCallback(query, state)
	} else if strings.Contains(raw, "://") {
		err = api.BadRequest("the URL has no code: %s", getCode)
	}
	switch {
	case err != nil:
		return code, "", err
	case raw == "":
		return code, "", api.BadRequest("the code in front of # is missing: %s", getCode)
	case strings.Contains(state, "#"):
		return code, "", api.BadRequest("there is more than one #: %s", getCode)
	}
	return secret.New(raw), state, nil
}

// parseCallback reads the query of a callback URL; fragment is what stood
// behind #.
func parseCallback(query, fragment string) (code, state string, err error) {
	values, err := url.ParseQuery(query)
	if err != nil { // it would show a part of the query
		return "", "", api.BadRequest("the URL cannot be read: %s", getCode)
	}
	code, state = values.Get("code"), values.Get("state")
	switch {
	case values.Has("error"):
		return "", "", api.BadRequest("the provider refused the login: %s; start a new one",
			strings.TrimSuffix(scrub(values.Get("error"))+": "+scrub(values.Get("error_description")), ": "))
	case values.Has("client_id"):
		return "", "", api.BadRequest("this is the URL to open, not the one that the browser came to: %s", getCode)
	case code == "" || strings.ContainsFunc(code, notInCodes):
		return "", "", api.BadRequest("the URL has no code: %s", getCode)
	case state == "":
		state = fragment
	}
	return code, state, nil
}

func notInCodes(r rune) bool { return r <= ' ' || r > '~' }
