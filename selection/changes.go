package selection

import (
	"slices"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
)

// Notice tells that an account's state changed.
type Notice struct {
	AccountID   string
	Account     string
	Status      api.Status
	Reason      string // in words
	StateReason string // of needs_login and disabled, to be stored
	Until       time.Time
}

// notice is called after every change of a member, and now and then.
func (p *Pool) notice(m *member, now time.Time) {
	m.dropLimits(func(l *Limit) bool { return !l.Until.After(now) })
	if now.Sub(m.overloadedAt) >= overloadPenalty {
		m.overloadedAt = time.Time{}
	}
	m.plain = m.isPlain()
	status, reason, until := m.status(now)
	if status == api.StatusBusy { // not worth telling
		status = api.StatusAvailable
	}
	if status != m.noticedStatus {
		m.noticedStatus = status
		p.notices = append(p.notices, Notice{m.ID, m.Name, status, reason, m.StateReason, until})
	}
	if len(p.notices) > 0 || m.limitsDirty {
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
}

// Changed is signaled when there are notices to take or limits to store. What
// changes by the passing of time, and windows, signal nothing: look every now
// and then.
func (p *Pool) Changed() <-chan struct{} { return p.wake }

// TakeNotices returns the changes of state since the last call, those by the
// passing of time included.
func (p *Pool) TakeNotices() []Notice {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	for _, m := range p.members {
		p.notice(m, now)
	}
	out := p.notices
	p.notices = nil
	select {
	case <-p.wake: // it was for these
	default:
	}
	return out
}

// Dirty is what has to be stored of an account.
type Dirty struct {
	AccountID string
	Limits    []Limit // all that hold, if HasLimits
	HasLimits bool    // they changed
	Windows   []Window
}

// windowsSaveEvery is how often an account's windows are stored at most.
const windowsSaveEvery = 10 * time.Second

// TakeDirty returns what changed since the last call: limits at once, windows
// every few seconds at most.
func (p *Pool) TakeDirty() []Dirty {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	var out []Dirty
	for _, m := range p.members {
		d := Dirty{AccountID: m.ID}
		if m.limitsDirty {
			m.limitsDirty = false
			d.Limits, d.HasLimits = lasting(m.limits, now), true
		}
		if m.windowsDirty && now.Sub(m.windowsSaved) >= windowsSaveEvery {
			m.windowsDirty, m.windowsSaved = false, now
			d.Windows = slices.Clone(m.seen.Windows)
		}
		if d.HasLimits || d.Windows != nil {
			out = append(out, d)
		}
	}
	return out
}

// NotSaved gives back what TakeDirty returned of an account, for the next call.
func (p *Pool) NotSaved(d Dirty) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m := p.byID[d.AccountID]; m != nil {
		m.limitsDirty = m.limitsDirty || d.HasLimits
		m.windowsDirty = m.windowsDirty || d.Windows != nil
	}
}

// Restore puts stored limits and windows back.
func (p *Pool) Restore(limits map[string][]Limit, windows map[string][]Window) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	for id, m := range p.byID {
		for _, l := range limits[id] {
			if l.Until.After(now) {
				m.limits = append(m.limits, l)
				m.probation = m.probation || l.ejection()
			}
		}
		m.seen.Windows = append(m.seen.Windows, windows[id]...)
		p.notice(m, now)
	}
	p.serveWaiting()
}
