package claudebalancer

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/simulator"
)

// settingsFile writes a file of settings.
func settingsFile(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestEachClientGetsTheManagedSettingsThatAreForIt(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	clock := newClock()
	r := newRig(t, rigOptions{sim: simulator.Options{Now: clock.now}, directive: []string{"access keys", "sign_in on",
		"settings " + settingsFile(t, dir, "ci.json", `{"for": "ci"}`) + " ci-* ops",
		"settings " + settingsFile(t, dir, "empty.json", `{}`) + " free",
		"settings " + settingsFile(t, dir, "dev.json", `{"z": 1, "a": [true]}`) + " dev*"}})
	r.add("a", "max")
	ask := func(name string, header ...string) reply {
		t.Helper()
		return r.send("GET", "/managed/settings", "", append(r.asKey(api.NewKey{Name: name}), header...)...)
	}
	for name, want := range map[string]string{"ci-1": `{"for":"ci"}`, "ops": `{"for":"ci"}`, "free": `{}`, "dev": `{"a":[true],"z":1}`} {
		got := ask(name).mustBe(t, 200)
		if !strings.HasSuffix(got.body, `,"settings":`+want+"}") || got.json(t)["uuid"] == "" || got.header.Get("Etag") != fmt.Sprintf("%q", got.json(t)["checksum"]) {
			t.Errorf("%s: %v %s", name, got.header, got.body)
		}
	}
	if got := ask("stranger").mustBe(t, 404); got.errorType(t) != "not_found_error" {
		t.Errorf("nobody's: %s", got.body)
	}
	ask("stranger 2", "If-None-Match", "*").mustBe(t, 404)

	c := r.claude(clock)
	c.signIn(r.key(api.NewKey{Name: "developer"}))
	etag := c.send("GET", c.base+"/managed/settings", "", c.bearer()...).mustBe(t, 200).header.Get("Etag")
	if got := c.send("GET", c.base+"/managed/settings", "", append(c.bearer(), "If-None-Match", etag)...).mustBe(t, 304); got.body != "" {
		t.Errorf("304 with a body: %s", got.body)
	}
	c.send("GET", c.base+"/managed/settings", "", append(c.bearer(), "If-None-Match", "*")...).mustBe(t, 200)
	c.send("POST", c.base+"/managed/settings", "{}", c.bearer()...).mustBe(t, 405)
	c.signOut()
	mustEnd(t, c.send("GET", c.base+"/managed/settings", "", append(c.bearer(), "Anthropic-Version", "2023-06-01")...))
}

// Not parallel: it needs a Caddy that really runs.
func TestBrokenManagedSettingsAreRefusedAndTheOldOnesStay(t *testing.T) {
	s := newServer(t)
	port := freePort(t)
	file := settingsFile(t, s.dir, "settings.json", `{"edition":1}`)
	config := fmt.Sprintf(`{
	admin localhost:%s
	claude_balancer {
		store sqlite %s
	}
}
http://127.0.0.1:%s {
	claude_balancer {
		settings %s
	}
}`, s.admin, filepath.Join(s.dir, "accounts.db"), port, file)
	s.load(config)
	get := func() string {
		t.Helper()
		got, err := visit{address: "127.0.0.1:" + port, path: "/managed/settings"}.send(t)
		if err != nil {
			t.Fatal(err)
		}
		return got.mustBe(t, 200).body
	}
	current := s.call("GET", "/config/", "").body
	settingsFile(t, s.dir, "settings.json", `{"edition":2,}`)
	if got := s.call("POST", "/load", current, "Cache-Control", "must-revalidate"); got.status != 400 || !strings.Contains(got.body, "settings.json: it is no JSON, at byte") {
		t.Errorf("a broken file: %d %s", got.status, got.body)
	}
	if body := get(); !strings.Contains(body, `{"edition":1}`) {
		t.Errorf("after it: %s", body)
	}
	settingsFile(t, s.dir, "settings.json", `{"edition":2}`)
	if got := s.call("POST", "/load", current, "Cache-Control", "must-revalidate"); got.status != 200 {
		t.Errorf("a mended file: %d %s", got.status, got.body)
	}
	if body := get(); !strings.Contains(body, `{"edition":2}`) {
		t.Errorf("after mending: %s", body)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if got := s.call("POST", "/load", current, "Cache-Control", "must-revalidate"); got.status != 400 || !strings.Contains(got.body, "settings.json") {
		t.Errorf("a missing file: %d %s", got.status, got.body)
	}
	s.app = nil // replaced
}

// call calls the admin endpoint.
func (s *server) call(method, path, body string, header ...string) reply {
	s.t.Helper()
	got, err := visit{address: "localhost:" + s.admin, method: method, path: path, body: body, header: header}.send(s.t.(*testing.T))
	if err != nil {
		s.t.Fatal(err)
	}
	return got
}

func TestWrongSignInSettingsAreRefusedInWords(t *testing.T) {
	t.Parallel()
	for lines, says := range map[string]string{
		"sign_in maybe":                                "sign_in is 'maybe', but may be on or off",
		"sign_in {\naccess_lifetime 10s\n}":            "access_lifetime is '10s', but must be a duration of at least 1m0s",
		"sign_in {\nusers a b {\n}\n}":                 "wrong argument count",
		"sign_in {\nusers {\nbudget_usd 0\n}\n}":       "budget_usd is '0', but must be a number of US dollars, more than 0",
		"sign_in {\nusers {\nbudget_period year\n}\n}": "budget_period is 'year', but may be day, week or month",
		"sign_in {\nusers {\nmodels\n}\n}":             "wrong argument count",
		"sign_in {\nlogin_notice a\nlogin_notice b\n}": "login_notice is already specified",
		"settings":                "wrong argument count",
		"sign_in on\nsign_in off": "sign_in is already specified",
	} {
		if got := adapt("localhost {\nclaude_balancer {\n" + lines + "\n}\n}\n"); !strings.Contains(got, says) {
			t.Errorf("%s: %s", lines, got)
		}
	}
	for name, tc := range map[string]struct {
		c    SignInConfig
		says string
	}{
		"shorter":     {SignInConfig{RefreshLifetime: 3600e9}, "refresh_lifetime (1h0m0s) must not be shorter than access_lifetime (8h0m0s)"},
		"negative":    {SignInConfig{AccessLifetime: -1}, "access_lifetime is -1ns"},
		"long notice": {SignInConfig{LoginNotice: strings.Repeat("é", 501)}, "login_notice has 501 characters, but may have 500"},
		"control":     {SignInConfig{LoginNotice: "a\x1b[2J"}, "plain text"},
		"period":      {SignInConfig{Users: &SignInUsers{BudgetPeriod: "year"}}, "budget_period"},
		"rpm":         {SignInConfig{Users: &SignInUsers{RPM: -1}}, "rpm is -1"},
	} {
		if err := tc.c.provision(); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	good := SignInConfig{LoginNotice: strings.Repeat("é", 500)}
	if err := good.provision(); err != nil || time.Duration(good.AccessLifetime) != 8*time.Hour || time.Duration(good.RefreshLifetime) != 30*24*time.Hour {
		t.Errorf("%v %+v", err, good)
	}
}

func TestValidatingASignInTouchesNoDatabase(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "accounts.db")
	config := fmt.Sprintf("{\nclaude_balancer {\nstore sqlite %s\n}\n}\nlocalhost {\nclaude_balancer {\nsign_in {\nusers\n}\nsettings %s\n}\n}\n", path, settingsFile(t, dir, "s.json", "{}"))
	raw, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate(raw); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the database: %v", err)
	}
}
