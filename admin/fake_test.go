package admin

// The harness: a pool in memory behind the real routes, with Caddy's way of
// answering errors, and the command as a person would run it.

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddyserver/caddy/v2"

	"github.com/claude-balancer/claude-balancer/api"
)

var update = flag.Bool("update", false, "write the golden files anew")

var testNow = time.Date(2026, 3, 14, 15, 9, 26, 0, time.UTC)

// at is a time relative to testNow, as the API tells it.
func at(d time.Duration) int64 { return testNow.Add(d).UnixMilli() }

func ptr[T any](v T) *T { return &v }

// fakeBackend is a pool in memory. It notes what it was asked for.
type fakeBackend struct {
	mu       sync.Mutex
	accounts []api.Account
	requests []api.Request
	keys     []api.Key
	audit    []api.AuditEntry
	stats    api.Stats
	explain  api.Explanation
	err      error // if set, every answer
	got      any   // the last argument
}

func (f *fakeBackend) note(v any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.got = v
	return f.err
}

func (f *fakeBackend) asked() any {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.got
}

func (f *fakeBackend) find(name string) (*api.Account, error) {
	for i := range f.accounts {
		if f.accounts[i].Name == name {
			return &f.accounts[i], nil
		}
	}
	return nil, api.NotFound("account %q not found", name)
}

func (f *fakeBackend) Accounts(context.Context) ([]api.Account, error) { return f.accounts, f.err }

func (f *fakeBackend) Account(_ context.Context, name string) (api.Account, error) {
	if err := f.note(name); err != nil {
		return api.Account{}, err
	}
	a, err := f.find(name)
	if err != nil {
		return api.Account{}, err
	}
	return *a, nil
}

func (f *fakeBackend) add(name, plan string) (api.Account, error) {
	if _, err := f.find(name); err == nil {
		return api.Account{}, api.Conflict("account %q already exists", name)
	}
	a := newAccount(name, plan)
	f.accounts = append(f.accounts, a)
	return a, nil
}

func (f *fakeBackend) AddAccount(_ context.Context, n api.NewAccount) (api.Account, error) {
	if err := f.note(n); err != nil {
		return api.Account{}, err
	}
	return f.add(n.Name, n.PlanType)
}

func (f *fakeBackend) UpdateAccount(_ context.Context, name string, p api.AccountPatch) (api.Account, error) {
	if err := f.note(p); err != nil {
		return api.Account{}, err
	}
	a, err := f.find(name)
	if err != nil {
		return api.Account{}, err
	}
	if p.Paused.Value != nil && *p.Paused.Value {
		a.Status = api.StatusPaused
	}
	return *a, nil
}

func (f *fakeBackend) RemoveAccount(_ context.Context, name string) error {
	if err := f.note(name); err != nil {
		return err
	}
	_, err := f.find(name)
	return err
}

func (f *fakeBackend) RefreshAccount(ctx context.Context, name string) (api.Account, error) {
	return f.Account(ctx, name)
}

func (f *fakeBackend) ClearLimits(ctx context.Context, name string) (api.Account, error) {
	return f.Account(ctx, name)
}

const testURL = "https://claude.com/cai/oauth/authorize?code=true&client_id=9d1c250a-e61b-44d9-88ed-5944d1962f5e&response_type=code&redirect_uri=https%3A%2F%2Fplatform.claude.com%2Foauth%2Fcode%2Fcallback&scope=org%3Acreate_api_key+user%3Aprofile+user%3Ainference&code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=S256&state=xyzABC123"

func (f *fakeBackend) StartLogin(_ context.Context, r api.LoginRequest) (api.Login, error) {
	if err := f.note(r); err != nil {
		return api.Login{}, err
	}
	_, err := f.find(r.Name)
	switch {
	case r.Replace && err != nil:
		return api.Login{}, err
	case !r.Replace && err == nil:
		return api.Login{}, api.Conflict("account %q already exists", r.Name)
	}
	return api.Login{ID: "login/" + r.Name + "/" + r.PlanType, AuthorizeURL: testURL, ExpiresAt: at(10 * time.Minute)}, nil
}

func (f *fakeBackend) FinishLogin(_ context.Context, id string, code api.LoginCode) (api.Account, error) {
	if err := f.note(code); err != nil {
		return api.Account{}, err
	}
	if code.Code.Reveal() != "CODE#STATE" {
		return api.Account{}, api.BadRequest("the state of the code does not belong to this login")
	}
	part := strings.Split(id, "/")
	return newAccount(part[1], part[2]), nil
}

func (f *fakeBackend) Requests(_ context.Context, q api.RequestQuery) ([]api.Request, error) {
	if err := f.note(q); err != nil {
		return nil, err
	}
	from := 0
	if q.Before != "" {
		n, _ := strconv.Atoi(strings.TrimPrefix(q.Before, "r"))
		from = n + 1
	}
	if from >= len(f.requests) {
		return nil, nil
	}
	return f.requests[from:min(from+q.Limit, len(f.requests))], nil
}

func (f *fakeBackend) ClearRequests(context.Context) (int64, error) {
	return int64(len(f.requests)), f.note("cleared")
}

func (f *fakeBackend) Stats(_ context.Context, since time.Time) (api.Stats, error) {
	return f.stats, f.note(since)
}

func (f *fakeBackend) ResetStats(context.Context) error { return f.note("reset") }

func (f *fakeBackend) Health(context.Context) (api.Health, error) { return api.Health{}, f.err }

func (f *fakeBackend) Chart(context.Context, time.Time) ([]api.ChartHour, error) { return nil, f.err }

func (f *fakeBackend) Explain(_ context.Context, q api.ExplainQuery) (api.Explanation, error) {
	return f.explain, f.note(q)
}

func (f *fakeBackend) Keys(context.Context) ([]api.Key, error) { return f.keys, f.err }

func (f *fakeBackend) AddKey(_ context.Context, k api.NewKey) (api.Key, error) {
	return api.Key{Name: k.Name, Role: k.Role, Accounts: k.Accounts, Key: "cb-secret-of-" + k.Name}, f.note(k)
}

func (f *fakeBackend) UpdateKey(_ context.Context, name string, p api.KeyPatch) (api.Key, error) {
	return api.Key{Name: name}, f.note(p)
}

type rotated struct {
	name  string
	grace time.Duration
}

func (f *fakeBackend) RotateKey(_ context.Context, name string, grace time.Duration) (api.Key, error) {
	return api.Key{Name: name, Key: "cb-new-secret"}, f.note(rotated{name, grace})
}

func (f *fakeBackend) RevokeKey(_ context.Context, name string) error { return f.note(name) }

func (f *fakeBackend) Audit(context.Context) ([]api.AuditEntry, error) { return f.audit, f.err }

var _ api.Backend = (*fakeBackend)(nil)

func newAccount(name, plan string) api.Account {
	models := map[string]string{
		api.PlanMax:     "*opus*,*sonnet*,*haiku*,*",
		api.PlanConsole: "*sonnet*,*haiku*",
		api.PlanAPI:     "*",
	}
	return api.Account{
		ID: "id-of-" + name, Name: name, PlanType: plan, SupportedModels: models[plan],
		CreatedAt: at(-240 * time.Hour), TokenValid: 1, Kind: api.KindOAuth, Status: api.StatusAvailable,
		ExpiresAt: ptr(at(3 * time.Hour)), Weight: 1, Windows: []api.Window{}, Limits: []api.Limit{},
	}
}

// mount serves routes as Caddy's admin endpoint does: an APIError by value
// keeps its status, any other error is a 500.
func mount(t *testing.T, a *adminAPI) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	for _, route := range a.Routes() {
		mux.HandleFunc(route.Pattern, func(w http.ResponseWriter, r *http.Request) {
			err := route.Handler.ServeHTTP(w, r)
			if err == nil {
				return
			}
			apiErr, ok := err.(caddy.APIError)
			if !ok {
				t.Errorf("%s %s: Caddy cannot answer with a %T: %v", r.Method, r.URL, err, err)
			}
			if apiErr.Message == "" {
				apiErr.Message = apiErr.Err.Error()
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(apiErr.HTTPStatus)
			_ = json.NewEncoder(w).Encode(apiErr)
		})
	}
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server
}

func serve(t *testing.T, b api.Backend) *httptest.Server {
	t.Helper()
	return mount(t, &adminAPI{
		backend: func() (api.Backend, error) { return b, nil },
		now:     func() time.Time { return testNow },
	})
}

// send makes one request of the admin API. A body is sent as JSON.
func send(t *testing.T, server *httptest.Server, method, path, body string) (status int, answer string, header http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(content), resp.Header
}

// person runs the command.
type person struct {
	server     *httptest.Server
	address    string // instead of the server's
	stdin      io.Reader
	atTerminal bool
	columns    int
	ctx        context.Context
}

// runs executes a command line and returns what it printed.
func (p person) runs(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	c := &cli{
		now:      func() time.Time { return testNow },
		terminal: func(io.Reader) bool { return p.atTerminal },
		columns:  func(io.Writer) int { return p.columns },
	}
	root := &cobra.Command{Use: "caddy", SilenceUsage: true} // as Caddy's own
	cmd := &cobra.Command{Use: "claude-balancer"}
	c.attach(cmd)
	root.AddCommand(cmd)
	address := p.address
	if p.server != nil {
		address = p.server.Listener.Addr().String()
	}
	var out, errOut bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&errOut)
	root.SetIn(p.stdin)
	if p.stdin == nil {
		root.SetIn(strings.NewReader(""))
	}
	if args[0] == cobra.ShellCompRequestCmd {
		args = append([]string{args[0], "claude-balancer", "--address", address}, args[1:]...)
	} else {
		args = append([]string{"claude-balancer", "--address", address}, args...)
	}
	root.SetArgs(args)
	ctx := p.ctx
	if ctx == nil {
		ctx = t.Context()
	}
	err = root.ExecuteContext(ctx)
	return out.String(), errOut.String(), err
}

// fails runs a command line that must fail and returns its one sentence.
func (p person) fails(t *testing.T, args ...string) string {
	t.Helper()
	stdout, stderr, err := p.runs(t, args...)
	if err == nil {
		t.Fatalf("%q succeeded, printing %q", args, stdout)
	}
	sentence, ok := strings.CutPrefix(stderr, "Error: ")
	if !ok || strings.Count(stderr, "\n") != 1 || stdout != "" {
		t.Errorf("%q: want one sentence on standard error, got %q; on standard output %q", args, stderr, stdout)
	}
	return strings.TrimSuffix(sentence, "\n")
}

// golden compares with a file under testdata, or writes it with -update.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("differs from %s; got:\n%s\nwant:\n%s", path, got, want)
	}
}
