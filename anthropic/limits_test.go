package anthropic

import (
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"
)

const unified = "anthropic-ratelimit-unified-"

// The answers that were published by others; see the sources of RateLimits.

func captureB() http.Header {
	return header("retry-after", "51811", "x-should-retry", "true",
		unified+"status", "rejected", unified+"reset", "1785736800", unified+"representative-claim", "seven_day_overage_included",
		unified+"5h-status", "allowed", unified+"5h-utilization", "0.0", unified+"5h-reset", "1785685200",
		unified+"7d-status", "allowed_warning", unified+"7d-utilization", "0.94", unified+"7d-surpassed-threshold", "0.75", unified+"7d-reset", "1785736800",
		unified+"7d_oi-status", "rejected", unified+"7d_oi-utilization", "1.0", unified+"7d_oi-surpassed-threshold", "1.0", unified+"7d_oi-reset", "1785736800",
		unified+"fallback-percentage", "0.5", unified+"overage-status", "rejected", unified+"overage-disabled-reason", "org_level_disabled")
}

func captureC() http.Header { return header("x-should-retry", "true", "x-robots-tag", "none") }

func captureD() http.Header {
	return header(unified+"5h-status", "rejected", unified+"5h-reset", "1785518400", unified+"5h-utilization", "1.01")
}

func captureE() http.Header { return header(unified+"overage-disabled-reason", "out_of_credits") }

func TestParseLimitsReadsTheCapturedAnswers(t *testing.T) {
	t.Parallel()
	at := func(unix int64) time.Time { return time.Unix(unix, 0).UTC() }
	window := func(name string, used float64, status string, reset int64) Window {
		return Window{Name: name, Utilization: used, Status: status, ResetsAt: at(reset), Header: unified + name + "-status"}
	}
	orgOff := Overage{Status: "rejected", DisabledReason: "org_level_disabled"}
	nowB := at(1785736800 - 51811)
	cases := []struct {
		name string
		h    http.Header
		now  time.Time
		want RateLimits
	}{
		{"A: 5-hour window spent", captureA(), captured, RateLimits{
			Status: "rejected", Reset: at(1785518400), Claim: "five_hour", Overage: orgOff,
			Windows:    []Window{window("5h", 1.01, "rejected", 1785518400), window("7d", 0.69, "allowed", 1786006800)},
			RetryAfter: 7835 * time.Second, HasRetryAfter: true, HasAny: true,
		}},
		{"B: Fable's bucket only", captureB(), nowB, RateLimits{
			Status: "rejected", Reset: at(1785736800), Claim: "seven_day_overage_included", Overage: orgOff,
			Windows: []Window{
				{Name: "5h", Status: "allowed", ResetsAt: at(1785685200), Header: unified + "5h-status"},
				window("7d", 0.94, "allowed_warning", 1785736800), window("7d_oi", 1, "rejected", 1785736800),
			},
			RetryAfter: 51811 * time.Second, HasRetryAfter: true, HasAny: true,
		}},
		{"C: bare", captureC(), captured, RateLimits{}},
		{"D: windows only", captureD(), captured, RateLimits{Windows: []Window{window("5h", 1.01, "rejected", 1785518400)}, HasAny: true}},
		{"E: credits", captureE(), captured, RateLimits{Overage: Overage{DisabledReason: "out_of_credits"}, HasAny: true}},
		{"nothing", nil, captured, RateLimits{}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := ParseLimits(c.h, c.now); !reflect.DeepEqual(got, c.want) {
				t.Errorf("\n got %+v\nwant %+v", got, c.want)
			}
		})
	}
}

func TestParseLimitsReadsTheBucketsOfAPIKeys(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 7, 31, 10, 0, 0, 0, time.UTC)
	const p = "anthropic-ratelimit-"
	l := ParseLimits(header(
		p+"requests-limit", "50", p+"requests-remaining", "0", p+"requests-reset", "2026-07-31T10:00:20Z",
		p+"input-tokens-limit", "40000", p+"input-tokens-remaining", "10000", p+"input-tokens-reset", "2026-07-31T09:59:00Z",
		p+"tokens-limit", "100", p+"output-tokens-remaining", "5", p+"priority-input-tokens-limit", "10", p+"priority-input-tokens-remaining", "20",
	), now)
	want := []Window{
		{Name: "input-tokens", Utilization: 0.75, Header: p + "input-tokens-remaining", Limit: 40000, Remaining: 10000},
		{Name: "output-tokens", Utilization: -1, Header: p + "output-tokens-remaining", Remaining: 5},
		{Name: "priority-input-tokens", Utilization: 0, Header: p + "priority-input-tokens-remaining", Limit: 10, Remaining: 20},
		{Name: "requests", Utilization: 1, ResetsAt: now.Add(20 * time.Second), Header: p + "requests-remaining", Limit: 50},
		{Name: "tokens", Utilization: -1, Header: p + "tokens-remaining", Limit: 100},
	}
	if !reflect.DeepEqual(l.Windows, want) {
		t.Errorf("\n got %+v\nwant %+v", l.Windows, want)
	}
}

func TestResetsAreReadInEveryForm(t *testing.T) {
	t.Parallel()
	now := time.Unix(1785510000, 0).UTC()
	soon := now.Add(time.Hour)
	for value, want := range map[string]time.Time{
		"1785513600":                soon,
		"1785513600000":             soon,
		"1785513600.5":              soon.Add(500 * time.Millisecond),
		soon.Format(time.RFC3339):   soon,
		" 1785513600 ":              soon,
		"1785509999":                {}, // past
		"1785510000":                {}, // now
		"0":                         {},
		"-1785513600":               {},
		"1.7855136e9":               {},
		"0x6a6bf000":                {},
		"99999999999999999999":      {},
		"1e400":                     {},
		"":                          {},
		"soon":                      {},
		"1788510000":                now.Add(maxReset), // 35 days ahead
		"2027-07-31T10:00:00+02:00": now.Add(maxReset),
	} {
		l := ParseLimits(header(unified+"5h-reset", value, unified+"reset", value), now)
		if !l.Windows[0].ResetsAt.Equal(want) || !l.Reset.Equal(want) {
			t.Errorf("%q: window %v, summary %v, want %v", value, l.Windows[0].ResetsAt, l.Reset, want)
		}
	}
}

func TestUtilizationsAreStrictDecimals(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]float64{
		"0": 0, "0.5": 0.5, "1.01": 1.01, "12": 12,
		"": -1, "-0.5": -1, "+1": -1, ".5": -1, "1.": -1, "1e2": -1, "NaN": -1, "Inf": -1, "0x1p2": -1, "1_0": -1, "50%": -1, "1001": -1,
		strings.Repeat("1", 400): -1,
	} {
		l := ParseLimits(header(unified+"5h-utilization", value), captured)
		if got := l.Windows[0].Utilization; got != want {
			t.Errorf("%q: got %v, want %v", value, got, want)
		}
	}
}

func TestRetryAfterIsReadInEveryForm(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 7, 31, 10, 0, 0, 0, time.UTC)
	cases := []struct {
		h    http.Header
		want time.Duration
		has  bool
	}{
		{header("retry-after", "7"), 7 * time.Second, true},
		{header("retry-after", "0"), 0, true},
		{header("retry-after", "1.5"), 1500 * time.Millisecond, true},
		{header("retry-after", now.Add(time.Minute).Format(http.TimeFormat)), time.Minute, true},
		{header("retry-after", now.Add(-time.Minute).Format(http.TimeFormat)), 0, true},
		{header("retry-after", "7", "retry-after-ms", "6500"), 6500 * time.Millisecond, true},
		{header("retry-after", "99999999999999"), maxReset, true},
		{header("retry-after", "-1"), 0, false},
		{header("retry-after", "soon"), 0, false},
	}
	for _, c := range cases {
		l := ParseLimits(c.h, now)
		if l.RetryAfter != c.want || l.HasRetryAfter != c.has || !l.HasAny {
			t.Errorf("%v: %v, %v, any %v", c.h, l.RetryAfter, l.HasRetryAfter, l.HasAny)
		}
	}
	if l := ParseLimits(header("retry-after-other", "7"), now); l.HasAny {
		t.Error("another header counts")
	}
}

func TestAnyWindowNameIsReadButOffersAreNone(t *testing.T) {
	t.Parallel()
	l := ParseLimits(header(
		unified+"7d_cowork-status", "rejected", unified+"30d-utilization", "0.2", unified+"1h-surpassed-threshold", "0.5",
		unified+"overage-utilization", "0.4", unified+"overage-status", "allowed", unified+"overage-in-use", "true", unified+"overage-reset", "1787000000",
		unified+"overage-period-monthly-utilization", "0.2", unified+"overage-surpassed-threshold", "0.2",
		unified+"grace-status", "allowed", unified+"grace-5h-utilization", "0.2", unified+"slow-status", "x", unified+"slow-budget-reset", "1787000000",
		unified+"fallback", "available", unified+"fallback-percentage", "0.5", unified+"upgrade-paths", "a,b",
		unified+"new-thing", "x", unified+"-status", "x", unified+"bad name-status", "x", unified+strings.Repeat("x", 40)+"-status", "x",
	), captured)
	var names []string
	for _, w := range l.Windows {
		names = append(names, w.Name)
	}
	if want := []string{"1h", "30d", "7d_cowork"}; !reflect.DeepEqual(names, want) {
		t.Errorf("windows %q, want %q", names, want)
	}
	if o := l.Overage; o.Status != "allowed" || !o.InUse || o.Reset.IsZero() {
		t.Errorf("overage %+v", o)
	}
}

func TestTheNumberOfWindowsIsBounded(t *testing.T) {
	t.Parallel()
	h := http.Header{}
	for i := range 100 {
		h.Set(unified+"w"+strings.Repeat("x", i%30)+string(rune('a'+i%26))+"-status", "allowed")
	}
	if n := len(ParseLimits(h, captured).Windows); n != maxWindows {
		t.Errorf("%d windows, want %d", n, maxWindows)
	}
}

func TestParseLimitsAllocatesNothingWhenNothingIsTold(t *testing.T) {
	h := header("content-type", "a", "request-id", "b", "date", "c")
	if n := testing.AllocsPerRun(20, func() { ParseLimits(h, captured) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestScopedWindowsNameTheirFamily(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]struct {
		f  Family
		ok bool
	}{
		"5h": {}, "7d": {}, "requests": {}, "input-tokens": {}, "": {},
		"7d_oi": {FamilyFable, true}, "7d_opus": {FamilyOpus, true}, "7d_sonnet": {FamilySonnet, true}, "5h_haiku": {FamilyHaiku, true},
		"7d_cowork": {FamilyOther, true},
	} {
		if f, ok := WindowFamily(name); f != want.f || ok != want.ok {
			t.Errorf("%q: got %q, %v", name, f, ok)
		}
	}
}

func FuzzParseLimits(f *testing.F) {
	f.Add("5h-reset", "1785518400", "5")
	f.Add("7d_oi-utilization", "1e999", "Fri, 31 Jul 2026 10:00:00 GMT")
	f.Add("overage-reset", "2026-07-31T10:00:00Z", "-1")
	f.Fuzz(func(t *testing.T, name, value, retry string) {
		h := http.Header{"Anthropic-Ratelimit-Unified-" + name: {value}, "Anthropic-Ratelimit-" + name: {value}, "Retry-After": {retry}}
		l := ParseLimits(h, captured)
		if l.RetryAfter < 0 || l.RetryAfter > maxReset {
			t.Errorf("retry after %v", l.RetryAfter)
		}
		for _, w := range l.Windows {
			if w.Name == "" || len(w.Name) > maxWindowName || len(w.Status) > maxWord || w.Utilization > maxUtilization {
				t.Errorf("window %+v", w)
			}
			if !w.ResetsAt.IsZero() && (!w.ResetsAt.After(captured) || w.ResetsAt.After(captured.Add(maxReset))) {
				t.Errorf("resets at %v", w.ResetsAt)
			}
		}
	})
}
