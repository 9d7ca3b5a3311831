package selection

import (
	"slices"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
)

// Several processes can share one pool through the store. Each works on what it
// knows, tells what it has found out, and takes over what others have. Nothing
// here compares the clocks of two machines to decide who is right: what counts
// is whether the stored limit is the one that a change was made from.

// Dirty is what has to be stored of an account.
type Dirty struct {
	AccountID string
	Limits    []LimitChange
	Windows   []Window
	HasState  bool // the pool has found out by itself that the account is out of service
	State     api.Status
	Reason    string // of the state
}

// LimitChange is what became of the limit of one scope and name.
type LimitChange struct {
	Was *Limit // the stored one, as far as this process knows; nil = none
	Is  *Limit // nil = it has ended
}

// TakeDirty returns what changed since the last call: limits and states at
// once, an account's windows once in windowsEvery.
func (p *Pool) TakeDirty(windowsEvery time.Duration) []Dirty {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	var out []Dirty
	for _, m := range p.members {
		d := Dirty{AccountID: m.ID}
		if m.limitsDirty {
			m.limitsDirty = false
			d.Limits = m.limitChanges(now)
		}
		if m.windowsDirty && now.Sub(m.windowsSaved) >= windowsEvery {
			m.windowsDirty, m.windowsSaved = false, now
			d.Windows = slices.Clone(m.seen.Windows)
		}
		if m.stateDirty {
			d.HasState, d.State, d.Reason = true, m.State, m.StateReason
		}
		if d.Limits != nil || d.Windows != nil || d.HasState {
			out = append(out, d)
		}
	}
	return out
}

// limitChanges compares what holds with what is stored. A limit that has ended
// by the passing of time is no news to anybody.
func (m *member) limitChanges(now time.Time) (changes []LimitChange) {
	hold := lasting(m.limits, now)
	m.stored = slices.DeleteFunc(m.stored, func(was Limit) bool {
		if find(hold, &was) != nil {
			return false
		}
		if was.Until.After(now) {
			changes = append(changes, LimitChange{Was: &was})
			return false
		}
		return true
	})
	for i := range hold {
		if was := find(m.stored, &hold[i]); was == nil || !was.same(&hold[i]) {
			changes = append(changes, LimitChange{Was: was.clone(), Is: &hold[i]})
		}
	}
	return changes
}

// find returns the limit of l's scope and name, or nil.
func find(limits []Limit, l *Limit) *Limit {
	for i := range limits {
		if limits[i].Scope == l.Scope && limits[i].Name == l.Name {
			return &limits[i]
		}
	}
	return nil
}

// same reports whether both are the same limit, with times as the store keeps
// them; nil is none.
func (l *Limit) same(o *Limit) bool {
	if l == nil || o == nil {
		return l == o
	}
	return l.Cause == o.Cause && l.Since.UnixMilli() == o.Since.UnixMilli() && l.Until.UnixMilli() == o.Until.UnixMilli()
}

func (l *Limit) clone() *Limit {
	if l == nil {
		return nil
	}
	c := *l
	return &c
}

// Saved tells that what TakeDirty returned of an account is stored.
func (p *Pool) Saved(d Dirty) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.byID[d.AccountID]
	if m == nil {
		return
	}
	for _, c := range d.Limits {
		m.isStored(c.Was, c.Is)
	}
	if d.HasState && m.State == d.State {
		m.stateDirty = false
	}
}

// isStored notes that a limit takes the place of another in the store.
func (m *member) isStored(was, is *Limit) {
	if was != nil {
		m.stored = slices.DeleteFunc(m.stored, func(l Limit) bool { return l.Scope == was.Scope && l.Name == was.Name })
	}
	if is != nil {
		m.stored = append(m.stored, *is)
	}
}

// NotSaved gives back what TakeDirty returned of an account, for the next call.
func (p *Pool) NotSaved(d Dirty) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m := p.byID[d.AccountID]; m != nil {
		m.limitsDirty = m.limitsDirty || d.Limits != nil
		m.windowsDirty = m.windowsDirty || d.Windows != nil
	}
}

// TakeOverLimits takes over all limits as they are stored, by account. A limit
// that another process has set or ended since is set or ended here, except where
// this one has found out something else that is not stored yet: of two limits
// then the one that ends later holds, and a limit that was set here while another
// was ended elsewhere stays.
func (p *Pool) TakeOverLimits(limits map[string][]Limit) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	for id, m := range p.byID {
		m.takeOverLimits(limits[id], now)
		p.notice(m, now)
	}
	p.serveWaiting()
}

// TakeOverWindows takes over stored windows, by account, where they were seen
// later than those that are known.
func (p *Pool) TakeOverWindows(windows map[string][]Window) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, m := range p.byID {
		for _, w := range windows[id] {
			m.takeOverWindow(w)
		}
	}
}

func (m *member) takeOverLimits(stored []Limit, now time.Time) {
	for i := range stored {
		is := &stored[i]
		if was := find(m.stored, is); !was.same(is) {
			m.takeOverLimit(was.clone(), is, now)
		}
	}
	for _, was := range slices.Clone(m.stored) {
		if find(stored, &was) == nil {
			m.takeOverLimit(&was, nil, now)
		}
	}
}

// takeOverLimit applies a change that another process has made.
func (m *member) takeOverLimit(was, is *Limit, now time.Time) {
	m.isStored(was, is)
	place := was
	if place == nil {
		place = is
	}
	ours := find(lasting(m.limits, now), place)
	unsaved := !ours.same(was)
	if unsaved && ours != nil && (is == nil || !is.Until.After(ours.Until)) {
		m.limitsDirty = true
		return
	}
	m.limits = slices.DeleteFunc(m.limits, func(l Limit) bool { return l.Scope == place.Scope && l.Name == place.Name })
	switch {
	case is != nil && is.Until.After(now):
		m.limits = append(m.limits, *is)
		m.probation = m.probation || is.ejection()
	case is == nil && was.ejection(): // somebody's request has succeeded
		m.ejections, m.probation, m.failing = 0, false, nil
	}
}

func (m *member) takeOverWindow(w Window) {
	for i := range m.seen.Windows {
		if have := &m.seen.Windows[i]; have.Name == w.Name {
			if w.SeenAt.After(have.SeenAt) {
				*have = w
			}
			return
		}
	}
	m.seen.Windows = append(m.seen.Windows, w)
}

// Load is what a process tells the others of its use of an account.
type Load struct {
	InFlight int `json:"f,omitempty"`
	// Tries are those of the rolling five hours: pairs of a quarter of an hour,
	// counted from the epoch, and their number in it.
	Tries [][2]int64 `json:"t,omitempty"`
}

// Load returns how this process uses the accounts, by id, those left out that
// it does not use.
func (p *Pool) Load() map[string]Load {
	p.mu.Lock()
	defer p.mu.Unlock()
	epoch := bucketOf(p.now())
	out := make(map[string]Load)
	for _, m := range p.members {
		m.tries.advance(epoch)
		l := Load{InFlight: m.seen.InFlight - m.elsewhere, Tries: m.tries.list()}
		if l.InFlight != 0 || l.Tries != nil {
			out[m.ID] = l
		}
	}
	return out
}

// SetOthers counts what other processes told last of their use of the accounts.
func (p *Pool) SetOthers(loads []map[string]Load) {
	p.mu.Lock()
	defer p.mu.Unlock()
	epoch := bucketOf(p.now())
	for id, m := range p.byID {
		inFlight, tries := 0, rollingCount{epoch: epoch}
		for _, load := range loads {
			l := load[id]
			inFlight += l.InFlight
			for _, t := range l.Tries {
				tries.addAt(t[0], int(t[1]))
			}
		}
		m.seen.InFlight += inFlight - m.elsewhere
		m.elsewhere, m.others = inFlight, tries
		m.count(epoch)
	}
	p.serveWaiting()
}

// Session is a conversation's place, for the store.
type Session struct {
	Key       string
	AccountID string
	LastUsed  time.Time
}

// TakeChangedSessions returns the sessions to write, each at most once a
// minute unless it moved.
func (p *Pool) TakeChangedSessions() []Session {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	p.sessions.expire(now)
	if len(p.sessions.changed) == 0 {
		return nil
	}
	out := make([]Session, 0, len(p.sessions.changed))
	for key := range p.sessions.changed {
		v := p.sessions.byKey[key].Value.(*session)
		v.savedAt = now
		out = append(out, Session{v.key, v.account, v.lastUsed})
	}
	clear(p.sessions.changed)
	return out
}

// SessionsNotSaved gives back what TakeChangedSessions returned, for the next
// call.
func (p *Pool) SessionsNotSaved(sessions []Session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range sessions {
		if e := p.sessions.byKey[s.Key]; e != nil {
			p.sessions.changed[s.Key] = struct{}{}
		}
	}
}

// TakeOverSessions takes over sessions in the order in which they were stored.
// How long a session is kept from its last use is for the request that asks for
// it to say.
func (p *Pool) TakeOverSessions(stored []Session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	for _, s := range stored {
		if s.LastUsed.After(now) { // by another machine's clock
			s.LastUsed = now
		}
		p.sessions.takeOver(s, now)
	}
}

func (s *sessions) takeOver(stored Session, now time.Time) {
	if _, ours := s.changed[stored.Key]; ours {
		return // it will be written over
	}
	e := s.byKey[stored.Key]
	if e == nil {
		for len(s.byKey) >= MaxSessions {
			s.drop(s.order.Back())
		}
		e = s.order.PushFront(&session{key: stored.Key})
		s.byKey[stored.Key] = e
	}
	v := e.Value.(*session)
	if v.account != stored.AccountID {
		v.account, v.since = stored.AccountID, now
	}
	if stored.LastUsed.After(v.lastUsed) {
		v.lastUsed, v.savedAt = stored.LastUsed, stored.LastUsed
		s.order.MoveToFront(e) // others tell of it within seconds
	}
}
