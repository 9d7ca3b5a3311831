package oauth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/secret"
)

func TestPresetsAreCopies(t *testing.T) {
	t.Parallel()
	e, err := Preset("current")
	if err != nil {
		t.Fatal(err)
	}
	e.AuthorizeURL["max"], e.Scopes[0] = "changed", "changed"
	again, _ := Preset("current")
	if again.AuthorizeURL["max"] == "changed" || again.Scopes[0] == "changed" {
		t.Error("a preset was changed")
	}
	if _, err := Preset("newest"); err == nil || !strings.Contains(err.Error(), "current or legacy") {
		t.Errorf("got %v", err)
	}
}

func TestTheAuthorizeURLFollowsThePlan(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ preset, plan, want string }{
		{"current", "max", "https://claude.com/cai/oauth/authorize"},
		{"current", "console", "https://platform.claude.com/oauth/authorize"},
		{"current", "team", "https://platform.claude.com/oauth/authorize"},
		{"legacy", "max", "https://claude.ai/oauth/authorize"},
		{"legacy", "console", "https://console.anthropic.com/oauth/authorize"},
	} {
		e, _ := Preset(tt.preset)
		if got := e.Authorize(tt.plan); got != tt.want {
			t.Errorf("%s, %s: got %s", tt.preset, tt.plan, got)
		}
	}
	e, _ := Preset("current")
	e.AuthorizeURL["console"] = "https://own.example/authorize?tenant=1"
	c := Client{Endpoints: e}
	if got := c.AuthorizeURL("console", "s", "c"); !strings.HasPrefix(got, "https://own.example/authorize?tenant=1&code=true&client_id=") {
		t.Errorf("got %s", got)
	}
}

func TestTheAuthorizeURLIsOneLineInTheDocumentedOrder(t *testing.T) {
	t.Parallel()
	e, _ := Preset("legacy")
	c := Client{Endpoints: e}
	const want = "https://claude.ai/oauth/authorize?code=true&client_id=9d1c250a-e61b-44d9-88ed-5944d1962f5e&response_type=code" +
		"&redirect_uri=https%3A%2F%2Fconsole.anthropic.com%2Foauth%2Fcode%2Fcallback" +
		"&scope=org%3Acreate_api_key+user%3Aprofile+user%3Ainference&code_challenge=CHALLENGE&code_challenge_method=S256&state=STATE"
	if got := c.AuthorizeURL("max", "STATE", "CHALLENGE"); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestTokenCallsHaveTheDocumentedBodiesAndHeaders(t *testing.T) {
	t.Parallel()
	for _, preset := range []string{"current", "legacy"} {
		p := newProvider()
		p.codes["CODE"] = "x"
		e, _ := Preset(preset)
		c := Client{HTTP: p, Endpoints: e}
		g, err := c.Exchange(t.Context(), secret.New("CODE"), "STATE", "VERIFIER")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Refresh(t.Context(), g.Refresh); err != nil {
			t.Fatal(err)
		}
		scope := ""
		if preset == "current" {
			scope = `,"scope":"user:profile user:inference user:sessions:claude_code user:mcp_servers user:file_upload user:plugins"`
		}
		for i, want := range []string{
			fmt.Sprintf(`{"grant_type":"authorization_code","code":"CODE","redirect_uri":%q,"client_id":%q,"code_verifier":"VERIFIER","state":"STATE"}`, e.RedirectURI, e.ClientID),
			fmt.Sprintf(`{"grant_type":"refresh_token","refresh_token":%q,"client_id":%q%s}`, refresh(1), e.ClientID, scope),
		} {
			got := p.calls[i]
			if got.raw != want {
				t.Errorf("%s: got  %s\nwant %s", preset, got.raw, want)
			}
			if got.path != "/v1/oauth/token" || got.header.Get("Content-Type") != "application/json" || got.header.Get("Accept") != "application/json" ||
				got.header["Anthropic-Beta"] != nil || got.header["Authorization"] != nil {
				t.Errorf("%s: %s with %v", preset, got.path, got.header)
			}
		}
	}
}

func TestARefreshWithFewerScopesIsTriedOnce(t *testing.T) {
	t.Parallel()
	p := newProvider()
	c := p.client()
	login := p.login(time.Now())
	p.refuse = func(c call) *answer {
		if c.body["scope"] != "" {
			return &answer{status: 400, body: `{"error":"invalid_scope"}`}
		}
		return nil
	}
	if g, err := c.Refresh(t.Context(), login.Refresh); err != nil || g.Refresh.Reveal() != refresh(2) || p.count() != 2 {
		t.Errorf("got %v, %v after %d calls", g, err, p.count())
	}
	p.refuse = refuseAll(400, `{"error":"invalid_scope"}`)
	if _, err := c.Refresh(t.Context(), secret.New(refresh(2))); err == nil || p.count() != 4 {
		t.Errorf("got %v after %d calls", err, p.count())
	}
}

func TestGrantsAreReadLeniently(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for body, want := range map[string]time.Duration{
		`{"access_token":"A","refresh_token":"R","expires_in":3600}`:                             time.Hour,
		`{"access_token":"A","refresh_token":"R","expires_in":"3600"}`:                           time.Hour,
		`{"access_token":"A","refresh_token":"R","expires_in":1.5}`:                              1500 * time.Millisecond,
		`{"access_token":"A","refresh_token":"R"}`:                                               defaultLifetime,
		`{"access_token":"A","refresh_token":"R","expires_in":0}`:                                defaultLifetime,
		`{"access_token":"A","refresh_token":"R","expires_in":-5}`:                               defaultLifetime,
		`{"access_token":"A","refresh_token":"R","expires_in":null}`:                             defaultLifetime,
		`{"access_token":"A","refresh_token":"R","expires_in":"NaN"}`:                            defaultLifetime,
		`{"access_token":"A","refresh_token":"R","expires_in":{"s":1}}`:                          defaultLifetime,
		`{"access_token":"A","refresh_token":"R","expires_in":1e300}`:                            maxLifetime,
		`{"access_token":"A","refresh_token":"R","expires_in":60,"account":7,"organization":[]}`: time.Minute,
	} {
		g, err := readGrant([]byte(body), now)
		if err != nil || g.Access.Reveal() != "A" || g.Refresh.Reveal() != "R" || g.ExpiresIn != want {
			t.Errorf("%s: got %v, %v", body, g.ExpiresIn, err)
		}
		if c := g.Credential(); c.Kind != api.KindOAuth || !c.ExpiresAt.Equal(now.Add(want)) || !c.IssuedAt.Equal(now) {
			t.Errorf("%s: got %+v", body, c)
		}
	}
	g, err := readGrant([]byte(`{"access_token":"A","account":{"uuid":"u","email_address":"e"},"organization":{"uuid":"o","name":"n"}}`), now)
	if err != nil || g.Credential().Kind != api.KindToken || [4]string{g.AccountID, g.Email, g.OrganizationID, g.OrganizationName} != [4]string{"u", "e", "o", "n"} {
		t.Errorf("got %+v, %v", g, err)
	}
	for _, body := range []string{``, `[]`, `{}`, `{"access_token":""}`, `{"access_token":5}`, `{"access_token":"A"`} {
		if _, err := readGrant([]byte(body), now); err == nil {
			t.Errorf("%s was taken", body)
		}
	}
}

func TestRefusalsAreReadInBothForms(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		status                int
		body, text            string
		dead, hold, transient bool
	}{
		{400, `{"error":"invalid_grant","error_description":"Refresh token expired"}`, "op: status 400: invalid_grant: Refresh token expired", true, false, false},
		{401, `{"error":"refresh_token_reused"}`, "op: status 401: refresh_token_reused", true, false, false},
		{500, `{"error":"invalid_refresh_token"}`, "op: status 500: invalid_refresh_token", true, false, true},
		{400, `{"error":"invalid_grant","error_uri":"https://x/account_on_hold"}`, "op: status 400: invalid_grant", false, true, false},
		{400, `{"error":"invalid_client"}`, "op: status 400: invalid_client", false, false, false},
		{429, `{"type":"error","error":{"type":"rate_limit_error","message":"Slow down"}}`, "op: status 429: rate_limit_error: Slow down", false, false, true},
		{401, `{"error":{"type":"authentication_error","message":"invalid_grant"}}`, "op: status 401: authentication_error: invalid_grant", false, false, false},
		{502, `<html>invalid_grant</html>`, "op: status 502", false, false, true},
		{400, `{"error":["invalid_grant"],"error_description":{"a":1}}`, "op: status 400", false, false, false},
		{400, `"invalid_grant"`, "op: status 400", false, false, false},
	} {
		e := refusal("op", tt.status, []byte(tt.body))
		if e.Error() != tt.text || e.Dead() != tt.dead || e.OnHold() != tt.hold || e.Transient() != tt.transient {
			t.Errorf("%s: got %q, dead %v, on hold %v, transient %v", tt.body, e.Error(), e.Dead(), e.OnHold(), e.Transient())
		}
	}
}

func TestForeignTextIsShownWithoutCredentialsAndBounded(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		one := rapid.StringMatching(`[A-Za-z0-9_-]{8,60}`).Draw(t, "secret")
		text := rapid.String().Draw(t, "before") + one + rapid.String().Draw(t, "after") + strings.Repeat("x", rapid.IntRange(0, 400).Draw(t, "more")) + " sk-ant-ort01-" + one
		got := scrub(text, secret.New(one))
		if strings.Contains(got, one) || strings.Contains(got, "sk-ant-") || len(got) > maxText+len("…") || !utf8.ValidString(got) {
			t.Fatalf("got %q", got)
		}
	})
}

func TestNoRedirectIsFollowed(t *testing.T) {
	t.Parallel()
	for _, status := range []int{301, 302, 303, 307, 308} {
		seen := 0
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			seen++
			http.Redirect(w, r, "/elsewhere", status)
		}))
		c := Client{HTTP: server.Client().Transport, Endpoints: Endpoints{TokenURL: server.URL, ProfileURL: server.URL}}
		_, err := c.Refresh(t.Context(), secret.New("r"))
		if refused, ok := errors.AsType[*Error](err); !ok || refused.Status != status {
			t.Errorf("got %v", err)
		}
		if _, err := c.Profile(t.Context(), secret.New("a")); err == nil || seen != 2 {
			t.Errorf("got %v after %d requests", err, seen)
		}
		server.Close()
	}
}

func TestANetworkFailureIsTransientAndUnwraps(t *testing.T) {
	t.Parallel()
	c := Client{Endpoints: Endpoints{TokenURL: "http://127.0.0.1:1/token"}}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := c.Refresh(ctx, secret.New("r"))
	if failed, ok := errors.AsType[*Error](err); !ok || !failed.Transient() || failed.Dead() || failed.Status != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	c.Endpoints.TokenURL = "::"
	if _, err := c.Refresh(t.Context(), secret.New("r")); err == nil {
		t.Error("an impossible URL was called")
	}
}

func TestRetryAfterIsRead(t *testing.T) {
	t.Parallel()
	p := newProvider()
	p.refuse = func(call) *answer { return &answer{status: 429, header: map[string]string{"Retry-After": "42"}} }
	_, err := p.client().Refresh(t.Context(), secret.New("r"))
	if refused, ok := errors.AsType[*Error](err); !ok || refused.RetryAfter != 42*time.Second {
		t.Errorf("got %v", err)
	}
}

func TestTheProfileHintsAtThePlan(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]Profile{
		`{"account":{"uuid":"u","email":"e"},"organization":{"uuid":"o","name":"n","organization_type":"claude_max","rate_limit_tier":"default_claude_max_20x"}}`: {
			Plan: "max", Tier: "default_claude_max_20x", Subscription: "claude_max", AccountID: "u", Email: "e", OrganizationID: "o", OrganizationName: "n"},
		`{"organization":{"organization_type":"claude_pro","rate_limit_tier":"default_claude_zero"}}`:    {Plan: "console", Tier: "default_claude_zero", Subscription: "claude_pro"},
		`{"organization":{"organization_type":"claude_free"}}`:                                           {Plan: "console", Subscription: "claude_free"},
		`{"organization":{"organization_type":"claude_team","rate_limit_tier":"default_claude_max_5x"}}`: {Plan: "max", Tier: "default_claude_max_5x", Subscription: "claude_team"},
		`{"organization":{"organization_type":"claude_enterprise","rate_limit_tier":"default_raven"}}`:   {Tier: "default_raven", Subscription: "claude_enterprise"},
		`{"organization":{"organization_type":"new_kind"}}`:                                              {Plan: "console", Subscription: "new_kind"},
		`{"account":{"has_claude_max":true}}`:                                                            {Plan: "max"},
		`{"account":{"has_claude_max":false},"organization":null}`:                                       {Plan: "console"},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet || r.Header.Get("Authorization") != "Bearer TOKEN" || r.Header["Anthropic-Beta"] != nil {
				t.Errorf("%s with %v", r.Method, r.Header)
			}
			_, _ = w.Write([]byte(body))
		}))
		c := Client{HTTP: server.Client().Transport, Endpoints: Endpoints{ProfileURL: server.URL}}
		if got, err := c.Profile(t.Context(), secret.New("TOKEN")); err != nil || got != want {
			t.Errorf("%s: got %+v, %v", body, got, err)
		}
		server.Close()
	}
}

func TestAuthorizeURLsParseBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		e := Endpoints{
			AuthorizeURL: map[string]string{"": "https://x.example/a"}, ClientID: rapid.String().Draw(t, "id"),
			RedirectURI: rapid.String().Draw(t, "redirect"), Scopes: []string{"a:b", "c"},
		}
		state := rapid.String().Draw(t, "state")
		u, err := url.Parse((&Client{Endpoints: e}).AuthorizeURL("max", state, "CH"))
		if err != nil {
			t.Fatal(err)
		}
		if q := u.Query(); q.Get("client_id") != e.ClientID || q.Get("redirect_uri") != e.RedirectURI || q.Get("state") != state || q.Get("scope") != "a:b c" {
			t.Fatalf("got %v", q)
		}
	})
}
