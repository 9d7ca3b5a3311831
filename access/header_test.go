package access_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/claude-balancer/claude-balancer/access"
	"github.com/claude-balancer/claude-balancer/anthropic"
	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/secret"
)

// Whatever spelling a header comes in: what tells of a proxy makes a client a
// stranger, and neither that nor a credential goes upstream.
func FuzzHeaderRules(f *testing.F) {
	for _, name := range []string{"X-Forwarded-For", "x-forwarded-", "FORWARDED", "via", "X-Real-IP", "Authorization", "x-API-key", "Cookie", "Accept", "Connection", "X_Api_Key", "x-api-key ", "\u212aeep-alive"} {
		f.Add(name, "127.0.0.1")
	}
	f.Add("Connection", "authorization, x-api-key")
	f.Fuzz(func(t *testing.T, name, value string) {
		client := http.Header{name: {value}, "Accept": {"*/*"}}
		lower := strings.ToLower(name)
		kept := false
		switch lower {
		case "forwarded", "x-real-ip", "via", "cf-connecting-ip", "true-client-ip":
		case "authorization", "x-api-key", "cookie", "proxy-authorization":
			kept = true // says nothing of where the client is
		default:
			kept = !strings.HasPrefix(lower, "x-forwarded-")
		}
		r := localRequest("GET")
		r.Header = client
		if ok, reason := access.Local(r, loopback); ok != kept {
			t.Errorf("with %q: local = %v (%s)", name, ok, reason)
		}

		up := anthropic.UpstreamHeader(client)
		anthropic.SetCredential(up, api.KindAPIKey, secret.New("ours"))
		for got, values := range up {
			switch strings.ToLower(got) {
			case "x-api-key":
				if len(values) != 1 || values[0] != "ours" {
					t.Errorf("%q: upstream gets the credential %q", name, values)
				}
			case "authorization", "cookie", "proxy-authorization", "forwarded", "x-real-ip", "via", "cf-connecting-ip", "true-client-ip":
				t.Errorf("%q goes upstream as %q", name, got)
			default:
				if strings.HasPrefix(strings.ToLower(got), "x-forwarded-") {
					t.Errorf("%q goes upstream as %q", name, got)
				}
			}
		}
	})
}
