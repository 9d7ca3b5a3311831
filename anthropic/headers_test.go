package anthropic

import (
	"maps"
	"net/http"
	"slices"
	"testing"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/secret"
)

func TestUpstreamHeaderDropsWhatMustStayHere(t *testing.T) {
	t.Parallel()
	client := header(
		"authorization", "Bearer client", "x-api-key", "client", "cookie", "a=b",
		"connection", "keep-alive, X-Named", "connection", "x-other", "keep-alive", "5", "te", "trailers", "trailer", "x", "transfer-encoding", "chunked",
		"upgrade", "h2c", "proxy-connection", "x", "proxy-authorization", "x", "proxy-authenticate", "x",
		"forwarded", "for=1", "x-forwarded-for", "1", "x-forwarded-host", "h", "x-real-ip", "1", "via", "p", "cf-connecting-ip", "1", "true-client-ip", "1",
		"x-named", "1", "x-other", "2", "accept-encoding", "gzip, br",
		"anthropic-version", "2023-06-01", "anthropic-beta", "a", "anthropic-beta", "b", "user-agent", "claude-cli/2", "x-app", "cli",
		"x-claude-code-session-id", "s", "x-stainless-lang", "js", "content-type", "application/json", "x-future", "f",
	)
	client["x-api-KEY"] = []string{"another spelling"}
	want := header("anthropic-version", "2023-06-01", "anthropic-beta", "a", "anthropic-beta", "b", "user-agent", "claude-cli/2", "x-app", "cli",
		"x-claude-code-session-id", "s", "x-stainless-lang", "js", "content-type", "application/json", "x-future", "f",
		"accept-encoding", "identity")
	got := UpstreamHeader(client)
	if !maps.EqualFunc(got, want, slices.Equal[[]string]) {
		t.Errorf("got %v\nwant %v", got, want)
	}
	if client.Get("authorization") == "" || client.Get("accept-encoding") != "gzip, br" {
		t.Error("the client's header was changed")
	}
}

func TestUpstreamHeaderInventsNoUserAgent(t *testing.T) {
	t.Parallel()
	if got := UpstreamHeader(http.Header{})["User-Agent"]; !slices.Equal(got, []string{""}) {
		t.Errorf("user agent %q", got)
	}
}

func TestChangingOneUpstreamHeaderLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	client := header("anthropic-beta", "a")
	one, two := UpstreamHeader(client), UpstreamHeader(client)
	one.Add("Accept-Encoding", "x")
	one.Add("User-Agent", "x")
	one.Add("Anthropic-Beta", "x")
	SetCredential(one, api.KindOAuth, secret.New("t"))
	if len(two["Accept-Encoding"]) != 1 || len(two["User-Agent"]) != 1 || len(two["Anthropic-Beta"]) != 1 || client.Get("Anthropic-Beta") != "a" {
		t.Errorf("other: %v, client: %v", two, client)
	}
}

func TestSetCredentialAddsTheOAuthBetaOnce(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name  string
		betas []string
		want  []string
	}{
		{"none", nil, []string{"oauth-2025-04-20"}},
		{"empty", []string{" "}, []string{"oauth-2025-04-20"}},
		{"one line", []string{"claude-code-20250219,effort-2025-11-24"}, []string{"claude-code-20250219,effort-2025-11-24,oauth-2025-04-20"}},
		{"two lines", []string{"a", "b, c"}, []string{"a,b, c,oauth-2025-04-20"}},
		{"there already", []string{"a, oauth-2025-04-20 ,b"}, []string{"a, oauth-2025-04-20 ,b"}},
		{"there on another line", []string{"a", "oauth-2025-04-20"}, []string{"a", "oauth-2025-04-20"}},
		{"a longer name", []string{"oauth-2025-04-20-x"}, []string{"oauth-2025-04-20-x,oauth-2025-04-20"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for _, kind := range []api.Kind{api.KindOAuth, api.KindToken} {
				h := http.Header{"X-Api-Key": {"old"}, "Authorization": {"old"}}
				if c.betas != nil {
					h["Anthropic-Beta"] = slices.Clone(c.betas)
				}
				SetCredential(h, kind, secret.New("sk-ant-oat01-x"))
				SetCredential(h, kind, secret.New("sk-ant-oat01-y"))
				if !slices.Equal(h["Anthropic-Beta"], c.want) {
					t.Errorf("%s: betas %q, want %q", kind, h["Anthropic-Beta"], c.want)
				}
				if h.Get("Authorization") != "Bearer sk-ant-oat01-y" || len(h["X-Api-Key"]) != 0 {
					t.Errorf("%s: credential %q, %q", kind, h["Authorization"], h["X-Api-Key"])
				}
			}
		})
	}
}

func TestSetCredentialSendsAnAPIKeyAsSuch(t *testing.T) {
	t.Parallel()
	h := http.Header{"Authorization": {"old"}, "Anthropic-Beta": {"a"}}
	SetCredential(h, api.KindAPIKey, secret.New("sk-ant-api03-x"))
	if h.Get("X-Api-Key") != "sk-ant-api03-x" || len(h["Authorization"]) != 0 || h.Get("Anthropic-Beta") != "a" {
		t.Errorf("%v", h)
	}
}

func TestAnAnswerLosesWhatSpeaksOfOneAccountOrConnection(t *testing.T) {
	t.Parallel()
	answer := header("content-type", "a", "request-id", "req_1", "retry-after", "5", "anthropic-version", "x", "set-cookie2", "x", "server", "s")
	want := maps.Clone(answer)
	want["Server"] = []string{"Caddy", "s"}
	for _, name := range []string{
		"anthropic-ratelimit-unified-5h-status", "anthropic-ratelimit-requests-limit", "anthropic-organization-id", "anthropic-workspace-id", "set-cookie",
		"keep-alive", "proxy-authenticate", "transfer-encoding", "trailer", "upgrade", "x-named",
	} {
		answer.Set(name, "x")
	}
	answer.Set("Connection", "close, X-Named")
	answer["anthropic-ratelimit-odd"] = []string{"x"}
	client := http.Header{"Server": {"Caddy"}}
	CopyAnswerHeader(client, answer)
	if !maps.EqualFunc(client, want, slices.Equal[[]string]) {
		t.Errorf("got %v\nwant %v", client, want)
	}
}

func TestAnthropicClientsSendTheirVersion(t *testing.T) {
	t.Parallel()
	if !IsAnthropicClient(header("anthropic-version", "2026-10-21")) || IsAnthropicClient(header("anthropic-beta", "x")) {
		t.Error("wrong")
	}
}
