package simulator_test

import (
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/simulator"
)

const unified = "Anthropic-Ratelimit-Unified-"

func TestAWindowFillsAndResetsWithTheClock(t *testing.T) {
	t.Parallel()
	clock := newClock()
	f := start(t, simulator.Options{Now: clock.Now})
	c := f.AddAccount(simulator.Account{Name: "small", TokenLife: 1000 * time.Hour, Windows: []simulator.Window{{Name: "5h", Limit: 4}, {Name: "7d", Limit: 5}}})
	expect := func(a answer, status int, want map[string]string) {
		t.Helper()
		wantStatus(t, a, status)
		for name, value := range want {
			if got := a.header.Get(unified + name); got != value {
				t.Errorf("%s: %q, want %q", name, got, value)
			}
		}
	}

	expect(f.ask(c, sonnet, false), 200, map[string]string{
		"Status": "allowed", "5h-Status": "allowed", "5h-Utilization": "0.25", "7d-Utilization": "0.2", "5h-Reset": "1790018000", "Representative-Claim": "five_hour",
	})
	clock.add(time.Hour)
	f.ask(c, sonnet, true)
	expect(f.ask(c, sonnet, false), 200, map[string]string{"5h-Status": "allowed_warning", "5h-Surpassed-Threshold": "0.75"})
	expect(f.ask(c, sonnet, false), 200, map[string]string{"5h-Utilization": "1.0", "Status": "allowed_warning"})

	spent := f.ask(c, sonnet, false)
	expect(spent, 429, map[string]string{"Status": "rejected", "5h-Status": "rejected", "7d-Status": "allowed_warning", "Reset": "1790018000"})
	if got := spent.header.Get("Retry-After"); got != "14400" {
		t.Errorf("Retry-After %q", got)
	}
	wantStatus(t, f.call(c, "POST", "/v1/messages/count_tokens", prompt(sonnet, false)), 200)

	clock.add(4*time.Hour - 123*time.Millisecond)
	expect(f.ask(c, sonnet, false), 200, map[string]string{"5h-Utilization": "0.25", "7d-Utilization": "1.0"})
	expect(f.ask(c, sonnet, false), 429, map[string]string{"Representative-Claim": "seven_day", "7d-Status": "rejected", "5h-Status": "allowed"})
	clock.add(7 * 24 * time.Hour)
	expect(f.ask(c, sonnet, false), 200, map[string]string{"7d-Utilization": "0.2"})
}

func TestAScopedWindowConcernsItsFamilyOnly(t *testing.T) {
	t.Parallel()
	f := start(t, simulator.Options{})
	c := f.AddAccount(simulator.Account{Name: "max", Plan: simulator.PlanMax, Windows: []simulator.Window{{Name: "5h", Limit: 100}, {Name: "7d_oi", Limit: 1}}})
	wantStatus(t, f.ask(c, fable, false), 200)
	a := f.ask(c, fable, false)
	wantStatus(t, a, 429)
	if a.header.Get(unified+"Representative-Claim") != "seven_day_overage_included" || a.header.Get(unified+"5h-Status") != "allowed" {
		t.Errorf("headers: %v", a.header)
	}
	a = f.ask(c, sonnet, false)
	wantStatus(t, a, 200)
	if a.header.Get(unified+"7d_oi-Status") != "" {
		t.Error("another family hears of the fable window")
	}
}

func TestATokenWindowCountsTokens(t *testing.T) {
	t.Parallel()
	f := start(t, simulator.Options{Output: 10})
	c := f.AddAccount(simulator.Account{Name: "tokens", Windows: []simulator.Window{{Name: "5h", Limit: 1, Tokens: true}}})
	a := f.ask(c, sonnet, false)
	if u := a.header.Get(unified + "5h-Utilization"); u < "1" || a.header.Get(unified+"5h-Status") != "allowed_warning" {
		t.Errorf("utilization %q", u)
	}
	wantStatus(t, f.ask(c, sonnet, false), 429)
}

func TestExtraUsageServesBeyondASpentWindow(t *testing.T) {
	t.Parallel()
	f := start(t, simulator.Options{})
	c := f.AddAccount(simulator.Account{Name: "rich", ExtraUsage: true, Windows: []simulator.Window{{Name: "5h", Limit: 1}}})
	if h := f.ask(c, sonnet, false).header; h.Get(unified+"Overage-In-Use") != "false" || h.Get(unified+"Status") != "allowed_warning" {
		t.Errorf("within the window: %v", h)
	}
	a := f.ask(c, sonnet, false)
	wantStatus(t, a, 200)
	if a.header.Get(unified+"Status") != "rejected" || a.header.Get(unified+"Overage-Status") != "allowed" || a.header.Get(unified+"Overage-In-Use") != "true" {
		t.Errorf("beyond it: %v", a.header)
	}
}

func TestAnAPIKeysLimitsLastAMinute(t *testing.T) {
	t.Parallel()
	clock := newClock()
	f := start(t, simulator.Options{Now: clock.Now})
	c := f.AddAccount(simulator.Account{Name: "bucket", Plan: simulator.PlanAPI, Windows: []simulator.Window{{Name: "requests", Limit: 1}, {Name: "output-tokens", Limit: 1000}}})
	h := f.ask(c, sonnet, false).header
	if h.Get("Anthropic-Ratelimit-Requests-Remaining") != "0" || h.Get("Anthropic-Ratelimit-Requests-Reset") != "2026-09-21T14:14:20Z" {
		t.Errorf("headers: %v", h)
	}
	a := f.ask(c, sonnet, false)
	wantStatus(t, a, 429)
	if _, message, _ := errorOf(t, a); a.header.Get("Retry-After") != "60" || message != "This request would exceed your organization's rate limit of 1 requests per minute." {
		t.Errorf("Retry-After %q: %s", a.header.Get("Retry-After"), message)
	}
	clock.add(time.Minute)
	wantStatus(t, f.ask(c, sonnet, false), 200)
}
