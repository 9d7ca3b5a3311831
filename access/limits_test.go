package access_test

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/claude-balancer/claude-balancer/access"
	"github.com/claude-balancer/claude-balancer/store"
)

func TestRequestsAMinuteAreBounded(t *testing.T) {
	t.Parallel()
	c := newClock()
	_, key, _ := oneKey(t, c, func(k *store.Key) { k.RPM = 3 })
	begin := func(want bool) *access.Refusal {
		t.Helper()
		release, refusal := key.Begin(c.Now())
		if (refusal == nil) != want {
			t.Fatalf("allowed: %v", refusal == nil)
		}
		if release != nil {
			release(0)
		}
		return refusal
	}
	begin(true)
	c.Add(10 * time.Second)
	begin(true)
	begin(true)
	c.Add(20*time.Second + 500*time.Millisecond)
	refusal := begin(false)
	if refusal.Status != 429 || refusal.Type != "rate_limit_error" || refusal.RetryAfter != 30*time.Second || refusal.Header.Get("Retry-After") != "30" ||
		refusal.Header.Get("X-Should-Retry") != "" || !strings.Contains(refusal.Message, "3 requests a minute") || !strings.Contains(refusal.Message, "30s") {
		t.Errorf("refusal: %+v", refusal)
	}
	c.Add(refusal.RetryAfter)
	begin(true)
	begin(false)
}

func TestNoMinuteHasMoreRequestsThanItsLimitAndNoneIsRefusedEarly(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		c := newClock()
		limit := rapid.IntRange(1, 8).Draw(rt, "limit")
		_, key, _ := oneKey(t, c, func(k *store.Key) { k.RPM = limit })
		var begun []time.Time
		for range rapid.IntRange(1, 80).Draw(rt, "requests") {
			now := c.Add(time.Duration(rapid.IntRange(0, 30_000).Draw(rt, "gap")) * time.Millisecond)
			recent := 0
			for _, at := range begun {
				if now.Sub(at) < time.Minute {
					recent++
				}
			}
			release, refusal := key.Begin(now)
			if (refusal == nil) != (recent < limit) {
				rt.Fatalf("%d requests in the last minute of %d allowed: refused = %v", recent, limit, refusal != nil)
			}
			if refusal == nil {
				release(0)
				begun = append(begun, now)
			} else if wait := begun[len(begun)-limit].Add(time.Minute).Sub(now); refusal.RetryAfter < wait || refusal.RetryAfter >= wait+time.Second {
				rt.Fatalf("told to wait %v instead of %v", refusal.RetryAfter, wait)
			}
		}
	})
}

func TestRequestsInFlightAreBounded(t *testing.T) {
	t.Parallel()
	c := newClock()
	ring, key, record := oneKey(t, c, func(k *store.Key) { k.MaxInFlight = 2 })
	first, _ := key.Begin(c.Now())
	if _, refusal := key.Begin(c.Now()); refusal != nil {
		t.Fatal(refusal.Message)
	}
	_, refusal := key.Begin(c.Now())
	if refusal == nil || refusal.Status != 429 || refusal.Type != "rate_limit_error" || refusal.Header.Get("Retry-After") != "1" || !strings.Contains(refusal.Message, "max_in_flight") {
		t.Fatalf("refusal: %+v", refusal)
	}

	ring.Sync([]store.Key{record}, nil, nil)
	again, _ := ring.Named("ci")
	if _, refusal := again.Begin(c.Now()); refusal == nil {
		t.Error("a sync forgets the requests in flight")
	}
	first(0)
	first(0)
	if _, refusal := again.Begin(c.Now()); refusal != nil {
		t.Error("an ended request counts on")
	}
	if _, refusal := again.Begin(c.Now()); refusal == nil {
		t.Error("a release that is called twice counts twice")
	}
}

func TestARefusedRequestDoesNotCount(t *testing.T) {
	t.Parallel()
	c := newClock()
	_, key, _ := oneKey(t, c, func(k *store.Key) { k.MaxInFlight, k.RPM = 1, 2 })
	release, _ := key.Begin(c.Now())
	for range 5 {
		if _, refusal := key.Begin(c.Now()); refusal == nil || !strings.Contains(refusal.Message, "max_in_flight") {
			t.Fatalf("refusal: %+v", refusal)
		}
	}
	release(0)
	if _, refusal := key.Begin(c.Now()); refusal != nil {
		t.Error(refusal.Message)
	}
}

func TestABudgetIsRefusedUntilItsPeriodEnds(t *testing.T) {
	t.Parallel()
	for period, tc := range map[string]struct {
		word  string
		reset time.Time
	}{
		access.PeriodDay:   {"daily", time.Date(2026, time.July, 16, 0, 0, 0, 0, time.UTC)},
		access.PeriodWeek:  {"weekly", time.Date(2026, time.July, 20, 0, 0, 0, 0, time.UTC)},
		access.PeriodMonth: {"monthly", time.Date(2026, time.August, 1, 0, 0, 0, 0, time.UTC)},
	} {
		c := newClock()
		_, key, _ := oneKey(t, c, withBudget(1, period))
		for range 10 { // ten times ten cents are less than a dollar in binary
			release, refusal := key.Begin(c.Now())
			if refusal != nil {
				t.Fatalf("%s: %s", period, refusal.Message)
			}
			release(0.1)
		}
		_, refusal := key.Begin(c.Now())
		if refusal == nil {
			t.Fatalf("%s: a spent budget allows a request", period)
		}
		wait := tc.reset.Sub(noon)
		unix := strconv.FormatInt(tc.reset.Unix(), 10)
		want := http.Header{
			"Retry-After":                                             {strconv.Itoa(int(wait.Seconds()))},
			"X-Should-Retry":                                          {"false"},
			"Anthropic-Ratelimit-Unified-Status":                      {"rejected"},
			"Anthropic-Ratelimit-Unified-Reset":                       {unix},
			"Anthropic-Ratelimit-Unified-Overage-Reset":               {unix},
			"Anthropic-Ratelimit-Unified-Overage-Utilization":         {"1"},
			"Anthropic-Ratelimit-Unified-Overage-Surpassed-Threshold": {"1"},
			"Anthropic-Ratelimit-Unified-Overage-Period":              {tc.word},
			"Anthropic-Ratelimit-Unified-Overage-Disabled-Reason":     {"org_spend_cap_reached"},
		}
		if refusal.Status != 429 || refusal.Type != "billing_error" || refusal.RetryAfter != wait {
			t.Errorf("%s: %+v", period, refusal)
		}
		sameHeader(t, period, refusal.Header, want)
		for _, part := range []string{"$1 ", period, tc.reset.Format("2006-01-02 15:04 UTC"), "operator"} {
			if !strings.Contains(refusal.Message, part) {
				t.Errorf("%s: %q does not say %q", period, refusal.Message, part)
			}
		}

		c.Add(wait)
		if _, refusal := key.Begin(c.Now()); refusal != nil {
			t.Errorf("%s: the next period begins spent: %s", period, refusal.Message)
		}
	}
}

func sameHeader(t *testing.T, what string, got, want http.Header) {
	t.Helper()
	for name := range want {
		if got.Get(name) != want.Get(name) {
			t.Errorf("%s: %s is %q, want %q", what, name, got.Get(name), want.Get(name))
		}
	}
	for name := range got {
		if want.Get(name) == "" {
			t.Errorf("%s: %s is %q, but should not be there", what, name, got.Get(name))
		}
	}
}

func TestPeriodsAreCalendarPeriodsInUTC(t *testing.T) {
	t.Parallel()
	at := func(s string) time.Time {
		v, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, tc := range []struct{ period, now, start, end string }{
		{"day", "2026-07-15T12:00:00Z", "2026-07-15T00:00:00Z", "2026-07-16T00:00:00Z"},
		{"day", "2026-07-15T00:00:00Z", "2026-07-15T00:00:00Z", "2026-07-16T00:00:00Z"},
		{"day", "2026-07-15T23:30:00-02:00", "2026-07-16T00:00:00Z", "2026-07-17T00:00:00Z"},
		{"week", "2026-07-13T00:00:00Z", "2026-07-13T00:00:00Z", "2026-07-20T00:00:00Z"},
		{"week", "2026-07-19T23:59:59Z", "2026-07-13T00:00:00Z", "2026-07-20T00:00:00Z"},
		{"week", "2026-08-02T01:00:00Z", "2026-07-27T00:00:00Z", "2026-08-03T00:00:00Z"},
		{"week", "2027-01-01T01:00:00Z", "2026-12-28T00:00:00Z", "2027-01-04T00:00:00Z"},
		{"month", "2026-12-31T23:59:59Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"},
		{"month", "2028-02-29T12:00:00Z", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"},
		{"", "2026-07-15T12:00:00Z", "2026-07-01T00:00:00Z", "2026-08-01T00:00:00Z"},
	} {
		start, end := access.Period(tc.period, at(tc.now))
		if !start.Equal(at(tc.start)) || !end.Equal(at(tc.end)) {
			t.Errorf("%s of %s: %v to %v", tc.period, tc.now, start, end)
		}
	}
}

func TestTheHeadersOfARunningBudget(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		spent                          float64
		status, utilization, threshold string
	}{
		{0, "allowed", "0.00", ""},
		{2.9, "allowed", "0.29", ""},
		{7.49, "allowed", "0.74", ""},
		{7.5, "allowed_warning", "0.75", "0.75"},
		{9.499, "allowed_warning", "0.94", "0.75"},
		{9.5, "allowed_warning", "0.95", "0.95"},
		{9.999, "allowed_warning", "0.99", "0.95"},
		{12, "allowed_warning", "0.99", "0.95"},
	} {
		_, key, _ := oneKey(t, newClock(), withBudget(10, access.PeriodMonth))
		key.Spend(tc.spent)
		reset := strconv.FormatInt(time.Date(2026, time.August, 1, 0, 0, 0, 0, time.UTC).Unix(), 10)
		want := http.Header{
			"Anthropic-Ratelimit-Unified-Status":               {tc.status},
			"Anthropic-Ratelimit-Unified-Representative-Claim": {"overage"},
			"Anthropic-Ratelimit-Unified-Overage-Status":       {tc.status},
			"Anthropic-Ratelimit-Unified-Overage-Utilization":  {tc.utilization},
			"Anthropic-Ratelimit-Unified-Reset":                {reset},
			"Anthropic-Ratelimit-Unified-Overage-Reset":        {reset},
		}
		if tc.threshold != "" {
			want.Set("Anthropic-Ratelimit-Unified-Overage-Surpassed-Threshold", tc.threshold)
		}
		sameHeader(t, strconv.FormatFloat(tc.spent, 'f', -1, 64), key.BudgetHeader(), want)
	}
	_, uncapped, _ := oneKey(t, newClock())
	if h := uncapped.BudgetHeader(); h != nil {
		t.Errorf("a key without a budget: %v", h)
	}
}

func TestTheStoreAddsWhatOthersSpent(t *testing.T) {
	t.Parallel()
	c := newClock()
	ring, key, record := oneKey(t, c, withBudget(10, access.PeriodDay))
	sync := func(stored, want float64) {
		t.Helper()
		ring.Sync([]store.Key{record}, nil, map[string]float64{record.ID: stored})
		if got := key.Spent(); got != want {
			t.Errorf("spent %v, want %v", got, want)
		}
	}
	sync(3, 3)
	key.Spend(1)
	sync(3, 4) // its row is on its way
	sync(6, 6) // another process
	sync(0, 6) // a cleared history gives nothing back

	c.Add(12*time.Hour - time.Millisecond)
	sync(7, 7)
	c.Add(time.Second)
	sync(7, 0) // read before midnight
	c.Add(time.Minute)
	sync(0.5, 0.5)

	c.Add(-2 * time.Minute)
	if key.Spend(1); key.Spent() != 1.5 {
		t.Error("a step of the clock back forgets what was spent")
	}
	c.Add(2 * time.Minute)
	record.BudgetPeriod = access.PeriodMonth
	sync(20, 20)
	record.BudgetPeriod = access.PeriodDay
	sync(1.5, 1.5)
}

func TestOnlyRealCostsAreSpent(t *testing.T) {
	t.Parallel()
	_, key, _ := oneKey(t, newClock())
	nan := 0.0
	nan /= nan
	for _, cost := range []float64{0, -1, nan} {
		key.Spend(cost)
	}
	if spent := key.Spent(); spent != 0 {
		t.Errorf("spent %v", spent)
	}
}

func TestLimitsHoldUnderConcurrency(t *testing.T) {
	t.Parallel()
	c := newClock()
	_, key, _ := oneKey(t, c, func(k *store.Key) { k.RPM, k.MaxInFlight = 150, 4 })
	var allowed, running, most atomic.Int64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 200 {
				release, refusal := key.Begin(c.Now())
				if refusal != nil {
					continue
				}
				now := running.Add(1)
				for seen := most.Load(); now > seen && !most.CompareAndSwap(seen, now); seen = most.Load() {
				}
				allowed.Add(1)
				running.Add(-1)
				release(0.25)
			}
		})
	}
	wg.Wait()
	if n := allowed.Load(); n > 150 || key.Spent() != 0.25*float64(n) {
		t.Errorf("%d requests in a minute of 150, $%v spent", n, key.Spent())
	}
	if n := most.Load(); n > 4 {
		t.Errorf("%d requests at a time", n)
	}
}

func BenchmarkBegin(b *testing.B) {
	for name, set := range map[string]func(*store.Key){
		"unlimited": func(*store.Key) {},
		"limited":   func(k *store.Key) { k.RPM, k.MaxInFlight = 100_000, 10; withBudget(1e9, access.PeriodMonth)(k) },
	} {
		b.Run(name, func(b *testing.B) {
			c := newClock()
			_, key, _ := oneKey(b, c, set)
			b.ReportAllocs()
			for b.Loop() {
				release, refusal := key.Begin(c.Add(time.Millisecond))
				if refusal != nil {
					b.Fatal(refusal.Message)
				}
				release(0.001)
			}
		})
	}
}

// others is what another process uses of the only key.
func others(ring *access.Keyring, id string, l access.Load) {
	ring.SetOthers([]map[string]access.Load{{id: l}, {"unknown": {InFlight: 9}}})
}

func TestLimitsCountWhatOtherProcessesTell(t *testing.T) {
	t.Parallel()
	c := newClock()
	ring, key, record := oneKey(t, c, func(k *store.Key) { k.RPM, k.MaxInFlight = 4, 2 })
	release, _ := key.Begin(c.Now())
	others(ring, record.ID, access.Load{InFlight: 1, Minute: []int{1}})
	if _, refusal := key.Begin(c.Now()); refusal == nil || !strings.Contains(refusal.Message, "2 requests at a time") {
		t.Fatalf("a third at once: %+v", refusal)
	}
	if l := ring.Load()[record.ID]; l.InFlight != 1 || l.Minute[0] != 1 {
		t.Errorf("tells %+v", l)
	}
	release(0)

	c.Add(25 * time.Second)
	if l := ring.Load()[record.ID]; l.InFlight != 0 || l.Minute[2] != 1 || l.Minute[0] != 0 {
		t.Errorf("tells %+v", l)
	}
	for _, l := range []struct {
		minute []int
		wait   time.Duration // until fewer than four, of which one is ours and ends in 35 s
	}{
		{[]int{0, 0, 0, 0, 0, 3}, 10 * time.Second},
		{[]int{3, 0, 0, 0, 0, 0}, 35 * time.Second},
		{[]int{4, 0, 0, 0, 0, 0}, 60 * time.Second},
		{[]int{0, 0, 3, 0, 0, 1, 99}, 35 * time.Second},
	} {
		others(ring, record.ID, access.Load{Minute: l.minute})
		_, refusal := key.Begin(c.Now())
		if refusal == nil || refusal.RetryAfter != l.wait {
			t.Errorf("%v: %+v, want a wait of %s", l.minute, refusal, l.wait)
		}
	}
	others(ring, record.ID, access.Load{Minute: []int{2}})
	if _, refusal := key.Begin(c.Now()); refusal != nil {
		t.Errorf("a fourth: %+v", refusal)
	}
	c.Add(61 * time.Second)
	if l, ok := ring.Load()[record.ID]; !ok || l.InFlight != 1 || l.Minute != nil {
		t.Errorf("tells %+v", l)
	}
	ring.SetOthers(nil)
	if _, refusal := key.Begin(c.Now()); refusal != nil {
		t.Errorf("alone again: %+v", refusal)
	}
}

func TestSpendingElsewhereCountsWithoutReadingTheKeysAgain(t *testing.T) {
	t.Parallel()
	c := newClock()
	ring, key, record := oneKey(t, c, func(k *store.Key) { budget := 10.0; k.BudgetUSD = &budget })
	c.Add(time.Hour)
	ring.SetSpent(map[string]float64{record.ID: 10, "unknown": 1})
	if _, refusal := key.Begin(c.Now()); refusal == nil || key.Spent() != 10 {
		t.Errorf("spent %v, refused: %+v", key.Spent(), refusal)
	}
	ring.SetSpent(nil)
	if key.Spent() != 10 {
		t.Error("what was not read is forgotten")
	}
}
