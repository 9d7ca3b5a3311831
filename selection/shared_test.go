package selection

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/claude-balancer/claude-balancer/anthropic"
	"github.com/claude-balancer/claude-balancer/api"
)

// windowsEvery is how often tests store windows.
const windowsEvery = 10 * time.Second

// store takes what is dirty for stored.
func (r *rig) store() {
	for _, d := range r.TakeDirty(windowsEvery) {
		r.Saved(d)
	}
}

// shelf is what the store keeps of limits, with its rules.
type shelf map[string][]Limit // by account

func (s shelf) change(account string, c LimitChange) {
	place := c.Is
	if place == nil {
		place = c.Was
	}
	have := find(s[account], place)
	free := have == nil || have.same(c.Was) || c.Is != nil && have.Until.Before(c.Is.Until)
	if !free || have == nil && c.Is == nil {
		return
	}
	s[account] = slices.DeleteFunc(s[account], func(l Limit) bool { return l.Scope == place.Scope && l.Name == place.Name })
	if c.Is != nil {
		s[account] = append(s[account], *c.Is)
	}
}

// exchange is what a process does every half second.
func (r *rig) exchange(s shelf) {
	for _, d := range r.TakeDirty(windowsEvery) {
		for _, c := range d.Limits {
			s.change(d.AccountID, c)
		}
		r.Saved(d)
	}
	taken := make(map[string][]Limit)
	for id, limits := range s {
		taken[id] = slices.Clone(limits)
	}
	r.TakeOverLimits(taken)
}

// limit is what an answer to a request that was on its way would set.
func (r *rig) limit(l Limit, rest time.Duration) {
	l.Since, l.Until, l.Utilization = r.at, r.at.Add(rest), 1
	r.change("a", func(m *member) { m.setLimit(l, r.at, r.at) })
}

var (
	ofAccount = Limit{Scope: api.ScopeAccount, Cause: anthropic.CauseSpendLimit}
	ofOpus    = Limit{Scope: api.ScopeFamily, Name: "opus", Cause: anthropic.CauseNoCredit}
)

// fleet is processes that share a pool and a clock.
func fleet(t testing.TB, n int, names ...string) []*rig {
	rigs := make([]*rig, n)
	for i := range rigs {
		rigs[i] = newRig(t, accounts(names...)...)
	}
	return rigs
}

func TestALimitOfOneProcessHoldsInAllUntilOneEndsIt(t *testing.T) {
	t.Parallel()
	f, s := fleet(t, 3, "a"), shelf{}
	hold := func(when string, want ...int) {
		t.Helper()
		for range 2 {
			for _, r := range f {
				r.exchange(s)
			}
		}
		for i, r := range f {
			if n := len(r.limits("a")); n != want[i] {
				t.Errorf("%s: process %d holds %d limits, want %d", when, i, n, want[i])
			}
		}
	}
	f[0].tell("a", sonnet, spent(f[0].at.Add(time.Hour)))
	hold("set", 1, 1, 1)
	f[2].ClearLimits("a")
	hold("cleared", 0, 0, 0)
	hold("cleared for good", 0, 0, 0)

	f[1].tell("a", sonnet, spent(f[0].at.Add(time.Hour)))
	hold("set again", 1, 1, 1)
	f[0].ClearLimits("a")
	f[2].limit(ofOpus, time.Minute)
	hold("one ends while another is set", 1, 1, 1)
}

func TestOfTwoLimitsSetAtOnceTheOneThatEndsLaterHolds(t *testing.T) {
	t.Parallel()
	for _, first := range []int{0, 1} {
		f, s := fleet(t, 2, "a"), shelf{}
		for i, until := range []time.Duration{time.Hour, 2 * time.Hour} {
			f[i].limit(ofAccount, until)
		}
		for i := range 4 {
			f[(first+i)%2].exchange(s)
		}
		for i, r := range f {
			if l := r.limits("a"); len(l) != 1 || !l[0].Until.Equal(f[1].at.Add(2*time.Hour)) {
				t.Errorf("process %d after %d came first: %+v", i, first, l)
			}
		}
	}
}

func TestASuccessElsewhereEndsHalfOpen(t *testing.T) {
	t.Parallel()
	f, s := fleet(t, 2, "a", "b"), shelf{}
	f[0].failThrice()
	f[0].exchange(s)
	f[1].exchange(s)
	if !f[1].byID["a"].probation {
		t.Fatal("the ejection did not arrive")
	}
	for _, r := range f {
		r.pass(ejectionBase - time.Second)
	}
	f[0].ClearLimits("a")
	f[0].exchange(s)
	f[1].exchange(s)
	if m := f[1].byID["a"]; m.probation || len(m.limits) > 0 {
		t.Errorf("still %+v", m.limits)
	}
}

func TestProcessesComeToAgreeOnLimits(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		f, s := fleet(t, 3, "a"), shelf{}
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			r := f[rapid.IntRange(0, 2).Draw(rt, "process")]
			switch rapid.IntRange(0, 4).Draw(rt, "what") {
			case 0:
				r.limit(ofAccount, time.Duration(rapid.IntRange(1, 100).Draw(rt, "minutes"))*time.Minute)
			case 1:
				r.limit(ofOpus, time.Duration(rapid.IntRange(1, 100).Draw(rt, "minutes"))*time.Minute)
			case 2:
				r.ClearLimits("a")
			case 3:
				for _, o := range f {
					o.pass(time.Minute)
				}
			default:
				r.exchange(s)
			}
		}
		// What one process found last, without anybody else finding anything since,
		// is what counts in the end.
		last := f[rapid.IntRange(0, 2).Draw(rt, "last")]
		for range 2 {
			for _, r := range f {
				r.exchange(s)
			}
		}
		cleared := rapid.Bool().Draw(rt, "cleared")
		if cleared {
			last.ClearLimits("a")
		} else {
			last.limit(ofAccount, 5*time.Hour)
		}
		last.exchange(s)
		for range 2 {
			for _, r := range f {
				r.exchange(s)
			}
		}
		want := fmt.Sprint(places(last))
		for i, r := range f {
			if got := fmt.Sprint(places(r)); got != want || (cleared && got != "[]") {
				rt.Fatalf("process %d holds %s, the one that found out last %s", i, got, want)
			}
		}
	})
}

func places(r *rig) (out []string) {
	for _, l := range lasting(r.byID["a"].limits, r.at) {
		out = append(out, l.Scope+l.Name+string(l.Cause)+l.Until.Sub(r.at).String())
	}
	slices.Sort(out)
	return out
}

func TestTheNewestWindowOfAnyProcessIsSeen(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a")...)
	tell := func(used float64, age time.Duration) {
		r.TakeOverWindows(map[string][]Window{"a": {{Window: window("5h", used, "allowed", r.at.Add(time.Hour)), SeenAt: r.at.Add(-age)}}})
	}
	tell(0.5, time.Minute)
	tell(0.4, time.Hour)
	if w := r.live("a").Windows; len(w) != 1 || w[0].Utilization != 0.5 {
		t.Errorf("%+v", w)
	}
	tell(0.6, 0)
	if w := r.live("a").Windows; len(w) != 1 || w[0].Utilization != 0.6 {
		t.Errorf("%+v", w)
	}
}

func TestUseOfAnAccountCountsOverAllProcesses(t *testing.T) {
	t.Parallel()
	list := accounts("a", "b")
	list[0].MaxInFlight = 2
	here, there := newRig(t, list...), newRig(t, list...)
	running := []*Ticket{there.mustGet("a", message(sonnet)), there.mustGet("a", message(sonnet))}
	here.SetOthers([]map[string]Load{there.Load()})
	if l := here.live("a"); l.Status != api.StatusBusy || l.InFlight != 2 || l.Elsewhere != 2 {
		t.Errorf("%+v", l)
	}
	ticket := here.mustGet("b", message(sonnet))
	here.acquire(&Request{Model: sonnet}, "a") // b, counted but not as a try
	if l := here.Load(); len(l) != 1 || l["b"].InFlight != 2 || l["b"].Tries[0][1] != 1 {
		t.Errorf("tells of others' requests, or not of its own: %+v", l)
	}
	if c := here.byID["a"].seen; c.Tries != 2 {
		t.Errorf("%d tries", c.Tries)
	}
	ticket.Release()
	for _, t := range running {
		t.Release()
	}
	here.SetOthers([]map[string]Load{there.Load()})
	if l := here.live("a"); l.InFlight != 0 || here.byID["a"].seen.Tries != 2 {
		t.Errorf("%+v, %d tries", l, here.byID["a"].seen.Tries)
	}
	here.pass(5 * time.Hour)
	here.mustGet("a", &Request{Model: sonnet}).Release()
	if n := here.byID["a"].seen.Tries; n != 0 {
		t.Errorf("%d tries are never forgotten", n)
	}
	here.SetOthers(nil)
	here.SetOthers([]map[string]Load{{"a": {Tries: [][2]int64{{1 << 60, 3}, {-5, 3}, {0, 1}}}, "nobody": {InFlight: 1}}})
	if n := here.byID["a"].seen.Tries; n != 3 {
		t.Errorf("%d tries of a clock that runs ahead, want 3", n)
	}
}

func TestAPlaceThatBecomesFreeElsewhereEndsAWait(t *testing.T) {
	t.Parallel()
	p := New(time.Now, 1)
	list := accounts("a")
	list[0].MaxInFlight = 1
	p.Sync(list)
	p.SetOthers([]map[string]Load{{"a": {InFlight: 1}}})
	got := make(chan *Ticket)
	go func() {
		got <- p.Wait(t.Context(), message(sonnet), inOrder{}, nil, time.Now().Add(time.Minute))
	}()
	for p.Waiting() == 0 {
		time.Sleep(time.Millisecond)
	}
	p.SetOthers(nil)
	if ticket := <-got; ticket == nil {
		t.Error("no place")
	}
}

func TestASessionFollowsTheProcessThatMovedItLast(t *testing.T) {
	t.Parallel()
	here, there := newRig(t, accounts("a", "b")...), newRig(t, accounts("a", "b")...)
	there.pass(-time.Minute) // its clock is behind
	pass := func(from, to *rig) {
		to.TakeChangedSessions() // they were stored before
		to.TakeOverSessions(from.TakeChangedSessions())
	}
	there.serve("b", "s", "a")
	pass(there, here)
	here.mustGet("b", turnOf("s")).Release()
	here.serve("a", "s", "b")
	pass(here, there)
	there.mustGet("a", turnOf("s")).Release()

	there.serve("b", "s", "a")
	pass(there, here)
	here.mustGet("b", turnOf("s")).Release()

	here.serve("a", "s", "b")
	here.TakeOverSessions([]Session{{"s", "b", here.at.Add(time.Hour)}})
	here.mustGet("a", turnOf("s")).Release() // what is not stored yet will be
	changed := here.TakeChangedSessions()
	if len(changed) != 1 {
		t.Fatalf("%+v", changed)
	}
	here.SessionsNotSaved(changed)
	here.SessionsNotSaved([]Session{{Key: "unknown"}})
	if again := here.TakeChangedSessions(); len(again) != 1 {
		t.Errorf("what could not be stored is forgotten: %+v", again)
	}
}

func TestAStateThatIsNotStoredYetOutlivesAReload(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a")...)
	r.tell("a", sonnet, anthropic.Verdict{Cause: anthropic.CauseOrgDisabled, Disable: true, Message: "on hold"})
	r.Sync(accounts("a"))
	if l := r.live("a"); l.Status != api.StatusDisabled {
		t.Fatalf("%s", l.Status)
	}
	d := r.TakeDirty(0)
	if len(d) != 1 || !d[0].HasState || d[0].State != api.StatusDisabled || d[0].Reason != "on hold" {
		t.Fatalf("%+v", d)
	}
	if again := r.TakeDirty(0); len(again) != 1 {
		t.Error("it is not tried again until it is stored")
	}
	r.Saved(d[0])
	r.Sync(accounts("a"))
	if l := r.live("a"); l.Status != api.StatusAvailable {
		t.Errorf("what is stored does not count: %s", l.Status)
	}
}
