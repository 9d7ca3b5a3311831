package simulator_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/secret"
	"github.com/claude-balancer/claude-balancer/simulator"
)

type tokens struct {
	Access      string `json:"access_token"`
	Refresh     string `json:"refresh_token"`
	ExpiresIn   int    `json:"expires_in"`
	Error       string
	Description string `json:"error_description"`
	URI         string `json:"error_uri"`
}

// token posts to the token endpoint.
func (f *fixture) token(fields map[string]string) answer {
	f.t.Helper()
	body, err := json.Marshal(fields)
	if err != nil {
		f.t.Fatal(err)
	}
	return f.call(simulator.Credentials{}, "POST", simulator.OAuthTokenPath, string(body))
}

func (f *fixture) refresh(c simulator.Credentials) answer {
	f.t.Helper()
	return f.token(map[string]string{"grant_type": "refresh_token", "refresh_token": c.Refresh.Reveal(), "client_id": simulator.ClientID})
}

func TestARefreshTokenWorksOnce(t *testing.T) {
	t.Parallel()
	clock := newClock()
	f := start(t, simulator.Options{Now: clock.Now})
	clock.add(8*time.Hour - 1)
	wantStatus(t, f.ask(f.work, sonnet, false), 200)
	clock.add(1)
	wantStatus(t, f.ask(f.work, sonnet, false), 401)

	first := f.refresh(f.work)
	wantStatus(t, first, 200)
	pair := decode[tokens](t, first)
	if pair.ExpiresIn != 28800 || pair.Refresh == f.work.Refresh.Reveal() || !strings.HasPrefix(pair.Access, "sk-ant-oat01-") {
		t.Errorf("answer: %s", first.body)
	}
	renewed := f.Credentials("work")
	if !renewed.Access.Equal(secret.New(pair.Access)) || !renewed.Refresh.Equal(secret.New(pair.Refresh)) {
		t.Error("Credentials are not the new ones")
	}
	wantStatus(t, f.ask(renewed, sonnet, false), 200)

	again := f.refresh(f.work)
	wantStatus(t, again, 400)
	if e := decode[tokens](t, again); e.Error != "invalid_grant" || e.Description != "Refresh token not found or invalid" {
		t.Errorf("answer: %s", again.body)
	}
	wantStatus(t, f.refresh(renewed), 200)
	if f.Refreshes("work") != 2 || f.Reuses("work") != 1 || f.Refreshes("other") != 0 {
		t.Errorf("%d refreshes, %d reuses", f.Refreshes("work"), f.Reuses("work"))
	}
}

func TestOfParallelRefreshesOneWins(t *testing.T) {
	t.Parallel()
	f := start(t, simulator.Options{})
	var won atomic.Int32
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if f.refresh(f.work).status == 200 {
				won.Add(1)
			}
		})
	}
	all.Wait()
	if won.Load() != 1 || f.Refreshes("work") != 1 || f.Reuses("work") != 19 {
		t.Errorf("%d won, %d refreshes, %d reuses", won.Load(), f.Refreshes("work"), f.Reuses("work"))
	}
}

func TestDeadAndHeldLoginsAreNotRefreshed(t *testing.T) {
	t.Parallel()
	f := start(t, simulator.Options{})
	f.KillRefresh("work")
	if e := decode[tokens](t, f.refresh(f.work)); e.Error != "invalid_grant" {
		t.Errorf("dead: %+v", e)
	}
	wantStatus(t, f.ask(f.work, sonnet, false), 200) // the access token lives on
	f.Hold("other")
	if e := decode[tokens](t, f.refresh(f.other)); !strings.Contains(e.URI, "account_on_hold") {
		t.Errorf("held: %+v", e)
	}
}

func TestRefreshesCanBeScripted(t *testing.T) {
	t.Parallel()
	f := start(t, simulator.Options{})
	old := f.work
	hooked := false
	f.Script("work",
		simulator.Step{Path: simulator.OAuthTokenPath, Status: 503},
		simulator.Step{Path: simulator.OAuthTokenPath, Status: 400, Body: `{"error":"refresh_token_reused"}`},
		simulator.Step{Path: simulator.OAuthTokenPath, Do: simulator.BeforeAnswer(func() {
			hooked = !f.Credentials("work").Refresh.Equal(old.Refresh)
		})},
		simulator.Step{Path: simulator.OAuthTokenPath, Do: simulator.DropAnswer, Times: -1})
	wantStatus(t, f.refresh(f.other), 200)
	wantStatus(t, f.refresh(f.work), 503)
	wantStatus(t, f.refresh(f.work), 400)
	wantStatus(t, f.refresh(f.work), 200)
	if !hooked {
		t.Error("the hook did not run between the rotation and the answer")
	}
	rotated := f.Credentials("work")
	body := `{"grant_type":"refresh_token","refresh_token":"` + rotated.Refresh.Reveal() + `","client_id":"` + simulator.ClientID + `"}`
	if !f.broken(f.request(simulator.Credentials{}, "POST", simulator.OAuthTokenPath, body)) {
		t.Error("the answer was not dropped")
	}
	if f.Credentials("work").Refresh.Equal(rotated.Refresh) {
		t.Error("the dropped refresh did not rotate")
	}
}

func TestARevokedRefreshTokenEndsItsLogin(t *testing.T) {
	t.Parallel()
	f := start(t, simulator.Options{})
	wantStatus(t, f.call(simulator.Credentials{}, "POST", simulator.OAuthTokenPath+"/revoke", `{"token":"`+f.work.Refresh.Reveal()+`"}`), 200)
	wantStatus(t, f.refresh(f.work), 400)
	wantStatus(t, f.ask(f.work, sonnet, false), 401)
	wantStatus(t, f.call(simulator.Credentials{}, "POST", simulator.OAuthTokenPath+"/revoke", `{"token":"unknown"}`), 200)
}

const verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"

func authorizeURL(change map[string]string) string {
	sum := sha256.Sum256([]byte(verifier))
	q := url.Values{
		"code": {"true"}, "client_id": {simulator.ClientID}, "response_type": {"code"},
		"redirect_uri": {"https://platform.claude.com/oauth/code/callback"}, "scope": {"org:create_api_key user:profile user:inference"},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"}, "state": {"st"},
	}
	for name, value := range change {
		q.Set(name, value)
	}
	return "https://claude.com/cai/oauth/authorize?" + q.Encode()
}

func exchange(code string, change map[string]string) map[string]string {
	code, state, _ := strings.Cut(code, "#")
	fields := map[string]string{
		"grant_type": "authorization_code", "code": code, "state": state, "client_id": simulator.ClientID,
		"redirect_uri": "https://platform.claude.com/oauth/code/callback", "code_verifier": verifier,
	}
	for name, value := range change {
		fields[name] = value
	}
	return fields
}

func TestALoginGivesTokensForACodeOnce(t *testing.T) {
	t.Parallel()
	f := start(t, simulator.Options{})
	f.KillRefresh("work")
	code, err := f.Approve(authorizeURL(nil), "work")
	if err != nil || !strings.HasSuffix(code, "#st") {
		t.Fatalf("code %q: %v", code, err)
	}
	a := f.token(exchange(code, nil))
	wantStatus(t, a, 200)
	if got := decode[tokens](t, a); !f.Credentials("work").Access.Equal(secret.New(got.Access)) {
		t.Error("the answer is not the account's new credential")
	}
	wantStatus(t, f.refresh(f.Credentials("work")), 200)
	wantStatus(t, f.token(exchange(code, nil)), 400)
}

func TestACodeNeedsTheLoginThatItBelongsTo(t *testing.T) {
	t.Parallel()
	clock := newClock()
	f := start(t, simulator.Options{Now: clock.Now})
	for name, change := range map[string]map[string]string{
		"verifier": {"code_verifier": "other"}, "redirect": {"redirect_uri": "https://elsewhere/callback"}, "state": {"state": "x"},
		"client": {"client_id": "x"}, "grant": {"grant_type": "password"}, "code": {"code": "x"},
	} {
		code, err := f.Approve(authorizeURL(nil), "work")
		if err != nil {
			t.Fatal(err)
		}
		if a := f.token(exchange(code, change)); a.status != 400 || decode[tokens](t, a).Error == "" {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	code, _ := f.Approve(authorizeURL(nil), "work")
	clock.add(10 * time.Minute)
	wantStatus(t, f.token(exchange(code, nil)), 400)
	wantStatus(t, f.call(simulator.Credentials{}, "POST", simulator.OAuthTokenPath, "grant_type=refresh_token"), 400)
}

func TestApproveChecksTheAuthorizeURL(t *testing.T) {
	t.Parallel()
	f := start(t, simulator.Options{})
	for name, u := range map[string]string{
		"path": strings.Replace(authorizeURL(nil), "/cai/oauth", "/login", 1), "client": authorizeURL(map[string]string{"client_id": "x"}),
		"method": authorizeURL(map[string]string{"code_challenge_method": "plain"}), "challenge": authorizeURL(map[string]string{"code_challenge": "short"}),
		"state": authorizeURL(map[string]string{"state": ""}), "redirect": authorizeURL(map[string]string{"redirect_uri": "/x"}),
		"scope": authorizeURL(map[string]string{"scope": "user:nothing"}), "no scope": authorizeURL(map[string]string{"scope": ""}),
		"code": authorizeURL(map[string]string{"code": ""}), "no URL": "%",
	} {
		if code, err := f.Approve(u, "work"); err == nil {
			t.Errorf("%s: approved with %s", name, code)
		}
	}
	for _, name := range []string{"nobody", "key"} {
		if _, err := f.Approve(authorizeURL(nil), name); err == nil {
			t.Errorf("%s was let in", name)
		}
	}
}

func TestTheAuthorizePageLetsAPersonIn(t *testing.T) {
	t.Parallel()
	f := start(t, simulator.Options{})
	get := func(u string) *http.Response {
		t.Helper()
		target, err := url.Parse(u)
		if err != nil {
			t.Fatal(err)
		}
		r, err := http.NewRequestWithContext(t.Context(), "GET", f.url+target.RequestURI(), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := f.client.Transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		return resp
	}
	page, _ := io.ReadAll(get(authorizeURL(nil)).Body)
	if !strings.Contains(string(page), "account=work") || strings.Contains(string(page), "account=key") {
		t.Errorf("page: %s", page)
	}
	page, _ = io.ReadAll(get(authorizeURL(nil) + "&account=work").Body)
	if !strings.Contains(string(page), "#st</code>") {
		t.Errorf("page: %s", page)
	}
	if resp := get(authorizeURL(map[string]string{"scope": "x"})); resp.StatusCode != 400 {
		t.Errorf("a bad URL: %d", resp.StatusCode)
	}
	resp := get(authorizeURL(map[string]string{"redirect_uri": "http://localhost:1/callback"}) + "&account=work")
	to, err := resp.Location()
	if err != nil || resp.StatusCode != 302 || to.Host != "localhost:1" || to.Query().Get("state") != "st" || to.Query().Get("code") == "" {
		t.Errorf("%d to %v: %v", resp.StatusCode, to, err)
	}
}

func TestTheProfileTellsThePlan(t *testing.T) {
	t.Parallel()
	f := start(t, simulator.Options{})
	for want, c := range map[string]simulator.Credentials{"claude_pro": f.work, "claude_max": f.other} {
		a := f.call(c, "GET", "/api/oauth/profile", "")
		wantStatus(t, a, 200)
		if !strings.Contains(a.body, `"organization_type":"`+want+`"`) || !strings.Contains(a.body, c.AccountUUID) {
			t.Errorf("profile: %s", a.body)
		}
	}
	wantStatus(t, f.call(f.key, "GET", "/api/oauth/profile", ""), 401)
}
