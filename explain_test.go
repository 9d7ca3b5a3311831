package claudebalancer

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/simulator"
)

func (r *rig) explain(q api.ExplainQuery) api.Explanation {
	r.t.Helper()
	e, err := r.app.runtime.Explain(r.t.Context(), q)
	if err != nil {
		r.t.Fatal(err)
	}
	return e
}

// reasons joins what is said of the accounts.
func reasons(e api.Explanation) map[string]string {
	out := make(map[string]string)
	for _, c := range e.Candidates {
		out[c.Account] = c.Reason
	}
	return out
}

func TestAnExplanationNamesEveryAccountWithReasonAndScore(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{directive: quick})
	for _, name := range []string{"max", "spare", "limited", "paused"} {
		r.add(name, "max")
	}
	r.add("console", "console")
	for _, name := range []string{"max", "spare", "console"} {
		r.pause(name, true)
	}
	r.pause("paused", true)
	r.sim.Script("limited", simulator.Step{Do: simulator.Window5h(time.Now().Add(time.Hour))})
	r.message(opus).mustBe(t, 503)
	for _, name := range []string{"max", "spare", "console"} {
		r.pause(name, false)
	}
	upstream := len(r.used())
	served := r.message(opus).mustBe(t, 200).header.Get("X-Proxy-Account")
	other := map[string]string{"max": "spare", "spare": "max"}[served]

	e := r.explain(api.ExplainQuery{Model: opus})
	text, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("explained:\n%s", text)
	if e.Model != opus || e.Family != "opus" || len(e.Candidates) != 5 || e.Chosen == nil || *e.Chosen != other {
		t.Errorf("%s", text)
	}
	why := reasons(e)
	for account, want := range map[string]string{
		other: "the policy's choice", served: "may serve", "paused": "paused by the operator",
		"console": "plan console does not allow " + opus, "limited": "usage window spent (anthropic-ratelimit-unified-5h-status) until ",
	} {
		if !strings.HasPrefix(why[account], want) {
			t.Errorf("%s: %q, want %q", account, why[account], want)
		}
	}
	for _, c := range e.Candidates {
		want := map[string]float64{served: 1, other: 0}
		score, eligible := want[c.Account]
		if c.Eligible != eligible || (c.Score != nil) != eligible || eligible && *c.Score != score {
			t.Errorf("%+v", c)
		}
	}
	if got := r.message(opus).mustBe(t, 200); got.header.Get("X-Proxy-Account") != *e.Chosen {
		t.Errorf("%s was chosen, %s was explained", got.header.Get("X-Proxy-Account"), *e.Chosen)
	}
	if n := len(r.used()) - upstream; n != 2 {
		t.Errorf("an explanation sent something: %d requests", n)
	}
}

func TestTheExplainedPolicyAndAffinityAreTheSites(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name      string
		directive string
		keeps     bool
		score     *float64 // of b
	}{
		{"priority", "policy priority", true, setField(7.0).Value},
		{"no affinity", "policy priority\nsession_affinity off", false, setField(7.0).Value},
		{"random, which has no scores", "policy random", true, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, rigOptions{directive: append([]string{row.directive}, quick...)})
			r.add("a", "max")
			r.add("b", "max")
			r.patch("b", api.AccountPatch{Priority: setField(7)})
			r.pause("a", true)
			r.message(sonnet, "X-Claude-Code-Session-Id", "s").mustBe(t, 200)
			r.pause("a", false)
			e := r.explain(api.ExplainQuery{Model: sonnet, Session: "s"})
			kept := reasons(e)["b"] == "keeps this session"
			if kept != row.keeps || kept && *e.Chosen != "b" || row.score != nil && !kept && *e.Chosen != "a" {
				t.Errorf("%+v", reasons(e))
			}
			got := e.Candidates[1].Score
			if (got == nil) != (row.score == nil) || got != nil && *got != *row.score {
				t.Errorf("score %v", got)
			}
			other := r.explain(api.ExplainQuery{Model: opus, Session: "s"})
			if reasons(other)["b"] == "keeps this session" {
				t.Error("another family's session is kept")
			}
		})
	}
}

func TestAnExplanationForAKeyHoldsItToItsAccountsAndModels(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{directive: quick})
	r.add("a", "max")
	r.add("b", "max")
	r.asKey(api.NewKey{Name: "some", Accounts: []string{"b"}, Models: []string{"*sonnet*", "*haiku*"}})
	e := r.explain(api.ExplainQuery{Model: sonnet, Key: "some"})
	if *e.Chosen != "b" || reasons(e)["a"] != "the client key may not use it" {
		t.Errorf("%+v", e)
	}
	e = r.explain(api.ExplainQuery{Model: opus, Key: "some"})
	if e.Chosen != nil || len(e.Candidates) != 2 || e.Candidates[1].Eligible || reasons(e)["b"] != "the client key may use *sonnet*, *haiku* only" {
		t.Errorf("%+v", e)
	}
	if _, err := r.app.runtime.Explain(t.Context(), api.ExplainQuery{Model: sonnet, Key: "nobody"}); err == nil {
		t.Error("an unknown key is explained")
	}
}

func TestAKeysSessionIsItsOwn(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{directive: quick})
	r.add("a", "max")
	r.add("b", "max")
	one := r.asKey(api.NewKey{Name: "one"})
	served := r.message(sonnet, append(one, "X-Claude-Code-Session-Id", "s")...).mustBe(t, 200).header.Get("X-Proxy-Account")
	if e := r.explain(api.ExplainQuery{Model: sonnet, Session: "s", Key: "one"}); *e.Chosen != served {
		t.Errorf("%+v", e)
	}
	if e := r.explain(api.ExplainQuery{Model: sonnet, Session: "s"}); *e.Chosen == served {
		t.Errorf("another client's session is kept: %+v", e)
	}
}
