package selection

import (
	"strconv"
	"strings"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
)

// Live is a copy of an account's live state.
type Live struct {
	Account
	Status      api.Status
	Reason      string    // in words; "" when available
	AvailableAt time.Time // zero = not limited, or not known
	ModelList   string    // comma-separated: its own list, else its plan's
	InFlight    int       // in all processes
	Elsewhere   int       // of these, in others
	Limits      []Limit   // those that hold now
	Windows     []Window  // that are not over
}

// Snapshot copies the live state of all accounts, in the order of the store.
func (p *Pool) Snapshot() []Live {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	out := make([]Live, 0, len(p.members))
	for _, m := range p.members {
		out = append(out, p.live(m, now))
	}
	return out
}

func (p *Pool) live(m *member, now time.Time) Live {
	l := Live{Account: m.Account, InFlight: m.seen.InFlight, Elsewhere: m.elsewhere}
	for _, w := range m.seen.Windows {
		if !w.over(now) {
			l.Windows = append(l.Windows, w)
		}
	}
	l.Status, l.Reason, l.AvailableAt = m.status(now)
	for _, limit := range m.limits {
		if limit.Until.After(now) {
			l.Limits = append(l.Limits, limit)
		}
	}
	if m.Account.Models != nil {
		l.ModelList = strings.Join(m.Account.Models, ",")
	} else {
		l.ModelList = p.plans[m.Plan].Describe()
	}
	return l
}

// status sums a member up. An account whose limits cover single families or
// models only is available: it serves the rest.
func (m *member) status(now time.Time) (api.Status, string, time.Time) {
	switch {
	case m.State == api.StatusNeedsLogin:
		return m.State, "needs a new login: " + m.StateReason, time.Time{}
	case m.State == api.StatusDisabled:
		return m.State, "disabled by the provider: " + m.StateReason, time.Time{}
	case m.Paused:
		return api.StatusPaused, "paused by the operator", time.Time{}
	}
	var worst *Limit
	var parts []string
	for i := range m.limits {
		l := &m.limits[i]
		if !l.Until.After(now) {
			continue
		}
		if l.Scope != api.ScopeAccount {
			parts = append(parts, l.Words())
		} else if worst == nil || l.Until.After(worst.Until) {
			worst = l
		}
	}
	switch {
	case worst != nil:
		return api.StatusLimited, worst.Words(), worst.Until
	case m.full():
		return api.StatusBusy, strconv.Itoa(m.seen.InFlight) + " requests running, its bound is " + strconv.Itoa(m.MaxInFlight), time.Time{}
	}
	if m.flag != "" {
		parts = append(parts, "chosen last: "+strings.ReplaceAll(m.flag, "_", " "))
	}
	return api.StatusAvailable, strings.Join(parts, "; "), time.Time{}
}
