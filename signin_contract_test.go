package claudebalancer

import (
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/simulator"
)

// What the gateway contract demands of the API itself, as a client sees it that
// has signed in.

func TestASignedInClientsRequestsAndAnswersPassUnchanged(t *testing.T) {
	t.Parallel()
	r, clock := signInRig(t)
	account := r.sim.Credentials("a")
	c := r.claude(clock)
	c.signIn(r.key(api.NewKey{Name: "dev"}))
	body := `{ "model":"claude-opus-4-5","max_tokens":8, "safeguards":{"mode":"auto"},"tags":{"x":1},"messages":[{"role":"user","content":"h\u00e9"}],"unknown":[null]}`
	answer := `{"type":"message","safeguard_results":[{"ok":true}],"usage":{"input_tokens":1,"output_tokens":1}}`
	r.sim.Script("a", simulator.Step{Status: 200, Body: answer, Times: 1})
	send := func() reply {
		return c.send("POST", c.base+"/v1/messages?beta=true&x=1", body, append(c.bearer(), "Content-Type", "application/json", "Accept", "application/json",
			"Anthropic-Version", "2023-06-01", "Anthropic-Beta", "safeguards-2026-01-01,another-capability", "Anthropic-Odd", "kept",
			"X-App", "cli", "X-Stainless-Lang", "js", "X-Claude-Code-Managed-Settings-Checksum", "sha256:0", "X-Api-Key", "its-own", "Cookie", "a=b")...)
	}
	if got := send().mustBe(t, 200); got.body != answer {
		t.Errorf("answer: %s", got.body)
	}
	seen := r.sim.Requests()[len(r.sim.Requests())-1]
	if string(seen.Body) != body || seen.RawQuery != "beta=true&x=1" {
		t.Errorf("upstream got ?%s %s", seen.RawQuery, seen.Body)
	}
	for name, want := range map[string]string{
		"Authorization": "Bearer " + account.Access.Reveal(), "X-Api-Key": "", "Cookie": "", "Content-Type": "application/json", "Accept": "application/json",
		"Anthropic-Version": "2023-06-01", "Anthropic-Beta": "safeguards-2026-01-01,another-capability,oauth-2025-04-20", "Anthropic-Odd": "kept",
		"X-App": "cli", "X-Stainless-Lang": "js", "User-Agent": "claude-code/2.1.330",
	} {
		if got := strings.Join(seen.Header.Values(name), ","); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}

	// Clients recover from these by their wording.
	for _, status := range []int{400, 413} {
		const refused = `{"type":"error","error":{"type":"invalid_request_error","message":"safeguards: not here, \u00fc"},"request_id":"req_1" }`
		r.sim.Script("a", simulator.Step{Status: status, Body: refused, Header: http.Header{"Anthropic-Ratelimit-Unified-Status": {"allowed"}}, Times: 1})
		got := send().mustBe(t, status)
		if got.body != refused {
			t.Errorf("%d: %s", status, got.body)
		}
		for name := range got.header {
			if strings.HasPrefix(name, "Anthropic-Ratelimit") {
				t.Errorf("%s passes", name)
			}
		}
	}
}

func TestUpstreamsLimitsNeverReachASignedInClient(t *testing.T) {
	t.Parallel()
	clock := newClock()
	r := newRig(t, rigOptions{sim: simulator.Options{Now: clock.now, Output: 32}, global: dollarEach.global, directive: []string{"access keys", "sign_in on"}})
	r.add("a", "max")
	budget := 4.0
	c := r.claude(clock)
	c.signIn(r.key(api.NewKey{Name: "capped", BudgetUSD: &budget, BudgetPeriod: "week"}))
	const unified = "Anthropic-Ratelimit-Unified-"
	for _, want := range []struct{ status, threshold, utilization string }{
		{"allowed", "", "0.00"}, {"allowed", "", "0.25"}, {"allowed", "", "0.50"}, {"allowed_warning", "0.75", "0.75"},
	} { // what was spent before the answer
		got := c.message(opus).mustBe(t, 200)
		for name, value := range map[string]string{
			"Status": want.status, "Overage-Status": want.status, "Overage-Utilization": want.utilization, "Overage-Surpassed-Threshold": want.threshold, "Representative-Claim": "overage",
		} {
			if got.header.Get(unified+name) != value {
				t.Errorf("%s is %q, want %q", name, got.header.Get(unified+name), value)
			}
		}
		for name := range got.header {
			if strings.HasPrefix(name, "Anthropic-Ratelimit") && (strings.Contains(name, "5h") || strings.Contains(name, "7d") || !strings.HasPrefix(name, unified)) {
				t.Errorf("%s passes", name)
			}
		}
		usage := c.send("GET", c.base+"/api/oauth/usage", "", c.bearer()...).mustBe(t, 200)
		resets, err := time.Parse(time.RFC3339, usage.json(t)["limits"].([]any)[0].(map[string]any)["resets_at"].(string))
		if err != nil || strconv.FormatInt(resets.Unix(), 10) != got.header.Get(unified+"Overage-Reset") {
			t.Errorf("usage resets at %s (%v), the header at %s", resets, err, got.header.Get(unified+"Overage-Reset"))
		}
	}
	before := len(r.used())
	got := c.message(opus).mustBe(t, 429)
	if got.errorType(t) != "billing_error" || got.header.Get("X-Should-Retry") != "false" || got.header.Get("Retry-After") == "" || len(r.used()) != before {
		t.Errorf("spent: %v %s", got.header, got.body)
	}
	for name, value := range map[string]string{
		"Status": "rejected", "Overage-Utilization": "1", "Overage-Surpassed-Threshold": "1", "Overage-Period": "weekly",
		"Overage-Disabled-Reason": "org_spend_cap_reached", "Representative-Claim": "", "Overage-Status": "",
	} {
		if got.header.Get(unified+name) != value {
			t.Errorf("spent: %s is %q, want %q", name, got.header.Get(unified+name), value)
		}
	}
}

// In full length, upstream is silent for five minutes: longer than clients wait.
func TestASilentUpstreamIsCoveredByPings(t *testing.T) {
	t.Parallel()
	silence, pings := 22*time.Second, 1
	if os.Getenv("CLAUDE_BALANCER_LONG") != "" {
		silence, pings = 300*time.Second, 14
	}
	r := newRig(t, rigOptions{directive: []string{"idle_timeout 400s"}})
	r.add("a", "max")
	r.sim.Script("a", simulator.Step{Do: simulator.SilentStream(silence)})
	got := r.stream(opus).mustBe(t, 200)
	if n := strings.Count(got.body, "event: ping\n"); n < pings || got.err != nil {
		t.Errorf("%d pings in %s (%v):\n%s", n, silence, got.err, got.body)
	}
	if !strings.HasSuffix(strings.TrimSpace(got.body), `{"type":"message_stop"}`) {
		t.Errorf("the stream does not end whole: %s", got.body)
	}
}

// The client's rule for metadata that is not usable: the default paths serve.
func TestDiscoveryOfAnotherOriginLeadsToTheDefaultPaths(t *testing.T) {
	t.Parallel()
	clock := newClock()
	r := newRig(t, rigOptions{sim: simulator.Options{Now: clock.now}, directive: []string{"access keys", "sign_in on"},
		servers: "servers {\ntrusted_proxies static 127.0.0.1/32\n}"})
	r.add("a", "max")
	key := r.key(api.NewKey{Name: "dev"})
	c := r.claude(clock)
	// A proxy in front tells a host that the client does not know.
	c.do = func(req *http.Request) (*http.Response, error) {
		if strings.HasSuffix(req.URL.Path, "oauth-authorization-server") {
			req.Header.Set("X-Forwarded-Host", "inside.example")
			req.Header.Set("X-Forwarded-Proto", "https")
		}
		return http.DefaultTransport.RoundTrip(req)
	}
	c.signIn(key)
	if c.endpoints.Issuer != "https://inside.example" || c.endpoints.Token != c.base+"/oauth/token" || c.endpoints.Revoke != "" {
		t.Errorf("endpoints: %+v", c.endpoints)
	}
	c.message(opus).mustBe(t, 200)
	// It reads the metadata again when it signs out.
	c.do = http.DefaultTransport.RoundTrip
	c.discover()
	c.signOut()
	mustEnd(t, c.message(opus))
}
