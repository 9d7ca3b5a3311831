package claudebalancer

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/oauth"
	"github.com/claude-balancer/claude-balancer/secret"
	"github.com/claude-balancer/claude-balancer/simulator"
)

// startLogin begins a login.
func (r *rig) startLogin(l api.LoginRequest) api.Login {
	r.t.Helper()
	login, err := r.app.runtime.StartLogin(context.Background(), l)
	if err != nil {
		r.t.Fatal(err)
	}
	return login
}

// finishLogin pastes a code.
func (r *rig) finishLogin(id, code string) (api.Account, error) {
	return r.app.runtime.FinishLogin(context.Background(), id, api.LoginCode{Code: secret.New(code)})
}

// approve lets the login into an account at the provider.
func (r *rig) approve(l api.Login, account string) (code string) {
	r.t.Helper()
	// The provider's own pages are elsewhere than the simulator's.
	code, err := r.sim.Approve(l.AuthorizeURL, account)
	if err != nil {
		r.t.Fatal(err)
	}
	return code
}

// refusedWith is the status of the refusal that err is, 0 if it is none.
func refusedWith(err error) int {
	if refused, ok := errors.AsType[*api.Error](err); ok {
		return refused.Status
	}
	return 0
}

// tokenCalls returns the bodies of the calls of the token endpoint.
func (r *rig) tokenCalls() (bodies []map[string]string) {
	r.t.Helper()
	for _, seen := range r.sim.Requests() {
		if seen.Path != simulator.OAuthTokenPath {
			continue
		}
		body := make(map[string]string)
		if err := json.Unmarshal(seen.Body, &body); err != nil {
			r.t.Fatal(err)
		}
		bodies = append(bodies, body)
	}
	return bodies
}

func TestALoginTakesWhateverTheProvidersPageShows(t *testing.T) {
	t.Parallel()
	for name, paste := range map[string]func(code, state string) string{
		"CODE#STATE":                 func(code, state string) string { return code + "#" + state },
		"the bare code":              func(code, _ string) string { return code },
		"with blanks around":         func(code, state string) string { return "  " + code + "#" + state + " \n" },
		"the callback URL":           callbackURL,
		"the URL without its scheme": func(code, state string) string { return strings.TrimPrefix(callbackURL(code, state), "https://") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, rigOptions{})
			r.sim.AddAccount(simulator.Account{Name: "work", Plan: simulator.PlanMax})
			login := r.startLogin(api.LoginRequest{Name: "work", PlanType: "max"})
			code, state, _ := strings.Cut(r.approve(login, "work"), "#")
			a, err := r.finishLogin(login.ID, paste(code, state))
			if err != nil {
				t.Fatal(err)
			}
			if a.Status != api.StatusAvailable || a.Kind != api.KindOAuth || a.TokenValid != 1 || a.Tier != "default_claude_max_20x" || a.Warning != "" {
				t.Errorf("got %+v", a)
			}
			r.message(opus).mustBe(t, 200)
		})
	}
}

func callbackURL(code, state string) string {
	return "https://platform.claude.com/oauth/code/callback?" + url.Values{"code": {code}, "state": {state}}.Encode()
}

func TestTheAuthorizeURLAsksAsOfficialClientsDo(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	states := make(map[string]bool)
	for _, tt := range []struct{ plan, page string }{
		{"console", "https://platform.claude.com/oauth/authorize?"},
		{"max", "https://claude.com/cai/oauth/authorize?"},
	} {
		login := r.startLogin(api.LoginRequest{Name: "work", PlanType: tt.plan})
		if !strings.HasPrefix(login.AuthorizeURL, tt.page) || strings.ContainsAny(login.AuthorizeURL, " \n") {
			t.Errorf("%s: %s", tt.plan, login.AuthorizeURL)
		}
		_, query, _ := strings.Cut(login.AuthorizeURL, "?")
		var names []string
		for member := range strings.SplitSeq(query, "&") {
			name, _, _ := strings.Cut(member, "=")
			names = append(names, name)
		}
		order := []string{"code", "client_id", "response_type", "redirect_uri", "scope", "code_challenge", "code_challenge_method", "state"}
		if !slices.Equal(names, order) {
			t.Errorf("the members are %v", names)
		}
		values, err := url.ParseQuery(query)
		if err != nil || values.Get("code_challenge_method") != "S256" || values.Get("redirect_uri") != "https://platform.claude.com/oauth/code/callback" {
			t.Errorf("%v: %v", err, values)
		}
		for _, random := range []string{values.Get("state"), values.Get("code_challenge"), login.ID} {
			if len(random) < 43 || states[random] {
				t.Errorf("%q is no 32 random bytes", random)
			}
			states[random] = true
		}
		if left := time.Until(time.UnixMilli(login.ExpiresAt)); left > 10*time.Minute || left < 9*time.Minute {
			t.Errorf("it has %v to finish", left)
		}
	}
}

func TestALoginIsFinishedOnceInTimeAndWithItsOwnState(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	now := time.Now()
	r.app.runtime.logins = oauth.NewLogins(r.app.runtime.oauthClient, func() time.Time { return now })
	r.sim.AddAccount(simulator.Account{Name: "work"})

	login := r.startLogin(api.LoginRequest{Name: "work", PlanType: "console"})
	code, _, _ := strings.Cut(r.approve(login, "work"), "#")
	for _, tt := range []struct {
		what, id, code string
		status         int
		says           string
	}{
		{"another state", login.ID, code + "#" + "another", 400, "the state does not match"},
		{"no code", login.ID, "  ", 400, "the code is empty"},
		{"the URL to open", login.ID, login.AuthorizeURL, 400, "not the one that the browser came to"},
		{"a token", login.ID, "sk-ant-oat01-x", 400, "not a code"},
		{"an unknown id", "nonsense", code, 404, "unknown, used or expired"},
	} {
		_, err := r.finishLogin(tt.id, tt.code)
		if refusedWith(err) != tt.status || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v", tt.what, err)
		}
	}
	if n := len(r.tokenCalls()); n != 0 {
		t.Errorf("the provider was asked %d times about what cannot be right", n)
	}

	if _, err := r.finishLogin(login.ID, code); err != nil {
		t.Fatalf("the right code after wrong ones: %v", err)
	}
	if _, err := r.finishLogin(login.ID, code); refusedWith(err) != 404 {
		t.Errorf("the same id again: %v", err)
	}

	wrong := r.startLogin(api.LoginRequest{Name: "second", PlanType: "console"})
	if _, err := r.finishLogin(wrong.ID, "not-a-code-of-the-provider"); refusedWith(err) != 400 || !strings.Contains(err.Error(), "start a new one") {
		t.Errorf("a code that the provider refuses: %v", err)
	}

	late := r.startLogin(api.LoginRequest{Name: "late", PlanType: "console"})
	code = r.approve(late, "work")
	now = now.Add(10 * time.Minute)
	if _, err := r.finishLogin(late.ID, code); refusedWith(err) != 404 || !strings.Contains(err.Error(), "expired") {
		t.Errorf("after ten minutes: %v", err)
	}
}

func TestALoginAgainKeepsNameSettingsAndHistory(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{directive: quick})
	r.add("work", simulator.PlanMax)
	ctx := context.Background()
	models, seven := []string{"*sonnet*"}, 7
	before, err := r.app.runtime.UpdateAccount(ctx, "work", api.AccountPatch{
		Models: setField(models), Priority: setField(seven), Weight: setField(seven), MaxInFlight: setField(seven),
	})
	if err != nil {
		t.Fatal(err)
	}
	r.message(sonnet).mustBe(t, 200)
	r.rows(1)
	r.sim.RevokeAccess("work")
	r.sim.KillRefresh("work")
	if answer := r.message(sonnet); answer.status == 200 {
		t.Fatalf("a dead login served: %d", answer.status)
	}
	if a := r.account("work"); a.Status != api.StatusNeedsLogin || a.TokenValid != 0 {
		t.Fatalf("the account is %s", a.Status)
	}

	if _, err := r.app.runtime.StartLogin(ctx, api.LoginRequest{Name: "work"}); refusedWith(err) != 409 || !strings.Contains(err.Error(), "already exists") {
		t.Errorf("without replace: %v", err)
	}
	if _, err := r.app.runtime.StartLogin(ctx, api.LoginRequest{Name: "nobody", Replace: true}); refusedWith(err) != 404 {
		t.Errorf("replacing nobody: %v", err)
	}
	login := r.startLogin(api.LoginRequest{Name: "work", Replace: true})
	a, err := r.finishLogin(login.ID, r.approve(login, "work"))
	if err != nil {
		t.Fatal(err)
	}
	if a.Status != api.StatusAvailable || a.TokenValid != 1 || a.RequestCount != 1 || a.Tokens.Output == 0 {
		t.Errorf("got %+v", a)
	}
	if a.ID != before.ID || a.CreatedAt != before.CreatedAt || a.PlanType != "max" || a.SupportedModels != "*sonnet*" ||
		a.Priority != 7 || a.Weight != 7 || a.MaxInFlight != 7 {
		t.Errorf("the settings were %+v, are %+v", before, a)
	}
	r.message(sonnet).mustBe(t, 200)
}

func TestAPlanThatTheProviderContradictsIsAWarning(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	r.sim.AddAccount(simulator.Account{Name: "work", Plan: simulator.PlanConsole})
	login := r.startLogin(api.LoginRequest{Name: "my work", PlanType: "max"})
	a, err := r.finishLogin(login.ID, r.approve(login, "work"))
	if err != nil {
		t.Fatal(err)
	}
	if a.PlanType != "max" || !strings.Contains(a.Warning, "caddy claude-balancer set 'my work' --plan console") {
		t.Errorf("plan %s, warning %q", a.PlanType, a.Warning)
	}
	if a := r.account("my work"); a.Warning != "" {
		t.Errorf("the warning stays: %q", a.Warning)
	}
}

func TestALoginWorksWhenTheProfileDoesNotAnswer(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	r.sim.AddAccount(simulator.Account{Name: "work"})
	r.sim.Script("", simulator.Step{Path: "/api/oauth/profile", Status: 500, Times: -1})
	login := r.startLogin(api.LoginRequest{Name: "work"})
	a, err := r.finishLogin(login.ID, r.approve(login, "work"))
	if err != nil || a.Status != api.StatusAvailable || a.Tier != "" {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestAPlanOfAPIKeysHasNoLogin(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	r.add("key", simulator.PlanAPI)
	for _, l := range []api.LoginRequest{{Name: "other", PlanType: "api"}, {Name: "key", Replace: true}} {
		if _, err := r.app.runtime.StartLogin(context.Background(), l); refusedWith(err) != 400 || !strings.Contains(err.Error(), "API key") {
			t.Errorf("%+v: %v", l, err)
		}
	}
}

func TestOneLineBringsBackTheLoginOf2025(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{oauth: []string{"preset legacy"}})
	r.sim.AddAccount(simulator.Account{Name: "work", Plan: simulator.PlanMax})
	for plan, page := range map[string]string{
		"console": "https://console.anthropic.com/oauth/authorize?", "max": "https://claude.ai/oauth/authorize?",
	} {
		login := r.startLogin(api.LoginRequest{Name: plan, PlanType: plan})
		if !strings.HasPrefix(login.AuthorizeURL, page) ||
			!strings.Contains(login.AuthorizeURL, "&redirect_uri=https%3A%2F%2Fconsole.anthropic.com%2Foauth%2Fcode%2Fcallback&scope=org%3Acreate_api_key+user%3Aprofile+user%3Ainference&") {
			t.Errorf("%s: %s", plan, login.AuthorizeURL)
		}
		if _, err := r.finishLogin(login.ID, r.approve(login, "work")); err != nil {
			t.Errorf("%s: %v", plan, err)
		}
	}
	if _, err := r.app.runtime.RefreshAccount(context.Background(), "max"); err != nil {
		t.Error(err)
	}
	for _, body := range r.tokenCalls() {
		switch body["grant_type"] {
		case "authorization_code":
			if body["state"] == "" || body["state"] != body["code_verifier"] {
				t.Errorf("the state is not the verifier: %v", body)
			}
		case "refresh_token":
			if _, sent := body["scope"]; sent {
				t.Errorf("a scope is sent: %v", body)
			}
		}
	}
}

// The same over the wire: what a program that manages accounts sees.
func TestTheAdminAPILogsIn(t *testing.T) {
	t.Parallel()
	p := newProcess(t, simulator.Options{})
	p.sim.AddAccount(simulator.Account{Name: "work", Plan: simulator.PlanMax})
	p.start(p.config("", ""))
	type object = map[string]any
	post := func(path string, body object, want int) (got object) {
		t.Helper()
		if err := json.Unmarshal(p.ask("POST", "/claude_balancer/login"+path, body, want), &got); err != nil {
			t.Fatal(err)
		}
		return got
	}
	login := post("", object{"name": "work", "plan_type": "max"}, 201)
	id, _ := login["id"].(string)
	page, _ := login["authorize_url"].(string)
	code := p.approve("work")(page)
	refused := post("/"+id, object{"code": strings.Split(code, "#")[0] + "#another"}, 400)
	if text, _ := refused["error"].(string); !strings.Contains(text, "state") {
		t.Errorf("got %v", refused)
	}
	if a := post("/"+id, object{"code": code}, 201); a["status"] != "available" || a["plan_type"] != "max" {
		t.Errorf("got %v", a)
	}
	post("/"+id, object{"code": code}, 404)
	post("", object{"name": "work"}, 409)
	post("", object{"name": "work", "replace": "yes"}, 400)
	post("", object{"name": "other", "plan_type": "gold"}, 400)
	p.serves()
}
