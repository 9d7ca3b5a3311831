package selection

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/anthropic"
)

// serve lets a session's request be served by the named account.
func (r *rig) serve(name, key string, tried ...string) {
	r.t.Helper()
	r.report(r.mustGet(name, turnOf(key), tried...), ok)
}

func TestASessionStaysWithTheAccountThatServedIt(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a", "b")...)
	r.serve("b", "s", "a")
	for range 5 {
		ticket := r.mustGet("b", turnOf("s"))
		if !ticket.Kept {
			t.Error("it does not know that it kept its session")
		}
		r.report(ticket, ok)
	}
	r.mustGet("a", turnOf("other"))
	r.mustGet("a", message(sonnet))
	if st := r.SessionStats(); st.Held != 1 || st.Kept != 5 || len(st.Moved) != 0 {
		t.Errorf("%+v", st)
	}
}

func TestASessionIsRememberedOnSuccessOnly(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a", "b")...)
	for _, v := range []anthropic.Verdict{fault, overloaded, {Cause: anthropic.CauseClientError}} {
		r.report(r.mustGet("b", turnOf("s"), "a"), v)
	}
	if st := r.SessionStats(); st.Held != 0 {
		t.Errorf("%+v", st)
	}
}

func TestASessionMovesForAReasonAndStaysMoved(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		why  string
		away func(r *rig)
		back func(r *rig)
	}{
		{"limited", func(r *rig) { r.tell("b", sonnet, spent(r.at.Add(time.Minute))) }, func(r *rig) { r.pass(2 * time.Minute) }},
		{"paused", func(r *rig) { l := accounts("a", "b"); l[1].Paused = true; r.Sync(l) }, func(r *rig) { r.Sync(accounts("a", "b")) }},
		{"needs_login", func(r *rig) { r.SetState("b", "needs_login", "") }, func(r *rig) { r.LoginRenewed("b") }},
		{"disabled", func(r *rig) { r.SetState("b", "disabled", "") }, func(r *rig) { r.ClearLimits("b") }},
		{"removed", func(r *rig) { r.Sync(accounts("a")) }, func(r *rig) { r.Sync(accounts("a", "b")) }},
		{"busy", func(r *rig) {
			l := accounts("a", "b")
			l[1].MaxInFlight = 1
			r.Sync(l)
			r.tell("b", sonnet, ok)
			r.mustGet("b", message(sonnet), "a")
		}, func(r *rig) { r.Sync(accounts("a", "b")) }},
	} {
		t.Run(row.why, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, accounts("a", "b")...)
			r.serve("b", "s", "a")
			row.away(r)
			r.serve("a", "s")
			row.back(r)
			r.serve("a", "s")
			if st := r.SessionStats(); st.Kept != 1 || len(st.Moved) != 1 || st.Moved[row.why] != 1 {
				t.Errorf("%+v, want moved because of %s", st, row.why)
			}
		})
	}
}

func TestASessionMovesWhenItsAccountFailsTheRequest(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a", "b")...)
	r.serve("b", "s", "a")
	r.report(r.mustGet("b", turnOf("s")), overloaded)
	r.serve("a", "s", "b")
	r.serve("a", "s")
	if st := r.SessionStats(); st.Moved["failed"] != 1 {
		t.Errorf("%+v", st)
	}
}

func TestASessionWaitsForAnAccountThatRestsBriefly(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a", "b")...)
	r.serve("b", "s", "a")
	r.tell("b", sonnet, burstOf(anthropic.FamilySonnet, r.at.Add(5*time.Second)))
	patient := func(d time.Duration) *Request {
		req := turnOf("s")
		req.WaitUntil = r.at.Add(d)
		return req
	}
	r.mustGet("a", turnOf("new")).Release()
	r.mustGet("a", patient(time.Second)).Release()         // it would take too long
	r.mustGet("a", patient(10*time.Second), "b").Release() // b had this request already
	r.pass(time.Second)
	if o, chosen := r.Explain(patient(10*time.Second), inOrder{}); chosen != "b" || !strings.HasSuffix(o[1].Reason, "; its session waits for it") {
		t.Errorf("%q: %+v", chosen, o)
	}
	got := r.mustRefuse(patient(10 * time.Second))
	if got.Allowed != 1 || !got.WorthWaiting(r.at.Add(time.Minute)) {
		t.Errorf("%+v", got)
	}
	r.pass(5 * time.Second)
	r.report(r.mustGet("b", patient(10*time.Second)), ok)
	r.tell("b", sonnet, spent(r.at.Add(5*time.Second))) // that is no burst
	r.mustGet("a", patient(time.Minute))
}

func TestAStragglerDoesNotTakeASessionBack(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a", "b")...)
	r.serve("b", "s", "a")
	slow := r.mustGet("b", turnOf("s"))
	r.report(r.mustGet("b", turnOf("s")), overloaded)
	r.serve("a", "s", "b")
	r.report(slow, ok)
	r.serve("a", "s")
	if st := r.SessionStats(); st.Moved["failed"] != 1 || len(st.Moved) != 1 {
		t.Errorf("%+v", st)
	}
}

func TestAFamilysSessionIsItsOwn(t *testing.T) {
	t.Parallel()
	// The key names the family: this only has to keep keys apart.
	r := newRig(t, accounts("a", "b")...)
	r.serve("a", "s/sonnet")
	r.serve("b", "s/opus", "a")
	r.serve("a", "s/sonnet")
	r.serve("b", "s/opus")
}

func TestASessionEndsWhenItIsNotUsed(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a", "b")...)
	r.serve("b", "s", "a")
	r.pass(59 * time.Minute)
	r.serve("b", "s") // used, so it starts anew
	r.pass(59 * time.Minute)
	r.serve("b", "s")
	r.pass(time.Hour)
	ticket := r.mustGet("a", turnOf("s"))
	if ticket.Kept {
		t.Error("kept")
	}
	r.report(ticket, ok)
	if st := r.SessionStats(); st.Kept != 2 || len(st.Moved) != 0 {
		t.Errorf("the end of a session counts as a move: %+v", st)
	}
	r.pass(SessionsKept)
	r.TakeChangedSessions()
	if st := r.SessionStats(); st.Held != 0 {
		t.Errorf("%d sessions are never forgotten", st.Held)
	}
}

func TestTheLongestUnusedSessionsGoFirst(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a")...)
	for i := range MaxSessions {
		r.serve("a", fmt.Sprint(i))
	}
	r.serve("a", "0") // used again
	r.serve("a", "one more")
	if st := r.SessionStats(); st.Held != MaxSessions {
		t.Errorf("%d sessions", st.Held)
	}
	for key, held := range map[string]bool{"0": true, "1": false, "2": true, "one more": true} {
		if got := r.sessions.get(key, r.at, SessionsKept) != ""; got != held {
			t.Errorf("session %s held: %v", key, got)
		}
	}
	if n := len(r.TakeChangedSessions()); n != MaxSessions {
		t.Errorf("%d to write, though some of them are gone", n)
	}
}

func TestASessionIsWrittenOnceAMinuteUnlessItMoves(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a", "b")...)
	r.serve("a", "s")
	written := func() int { return len(r.TakeChangedSessions()) }
	if n := written(); n != 1 {
		t.Fatalf("%d written at first", n)
	}
	total := 0
	for range 120 {
		r.pass(time.Second)
		r.serve("a", "s")
		total += written()
	}
	if total != 2 {
		t.Errorf("%d written in two minutes of use", total)
	}
	r.report(r.mustGet("a", turnOf("s")), overloaded)
	r.serve("b", "s", "a")
	changed := r.TakeChangedSessions()
	if len(changed) != 1 || changed[0].AccountID != "b" || changed[0].Key != "s" || !changed[0].LastUsed.Equal(r.at) {
		t.Errorf("a move: %+v", changed)
	}
}

func TestRestoredSessionsGoOn(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a", "b")...)
	r.serve("b", "new", "a")
	r.TakeOverSessions([]Session{
		{"new", "a", r.at.Add(-time.Minute)}, // older than what is known
		{"young", "b", r.at.Add(-time.Minute)},
		{"old", "b", r.at.Add(-2 * time.Hour)},
		{"gone", "c", r.at},
	})
	for key, want := range map[string]string{"new": "b", "young": "b", "old": "a", "gone": "a"} {
		r.mustGet(want, turnOf(key)).Release()
	}
	r.TakeChangedSessions()
	r.serve("b", "young")
	if n := len(r.TakeChangedSessions()); n != 1 {
		t.Errorf("%d written of a session that was stored a minute ago", n)
	}
}
