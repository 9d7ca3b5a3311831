package claudebalancer

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
)

func TestAKeyIsToldWhatItUsed(t *testing.T) {
	t.Parallel()
	r := newRig(t, dollarEach)
	r.add("a", "max")
	capped := r.key(api.NewKey{Name: "capped", BudgetUSD: ptr(4.0), BudgetPeriod: "week"})
	free := r.key(api.NewKey{Name: "free"})
	answer := r.message(sonnet, "Authorization", "Bearer "+capped).mustBe(t, 200)
	r.message(sonnet, "X-Api-Key", free).mustBe(t, 200)

	got := r.send("GET", "/api/oauth/usage?skip_spend=1", "", "Authorization", "Bearer "+capped).mustBe(t, 200)
	if got.header.Get("Cache-Control") != "no-store" {
		t.Errorf("headers: %v", got.header)
	}
	extra := got.json(t)["extra_usage"].(map[string]any)
	limit := got.json(t)["limits"].([]any)[0].(map[string]any)
	if extra["monthly_limit"] != 400.0 || extra["used_credits"] != 100.0 || extra["utilization"] != 25.0 || limit["group"] != "weekly" {
		t.Errorf("with a budget: %s", got.body)
	}
	resets, err := time.Parse(time.RFC3339, limit["resets_at"].(string))
	if err != nil || strconv.FormatInt(resets.Unix(), 10) != answer.header.Get("Anthropic-Ratelimit-Unified-Overage-Reset") {
		t.Errorf("resets at %v, the answer's header says %v (%v)", limit["resets_at"], answer.header, err)
	}

	r.eventually("the key without a budget is told its spending", func() bool {
		got := r.send("GET", "/api/oauth/usage", "", "Authorization", "Bearer "+free).mustBe(t, 200)
		extra := got.json(t)["extra_usage"].(map[string]any)
		week := extra["weekly"].(map[string]any)
		return extra["used_credits"] == 100.0 && week["used_credits"] == 100.0 && extra["monthly_limit"] == nil && len(got.json(t)["limits"].([]any)) == 0
	})
}

func TestUsageIsForKeysOnly(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	key := r.key(api.NewKey{Name: "gone"})
	r.revoke("gone")
	mustRefuseKey(t, r.send("GET", "/api/oauth/usage", "", "Authorization", "Bearer "+key))
	if got := r.send("GET", "/api/oauth/usage", "").mustBe(t, 404); got.errorType(t) != "not_found_error" {
		t.Errorf("without a key: %s", got.body)
	}
	r.send("POST", "/api/oauth/usage", "{}").mustBe(t, 405)
}

func TestTelemetryIsForClientsThatMayUseTheAPI(t *testing.T) {
	t.Parallel()
	got := make(chan string, 10)
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- r.URL.Path + " " + string(body) + " " + r.Header.Get("Authorization")
	}))
	t.Cleanup(collector.Close)
	r := newRig(t, rigOptions{directive: []string{"access keys", "telemetry forward " + collector.URL + "/otlp"}})
	r.add("a", "max")
	key := r.key(api.NewKey{Name: "dev"})
	r.send("POST", "/v1/logs", `{"a":1}`).mustBe(t, 401)
	for _, signal := range []string{"metrics", "logs", "traces"} {
		r.send("POST", "/v1/"+signal, `{"a":1}`, "Authorization", "Bearer "+key).mustBe(t, 200)
		if line := <-got; line != "/otlp/v1/"+signal+` {"a":1} ` {
			t.Errorf("the collector got %q", line)
		}
	}
	if used := r.used(); len(used) != 0 {
		t.Errorf("telemetry went upstream: %v", used)
	}
}

func TestTelemetryIsDroppedWithoutAnError(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{directive: []string{"telemetry drop"}})
	for _, signal := range []string{"metrics", "logs", "traces"} {
		r.send("POST", "/v1/"+signal, `{"a":1}`).mustBe(t, 200)
	}
}
