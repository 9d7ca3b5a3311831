package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/claude-balancer/claude-balancer/api"
)

// testApp stands in for the app module of the root package.
type testApp struct {
	Starting bool   `json:"starting,omitempty"`
	Name     string `json:"name,omitempty"`
	Broken   bool   `json:"broken,omitempty"`
}

func init() { caddy.RegisterModule(testApp{}) }

func (testApp) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: appName, New: func() caddy.Module { return new(testApp) }}
}

func (a *testApp) Start() error {
	if a.Broken {
		return errors.New("the store cannot be opened")
	}
	return nil
}

func (*testApp) Stop() error { return nil }

func (a *testApp) Backend() (api.Backend, error) {
	if a.Starting {
		return nil, errors.New("the pool is still starting")
	}
	return &fakeBackend{accounts: []api.Account{newAccount(a.Name, api.PlanMax)}}, nil
}

// Not parallel: there is one Caddy in a process.
func TestTheLivePoolAnswersOnCaddysOwnAdminEndpoint(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	// A socket of its own for each configuration: a connection that arrives
	// while a listener changes hands may be reset by Caddy.
	dir, n := t.TempDir(), 0
	var p person
	load := func(app string) error {
		n++
		p.address = fmt.Sprintf("unix/%s/%d.sock", dir, n)
		config := `{"admin":{"listen":` + quote(p.address) + `,"config":{"persist":false}},"logging":{"logs":{"default":{"level":"PANIC"}}}`
		if app != "" {
			config += `,"apps":{"claude_balancer":` + app + `}`
		}
		return caddy.Load([]byte(config+"}"), true)
	}
	mustLoad := func(app string) {
		t.Helper()
		if err := load(app); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = caddy.Stop() })

	mustLoad("")
	if got := p.fails(t, "list"); got != "no claude_balancer is live: load a configuration that uses it" {
		t.Errorf("without the app: %q", got)
	}
	mustLoad(`{"starting":true}`)
	if got := p.fails(t, "list"); got != "the pool is still starting" {
		t.Errorf("while starting: %q", got)
	}
	mustLoad(`{"name":"a/b c"}`)
	if stdout, stderr, err := p.runs(t, "show", "a/b c"); err != nil || !strings.HasPrefix(stdout, "a/b c\n") {
		t.Errorf("live: %v %s%s", err, stdout, stderr)
	}
	if got := p.fails(t, "show", "x"); got != `account "x" not found` {
		t.Errorf("a refusal behind Caddy: %q", got)
	}
	if err := load(`{"name":"later","broken":true}`); err == nil {
		t.Fatal("the broken configuration was accepted")
	}
	if stdout, _, err := p.runs(t, "list"); err != nil || !strings.Contains(stdout, "a/b c") {
		t.Errorf("after a refused reload: %v %s", err, stdout)
	}
}

func quote(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

func TestBeforeTheFirstConfigurationNoPoolIsLive(t *testing.T) {
	_, err := liveBackend()
	var refusal *api.Error
	if !errors.As(err, &refusal) || refusal.Status != 503 {
		t.Errorf("got %v", err)
	}
}
