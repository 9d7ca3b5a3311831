package claudebalancer

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/simulator"
	"github.com/claude-balancer/claude-balancer/store"
)

// secrets are all that must not be seen anywhere, by what they are.
type secrets map[string]string

func (s secrets) credentials(of string, c simulator.Credentials) {
	for what, v := range map[string]string{"access token": c.Access.Reveal(), "refresh token": c.Refresh.Reveal(), "API key": c.APIKey.Reveal()} {
		if v != "" {
			s[what+" of "+of] = v
		}
	}
}

// findIn looks for the secrets themselves, for long parts of them, and for them
// as HTTP Basic would hold them.
func (s secrets) findIn(t *testing.T, where, text string) {
	t.Helper()
	for what, v := range s {
		part := v
		if len(v) > 40 {
			part = v[20:40] // beyond any prefix that is common to all
		}
		for form, needle := range map[string]string{
			"": part, ", for Basic": base64.StdEncoding.EncodeToString([]byte("anyone:" + v))[:24],
		} {
			if i := strings.Index(text, needle); i >= 0 {
				t.Errorf("%s%s is in %s: …%s…", what, form, where, text[max(0, i-120):min(len(text), i+60)])
			}
		}
	}
}

// privateLog is the snippet of Caddyfile.example that the documentation tells
// operators to use.
func privateLog(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("Caddyfile.example")
	if err != nil {
		t.Fatal(err)
	}
	_, snippet, found := strings.Cut(string(text), "(private_log) {")
	snippet, _, ended := strings.Cut(snippet, "\n}\n")
	if !found || !ended {
		t.Fatal("Caddyfile.example has no snippet private_log")
	}
	return "(private_log) {" + snippet + "\n}\n"
}

// A full scenario at DEBUG, with everything that uses a credential and all that
// goes wrong with one; then a look for each of them wherever something was
// written, shown or answered. Not parallel: it needs a Caddy that really runs.
func TestNoCredentialIsSeenAnywhere(t *testing.T) {
	s := newServer(t)
	port := freePort(t)
	known := secrets{"encryption key": strings.Repeat("5ec4e7a91b", 7)[:64]}
	t.Setenv("TEST_ENCRYPTION_KEY", known["encryption key"])
	s.load(privateLog(t) + fmt.Sprintf(`{
	admin localhost:%s
	metrics
	log {
		import private_log
		output file %s
		level DEBUG
	}
	claude_balancer {
		store sqlite %s
		encryption_key {env.TEST_ENCRYPTION_KEY}
		oauth {
			token_url %s/v1/oauth/token
			profile_url %s/api/oauth/profile
			authorize_url console %s/oauth/authorize
			authorize_url max %s/oauth/authorize
		}
	}
}
http://127.0.0.1:%s {
	log {
		import private_log
		output file %s
		level DEBUG
	}
	route {
		claude_balancer {
			upstream %s
			retry_delay 1ms
			sign_in on
		}
		respond "not found" 404
	}
}`, s.admin, filepath.Join(s.dir, "logs", "caddy.log"), filepath.Join(s.dir, "data", "accounts.db"),
		s.up.URL, s.up.URL, s.up.URL, s.up.URL, port, filepath.Join(s.dir, "logs", "access.log"), s.up.URL))

	play := &scenario{server: s, t: t, site: "http://127.0.0.1:" + port, known: known}
	play.accounts()
	play.clientKeys()
	play.signIns()
	play.traffic()
	play.troubles()
	play.endings()

	for _, path := range []string{"/config/", "/metrics", "/claude_balancer/accounts", "/claude_balancer/keys", "/claude_balancer/requests?limit=1000",
		"/claude_balancer/stats", "/claude_balancer/audit", "/claude_balancer/explain?model=claude-opus-4-5&key=client", "/reverse_proxy/upstreams"} {
		play.ask("GET", path, "").mustBe(t, 200)
	}
	for _, path := range []string{"/api/accounts", "/api/requests?limit=1000", "/api/stats", "/health"} {
		play.visit("GET", path, "").mustBe(t, 200)
	}
	known.findIn(t, "an answer", play.answers.String())
	logs := readAll(t, filepath.Join(s.dir, "logs"))
	known.findIn(t, "the logs", logs)
	known.findIn(t, "the autosaved configuration", readAll(t, filepath.Join(s.dir, "config")))
	database := readAll(t, filepath.Join(s.dir, "data"))
	known.findIn(t, "the database", database)
	if strings.Contains(database+play.answers.String(), sessionID) {
		t.Error("a session id is kept as it is")
	}

	for _, there := range []string{`"level":"debug"`, `"logger":"http.log.access`, `"logger":"admin.api"`, "not let in", "not let in", "account chosen", "account tried", "REDACTED", "X-Api-Key"} {
		if !strings.Contains(logs, there) {
			t.Errorf("the logs do not hold %q: the scenario shows nothing", there)
		}
	}
	if len(known) < 20 {
		t.Errorf("only %d secrets were looked for", len(known))
	}
	t.Logf("looked for %d secrets in %d bytes of logs and %d bytes of answers", len(known), len(logs), play.answers.Len())
}

// scenario collects what is answered and what is secret.
type scenario struct {
	*server
	t       *testing.T
	site    string
	known   secrets
	answers bytes.Buffer
}

// ask calls the admin endpoint.
func (p *scenario) ask(method, path, body string) reply {
	p.t.Helper()
	return p.call(method, "http://localhost:"+p.admin+path, body)
}

// visit calls the site.
func (p *scenario) visit(method, path, body string, header ...string) reply {
	p.t.Helper()
	return p.call(method, p.site+path, body, header...)
}

func (p *scenario) call(method, url, body string, header ...string) reply {
	p.t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Anthropic-Version", "2023-06-01")
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	got := p.do(req)
	if !strings.Contains(got.body, `"key":"cb_`) && !strings.Contains(got.body, `"access_token":"cba_`) { // the answers that show what they issue
		fmt.Fprintf(&p.answers, "%s %s: %d %v %s\n", method, req.URL.Path, got.status, got.header, got.body)
	}
	return got
}

// accounts adds one account in each way there is.
func (p *scenario) accounts() {
	for _, name := range []string{"refresh", "token", "imported", "login"} {
		p.known.credentials(name, p.sim.AddAccount(simulator.Account{Name: name, Plan: simulator.PlanMax}))
	}
	p.known.credentials("key", p.sim.AddAccount(simulator.Account{Name: "key", Plan: simulator.PlanAPI}))
	k := p.known
	p.ask("POST", "/claude_balancer/accounts", fmt.Sprintf(`{"name":"refresh","plan_type":"max","refresh_token":%q,"access_token":%q}`, k["refresh token of refresh"], k["access token of refresh"])).mustBe(p.t, 201)
	p.ask("POST", "/claude_balancer/accounts", fmt.Sprintf(`{"name":"token","plan_type":"max","access_token":%q}`, k["access token of token"])).mustBe(p.t, 201)
	p.ask("POST", "/claude_balancer/accounts", fmt.Sprintf(`{"name":"key","plan_type":"api","api_key":%q}`, k["API key of key"])).mustBe(p.t, 201)
	p.ask("POST", "/claude_balancer/accounts", fmt.Sprintf(`{"name":"imported","plan_type":"max","credentials":{"claudeAiOauth":{"accessToken":%q,"refreshToken":%q,"expiresAt":%d}}}`,
		k["access token of imported"], k["refresh token of imported"], time.Now().Add(time.Hour).UnixMilli())).mustBe(p.t, 201)
	// Refused, with the credential in a wrong place.
	for _, body := range []string{`{"name":"x","api_key":%q,"extra":1}`, `{"name":"x","plan_type":%q}`, `{"name":7,"api_key":%q}`, `{"name":"x","api_key":[%q]}`, `{"name":"x","api_key":"a b","access_token":%q}`} {
		if got := p.ask("POST", "/claude_balancer/accounts", fmt.Sprintf(body, k["API key of key"])); got.status != 400 {
			p.t.Errorf("%s: %d", body, got.status)
		}
	}

	begun := p.ask("POST", "/claude_balancer/login", `{"name":"login","plan_type":"max"}`).mustBe(p.t, 201).json(p.t)
	code, err := p.sim.Approve(begun["authorize_url"].(string), "login")
	if err != nil {
		p.t.Fatal(err)
	}
	k["login code"], _, _ = strings.Cut(code, "#")
	// Pasted into the wrong window first.
	p.visit("GET", "/oauth/code/callback?code="+k["login code"]+"&state=x", "").mustBe(p.t, 404)
	path := "/claude_balancer/login/" + begun["id"].(string)
	p.ask("POST", path, `{"code":"`+k["login code"]+`#wrong"}`)
	p.ask("POST", path, `{"code":"`+code+`"}`).mustBe(p.t, 201)
	k.credentials("login", p.sim.Credentials("login"))
	k.credentials("login, renewed", p.sim.Credentials("login"))
}

func (p *scenario) clientKeys() {
	issue := func(what, path, body string) {
		p.known[what] = p.ask("POST", "/claude_balancer/keys"+path, body).json(p.t)["key"].(string)
	}
	issue("client key", "", `{"name":"client"}`)
	issue("viewer key", "", `{"name":"viewer","role":"viewer"}`)
	issue("limited key", "", `{"name":"limited","models":["*haiku*"],"rpm":1,"budget_usd":0.01}`)
	issue("former key", "", `{"name":"rotated"}`)
	issue("rotated key", "/rotated/rotate", `{"grace_seconds":60}`)
	p.known["unknown key"] = "cb_" + strings.Repeat("zY9", 17)[:49]
	p.known["a client's own token"] = "sk-ant-oat01-" + strings.Repeat("client-own", 6)
	p.known["a client's own API key"] = "sk-ant-api03-" + strings.Repeat("OWN-client", 6)
	p.known["a password"] = "correct-horse-battery-staple"
	p.known["a cookie"] = "cookie-" + strings.Repeat("crumbs", 6)
}

// signIns signs clients in, with everything that can be presented in a wrong
// place or twice.
func (p *scenario) signIns() {
	c := &gatewayClient{t: p.t, base: p.site, do: http.DefaultTransport.RoundTrip, wait: func(time.Duration) {}}
	c.discover()
	c.begin("")
	p.known["device code"] = c.device.DeviceCode
	c.ask()
	c.ask()
	someone := person{gatewayClient: c}
	for _, key := range []string{p.known["unknown key"], p.known["viewer key"], c.device.DeviceCode} {
		form := someone.open(c.device.URIComplete)
		form.Set("key", key)
		got := someone.decide(form, "approve").mustBe(p.t, 403)
		p.known.findIn(p.t, "the page", got.body)
	}
	got := someone.approve(p.known["client key"])
	p.known.findIn(p.t, "the page", got.body)
	if e := c.ask(); e != "" {
		p.t.Fatal(e)
	}
	for _, which := range []string{"first", "second"} {
		p.known[which+" access token of a sign-in"], p.known[which+" refresh token of a sign-in"] = c.tokens.Access, c.tokens.Refresh
		if which == "first" {
			c.message(sonnet)
			c.refresh()
		}
	}
	for _, name := range []string{"first access token of a sign-in", "first refresh token of a sign-in", "device code"} {
		v := p.known[name]
		p.visit("GET", "/v1/models", "", "Authorization", "Bearer "+v)
		p.visit("GET", "/v1/models", "", "X-Api-Key", v)
		p.visit("GET", "/managed/settings", "", "Authorization", "Bearer "+v)
		p.visit("GET", "/api/oauth/usage", "", "Authorization", "Bearer "+v)
		p.visit("GET", "/api/stats", "", "Authorization", basicAuth(v))
		p.visit("POST", "/oauth/token", "grant_type=refresh_token&refresh_token="+v, "Content-Type", "application/x-www-form-urlencoded").mustBe(p.t, map[bool]int{true: 200, false: 401}[strings.HasPrefix(v, "cbr_")])
	}
	p.visit("POST", "/oauth/revoke", "token="+p.known["device code"]).mustBe(p.t, 200)
	c.signOut()
	mustEnd(p.t, c.message(sonnet))
}

// sessionID opens nothing, so Caddy may log it; the balancer keeps its hash.
const sessionID = "5e551014-aaaa-4bbb-8ccc-ddddeeee0001"

// traffic is what clients do on a good day.
func (p *scenario) traffic() {
	p.known["prompt"] = "The launch code of the prompt is 0000."
	body := func(stream bool) string {
		return strings.Replace(messageBody(haiku, stream), "Hello", p.known["prompt"], 1)
	}
	for _, what := range []string{"client key", "limited key", "limited key", "former key", "rotated key", "viewer key", "unknown key", "a client's own token"} {
		v := p.known[what]
		p.visit("POST", "/v1/messages", body(false), "X-Api-Key", v, "X-Claude-Code-Session-Id", sessionID)
		p.visit("POST", "/v1/messages", body(true), "Authorization", "Bearer "+v, "Cookie", "s="+p.known["a cookie"])
		p.visit("POST", "/v1/messages/count_tokens", body(false), "X-Api-Key", p.known["a client's own API key"], "Authorization", "Bearer "+v)
		p.visit("GET", "/v1/models", "", "X-Api-Key", v)
		p.visit("GET", "/api/stats", "", "Authorization", basicAuth(v))
		p.visit("GET", "/v1/../api/stats", "", "X-Api-Key", v)
		p.visit("GET", "/elsewhere", "", "X-Api-Key", v)
	}
	p.visit("GET", "/dashboard", "", "Authorization", basicAuth(p.known["a password"]))
}

// troubles makes upstream and the token endpoint fail, some of it with an echo
// of what they were sent.
func (p *scenario) troubles() {
	send := func(n int, steps ...simulator.Step) {
		p.sim.Script("", steps...)
		for range n {
			p.visit("POST", "/v1/messages", messageBody(sonnet, true), "X-Api-Key", p.known["client key"])
		}
		p.sim.Unscript("")
	}
	for _, do := range []simulator.Behaviour{simulator.Unauthorized, simulator.Burst(time.Second), simulator.Overloaded529, simulator.ServerError(500), simulator.ResetAfterRead,
		simulator.ResetBeforeHeaders, simulator.BadRequest400, simulator.FirstEventError("overloaded_error"), simulator.LateEventError("api_error", 3), simulator.EndWithoutStop(3)} {
		send(2, simulator.Step{Do: do})
	}
	for _, name := range []string{"refresh", "token", "login"} {
		echo := fmt.Sprintf(`{"type":"error","error":{"type":"api_error","message":"no such token %s"}}`, p.known["access token of "+name])
		p.sim.Script(name, simulator.Step{Times: 3, Status: 500, Body: echo})
	}
	send(3)

	p.ask("POST", "/claude_balancer/accounts/refresh/refresh", "").mustBe(p.t, 200)
	p.known.credentials("refresh, renewed", p.sim.Credentials("refresh"))
	p.sim.Script("", simulator.Step{Path: simulator.OAuthTokenPath, Status: 400,
		Body: fmt.Sprintf(`{"error":"invalid_request","error_description":"%s is not known"}`, p.known["refresh token of refresh, renewed"])})
	p.ask("POST", "/claude_balancer/accounts/refresh/refresh", "").mustBe(p.t, 502)
	p.sim.Unscript("")
	p.sim.KillRefresh("imported")
	p.ask("POST", "/claude_balancer/accounts/imported/refresh", "")
	p.ask("POST", "/claude_balancer/accounts/token/refresh", "").mustBe(p.t, 409)
	p.sim.RevokeAccess("login")
	send(4)
}

// endings revokes, removes, and reloads.
func (p *scenario) endings() {
	p.ask("DELETE", "/claude_balancer/keys/rotated", "").mustBe(p.t, 204)
	p.visit("POST", "/v1/messages", messageBody(sonnet, false), "X-Api-Key", p.known["rotated key"]).mustBe(p.t, 401)
	p.ask("DELETE", "/claude_balancer/accounts/imported", "").mustBe(p.t, 204)
	for _, name := range []string{"login", "refresh"} {
		p.known.credentials(name+", last", p.sim.Credentials(name))
	}
	config := p.ask("GET", "/config/", "").body
	p.ask("POST", "/load", config)
	p.visit("POST", "/v1/messages", messageBody(sonnet, false), "X-Api-Key", p.known["client key"])
	p.app = nil // replaced
	if !json.Valid([]byte(config)) {
		p.t.Errorf("no configuration: %s", config)
	}
}

func TestTheAuditTrailSaysWhoDidWhat(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	r.add("work", "max")
	ctx, b := api.WithActor(t.Context(), "admin, command of alice"), r.app.runtime
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := b.UpdateAccount(ctx, "work", api.AccountPatch{Paused: api.Field[bool]{Set: true, Value: ptr(true)}})
	must(err)
	_, err = b.RefreshAccount(ctx, "work")
	must(err)
	_, err = b.ClearLimits(ctx, "work")
	must(err)
	_, err = b.AddKey(ctx, api.NewKey{Name: "ci"})
	must(err)
	_, err = b.UpdateKey(ctx, "ci", api.KeyPatch{RPM: api.Field[int]{Set: true, Value: ptr(3)}, Models: api.Field[[]string]{Set: true}})
	must(err)
	_, err = b.RotateKey(ctx, "ci", 0)
	must(err)
	must(b.RevokeKey(ctx, "ci"))
	must(b.RemoveAccount(ctx, "work"))
	must(b.ResetStats(ctx))
	_, err = b.ClearRequests(ctx)
	must(err)

	entries, err := b.Audit(t.Context())
	must(err)
	var got []string
	for i := len(entries) - 1; i >= 0; i-- {
		e := entries[i]
		if i < len(entries)-1 && (e.Who != "admin, command of alice" || time.Since(time.UnixMilli(e.At)) > time.Minute) {
			t.Errorf("%+v", e)
		}
		got = append(got, e.What+" "+e.Detail)
	}
	want := []string{"account.add work, plan max, oauth", "account.change work: paused", "account.refresh work", "account.clear_limits work",
		"key.add ci, role client", "key.change ci: models, rpm", "key.rotate ci", "key.revoke ci", "account.remove work", "stats.reset ", "history.clear 0 requests"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestTheAuditTrailIsKeptForAYear(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	if auditKept != 365*24*time.Hour {
		t.Errorf("kept for %s", auditKept)
	}
	s := r.app.runtime.store
	for what, age := range map[string]time.Duration{"old": auditKept + time.Hour, "young": auditKept - time.Hour} {
		if err := s.AddAudit(t.Context(), store.Audit{At: time.Now().Add(-age), What: what}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.PruneAudit(t.Context(), time.Now().Add(-auditKept)); err != nil {
		t.Fatal(err)
	}
	entries, err := r.app.runtime.Audit(t.Context())
	if err != nil || len(entries) != 1 || entries[0].What != "young" {
		t.Errorf("%v %+v", err, entries)
	}
}
