package dashboard

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
)

var testNow = time.Date(2026, 3, 14, 15, 0, 0, 0, time.UTC)

// fakeBackend answers what its fields say and remembers what it was asked.
// What the site never asks panics through the nil interface.
type fakeBackend struct {
	api.Backend
	err      error
	accounts []api.Account
	requests []api.Request
	health   api.Health

	query   api.RequestQuery
	explain api.ExplainQuery
	since   time.Time
}

func (f *fakeBackend) Accounts(context.Context) ([]api.Account, error) { return f.accounts, f.err }
func (f *fakeBackend) Health(context.Context) (api.Health, error)      { return f.health, f.err }

func (f *fakeBackend) Requests(_ context.Context, q api.RequestQuery) ([]api.Request, error) {
	f.query = q
	return f.requests, f.err
}

func (f *fakeBackend) Stats(_ context.Context, since time.Time) (api.Stats, error) {
	f.since = since
	return api.Stats{TotalRequests: 7, SuccessRate: 86, ActiveAccounts: 2, AvgResponseTime: 480}, f.err
}

func (f *fakeBackend) Chart(_ context.Context, since time.Time) ([]api.ChartHour, error) {
	f.since = since
	return nil, f.err
}

func (f *fakeBackend) Explain(_ context.Context, q api.ExplainQuery) (api.Explanation, error) {
	f.explain = q
	return api.Explanation{Model: q.Model, Family: "opus"}, f.err
}

// fakeFeed hands out one channel and tells when it was given back.
type fakeFeed struct {
	events    chan api.Event
	cancelled chan struct{}
	cancel    sync.Once
}

func newFakeFeed() *fakeFeed {
	return &fakeFeed{events: make(chan api.Event, 8), cancelled: make(chan struct{})}
}

func (f *fakeFeed) Subscribe() (<-chan api.Event, func()) {
	return f.events, func() { f.cancel.Do(func() { close(f.cancelled) }) }
}

var errDisk = errors.New("disk I/O error on /var/lib/claude-accounts.db")

func newSite(b *fakeBackend) http.Handler {
	return New(Options{Enabled: true, Backend: b, Now: func() time.Time { return testNow }})
}

// ask sends one request over a real connection, which drops bodies of HEAD
// answers as it should. Header pairs follow the path.
func ask(t *testing.T, h http.Handler, method, path string, header ...string) (*http.Response, string) {
	t.Helper()
	server := httptest.NewServer(h)
	defer server.Close()
	r, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	answer, err := server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer, string(body)
}
