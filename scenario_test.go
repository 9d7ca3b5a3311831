package claudebalancer

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/simulator"
)

// The scenarios play days of traffic over the simulator, with a clock that
// leaps. Each is also played with a restart in its middle. What they show is
// logged as a table; with CLAUDE_BALANCER_LONG=1 they are played at full length.

// clock runs with the real one and can leap ahead.
type clock struct{ ahead atomic.Int64 }

func newClock() *clock { return new(clock) }

func (c *clock) now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

func (c *clock) pass(d time.Duration) { c.ahead.Add(int64(d)) }

// long is n at full length, else short.
func long(n, short int) int {
	if os.Getenv("CLAUDE_BALANCER_LONG") != "" {
		return n
	}
	return short
}

// scene is a rig that counts what becomes of its requests.
type scene struct {
	*rig
	*clock
	restarts bool

	mu       sync.Mutex
	requests int
	lost     int // not served though an account could have
	refused  int // not served since none could
	closed   bool
	served   map[string]int    // by account
	last     map[string]string // account by session and family
	moves    int
	notes    []string
}

// middle restarts the balancer if the scenario is played so.
func (s *scene) middle() {
	if s.restarts {
		s.restart()
	}
}

// turn lets a conversation go on. Safe for concurrent use.
func (s *scene) turn(session, model string) reply {
	got := s.send("POST", "/v1/messages", messageBody(model, false), "X-Claude-Code-Session-Id", session)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests++
	switch {
	case got.status == 200:
		account, key := got.header.Get("X-Proxy-Account"), session+model
		s.served[account]++
		if last := s.last[key]; last != "" && last != account {
			s.moves++
		}
		s.last[key] = account
	case s.closed:
		s.refused++
	default:
		s.lost++
		s.t.Errorf("lost: %d %s", got.status, got.body)
	}
	return got
}

// turns lets n conversations have a turn each, one after the other.
func (s *scene) turns(n int, model string) {
	for i := range n {
		s.turn(fmt.Sprint("session-", i), model)
	}
}

// parallel lets n conversations have turns at the same time.
func (s *scene) parallel(n, turns int, model string) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			for range turns {
				s.turn(fmt.Sprint("session-", i), model)
			}
		})
	}
	wg.Wait()
}

func (s *scene) note(format string, args ...any) {
	s.notes = append(s.notes, fmt.Sprintf(format, args...))
}

// must fails the test unless a fact holds.
func (s *scene) must(holds bool, format string, args ...any) {
	s.t.Helper()
	if !holds {
		s.t.Errorf(format, args...)
	}
}

func (s *scene) tries() int { return s.sim.Count("") }

// figures is the scenario's line of the table.
func (s *scene) figures(name string) string {
	var shares []string
	for _, account := range []string{"a", "b", "c"} {
		if n, ok := s.served[account]; ok {
			shares = append(shares, fmt.Sprintf("%s %d%%", account, 100*n/max(1, s.requests-s.refused-s.lost)))
		}
	}
	return fmt.Sprintf("%s\t%d\t%d\t%d\t%.2f\t%d\t%s\t%s", name, s.requests, s.lost, s.refused,
		float64(s.tries())/float64(s.requests), s.moves, strings.Join(shares, " "), strings.Join(s.notes, "; "))
}

// window is a subscription's 5-hour or other window with room for n requests.
func fits(name string, n int64) simulator.Window { return simulator.Window{Name: name, Limit: n} }

var scenarios = []struct {
	name      string
	directive []string
	accounts  []simulator.Account
	play      func(s *scene)
}{
	{
		name: "a 5-hour window fills and resets",
		accounts: []simulator.Account{
			{Name: "a", Plan: "max", Windows: []simulator.Window{fits("5h", 12), fits("7d", 1e6)}},
			{Name: "b", Plan: "max"}, {Name: "c", Plan: "max"},
		},
		play: func(s *scene) {
			for range 10 {
				s.turns(6, sonnet)
			}
			s.must(s.account("a").Status == api.StatusLimited, "a is %s", s.account("a").Status)
			asked := s.sim.Count("a")
			s.must(asked == 13, "a was asked %d times: twelve fit, and one is turned away", asked)
			s.middle()
			s.pass(4 * time.Hour)
			s.turns(6, sonnet)
			s.must(s.sim.Count("a") == asked, "a was asked before its reset")
			s.pass(2 * time.Hour)
			before := s.served["a"]
			s.turns(12, sonnet)
			s.note("a served %d after its reset", s.served["a"]-before)
			s.must(s.served["a"] > before, "a is not used after its reset")
		},
	},
	{
		name: "a family's week is spent",
		accounts: []simulator.Account{
			{Name: "a", Plan: "max", Windows: []simulator.Window{fits("5h", 1e6), fits("7d", 1e6), fits("7d_opus", 6)}},
			{Name: "b", Plan: "max"},
		},
		play: func(s *scene) {
			for range 10 {
				s.turns(4, opus)
				s.turns(4, sonnet)
			}
			a := s.account("a")
			s.must(len(a.Limits) == 1 && a.Limits[0].Scope == api.ScopeFamily && deref(a.Limits[0].Family) == "opus", "limits %+v", a.Limits)
			s.must(a.Status == api.StatusAvailable, "a is %s, though it serves the rest", a.Status)
			s.middle()
			before, moves := s.served["a"], s.moves
			s.turns(4, opus)
			s.must(s.served["a"] == before, "a serves opus")
			s.turns(4, sonnet)
			s.must(s.served["a"] > before, "a serves no sonnet")
			s.must(s.moves == moves, "%d sessions of the other family moved", s.moves-moves)
			s.pass(8 * 24 * time.Hour)
			before = s.served["a"]
			s.turns(4, opus)
			s.must(s.served["a"] > before, "a serves no opus in the new week")
		},
	},
	{
		name:     "50 parallel 429s",
		accounts: []simulator.Account{{Name: "a", Plan: "max"}, {Name: "b", Plan: "max"}},
		play: func(s *scene) {
			s.turns(50, sonnet)
			quiet, turnedAway := time.Now().Add(time.Second), atomic.Int64{}
			s.sim.Script("", simulator.Step{Times: -1, Do: func(x *simulator.Exchange) {
				if time.Now().Before(quiet) {
					turnedAway.Add(1)
					simulator.Burst(time.Second)(x)
					return
				}
				x.Next()
			}})
			s.parallel(50, 1, sonnet)
			s.note("%d were turned away once", turnedAway.Load())
			for _, name := range []string{"a", "b"} {
				for _, l := range s.account(name).Limits {
					s.must(l.Until-l.Since <= 2000, "parallel 429s bench %s for %d ms", name, l.Until-l.Since)
				}
			}
			s.must(s.moves == 0, "%d sessions moved instead of waiting a second", s.moves)
			s.middle()
			s.pass(2 * time.Second)
			before := s.tries()
			s.parallel(50, 1, sonnet)
			s.must(s.tries()-before == 50, "%d tries for 50 requests afterwards", s.tries()-before)
		},
	},
	{
		name:     "529 everywhere for two minutes",
		accounts: []simulator.Account{{Name: "a", Plan: "max"}, {Name: "b", Plan: "max"}, {Name: "c", Plan: "max"}},
		play: func(s *scene) {
			s.turns(6, sonnet)
			s.sim.Script("", simulator.Step{Times: -1, Do: simulator.Overloaded529})
			s.closed = true
			before, asked := s.tries(), s.requests
			for i := range 12 {
				s.turns(6, sonnet)
				if i == 6 {
					s.middle()
				}
				s.pass(10 * time.Second)
			}
			perRequest := float64(s.tries()-before) / float64(s.requests-asked)
			s.note("%.1f tries for a refusal", perRequest)
			s.must(perRequest <= 3, "%.1f tries per request: more than one round in an incident", perRequest)
			s.sim.Unscript("")
			s.closed = false
			s.turns(6, sonnet)
			for _, name := range []string{"a", "b", "c"} {
				s.must(len(s.account(name).Limits) == 0, "an overload benched %s", name)
			}
		},
	},
	{
		name:     "an account flaps between 500 and 200",
		accounts: []simulator.Account{{Name: "a", Plan: "max"}, {Name: "b", Plan: "max"}, {Name: "c", Plan: "max"}},
		play: func(s *scene) {
			var n atomic.Int64
			s.sim.Script("a", simulator.Step{Times: -1, Do: func(x *simulator.Exchange) {
				if n.Add(1)%2 == 1 {
					simulator.ServerError(500)(x)
					return
				}
				x.Next()
			}})
			rounds := long(50, 15)
			for i := range rounds {
				for j := range 6 { // new conversations, so that a is tried again
					s.turn(fmt.Sprint("session-", i, "-", j), sonnet)
				}
				if i == rounds/2 {
					s.middle()
				}
				s.pass(time.Second)
			}
			s.must(float64(s.tries())/float64(s.requests) < 1.5, "%d tries for %d requests", s.tries(), s.requests)
		},
	},
	{
		name:     "ten sessions, one of three accounts dies half-way",
		accounts: []simulator.Account{{Name: "a", Plan: "max"}, {Name: "b", Plan: "max"}, {Name: "c", Plan: "max"}},
		play:     func(s *scene) { s.dying() },
	},
	{
		name:      "the same without affinity",
		directive: []string{"session_affinity off"},
		accounts:  []simulator.Account{{Name: "a", Plan: "max"}, {Name: "b", Plan: "max"}, {Name: "c", Plan: "max"}},
		play:      func(s *scene) { s.dying() },
	},
	{
		name:     "quota returns early",
		accounts: []simulator.Account{{Name: "a", Plan: "max"}, {Name: "b", Plan: "max"}},
		play: func(s *scene) {
			s.turns(4, sonnet)
			s.sim.Script("a", simulator.Step{Times: -1, Do: simulator.Window5h(s.clock.now().Add(4 * time.Hour))})
			s.turns(4, sonnet)
			s.must(s.account("a").Status == api.StatusLimited, "a is %s", s.account("a").Status)
			s.middle()
			s.pass(30 * time.Minute)
			s.sim.Unscript("a") // back after half an hour, not after four
			s.sim.Script("b", simulator.Step{Times: -1, Do: simulator.Window5h(s.clock.now().Add(4 * time.Hour))})
			s.turns(4, sonnet)
			s.must(s.account("a").Status == api.StatusAvailable, "a is still %s", s.account("a").Status)

			// Nobody else serves: the answer tells until when, and one real
			// request every five minutes finds out that it is not so.
			s.sim.Script("a", simulator.Step{Times: -1, Do: simulator.Window5h(s.clock.now().Add(4 * time.Hour))})
			s.closed = true
			got := s.turn("session-0", sonnet)
			wait, _ := strconv.Atoi(got.header.Get("Retry-After"))
			s.must(wait > 3*3600 && wait < 4*3600+60, "Retry-After %d", wait)
			s.pass(time.Minute)
			s.sim.Unscript("b")
			minutes := 0
			for minutes < 10 && s.turn("session-0", sonnet).status != 200 {
				s.pass(time.Minute)
				minutes++
			}
			s.note("alone, noticed after %d min", minutes)
			s.must(minutes <= 6, "the return was noticed after %d minutes only", minutes)
		},
	},
}

// dying plays ten conversations over three accounts, one of which loses its
// login half-way.
func (s *scene) dying() {
	turns := long(50, 10)
	s.parallel(10, turns, sonnet)
	moves := s.moves
	s.middle()
	onA := 0
	for _, account := range s.last {
		if account == "a" {
			onA++
		}
	}
	s.sim.KillRefresh("a")
	s.sim.RevokeAccess("a")
	s.parallel(10, turns, sonnet)
	s.eventually("a needs a login", func() bool { return s.account("a").Status == api.StatusNeedsLogin })
	s.note("%d sessions were on a", onA)
	if !strings.Contains(s.config, "session_affinity off") {
		s.must(moves == 0, "%d sessions moved without a reason", moves)
		s.must(s.moves == onA, "%d moves, but %d sessions were on the account that died", s.moves, onA)
	}
}

func TestScenarios(t *testing.T) {
	t.Parallel()
	lines := make([]string, 2*len(scenarios))
	t.Cleanup(func() {
		var table strings.Builder
		w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "scenario\trequests\tlost\trefused\ttries each\tmoves\tshares\tnotes")
		for _, line := range lines {
			fmt.Fprintln(w, line)
		}
		_ = w.Flush()
		t.Log("\n" + table.String())
	})
	for i, sc := range scenarios {
		for j, restarts := range []bool{false, true} {
			name := sc.name
			if restarts {
				name += ", with a restart"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				c := newClock()
				s := &scene{
					rig:   newRig(t, rigOptions{sim: simulator.Options{Now: c.now}, directive: append(slices.Clone(sc.directive), quick...)}),
					clock: c, restarts: restarts, served: make(map[string]int), last: make(map[string]string),
				}
				for _, a := range sc.accounts {
					s.addAccount(a)
				}
				sc.play(s)
				if s.lost > 0 {
					t.Errorf("%d of %d requests were lost", s.lost, s.requests)
				}
				if rows, err := s.app.runtime.Requests(context.Background(), api.RequestQuery{Limit: 1}); err != nil || len(rows) == 0 {
					t.Errorf("no history: %v", err)
				}
				lines[2*i+j] = s.figures(name)
			})
		}
	}
}
