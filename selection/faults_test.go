package selection

import (
	"fmt"
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/anthropic"
	"github.com/claude-balancer/claude-balancer/api"
)

// failThrice makes three requests in a row fail on a and succeed on b.
func (r *rig) failThrice() {
	r.t.Helper()
	for range failuresToEject {
		r.tell("a", sonnet, fault)
		r.tell("b", sonnet, ok)
	}
}

func TestThreeFaultyRequestsEjectAnAccountThatFailsAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a", "b")...)
	for i := range 3 {
		if n := len(r.limits("a")); n != 0 {
			t.Fatalf("ejected after %d requests", i)
		}
		r.tell("b", sonnet, ok)
		r.tell("a", sonnet, fault)
	}
	l := r.limits("a")
	if len(l) != 1 || l[0].Cause != anthropic.CauseServerError || l[0].Until.Sub(r.at) != ejectionBase {
		t.Fatalf("%+v", l)
	}
	for _, req := range []*Request{message(sonnet), message(opus), {Family: anthropic.FamilyOther}} {
		r.mustGet("b", req).Release() // also what draws on no window
	}
}

func TestWhatIsNoRowOfFaultsEjectsNobody(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name string
		run  func(r *rig)
	}{
		{"one request that is tried three times", func(r *rig) {
			r.tell("b", sonnet, ok)
			for range 3 {
				ticket := r.mustGet("a", message(sonnet))
				ticket.Report(Report{RequestID: "same", Verdict: fault})
				ticket.Release()
			}
		}},
		{"two requests that are tried in turn", func(r *rig) {
			r.tell("b", sonnet, ok)
			for i := range 6 {
				ticket := r.mustGet("a", message(sonnet))
				ticket.Report(Report{RequestID: fmt.Sprint(i % 2), Verdict: fault})
				ticket.Release()
			}
		}},
		{"a success in between", func(r *rig) {
			r.tell("b", sonnet, ok)
			for _, v := range []anthropic.Verdict{fault, fault, ok, fault, fault} {
				r.tell("a", sonnet, v)
			}
		}},
		{"an answer in between, if only a refusal", func(r *rig) {
			r.tell("b", sonnet, ok)
			for _, v := range []anthropic.Verdict{fault, fault, {Cause: anthropic.CauseClientError}, fault, fault} {
				r.tell("a", sonnet, v)
			}
		}},
		{"no success elsewhere meanwhile", func(r *rig) {
			r.tell("b", sonnet, ok)
			for range 3 {
				r.tell("a", sonnet, fault)
				r.tell("b", sonnet, fault)
			}
		}},
		{"overloads", func(r *rig) {
			r.tell("b", sonnet, ok)
			for range 5 {
				r.tell("a", sonnet, overloaded)
			}
		}},
		{"nobody else could serve", func(r *rig) {
			r.failThriceBut(func() { r.tell("b", sonnet, spent(r.at.Add(time.Hour))) })
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, accounts("a", "b")...)
			row.run(r)
			if l := r.limits("a"); len(l) != 0 {
				t.Errorf("%+v", l)
			}
		})
	}
}

// failThriceBut does something before the third failure.
func (r *rig) failThriceBut(f func()) {
	r.tell("a", sonnet, fault)
	r.tell("b", sonnet, ok)
	r.tell("a", sonnet, fault)
	f()
	r.tell("a", sonnet, fault)
}

func TestAnEjectionDoublesUntilASuccess(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a", "b")...)
	r.failThrice()
	for _, want := range []int{10, 20, 40, 80, 160, 300, 300} {
		l := r.limits("a")
		if len(l) != 1 || l[0].Until.Sub(r.byID["a"].ejectedAt) != time.Duration(want)*time.Second {
			t.Fatalf("%+v, want %d s", l, want)
		}
		r.pass(l[0].Until.Sub(r.at))
		r.tell("a", sonnet, fault) // one real request is enough now
	}
	r.pass(ejectionMax)
	r.tell("a", sonnet, ok)
	r.failThrice()
	if l := r.limits("a"); len(l) != 1 || l[0].Until.Sub(r.byID["a"].ejectedAt) != ejectionBase {
		t.Errorf("%+v after a success", l)
	}
}

func TestAnEjectedAccountReturnsWithOneRequestAtATime(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a", "b")...)
	r.failThrice()
	r.pass(ejectionBase)
	probe := r.mustGet("a", message(sonnet))
	r.mustGet("b", message(sonnet)).Release()
	if got := r.mustRefuse(message(sonnet), "b"); got.Busy != 1 {
		t.Errorf("%+v", got)
	}
	if o, _ := r.Explain(message(sonnet), inOrder{}); o[0].Eligible || o[0].Reason != "it failed repeatedly and one request is trying it now" {
		t.Errorf("%+v", o[0])
	}
	probe.Release() // it showed nothing: the client left
	probe = r.mustGet("a", message(sonnet))
	probe.Report(Report{RequestID: "p", Verdict: ok})
	r.mustGet("a", message(sonnet)) // while the probe's answer still runs
	r.mustGet("a", message(sonnet))
}

func TestFaultsFromBeforeTheEjectionSayNothingNew(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a", "b")...)
	var tickets []*Ticket
	for range 50 {
		tickets = append(tickets, r.mustGet("a", message(sonnet)))
	}
	r.tell("b", sonnet, ok)
	r.pass(time.Second)
	for i, ticket := range tickets {
		r.report(ticket, fault)
		if i == 0 {
			r.tell("b", sonnet, ok)
		}
		r.pass(time.Millisecond)
	}
	if l := r.limits("a"); len(l) != 1 || l[0].Until.Sub(l[0].Since) != ejectionBase {
		t.Errorf("50 parallel faults: %+v", l)
	}
}

func TestASuccessFromBeforeTheEjectionDoesNotEndIt(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a", "b")...)
	before := r.mustGet("a", message(sonnet))
	r.failThrice()
	r.report(before, ok)
	if len(r.limits("a")) != 1 || !r.byID["a"].probation {
		t.Error("it ended")
	}
}

func TestNeverMoreThanHalfOfThePoolIsEjected(t *testing.T) {
	t.Parallel()
	for n := 1; n <= 7; n++ {
		var names []string
		for i := range n {
			names = append(names, fmt.Sprint(i))
		}
		list := accounts(names...)
		list = append(list, Account{ID: "paused", Name: "paused", Plan: api.PlanMax, Paused: true}, Account{ID: "login", Name: "login", Plan: api.PlanMax, State: api.StatusNeedsLogin})
		r := newRig(t, list...)
		for range 3 {
			for i, name := range names { // the last one is fine
				if ticket := r.acquireOn(name); ticket != nil && i == n-1 {
					r.report(ticket, ok)
				} else if ticket != nil {
					r.report(ticket, fault)
				}
			}
		}
		for _, name := range names { // and now it fails, too
			if ticket := r.acquireOn(name); ticket != nil {
				r.report(ticket, fault)
			}
		}
		ejected := 0
		for _, name := range names {
			ejected += len(r.limits(name))
		}
		if ejected > n/2 || n > 2 && ejected == 0 {
			t.Errorf("%d of %d ejected", ejected, n)
		}
	}
}

// acquireOn gets a ticket of one account, or nil.
func (r *rig) acquireOn(name string) *Ticket {
	r.pass(time.Millisecond)
	req := message(sonnet)
	req.Owner = name
	t, _ := r.Acquire(req, inOrder{}, nil)
	if t != nil {
		t.request = message(sonnet) // as one that anybody could have served
	}
	return t
}

func TestAnEjectedAccountServesWhenNobodyElseCan(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a", "b")...)
	r.failThrice()
	r.tell("b", sonnet, spent(r.at.Add(time.Hour)))
	only := r.mustGet("a", message(sonnet))
	r.mustRefuse(message(sonnet)) // one at a time
	r.report(only, fault)
	if l := r.limits("a"); l[0].Until.Sub(l[0].Since) != ejectionBase {
		t.Errorf("its rest grew though nobody else could serve: %+v", l)
	}
	r.report(r.mustGet("a", message(sonnet)), ok)
	if l := r.limits("a"); len(l) != 0 {
		t.Errorf("%+v after a success", l)
	}
}

func TestAnIncidentIsTroubleOfEveryCandidate(t *testing.T) {
	t.Parallel()
	r := newRig(t, accounts("a", "b", "c")...)
	r.tell("c", sonnet, spent(r.at.Add(time.Hour))) // no candidate
	r.tell("a", sonnet, overloaded)
	if r.Incident(message(sonnet)) {
		t.Error("one of two")
	}
	r.tell("b", sonnet, fault)
	if !r.Incident(message(sonnet)) {
		t.Error("both, but no incident")
	}
	r.tell("a", sonnet, ok)
	if r.Incident(message(sonnet)) {
		t.Error("one has succeeded since")
	}
	r.tell("a", sonnet, overloaded)
	r.pass(incidentWindow)
	if r.Incident(message(sonnet)) {
		t.Error("it is over")
	}
	if newRig(t).Incident(message(sonnet)) {
		t.Error("an empty pool has no incident")
	}
}
