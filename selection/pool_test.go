package selection

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/anthropic"
	"github.com/claude-balancer/claude-balancer/api"
)

const (
	sonnet = "claude-sonnet-4-5"
	opus   = "claude-opus-4-5"
)

// rig is a pool with a clock that stands still.
type rig struct {
	*Pool
	t        testing.TB
	at       time.Time
	requests int
}

func newRig(t testing.TB, accounts ...Account) *rig {
	r := &rig{t: t, at: time.Date(2026, 11, 2, 12, 0, 0, 0, time.UTC)}
	r.Pool = New(func() time.Time { return r.at }, 1)
	r.Sync(accounts)
	return r
}

// accounts makes max accounts whose ids are their names.
func accounts(names ...string) []Account {
	var list []Account
	for _, name := range names {
		list = append(list, Account{ID: name, Name: name, Plan: api.PlanMax, Kind: api.KindOAuth, Weight: 1})
	}
	return list
}

func (r *rig) pass(d time.Duration) { r.at = r.at.Add(d) }

// inOrder is a policy that takes the first candidate.
type inOrder struct{}

func (inOrder) Select(*Request, []*Candidate) int { return 0 }

func message(model string) *Request {
	return &Request{Model: model, Family: anthropic.FamilyOf(model), Generative: true, Keep: time.Hour}
}

// acquire gets a ticket or "" for whoever serves the request.
func (r *rig) acquire(req *Request, tried ...string) *Ticket {
	t, _ := r.Acquire(req, inOrder{}, tried)
	return t
}

// mustGet gets a ticket of the named account. The clock moves on, so that the
// try is newer than what was known before.
func (r *rig) mustGet(name string, req *Request, tried ...string) *Ticket {
	r.t.Helper()
	r.pass(time.Millisecond)
	t, refusal := r.Acquire(req, inOrder{}, tried)
	if t == nil {
		r.t.Fatalf("no account, want %s: %+v", name, refusal)
	}
	if t.Name != name {
		r.t.Fatalf("got %s, want %s", t.Name, name)
	}
	return t
}

func (r *rig) mustRefuse(req *Request, tried ...string) Refusal {
	r.t.Helper()
	t, refusal := r.Acquire(req, inOrder{}, tried)
	if t != nil {
		r.t.Fatalf("got %s, want none", t.Name)
	}
	return refusal
}

// report ends a try with a verdict, as a request of its own.
func (r *rig) report(t *Ticket, v anthropic.Verdict) {
	r.requests++
	t.Report(Report{RequestID: strconv.Itoa(r.requests), Verdict: v})
	t.Release()
}

// tell makes the named account answer a message with the verdict.
func (r *rig) tell(name, model string, v anthropic.Verdict) {
	r.t.Helper()
	var others []string
	for _, m := range r.members {
		if m.ID != name {
			others = append(others, m.ID)
		}
	}
	r.report(r.mustGet(name, message(model), others...), v)
}

func (r *rig) limits(name string) []Limit {
	for _, l := range r.Snapshot() {
		if l.Name == name {
			return l.Limits
		}
	}
	r.t.Fatalf("no account %s", name)
	return nil
}

func (r *rig) live(name string) Live {
	r.t.Helper()
	for _, l := range r.Snapshot() {
		if l.Name == name {
			return l
		}
	}
	r.t.Fatalf("no account %s", name)
	return Live{}
}

var (
	ok         = anthropic.Verdict{Cause: anthropic.CauseOK, Action: anthropic.Done}
	fault      = anthropic.Verdict{Cause: anthropic.CauseServerError, Action: anthropic.Next, Failure: true}
	overloaded = anthropic.Verdict{Cause: anthropic.CauseOverloaded, Action: anthropic.Next, Penalty: true}
)

// spent is a 429 whose 5-hour window is used up until the time.
func spent(until time.Time) anthropic.Verdict {
	return anthropic.Verdict{
		Cause: anthropic.CauseWindow, Action: anthropic.Next, Scope: anthropic.ScopeAccount, Until: until, Jitter: true,
		Header: "anthropic-ratelimit-unified-5h-status", Limits: told("rejected", window("5h", 1, "rejected", until)),
	}
}

// burstOf is a 429 without a spent window; zero = no end told.
func burstOf(family anthropic.Family, until time.Time) anthropic.Verdict {
	return anthropic.Verdict{
		Cause: anthropic.CauseBurst, Action: anthropic.WaitOrNext, Scope: anthropic.ScopeFamily, Family: family, Until: until,
	}
}

func told(status string, windows ...anthropic.Window) anthropic.RateLimits {
	return anthropic.RateLimits{Status: status, Windows: windows, HasAny: true}
}

func window(name string, used float64, status string, resets time.Time) anthropic.Window {
	return anthropic.Window{Name: name, Utilization: used, Status: status, ResetsAt: resets}
}

func TestPlansDecideWhoMayServeAModel(t *testing.T) {
	t.Parallel()
	list := []Account{
		{ID: "c", Name: "c", Plan: api.PlanConsole},
		{ID: "m", Name: "m", Plan: api.PlanMax},
		{ID: "k", Name: "k", Plan: api.PlanAPI},
		{ID: "own", Name: "own", Plan: api.PlanConsole, Models: []string{"*opus*"}},
		{ID: "lost", Name: "lost", Plan: "gone"},
	}
	for _, row := range []struct{ model, want string }{
		{opus, "m k own"},
		{"CLAUDE-OPUS-9", "m k own"},
		{sonnet, "c m k"},
		{"claude-3-5-haiku-20241022", "c m k"},
		{"claude-fable-5", "m k"},
		{"claude-mythos-1", "m k"},
		{"some-model-of-tomorrow", "c m k own lost"}, // unknown: every account
		{"", "c m k own lost"},
	} {
		r := newRig(t, list...)
		if got := strings.Join(r.Allowed(row.model), " "); got != row.want {
			t.Errorf("%q may use %q, want %q", row.model, got, row.want)
		}
	}
}

func TestPlansCanBeRedefinedWhileThePoolRuns(t *testing.T) {
	t.Parallel()
	r := newRig(t, Account{ID: "c", Name: "c", Plan: api.PlanConsole}, Account{ID: "t", Name: "t", Plan: "team"})
	if got := r.Allowed(opus); len(got) != 0 {
		t.Fatalf("opus may use %v", got)
	}
	plans := DefaultPlans()
	plans["team"] = Plan{Models: []string{"*"}, Except: []string{"*haiku*"}}
	r.SetPlans(plans)
	for model, want := range map[string][]string{opus: {"t"}, sonnet: {"c", "t"}, "claude-haiku-4-5": {"c"}} {
		if got := r.Allowed(model); !slices.Equal(got, want) {
			t.Errorf("%s may use %v, want %v", model, got, want)
		}
	}
	if got := plans["team"].Describe(); got != "*,!*haiku*" {
		t.Errorf("described as %q", got)
	}
}

func TestOnlyKnownModelsAreBoundToPlans(t *testing.T) {
	t.Parallel()
	plans := Plans{"a": {Models: []string{"*"}}, "b": {Models: []string{"gpt-*"}, Except: []string{"claude-*"}}}
	for model, want := range map[string]bool{"gpt-1": true, "claude-x": true, "llama": false} {
		if plans.Known(model) != want {
			t.Errorf("%s known: %v", model, !want)
		}
	}
}

func TestTheRefusalSaysWhyThereIsNoAccount(t *testing.T) {
	t.Parallel()
	one := func(change func(*Account)) []Account {
		list := accounts("a")
		change(&list[0])
		return list
	}
	none := func(*Account) {}
	for _, row := range []struct {
		name     string
		accounts []Account
		prepare  func(*rig)
		request  func(*Request)
		tried    []string
		want     Refusal
	}{
		{name: "an empty pool", want: Refusal{}},
		{name: "the plan", accounts: one(func(a *Account) { a.Plan = api.PlanConsole }), want: Refusal{Accounts: 1}},
		{name: "its own list", accounts: one(func(a *Account) { a.Models = []string{"*haiku*"} }), want: Refusal{Accounts: 1}},
		{name: "the client key", accounts: one(none), request: func(r *Request) { r.Allowed = func(string) bool { return false } }, want: Refusal{Accounts: 1}},
		{name: "another owner", accounts: one(none), request: func(r *Request) { r.Owner = "b" }, want: Refusal{Accounts: 1}},
		{name: "paused", accounts: one(func(a *Account) { a.Paused = true }), want: Refusal{Accounts: 1, Allowed: 1}},
		{name: "needs a login", accounts: one(func(a *Account) { a.State = api.StatusNeedsLogin }), want: Refusal{Accounts: 1, Allowed: 1}},
		{name: "disabled", accounts: one(func(a *Account) { a.State = api.StatusDisabled }), want: Refusal{Accounts: 1, Allowed: 1}},
		{name: "busy", accounts: one(func(a *Account) { a.MaxInFlight = 1 }), prepare: func(r *rig) { r.acquire(message(opus)) }, want: Refusal{Accounts: 1, Allowed: 1, Busy: 1}},
		{name: "tried", accounts: one(none), tried: []string{"a"}, want: Refusal{Accounts: 1, Allowed: 1, Open: 1}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, row.accounts...)
			if row.prepare != nil {
				row.prepare(r)
			}
			req := message(opus)
			if row.request != nil {
				row.request(req)
			}
			if got := r.mustRefuse(req, row.tried...); got != row.want {
				t.Errorf("%+v, want %+v", got, row.want)
			}
		})
	}
}

func TestALimitTellsWhenTheFirstAccountIsFree(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a", "b")...)
	until := r.at.Add(2 * time.Hour)
	r.tell("a", sonnet, spent(until.Add(time.Hour)))
	r.tell("b", sonnet, spent(until))
	got := r.mustRefuse(message(sonnet))
	if late := got.FreeAt.Sub(until); got.Allowed != 2 || late < time.Second || late > 30*time.Second {
		t.Errorf("%+v, want b's end %s and 1–30 s", got, until)
	}
	if got.WorthWaiting(until) || !got.WorthWaiting(until.Add(time.Minute)) {
		t.Error("worth waiting for what comes before the deadline, and only for that")
	}
}

func TestBenchesForMessagesDoNotBlockBatchesFilesAndModels(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a")...)
	r.tell("a", sonnet, spent(r.at.Add(time.Hour)))
	r.mustRefuse(message(sonnet))
	r.mustGet("a", &Request{Family: anthropic.FamilyOther})
}

func TestANewAccountStartsAtTheMedian(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a", "b", "c")...)
	for name, n := range map[string]int{"a": 10, "b": 40, "c": 90} {
		for range n {
			r.tell(name, sonnet, ok)
		}
	}
	list := append(accounts("a", "b", "c", "new"), Account{ID: "double", Name: "double", Plan: api.PlanMax, Weight: 2})
	r.Sync(list)
	for name, want := range map[string]int{"new": 40, "double": 80, "a": 10} {
		if got := r.byID[name].seen.Tries; got != want {
			t.Errorf("%s starts with %d tries, want %d", name, got, want)
		}
	}
}

func TestTriesAreForgottenAfterFiveHours(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a")...)
	for range 10 {
		r.tell("a", sonnet, ok)
		r.pass(10 * time.Minute)
	}
	seen := func() (n int) {
		r.Load() // looks at the counts, too, and must not hide that time has passed
		_, _ = r.Acquire(message(sonnet), seeing(func(c []*Candidate) { n = c[0].Tries }), nil)
		return n
	}
	if n := seen(); n != 10 {
		t.Errorf("%d tries, want 10", n)
	}
	r.pass(4 * time.Hour)
	if n := seen(); n < 5 || n > 9 {
		t.Errorf("%d tries after five hours and a half, want some of them", n)
	}
	r.pass(6 * time.Hour)
	if n := seen(); n != 0 {
		t.Errorf("%d tries are never forgotten", n)
	}
	r.pass(-24 * time.Hour) // a clock that was set back
	if n := seen(); n < 1 {
		t.Errorf("%d tries after the clock was set back", n)
	}
}

// seeing is a policy that shows its candidates.
type seeing func([]*Candidate)

func (f seeing) Select(_ *Request, c []*Candidate) int {
	f(c)
	return 0
}

func TestWhatDoesNotDrawOnWindowsIsNoTry(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a")...)
	r.mustGet("a", &Request{Model: sonnet, Family: anthropic.FamilySonnet}).Release()
	if n := r.byID["a"].seen.Tries; n != 0 {
		t.Errorf("count_tokens counts as %d tries", n)
	}
}

func TestStateStaysWithTheAccountsID(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a", "b")...)
	ticket := r.mustGet("a", message(sonnet))
	r.tell("a", sonnet, spent(r.at.Add(time.Hour)))
	list := accounts("a", "c")
	list[0].Name = "renamed"
	r.Sync(list)
	if l := r.live("renamed"); l.Status != api.StatusLimited || l.InFlight != 1 {
		t.Errorf("%s with %d in flight", l.Status, l.InFlight)
	}
	ticket.Release()
	ticket.Release() // twice is once
	if l := r.live("renamed"); l.InFlight != 0 {
		t.Errorf("%d in flight", l.InFlight)
	}
	if r.NameOf("a") != "renamed" || r.NameOf("b") != "" {
		t.Error("names by id")
	}
}

func TestARemovedAccountsTicketsDoNoHarm(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a")...)
	ticket := r.mustGet("a", message(sonnet))
	r.Sync(nil)
	ticket.Report(Report{RequestID: "1", Verdict: anthropic.Verdict{Cause: anthropic.CauseOrgDisabled, Disable: true}})
	ticket.Release()
	if n := r.TakeNotices(); len(n) != 0 {
		t.Errorf("a removed account is told of: %+v", n)
	}
}

func TestAnOverloadedAccountIsSecondChoiceForAMoment(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a", "b")...)
	r.tell("a", sonnet, overloaded)
	r.mustGet("b", message(sonnet)).Release()
	r.mustGet("a", message(sonnet), "b").Release() // but it may serve
	if l := r.limits("a"); len(l) != 0 {
		t.Errorf("an overload benches: %+v", l)
	}
	r.pass(overloadPenalty)
	r.mustGet("a", message(sonnet)).Release()
}

func TestAFlaggedAccountIsTheLastChoiceUntilItServesAMessage(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a", "b")...)
	third := anthropic.Verdict{Cause: anthropic.CauseThirdParty, Action: anthropic.Pass, Flag: "third_party"}
	s := turnOf("s")
	r.report(r.mustGet("a", s), ok)
	r.report(r.mustGet("a", s), third)
	r.tell("b", sonnet, overloaded)
	r.mustGet("b", message(sonnet)).Release() // an overload is less
	r.report(r.mustGet("b", s), ok)           // its sessions leave it, too
	if st := r.SessionStats(); st.Moved["flagged"] != 1 {
		t.Errorf("moved %v", st.Moved)
	}
	r.tell("a", sonnet, ok)
	r.mustGet("a", message(sonnet))
}

func TestAPolicyOfSomebodyElsesMakingCannotChooseOutside(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a", "b")...)
	for _, i := range []int{-1, 2, 1 << 40} {
		if ticket, _ := r.Acquire(message(sonnet), always(i), nil); ticket == nil || ticket.Name != "a" {
			t.Errorf("index %d: %+v", i, ticket)
		}
	}
}

type always int

func (i always) Select(*Request, []*Candidate) int { return int(i) }

func BenchmarkAcquire(b *testing.B) {
	for _, n := range []int{3, 100, 1000} {
		var names []string
		for i := range n {
			names = append(names, fmt.Sprint("account-", i))
		}
		for _, row := range []struct {
			name    string
			request *Request
			bound   int
		}{{"chosen", message(sonnet), 0}, {"chosen of bounded", message(sonnet), 10}, {"kept", turnOf("s"), 0}} {
			b.Run(fmt.Sprintf("%d/%s", n, row.name), func(b *testing.B) {
				p := New(time.Now, 1)
				list := accounts(names...)
				for i := range list {
					list[i].MaxInFlight = row.bound
				}
				p.Sync(list)
				for _, name := range names {
					p.byID[name].seen.Windows = []Window{{Window: window("5h", 0.5, "allowed", time.Now().Add(time.Hour))}, {Window: window("7d", 0.5, "allowed", time.Now().Add(time.Hour))}}
				}
				if row.request.Session != "" {
					t, _ := p.Acquire(row.request, inOrder{}, nil)
					t.Report(Report{RequestID: "1", Verdict: ok})
					t.Release()
				}
				b.ReportAllocs()
				for b.Loop() {
					t, _ := p.Acquire(row.request, leastTries{}, nil)
					t.Release()
				}
			})
		}
	}
}

// leastTries stands for the policies, which are in a room above.
type leastTries struct{}

func (leastTries) Select(_ *Request, c []*Candidate) int {
	best := 0
	for i := range c {
		if c[i].Tries < c[best].Tries {
			best = i
		}
	}
	return best
}

// turnOf is a message of a conversation.
func turnOf(key string) *Request {
	r := message(sonnet)
	r.Session = key
	return r
}
