package simulator

// Usage windows: the unified windows of subscriptions and the rate limits of
// API keys. They fill with each answer and reset with the clock.

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Window is a limit on what an account can use in a span of time. It starts
// with the first use and ends Length later.
type Window struct {
	// Name is the provider's, such as "5h", "7d", "7d_oi", "7d_opus"; for API
	// keys "requests", "tokens", "input-tokens" or "output-tokens".
	Name string

	// Limit is what fits. The request that passes it is still answered.
	Limit int64

	// Tokens counts input and output tokens instead of requests.
	Tokens bool

	// Length defaults to what the name says; for API keys to a minute.
	Length time.Duration

	// Family restricts the window to requests for one model family; "7d_oi"
	// (fable), "7d_opus" and "7d_sonnet" have theirs by default.
	Family string
}

// Words of the unified headers.
const (
	allowed  = "allowed"
	warning  = "allowed_warning"
	rejected = "rejected"
)

// warnAt is the utilization from which on a window's status is a warning.
const warnAt = 0.75

// claims are the names by which representative-claim calls the windows.
var claims = map[string]string{
	"5h": "five_hour", "7d": "seven_day", "7d_oi": "seven_day_overage_included",
	"7d_opus": "seven_day_opus", "7d_sonnet": "seven_day_sonnet",
}

// families of the windows that are for one model family.
var families = map[string]string{"7d_oi": "fable", "7d_opus": "opus", "7d_sonnet": "sonnet"}

// usageWindow is a Window and what is used of it.
type usageWindow struct {
	Window
	used int64
	ends time.Time // zero: not started
}

// usageWindows returns an account's windows with every default filled in.
func usageWindows(a Account) []*usageWindow {
	list := a.Windows
	if list == nil {
		list = usualWindows(a.Plan)
	}
	var windows []*usageWindow
	for _, w := range list {
		if w.Length == 0 {
			w.Length = lengthOf(w.Name)
		}
		if w.Family == "" {
			w.Family = families[w.Name]
		}
		windows = append(windows, &usageWindow{Window: w})
	}
	return windows
}

func usualWindows(plan string) []Window {
	if plan == PlanAPI {
		return []Window{{Name: "requests", Limit: 1e6}, {Name: "input-tokens", Limit: 1e12}, {Name: "output-tokens", Limit: 1e9}}
	}
	return []Window{{Name: "5h", Limit: 1e6}, {Name: "7d", Limit: 1e7}, {Name: "7d_oi", Limit: 1e7}}
}

// lengthOf reads "5h" and "7d_oi"; other names last a minute.
func lengthOf(name string) time.Duration {
	span, _, _ := strings.Cut(name, "_")
	if n, ok := strings.CutSuffix(span, "d"); ok {
		if days, err := strconv.Atoi(n); err == nil {
			return time.Duration(days) * 24 * time.Hour
		}
	}
	if d, err := time.ParseDuration(span); err == nil {
		return d
	}
	return time.Minute
}

// charge books a request for a model family on the account's windows. It
// returns the headers that tell of them and, if a spent window forbids the
// request, the refusal; nothing is booked then.
func (a *account) charge(now time.Time, family string, u usage) (http.Header, *apiError) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var apply, spent []*usageWindow
	for _, w := range a.windows {
		if w.Family != "" && w.Family != family {
			continue
		}
		w.roll(now)
		apply = append(apply, w)
		if w.used >= w.Limit {
			spent = append(spent, w)
		}
	}
	if len(apply) == 0 {
		return nil, nil
	}

	serve := len(spent) == 0 || a.ExtraUsage && a.Plan != PlanAPI
	if serve {
		for _, w := range apply {
			w.use(now, u)
		}
	}
	if a.Plan == PlanAPI {
		return bucketHeader(now, apply), bucketRefusal(now, spent)
	}
	states := make([]windowState, len(apply))
	for i, w := range apply {
		states[i] = w.state(now, slices.Contains(spent, w))
	}
	h := unifiedHeader(states)
	if a.ExtraUsage {
		setOverage(h, len(spent) > 0)
	}
	if !serve {
		return h, unifiedRefusal(now, states)
	}
	return h, nil
}

// roll ends the window if its time is over.
func (w *usageWindow) roll(now time.Time) {
	if !w.ends.IsZero() && !now.Before(w.ends) {
		w.used, w.ends = 0, time.Time{}
	}
}

func (w *usageWindow) use(now time.Time, u usage) {
	w.ends = w.reset(now)
	switch {
	case w.Name == "input-tokens":
		w.used += int64(u.input())
	case w.Name == "output-tokens":
		w.used += int64(u.Output)
	case w.Name == "tokens" || w.Tokens:
		w.used += int64(u.input() + u.Output)
	default:
		w.used++
	}
}

// reset returns when the window ends, or would if it started now. Headers have
// whole seconds, so windows end on one.
func (w *usageWindow) reset(now time.Time) time.Time {
	if w.ends.IsZero() {
		return now.Truncate(time.Second).Add(w.Length)
	}
	return w.ends
}

func (w *usageWindow) state(now time.Time, spent bool) windowState {
	s := windowState{name: w.Name, status: allowed, reset: w.reset(now), utilization: 1}
	if w.Limit > 0 {
		s.utilization = float64(w.used) / float64(w.Limit)
	}
	switch {
	case spent:
		s.status = rejected
	case s.utilization >= warnAt:
		s.status = warning
	}
	return s
}

// windowState is a window as the unified headers tell of it.
type windowState struct {
	name, status string
	utilization  float64
	reset        time.Time
}

// unifiedHeader returns the headers of a subscription's answer. Extra usage is
// switched off in them.
func unifiedHeader(states []windowState) http.Header {
	h := make(http.Header)
	claim := binding(states)
	setUnified(h, "status", claim.status)
	setUnified(h, "reset", unix(claim.reset))
	if name, ok := claims[claim.name]; ok {
		setUnified(h, "representative-claim", name)
	}
	for _, s := range states {
		setWindow(h, s)
	}
	setUnified(h, "fallback-percentage", "0.5")
	setUnified(h, "overage-status", rejected)
	setUnified(h, "overage-disabled-reason", "org_level_disabled")
	return h
}

// setWindow writes the headers of one window.
func setWindow(h http.Header, s windowState) {
	setUnified(h, s.name+"-status", s.status)
	setUnified(h, s.name+"-utilization", decimal(s.utilization))
	setUnified(h, s.name+"-reset", unix(s.reset))
	switch {
	case s.status == rejected:
		setUnified(h, s.name+"-surpassed-threshold", "1.0")
	case s.utilization >= warnAt:
		setUnified(h, s.name+"-surpassed-threshold", "0.75")
	}
}

// setOverage says that extra usage is on, and whether this answer used it.
func setOverage(h http.Header, inUse bool) {
	h.Del(unifiedPrefix + "overage-disabled-reason")
	setUnified(h, "overage-status", allowed)
	setUnified(h, "overage-in-use", strconv.FormatBool(inUse))
}

// binding returns the window that decides: of the rejected ones the one that
// resets last, else the fullest.
func binding(states []windowState) windowState {
	claim := states[0]
	for _, s := range states[1:] {
		both := s.status == rejected && claim.status == rejected
		switch {
		case both && s.reset.After(claim.reset),
			!both && s.status == rejected,
			!both && claim.status != rejected && s.utilization > claim.utilization:
			claim = s
		}
	}
	return claim
}

func unifiedRefusal(now time.Time, states []windowState) *apiError {
	h := unifiedHeader(states)
	h.Set("X-Should-Retry", "true")
	h.Set("Retry-After", seconds(binding(states).reset.Sub(now)))
	return &apiError{status: http.StatusTooManyRequests, kind: rateLimit, message: accountLimit, header: h}
}

// bucketHeader returns the headers of an API key's answer.
func bucketHeader(now time.Time, windows []*usageWindow) http.Header {
	h := make(http.Header)
	for _, w := range windows {
		prefix := "Anthropic-Ratelimit-" + w.Name + "-"
		h.Set(prefix+"limit", strconv.FormatInt(w.Limit, 10))
		h.Set(prefix+"remaining", strconv.FormatInt(max(w.Limit-w.used, 0), 10))
		h.Set(prefix+"reset", w.reset(now).UTC().Format(time.RFC3339))
	}
	return h
}

func bucketRefusal(now time.Time, spent []*usageWindow) *apiError {
	if len(spent) == 0 {
		return nil
	}
	last := slices.MaxFunc(spent, func(a, b *usageWindow) int { return a.ends.Compare(b.ends) })
	return &apiError{
		status: http.StatusTooManyRequests, kind: rateLimit,
		message: "This request would exceed your organization's rate limit of " +
			strconv.FormatInt(last.Limit, 10) + " " + strings.ReplaceAll(last.Name, "-", " ") + " per minute.",
		header: http.Header{"Retry-After": {seconds(last.reset(now).Sub(now))}, "X-Should-Retry": {"true"}},
	}
}

const (
	unifiedPrefix = "Anthropic-Ratelimit-Unified-"
	accountLimit  = "This request would exceed your account's rate limit. Please try again later."
)

func setUnified(h http.Header, suffix, value string) { h.Set(unifiedPrefix+suffix, value) }

func unix(t time.Time) string { return strconv.FormatInt(t.Unix(), 10) }

// seconds rounds a wait up to whole seconds, as Retry-After has them.
func seconds(d time.Duration) string {
	return strconv.FormatInt(int64(max(d+time.Second-1, 0)/time.Second), 10)
}

// decimal writes a utilization with a point and up to four places: 0.0, 0.69.
func decimal(f float64) string {
	s := strings.TrimRight(strconv.FormatFloat(f, 'f', 4, 64), "0")
	if strings.HasSuffix(s, ".") {
		s += "0"
	}
	return s
}
