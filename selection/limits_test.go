package selection

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/claude-balancer/claude-balancer/anthropic"
	"github.com/claude-balancer/claude-balancer/api"
)

func TestASpentWindowBenchesTheAccountUntilItsResetAndSomeJitter(t *testing.T) {
	t.Parallel()
	seen := make(map[time.Duration]bool)
	for i := range 50 {
		r := newRig(t, accounts("a")...)
		r.Pool = New(r.now, uint64(i))
		r.Sync(accounts("a"))
		reset := r.at.Add(2 * time.Hour)
		r.tell("a", sonnet, spent(reset))
		l := r.limits("a")[0]
		jitter := l.Until.Sub(reset)
		if jitter < time.Second || jitter > 30*time.Second {
			t.Fatalf("jitter %s", jitter)
		}
		seen[jitter.Truncate(time.Second)] = true
		if l.Scope != api.ScopeAccount || l.Cause != anthropic.CauseWindow || l.Header == "" || !l.Since.Equal(r.at) || l.Utilization != 1 {
			t.Fatalf("%+v", l)
		}
		r.mustRefuse(message(opus))
		r.pass(l.Until.Sub(r.at) - time.Nanosecond)
		r.mustRefuse(message(opus))
		r.pass(time.Nanosecond)
		r.mustGet("a", message(opus))
	}
	if len(seen) < 10 {
		t.Errorf("the ends are spread over %d seconds only", len(seen))
	}
}

func TestALimitOfAFamilyOrModelLeavesTheRest(t *testing.T) {
	t.Parallel()
	family := anthropic.Verdict{Cause: anthropic.CauseScopedWindow, Scope: anthropic.ScopeFamily, Family: anthropic.FamilyOpus}
	model := anthropic.Verdict{Cause: anthropic.CauseModelForbidden, Scope: anthropic.ScopeModel, Model: opus}
	for _, row := range []struct {
		verdict anthropic.Verdict
		closed  []string
		open    []string
	}{
		{family, []string{opus, "claude-opus-4-1"}, []string{sonnet, ""}},
		{model, []string{opus}, []string{sonnet, "claude-opus-4-1", ""}},
	} {
		r := newRig(t, accounts("a")...)
		row.verdict.Until = r.at.Add(time.Hour)
		r.tell("a", opus, row.verdict)
		for _, m := range row.closed {
			r.mustRefuse(message(m))
		}
		for _, m := range row.open {
			r.mustGet("a", message(m)).Release()
		}
		if l := r.live("a"); l.Status != api.StatusAvailable || l.Reason == "" {
			t.Errorf("an account that serves the rest is %s (%s)", l.Status, l.Reason)
		}
	}
}

func TestParallelAnswersCanLengthenALimitButNotShortenIt(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a")...)
	until := r.at.Add(time.Hour)
	bench := func(until time.Time) anthropic.Verdict {
		return anthropic.Verdict{Cause: anthropic.CauseSpendLimit, Scope: anthropic.ScopeAccount, Until: until}
	}
	first, second, third := r.mustGet("a", message(sonnet)), r.mustGet("a", message(sonnet)), r.mustGet("a", message(sonnet))
	r.pass(time.Second)
	began := r.at
	r.report(first, bench(until))
	r.pass(time.Second)
	r.report(second, bench(until.Add(-30*time.Minute)))
	if got := r.limits("a"); len(got) != 1 || !got[0].Until.Equal(until) {
		t.Errorf("shortened: %+v", got)
	}
	r.report(third, bench(until.Add(time.Minute)))
	if got := r.limits("a"); len(got) != 1 || !got[0].Until.Equal(until.Add(time.Minute)) || !got[0].Since.Equal(began) {
		t.Errorf("not lengthened: %+v", got)
	}
}

func TestTheAnswerToANewerRequestReplacesALimit(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a")...)
	r.tell("a", sonnet, spent(r.at.Add(5*time.Hour)))
	r.pass(probeEvery)
	sooner := r.at.Add(10 * time.Minute)
	r.tell("a", sonnet, spent(sooner))
	if got := r.limits("a"); len(got) != 1 || got[0].Until.Sub(sooner) > time.Minute {
		t.Errorf("%+v, want one that ends about %s", got, sooner)
	}
}

func TestLimitsOfDifferentCausesStandSideBySide(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a")...)
	a, b, c := r.mustGet("a", message(opus)), r.mustGet("a", message(opus)), r.mustGet("a", message(opus))
	r.report(a, spent(r.at.Add(time.Hour)))
	r.report(b, anthropic.Verdict{Cause: anthropic.CauseSpendLimit, Scope: anthropic.ScopeAccount, Until: r.at.Add(2 * time.Hour)})
	r.report(c, burstOf(anthropic.FamilyOpus, time.Time{}))
	if n := len(r.limits("a")); n != 3 {
		t.Fatalf("%d limits", n)
	}
	if got := r.mustRefuse(message(opus)); got.FreeAt.Sub(r.at) != 2*time.Hour {
		t.Errorf("free in %s, want the longest", got.FreeAt.Sub(r.at))
	}
}

func TestModelsThatClientsNameCannotFillTheMemory(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a")...)
	for i := range 10 * maxLimits {
		model := fmt.Sprint("claude-sonnet-", i)
		r.tell("a", model, anthropic.Verdict{Cause: anthropic.CauseModelForbidden, Scope: anthropic.ScopeModel, Model: model, Until: r.at.Add(time.Hour)})
	}
	if n := len(r.limits("a")); n != maxLimits {
		t.Errorf("%d limits, want %d", n, maxLimits)
	}
	for i := range 10 * maxCachedModels {
		r.Allowed(fmt.Sprint("m", i))
	}
	if n := len(r.access); n > maxCachedModels {
		t.Errorf("%d models remembered", n)
	}
}

func TestQuotaThatReturnsEarlyEndsTheLimit(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name  string
		limit anthropic.Cause
		scope anthropic.Scope
		told  func(later time.Time) anthropic.RateLimits
		ends  bool
	}{
		{"the account's windows have room", anthropic.CauseWindow, anthropic.ScopeAccount,
			func(at time.Time) anthropic.RateLimits {
				return told("allowed", window("5h", 0.1, "allowed", at), window("7d", 0.4, "allowed_warning", at))
			}, true},
		{"a full window of a family does not matter to the account's", anthropic.CauseWindow, anthropic.ScopeAccount,
			func(at time.Time) anthropic.RateLimits {
				return told("allowed", window("5h", 0.1, "allowed", at), window("7d_oi", 1, "allowed", at))
			}, true},
		{"paid extra usage has an end, too", anthropic.CauseExtraUsage, anthropic.ScopeAccount,
			func(at time.Time) anthropic.RateLimits { return told("allowed", window("5h", 0.1, "allowed", at)) }, true},
		{"one of them is spent", anthropic.CauseWindow, anthropic.ScopeAccount,
			func(at time.Time) anthropic.RateLimits {
				return told("", window("5h", 0.1, "allowed", at), window("7d", 1, "rejected", at))
			}, false},
		{"the summary says rejected", anthropic.CauseWindow, anthropic.ScopeAccount,
			func(at time.Time) anthropic.RateLimits { return told("rejected", window("5h", 0.1, "allowed", at)) }, false},
		{"as full as it was", anthropic.CauseWindow, anthropic.ScopeAccount,
			func(at time.Time) anthropic.RateLimits { return told("allowed", window("5h", 1, "allowed", at)) }, false},
		{"only a family's window is told", anthropic.CauseWindow, anthropic.ScopeAccount,
			func(at time.Time) anthropic.RateLimits { return told("allowed", window("7d_oi", 0, "allowed", at)) }, false},
		{"nothing is told", anthropic.CauseWindow, anthropic.ScopeAccount,
			func(time.Time) anthropic.RateLimits { return anthropic.RateLimits{} }, false},
		{"the family's window has room", anthropic.CauseScopedWindow, anthropic.ScopeFamily,
			func(at time.Time) anthropic.RateLimits {
				return told("allowed", window("5h", 1, "allowed", at), window("7d_opus", 0.2, "allowed", at))
			}, true},
		{"the account's windows say nothing of the family's", anthropic.CauseScopedWindow, anthropic.ScopeFamily,
			func(at time.Time) anthropic.RateLimits { return told("allowed", window("5h", 0.2, "allowed", at)) }, false},
		{"another family's window", anthropic.CauseScopedWindow, anthropic.ScopeFamily,
			func(at time.Time) anthropic.RateLimits {
				return told("allowed", window("7d_sonnet", 0.2, "allowed", at))
			}, false},
		{"quota does not end a spend limit", anthropic.CauseSpendLimit, anthropic.ScopeAccount,
			func(at time.Time) anthropic.RateLimits { return told("allowed", window("5h", 0.1, "allowed", at)) }, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, accounts("a")...)
			r.tell("a", opus, anthropic.Verdict{Cause: row.limit, Scope: row.scope, Family: anthropic.FamilyOpus, Until: r.at.Add(5 * time.Hour)})
			r.pass(time.Minute)
			// count_tokens is served by a benched account and tells of its windows.
			counted := ok
			counted.Limits = row.told(r.at.Add(3 * time.Hour))
			r.report(r.mustGet("a", &Request{Model: opus, Family: anthropic.FamilyOpus}), counted)
			if ended := len(r.limits("a")) == 0; ended != row.ends {
				t.Errorf("ended: %v, want %v", ended, row.ends)
			}
		})
	}
}

func TestOldNewsDoesNotEndALimit(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a")...)
	before := r.mustGet("a", message(sonnet))
	r.tell("a", sonnet, spent(r.at.Add(time.Hour)))
	r.pass(time.Second)
	good := ok
	good.Limits = told("allowed", window("5h", 0.1, "allowed", r.at.Add(time.Hour)))
	r.report(before, good)
	if len(r.limits("a")) != 1 {
		t.Error("a success of a request that was sent before the limit ended it")
	}
}

func TestALimitIsMeasuredByTheWindowsItIsAbout(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a")...)
	soon := r.at.Add(time.Minute)
	old := ok
	old.Limits = told("allowed", window("7d", 0.9, "allowed", soon), window("7d_oi", 0.95, "allowed", r.at.Add(time.Hour)))
	r.tell("a", sonnet, old)
	r.pass(2 * time.Minute) // the week is over: its 0.9 means nothing now
	v := spent(r.at.Add(time.Hour))
	v.Limits.Windows[0].Utilization = 0.6
	r.tell("a", sonnet, v)
	if l := r.limits("a")[0]; l.Utilization != 0.6 {
		t.Errorf("measured by %v", l.Utilization)
	}
}

func TestASuccessEndsWhatItDisproves(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a")...)
	r.tell("a", sonnet, spent(r.at.Add(3*time.Hour)))
	r.pass(probeEvery)
	r.tell("a", sonnet, ok) // the half-open probe
	if l := r.live("a"); l.Status != api.StatusAvailable || len(l.Limits) != 0 {
		t.Errorf("%s %+v", l.Status, l.Limits)
	}
}

func TestOneRealRequestTriesAnAccountThatIsBenchedForLong(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a", "b")...)
	r.tell("a", sonnet, spent(r.at.Add(3*time.Hour)))
	r.tell("b", sonnet, spent(r.at.Add(3*time.Hour)))
	r.mustRefuse(message(sonnet))
	r.pass(probeEvery)
	r.report(r.mustGet("a", message(sonnet)), spent(r.at.Add(3*time.Hour)))
	r.report(r.mustGet("b", message(sonnet)), spent(r.at.Add(3*time.Hour)))
	r.mustRefuse(message(sonnet))
	r.pass(probeEvery - time.Second)
	r.mustRefuse(message(sonnet))
	r.pass(2 * time.Second)
	r.report(r.mustGet("a", message(sonnet)), ok)
	for range 3 { // its quota is back
		r.mustGet("a", message(sonnet)).Release()
	}
}

func TestNoProbeWhileSomebodyElseServesOrSoonWill(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a", "b")...)
	r.tell("a", sonnet, spent(r.at.Add(3*time.Hour)))
	r.pass(time.Hour)
	r.mustGet("b", message(sonnet)).Release()
	r.mustRefuse(message(sonnet), "b") // tried in this round
	r.report(r.mustGet("b", message(sonnet)), spent(r.at.Add(4*time.Minute)))
	r.mustRefuse(message(sonnet))
}

func TestPaidExtraUsageRestsTheAccountWhileOthersCanServe(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name  string
		alone bool
		spend bool
		rests bool
	}{
		{"others can serve", false, false, true},
		{"nobody else can", true, false, false},
		{"the operator pays", false, true, false},
	} {
		r := newRig(t, accounts("a", "b")...)
		if row.alone {
			r.tell("b", sonnet, spent(r.at.Add(time.Hour)))
		}
		paid := spent(r.at.Add(time.Hour))
		paid.Cause, paid.Action = anthropic.CauseExtraUsage, anthropic.Done
		ticket := r.mustGet("a", message(sonnet))
		ticket.Report(Report{RequestID: "paid", Verdict: paid, SpendExtraUsage: row.spend})
		ticket.Release()
		if rests := len(r.limits("a")) == 1; rests != row.rests {
			t.Errorf("%s: rests %v", row.name, rests)
		}
	}
}

func TestABurstsRestDoublesFromASecondToAMinute(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a")...)
	for _, want := range []int{1, 2, 4, 8, 16, 32, 60, 60} {
		r.tell("a", sonnet, burstOf(anthropic.FamilySonnet, time.Time{}))
		if got := r.limits("a")[0].Until.Sub(r.at); got != time.Duration(want)*time.Second {
			t.Fatalf("rests %s, want %d s", got, want)
		}
		r.mustRefuse(message(sonnet))
		r.pass(time.Duration(want) * time.Second)
	}
	r.pass(burstMax + time.Second) // it was quiet
	r.tell("a", sonnet, burstOf(anthropic.FamilySonnet, time.Time{}))
	if got := r.limits("a")[0].Until.Sub(r.at); got != time.Second {
		t.Errorf("after a quiet minute it rests %s", got)
	}
}

func TestParallelBurstAnswersCountOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a")...)
	var tickets []*Ticket
	for range 50 {
		tickets = append(tickets, r.mustGet("a", message(sonnet)))
	}
	for _, ticket := range tickets {
		r.pass(100 * time.Millisecond) // the last of them when the rest is long over
		r.report(ticket, burstOf(anthropic.FamilySonnet, time.Time{}))
	}
	if b := r.byID["a"].bursts[anthropic.FamilySonnet]; b.step != time.Second {
		t.Errorf("50 parallel answers made the rest %s long", b.step)
	}
	r.tell("a", sonnet, burstOf(anthropic.FamilySonnet, time.Time{}))
	if got := r.limits("a")[0].Until.Sub(r.at); got != 2*time.Second {
		t.Errorf("the next burst rests %s", got)
	}
}

func TestABurstsToldEndIsKeptUpToAMinute(t *testing.T) {
	t.Parallel()
	for in, want := range map[time.Duration]time.Duration{20 * time.Second: 20 * time.Second, 10 * time.Minute: time.Minute} {
		r := newRig(t, accounts("a")...)
		ticket := r.mustGet("a", message(sonnet))
		r.report(ticket, burstOf(anthropic.FamilySonnet, r.at.Add(in)))
		if got := r.limits("a")[0].Until.Sub(r.at); got != want {
			t.Errorf("told %s, rests %s", in, got)
		}
		r.mustGet("a", message(opus))
	}
}

func TestATryAfterTheWaitIsNewsAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a")...)
	ticket := r.mustGet("a", message(sonnet))
	ticket.Report(Report{RequestID: "1", Verdict: burstOf(anthropic.FamilySonnet, time.Time{})})
	r.pass(time.Second)
	sent := r.at // on the same ticket
	r.pass(time.Millisecond)
	ticket.Report(Report{RequestID: "1", Sent: sent, Verdict: burstOf(anthropic.FamilySonnet, time.Time{})})
	if got := r.limits("a")[0].Until.Sub(r.at); got != 2*time.Second {
		t.Errorf("rests %s", got)
	}
}

func TestAStaticCredentialNeedsALoginAfterTwoRefusedRequests(t *testing.T) {
	t.Parallel()
	list := accounts("a")
	list[0].Kind = api.KindAPIKey
	r := newRig(t, list...)
	refused := anthropic.Verdict{Cause: anthropic.CauseUnauthorized, Action: anthropic.Next, Message: "invalid x-api-key"}
	say := func(id string, v anthropic.Verdict) {
		ticket := r.mustGet("a", message(sonnet))
		ticket.Report(Report{RequestID: id, Verdict: v})
		ticket.Release()
	}
	say("1", refused)
	say("1", refused) // again in the same request
	say("2", ok)
	say("3", refused)
	if l := r.live("a"); l.Status != api.StatusAvailable {
		t.Fatalf("%s after refusals that are not in a row", l.Status)
	}
	say("4", refused)
	l := r.live("a")
	if l.Status != api.StatusNeedsLogin || l.StateReason != "the provider refuses its credential: invalid x-api-key" {
		t.Fatalf("%s: %s", l.Status, l.StateReason)
	}
	r.LoginRenewed("a")
	say("5", refused)
	if l := r.live("a"); l.Status != api.StatusAvailable {
		t.Errorf("a renewed login starts at %s", l.Status)
	}
}

func TestANewLoginEndsItsBenchAndOnlyThat(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a")...)
	first, second := r.mustGet("a", message(sonnet)), r.mustGet("a", message(sonnet))
	r.report(first, anthropic.Verdict{Cause: anthropic.CauseUnauthorized, Scope: anthropic.ScopeAccount, Until: r.at.Add(5 * time.Minute)})
	r.report(second, spent(r.at.Add(time.Hour)))
	r.LoginRenewed("a")
	if l := r.limits("a"); len(l) != 1 || l[0].Cause != anthropic.CauseWindow {
		t.Errorf("%+v", l)
	}
	r.LoginRenewed("nobody")
}

func TestClearedLimitsLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a")...)
	r.tell("a", sonnet, anthropic.Verdict{Cause: anthropic.CauseThirdParty, Flag: "third_party"})
	r.tell("a", sonnet, overloaded)
	tickets := []*Ticket{r.mustGet("a", message(sonnet)), r.mustGet("a", message(sonnet)), r.mustGet("a", message(sonnet))}
	r.report(tickets[0], spent(r.at.Add(time.Hour)))
	r.report(tickets[1], burstOf(anthropic.FamilySonnet, time.Time{}))
	r.report(tickets[2], anthropic.Verdict{Cause: anthropic.CauseOrgDisabled, Disable: true, Message: "on hold"})
	if l := r.live("a"); l.Status != api.StatusDisabled || l.Reason != "disabled by the provider: on hold" {
		t.Fatalf("%s: %s", l.Status, l.Reason)
	}
	r.ClearLimits("a")
	r.ClearLimits("nobody")
	if l := r.live("a"); l.Status != api.StatusAvailable || l.Reason != "" || len(l.Limits) != 0 {
		t.Errorf("%s (%s) %+v", l.Status, l.Reason, l.Limits)
	}
	if m := r.byID["a"]; !m.plain || m.rank(r.at) != rankHealthy {
		t.Errorf("it is not as it was: %+v", m)
	}
	r.tell("a", sonnet, burstOf(anthropic.FamilySonnet, time.Time{}))
	if got := r.limits("a")[0].Until.Sub(r.at); got != time.Second {
		t.Errorf("bursts start at %s", got)
	}
}

func TestAWindowThatIsOverIsNotShown(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a")...)
	good := ok
	good.Limits = told("allowed", window("5h", 0.5, "allowed", r.at.Add(time.Hour)), window("7d", 0.2, "allowed", r.at.Add(48*time.Hour)), window("xx", 0.1, "", time.Time{}))
	r.tell("a", sonnet, good)
	names := func() (s string) {
		for _, w := range r.live("a").Windows {
			s += w.Name + " "
		}
		return s
	}
	if got := names(); got != "5h 7d xx " {
		t.Errorf("windows %s", got)
	}
	r.pass(time.Hour)
	if got := names(); got != "7d xx " {
		t.Errorf("windows %s an hour later", got)
	}
	good.Limits.Windows = good.Limits.Windows[1:2]
	r.tell("a", sonnet, good) // what is not told again stays
	if got := names(); got != "7d xx " {
		t.Errorf("windows %s", got)
	}
}

func TestEveryCauseThatBenchesHasItsWords(t *testing.T) {
	t.Parallel()
	for cause := range causeWords {
		l := Limit{Cause: cause, Name: "opus", Header: "h"}
		if got := l.Words(); got != "opus: "+causeWords[cause]+" (h)" {
			t.Errorf("%q", got)
		}
	}
	l := Limit{Cause: "of_tomorrow"}
	if l.Words() != "of_tomorrow" {
		t.Errorf("an unknown cause is %q", l.Words())
	}
}

// TestIfOneAccountCouldServeTheAnswerIsNeverNone runs random histories: whatever
// happened, an account without an obstacle is found, with one that has an
// obstacle nobody is served, and limits never last longer than eight days.
func TestIfOneAccountCouldServeTheAnswerIsNeverNone(t *testing.T) {
	t.Parallel()
	models := []string{sonnet, opus, "claude-haiku-4-5", "unknown", ""}
	rapid.Check(t, func(t *rapid.T) {
		list := accounts("a", "b", "c", "d")
		for i := range list {
			list[i].MaxInFlight = rapid.IntRange(0, 2).Draw(t, "max")
			list[i].Plan = rapid.SampledFrom([]string{api.PlanMax, api.PlanConsole}).Draw(t, "plan")
			list[i].Paused = rapid.IntRange(0, 5).Draw(t, "paused") == 0
		}
		r := newRig(nil, list...)
		var open []*Ticket
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			r.pass(time.Duration(rapid.IntRange(1, 400_000).Draw(t, "ms")) * time.Millisecond)
			req := message(rapid.SampledFrom(models).Draw(t, "model"))
			req.Generative = rapid.IntRange(0, 9).Draw(t, "generative") > 0
			if rapid.Bool().Draw(t, "session") {
				req.Session = rapid.SampledFrom([]string{"s", "t"}).Draw(t, "key")
			}
			var tried []string
			if rapid.IntRange(0, 4).Draw(t, "tried") == 0 {
				tried = []string{"a", "c"}
			}
			couldServe := make(map[string]bool)
			r.look(req)
			for _, m := range r.members {
				if m.obstacleFor(req, r.at) == free && m.ID != "" {
					couldServe[m.ID] = true
				}
			}
			for _, id := range tried {
				delete(couldServe, id)
			}
			ticket, refusal := r.Acquire(req, inOrder{}, tried)
			switch {
			case ticket == nil && len(couldServe) > 0:
				t.Fatalf("none, though %v could serve: %+v", couldServe, refusal)
			case ticket == nil:
				continue
			case !couldServe[ticket.ID] && (len(couldServe) > 0 || r.byID[ticket.ID].limitFor(req, r.at) == nil):
				t.Fatalf("%s was chosen, candidates are %v", ticket.ID, couldServe)
			}
			open = append(open, ticket)
			if i := rapid.IntRange(0, len(open)-1).Draw(t, "which"); rapid.Bool().Draw(t, "end") {
				r.report(open[i], randomVerdict(t, r.at, open[i].request))
				open = append(open[:i], open[i+1:]...)
			}
			for _, l := range r.Snapshot() {
				for _, limit := range l.Limits {
					if limit.Until.Sub(r.at) > 8*24*time.Hour+30*time.Second || limit.Since.After(r.at) || limit.Cause == "" {
						t.Fatalf("%+v at %s", limit, r.at)
					}
				}
			}
			for _, m := range r.members {
				if m.plain && !m.isPlain() {
					t.Fatalf("%s is taken for plain: %+v", m.ID, m)
				}
			}
		}
		for _, ticket := range open {
			ticket.Release()
		}
		for _, l := range r.Snapshot() {
			if l.InFlight != 0 || r.byID[l.ID].probing != 0 {
				t.Fatalf("%s keeps %d places", l.Name, l.InFlight)
			}
		}
	})
}

func randomVerdict(t *rapid.T, now time.Time, req *Request) anthropic.Verdict {
	until := now.Add(time.Duration(rapid.IntRange(0, 8*24*3600).Draw(t, "until")) * time.Second)
	bench := func(c anthropic.Cause, s anthropic.Scope) anthropic.Verdict {
		return anthropic.Verdict{Cause: c, Scope: s, Family: req.Family, Model: req.Model, Until: until}
	}
	extra := spent(until)
	extra.Cause = anthropic.CauseExtraUsage
	good := ok
	good.Limits = told("allowed", window("5h", rapid.Float64Range(0, 1).Draw(t, "used"), "allowed", until))
	return rapid.SampledFrom([]anthropic.Verdict{
		ok, good, fault, fault, fault, overloaded, spent(until), extra, burstOf(req.Family, time.Time{}),
		bench(anthropic.CauseScopedWindow, anthropic.ScopeFamily), bench(anthropic.CauseModelForbidden, anthropic.ScopeModel),
		bench(anthropic.CauseSpendLimit, anthropic.ScopeAccount), {Cause: anthropic.CauseClientError}, {Cause: anthropic.CauseThirdParty, Flag: "third_party"},
	}).Draw(t, "verdict")
}
