package selection

import (
	"strings"
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/anthropic"
	"github.com/claude-balancer/claude-balancer/api"
)

// scoring scores by the tries.
type scoring struct{ leastTries }

func (scoring) Score(_ *Request, c *Candidate) float64 { return float64(c.Tries) }

func TestAnExplanationHoldsEveryAccountAndItsReason(t *testing.T) {
	t.Parallel()
	list := accounts("busy", "best", "good", "limited", "paused", "login", "off", "own", "console", "flagged", "troubled")
	by := make(map[string]*Account)
	for i := range list {
		by[list[i].Name] = &list[i]
	}
	by["busy"].MaxInFlight = 1
	by["paused"].Paused = true
	by["login"].State, by["login"].StateReason = api.StatusNeedsLogin, "invalid_grant"
	by["off"].State, by["off"].StateReason = api.StatusDisabled, "on hold"
	by["own"].Models = []string{"*haiku*"}
	by["console"].Plan = api.PlanConsole
	r := newRig(t, list...)
	r.tell("good", opus, ok)
	r.tell("limited", opus, anthropic.Verdict{Cause: anthropic.CauseScopedWindow, Scope: anthropic.ScopeFamily, Family: anthropic.FamilyOpus, Until: r.at.Add(time.Hour), Header: "h"})
	until := r.limits("limited")[0].Until.Format(time.RFC3339)
	r.tell("flagged", opus, anthropic.Verdict{Cause: anthropic.CauseThirdParty, Flag: "third_party"})
	r.tell("troubled", opus, overloaded)
	r.mustGet("busy", message(opus), "best", "good")

	req := message(opus)
	req.Allowed = func(name string) bool { return name != "own" }
	opinions, chosen := r.Explain(req, scoring{})
	if chosen != "best" || len(opinions) != len(list) {
		t.Errorf("chosen %q of %d", chosen, len(opinions))
	}
	want := map[string]string{
		"busy":     "1 requests running, its bound is 1",
		"best":     "the policy's choice",
		"good":     "may serve",
		"limited":  "opus: usage window of this family spent (h) until " + until,
		"paused":   "paused by the operator",
		"login":    "needs a new login: invalid_grant",
		"off":      "disabled by the provider: on hold",
		"own":      "its own list of models does not hold claude-opus-4-5",
		"console":  "plan console does not allow claude-opus-4-5",
		"flagged":  "may serve; last choice: third party",
		"troubled": "may serve; second choice after an overload a moment ago",
	}
	for i, o := range opinions {
		if o.Account != list[i].Name {
			t.Errorf("%s stands where %s should", o.Account, list[i].Name)
		}
		if o.Reason != want[o.Account] {
			t.Errorf("%s: %q, want %q", o.Account, o.Reason, want[o.Account])
		}
		may := strings.HasPrefix(want[o.Account], "may") || o.Account == "best"
		if o.Eligible != may || o.Scored != may {
			t.Errorf("%s: eligible %v, scored %v", o.Account, o.Eligible, o.Scored)
		}
		if o.Account == "good" && o.Score != 1 {
			t.Errorf("score %v", o.Score)
		}
	}
	why := r.Why(req)
	if len(why) != len(list)-2 { // not those whose plan or key says no
		t.Errorf("%d reasons", len(why))
	}
}

func TestAnExplanationForeseesWhatAcquireDoes(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a", "b")...)
	next := func() string {
		_, chosen := r.Explain(turnOf("s"), leastTries{})
		again := r.SessionStats()
		if ticket, _ := r.Acquire(turnOf("s"), leastTries{}, nil); ticket != nil {
			if ticket.Name != chosen {
				t.Errorf("explained %q, chose %q", chosen, ticket.Name)
			}
			ticket.Release()
		} else if chosen != "" {
			t.Errorf("explained %q, chose none", chosen)
		}
		if r.SessionStats().Held != again.Held {
			t.Error("an explanation changed something")
		}
		return chosen
	}
	next()
	r.serve("b", "s", "a")
	for range 3 {
		if got := next(); got != "b" {
			t.Errorf("%q keeps the session", got)
		}
	}
	if o, _ := r.Explain(turnOf("s"), inOrder{}); o[1].Reason != "keeps this session" || o[0].Reason != "may serve" {
		t.Errorf("%+v", o)
	}
	r.tell("b", sonnet, spent(r.at.Add(time.Hour)))
	next()
	r.tell("a", sonnet, spent(r.at.Add(time.Hour)))
	if got := next(); got != "" {
		t.Errorf("%q of two that are benched", got)
	}
	r.pass(10 * time.Minute)
	o, chosen := r.Explain(turnOf("s"), inOrder{})
	if chosen == "" || !strings.Contains(o[0].Reason+o[1].Reason, "; nobody else can serve, so a real request tries it") {
		t.Errorf("%q: %+v", chosen, o)
	}
	next()
	r.Sync(nil)
	if o, chosen := r.Explain(turnOf("s"), inOrder{}); chosen != "" || len(o) != 0 {
		t.Errorf("an empty pool: %q %+v", chosen, o)
	}
}

func TestPeekTellsWhatANewRoundWouldFind(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a", "b")...)
	if got := r.Peek(message(sonnet)); got.Open != 2 || got.Allowed != 2 {
		t.Errorf("%+v", got)
	}
	r.tell("a", sonnet, spent(r.at.Add(time.Hour)))
	if got := r.Peek(message(sonnet)); got.Open != 1 || got.FreeAt.IsZero() {
		t.Errorf("%+v", got)
	}
	if until, limited := r.LimitedUntil("a", message(sonnet)); !limited || !until.Equal(r.limits("a")[0].Until) {
		t.Errorf("%s %v", until, limited)
	}
	for _, id := range []string{"b", "nobody"} {
		if _, limited := r.LimitedUntil(id, message(sonnet)); limited {
			t.Errorf("%s is limited", id)
		}
	}
}

func TestAnAccountIsLimitedBusyPausedOrAvailable(t *testing.T) {
	t.Parallel()
	list := []Account{onePlace()}
	r := newRig(t, list...)
	is := func(status api.Status, reason string) {
		t.Helper()
		if l := r.live("a"); l.Status != status || l.Reason != reason {
			t.Errorf("%s (%s), want %s (%s)", l.Status, l.Reason, status, reason)
		}
	}
	is(api.StatusAvailable, "")
	ticket := r.mustGet("a", message(sonnet))
	is(api.StatusBusy, "1 requests running, its bound is 1")
	r.report(ticket, spent(r.at.Add(time.Hour)))
	is(api.StatusLimited, "usage window spent (anthropic-ratelimit-unified-5h-status)")
	if l := r.live("a"); !l.AvailableAt.Equal(l.Limits[0].Until) || l.ModelList != "*opus*,*sonnet*,*haiku*,*fable*,*mythos*,*" {
		t.Errorf("%+v", l)
	}
	list[0].Paused, list[0].Models = true, []string{"x", "y"}
	r.Sync(list)
	is(api.StatusPaused, "paused by the operator")
	if l := r.live("a"); l.ModelList != "x,y" {
		t.Errorf("models %s", l.ModelList)
	}
}

func TestChangesOfStateAreToldOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a")...)
	told := func() (s []string) {
		for _, n := range r.TakeNotices() {
			s = append(s, string(n.Status))
		}
		return s
	}
	if got := told(); len(got) != 0 {
		t.Errorf("a new account: %v", got)
	}
	r.tell("a", sonnet, spent(r.at.Add(time.Hour)))
	select {
	case <-r.Changed():
	default:
		t.Error("no signal")
	}
	if got := told(); len(got) != 1 || got[0] != "limited" {
		t.Errorf("%v", got)
	}
	r.pass(2 * time.Hour)
	if got := told(); len(got) != 1 || got[0] != "available" {
		t.Errorf("by the passing of time: %v", got)
	}
	r.SetState("a", api.StatusNeedsLogin, "invalid_grant")
	if n := r.TakeNotices(); len(n) != 1 || n[0].StateReason != "invalid_grant" || n[0].AccountID != "a" {
		t.Errorf("%+v", n)
	}
	if got := told(); len(got) != 0 {
		t.Errorf("again: %v", got)
	}
}

// TestLookingDoesNotAskToLookAgain guards against a loop: who takes what changed
// must not be woken by that.
func TestLookingDoesNotAskToLookAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a")...)
	v := spent(r.at.Add(time.Hour))
	r.tell("a", sonnet, v)
	r.TakeNotices()
	r.store()
	good := ok
	good.Limits = told("allowed", window("5h", 0.5, "allowed", r.at.Add(time.Hour)))
	r.report(r.mustGet("a", &Request{Model: sonnet}), good) // windows that are not due yet
	for range 3 {
		r.TakeNotices()
		r.store()
	}
	select {
	case <-r.Changed():
		t.Error("woken with nothing to do")
	default:
	}
}

func TestWhatChangedIsStoredAndRestored(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a", "b")...)
	tickets := []*Ticket{r.mustGet("a", message(sonnet)), r.mustGet("a", message(sonnet)), r.mustGet("a", message(sonnet))}
	r.report(tickets[0], spent(r.at.Add(time.Hour)))
	r.report(tickets[1], anthropic.Verdict{Cause: anthropic.CauseSpendLimit, Scope: anthropic.ScopeAccount, Until: r.at.Add(2 * time.Hour)})
	r.report(tickets[2], burstOf(anthropic.FamilySonnet, r.at.Add(time.Minute)))
	dirty := r.TakeDirty(windowsEvery)
	if len(dirty) != 1 || dirty[0].AccountID != "a" || len(dirty[0].Limits) != 2 || len(dirty[0].Windows) != 1 {
		t.Fatalf("%+v", dirty)
	}
	if l := dirty[0].Limits[0]; l.Was != nil || l.Is.Cause != anthropic.CauseSpendLimit {
		t.Errorf("of two for the account the one that ends sooner is stored: %+v", l)
	}
	if again := r.TakeDirty(windowsEvery); len(again) != 0 {
		t.Errorf("again: %+v", again)
	}
	r.NotSaved(dirty[0])
	r.NotSaved(Dirty{AccountID: "nobody"})
	r.pass(windowsEvery)
	dirty = r.TakeDirty(windowsEvery)
	if len(dirty) != 1 || len(dirty[0].Limits) != 2 || dirty[0].Windows == nil {
		t.Fatalf("what could not be stored: %+v", dirty)
	}
	r.Saved(dirty[0])
	r.Saved(Dirty{AccountID: "nobody"})
	r.limit(ofOpus, time.Minute)
	if again := r.TakeDirty(windowsEvery); len(again) != 1 || len(again[0].Limits) != 1 {
		t.Errorf("what is stored is stored again: %+v", again)
	}

	next := newRig(t, accounts("a", "b")...)
	next.at = r.at
	var limits []Limit
	for _, c := range dirty[0].Limits {
		limits = append(limits, *c.Is)
	}
	old := Limit{Scope: api.ScopeAccount, Cause: anthropic.CauseWindow, Until: r.at}
	next.TakeOverLimits(map[string][]Limit{"a": limits, "b": {old}})
	next.TakeOverWindows(map[string][]Window{"a": dirty[0].Windows})
	if got, want := next.live("a"), r.live("a"); got.Status != want.Status || !got.AvailableAt.Equal(want.AvailableAt) || len(got.Windows) != 1 {
		t.Errorf("%+v, want %+v", got, want)
	}
	next.mustGet("b", message(sonnet)) // its limit was over
	if again := next.TakeDirty(0); len(again) != 0 {
		t.Errorf("what was just read is written: %+v", again)
	}
}

func TestARestoredEjectionStillHasToProveItself(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a", "b")...)
	r.TakeOverLimits(map[string][]Limit{"a": {{Scope: api.ScopeAccount, Cause: anthropic.CauseServerError, Since: r.at, Until: r.at.Add(ejectionBase)}}})
	r.pass(ejectionBase)
	probe := r.mustGet("a", message(sonnet))
	r.mustGet("b", message(sonnet)).Release()
	r.report(probe, fault)
	if len(r.limits("a")) != 1 {
		t.Error("a failed probe does not eject again")
	}
}

func TestALimitThatIsOverIsNoNews(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a")...)
	r.tell("a", sonnet, spent(r.at.Add(time.Minute)))
	r.store()
	r.pass(2 * time.Minute)
	r.TakeNotices()
	if d := r.TakeDirty(windowsEvery); len(d) != 0 {
		t.Errorf("%+v", d)
	}
	if !r.byID["a"].plain {
		t.Error("it is looked at more closely than it needs")
	}
}
