package selection

import (
	"time"

	"github.com/claude-balancer/claude-balancer/api"
)

// Notice tells that an account's state changed.
type Notice struct {
	AccountID   string
	Account     string
	Status      api.Status
	Reason      string // in words
	StateReason string // of needs_login and disabled
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
	if len(p.notices) > 0 || m.limitsDirty || m.stateDirty {
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
