package selection

import (
	"slices"
	"time"

	"github.com/claude-balancer/claude-balancer/anthropic"
	"github.com/claude-balancer/claude-balancer/api"
)

// Accounts that fail while others do not are ejected: benched for a while, then
// tried with one real request at a time until one succeeds. A fault that hits
// many accounts is the provider's, and benches nobody.

// faults is what a member's failures have led to.
type faults struct {
	failing      []string // ids of the distinct requests in a row that met a fault
	failingSince time.Time
	lastSuccess  time.Time
	troubledAt   time.Time // last 529 or fault
	ejectedAt    time.Time
	ejections    int  // without a success in between
	probation    bool // half-open: one request at a time until a success
	probing      int
}

const (
	ejectionBase    = 10 * time.Second
	ejectionMax     = 5 * time.Minute
	failuresToEject = 3
	incidentWindow  = 10 * time.Second
)

// failed counts a fault towards ejection: one for each request, and only when
// it is this account that fails rather than the provider as a whole.
func (p *Pool) failed(t *Ticket, rep *Report, now time.Time) {
	m := t.member
	m.troubledAt = now
	probe := t.probe
	t.endProbe()
	if rep.Sent.Before(m.ejectedAt) {
		return // it was on its way when the account was ejected
	}
	if len(m.failing) == 0 {
		m.failingSince = now
	}
	if len(m.failing) < failuresToEject && !slices.Contains(m.failing, rep.RequestID) {
		m.failing = append(m.failing, rep.RequestID)
	}
	again := probe && m.probation
	if !again && (len(m.failing) < failuresToEject || !p.successElsewhere(m)) || !p.mayEject(m, t.request, now) {
		return
	}
	rest := ejectionMax
	if m.ejections < 5 { // 10 s × 2⁵ is above the bound
		rest = min(ejectionMax, ejectionBase<<m.ejections)
	}
	m.ejections++
	m.ejectedAt, m.probation, m.failing = now, true, nil
	m.setLimit(Limit{
		Scope: api.ScopeAccount, Cause: anthropic.CauseServerError, Since: now, Until: now.Add(rest), Utilization: 1,
	}, rep.Sent, now)
}

// recovered ends what faults have led to. A success of a request from before
// the ejection shows only that the row of failures was none.
func (m *member) recovered(sent, now time.Time) {
	m.lastSuccess, m.troubledAt, m.failing = now, time.Time{}, nil
	if !sent.Before(m.ejectedAt) {
		m.ejections, m.probation = 0, false
	}
}

func (p *Pool) successElsewhere(m *member) bool {
	for _, o := range p.members {
		if o != m && !o.lastSuccess.Before(m.failingSince) {
			return true
		}
	}
	return false
}

// mayEject keeps at least half of the accounts that are in use, and for this
// request at least one.
func (p *Pool) mayEject(m *member, r *Request, now time.Time) bool {
	inUse, ejected := 0, 1
	for _, o := range p.members {
		if o.State != "" || o.Paused || o.rests(now) {
			continue
		}
		inUse++
		if o != m && o.ejected(now) {
			ejected++
		}
	}
	return 2*ejected <= inUse && p.othersCanServe(m, r, now)
}

// rests reports whether the whole account is benched for its quota.
func (m *member) rests(now time.Time) bool {
	return slices.ContainsFunc(m.limits, func(l Limit) bool {
		return l.Scope == api.ScopeAccount && !l.ejection() && l.Until.After(now)
	})
}

func (m *member) ejected(now time.Time) bool {
	return slices.ContainsFunc(m.limits, func(l Limit) bool { return l.ejection() && l.Until.After(now) })
}

func (p *Pool) othersCanServe(m *member, r *Request, now time.Time) bool {
	return slices.ContainsFunc(p.members, func(o *member) bool {
		if o == m {
			return false
		}
		k := o.obstacleFor(r, now)
		return k == free || k == busy
	})
}

// Incident reports whether every account that may serve the request met an
// overload or a fault within the last seconds, and no success since: the
// provider's trouble, which more tries only make worse.
func (p *Pool) Incident(r *Request) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.look(r)
	seen := false
	for _, m := range p.members {
		if o := m.obstacleFor(r, now); o != free && o != busy && o != onProbation {
			continue
		}
		if m.troubledAt.IsZero() || now.Sub(m.troubledAt) >= incidentWindow {
			return false
		}
		seen = true
	}
	return seen
}
