package claudebalancer

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/access"
	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/simulator"
)

func TestAKeysRequestsAMinute(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	r.add("a", "max")
	key := r.key(api.NewKey{Name: "slow", RPM: ptr(2)})
	r.message(sonnet, "X-Api-Key", key).mustBe(t, 200)
	r.message(sonnet, "X-Api-Key", key).mustBe(t, 200)
	got := r.message(sonnet, "X-Api-Key", key).mustBe(t, 429)
	wait, _ := strconv.Atoi(got.header.Get("Retry-After"))
	if got.errorType(t) != "rate_limit_error" || wait < 1 || wait > 60 || got.header.Get("X-Should-Retry") != "" {
		t.Errorf("%v %s", got.header, got.body)
	}
	r.message(sonnet).mustBe(t, 200)
	if n := len(r.rows(3)); n != 3 {
		t.Errorf("%d rows: the refusal is none", n)
	}
	if _, err := r.app.runtime.UpdateKey(t.Context(), "slow", api.KeyPatch{RPM: api.Field[int]{Set: true}}); err != nil {
		t.Fatal(err)
	}
	r.message(sonnet, "X-Api-Key", key).mustBe(t, 200)
}

func TestAKeysRequestsInFlight(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	r.add("a", "max")
	key := r.key(api.NewKey{Name: "one", MaxInFlight: ptr(1)})
	r.sim.Script("a", simulator.Step{Do: simulator.SilentStream(0)})
	running, cancel := r.begin(r.request("POST", "/v1/messages", messageBody(sonnet, true), "X-Api-Key", key))
	got := r.message(sonnet, "X-Api-Key", key).mustBe(t, 429)
	if got.errorType(t) != "rate_limit_error" || got.header.Get("Retry-After") != "1" {
		t.Errorf("%v %s", got.header, got.body)
	}
	cancel()
	_ = running.Body.Close()
	r.eventually("the place is free again", func() bool {
		return r.message(sonnet, "X-Api-Key", key).status == 200
	})
}

// begin sends a request and returns once its answer has begun.
func (r *rig) begin(req *http.Request) (*http.Response, context.CancelFunc) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r.t.Cleanup(cancel)
	res, err := http.DefaultTransport.RoundTrip(req.WithContext(ctx))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = res.Body.Close() })
	return res, cancel
}

// A client that has its answer may send the next request at once, over another
// connection, while upstream still holds the first one's open.
func TestLimitsKnowOfAnAnswerBeforeItsEndIsSeen(t *testing.T) {
	t.Parallel()
	done := make(chan struct{})
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"claude-sonnet-4-5\",\"usage\":{\"input_tokens\":1,\"output_tokens\":1}}}\n\n"+
			"event: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":32}}\n\n"+
			"event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n")
		w.(http.Flusher).Flush()
		<-done
	}))
	t.Cleanup(upstream.Close)
	t.Cleanup(func() { close(done) })
	o := dollarEach
	o.upstream = upstream.URL
	r := newRig(t, o)
	r.add("a", "max")
	one := r.key(api.NewKey{Name: "one", MaxInFlight: ptr(1)})
	capped := r.key(api.NewKey{Name: "capped", BudgetUSD: ptr(2.0)})
	answer := func(key string) {
		t.Helper()
		res, _ := r.begin(r.request("POST", "/v1/messages", messageBody(sonnet, true), "X-Api-Key", key))
		if res.StatusCode != 200 {
			t.Fatalf("status %d: an answer that was read counts on", res.StatusCode)
		}
		for lines := bufio.NewScanner(res.Body); ; {
			if !lines.Scan() {
				t.Fatal("the stream ended early")
			}
			if lines.Text() == `data: {"type":"message_stop"}` {
				return
			}
		}
	}
	for range 2 {
		answer(one)
		answer(capped)
	}
	if got := r.message(sonnet, "X-Api-Key", capped).mustBe(t, 429); got.errorType(t) != "billing_error" {
		t.Errorf("%s", got.body)
	}
}

func TestABudgetWarnsAndThenRefuses(t *testing.T) {
	t.Parallel()
	r := newRig(t, dollarEach)
	r.add("a", "max")
	key := r.key(api.NewKey{Name: "capped", BudgetUSD: ptr(4.0), BudgetPeriod: "day"})
	const unified = "Anthropic-Ratelimit-Unified-"
	_, end := access.Period("day", time.Now())
	for i, want := range []struct{ status, used, threshold string }{
		{"allowed", "0.00", ""}, {"allowed", "0.25", ""}, {"allowed", "0.50", ""}, {"allowed_warning", "0.75", "0.75"},
	} {
		var got reply
		if i%2 == 0 {
			got = r.message(sonnet, "X-Api-Key", key)
		} else {
			got = r.stream(sonnet, "X-Api-Key", key)
		}
		h := got.mustBe(t, 200).header
		if h.Get(unified+"Status") != want.status || h.Get(unified+"Overage-Status") != want.status || h.Get(unified+"Representative-Claim") != "overage" ||
			h.Get(unified+"Overage-Utilization") != want.used || h.Get(unified+"Overage-Surpassed-Threshold") != want.threshold {
			t.Errorf("answer %d: %v, want %v", i, h, want)
		}
		for name := range h {
			if strings.HasPrefix(name, "Anthropic-Ratelimit-") && !strings.HasPrefix(name, unified) || strings.Contains(name, "-5h-") || strings.Contains(name, "-7d-") {
				t.Errorf("an account's own limit shows: %s", name)
			}
		}
	}
	before := len(r.used())
	got := r.message(sonnet, "X-Api-Key", key).mustBe(t, 429)
	h := got.header
	wait, _ := strconv.Atoi(h.Get("Retry-After"))
	if got.errorType(t) != "billing_error" || h.Get("X-Should-Retry") != "false" || h.Get(unified+"Status") != "rejected" ||
		h.Get(unified+"Overage-Utilization") != "1" || h.Get(unified+"Overage-Surpassed-Threshold") != "1" || h.Get(unified+"Overage-Period") != "daily" ||
		h.Get(unified+"Overage-Disabled-Reason") != "org_spend_cap_reached" || h.Get(unified+"Reset") != strconv.FormatInt(end.Unix(), 10) ||
		h.Get(unified+"Overage-Reset") != h.Get(unified+"Reset") || wait < 1 || wait > 24*60*60 {
		t.Errorf("%v %s", h, got.body)
	}
	for _, absent := range []string{"Representative-Claim", "Overage-Status"} {
		if _, there := h[unified+absent]; there {
			t.Errorf("%s makes the client hide our message", absent)
		}
	}
	if len(r.used()) != before {
		t.Error("a refused request went upstream")
	}
	if k := r.keyNamed("capped"); k.SpentUSD != 4 {
		t.Errorf("spent %v", k.SpentUSD)
	}
}
