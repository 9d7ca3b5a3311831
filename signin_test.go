package claudebalancer

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/simulator"
)

// signInRig is a site that lets Claude Code sign in, with one account and a
// clock that can leap.
func signInRig(t *testing.T, directive ...string) (*rig, *clock) {
	t.Helper()
	c := newClock()
	r := newRig(t, rigOptions{sim: simulator.Options{Now: c.now}, directive: append([]string{"access keys", "sign_in on"}, directive...)})
	r.add("a", "max")
	return r, c
}

func TestAClientSignsInByTheBookAndWorks(t *testing.T) {
	t.Parallel()
	r, clock := signInRig(t)
	key := r.key(api.NewKey{Name: "dev@example.com"})
	c := r.claude(clock)
	c.discover()
	if c.endpoints.Issuer != r.srv.URL || c.endpoints.Revoke != r.srv.URL+"/oauth/revoke" || strings.Join(c.endpoints.Grants, " ") != "urn:ietf:params:oauth:grant-type:device_code refresh_token" {
		t.Errorf("discovered: %+v", c.endpoints)
	}
	c.begin("surface=claude_code")
	for range 3 {
		if e := c.poll(); e != "authorization_pending" {
			t.Errorf("before approval: %q", e)
		}
	}
	done := person{gatewayClient: c}.approve(key)
	if !strings.Contains(done.body, "signed in") || !strings.Contains(done.body, "dev@example.com") {
		t.Errorf("the page says: %s", done.body)
	}
	if e := c.poll(); e != "" {
		t.Fatalf("after approval: %q", e)
	}
	if c.tokens.ExpiresIn != 8*3600 || c.tokens.Email != "dev@example.com" {
		t.Errorf("tokens: %s for %d s, email %q", c.tokens, c.tokens.ExpiresIn, c.tokens.Email)
	}

	c.message(opus).mustBe(t, 200)
	for _, path := range []string{"/v1/models", "/api/oauth/usage"} {
		c.send("GET", c.base+path, "", append(c.bearer(), "Anthropic-Version", "2023-06-01")...).mustBe(t, 200)
	}
	c.send("POST", c.base+"/v1/messages/count_tokens", messageBody(opus, false), append(c.bearer(), "Content-Type", "application/json", "Anthropic-Version", "2023-06-01")...).mustBe(t, 200)
	for _, signal := range []string{"metrics", "logs", "traces"} {
		c.send("POST", c.base+"/v1/"+signal, "{}", append(c.bearer(), "Content-Type", "application/json")...).mustBe(t, 200)
	}
	if last := r.last(); last.Client == nil || *last.Client != "dev@example.com" {
		t.Errorf("counted for %v", last.Client)
	}

	first := c.tokens
	clock.pass(8*time.Hour - time.Minute)
	if e := c.refresh(); e != "" || c.tokens.Access == first.Access || c.tokens.Refresh == first.Refresh {
		t.Fatalf("refreshed: %q, %s after %s", e, c.tokens, first)
	}
	c.message(opus).mustBe(t, 200)
	clock.pass(time.Minute)
	fresh := c.tokens
	c.tokens = first
	mustEnd(t, c.message(opus)) // it has expired
	c.tokens = fresh

	c.signOut()
	mustEnd(t, c.message(opus))
	if e := c.refresh(); e != "invalid_grant" {
		t.Errorf("refreshed after signing out: %q", e)
	}
	var trail []string
	entries, err := r.app.runtime.Audit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.What, "sign_in") {
			trail = append(trail, e.What+" by "+e.Who+": "+e.Detail)
		}
	}
	if got := strings.Join(trail, "\n"); got != "sign_in.revoke by client: dev@example.com\nsign_in.approve by key dev@example.com: dev@example.com" {
		t.Errorf("the audit trail has\n%s", got)
	}
}

func TestASignInTellsARevokedUserToSignInAgain(t *testing.T) {
	t.Parallel()
	r, clock := signInRig(t)
	c := r.claude(clock)
	c.signIn(r.key(api.NewKey{Name: "dev"}))
	r.revoke("dev")
	mustEnd(t, c.message(opus))
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {c.tokens.Refresh}}
	if got := c.send("POST", c.endpoints.Token, form.Encode()).mustBe(t, 401); got.json(t)["error"] != "invalid_grant" {
		t.Errorf("refresh: %s", got.body)
	}
}

func TestASignInLastsForItsLifetime(t *testing.T) {
	t.Parallel()
	clock := newClock()
	r := newRig(t, rigOptions{sim: simulator.Options{Now: clock.now}, directive: []string{"access keys", "sign_in {",
		"access_lifetime 1h", "refresh_lifetime 1d", `login_notice "Use it for work."`, "}"}})
	r.add("a", "max")
	c := r.claude(clock)
	c.signIn(r.key(api.NewKey{Name: "dev"}))
	if c.tokens.ExpiresIn != 3600 || c.device.Notice != "Use it for work." || c.tokens.Email != "" {
		t.Errorf("%+v, %d s, email %q", c.device, c.tokens.ExpiresIn, c.tokens.Email)
	}
	for range 47 {
		clock.pass(30 * time.Minute)
		if e := c.refresh(); e != "" {
			t.Fatalf("refresh: %q", e)
		}
	}
	if c.tokens.ExpiresIn > 30*60 {
		t.Errorf("a token of %d s outlives its sign-in", c.tokens.ExpiresIn)
	}
	clock.pass(30 * time.Minute)
	if e := c.refresh(); e != "invalid_grant" {
		t.Errorf("after a day: %q", e)
	}
	mustEnd(t, c.message(opus))
}

func TestEmptyAndUnknownFormsSignIn(t *testing.T) {
	t.Parallel()
	r, clock := signInRig(t)
	c := r.claude(clock)
	c.discover()
	for _, form := range []string{"", "surface=claude_code", "surface=x&client_id=y&scope=z&unknown=1&surface=2", "%zz=no+form"} {
		c.begin(form)
	}
	c.send("POST", c.endpoints.Device, `{"json":1}`, "Content-Type", "application/json").mustBe(t, 200)
	c.send("POST", c.endpoints.Device, strings.Repeat("x", 65<<10)).mustBe(t, 413)
	person{gatewayClient: c}.approve(r.key(api.NewKey{Name: "dev"}))
	c.wait(c.interval)
	form := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "device_code": {c.device.DeviceCode}, "unknown": {"1"}, "client_id": {"x"}}
	if e := c.token(form); e != "" {
		t.Errorf("with unknown fields: %q", e)
	}
	form = url.Values{"grant_type": {"refresh_token"}, "refresh_token": {c.tokens.Refresh}, "scope": {"all"}}
	if e := c.token(form); e != "" {
		t.Errorf("refresh with unknown fields: %q", e)
	}
}

func TestTokenErrorsHaveTheirRFCsShape(t *testing.T) {
	t.Parallel()
	r, clock := signInRig(t)
	c := r.claude(clock)
	c.discover()
	for form, want := range map[string]string{
		"":                         "400 invalid_request",
		"grant_type=password":      "400 unsupported_grant_type",
		"grant_type=refresh_token": "401 invalid_grant",
		"grant_type=refresh_token&refresh_token=cb_x":                                                        "401 invalid_grant",
		"grant_type=urn:ietf:params:oauth:grant-type:device_code":                                            "400 invalid_grant",
		"grant_type=urn:ietf:params:oauth:grant-type:device_code&device_code=cbd_" + strings.Repeat("0", 49): "400 invalid_grant",
	} {
		got := c.send("POST", c.endpoints.Token, form)
		description, _ := got.json(t)["error_description"].(string)
		if told := fmt.Sprint(got.status, " ", got.json(t)["error"]); told != want || !strings.HasSuffix(description, ".") || len(got.json(t)) != 2 {
			t.Errorf("%q: %s", form, got.body)
		}
	}
	c.send("GET", c.endpoints.Token, "").mustBe(t, 405)
	c.send("POST", c.endpoints.Revoke, "").mustBe(t, 400)
	c.send("POST", c.endpoints.Revoke, "token=unknown").mustBe(t, 200)
	c.send("POST", c.base+"/.well-known/oauth-authorization-server", "").mustBe(t, 405)
}

func TestAClientThatPollsTooFastIsSlowedDown(t *testing.T) {
	t.Parallel()
	r, clock := signInRig(t)
	c := r.claude(clock)
	c.discover()
	c.begin("")
	if e := c.poll(); e != "authorization_pending" {
		t.Errorf("the first poll: %q", e)
	}
	if e := c.ask(); e != "slow_down" || c.interval != 10*time.Second {
		t.Errorf("at once: %q, interval %s", e, c.interval)
	}
	c.wait(6 * time.Second) // enough before, and not any more
	if e := c.ask(); e != "slow_down" {
		t.Errorf("after 6 s: %q", e)
	}
	if e := c.poll(); e != "authorization_pending" {
		t.Errorf("after %s: %q", c.interval, e)
	}
	person{gatewayClient: c}.approve(r.key(api.NewKey{Name: "dev"}))
	if e := c.poll(); e != "" {
		t.Errorf("after approval: %q", e)
	}
}

func TestACodeIsDeadAfterItsUseItsTimeAndItsDenial(t *testing.T) {
	t.Parallel()
	r, clock := signInRig(t)
	key := r.key(api.NewKey{Name: "dev"})
	c := r.claude(clock)
	c.signIn(key)
	if e := c.poll(); e != "invalid_grant" {
		t.Errorf("used: %q", e)
	}
	c.message(opus).mustBe(t, 200) // the tokens of its first use are good
	p := person{gatewayClient: c}
	form := p.open(c.device.URIComplete)
	form.Set("key", key)
	if got := p.decide(form, "approve").mustBe(t, 400); !strings.Contains(got.body, "No sign-in waits under this code") {
		t.Errorf("approved twice: %s", got.body)
	}

	c.begin("")
	form = p.open(c.device.URIComplete)
	form.Set("key", key)
	if got := p.decide(form, "deny").mustBe(t, 200); !strings.Contains(got.body, "denied") {
		t.Errorf("denied: %s", got.body)
	}
	if e := c.poll(); e != "access_denied" {
		t.Errorf("denied: %q", e)
	}

	c.begin("")
	clock.pass(10 * time.Minute)
	if e := c.ask(); e != "expired_token" {
		t.Errorf("late: %q", e)
	}
	form = p.open(c.device.URIComplete)
	form.Set("key", key)
	p.decide(form, "approve").mustBe(t, 400)
}

func TestOfTwoApprovalsThatRaceOneWins(t *testing.T) {
	t.Parallel()
	r, clock := signInRig(t)
	keys := []string{r.key(api.NewKey{Name: "one"}), r.key(api.NewKey{Name: "two"})}
	c := r.claude(clock)
	c.discover()
	c.begin("")
	var wg sync.WaitGroup
	answers := make([]reply, 8)
	for i := range answers {
		wg.Go(func() {
			p := person{gatewayClient: c}
			answers[i] = p.decide(url.Values{"user_code": {c.device.UserCode}, "key": {keys[i%2]}}, "approve")
		})
	}
	wg.Wait()
	won, winner := 0, ""
	for i, a := range answers {
		if a.status == 200 {
			won, winner = won+1, []string{"one", "two"}[i%2]
		}
	}
	if won != 1 {
		t.Fatalf("%d approvals count", won)
	}
	polls := make([]reply, 8)
	for i := range polls {
		wg.Go(func() {
			polls[i] = c.send("POST", c.endpoints.Token, "grant_type=urn:ietf:params:oauth:grant-type:device_code&device_code="+c.device.DeviceCode)
		})
	}
	wg.Wait()
	redeemed := 0
	for _, p := range polls {
		if p.status == 200 {
			redeemed++
			c.tokens.Access, _ = p.json(t)["access_token"].(string)
		}
	}
	if redeemed != 1 {
		t.Errorf("%d of the polls that race got tokens", redeemed)
	}
	c.message(opus).mustBe(t, 200)
	if last := r.last(); last.Client == nil || *last.Client != winner {
		t.Errorf("it works as %v, and %q was told that it approved", last.Client, winner)
	}
}

func TestAStrangersFormApprovesNothing(t *testing.T) {
	t.Parallel()
	r, clock := signInRig(t)
	key := r.key(api.NewKey{Name: "dev"})
	c := r.claude(clock)
	c.discover()
	c.begin("")
	p := person{gatewayClient: c}
	form := url.Values{"user_code": {c.device.UserCode}, "key": {key}, "decision": {"approve"}}
	for _, header := range [][]string{
		{"Origin", "https://evil.example"},
		{"Origin", "null"},
		{"Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site"},
		{"Origin", "http://neighbour.localhost", "Sec-Fetch-Site", "same-site"},
	} {
		p.send("POST", c.base+"/device", form.Encode(), header...).mustBe(t, 403)
	}
	if e := c.poll(); e != "authorization_pending" {
		t.Errorf("it did: %q", e)
	}
	form.Del("decision")
	p.send("POST", c.base+"/device", form.Encode()).mustBe(t, 400) // Enter pressed nowhere decides nothing
	p.send("GET", c.base+"/device?decision=approve&"+form.Encode(), "").mustBe(t, 200)
	if e := c.poll(); e != "authorization_pending" {
		t.Errorf("a link did: %q", e)
	}
}

func TestThePageTellsNobodyWhetherACodeExists(t *testing.T) {
	t.Parallel()
	r, clock := signInRig(t)
	viewer := r.key(api.NewKey{Name: "screen", Role: api.RoleViewer})
	c := r.claude(clock)
	c.discover()
	c.begin("")
	p := person{gatewayClient: c}
	for _, key := range []string{"", "cb_wrong", viewer, c.device.DeviceCode} {
		var bodies []string
		for _, code := range []string{c.device.UserCode, "BBBB-BBBB"} {
			got := p.decide(url.Values{"user_code": {code}, "key": {key}}, "approve").mustBe(t, 403)
			bodies = append(bodies, strings.ReplaceAll(got.body, code, "CODE"))
		}
		if bodies[0] != bodies[1] {
			t.Errorf("key %q: the answers differ\n%s\n%s", key, bodies[0], bodies[1])
		}
	}
	with := strings.ReplaceAll(p.send("GET", c.device.URIComplete, "").body, c.device.UserCode, "CODE")
	if other := strings.ReplaceAll(p.send("GET", c.device.URI+"?user_code=BBBB-BBBB", "").body, "BBBB-BBBB", "CODE"); with != other {
		t.Error("the empty form differs")
	}
	if e := c.poll(); e != "authorization_pending" {
		t.Errorf("one of them did it: %q", e)
	}
}

func TestGuessingCodesAndKeysIsSlowedDown(t *testing.T) {
	t.Parallel()
	r, clock := signInRig(t)
	key := r.key(api.NewKey{Name: "dev"})
	c := r.claude(clock)
	c.discover()
	c.begin("")
	p := person{gatewayClient: c}
	guess := func(code, key string) reply {
		return p.decide(url.Values{"user_code": {code}, "key": {key}}, "approve")
	}
	for range 20 {
		guess("ZZZZ-ZZZZ", key).mustBe(t, 400)
	}
	if got := guess(c.device.UserCode, key).mustBe(t, 429); got.header.Get("Retry-After") == "" {
		t.Errorf("headers: %v", got.header)
	}
	clock.pass(time.Minute)
	for range 30 {
		guess("ZZZZ-ZZZZ", "cb_wrong").mustBe(t, 403)
	}
	guess("ZZZZ-ZZZZ", "cb_wrong").mustBe(t, 429)
	guess(c.device.UserCode, key).mustBe(t, 200) // a good key is locked out by nobody
}

func TestOneAddressMayBeginOnlySoManySignIns(t *testing.T) {
	t.Parallel()
	r, clock := signInRig(t)
	c := r.claude(clock)
	c.discover()
	for range 60 {
		c.send("POST", c.endpoints.Device, "").mustBe(t, 200)
	}
	got := c.send("POST", c.endpoints.Device, "").mustBe(t, 429)
	if got.json(t)["error"] != "slow_down" || got.header.Get("Retry-After") == "" {
		t.Errorf("%v %s", got.header, got.body)
	}
	clock.pass(10 * time.Minute)
	c.begin("")
}

func TestASignInGoesOnAfterARestartInEveryStep(t *testing.T) {
	t.Parallel()
	r, clock := signInRig(t)
	key := r.key(api.NewKey{Name: "dev"})
	c := r.claude(clock)
	c.discover()
	again := func() {
		t.Helper()
		r.restart()
		old := c.base
		c.base = r.srv.URL // the rig has another port
		for _, u := range []*string{&c.endpoints.Token, &c.endpoints.Device, &c.endpoints.Revoke, &c.device.URIComplete} {
			*u = strings.Replace(*u, old, c.base, 1)
		}
	}
	c.begin("")
	again()
	if e := c.poll(); e != "authorization_pending" {
		t.Errorf("before approval: %q", e)
	}
	form := person{gatewayClient: c}.open(c.device.URIComplete)
	again()
	form.Set("key", key)
	person{gatewayClient: c}.decide(form, "approve").mustBe(t, 200)
	again()
	if e := c.poll(); e != "" {
		t.Fatalf("after approval: %q", e)
	}
	again()
	c.message(opus).mustBe(t, 200)
	if e := c.refresh(); e != "" {
		t.Fatalf("refresh: %q", e)
	}
	again()
	c.message(opus).mustBe(t, 200)
	c.signOut()
	again()
	mustEnd(t, c.message(opus))
}

func TestAStolenRefreshTokenEndsTheSignInWhenItIsUsedAgain(t *testing.T) {
	t.Parallel()
	r, clock := signInRig(t)
	c := r.claude(clock)
	c.signIn(r.key(api.NewKey{Name: "dev"}))
	thief := *c
	if e := c.refresh(); e != "" {
		t.Fatal(e)
	}
	clock.pass(50 * time.Second)
	lost := thief // an answer that never arrived is asked for again
	if e := lost.refresh(); e != "" {
		t.Errorf("within the grace period: %q", e)
	}
	clock.pass(11 * time.Second)
	if e := thief.refresh(); e != "invalid_grant" {
		t.Errorf("after it: %q", e)
	}
	mustEnd(t, c.message(opus))
	if e := c.refresh(); e != "invalid_grant" {
		t.Errorf("the other holder's token: %q", e)
	}
}

func TestAUserWhomCaddyAuthenticatedGetsAKeyByTheTemplate(t *testing.T) {
	t.Parallel()
	clock := newClock()
	r := newRig(t, rigOptions{sim: simulator.Options{Now: clock.now},
		site: []string{"request_header @user X-User {http.request.header.X-Test-User}", "@user path /device"},
		directive: []string{"access keys", "sign_in {", "users {http.request.header.X-User} {", "models *sonnet* *haiku*", "accounts a", "rpm 60",
			"max_in_flight 4", "budget_usd 20", "budget_period week", "}", "}"}})
	r.add("a", "max")
	c := r.claude(clock)
	c.discover()
	c.begin("")
	p := person{gatewayClient: c, header: []string{"X-Test-User", "alice@example.com"}}
	form := p.open(c.device.URIComplete)
	if _, asks := form["key"]; asks || form.Get("user_code") != c.device.UserCode {
		t.Errorf("the form asks a known user for a key: %v", form)
	}
	// A browser that tells nothing of where the form comes from may have been
	// sent by another page, and it authenticates by itself.
	form.Set("decision", "approve")
	p.send("POST", c.base+"/device", form.Encode(), p.header...).mustBe(t, 403)
	if got := p.decide(form, "approve").mustBe(t, 200); !strings.Contains(got.body, "alice@example.com") {
		t.Errorf("approved: %s", got.body)
	}
	if e := c.poll(); e != "" || c.tokens.Email != "alice@example.com" {
		t.Fatalf("%q, email %q", e, c.tokens.Email)
	}
	k := r.keyNamed("alice@example.com")
	if k.Role != "client" || strings.Join(k.Models, " ") != "*sonnet* *haiku*" || strings.Join(k.Accounts, " ") != "a" || k.RPM != 60 ||
		k.MaxInFlight != 4 || *k.BudgetUSD != 20 || k.BudgetPeriod != "week" || k.SignIns != 1 {
		t.Errorf("the key: %+v", k)
	}
	c.message(sonnet).mustBe(t, 200)
	if got := c.message(opus).mustBe(t, 400); got.errorType(t) != "invalid_request_error" || !strings.Contains(got.errorMessage(t), opus) {
		t.Errorf("a model that is not allowed: %s", got.body)
	}
	// Later the key is like any other: what is changed stays, and a second
	// sign-in makes no second key.
	if _, err := r.app.runtime.UpdateKey(t.Context(), "alice@example.com", api.KeyPatch{RPM: setField(7)}); err != nil {
		t.Fatal(err)
	}
	c.begin("")
	p.decide(p.open(c.device.URIComplete), "approve").mustBe(t, 200)
	if e := c.poll(); e != "" {
		t.Fatal(e)
	}
	if k := r.keyNamed("alice@example.com"); k.RPM != 7 || k.SignIns != 2 {
		t.Errorf("after a second sign-in: %+v", k)
	}

	// Nobody in front: a key is asked for.
	c.begin("")
	if form := (person{gatewayClient: c}).open(c.device.URIComplete); form["key"] == nil {
		t.Error("a stranger is not asked for a key")
	}
	for name, says := range map[string]string{strings.Repeat("x", 65): "64", "gone": "has expired"} {
		if name == "gone" {
			soon := clock.now().Add(time.Second).UnixMilli()
			r.key(api.NewKey{Name: "gone", ExpiresAt: &soon})
			clock.pass(time.Second)
		}
		p := person{gatewayClient: c, header: []string{"X-Test-User", name}}
		if got := p.decide(p.open(c.device.URIComplete), "approve").mustBe(t, 403); !strings.Contains(got.body, says) {
			t.Errorf("%s: %s", name, got.body)
		}
	}
}

func TestAModelThatIsDeniedIs400ForSignedInClientsAnd403ForOthers(t *testing.T) {
	t.Parallel()
	clock := newClock()
	r := newRig(t, rigOptions{sim: simulator.Options{Now: clock.now}, directive: []string{"access keys", "sign_in on"}})
	r.add("pro", "console")
	r.add("max", "max")
	key := r.key(api.NewKey{Name: "dev", Accounts: []string{"pro"}})
	c := r.claude(clock)
	c.signIn(key)
	if got := c.message(opus).mustBe(t, 400); got.errorType(t) != "invalid_request_error" {
		t.Errorf("signed in, of its accounts: %s", got.body)
	}
	r.message(opus, "X-Api-Key", key).mustBe(t, 403)
	r.pause("max", true)
	if err := r.app.runtime.RemoveAccount(t.Context(), "max"); err != nil {
		t.Fatal(err)
	}
	if got := c.message(opus).mustBe(t, 400); got.errorType(t) != "invalid_request_error" || !strings.Contains(got.errorMessage(t), opus) {
		t.Errorf("signed in: %s", got.body)
	}
	r.message(opus, "X-Api-Key", key).mustBe(t, 403)
}

func TestWhatIsNotOfferedIs501ForSignedInClients(t *testing.T) {
	t.Parallel()
	r, clock := signInRig(t)
	key := r.key(api.NewKey{Name: "dev"})
	c := r.claude(clock)
	c.signIn(key)
	for _, path := range []string{"/v1/complete", "/v1/organizations/x", "/v1/oauth/hello"} {
		got := c.send("POST", c.base+path, "{}", append(c.bearer(), "Anthropic-Version", "2023-06-01")...).mustBe(t, 501)
		if got.errorType(t) != "not_supported" || got.header.Get("X-Should-Retry") != "false" {
			t.Errorf("%s: %v %s", path, got.header, got.body)
		}
		if other := r.send("POST", path, "{}", "X-Api-Key", key); other.status != 403 && other.status != 404 {
			t.Errorf("%s with a key: %d", path, other.status)
		}
	}
	if used := r.used(); len(used) != 0 {
		t.Errorf("it went upstream: %v", used)
	}
}

func TestSignInNeedsHTTPSOrTheMachineItself(t *testing.T) {
	t.Parallel()
	r, clock := signInRig(t)
	c := r.claude(clock)
	for _, path := range []string{"/.well-known/oauth-authorization-server", "/oauth/device_authorization", "/oauth/token", "/oauth/revoke", "/device"} {
		method := "POST"
		if strings.HasPrefix(path, "/.well") || path == "/device" {
			method = "GET"
		}
		req := r.request(method, path, "")
		req.Host = "example.com"
		if got := r.do(req).mustBe(t, 400); !strings.Contains(got.body, "https://") {
			t.Errorf("%s: %s", path, got.body)
		}
	}
	c.discover()
	c.begin("")
}

func TestTheBaseURLIsWhatTheClientUsed(t *testing.T) {
	t.Parallel()
	clock := newClock()
	o := rigOptions{sim: simulator.Options{Now: clock.now}, directive: []string{"sign_in on"}, site: []string{"handle_path /claude/* {", "claude_balancer {", "sign_in on", "}", "}"},
		servers: "servers {\ntrusted_proxies static 127.0.0.1/32\n}"}
	trusting, plain := newRig(t, o), (*rig)(nil)
	o.servers = ""
	plain = newRig(t, o)
	forwarded := []string{"X-Forwarded-Proto", "https", "X-Forwarded-Host", "claude.example.com", "X-Forwarded-For", "203.0.113.7"}
	for _, tc := range []struct {
		name, path string
		r          *rig
		header     []string
		want       string
	}{
		{"as it is", "", plain, nil, plain.srv.URL},
		{"a proxy that is not trusted", "", plain, forwarded, plain.srv.URL},
		{"a trusted proxy", "", trusting, forwarded, "https://claude.example.com"},
		{"several trusted proxies", "", trusting, []string{"X-Forwarded-Proto", "https, http", "X-Forwarded-Host", "a.example, b.example", "X-Forwarded-For", "203.0.113.7"}, "https://a.example"},
		{"a trusted proxy that tells nonsense", "", trusting, []string{"X-Forwarded-Proto", "gopher"}, trusting.srv.URL},
		{"below a path", "/claude", plain, nil, plain.srv.URL + "/claude"},
	} {
		got := tc.r.send("GET", tc.path+"/.well-known/oauth-authorization-server", "", tc.header...).mustBe(t, 200).json(t)
		for member, path := range map[string]string{"issuer": "", "device_authorization_endpoint": "/oauth/device_authorization", "token_endpoint": "/oauth/token", "revocation_endpoint": "/oauth/revoke"} {
			if got[member] != tc.want+path {
				t.Errorf("%s: %s is %v", tc.name, member, got[member])
			}
		}
	}
}

func TestThePageIsSafeInABrowser(t *testing.T) {
	t.Parallel()
	r, _ := signInRig(t)
	for _, path := range []string{"/device", "/device?user_code=WDJB-MJHT", `/device?user_code="><script>alert(1)</script>&next=https://evil.example`} {
		got := r.send("GET", strings.ReplaceAll(path, " ", "%20"), "").mustBe(t, 200)
		policy := got.header.Get("Content-Security-Policy")
		for _, part := range []string{"default-src 'none'", "frame-ancestors 'none'", "form-action 'self'", "base-uri 'none'", "style-src 'self'"} {
			if !strings.Contains(policy, part) {
				t.Errorf("policy: %s", policy)
			}
		}
		if strings.Contains(policy, "unsafe") || strings.Contains(got.body, "<script") || strings.Contains(got.body, "evil.example") || strings.Contains(got.body, "alert") {
			t.Errorf("%s: %s", policy, got.body)
		}
		for name, want := range map[string]string{"X-Frame-Options": "DENY", "Referrer-Policy": "same-origin", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Location": ""} {
			if got.header.Get(name) != want {
				t.Errorf("%s is %q", name, got.header.Get(name))
			}
		}
	}
	r.send("PUT", "/device", "").mustBe(t, http.StatusMethodNotAllowed)
}

func TestASiteWithoutSignInLeavesItsPathsAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{directive: []string{"sign_in off"}})
	for _, path := range []string{"/.well-known/oauth-authorization-server", "/device", "/oauth/token", "/managed/settings"} {
		r.send("GET", path, "").mustBe(t, 418)
	}
}
