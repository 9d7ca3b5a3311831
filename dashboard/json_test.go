package dashboard

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/claude-balancer/claude-balancer/api"
)

// serve asks the handler directly. Header pairs follow the URL.
func serve(h http.Handler, method, url string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, url, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestHealthIsAlways200AndReadyNeedsAnAvailableAccount(t *testing.T) {
	t.Parallel()
	for available, want := range map[int]int{0: http.StatusServiceUnavailable, 1: http.StatusOK} {
		site := newSite(&fakeBackend{health: api.Health{Status: "limited", Accounts: 3, Available: available, Timestamp: "2026-03-14T15:00:00Z"}})
		body := fmt.Sprintf(`{"status":"limited","accounts":3,"available":%d,"timestamp":"2026-03-14T15:00:00Z"}`, available)
		for path, status := range map[string]int{"/health": http.StatusOK, "/health/ready": want} {
			if w := serve(site, http.MethodGet, path); w.Code != status || w.Body.String() != body {
				t.Errorf("%s with %d available = %d %s", path, available, w.Code, w.Body)
			}
		}
	}
}

func TestJSONIsNeverCachedOrSniffed(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/health", "/health/ready", "/api/stats", "/api/accounts", "/api/requests", "/api/chart", "/api/explain", "/api/no-such"} {
		h := serve(newSite(&fakeBackend{}), http.MethodGet, path).Header()
		for name, want := range map[string]string{"Content-Type": "application/json", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"} {
			if h.Get(name) != want {
				t.Errorf("%s: %s is %q", path, name, h.Get(name))
			}
		}
	}
}

func TestStatsHasTheSeedsMembersWithTheirNames(t *testing.T) {
	t.Parallel()
	w := serve(newSite(&fakeBackend{}), http.MethodGet, "/api/stats")
	var got map[string]json.RawMessage
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"totalRequests": "7", "successRate": "86", "activeAccounts": "2", "avgResponseTime": "480"} {
		if string(got[name]) != want {
			t.Errorf("%s is %s", name, got[name])
		}
	}
}

func TestSinceReachesStatsAndChart(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]time.Time{
		"/api/stats":                            {},
		"/api/stats?since=24h":                  testNow.Add(-24 * time.Hour),
		"/api/stats?since=7d":                   testNow.Add(-7 * 24 * time.Hour),
		"/api/chart":                            testNow.Add(-24 * time.Hour),
		"/api/chart?since=2026-03-01T00:00:00Z": time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC),
	} {
		b := &fakeBackend{}
		if w := serve(newSite(b), http.MethodGet, url); w.Code != http.StatusOK || !b.since.Equal(want) {
			t.Errorf("%s = %d, since %s", url, w.Code, b.since)
		}
	}
	for _, url := range []string{"/api/stats?since=yesterday", "/api/chart?since=-3h"} {
		if w := serve(newSite(&fakeBackend{}), http.MethodGet, url); w.Code != http.StatusBadRequest {
			t.Errorf("%s = %d", url, w.Code)
		}
	}
}

func TestAccountsComeMostUsedFirst(t *testing.T) {
	t.Parallel()
	b := &fakeBackend{accounts: []api.Account{{Name: "a", RequestCount: 1}, {Name: "b", RequestCount: 9}, {Name: "c", RequestCount: 1}, {Name: "d", RequestCount: 4}}}
	var got []api.Account
	if err := json.Unmarshal(serve(newSite(b), http.MethodGet, "/api/accounts").Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	var order string
	for _, a := range got {
		order += a.Name
	}
	if order != "bdac" {
		t.Errorf("order is %s", order)
	}
	if b.accounts[0].Name != "a" {
		t.Error("the backend's own slice was sorted")
	}
}

func TestNothingIsAnEmptyArray(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/api/accounts", "/api/requests", "/api/chart"} {
		if w := serve(newSite(&fakeBackend{}), http.MethodGet, path); w.Body.String() != "[]" {
			t.Errorf("%s = %s", path, w.Body)
		}
	}
}

func TestRequestFiltersReachTheBackend(t *testing.T) {
	t.Parallel()
	b := &fakeBackend{}
	serve(newSite(b), http.MethodGet, "/api/requests?limit=7&before=r1&account=a%20b&model=m&outcome=refused&client=ci")
	want := api.RequestQuery{Limit: 7, Before: "r1", Account: "a b", Model: "m", Outcome: api.OutcomeRefused, Client: "ci"}
	if b.query != want {
		t.Errorf("asked %+v", b.query)
	}
	serve(newSite(b), http.MethodGet, "/api/requests")
	if want := (api.RequestQuery{Limit: 50}); b.query != want {
		t.Errorf("without a query: %+v", b.query)
	}
	for _, query := range []string{"limit=0", "limit=1001", "limit=x", "limit=", "outcome=fine"} {
		if w := serve(newSite(b), http.MethodGet, "/api/requests?"+query); w.Code != http.StatusBadRequest {
			t.Errorf("%s = %d", query, w.Code)
		}
	}
}

func TestExplainPassesItsQuestionOn(t *testing.T) {
	t.Parallel()
	b := &fakeBackend{}
	serve(newSite(b), http.MethodGet, "/api/explain?model=claude-opus-5&session=s&key=ci")
	if want := (api.ExplainQuery{Model: "claude-opus-5", Session: "s", Key: "ci"}); b.explain != want {
		t.Errorf("asked %+v", b.explain)
	}
}

func TestARefusalOfTheBackendIsShownWithItsStatus(t *testing.T) {
	t.Parallel()
	b := &fakeBackend{err: fmt.Errorf("looking it up: %w", api.NotFound("no client key %q", "ci"))}
	w := serve(newSite(b), http.MethodGet, "/api/explain")
	if w.Code != http.StatusNotFound || w.Body.String() != `{"error":"no client key \"ci\""}` {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestAFailureOfTheBackendIsLoggedAndNotShown(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/health", "/health/ready", "/api/stats", "/api/accounts", "/api/requests", "/api/chart", "/api/explain"} {
		core, logs := observer.New(zapcore.ErrorLevel)
		site := New(Options{Enabled: true, Backend: &fakeBackend{err: errDisk}, Logger: zap.New(core)})
		w := serve(site, http.MethodGet, path)
		if w.Code != http.StatusInternalServerError || w.Body.String() != `{"error":"internal error"}` {
			t.Errorf("%s = %d %s", path, w.Code, w.Body)
		}
		entries := logs.All()
		if len(entries) != 1 || entries[0].ContextMap()["error"] != errDisk.Error() {
			t.Errorf("%s logged %v", path, entries)
		}
	}
}

func TestANumberThatJSONDoesNotHaveIsAFailure(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zapcore.ErrorLevel)
	cost := math.NaN()
	site := New(Options{Enabled: true, Backend: &fakeBackend{accounts: []api.Account{{CostUSD: &cost}}}, Logger: zap.New(core)})
	if w := serve(site, http.MethodGet, "/api/accounts"); w.Code != http.StatusInternalServerError || logs.Len() != 1 {
		t.Errorf("%d %s, %d log entries", w.Code, w.Body, logs.Len())
	}
}

func TestAClientThatLeftIsNotAFailure(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zapcore.DebugLevel)
	site := New(Options{Enabled: true, Backend: &fakeBackend{err: errors.New("interrupted")}, Logger: zap.New(core)})
	r := httptest.NewRequest(http.MethodGet, "/api/stats", nil)
	ctx, leave := context.WithCancel(t.Context())
	leave()
	site.ServeHTTP(httptest.NewRecorder(), r.WithContext(ctx))
	if logs.Len() != 0 {
		t.Errorf("logged %v", logs.All())
	}
}
