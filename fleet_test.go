package claudebalancer

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/simulator"
)

// node is one process of a fleet.
type node struct {
	*process
	http *http.Client
}

// engines are the stores that a fleet can share: the number of nodes, and what
// to start each with.
func engines(t *testing.T, test func(t *testing.T, start func(o simulator.Options, directive string) []*node)) {
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		path := filepath.Join(t.TempDir(), "shared.db")
		test(t, func(o simulator.Options, directive string) []*node {
			return startFleet(t, 2, o, func(*process) string { return "store sqlite " + path }, directive)
		})
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		line := onPostgres(t)
		test(t, func(o simulator.Options, directive string) []*node {
			return startFleet(t, 3, o, func(*process) string { return line }, directive)
		})
	})
}

func startFleet(t *testing.T, n int, o simulator.Options, global func(*process) string, directive string) []*node {
	t.Helper()
	first := newProcess(t, o)
	nodes := make([]*node, n)
	for i := range nodes {
		p := first
		if i > 0 {
			p = first.beside()
		}
		nodes[i] = &node{process: p}
		nodes[i].http = p.client("2")
		p.begin(p.config(global(p), directive))
		p.answers()
	}
	return nodes
}

// served makes a message request and returns which account served it.
func (n *node) served(body string, header ...string) (account string, status int) {
	n.t.Helper()
	account, _, status, err := n.send("POST", "/v1/messages", body, header...)
	if err != nil {
		n.t.Error(err)
	}
	return account, status
}

func (n *node) send(method, path, body string, header ...string) (account, answer string, status int, err error) {
	req, err := http.NewRequestWithContext(context.Background(), method, n.url(path), strings.NewReader(body))
	if err != nil {
		return "", "", 0, err
	}
	req.Header.Set("Anthropic-Version", "2023-06-01")
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := n.http.Do(req)
	if err != nil {
		return "", "", 0, err
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	return res.Header.Get("X-Proxy-Account"), string(text), res.StatusCode, err
}

// arrival measures how long it takes until a change of one node counts in
// another.
type arrival struct {
	t    *testing.T
	took map[string][]time.Duration
}

// within waits until ok, from the moment of the change.
func (a *arrival) within(what string, changed time.Time, ok func() bool) {
	a.t.Helper()
	(&rig{t: a.t}).eventually(what, ok)
	a.took[what] = append(a.took[what], time.Since(changed))
}

// check fails if a kind of change usually takes more than a second: half of one
// until it is told, half until it is heard, and some work.
func (a *arrival) check() {
	a.t.Helper()
	for what, took := range a.took {
		slices.Sort(took)
		a.t.Logf("%s: %s", what, took)
		if took[len(took)/2] > 1250*time.Millisecond {
			a.t.Errorf("%s takes %s", what, took)
		}
	}
}

func (n *node) status(account string) api.Status { return n.account(account).Status }

func (n *node) key(name string, more map[string]any) string {
	n.t.Helper()
	body := map[string]any{"name": name}
	for k, v := range more {
		body[k] = v
	}
	var k api.Key
	if err := json.Unmarshal(n.ask("POST", "/claude_balancer/keys", body, 201), &k); err != nil {
		n.t.Fatal(err)
	}
	return k.Key
}

// knows reports whether a client key of that name counts here.
func (n *node) knows(key string) bool {
	n.t.Helper()
	res, err := http.Get("http://" + n.admin + "/claude_balancer/explain?model=" + sonnet + "&key=" + key)
	if err != nil {
		n.t.Fatal(err)
	}
	_ = res.Body.Close()
	return res.StatusCode == http.StatusOK
}

func TestWhatOneNodeChangesCountsInAllWithinASecond(t *testing.T) {
	t.Parallel()
	engines(t, func(t *testing.T, start func(simulator.Options, string) []*node) {
		nodes := start(simulator.Options{}, "policy priority\nretry_delay 1ms")
		nodes[0].add("a", "max")
		nodes[0].add("b", "max")
		nodes[0].ask("PATCH", "/claude_balancer/accounts/b", map[string]any{"priority": 5}, 200)
		last := nodes[len(nodes)-1]
		for _, n := range nodes {
			n.waitFor("the accounts are known", func() bool {
				var all []api.Account
				return json.Unmarshal(n.get("/claude_balancer/accounts"), &all) == nil && len(all) == 2
			})
		}
		took := &arrival{t, map[string][]time.Duration{}}
		rounds := 1
		if os.Getenv("CLAUDE_BALANCER_LONG") != "" {
			rounds = 3
		}
		for round := range rounds {
			at := time.Now()
			nodes[0].ask("PATCH", "/claude_balancer/accounts/a", map[string]any{"paused": true}, 200)
			took.within("a pause", at, func() bool { account, _ := last.served(messageBody(sonnet, false)); return account == "b" })
			at = time.Now()
			nodes[0].ask("PATCH", "/claude_balancer/accounts/a", map[string]any{"paused": false}, 200)
			took.within("its end", at, func() bool { account, _ := last.served(messageBody(sonnet, false)); return account == "a" })

			last.sim.Script("a", simulator.Step{Do: simulator.Window5h(time.Now().Add(time.Hour))})
			at = time.Now()
			if account, status := nodes[0].served(messageBody(sonnet, false)); account != "b" || status != 200 {
				t.Fatalf("%s answered with %d", account, status)
			}
			took.within("a limit", at, func() bool { return last.status("a") == api.StatusLimited })
			tried := last.sim.Count("a")
			for range 5 {
				last.served(messageBody(sonnet, false))
			}
			if n := last.sim.Count("a"); n != tried {
				t.Errorf("an account whose limit is known was tried %d times", n-tried)
			}
			at = time.Now()
			last.ask("POST", "/claude_balancer/accounts/a/clear_limits", map[string]any{}, 200)
			took.within("a cleared limit", at, func() bool { return nodes[0].status("a") == api.StatusAvailable })

			name := fmt.Sprint("key", round)
			at = time.Now()
			key := nodes[0].key(name, nil)
			took.within("a key", at, func() bool {
				_, status := last.served(messageBody(sonnet, false), "X-Api-Key", key)
				return status == 200
			})
			at = time.Now()
			nodes[0].ask("DELETE", "/claude_balancer/keys/"+name, map[string]any{}, 204)
			took.within("a revoked key", at, func() bool {
				_, status := last.served(messageBody(sonnet, false), "X-Api-Key", key)
				return status == 401 || status == 429 // 429: bad keys came too often
			})

			session := fmt.Sprintf("%08d-0000-4000-8000-000000000000", round)
			nodes[0].ask("PATCH", "/claude_balancer/accounts/a", map[string]any{"paused": true}, 200)
			at = time.Now()
			if account, _ := nodes[0].served(messageBody(sonnet, false), "X-Claude-Code-Session-Id", session); account != "b" {
				t.Fatalf("the session begins on %s", account)
			}
			nodes[0].ask("PATCH", "/claude_balancer/accounts/a", map[string]any{"paused": false}, 200)
			took.within("a session and a pause", at, func() bool {
				var e api.Explanation
				path := "/claude_balancer/explain?model=" + sonnet + "&session=" + session
				if err := json.Unmarshal(last.get(path), &e); err != nil {
					t.Fatal(err)
				}
				return e.Chosen != nil && *e.Chosen == "b"
			})
			at = time.Now()
			nodes[0].ask("POST", "/claude_balancer/accounts/a/refresh", map[string]any{}, 200)
			expires := nodes[0].account("a").ExpiresAt
			took.within("a new token", at, func() bool { e := last.account("a").ExpiresAt; return e != nil && *e == *expires })
		}
		took.check()
	})
}

func TestLimitsOfAccountsAndKeysCountOverTheFleet(t *testing.T) {
	t.Parallel()
	engines(t, func(t *testing.T, start func(simulator.Options, string) []*node) {
		nodes := start(simulator.Options{}, "try_duration 1s")
		first, last := nodes[0], nodes[len(nodes)-1]
		first.add("a", "max")
		first.ask("PATCH", "/claude_balancer/accounts/a", map[string]any{"max_in_flight": 1}, 200)
		keys := map[string]string{
			"running": first.key("running", map[string]any{"max_in_flight": 1}),
			"minute":  first.key("minute", map[string]any{"rpm": 60}),
			"budget":  first.key("budget", map[string]any{"budget_usd": 0.000001, "budget_period": "month"}),
		}
		for name := range keys {
			last.waitFor(name+" is known", func() bool { return last.knows(name) })
		}
		refused := func(name string) bool {
			_, status := last.served(messageBody(sonnet, false), "X-Api-Key", keys[name])
			return status == 429
		}
		t.Run("running requests", func(t *testing.T) {
			release := make(chan struct{})
			last.sim.Script("a", simulator.Step{Do: simulator.BeforeAnswer(func() { <-release })})
			done := make(chan int)
			go func() {
				_, status := first.served(messageBody(sonnet, false), "X-Api-Key", keys["running"])
				done <- status
			}()
			took := &arrival{t, map[string][]time.Duration{}}
			at := time.Now()
			took.within("a running request of an account", at, func() bool { return last.status("a") == api.StatusBusy })
			took.within("a running request of a key", at, func() bool { return refused("running") })
			if _, status := last.served(messageBody(sonnet, false)); status != 503 {
				t.Errorf("a second request at once: %d", status)
			}
			close(release)
			if status := <-done; status != 200 {
				t.Errorf("the first one: %d", status)
			}
			at = time.Now()
			took.within("its end", at, func() bool { return last.status("a") == api.StatusAvailable })
			took.check()
		})
		t.Run("requests a minute and a budget", func(t *testing.T) {
			if _, status := first.served(messageBody(sonnet, false), "X-Api-Key", keys["budget"]); status != 200 {
				t.Errorf("budget: %d", status)
			}
			for range 60 {
				if _, status := first.served(messageBody(sonnet, false), "X-Api-Key", keys["minute"]); status != 200 {
					t.Errorf("minute: %d", status)
				}
			}
			at := time.Now()
			took := &arrival{t, map[string][]time.Duration{}}
			took.within("requests a minute", at, func() bool { time.Sleep(20 * time.Millisecond); return refused("minute") })
			took.within("a spent budget", at, func() bool {
				var all []api.Key
				if err := json.Unmarshal(last.get("/claude_balancer/keys"), &all); err != nil {
					t.Fatal(err)
				}
				return slices.ContainsFunc(all, func(k api.Key) bool { return k.Name == "budget" && k.SpentUSD > 0 })
			})
			if !refused("budget") {
				t.Error("a budget that is spent on one node is not on another")
			}
			took.check()
		})
	})
}

// Statistics name the models that upstream has answered, not what clients ask for.
func TestAModelThatOneNodeHasSeenAnsweredIsNamedByAll(t *testing.T) {
	t.Parallel()
	engines(t, func(t *testing.T, start func(simulator.Options, string) []*node) {
		nodes := start(simulator.Options{}, "")
		first, last := nodes[0], nodes[len(nodes)-1]
		first.add("a", "max")
		last.waitFor("the account is known", func() bool { return bytes.Contains(last.get("/claude_balancer/accounts"), []byte(`"a"`)) })
		if _, status := first.served(messageBody(sonnet, false)); status != 200 {
			t.Fatalf("status %d", status)
		}
		last.sim.Script("a", simulator.Step{Status: 400, Body: "{}", Times: 10_000})
		last.waitFor("a refusal that another node had is counted for the model", func() bool {
			if _, status := last.served(messageBody(sonnet, false)); status != 400 {
				t.Fatalf("status %d", status)
			}
			var stats api.Stats
			if err := json.Unmarshal(last.get("/claude_balancer/stats"), &stats); err != nil {
				t.Fatal(err)
			}
			return stats.ByModel[sonnet].Errors > 0
		})
	})
}

func TestTriesCountOverTheFleetAndARestart(t *testing.T) {
	t.Parallel()
	engines(t, func(t *testing.T, start func(simulator.Options, string) []*node) {
		nodes := start(simulator.Options{}, "session_affinity off")
		first, last := nodes[0], nodes[len(nodes)-1]
		for _, name := range []string{"a", "b"} {
			first.add(name, "max")
		}
		first.ask("PATCH", "/claude_balancer/accounts/b", map[string]any{"paused": true}, 200)
		last.waitFor("b is paused", func() bool {
			var all []api.Account
			return json.Unmarshal(last.get("/claude_balancer/accounts"), &all) == nil && len(all) == 2 && last.status("b") == api.StatusPaused
		})
		for range 6 {
			first.served(messageBody(sonnet, false))
		}
		first.ask("PATCH", "/claude_balancer/accounts/b", map[string]any{"paused": false}, 200)
		tries := func(n *node, account string) (score float64) {
			var e api.Explanation
			if err := json.Unmarshal(n.get("/claude_balancer/explain?model="+sonnet), &e); err != nil {
				t.Fatal(err)
			}
			for _, c := range e.Candidates {
				if c.Account == account && c.Score != nil {
					score = *c.Score
				}
			}
			return score
		}
		last.waitFor("its tries are known", func() bool { return tries(last, "a") == 6 })
		for range 5 {
			if account, _ := last.served(messageBody(sonnet, false)); account != "b" {
				t.Errorf("%s served, but the fleet has used it more", account)
			}
		}
		first.waitFor("and those of the other", func() bool { return tries(first, "b") == 5 })

		config, err := os.ReadFile(filepath.Join(first.dir, "Caddyfile"))
		if err != nil {
			t.Fatal(err)
		}
		first.end(syscall.SIGTERM)
		first.start(string(config))
		if a, b := tries(first, "a"), tries(first, "b"); a != 6 || b != 5 {
			t.Errorf("after a restart %v and %v tries are known", a, b)
		}
	})
}
