package policies

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"pgregory.net/rapid"

	"github.com/claude-balancer/claude-balancer/anthropic"
	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/selection"
)

var all = map[string]selection.Policy{
	"least_used": LeastUsed{}, "headroom": Headroom{}, "round_robin": RoundRobin{}, "random": Random{}, "priority": Priority{},
}

const model = "claude-sonnet-4-5"

func pool(accounts ...selection.Account) *selection.Pool {
	at := time.Date(2026, 11, 2, 12, 0, 0, 0, time.UTC)
	p := selection.New(func() time.Time { at = at.Add(time.Microsecond); return at }, 1)
	for i := range accounts {
		accounts[i].ID, accounts[i].Plan = accounts[i].Name, api.PlanMax
	}
	p.Sync(accounts)
	return p
}

func message() *selection.Request {
	return &selection.Request{Model: model, Family: anthropic.FamilyOf(model), Generative: true}
}

// shares lets a pool pick n times and counts by account. running is how many
// requests run at a time.
func shares(t *testing.T, p *selection.Pool, policy selection.Policy, n, running int) map[string]int {
	t.Helper()
	got := make(map[string]int)
	var open []*selection.Ticket
	for range n {
		ticket, refusal := p.Acquire(message(), policy, nil)
		if ticket == nil {
			t.Fatalf("none: %+v", refusal)
		}
		got[ticket.Name]++
		if open = append(open, ticket); len(open) == running {
			open[0].Release()
			open = open[1:]
		}
	}
	return got
}

func within(got int, want, tolerance float64) bool {
	return math.Abs(float64(got)-want) <= tolerance*want
}

func TestEqualAccountsGetEqualShares(t *testing.T) {
	t.Parallel()
	const picks = 10_000
	for name, policy := range all {
		for _, running := range []int{1, 7} {
			for _, n := range []int{2, 3, 10} {
				var accounts []selection.Account
				for i := range n {
					accounts = append(accounts, selection.Account{Name: fmt.Sprint(i)})
				}
				tolerance := 0.05
				if name == "random" && n == 10 {
					tolerance = 0.1 // chance itself strays by 3 % there
				}
				for account, got := range shares(t, pool(accounts...), policy, picks, running) {
					if !within(got, picks/float64(n), tolerance) {
						t.Errorf("%s: account %s of %d got %d of %d", name, account, n, got, picks)
					}
				}
			}
		}
	}
}

func TestWeightsAreHonoured(t *testing.T) {
	t.Parallel()
	const picks = 12_000
	for name, policy := range all {
		if name == "headroom" {
			continue // it weighs rooms: see below
		}
		got := shares(t, pool(selection.Account{Name: "1", Weight: 1}, selection.Account{Name: "2", Weight: 2}, selection.Account{Name: "5", Weight: 5}), policy, picks, 3)
		for account, weight := range map[string]float64{"1": 1, "2": 2, "5": 5} {
			tolerance := 0.05
			if name == "random" {
				tolerance = 0.1 // chance itself strays by 2 %
			}
			if !within(got[account], picks*weight/8, tolerance) {
				t.Errorf("%s: weight %s got %d of %d", name, account, got[account], picks)
			}
		}
	}
}

func TestPriorityFillsTheFirstAccountsFirst(t *testing.T) {
	t.Parallel()
	p := pool(selection.Account{Name: "reserve", Priority: 1}, selection.Account{Name: "a"}, selection.Account{Name: "b"}, selection.Account{Name: "best", Priority: -1, MaxInFlight: 1})
	var got []string
	for range 5 {
		ticket, _ := p.Acquire(message(), Priority{}, nil)
		got = append(got, ticket.Name)
	}
	if s := strings.Join(got, " "); s != "best a b a b" {
		t.Errorf("served by %s", s)
	}
	if ticket, _ := p.Acquire(message(), Priority{}, []string{"a", "b"}); ticket.Name != "reserve" {
		t.Errorf("then by %s", ticket.Name)
	}
}

func TestRoundRobinInterleavesByWeight(t *testing.T) {
	t.Parallel()
	p := pool(selection.Account{Name: "a", Weight: 2}, selection.Account{Name: "b", Weight: 1})
	var got string
	for range 9 {
		ticket, _ := p.Acquire(message(), RoundRobin{}, nil)
		got += ticket.Name
	}
	if n := strings.Count(got, "a"); n != 6 || strings.Contains(got, "aaa") || strings.Contains(got, "bb") {
		t.Errorf("turns %s", got)
	}
}

func TestARestedAccountGetsNoFloodOfTurns(t *testing.T) {
	t.Parallel()
	p := pool(selection.Account{Name: "a"}, selection.Account{Name: "b"})
	for range 1000 {
		ticket, _ := p.Acquire(message(), RoundRobin{}, []string{"b"})
		ticket.Release()
	}
	got := shares(t, p, RoundRobin{}, 100, 1)
	if !within(got["b"], 50, 0.05) {
		t.Errorf("after its rest b got %d of 100 turns", got["b"])
	}
}

// candidate has windows with the given room left and time to the reset.
func candidate(now time.Time, windows ...any) *selection.Candidate {
	c := &selection.Candidate{Weight: 1}
	for i := 0; i < len(windows); i += 2 {
		c.Windows = append(c.Windows, selection.Window{Window: anthropic.Window{
			Utilization: 1 - windows[i].(float64), ResetsAt: now.Add(windows[i+1].(time.Duration)),
		}})
	}
	return c
}

func TestHeadroomTakesTheMostRoomInTheTightestWindow(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 2, 12, 0, 0, 0, time.UTC)
	const hour = time.Hour
	tier := func(c *selection.Candidate, tier string) *selection.Candidate { c.Tier = tier; return c }
	weight := func(c *selection.Candidate, w int) *selection.Candidate { c.Weight = w; return c }
	running := func(c *selection.Candidate, n int) *selection.Candidate { c.InFlight = n; return c }
	tries := func(c *selection.Candidate, n int) *selection.Candidate { c.Tries = n; return c }
	for _, row := range []struct {
		name string
		a, b *selection.Candidate // a is chosen
	}{
		{"more room", candidate(now, 0.6, hour), candidate(now, 0.5, hour)},
		{"an earlier reset", candidate(now, 0.5, hour), candidate(now, 0.5, 2*hour)},
		{"the tightest window counts", candidate(now, 0.4, hour, 0.4, 2*hour), candidate(now, 1.0, hour, 0.3, 2*hour)},
		{"a larger tier", tier(candidate(now, 0.3, hour), "default_claude_max_5x"), candidate(now, 1.0, hour)},
		{"the largest tier", tier(candidate(now, 0.3, hour), "default_claude_max_20x"), tier(candidate(now, 1.0, hour), "default_claude_max_5x")},
		{"the weight", weight(candidate(now, 0.3, hour), 3), candidate(now, 0.8, hour)},
		{"requests in flight share the room", candidate(now, 0.3, hour), running(candidate(now, 0.5, hour), 1)},
		{"a window that is over does not count", candidate(now, 0.0, -hour, 0.5, hour), candidate(now, 0.4, hour)},
		{"nor does one that tells nothing", candidate(now, 2.0, hour, 0.5, hour), candidate(now, 0.4, hour)},
		{"an unknown account is as roomy as the roomiest: asked less", candidate(now), tries(candidate(now, 0.9, hour), 1)},
		{"an unknown account is as roomy as the roomiest: asked more", candidate(now, 0.9, hour), tries(candidate(now), 1)},
		{"an unknown account goes before a spent one", tries(candidate(now), 9), candidate(now, 0.0, hour)},
	} {
		r := &selection.Request{Now: now}
		third := candidate(now, 0.9, hour) // that makes 'unknown' mean something
		third.Tries = 5
		list := []*selection.Candidate{row.b, row.a}
		if strings.Contains(row.name, "goes before") {
			list = append(list, third)
			third.Tries = 10
		}
		if got := (Headroom{}).Select(r, list); got != 1 {
			t.Errorf("%s: chose %d", row.name, got)
		}
	}
}

// TestHeadroomEmptiesAllWindowsAlike lets accounts of different tiers be used
// up: none is spent long before the others, and none starves.
func TestHeadroomEmptiesAllWindowsAlike(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 2, 12, 0, 0, 0, time.UTC)
	size := map[string]float64{"": 1000, "default_claude_max_5x": 5000, "default_claude_max_20x": 20000}
	var list []*selection.Candidate
	for tier := range size {
		c := candidate(now, 1.0, 5*time.Hour)
		c.Tier = tier
		list = append(list, c)
	}
	for range 13_000 { // half of what all together have
		c := list[(Headroom{}).Select(&selection.Request{Now: now}, list)]
		c.Windows[0].Utilization += 1 / size[c.Tier]
		c.Tries++
	}
	for _, c := range list {
		left := (1 - c.Windows[0].Utilization) * size[c.Tier]
		if left < 0 {
			t.Errorf("%q is overdrawn by %v", c.Tier, -left)
		}
	}
	// It evens out what is left, not what was used: the small one is spared.
	for _, c := range list {
		if c.Tier == "default_claude_max_20x" && c.Windows[0].Utilization < 0.5 {
			t.Errorf("the largest is used to %v only", c.Windows[0].Utilization)
		}
	}
}

func TestNoAccountStarves(t *testing.T) {
	t.Parallel()
	for name, policy := range all {
		if name == "priority" {
			continue // it starves on purpose
		}
		p := pool(selection.Account{Name: "a", Weight: 100}, selection.Account{Name: "b", Weight: 1}, selection.Account{Name: "c", Weight: 50})
		if got := shares(t, p, policy, 2000, 2); len(got) != 3 {
			t.Errorf("%s: shares %v", name, got)
		}
	}
}

func TestAPolicyChoosesAmongItsCandidatesAndChangesNone(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(1_800_000_000, 0)
		r := &selection.Request{Now: now, Rand: rapid.Uint64().Draw(t, "rand")}
		var list []*selection.Candidate
		var before []selection.Candidate
		for range rapid.IntRange(1, 20).Draw(t, "n") {
			c := candidate(now)
			if rapid.Bool().Draw(t, "known") {
				c = candidate(now, rapid.Float64Range(-1, 2).Draw(t, "left"), time.Duration(rapid.Int64Range(-1e12, 1e15).Draw(t, "reset")))
			}
			c.Tries = rapid.IntRange(0, 1000).Draw(t, "tries")
			c.InFlight = rapid.IntRange(0, 100).Draw(t, "in flight")
			c.LastUsed = rapid.Int64().Draw(t, "last used")
			c.Turn = rapid.Float64Range(0, 1e9).Draw(t, "turn")
			c.Priority = rapid.IntRange(-5, 5).Draw(t, "priority")
			c.Weight = rapid.IntRange(1, 1_000_000).Draw(t, "weight")
			list, before = append(list, c), append(before, *c)
		}
		for name, policy := range all {
			i := policy.Select(r, list)
			if i < 0 || i >= len(list) {
				t.Fatalf("%s chose %d of %d", name, i, len(list))
			}
			if again := policy.Select(r, list); again != i {
				t.Fatalf("%s chose %d, then %d", name, i, again)
			}
			if s, ok := policy.(selection.Scorer); ok && name != "headroom" {
				for _, c := range list {
					if s.Score(r, c) < s.Score(r, list[i]) {
						t.Fatalf("%s chose the score %v, though there is %v", name, s.Score(r, list[i]), s.Score(r, c))
					}
				}
			}
		}
		for i, c := range list {
			if fmt.Sprintf("%+v", *c) != fmt.Sprintf("%+v", before[i]) {
				t.Fatalf("a candidate was changed: %+v, was %+v", *c, before[i])
			}
		}
	})
}

func TestEveryPolicyIsAModuleWithoutOptions(t *testing.T) {
	t.Parallel()
	for name, policy := range all {
		info, err := caddy.GetModule("claude_balancer.selection_policies." + name)
		if err != nil {
			t.Error(err)
			continue
		}
		module := info.New()
		if got, want := fmt.Sprintf("%T", module), "*"+fmt.Sprintf("%T", policy); got != want {
			t.Errorf("%s is a %s", name, got)
		}
		for text, good := range map[string]bool{name: true, name + " 3": false, name + " {\n}": true, name + " {\n x\n}": false} {
			err := module.(caddyfile.Unmarshaler).UnmarshalCaddyfile(caddyfile.NewTestDispenser(text))
			if (err == nil) != good {
				t.Errorf("%q: %v", text, err)
			}
		}
	}
}

func BenchmarkSelect(b *testing.B) {
	now := time.Now()
	for name, policy := range all {
		b.Run(name+"/1000", func(b *testing.B) {
			var list []*selection.Candidate
			for i := range 1000 {
				c := candidate(now, 0.5, time.Hour, 0.7, 48*time.Hour)
				c.Tries = i % 7
				list = append(list, c)
			}
			r := &selection.Request{Now: now}
			b.ReportAllocs()
			for b.Loop() {
				policy.Select(r, list)
			}
		})
	}
}
