package oauth

// A token endpoint with rotating refresh tokens that work once, and a vault
// that fails on demand.

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/secret"
	"github.com/claude-balancer/claude-balancer/store"
)

// provider answers like the token endpoint.
type provider struct {
	mu       sync.Mutex
	issued   int
	live     map[string]bool // refresh tokens; false = spent
	codes    map[string]string
	calls    []call
	spent    int // times that a spent token was sent
	lifetime time.Duration
	keeps    bool // answers without a new refresh token, the old one stays

	refuse   func(call) *answer // instead of a good answer, before anything changes
	answered func(call)         // after the change, before the client has the answer
}

type call struct {
	path   string
	header http.Header
	body   map[string]string
	raw    string
}

type answer struct {
	status int
	header map[string]string
	body   string
}

func newProvider() *provider {
	return &provider{live: map[string]bool{}, codes: map[string]string{}, lifetime: 8 * time.Hour}
}

// login returns a credential like one that was stored at issued.
func (p *provider) login(issued time.Time) store.Credential {
	p.mu.Lock()
	defer p.mu.Unlock()
	access, refresh := p.issue()
	return store.Credential{
		Kind: api.KindOAuth, Access: secret.New(access), Refresh: secret.New(refresh),
		IssuedAt: issued, ExpiresAt: issued.Add(p.lifetime), Generation: 1,
	}
}

func (p *provider) issue() (access, refresh string) {
	p.issued++
	access, refresh = fmt.Sprintf("sk-ant-oat01-access-%d", p.issued), fmt.Sprintf("sk-ant-ort01-refresh-%d", p.issued)
	p.live[refresh] = true
	return access, refresh
}

func (p *provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	raw, _ := io.ReadAll(r.Body)
	c := call{path: r.URL.Path, header: r.Header.Clone(), raw: string(raw), body: map[string]string{}}
	_ = json.Unmarshal(raw, &c.body)
	p.mu.Lock()
	p.calls = append(p.calls, c)
	refuse, answered := p.refuse, p.answered
	p.mu.Unlock()
	if refuse != nil {
		if a := refuse(c); a != nil {
			a.write(w)
			return
		}
	}
	a := p.grant(c)
	if answered != nil {
		answered(c)
	}
	a.write(w)
}

func (p *provider) grant(c call) *answer {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := c.body["refresh_token"]
	if c.body["grant_type"] == "authorization_code" {
		if p.codes[c.body["code"]] == "" {
			return &answer{status: 400, body: `{"error":"invalid_grant","error_description":"Invalid 'code' in request."}`}
		}
		delete(p.codes, c.body["code"])
	} else if !p.live[old] {
		if _, known := p.live[old]; known {
			p.spent++
		}
		return &answer{status: 400, body: `{"error":"invalid_grant","error_description":"Refresh token not found or invalid"}`}
	}
	access, refresh := p.issue()
	out := map[string]any{
		"token_type": "Bearer", "access_token": access, "expires_in": int(p.lifetime.Seconds()), "refresh_token": refresh,
		"account": map[string]any{"uuid": "acc-1", "email_address": "a@example.com"}, "organization": map[string]any{"uuid": "org-1", "name": "Org"},
	}
	if p.keeps {
		delete(p.live, refresh)
		delete(out, "refresh_token")
	} else if old != "" {
		p.live[old] = false
	}
	body, _ := json.Marshal(out)
	return &answer{status: 200, body: string(body)}
}

func (a *answer) write(w http.ResponseWriter) {
	for name, value := range a.header {
		w.Header().Set(name, value)
	}
	w.WriteHeader(a.status)
	_, _ = io.WriteString(w, a.body)
}

func (p *provider) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.calls)
}

func (p *provider) set(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

// RoundTrip serves without a network, which a synctest bubble needs.
func (p *provider) RoundTrip(r *http.Request) (*http.Response, error) {
	done := make(chan *http.Response, 1)
	go func() {
		w := httptest.NewRecorder()
		p.ServeHTTP(w, r)
		done <- w.Result()
	}()
	select {
	case resp := <-done:
		return resp, nil
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

func (p *provider) client() *Client {
	e, _ := Preset("current")
	return &Client{HTTP: p, Endpoints: e}
}

// vault is store.Store's contract in memory.
type vault struct {
	mu     sync.Mutex
	rows   map[string]row
	fail   map[string]error  // by method
	before func(what string) // called without the lock
	calls  int
}

type row struct {
	cred       store.Credential
	state      api.Status
	reason     string
	owner      string
	leaseUntil time.Time
}

func newVault(creds map[string]store.Credential) *vault {
	v := &vault{rows: map[string]row{}, fail: map[string]error{}}
	for id, c := range creds {
		v.rows[id] = row{cred: c}
	}
	return v
}

// copy is what a process that starts now finds.
func (v *vault) copy() *vault {
	v.mu.Lock()
	defer v.mu.Unlock()
	return &vault{rows: maps.Clone(v.rows), fail: map[string]error{}}
}

func (v *vault) entries() map[string]Entry {
	v.mu.Lock()
	defer v.mu.Unlock()
	out := map[string]Entry{}
	for id, r := range v.rows {
		out[id] = Entry{Name: "name of " + id, Credential: r.cred, State: r.state, StateReason: r.reason}
	}
	return out
}

func (v *vault) row(id string) row {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.rows[id]
}

// change is what somebody else does to the row.
func (v *vault) change(id string, f func(*row)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	r := v.rows[id]
	f(&r)
	v.rows[id] = r
}

func (v *vault) failing(method string, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.fail[method] = err
}

func (v *vault) do(what, id string, f func(r *row) error) error {
	if v.before != nil {
		v.before(what)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.calls++
	if err := v.fail[what]; err != nil {
		return err
	}
	r, ok := v.rows[id]
	if !ok && what == "save" {
		return store.ErrStale
	}
	if !ok {
		return store.ErrNotFound
	}
	if err := f(&r); err != nil {
		return err
	}
	v.rows[id] = r
	return nil
}

func (v *vault) Credential(_ context.Context, id string) (c store.Credential, err error) {
	err = v.do("read", id, func(r *row) error { c = r.cred; return nil })
	return c, err
}

func (v *vault) SaveCredential(_ context.Context, id string, generation int64, c store.Credential) (int64, error) {
	err := v.do("save", id, func(r *row) error {
		if r.cred.Generation != generation {
			return store.ErrStale
		}
		c.Generation = generation + 1
		r.cred, r.state, r.reason = c, "", ""
		return nil
	})
	return generation + 1, err
}

func (v *vault) AcquireLease(_ context.Context, id, owner string, ttl time.Duration) (ok bool, err error) {
	err = v.do("lease", id, func(r *row) error {
		if ok = r.owner == "" || r.owner == owner || !time.Now().Before(r.leaseUntil); ok {
			r.owner, r.leaseUntil = owner, time.Now().Add(ttl)
		}
		return nil
	})
	return ok && err == nil, err
}

func (v *vault) ReleaseLease(_ context.Context, id, owner string) error {
	return v.do("release", id, func(r *row) error {
		if r.owner == owner {
			r.owner = ""
		}
		return nil
	})
}

func (v *vault) SetState(_ context.Context, id string, generation int64, state api.Status, reason string) error {
	return v.do("state", id, func(r *row) error {
		if r.cred.Generation != generation {
			return store.ErrStale
		}
		r.state, r.reason = state, reason
		return nil
	})
}

// house is a Source with its surroundings.
type house struct {
	*Source
	p      *provider
	v      *vault
	log    *buffer
	mu     sync.Mutex
	events []Event
}

func newHouse(owner string, p *provider, v *vault, mend ...func(*SourceOptions)) *house {
	h := &house{p: p, v: v, log: &buffer{}}
	core := zapcore.NewCore(zapcore.NewJSONEncoder(zapcore.EncoderConfig{MessageKey: "m"}), h.log, zap.DebugLevel)
	o := SourceOptions{
		Vault: v, Client: p.client, Owner: owner, Logger: zap.New(core),
		OnChange: func(_ string, e Event) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.events = append(h.events, e)
		},
	}
	for _, m := range mend {
		m(&o)
	}
	h.Source = NewSource(o)
	h.Sync(v.entries())
	return h
}

// told counts events. They come after the waiting requests have their answer,
// so it waits for the work to end.
func (h *house) told(t EventType) (n int) {
	h.jobs.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.events {
		if e.Type == t {
			n++
		}
	}
	return n
}

// buffer is a log that many may write.
type buffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) Sync() error { return nil }

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// mustToken fails the test unless the account has the token.
func mustToken(t *testing.T, s *Source, id, want string) Token {
	t.Helper()
	token, err := s.Token(t.Context(), id)
	if err != nil || token.Value.Reveal() != want {
		t.Fatalf("got token %q, %v; want %q", token.Value.Reveal(), err, want)
	}
	return token
}

func access(n int) string  { return fmt.Sprintf("sk-ant-oat01-access-%d", n) }
func refresh(n int) string { return fmt.Sprintf("sk-ant-ort01-refresh-%d", n) }
