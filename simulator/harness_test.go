package simulator_test

// What the tests share: a server, a clock and calls over real HTTP.

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/simulator"
)

const (
	sonnet = "claude-sonnet-5-5"
	fable  = "claude-fable-5-2"
	beta   = "oauth-2025-04-20"
)

// clock is a time that a test sets.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Unix(1_790_000_000, 123_000_000)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// fixture is a simulator that listens, with an account of each plan.
type fixture struct {
	*simulator.Simulator
	t           *testing.T
	url         string
	client      *http.Client
	work, other simulator.Credentials // console and max
	key         simulator.Credentials // api
}

func start(t *testing.T, o simulator.Options) *fixture {
	t.Helper()
	s := simulator.New(o)
	srv := s.Start()
	t.Cleanup(srv.Close)
	client := srv.Client()
	t.Cleanup(client.CloseIdleConnections)
	return &fixture{
		Simulator: s, t: t, url: srv.URL, client: client,
		work:  s.AddAccount(simulator.Account{Name: "work"}),
		other: s.AddAccount(simulator.Account{Name: "other", Plan: simulator.PlanMax}),
		key:   s.AddAccount(simulator.Account{Name: "key", Plan: simulator.PlanAPI}),
	}
}

// answer is an HTTP answer that was read whole.
type answer struct {
	status int
	header http.Header
	body   string
	err    error // while reading
}

// request builds a call as the account.
func (f *fixture) request(c simulator.Credentials, method, path, body string) *http.Request {
	f.t.Helper()
	r, err := http.NewRequestWithContext(f.t.Context(), method, f.url+path, strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	r.Header.Set("Anthropic-Version", "2023-06-01")
	r.Header.Set("Accept-Encoding", "identity")
	if !c.APIKey.IsZero() {
		r.Header.Set("X-Api-Key", c.APIKey.Reveal())
	} else if !c.Access.IsZero() {
		r.Header.Set("Authorization", "Bearer "+c.Access.Reveal())
		r.Header.Set("Anthropic-Beta", "tools-2026-01-01,"+beta)
	}
	return r
}

// do sends a request and reads the answer; the round trip must not fail.
func (f *fixture) do(r *http.Request) answer {
	f.t.Helper()
	resp, err := f.client.Do(r)
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(b), err}
}

func (f *fixture) call(c simulator.Credentials, method, path, body string) answer {
	f.t.Helper()
	return f.do(f.request(c, method, path, body))
}

// ask sends a Messages request.
func (f *fixture) ask(c simulator.Credentials, model string, stream bool) answer {
	f.t.Helper()
	return f.call(c, "POST", "/v1/messages", prompt(model, stream))
}

func prompt(model string, stream bool) string {
	return fmt.Sprintf(`{"model":%q,"max_tokens":100,"stream":%t,"messages":[{"role":"user","content":"hi"}]}`, model, stream)
}

// errorOf reads an error envelope.
func errorOf(t *testing.T, a answer) (kind, message, code string) {
	t.Helper()
	var e struct {
		Type  string
		Error struct {
			Type, Message string
			Details       struct {
				Code string `json:"error_code"`
			}
		}
		RequestID string `json:"request_id"`
	}
	if err := json.Unmarshal([]byte(a.body), &e); err != nil {
		t.Fatalf("no JSON: %v in %q", err, a.body)
	}
	if e.Type != "error" || e.RequestID == "" || e.RequestID != a.header.Get("Request-Id") {
		t.Fatalf("no envelope with the request id %q: %s", a.header.Get("Request-Id"), a.body)
	}
	return e.Error.Type, e.Error.Message, e.Error.Details.Code
}

func wantStatus(t *testing.T, a answer, status int) {
	t.Helper()
	if a.status != status {
		t.Fatalf("status %d, want %d: %s", a.status, status, a.body)
	}
	if a.err != nil {
		t.Fatalf("the body broke off: %v", a.err)
	}
}

// sse is one event of a stream.
type sse struct {
	name string
	data map[string]any
}

func events(t *testing.T, body string) []sse {
	t.Helper()
	var list []sse
	var e sse
	lines := bufio.NewScanner(strings.NewReader(body))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if name, ok := strings.CutPrefix(line, "event: "); ok {
			e.name = name
		}
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			if err := json.Unmarshal([]byte(data), &e.data); err != nil {
				t.Fatalf("event %s: %v in %q", e.name, err, data)
			}
		}
		if line == "" && e.name != "" {
			list = append(list, e)
			e = sse{}
		}
	}
	return list
}

func names(list []sse) string {
	var b strings.Builder
	for _, e := range list {
		b.WriteString(e.name + " ")
	}
	return strings.TrimSpace(b.String())
}

func decode[T any](t *testing.T, a answer) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(a.body), &v); err != nil {
		t.Fatalf("no JSON: %v in %q", err, a.body)
	}
	return v
}

// broken reports whether a round trip or its body failed by the connection.
func (f *fixture) broken(r *http.Request) bool {
	f.t.Helper()
	resp, err := f.client.Do(r)
	if err != nil {
		return true
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err != nil
}

// slowReader is a request body that ends only when the test says so.
type slowReader struct {
	first *bytes.Reader
	end   <-chan struct{}
}

func (r *slowReader) Read(b []byte) (int, error) {
	if n, err := r.first.Read(b); err == nil {
		return n, nil
	}
	<-r.end
	return 0, errors.New("the client gave up")
}
