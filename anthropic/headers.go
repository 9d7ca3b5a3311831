package anthropic

// Which headers go upstream, which come back, and how an account's credential
// is put on a request.

import (
	"net/http"
	"slices"
	"strings"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/secret"
)

// oauthBeta must be in anthropic-beta on every call with an OAuth token, else
// upstream answers a misleading 401. Source: Claude Code 2.1, official SDKs.
const oauthBeta = "oauth-2025-04-20"

// Shared by all requests: never changed in place, since Set replaces a slice
// and Add must reallocate one without spare capacity.
var (
	identityEncoding = []string{"identity"}
	noUserAgent      = []string{""} // keeps net/http from adding its own
)

// UpstreamHeader returns a new header with what a client's request carries
// upstream: everything but its credentials, cookies, hop-by-hop headers and
// headers that tell where it came from. Accept-Encoding is set to identity.
// The values are shared with client; replace them, do not change them in place.
func UpstreamHeader(client http.Header) http.Header {
	h := make(http.Header, len(client)+4) // room for the credential
	for name, values := range client {
		name = http.CanonicalHeaderKey(name)
		if staysHere(name) {
			continue
		}
		if first, twice := h[name]; twice { // the same name in another spelling
			values = append(slices.Clip(first), values...)
		}
		h[name] = slices.Clip(values)
	}
	dropNamed(h, client["Connection"])
	h["Accept-Encoding"] = identityEncoding
	if _, told := h["User-Agent"]; !told {
		h["User-Agent"] = noUserAgent
	}
	return h
}

// dropNamed removes the headers that a Connection header names.
func dropNamed(h http.Header, connection []string) {
	for _, line := range connection {
		for option := range strings.SplitSeq(line, ",") {
			h.Del(strings.TrimSpace(option))
		}
	}
}

// staysHere reports whether a client's header must not go upstream. The name is
// in canonical form.
func staysHere(name string) bool {
	switch name {
	case "Authorization", "X-Api-Key", "Cookie",
		"Forwarded", "X-Real-Ip", "Via", "Cf-Connecting-Ip", "True-Client-Ip":
		return true
	}
	return isHopByHop(name) || strings.HasPrefix(name, "X-Forwarded-")
}

// isHopByHop reports whether a header, its name in canonical form, is about one
// connection only. Source: RFC 9110, 7.6.1, and what clients send besides.
func isHopByHop(name string) bool {
	switch name {
	case "Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
		"Te", "Trailer", "Transfer-Encoding", "Upgrade":
		return true
	}
	return false
}

// SetCredential puts an account's credential on an upstream request and takes
// any other off. OAuth tokens also need their beta: it is appended to the
// client's list, once.
func SetCredential(h http.Header, kind api.Kind, cred secret.String) {
	delete(h, "Authorization")
	delete(h, "X-Api-Key")
	if kind == api.KindAPIKey {
		h["X-Api-Key"] = []string{cred.Reveal()}
		return
	}
	h["Authorization"] = []string{"Bearer " + cred.Reveal()}
	betas := h["Anthropic-Beta"]
	if !listed(betas, oauthBeta) {
		h["Anthropic-Beta"] = []string{appendToList(betas, oauthBeta)}
	}
}

// listed reports whether a header that is a comma-separated list, on one line or
// several, has the value.
func listed(lines []string, value string) bool {
	for _, line := range lines {
		for v := range strings.SplitSeq(line, ",") {
			if strings.TrimSpace(v) == value {
				return true
			}
		}
	}
	return false
}

// appendToList returns the list on one line with the value behind it: a reader
// that looks at one line only must see all of it.
func appendToList(lines []string, value string) string {
	if len(lines) == 1 && strings.TrimSpace(lines[0]) != "" {
		return lines[0] + "," + value
	}
	lines = slices.DeleteFunc(slices.Clone(lines), func(l string) bool { return strings.TrimSpace(l) == "" })
	return strings.Join(append(lines, value), ",")
}

// CopyAnswerHeader adds to a client's answer what upstream's answer says, but
// for hop-by-hop headers and what speaks of one account: its quota, its
// organization and workspace, and cookies. The values are shared, and answer
// may lose headers that its Connection header names.
func CopyAnswerHeader(client, answer http.Header) {
	dropNamed(answer, answer["Connection"])
	for name, values := range answer {
		if speaksOfAccount(name) || isHopByHop(name) {
			continue
		}
		if own := client[name]; own != nil {
			values = append(slices.Clip(own), values...)
		}
		client[name] = values
	}
}

func speaksOfAccount(name string) bool {
	rest, ok := cutPrefixFold(name, "anthropic-")
	if !ok {
		return len(name) == len("set-cookie") && hasPrefixFold(name, "set-cookie")
	}
	return hasPrefixFold(rest, "ratelimit-") ||
		strings.EqualFold(rest, "organization-id") || strings.EqualFold(rest, "workspace-id")
}

// IsAnthropicClient reports whether a request comes from a client of Anthropic's
// API, which all send the header anthropic-version.
func IsAnthropicClient(h http.Header) bool {
	return len(h["Anthropic-Version"]) > 0
}
