package selection

import (
	"container/list"
	"time"
)

// MaxSessions bounds the sessions that are remembered; the longest unused go
// first.
const MaxSessions = 100_000

// SessionsKept is the longest that a session can be remembered unused.
const SessionsKept = 7 * 24 * time.Hour

// A session that goes on is written again this often at most.
const sessionSaveEvery = time.Minute

// sessions remembers which account serves a conversation, so that it finds its
// prompt cache again. Guarded by Pool.mu.
type sessions struct {
	byKey map[string]*list.Element
	order *list.List // of *session, the last used in front
	stats SessionStats
	// changed holds the keys that are to be written.
	changed map[string]struct{}
}

type session struct {
	key      string
	account  string    // id
	since    time.Time // there
	lastUsed time.Time
	savedAt  time.Time
}

// SessionStats counts what became of sessions that had an account.
type SessionStats struct {
	Held  int               // remembered now
	Kept  uint64            // requests that went to their session's account
	Moved map[string]uint64 // sessions that moved, by why
}

func (s *sessions) init() {
	s.byKey = make(map[string]*list.Element)
	s.order = list.New()
	s.changed = make(map[string]struct{})
	s.stats.Moved = make(map[string]uint64)
}

// get returns the account of the session, "" if it has none or was unused for
// longer than keep.
func (s *sessions) get(key string, now time.Time, keep time.Duration) string {
	e := s.byKey[key]
	if e == nil {
		return ""
	}
	if v := e.Value.(*session); now.Sub(v.lastUsed) < keep {
		return v.account
	}
	return ""
}

// set remembers that the ticket's account served its session with an answer to
// a try that was sent then.
func (s *sessions) set(t *Ticket, sent, now time.Time) {
	key, account := t.request.Session, t.member.ID
	if e := s.byKey[key]; e != nil {
		v := e.Value.(*session)
		held := now.Sub(v.lastUsed) < t.request.Keep
		switch {
		case v.account == account && held:
			s.stats.Kept++
		case v.account == account:
		case held && sent.Before(v.since):
			return // it moved since: a straggler does not take it back
		default:
			if held {
				s.stats.Moved[t.whyMoved()]++
			}
			v.account, v.since, v.savedAt = account, now, time.Time{}
		}
		v.lastUsed = now
		s.order.MoveToFront(e)
		s.markChanged(v, now)
		return
	}
	for len(s.byKey) >= MaxSessions {
		s.drop(s.order.Back())
	}
	v := &session{key: key, account: account, since: now, lastUsed: now}
	s.byKey[key] = s.order.PushFront(v)
	s.markChanged(v, now)
}

// whyMoved says in one word why the session's former account did not serve.
func (t *Ticket) whyMoved() string {
	if t.moved == "" { // another request of the session went there first
		return "parallel"
	}
	return t.moved
}

func (s *sessions) markChanged(v *session, now time.Time) {
	if now.Sub(v.savedAt) >= sessionSaveEvery {
		s.changed[v.key] = struct{}{}
	}
}

func (s *sessions) drop(e *list.Element) {
	v := e.Value.(*session)
	s.order.Remove(e)
	delete(s.byKey, v.key)
	delete(s.changed, v.key)
}

// expire forgets sessions that nobody has used for their time.
func (s *sessions) expire(now time.Time) {
	for e := s.order.Back(); e != nil && now.Sub(e.Value.(*session).lastUsed) >= SessionsKept; e = s.order.Back() {
		s.drop(e)
	}
}

// SessionStats returns the counts so far.
func (p *Pool) SessionStats() SessionStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	st := p.sessions.stats
	st.Held = len(p.sessions.byKey)
	st.Moved = make(map[string]uint64, len(p.sessions.stats.Moved))
	for why, n := range p.sessions.stats.Moved {
		st.Moved[why] = n
	}
	return st
}
