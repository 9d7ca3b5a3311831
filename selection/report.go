package selection

import (
	"time"

	"github.com/claude-balancer/claude-balancer/anthropic"
	"github.com/claude-balancer/claude-balancer/api"
)

// Report is what a try told about its account.
type Report struct {
	RequestID string
	Verdict   anthropic.Verdict
	// SpendExtraUsage keeps accounts in use that answer on paid extra usage.
	SpendExtraUsage bool
}

// Bounds of the account's own benches, in time.
const (
	ejectionBase     = 10 * time.Second
	ejectionMax      = 5 * time.Minute
	failuresToEject  = 3
	refusalsToLogin  = 2
	burstBase        = time.Second
	burstMax         = time.Minute
	incidentWindow   = 10 * time.Second
	windowsSaveEvery = 10 * time.Second
)

// Report applies a verdict to the account. The ticket stays valid: a stream may
// report again when it breaks.
func (t *Ticket) Report(rep Report) {
	p, m, v := t.pool, t.member, rep.Verdict
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	m.learn(v.Limits, t.start, now)
	switch {
	case v.Cause == anthropic.CauseOK, v.Cause == anthropic.CauseExtraUsage:
		p.succeeded(t, rep, now)
	case v.Failure:
		p.failed(t, rep, now)
	case v.Penalty:
		m.overloadedAt, m.troubledAt = now, now
		t.endProbe()
	case v.Cause == anthropic.CauseBurst && v.Scope == anthropic.ScopeFamily:
		p.throttled(t, v, now)
	case v.Cause == anthropic.CauseUnauthorized && m.Kind != api.KindOAuth:
		p.refused(t, rep)
	case v.Scope != anthropic.ScopeNone:
		m.bench(v, now, p.jitter(v))
	}
	if v.Flag != "" {
		m.flag = v.Flag
	}
	if v.Disable {
		m.State, m.StateReason = api.StatusDisabled, v.Message
	}
	p.notice(m, now)
	p.serveWaiting()
}

func (p *Pool) jitter(v anthropic.Verdict) time.Duration {
	if !v.Jitter {
		return 0
	}
	return time.Second + time.Duration(p.rand.Int64N(int64(29*time.Second)))
}

func (m *member) bench(v anthropic.Verdict, now time.Time, jitter time.Duration) {
	l := Limit{Cause: v.Cause, Header: v.Header, Since: now, Until: v.Until.Add(jitter), Utilization: m.fullest()}
	switch v.Scope {
	case anthropic.ScopeFamily:
		l.Scope, l.Name = api.ScopeFamily, string(v.Family)
	case anthropic.ScopeModel:
		l.Scope, l.Name = api.ScopeModel, v.Model
	default:
		l.Scope = api.ScopeAccount
	}
	m.setLimit(l)
}

func (p *Pool) succeeded(t *Ticket, rep Report, now time.Time) {
	m, r := t.member, t.request
	m.lastSuccess = now
	m.failures, m.ejections, m.probation = 0, 0, false
	m.refused401, m.lastRefused = 0, ""
	t.endProbe()
	m.dropLimits(func(l *Limit) bool {
		switch {
		case l.Since.After(t.start): // the answer is older than the limit
			return false
		case l.Cause == anthropic.CauseServerError:
			return true
		case !r.Generative || rep.Verdict.Cause == anthropic.CauseExtraUsage:
			return false
		}
		return l.covers(r)
	})
	if r.Generative && m.flag != "" && rep.Verdict.Flag == "" {
		m.flag = ""
	}
	if rep.Verdict.Cause == anthropic.CauseExtraUsage && !rep.SpendExtraUsage && p.othersCanServe(m, r, now) {
		m.bench(rep.Verdict, now, 0)
	}
	if r.Session != "" {
		p.sessions.set(r.Session, m.ID, now, r.Keep, p.whyMoved(r, now))
	}
}

// whyMoved says in one word why the session's former account did not serve.
func (p *Pool) whyMoved(r *Request, now time.Time) string {
	m := p.byID[p.sessions.get(r.Session, now, r.Keep)]
	if m == nil {
		return "removed"
	}
	if o := m.obstacleFor(r, now); o != free {
		return o.word()
	}
	return "failed"
}

func (p *Pool) othersCanServe(m *member, r *Request, now time.Time) bool {
	for _, o := range p.members {
		if o == m {
			continue
		}
		if k := o.obstacleFor(r, now); k == free || k == busy {
			return true
		}
	}
	return false
}

// failed counts a fault towards ejection: one for each request, and only when
// it is this account that fails rather than the provider as a whole.
func (p *Pool) failed(t *Ticket, rep Report, now time.Time) {
	m := t.member
	m.troubledAt = now
	onProbation := t.probe
	t.endProbe()
	if m.lastFailed == rep.RequestID {
		return
	}
	m.lastFailed = rep.RequestID
	if m.failures == 0 {
		m.failingSince = now
	}
	m.failures++
	if !onProbation && (m.failures < failuresToEject || !p.successElsewhere(m)) {
		return
	}
	if !p.mayEject(m, now) {
		return
	}
	bench := ejectionMax
	if m.ejections < 5 {
		bench = min(ejectionMax, ejectionBase<<m.ejections)
	}
	m.ejections++
	m.probation = true
	m.setLimit(Limit{Scope: api.ScopeAccount, Cause: anthropic.CauseServerError, Since: now, Until: now.Add(bench), Utilization: -1})
}

func (p *Pool) successElsewhere(m *member) bool {
	for _, o := range p.members {
		if o != m && !o.lastSuccess.Before(m.failingSince) {
			return true
		}
	}
	return false
}

// mayEject keeps at least half of the pool in use: faults that hit more than
// that are the provider's.
func (p *Pool) mayEject(m *member, now time.Time) bool {
	ejected := 1
	for _, o := range p.members {
		if o == m {
			continue
		}
		for i := range o.limits {
			if o.limits[i].Cause == anthropic.CauseServerError && o.limits[i].Until.After(now) {
				ejected++
			}
		}
	}
	return 2*ejected <= len(p.members)
}

// throttled benches a family after a burst. Answers to requests that were on
// their way when the bench began say nothing new.
func (p *Pool) throttled(t *Ticket, v anthropic.Verdict, now time.Time) {
	m, family := t.member, t.request.Family
	for i := range m.limits {
		l := &m.limits[i]
		if l.Cause == anthropic.CauseBurst && l.Name == string(family) && l.Until.After(now) && !t.start.After(l.Since) {
			return
		}
	}
	until := v.Until
	if until.IsZero() {
		if m.bursts == nil {
			m.bursts = make(map[anthropic.Family]burst)
		}
		b := m.bursts[family]
		if b.step == 0 || now.Sub(b.until) > burstMax {
			b.step = burstBase
		} else {
			b.step = min(burstMax, 2*b.step)
		}
		until = now.Add(b.step)
		b.until = until
		m.bursts[family] = b
	}
	if limit := now.Add(burstMax); until.After(limit) {
		until = limit
	}
	m.setLimit(Limit{Scope: api.ScopeFamily, Name: string(family), Cause: v.Cause, Header: v.Header, Since: now, Until: until, Utilization: m.fullest()})
}

// refused counts refusals of a credential that cannot be refreshed.
func (p *Pool) refused(t *Ticket, rep Report) {
	m := t.member
	if m.lastRefused == rep.RequestID {
		return
	}
	m.lastRefused = rep.RequestID
	m.refused401++
	if m.refused401 >= refusalsToLogin {
		m.State, m.StateReason = api.StatusNeedsLogin, "the provider refuses its credential: "+rep.Verdict.Message
	}
}

// learn takes over the windows that the answer told, and ends limits whose
// window has room again.
func (m *member) learn(l anthropic.RateLimits, start, now time.Time) {
	if len(l.Windows) == 0 {
		return
	}
	rejected, told := false, false
	for _, w := range l.Windows {
		m.setWindow(w, now)
		if _, scoped := anthropic.WindowFamily(w.Name); !scoped {
			told = true
			rejected = rejected || w.Status == "rejected"
		}
	}
	m.windowsDirty = true
	if !told || rejected || l.Status == "rejected" {
		return
	}
	fullest := -1.0
	for _, w := range l.Windows {
		fullest = max(fullest, w.Utilization)
	}
	m.dropLimits(func(old *Limit) bool {
		return old.Cause == anthropic.CauseWindow && !old.Since.After(start) && fullest < old.Utilization
	})
}

func (m *member) setWindow(w anthropic.Window, now time.Time) {
	for i := range m.windows {
		if m.windows[i].Name == w.Name {
			m.windows[i] = Window{w, now}
			return
		}
	}
	m.windows = append(m.windows, Window{w, now})
}

// Incident reports whether every account that may serve the request met an
// overload or a fault within the last seconds: the provider's trouble, which
// more tries only make worse.
func (p *Pool) Incident(r *Request) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	r.access = p.modelAccess(r.Model)
	seen := false
	for _, m := range p.members {
		if o := m.obstacleFor(r, now); o != free && o != busy && o != onProbation {
			continue
		}
		if now.Sub(m.troubledAt) >= incidentWindow {
			return false
		}
		seen = true
	}
	return seen
}

// SetState puts an account into needs_login or disabled, or back with "".
func (p *Pool) SetState(id string, state api.Status, reason string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.byID[id]
	if m == nil {
		return
	}
	m.State, m.StateReason = state, reason
	p.notice(m, p.now())
	p.serveWaiting()
}

// LoginRenewed ends what an account was benched for because of its login.
func (p *Pool) LoginRenewed(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.byID[id]
	if m == nil {
		return
	}
	m.refused401, m.lastRefused = 0, ""
	if m.State == api.StatusNeedsLogin {
		m.State, m.StateReason = "", ""
	}
	m.dropLimits(func(l *Limit) bool { return l.Cause == anthropic.CauseUnauthorized })
	p.notice(m, p.now())
	p.serveWaiting()
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

// ClearLimits ends every bench of the account, its disabled state and its
// flag.
func (p *Pool) ClearLimits(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.byID[id]
	if m == nil {
		return
	}
	m.dropLimits(func(*Limit) bool { return true })
	m.failures, m.ejections, m.probation = 0, 0, false
	m.overloadedAt, m.troubledAt = time.Time{}, time.Time{}
	m.bursts, m.flag = nil, ""
	if m.State == api.StatusDisabled {
		m.State, m.StateReason = "", ""
	}
	p.notice(m, p.now())
	p.serveWaiting()
}
