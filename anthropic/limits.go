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
	p := limitParser{now: now}
	for name, values := range h {
		if len(values) == 0 || !mayBeLimit(name) {
			continue
		}
		f, usual := usualFields[name]
		if !usual {
			f = readLimitField(name)
		}
		if f.kind == noField {
			continue
		}
		p.HasAny = true
		p.take(f, strings.TrimSpace(values[0]))
	}
	p.finish()
	return p.RateLimits
}

// mayBeLimit sorts out most headers by their length alone.
func mayBeLimit(name string) bool {
	return len(name) > len(ratePrefix) || len(name) == len("retry-after") || len(name) == len("retry-after-ms")
}

// limitField is what the name of a header says that its value is.
type limitField struct {
	kind   fieldKind
	window string // of a window's or bucket's field
	header string // that tells that the window is used up
}

type fieldKind uint8

const (
	noField fieldKind = iota
	unknownField
	retryAfter
	retryAfterMs
	overallStatus
	overallReset
	overallClaim
	overageStatus
	overageReason
	overageInUse
	overageReset
	windowStatus
	windowUtilization
	windowReset
	windowThreshold // says nothing that utilization does not
	bucketLimit
	bucketRemaining
	bucketReset
)

// What stands behind the prefixes: of subscriptions, of each of their windows, of
// each bucket of an API key.
var (
	unifiedFields = map[string]fieldKind{
		"status": overallStatus, "reset": overallReset, "representative-claim": overallClaim,
		"overage-status": overageStatus, "overage-disabled-reason": overageReason, "overage-in-use": overageInUse, "overage-reset": overageReset,
	}
	windowFields = map[string]fieldKind{
		"-status": windowStatus, "-utilization": windowUtilization, "-reset": windowReset, "-surpassed-threshold": windowThreshold,
	}
	bucketFields = map[string]fieldKind{"-limit": bucketLimit, "-remaining": bucketRemaining, "-reset": bucketReset}
)

// usualFields are the headers that come with nearly every answer, spelled as
// net/http spells them: taking a name apart costs more than looking it up.
var usualFields = readUsualFields()

func readUsualFields() map[string]limitField {
	fields := make(map[string]limitField)
	add := func(name string) { fields[http.CanonicalHeaderKey(name)] = readLimitField(name) }
	for name := range unifiedFields {
		add(ratePrefix + unifiedPrefix + name)
	}
	for _, window := range []string{"5h", "7d", "7d_oi", "7d_opus", "7d_sonnet"} {
		for field := range windowFields {
			add(ratePrefix + unifiedPrefix + window + field)
		}
	}
	for _, bucket := range []string{"requests", "tokens", "input-tokens", "output-tokens"} {
		for field := range bucketFields {
			add(ratePrefix + bucket + field)
		}
	}
	return fields
}

// readLimitField takes a header's name apart, in any spelling.
func readLimitField(name string) limitField {
	if rest, ok := cutPrefixFold(name, ratePrefix); ok {
		if unified, ok := cutPrefixFold(rest, unifiedPrefix); ok {
			return unifiedField(unified)
		}
		return bucketField(rest)
	}
	switch {
	case strings.EqualFold(name, "retry-after"):
		return limitField{kind: retryAfter}
	case strings.EqualFold(name, "retry-after-ms"):
		return limitField{kind: retryAfterMs}
	}
	return limitField{}
}

func unifiedField(name string) limitField {
	name = strings.ToLower(name)
	if kind, ok := unifiedFields[name]; ok {
		return limitField{kind: kind}
	}
	switch group, _, _ := strings.Cut(name, "-"); group {
	case "overage", "grace", "slow", "fallback", "upgrade":
		return limitField{kind: unknownField} // offers, not windows
	}
	return windowField(name, unifiedPrefix, "-status", windowFields)
}

func bucketField(name string) limitField {
	return windowField(strings.ToLower(name), "", "-remaining", bucketFields)
}

// windowField reads the name of a window and of one of its fields. telling is
// the field whose header tells that the window is used up.
func windowField(name, prefix, telling string, fields map[string]fieldKind) limitField {
	for suffix, kind := range fields {
		if window, ok := strings.CutSuffix(name, suffix); ok && isWindowName(window) {
			return limitField{kind, window, ratePrefix + prefix + window + telling}
		}
	}
	return limitField{kind: unknownField}
}

type limitParser struct {
	RateLimits
	now         time.Time
	exactMillis bool // Retry-After-Ms was read, which is the finer of the two
}

// take reads the value of a field.
func (p *limitParser) take(f limitField, value string) {
	switch f.kind {
	case retryAfter, retryAfterMs:
		p.retryAfter(value, f.kind == retryAfterMs)
	case overallStatus:
		p.Status = word(value)
	case overallReset:
		p.Reset = parseReset(value, p.now, maxReset)
	case overallClaim:
		p.Claim = word(value)
	case overageStatus:
		p.Overage.Status = word(value)
	case overageReason:
		p.Overage.DisabledReason = word(value)
	case overageInUse:
		p.Overage.InUse = strings.EqualFold(value, "true")
	case overageReset:
		p.Overage.Reset = parseReset(value, p.now, maxOverageReset)
	default:
		if w := p.window(f); w != nil {
			p.takeWindow(w, f.kind, value)
		}
	}
}

func (p *limitParser) takeWindow(w *Window, kind fieldKind, value string) {
	switch kind {
	case windowStatus:
		w.Status = word(value)
	case windowUtilization:
		w.Utilization = parseUtilization(value)
	case bucketLimit:
		w.Limit = parseCount(value)
	case bucketRemaining:
		w.Remaining = parseCount(value)
	case windowReset, bucketReset:
		w.ResetsAt = parseReset(value, p.now, maxReset)
	}
}

// window returns the field's window, added if it is new; nil if it has none or
// there are too many.
func (p *limitParser) window(f limitField) *Window {
	for i := range p.Windows {
		if p.Windows[i].Name == f.window {
			return &p.Windows[i]
		}
	}
	if f.window == "" || len(p.Windows) == maxWindows {
		return nil
	}
	if p.Windows == nil {
		p.Windows = make([]Window, 0, 4)
	}
	// Limit and Remaining are not told yet.
	p.Windows = append(p.Windows, Window{Name: f.window, Header: f.header, Utilization: -1, Limit: -1, Remaining: -1})
	return &p.Windows[len(p.Windows)-1]
}

func isWindowName(name string) bool {
	if name == "" || len(name) > maxWindowName {
		return false
	}
	for i := range len(name) {
		c := name[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// retryAfter reads Retry-After, or Retry-After-Ms.
func (p *limitParser) retryAfter(value string, millis bool) {
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
