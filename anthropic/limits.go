package anthropic

// What an answer's headers tell about quota.

import (
	"cmp"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	ratePrefix    = "anthropic-ratelimit-"
	unifiedPrefix = "unified-"

	maxWindows    = 16 // in one answer
	maxWindowName = 32 // bytes
	maxWord       = 64 // bytes, of a status or reason

	// The longest window lasts a week; a reset further away than this is an
	// error of the sender's.
	maxReset = 8 * 24 * time.Hour
	// Extra usage is budgeted by the month.
	maxOverageReset = 32 * 24 * time.Hour
	maxUtilization  = 1000
)

// RateLimits is what one answer told about quota. Fractions, not percent.
// Source: API reference, Rate limits (API keys); Claude Code 2.1 and
// third-party captures (unified headers of subscriptions).
type RateLimits struct {
	Status  string    // verdict on this request: allowed, allowed_warning, rejected, …; "" if not told
	Reset   time.Time // when the limit named by Claim starts anew
	Claim   string    // the limit that binds: five_hour, seven_day, …
	Windows []Window  // by name
	Overage Overage

	RetryAfter    time.Duration // at most 8 days
	HasRetryAfter bool
	HasAny        bool // there was an anthropic-ratelimit-* header or a Retry-After, readable or not
}

// Window is one usage window of a subscription ("5h", "7d", "7d_oi", …) or one
// token bucket of an API key ("requests", "tokens", "input-tokens", …).
type Window struct {
	Name        string
	Utilization float64   // 1 = used up, may be more; < 0 = not told
	Status      string    // allowed, allowed_warning, rejected; "" for buckets
	ResetsAt    time.Time // never in the past nor over 8 days ahead; zero = not told
	Header      string    // the header that says it is used up
	Limit       int64     // of a bucket; 0 for windows
	Remaining   int64     // of a bucket
}

// Overage is extra usage: money spent beyond the plan.
type Overage struct {
	Status         string // allowed, allowed_warning, rejected
	DisabledReason string // out_of_credits, org_level_disabled, …
	InUse          bool
	Reset          time.Time
}

const (
	statusRejected     = "rejected"
	statusAllowed      = "allowed"
	statusWarning      = "allowed_warning"
	reasonOutOfCredits = "out_of_credits"
)

// Paid reports whether the request was answered on extra usage: its plan's
// limit is spent, and money was allowed to step in.
func (l *RateLimits) Paid() bool {
	return l.Status == statusRejected &&
		(l.Overage.Status == statusAllowed || l.Overage.Status == statusWarning)
}

// Rejected reports whether a limit turned the request down, or would have if
// money had not stepped in.
func (l *RateLimits) Rejected() bool { return l.Status == statusRejected }

// Rejected reports whether the window is spent.
func (w *Window) Rejected() bool { return w.Status == statusRejected }

// ParseLimits reads the rate-limit headers of an answer. Numbers are strict
// decimals; a reset may be Unix seconds, Unix milliseconds or RFC 3339. What
// cannot be read counts as not told.
func ParseLimits(h http.Header, now time.Time) RateLimits {
	var p limitParser
	p.now = now
	for name, values := range h {
		if len(values) == 0 {
			continue
		}
		if rest, ok := cutPrefixFold(name, ratePrefix); ok {
			p.HasAny = true
			p.rateHeader(rest, strings.TrimSpace(values[0]))
		} else if rest, ok := cutPrefixFold(name, "retry-after"); ok {
			p.retryAfter(rest, strings.TrimSpace(values[0]))
		}
	}
	p.finish()
	return p.RateLimits
}

type limitParser struct {
	RateLimits
	now         time.Time
	exactMillis bool // Retry-After-Ms was read, which is the finer of the two
}

func (p *limitParser) rateHeader(name, value string) {
	rest, unified := cutPrefixFold(name, unifiedPrefix)
	if !unified {
		p.bucketHeader(name, value)
		return
	}
	switch {
	case strings.EqualFold(rest, "status"):
		p.Status = word(value)
	case strings.EqualFold(rest, "reset"):
		p.Reset = parseReset(value, p.now, maxReset)
	case strings.EqualFold(rest, "representative-claim"):
		p.Claim = word(value)
	default:
		p.unifiedHeader(rest, value)
	}
}

func (p *limitParser) unifiedHeader(name, value string) {
	group, _, _ := strings.Cut(name, "-")
	switch {
	case strings.EqualFold(group, "overage"):
		p.overageHeader(name[len(group):], value)
		return
	case strings.EqualFold(group, "grace"), strings.EqualFold(group, "slow"),
		strings.EqualFold(group, "fallback"), strings.EqualFold(group, "upgrade"):
		return // offers, not windows
	}
	if window, ok := cutSuffixFold(name, "-status"); ok {
		if w := p.window(window, true); w != nil {
			w.Status = word(value)
		}
	} else if window, ok := cutSuffixFold(name, "-utilization"); ok {
		if w := p.window(window, true); w != nil {
			w.Utilization = parseUtilization(value)
		}
	} else if window, ok := cutSuffixFold(name, "-surpassed-threshold"); ok {
		p.window(window, true) // says nothing that utilization does not
	} else if window, ok := cutSuffixFold(name, "-reset"); ok {
		if w := p.window(window, true); w != nil {
			w.ResetsAt = parseReset(value, p.now, maxReset)
		}
	}
}

func (p *limitParser) overageHeader(field, value string) {
	switch {
	case strings.EqualFold(field, "-status"):
		p.Overage.Status = word(value)
	case strings.EqualFold(field, "-disabled-reason"):
		p.Overage.DisabledReason = word(value)
	case strings.EqualFold(field, "-in-use"):
		p.Overage.InUse = strings.EqualFold(value, "true")
	case strings.EqualFold(field, "-reset"):
		p.Overage.Reset = parseReset(value, p.now, maxOverageReset)
	}
}

func (p *limitParser) bucketHeader(name, value string) {
	if bucket, ok := cutSuffixFold(name, "-limit"); ok {
		if w := p.window(bucket, false); w != nil {
			w.Limit = parseCount(value)
		}
	} else if bucket, ok := cutSuffixFold(name, "-remaining"); ok {
		if w := p.window(bucket, false); w != nil {
			w.Remaining = parseCount(value)
		}
	} else if bucket, ok := cutSuffixFold(name, "-reset"); ok {
		if w := p.window(bucket, false); w != nil {
			w.ResetsAt = parseReset(value, p.now, maxReset)
		}
	}
}

// Names that come with nearly every answer, to spare building them each time.
var knownWindows = []struct{ name, header string }{
	{"5h", ratePrefix + unifiedPrefix + "5h-status"},
	{"7d", ratePrefix + unifiedPrefix + "7d-status"},
	{"7d_oi", ratePrefix + unifiedPrefix + "7d_oi-status"},
	{"7d_opus", ratePrefix + unifiedPrefix + "7d_opus-status"},
	{"7d_sonnet", ratePrefix + unifiedPrefix + "7d_sonnet-status"},
	{"requests", ratePrefix + "requests-remaining"},
	{"tokens", ratePrefix + "tokens-remaining"},
	{"input-tokens", ratePrefix + "input-tokens-remaining"},
	{"output-tokens", ratePrefix + "output-tokens-remaining"},
}

// window returns the window of that name, added if it is new; nil if the name
// is none or there are too many.
func (p *limitParser) window(name string, unified bool) *Window {
	for i := range p.Windows {
		if strings.EqualFold(p.Windows[i].Name, name) {
			return &p.Windows[i]
		}
	}
	if !isWindowName(name) || len(p.Windows) == maxWindows {
		return nil
	}
	w := Window{Utilization: -1}
	for _, known := range knownWindows {
		if strings.EqualFold(known.name, name) {
			w.Name, w.Header = known.name, known.header
		}
	}
	if w.Name == "" {
		w.Name = strings.ToLower(name)
		w.Header = ratePrefix + w.Name + "-remaining"
		if unified {
			w.Header = ratePrefix + unifiedPrefix + w.Name + "-status"
		}
	}
	if !unified {
		w.Limit, w.Remaining = -1, -1 // not told yet
	}
	if p.Windows == nil {
		p.Windows = make([]Window, 0, 4)
	}
	p.Windows = append(p.Windows, w)
	return &p.Windows[len(p.Windows)-1]
}

func isWindowName(name string) bool {
	if name == "" || len(name) > maxWindowName {
		return false
	}
	for i := range len(name) {
		c := lower(name[i])
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// retryAfter reads Retry-After and Retry-After-Ms; suffix is what stands behind
// the common part of the name.
func (p *limitParser) retryAfter(suffix, value string) {
	millis := strings.EqualFold(suffix, "-ms")
	if suffix != "" && !millis {
		return
	}
	p.HasAny = true
	if p.exactMillis {
		return
	}
	wait, ok := parseWait(value, millis, p.now)
	if !ok {
		return
	}
	p.exactMillis = millis
	p.HasRetryAfter = true
	p.RetryAfter = wait
}

func parseWait(value string, millis bool, now time.Time) (wait time.Duration, ok bool) {
	if n, ok := parseDecimal(value); ok {
		if millis {
			n /= 1000
		}
		return time.Duration(min(n, maxReset.Seconds()) * float64(time.Second)), true
	}
	at, err := http.ParseTime(value)
	if err != nil || millis {
		return 0, false
	}
	return min(max(at.Sub(now), 0), maxReset), true
}

// finish brings the windows, which came in the map's order, into a fixed one
// and turns bucket counts into utilizations.
func (p *limitParser) finish() {
	slices.SortFunc(p.Windows, func(a, b Window) int { return cmp.Compare(a.Name, b.Name) })
	for i := range p.Windows {
		w := &p.Windows[i]
		if w.Limit > 0 && w.Remaining >= 0 {
			w.Utilization = max(0, 1-float64(w.Remaining)/float64(w.Limit))
		}
		w.Limit, w.Remaining = max(w.Limit, 0), max(w.Remaining, 0)
	}
}

// word bounds a status or reason: it goes into rows and labels.
func word(value string) string {
	if len(value) > maxWord || strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return ""
	}
	return strings.ToLower(value)
}

// parseDecimal reads digits with an optional fraction; no sign, no exponent.
func parseDecimal(s string) (float64, bool) {
	whole, fraction, dotted := strings.Cut(s, ".")
	if !isDigits(whole) || dotted && !isDigits(fraction) || len(s) > 24 {
		return 0, false
	}
	n, err := strconv.ParseFloat(s, 64)
	return n, err == nil
}

func isDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

func parseUtilization(s string) float64 {
	n, ok := parseDecimal(s)
	if !ok || n > maxUtilization {
		return -1
	}
	return n
}

func parseCount(s string) int64 {
	if !isDigits(s) {
		return -1
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// parseReset reads a point in time. One in the past is none, one too far ahead
// is brought to the bound.
func parseReset(s string, now time.Time, bound time.Duration) time.Time {
	at, ok := parseInstant(s)
	if !ok || !at.After(now) {
		return time.Time{}
	}
	if limit := now.Add(bound); at.After(limit) {
		return limit
	}
	return at
}

func parseInstant(s string) (time.Time, bool) {
	n, ok := parseDecimal(s)
	if !ok {
		at, err := time.Parse(time.RFC3339, s)
		return at, err == nil
	}
	const (
		firstMillis = 1e11 // as seconds this would be the year 5138
		lastMillis  = 1e14
	)
	switch {
	case n >= lastMillis:
		return time.Time{}, false
	case n >= firstMillis:
		return time.UnixMilli(int64(n)).UTC(), true
	}
	return time.UnixMilli(int64(n * 1000)).UTC(), true
}

// WindowFamily returns the family that a window limits. ok is false if it
// limits the whole account, as 5h and 7d do. A scoped window of unknown meaning
// counts for FamilyOther. Source: 7d_oi is the weekly bucket of the Fable
// family (captures of July 2026); 7d_opus and 7d_sonnet in older clients.
func WindowFamily(name string) (f Family, ok bool) {
	_, scope, scoped := strings.Cut(name, "_")
	if !scoped {
		return "", false
	}
	if scope == "oi" {
		return FamilyFable, true
	}
	return FamilyOf(scope), true
}
