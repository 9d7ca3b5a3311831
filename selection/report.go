package selection

import (
	"time"

	"github.com/claude-balancer/claude-balancer/anthropic"
	"github.com/claude-balancer/claude-balancer/api"
)

// Report is what a try told about its account.
type Report struct {
	RequestID string
	// Sent is when the try began; zero = when its ticket was issued. A limit that
	// began later is not touched by what the try says.
	Sent    time.Time
	Verdict anthropic.Verdict
	// SpendExtraUsage keeps accounts in use that answer on paid extra usage.
	SpendExtraUsage bool
}

const (
	refusalsToLogin = 2
	burstBase       = time.Second
	burstMax        = time.Minute
)

// Report applies a verdict to the account. The ticket stays valid: a stream may
// report again when it breaks.
func (t *Ticket) Report(rep Report) {
	p, m, v := t.pool, t.member, &rep.Verdict
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.byID[m.ID] != m {
		return // removed meanwhile
	}
	if rep.Sent.IsZero() {
		rep.Sent = t.start
	}
	now := p.look(t.request) // plans may have changed
	m.learn(&v.Limits, rep.Sent, now)
	if !v.Failure && !v.Penalty {
		m.failing = nil // it answers
	}
	switch {
	case v.Cause == anthropic.CauseOK, v.Cause == anthropic.CauseExtraUsage:
		p.succeeded(t, &rep, now)
	case v.Failure:
		p.failed(t, &rep, now)
	case v.Penalty:
		m.overloadedAt, m.troubledAt = now, now
		t.endProbe()
	case v.Cause == anthropic.CauseBurst && v.Scope == anthropic.ScopeFamily:
		m.throttled(v, rep.Sent, now)
	case v.Cause == anthropic.CauseUnauthorized && m.Kind != api.KindOAuth:
		m.refused(&rep)
	case v.Scope != anthropic.ScopeNone:
		m.bench(v, p.jitter(v), rep.Sent, now)
	}
	if v.Flag != "" {
		m.flag = v.Flag
	}
	if v.Disable {
		m.found(api.StatusDisabled, v.Message)
	}
	p.notice(m, now)
	p.serveWaiting()
}

// learn takes over the windows that the answer told, and ends limits whose
// windows have room again.
func (m *member) learn(told *anthropic.RateLimits, sent, now time.Time) {
	if len(told.Windows) == 0 {
		return
	}
	for _, w := range told.Windows {
		m.setWindow(w, now)
	}
	m.windowsDirty = true
	m.dropLimits(func(l *Limit) bool { return sent.After(l.Since) && l.disproved(told) })
}

func (m *member) setWindow(w anthropic.Window, now time.Time) {
	for i := range m.seen.Windows {
		if m.seen.Windows[i].Name == w.Name {
			m.seen.Windows[i] = Window{w, now}
			return
		}
	}
	m.seen.Windows = append(m.seen.Windows, Window{w, now})
}

func (p *Pool) jitter(v *anthropic.Verdict) time.Duration {
	if !v.Jitter {
		return 0
	}
	return time.Second + time.Duration(p.rand.Int64N(int64(29*time.Second)))
}

func (m *member) bench(v *anthropic.Verdict, jitter time.Duration, sent, now time.Time) {
	l := Limit{Cause: v.Cause, Header: v.Header, Since: now, Until: v.Until.Add(jitter)}
	switch v.Scope {
	case anthropic.ScopeFamily:
		l.Scope, l.Name = api.ScopeFamily, string(v.Family)
	case anthropic.ScopeModel:
		l.Scope, l.Name = api.ScopeModel, v.Model
	default:
		l.Scope = api.ScopeAccount
	}
	l.Utilization = m.usedOf(&l, now)
	m.setLimit(l, sent, now)
}

// usedOf is the utilization of the fullest window that the limit is about.
func (m *member) usedOf(l *Limit, now time.Time) float64 {
	used := -1.0
	for i := range m.seen.Windows {
		if w := &m.seen.Windows[i]; l.about(&w.Window) && !w.over(now) {
			used = max(used, w.Utilization)
		}
	}
	if used < 0 {
		return 1
	}
	return used
}

func (p *Pool) succeeded(t *Ticket, rep *Report, now time.Time) {
	m, r := t.member, t.request
	paid := rep.Verdict.Cause == anthropic.CauseExtraUsage
	m.recovered(rep.Sent, now)
	m.refused401, m.lastRefused = 0, ""
	t.endProbe()
	m.dropLimits(func(l *Limit) bool {
		return rep.Sent.After(l.Since) && l.covers(r) && (l.ejection() || !paid)
	})
	if r.Generative && rep.Verdict.Flag == "" {
		m.flag = ""
	}
	if paid && !rep.SpendExtraUsage && p.othersCanServe(m, r, now) {
		m.bench(&rep.Verdict, p.jitter(&rep.Verdict), rep.Sent, now)
	}
	if r.Session != "" {
		p.sessions.set(t, rep.Sent, now)
	}
}

// burst remembers how throttling of a family has grown.
type burst struct {
	step  time.Duration // of the last rest whose end was not told
	since time.Time     // the last rest's beginning
	until time.Time     // and its end
}

// throttled benches a family after a burst. Answers to requests that were on
// their way when the rest began say nothing new.
func (m *member) throttled(v *anthropic.Verdict, sent, now time.Time) {
	b := m.bursts[v.Family]
	if !sent.After(b.since) {
		return
	}
	until := v.Until
	if until.IsZero() {
		if b.step == 0 || now.Sub(b.until) > burstMax {
			b.step = burstBase
		} else {
			b.step = min(burstMax, 2*b.step)
		}
		until = now.Add(b.step)
	}
	if limit := now.Add(burstMax); until.After(limit) {
		until = limit
	}
	b.since, b.until = now, until
	if m.bursts == nil {
		m.bursts = make(map[anthropic.Family]burst)
	}
	m.bursts[v.Family] = b
	rest := *v
	rest.Until = until
	m.bench(&rest, 0, sent, now)
}

// refused counts refusals of a credential that cannot be refreshed.
func (m *member) refused(rep *Report) {
	if m.lastRefused == rep.RequestID {
		return
	}
	m.lastRefused = rep.RequestID
	m.refused401++
	if m.refused401 >= refusalsToLogin {
		m.found(api.StatusNeedsLogin, "the provider refuses its credential: "+rep.Verdict.Message)
	}
}

// found puts the account out of service, which has to be stored.
func (m *member) found(state api.Status, reason string) {
	m.State, m.StateReason, m.stateDirty = state, reason, true
}

// change applies an operator's or the token source's decision to an account.
func (p *Pool) change(id string, f func(m *member)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.byID[id]
	if m == nil {
		return
	}
	f(m)
	p.notice(m, p.now())
	p.serveWaiting()
}

// SetState puts an account into needs_login or disabled, or back with "".
func (p *Pool) SetState(id string, state api.Status, reason string) {
	p.change(id, func(m *member) { m.State, m.StateReason, m.stateDirty = state, reason, false })
}

// NameOf returns the account's name, "" if there is no such account.
func (p *Pool) NameOf(id string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m := p.byID[id]; m != nil {
		return m.Name
	}
	return ""
}

// LoginRenewed ends what an account was benched for because of its login.
func (p *Pool) LoginRenewed(id string) {
	p.change(id, func(m *member) {
		m.refused401, m.lastRefused = 0, ""
		if m.State == api.StatusNeedsLogin {
			m.State, m.StateReason, m.stateDirty = "", "", false
		}
		m.dropLimits(func(l *Limit) bool { return l.Cause == anthropic.CauseUnauthorized })
	})
}

// ClearLimits ends every bench of the account, its disabled state and its
// flag.
func (p *Pool) ClearLimits(id string) {
	p.change(id, func(m *member) {
		m.dropLimits(func(*Limit) bool { return true })
		m.faults = faults{lastSuccess: m.lastSuccess, probing: m.probing}
		m.overloadedAt, m.probedAt = time.Time{}, time.Time{}
		m.bursts, m.flag = nil, ""
		if m.State == api.StatusDisabled {
			m.State, m.StateReason, m.stateDirty = "", "", false
		}
	})
}
