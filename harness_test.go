package claudebalancer

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/simulator"
)

// rig is the balancer in a real Caddy route in front of the simulator. It
// listens on a port of its own and shares nothing with other rigs but the
// process.
type rig struct {
	t   testing.TB
	sim *simulator.Simulator
	up  *simulator.Server
	app *App
	srv *httptest.Server
	dir string

	config string           // that it was started with
	now    func() time.Time // its clock; nil = time.Now
	stop   func()
}

// rigOptions are all optional.
type rigOptions struct {
	sim       simulator.Options // the balancer shares its clock
	shared    *rig              // whose simulator is used, instead of one of its own
	upstream  string            // instead of the simulator
	tls       bool              // HTTPS to the simulator
	global    []string          // lines of the global block
	oauth     []string          // lines of its oauth block
	options   []string          // global options beside it
	directive []string          // lines of the directive
	site      []string          // lines of the site beside the directive
	servers   string            // lines of the servers option
	path      string            // of the database
	store     string            // the line of the store, instead of a database at path
}

// Provisioning replaces Caddy's process-wide loggers and storage.
var provisioning sync.Mutex

// userHome is HOME as it was: Go has its caches there.
var userHome = os.Getenv("HOME")

func TestMain(m *testing.M) {
	if os.Getenv(asCaddy) != "" {
		if ahead, err := time.ParseDuration(os.Getenv(clockAhead)); err == nil {
			wallClock = func() time.Time { return time.Now().Add(ahead) }
		}
		caddycmd.Main()
		return
	}
	dir, err := os.MkdirTemp("", "claude-balancer")
	if err != nil {
		panic(err)
	}
	for _, name := range []string{"XDG_DATA_HOME", "XDG_CONFIG_HOME", "HOME"} {
		_ = os.Setenv(name, dir)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

func newRig(t testing.TB, o rigOptions) *rig {
	t.Helper()
	r := &rig{t: t, sim: simulator.New(o.sim), dir: t.TempDir(), now: o.sim.Now}
	switch {
	case o.shared != nil:
		r.sim, r.up = o.shared.sim, o.shared.up
	case o.tls:
		r.up = r.sim.StartTLS()
		ca := filepath.Join(r.dir, "ca.pem")
		if err := os.WriteFile(ca, r.up.CAPEM, 0o600); err != nil {
			t.Fatal(err)
		}
		o.directive = append(o.directive, "transport http {", "tls_trust_pool file "+ca, "}")
	default:
		r.up = r.sim.Start()
	}
	t.Cleanup(r.up.Close)
	if o.path == "" {
		o.path = filepath.Join(r.dir, "data", "accounts.db")
	}
	r.start(r.caddyfile(o))
	return r
}

func (r *rig) caddyfile(o rigOptions) string {
	upstream := o.upstream
	if upstream == "" {
		upstream = r.up.URL
	}
	if o.store == "" {
		o.store = fmt.Sprintf("store sqlite %q", o.path)
	}
	return fmt.Sprintf(`{
	admin off
	log {
		output discard
	}
	%s
	%s
	claude_balancer {
		%s
		oauth {
			token_url %s/v1/oauth/token
			profile_url %s/api/oauth/profile
			%s
		}
		%s
	}
}
http://localhost, http://127.0.0.1, http://example.com, http://evil.example {
	%s
	route {
		claude_balancer {
			upstream %s
			%s
		}
		respond "next handler" 418
	}
}`, o.servers, strings.Join(o.options, "\n"), o.store, r.up.URL, r.up.URL, strings.Join(o.oauth, "\n"), strings.Join(o.global, "\n"), strings.Join(o.site, "\n"), upstream, strings.Join(o.directive, "\n"))
}

// restart ends the balancer and starts it again with what it has stored.
func (r *rig) restart() {
	r.t.Helper()
	r.stop()
	r.start(r.config)
}

func (r *rig) start(caddyfile string) {
	t := r.t
	r.config = caddyfile
	t.Helper()
	provisioning.Lock()
	defer provisioning.Unlock()
	raw, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, caddyfile)
	}
	var cfg caddy.Config
	if err := json.Unmarshal(raw, &cfg); err != nil {
		t.Fatal(err)
	}
	ctx, err := caddy.ProvisionContext(&cfg)
	if err != nil {
		t.Fatal(err)
	}
	web, err := ctx.App("http")
	if err != nil {
		t.Fatal(err)
	}
	app, err := ctx.App("claude_balancer")
	if err != nil {
		t.Fatal(err)
	}
	r.app = app.(*App)
	if r.now != nil {
		r.app.runtime.now = r.now
	}
	if err := r.app.events.Start(); err != nil { // subscribes
		t.Fatal(err)
	}
	if err := r.app.Start(); err != nil {
		t.Fatal(err)
	}
	for _, server := range web.(*caddyhttp.App).Servers {
		r.srv = httptest.NewServer(server)
	}
	srv, a := r.srv, r.app
	r.stop = sync.OnceFunc(func() {
		srv.Close()
		if err := a.Stop(); err != nil {
			t.Error(err)
		}
		if err := a.Cleanup(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(r.stop)
}

// add puts an account into the simulator and into the pool.
func (r *rig) add(name, plan string) simulator.Credentials {
	r.t.Helper()
	return r.addAccount(simulator.Account{Name: name, Plan: plan})
}

func (r *rig) addAccount(a simulator.Account) simulator.Credentials {
	r.t.Helper()
	c := r.sim.AddAccount(a)
	n := api.NewAccount{Name: a.Name, PlanType: a.Plan}
	if a.Plan == simulator.PlanAPI {
		n.APIKey = c.APIKey
	} else {
		expires := c.ExpiresAt.UnixMilli()
		n.AccessToken, n.RefreshToken, n.ExpiresAt = c.Access, c.Refresh, &expires
	}
	if _, err := r.app.runtime.AddAccount(context.Background(), n); err != nil {
		r.t.Fatal(err)
	}
	return c
}

// answer is what a client saw.
type reply struct {
	status int
	header http.Header
	body   string
	err    error // of reading the body
}

const (
	sonnet = "claude-sonnet-4-5"
	opus   = "claude-opus-4-5"
	haiku  = "claude-haiku-4-5"
	fable  = "claude-fable-5"
)

var conversations atomic.Int64

// messageBody begins a conversation of its own, which has no account yet.
func messageBody(model string, stream bool) string {
	return fmt.Sprintf(`{"model":%q,"max_tokens":32,"messages":[{"role":"user","content":"Hello %d"}],"stream":%v}`,
		model, conversations.Add(1), stream)
}

// send makes a request as an Anthropic client does.
func (r *rig) send(method, path, body string, header ...string) reply {
	r.t.Helper()
	req := r.request(method, path, body, header...)
	return r.do(req)
}

func (r *rig) request(method, path, body string, header ...string) *http.Request {
	r.t.Helper()
	req, err := http.NewRequest(method, r.srv.URL+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Anthropic-Version", "2023-06-01")
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		if header[i+1] == "" {
			req.Header.Del(header[i])
		} else {
			req.Header.Set(header[i], header[i+1])
		}
	}
	return req
}

func (r *rig) do(req *http.Request) reply {
	r.t.Helper()
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		r.t.Fatalf("%s %s: %v", req.Method, req.URL, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return reply{res.StatusCode, res.Header, string(body), err}
}

func (r *rig) message(model string, header ...string) reply {
	r.t.Helper()
	return r.send("POST", "/v1/messages", messageBody(model, false), header...)
}

func (r *rig) stream(model string, header ...string) reply {
	r.t.Helper()
	return r.send("POST", "/v1/messages", messageBody(model, true), header...)
}

// account reads an account as the API shows it.
func (r *rig) account(name string) api.Account {
	r.t.Helper()
	a, err := r.app.runtime.Account(context.Background(), name)
	if err != nil {
		r.t.Fatal(err)
	}
	return a
}

// last returns the newest row of the history once it is there.
func (r *rig) last() api.Request {
	r.t.Helper()
	return r.rows(1)[0]
}

// rows returns the newest rows, waiting for as many.
func (r *rig) rows(n int) []api.Request {
	r.t.Helper()
	var rows []api.Request
	r.eventually("the history has its rows", func() bool {
		var err error
		rows, err = r.app.runtime.Requests(context.Background(), api.RequestQuery{Limit: n})
		if err != nil {
			r.t.Fatal(err)
		}
		return len(rows) >= n
	})
	return rows
}

// row waits for the row of a request.
func (r *rig) row(id string) api.Request {
	r.t.Helper()
	var found api.Request
	r.eventually("the request is in the history", func() bool {
		rows, err := r.app.runtime.Requests(context.Background(), api.RequestQuery{Limit: 100})
		if err != nil {
			r.t.Fatal(err)
		}
		for _, row := range rows {
			if row.ID == id {
				found = row
				return true
			}
		}
		return false
	})
	return found
}

func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			r.t.Fatalf("never: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// used lists the accounts of the upstream's requests in order.
func (r *rig) used() (names []string) {
	for _, seen := range r.sim.Requests() {
		if !strings.HasPrefix(seen.Path, "/v1/oauth") && !strings.HasPrefix(seen.Path, "/api/") {
			names = append(names, seen.Account)
		}
	}
	return names
}

func (rp reply) json(t testing.TB) map[string]any {
	t.Helper()
	var v map[string]any
	d := json.NewDecoder(bytes.NewReader([]byte(rp.body)))
	if err := d.Decode(&v); err != nil {
		t.Fatalf("not JSON (%v): %s", err, rp.body)
	}
	return v
}

// errorType is error.type of Anthropic's envelope.
func (rp reply) errorType(t testing.TB) string {
	t.Helper()
	e, _ := rp.json(t)["error"].(map[string]any)
	s, _ := e["type"].(string)
	return s
}

func (rp reply) errorMessage(t testing.TB) string {
	t.Helper()
	switch e := rp.json(t)["error"].(type) {
	case string:
		return e
	case map[string]any:
		s, _ := e["message"].(string)
		return s
	}
	return ""
}

func (rp reply) mustBe(t testing.TB, status int) reply {
	t.Helper()
	if rp.status != status {
		t.Fatalf("status %d, want %d: %s", rp.status, status, rp.body)
	}
	return rp
}

// quick is a directive that does not make tests wait between rounds.
var quick = []string{"retry_delay 1ms", "retry_backoff 1"}
