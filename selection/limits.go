package selection

import (
	"slices"
	"time"

	"github.com/claude-balancer/claude-balancer/anthropic"
	"github.com/claude-balancer/claude-balancer/api"
)

// Limit is a bench: why and until when the account, or one family or model of
// it, is not chosen.
type Limit struct {
	Scope  string // api.ScopeAccount, api.ScopeFamily, api.ScopeModel
	Name   string // family or model
	Cause  anthropic.Cause
	Header string
	Since  time.Time
	Until  time.Time
	// Utilization of the windows it is about when it was set; 1 = not told. An
	// answer that tells of less ends the limit early.
	Utilization float64
}

// maxLimits bounds an account's limits: those of models are named by clients.
const maxLimits = 64

// limitFor returns the limit that keeps the member from serving the request
// the longest, or nil.
func (m *member) limitFor(r *Request, now time.Time) *Limit {
	var worst *Limit
	for i := range m.limits {
		l := &m.limits[i]
		if l.Until.After(now) && l.covers(r) && (worst == nil || l.Until.After(worst.Until)) {
			worst = l
		}
	}
	return worst
}

// restsBriefly reports whether the session of the request waits for the member:
// after a burst, and not for long.
func (m *member) restsBriefly(r *Request, now time.Time) bool {
	l := m.limitFor(r, now)
	return l.Cause == anthropic.CauseBurst && !l.Until.After(r.WaitUntil)
}

// covers reports whether the limit is about the request.
func (l *Limit) covers(r *Request) bool {
	switch {
	case l.ejection():
		return true // an account that fails fails for batches, files and lists too
	case !r.Generative:
		return false // they draw on nothing that messages use up
	case l.Scope == api.ScopeFamily:
		return l.Name == string(r.Family)
	case l.Scope == api.ScopeModel:
		return l.Name == r.Model
	}
	return true
}

// ejection reports whether the limit is for faults rather than for quota.
func (l *Limit) ejection() bool { return l.Cause == anthropic.CauseServerError }

// about reports whether the limit stands or falls with the window.
func (l *Limit) about(w *anthropic.Window) bool {
	family, scoped := anthropic.WindowFamily(w.Name)
	switch l.Scope {
	case api.ScopeAccount:
		return !scoped
	case api.ScopeFamily:
		return scoped && (string(family) == l.Name || family == anthropic.FamilyOther)
	}
	return false
}

// disproved reports whether the answer shows that there is room again: none of
// the windows that the limit is about is spent, and they are less used than
// when it was set.
func (l *Limit) disproved(by *anthropic.RateLimits) bool {
	switch l.Cause {
	case anthropic.CauseWindow, anthropic.CauseScopedWindow, anthropic.CauseExtraUsage:
	default:
		return false
	}
	if by.Rejected() {
		return false
	}
	told, fullest := false, -1.0
	for i := range by.Windows {
		w := &by.Windows[i]
		if !l.about(w) {
			continue
		}
		if w.Rejected() {
			return false
		}
		told, fullest = true, max(fullest, w.Utilization)
	}
	return told && fullest < l.Utilization
}

// setLimit adds the limit, or puts it in the place of the one of the same
// scope, name and cause. The answer to a request that was sent before that one
// began may be the older news: it can make it longer, but not shorter.
func (m *member) setLimit(l Limit, sent, now time.Time) {
	m.limitsDirty = true
	m.dropLimits(func(old *Limit) bool { return !old.Until.After(now) })
	for i := range m.limits {
		old := &m.limits[i]
		if old.Scope != l.Scope || old.Name != l.Name || old.Cause != l.Cause {
			continue
		}
		if !sent.After(old.Since) && old.Until.After(l.Until) {
			l.Until = old.Until
		}
		l.Since = old.Since
		*old = l
		return
	}
	if len(m.limits) >= maxLimits {
		soonest := slices.MinFunc(m.limits, func(a, b Limit) int { return a.Until.Compare(b.Until) })
		m.dropLimits(func(old *Limit) bool { return *old == soonest })
	}
	m.limits = append(m.limits, l)
}

func (m *member) dropLimits(drop func(*Limit) bool) {
	if len(m.limits) == 0 {
		return
	}
	n := len(m.limits)
	m.limits = slices.DeleteFunc(m.limits, func(l Limit) bool { return drop(&l) })
	m.limitsDirty = m.limitsDirty || len(m.limits) != n
}

// lasting returns what holds of the limits, of those with the same scope and
// name the one that ends last: the store has a place for one.
func lasting(limits []Limit, now time.Time) []Limit {
	var out []Limit
	for _, l := range limits {
		if !l.Until.After(now) {
			continue
		}
		same := slices.IndexFunc(out, func(o Limit) bool { return o.Scope == l.Scope && o.Name == l.Name })
		switch {
		case same < 0:
			out = append(out, l)
		case l.Until.After(out[same].Until):
			out[same] = l
		}
	}
	return out
}

// Words says what the limit is, without its time.
func (l *Limit) Words() string {
	text := causeWords[l.Cause]
	if text == "" { // from a database that a newer version has written
		text = string(l.Cause)
	}
	if l.Name != "" {
		text = l.Name + ": " + text
	}
	if l.Header != "" {
		text += " (" + l.Header + ")"
	}
	return text
}

// causeWords says what a limit's cause means to the operator.
var causeWords = map[anthropic.Cause]string{
	anthropic.CauseWindow:         "usage window spent",
	anthropic.CauseScopedWindow:   "usage window of this family spent",
	anthropic.CauseExtraUsage:     "usage window spent; further answers would be paid extra usage",
	anthropic.CauseNoCredit:       "no credit for this family",
	anthropic.CauseSpendLimit:     "the organization's spend limit is reached",
	anthropic.CauseAPISpend:       "the organization's own API spend limit is reached",
	anthropic.CauseBilling:        "billing needs attention",
	anthropic.CauseBurst:          "throttled after a burst",
	anthropic.CauseServerError:    "failed repeatedly while others did not",
	anthropic.CauseUnauthorized:   "a fresh login was refused",
	anthropic.CauseModelForbidden: "no access to this model",
}
