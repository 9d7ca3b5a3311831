package claudebalancer

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/secret"
	"github.com/claude-balancer/claude-balancer/simulator"
	"github.com/claude-balancer/claude-balancer/store"
	"github.com/claude-balancer/claude-balancer/store/storetest"
)

// Three Caddys, one PostgreSQL server, and between them networks that fail.

// faultyFleet is nodes that each reach the database by a network of its own.
type faultyFleet struct {
	t     *testing.T
	nodes []*node
	nets  []*storetest.Proxy // none: nothing is between
	db    *store.Store       // beside the nodes
}

// newFaultyFleet starts three nodes with so many accounts. clocks is how far
// ahead the clock of each is.
func newFaultyFleet(t *testing.T, o simulator.Options, accounts int, clocks ...time.Duration) *faultyFleet {
	t.Helper()
	skipFaults(t)
	url := storetest.Postgres(t)
	f := &faultyFleet{t: t}
	for range 3 {
		f.nets = append(f.nets, storetest.NewProxy(t, url))
	}
	f.start(o, url, accounts, clocks...)
	return f
}

// newStoppableFleet is a fleet whose server is its own, with nothing between.
func newStoppableFleet(t *testing.T, o simulator.Options, accounts int) (*faultyFleet, *storetest.Server) {
	t.Helper()
	skipFaults(t)
	server := storetest.NewServer(t)
	f := &faultyFleet{t: t}
	f.start(o, server.URL, accounts)
	return f, server
}

func skipFaults(t *testing.T) {
	t.Helper()
	if os.Getenv("CLAUDE_BALANCER_LONG") == "" && storetest.HasPostgres() {
		t.Skip("a test of faults: CLAUDE_BALANCER_LONG=1 runs it")
	}
}

func (f *faultyFleet) start(o simulator.Options, url string, accounts int, clocks ...time.Duration) {
	t := f.t
	t.Helper()
	first := newProcess(t, o)
	for i := range 3 {
		p, at := first, url
		if i > 0 {
			p = first.beside()
		}
		if f.nets != nil {
			at = f.nets[i].URL
		}
		p.env = append(p.env, "DATABASE_URL="+at)
		if i < len(clocks) {
			p.env = append(p.env, clockAhead+"="+clocks[i].String())
		}
		f.nodes = append(f.nodes, &node{process: p, http: p.client("2")})
		p.begin(p.config("store postgres {env.DATABASE_URL}", "retry_delay 10ms"))
	}
	for _, n := range f.nodes {
		n.answers()
	}
	db, err := store.Open(t.Context(), store.Options{URL: secret.New(url)})
	if err != nil {
		t.Fatal(err)
	}
	f.db = db
	t.Cleanup(func() { _ = db.Close() })
	for i := range accounts {
		f.nodes[0].add(fmt.Sprint("account", i), "max")
	}
	f.all(func(n *node) bool {
		var all []api.Account
		return json.Unmarshal(n.get("/claude_balancer/accounts"), &all) == nil && len(all) == accounts
	})
}

// all waits until it is so on each node.
func (f *faultyFleet) all(ok func(*node) bool) {
	f.t.Helper()
	for i, n := range f.nodes {
		n.waitFor(fmt.Sprint("so it is on node ", i), func() bool { return ok(n) })
	}
}

func (n *node) health() (h api.Health) {
	n.t.Helper()
	_, body, status, err := n.send("GET", "/health/ready", "")
	if err != nil || status != http.StatusOK {
		n.t.Errorf("/health/ready: %d %s %v", status, body, err)
		return h
	}
	if err := json.Unmarshal([]byte(body), &h); err != nil {
		n.t.Error(err)
	}
	return h
}

// load is clients that ask nodes without a pause.
type fleetLoad struct {
	f        *faultyFleet
	stop     chan struct{}
	clients  sync.WaitGroup
	mu       sync.Mutex
	finished map[string]time.Time // when the answer of each request ended, by id
	failed   []string
	asked    []atomic.Int64 // by node
}

// load lets so many clients ask each node.
func (f *faultyFleet) load(clients int) *fleetLoad {
	l := &fleetLoad{f: f, stop: make(chan struct{}), finished: make(map[string]time.Time), asked: make([]atomic.Int64, len(f.nodes))}
	for i, n := range f.nodes {
		for range clients {
			l.clients.Go(func() {
				for {
					select {
					case <-l.stop:
						return
					default:
						l.ask(i, n)
						time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond)
					}
				}
			})
		}
	}
	return l
}

func (l *fleetLoad) ask(i int, n *node) {
	req, err := http.NewRequestWithContext(context.Background(), "POST", n.url("/v1/messages"), strings.NewReader(messageBody(sonnet, rand.IntN(2) == 0)))
	if err != nil {
		l.f.t.Error(err)
		return
	}
	req.Header.Set("Anthropic-Version", "2023-06-01")
	res, err := n.http.Do(req)
	var text []byte
	if err == nil {
		text, err = io.ReadAll(res.Body)
		_ = res.Body.Close()
	}
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked[i].Add(1)
	if err != nil || res.StatusCode != http.StatusOK {
		l.failed = append(l.failed, fmt.Sprintf("node %d: %v %s", i, err, text))
		return
	}
	l.finished[res.Header.Get("X-Request-Id")] = now
}

// end stops the clients and returns what they saw.
func (l *fleetLoad) end() (finished map[string]time.Time, failed []string) {
	close(l.stop)
	l.clients.Wait()
	return l.finished, l.failed
}

// recorded reads the ids of all requests in the history, each of which must be
// there once.
func (f *faultyFleet) recorded() map[string]bool {
	f.t.Helper()
	ids := make(map[string]bool)
	for before := ""; ; {
		rows, err := f.db.Requests(f.t.Context(), api.RequestQuery{Limit: api.MaxRequestLimit, Before: before})
		if err != nil {
			f.t.Fatal(err)
		}
		if len(rows) == 0 {
			return ids
		}
		for _, r := range rows {
			if ids[r.ID] {
				f.t.Errorf("request %s is in the history twice", r.ID)
			}
			ids[r.ID] = true
		}
		before = rows[len(rows)-1].ID
	}
}

// everything waits until all finished requests are recorded, and checks that
// none is counted twice.
func (f *faultyFleet) everything(finished map[string]time.Time) {
	f.t.Helper()
	(&rig{t: f.t}).eventually("every finished request is in the history", func() bool {
		ids := f.recorded()
		for id := range finished {
			if !ids[id] {
				return false
			}
		}
		return true
	})
	stats, err := f.db.Stats(f.t.Context(), time.Time{})
	if ids := f.recorded(); err != nil || stats.TotalRequests != int64(len(ids)) {
		f.t.Errorf("%d requests are counted, %d are in the history, %v", stats.TotalRequests, len(ids), err)
	}
}

func TestAKilledNodeLosesWhatItFinishedLastAtMost(t *testing.T) {
	t.Parallel()
	f := newFaultyFleet(t, simulator.Options{}, 6)
	l := f.load(4)
	f.nodes[0].waitFor("the load runs, and its history is written", func() bool {
		return l.asked[0].Load() > 200 && len(f.recorded()) > 300
	})
	bound := 250*time.Millisecond + 4*f.slowestWrite()
	killed := time.Now()
	f.nodes[0].kill()
	dead := time.Now() // it may have answered until then
	f.nodes[1].waitFor("the others go on", func() bool { return l.asked[1].Load() > 600 && l.asked[2].Load() > 600 })
	finished, failed := l.end()
	for _, what := range failed {
		if !strings.HasPrefix(what, "node 0:") {
			t.Errorf("a request of another node failed: %s", what)
		}
	}
	early := make(map[string]time.Time)
	for id, at := range finished {
		if at.Before(killed.Add(-bound)) || at.After(dead) {
			early[id] = at
		}
	}
	f.nodes = f.nodes[1:]
	defer func() {
		ids, lost := f.recorded(), []time.Duration(nil)
		for id, at := range finished {
			if !ids[id] {
				lost = append(lost, at.Sub(killed))
			}
		}
		t.Logf("%d requests finished; %d are not in the history, which finished at %s from the kill (bound %s)", len(finished), len(lost), lost, bound)
	}()
	f.everything(early)
	for i := range 6 {
		f.nodes[0].ask("POST", fmt.Sprintf("/claude_balancer/accounts/account%d/refresh", i), map[string]any{}, 200)
	}
	// What ran on the dead node does not count for ever.
	f.all(func(n *node) bool {
		var all []api.Account
		if err := json.Unmarshal(n.get("/claude_balancer/accounts"), &all); err != nil {
			t.Fatal(err)
		}
		for _, a := range all {
			if a.InFlight != 0 {
				return false
			}
		}
		return true
	})
}

// slowestWrite is how long a small write takes on this machine now, when it
// takes long. A batch of the history is several.
func (f *faultyFleet) slowestWrite() (slowest time.Duration) {
	f.t.Helper()
	for range 20 {
		began := time.Now()
		if err := f.db.TellNode(f.t.Context(), "test", []byte("{}")); err != nil {
			f.t.Fatal(err)
		}
		slowest = max(slowest, time.Since(began))
	}
	return slowest
}

func TestANodeKilledInARefreshDelaysItByItsLease(t *testing.T) {
	t.Parallel()
	f := newFaultyFleet(t, simulator.Options{}, 1)
	sim := f.nodes[0].sim
	died := make(chan struct{})
	sim.Script("account0", simulator.Step{Path: simulator.OAuthTokenPath, Do: func(*simulator.Exchange) {
		f.nodes[0].kill()
		close(died)
	}})
	f.expire("account0")
	f.nodes[0].waitFor("it knows", func() bool { return f.nodes[0].account("account0").TokenValid == 0 })
	go f.nodes[0].asks()
	<-died
	begin := time.Now()
	if _, status := f.nodes[1].served(messageBody(sonnet, false)); status != 200 {
		t.Fatalf("status %d after %s", status, time.Since(begin))
	}
	took := time.Since(begin)
	t.Logf("another node served after %s", took)
	if took > 63*time.Second || sim.Refreshes("account0") != 1 || sim.Reuses("account0") != 0 {
		t.Errorf("%s, %d refreshes, %d with a spent token", took, sim.Refreshes("account0"), sim.Reuses("account0"))
	}
}

// expire lets the token of an account be past its time, for the provider and in
// the store.
func (f *faultyFleet) expire(name string) {
	f.t.Helper()
	f.nodes[0].sim.ExpireAccess(name)
	accounts, err := f.db.Accounts(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	for _, a := range accounts {
		if a.Name != name {
			continue
		}
		c := a.Credential
		c.ExpiresAt = time.Now().Add(-10 * time.Minute) // by any node's clock
		if _, err := f.db.SaveCredential(f.t.Context(), a.ID, c.Generation, c); err != nil {
			f.t.Fatal(err)
		}
	}
}

func TestADatabaseThatCannotBeReachedFailsNoRequest(t *testing.T) {
	t.Parallel()
	f := newFaultyFleet(t, simulator.Options{}, 6)
	l := f.load(4)
	f.nodes[0].waitFor("the load runs", func() bool { return l.asked[0].Load() > 100 })
	for _, fail := range []func(*storetest.Proxy){(*storetest.Proxy).Cut, (*storetest.Proxy).Stall, (*storetest.Proxy).CutAtCommit} {
		for _, net := range f.nets {
			fail(net)
		}
		f.isAway(l)
		for _, net := range f.nets {
			net.Restore()
		}
		f.all(func(n *node) bool { return n.health().Status == "ok" })
	}
	f.hasLostNothing(l)
}

func TestADatabaseThatRestartsUnderLoadFailsNoRequest(t *testing.T) {
	t.Parallel()
	f, server := newStoppableFleet(t, simulator.Options{}, 6)
	l := f.load(4)
	f.nodes[0].waitFor("the load runs", func() bool { return l.asked[0].Load() > 100 })
	for _, mode := range []string{"fast", "immediate"} {
		began := time.Now()
		server.Restart(mode)
		t.Logf("a restart (%s) took %s", mode, time.Since(began))
		f.isBack(l)
	}
	for _, mode := range []string{"fast", "immediate"} {
		server.Stop(mode)
		away := time.After(5 * time.Second)
		f.isAway(l)
		<-away
		server.Start()
		f.isBack(l)
	}
	f.hasLostNothing(l)
}

// A database that crashed has forgotten what nodes told of their use.
func TestNodesCountForOneAnotherAfterTheDatabaseCrashed(t *testing.T) {
	t.Parallel()
	f, server := newStoppableFleet(t, simulator.Options{}, 1)
	counts := func() {
		release, done := make(chan struct{}), make(chan struct{})
		end := sync.OnceFunc(func() { close(release) })
		t.Cleanup(end) // a test that fails in between must not wait for ever
		f.nodes[0].sim.Script("account0", simulator.Step{Do: simulator.BeforeAnswer(func() { <-release })})
		go func() {
			defer close(done)
			if _, status := f.nodes[0].served(messageBody(sonnet, false)); status != 200 {
				t.Errorf("status %d", status)
			}
		}()
		at := time.Now()
		f.all(func(n *node) bool { return n.account("account0").InFlight == 1 })
		t.Logf("a running request counted everywhere after %s", time.Since(at))
		end()
		<-done
		f.all(func(n *node) bool { return n.account("account0").InFlight == 0 })
	}
	counts()
	server.Restart("immediate")
	f.nodes[0].waitFor("all nodes have told what they use", func() bool {
		told, err := f.db.OtherNodes(t.Context(), "", time.Minute)
		return err == nil && len(told) == len(f.nodes)
	})
	counts()
}

// isAway waits until all nodes know that the database is, and serve all the
// same.
func (f *faultyFleet) isAway(l *fleetLoad) {
	f.t.Helper()
	f.all(func(n *node) bool { return n.health().Status == "degraded" })
	f.nodes[1].ask("PATCH", "/claude_balancer/accounts/account0", map[string]any{"priority": 1}, 503)
	f.goesOn(l)
}

// isBack waits until all nodes know that the database is there, and share what
// one of them changes.
func (f *faultyFleet) isBack(l *fleetLoad) {
	f.t.Helper()
	priority := int(l.asked[0].Load())
	f.nodes[1].waitFor("an account can be changed", func() bool {
		f.all(func(n *node) bool { return n.health().Status == "ok" })
		return f.nodes[1].tells("set", "account0", "--priority", fmt.Sprint(priority)).ok
	})
	f.all(func(n *node) bool { return n.account("account0").Priority == priority })
	f.goesOn(l)
}

// goesOn waits until each node has served more.
func (f *faultyFleet) goesOn(l *fleetLoad) {
	f.t.Helper()
	for i, n := range f.nodes {
		before := l.asked[i].Load()
		n.waitFor("requests go on", func() bool { return l.asked[i].Load() > before+200 })
	}
}

// hasLostNothing ends the load: no request may have failed, and all are in the
// history.
func (f *faultyFleet) hasLostNothing(l *fleetLoad) {
	f.t.Helper()
	finished, failed := l.end()
	if len(failed) > 0 {
		f.t.Errorf("%d of %d requests failed, such as %s", len(failed), len(failed)+len(finished), failed[0])
	}
	f.everything(finished)
	f.t.Logf("%d requests, %d failed", len(finished), len(failed))
	for _, n := range f.nodes {
		if dropped := n.scrape()["history_dropped_total"]; dropped != "0" {
			f.t.Errorf("%s rows were dropped", dropped)
		}
		for _, line := range strings.Split(n.logged(), "\n") {
			if strings.Contains(line, "the database is back") {
				f.t.Log(line)
			}
		}
		if lines := strings.Count(n.logged(), `"level":"error"`); lines > 30 {
			f.t.Errorf("%d lines of errors in the log", lines)
		}
	}
}

func TestANodeThatIsCutOffServesAndCatchesUp(t *testing.T) {
	t.Parallel()
	f := newFaultyFleet(t, simulator.Options{}, 6)
	l := f.load(4)
	f.nodes[0].waitFor("the load runs", func() bool { return l.asked[0].Load() > 100 })
	f.nets[0].Stall()
	f.nodes[0].waitFor("it knows", func() bool { return f.nodes[0].health().Status == "degraded" })
	for _, n := range f.nodes[1:] {
		if h := n.health(); h.Status != "ok" {
			t.Errorf("another node is %s", h.Status)
		}
	}
	at := time.Now()
	f.nodes[1].ask("PATCH", "/claude_balancer/accounts/account0", map[string]any{"paused": true}, 200)
	f.nodes[2].waitFor("the others share on", func() bool { return f.nodes[2].status("account0") == api.StatusPaused })
	t.Logf("a pause was shared after %s", time.Since(at))
	before := l.asked[0].Load()
	f.nodes[0].waitFor("requests go on", func() bool { return l.asked[0].Load() > before+200 })
	f.nets[0].Restore()
	at = time.Now()
	f.nodes[0].waitFor("it has caught up", func() bool {
		return f.nodes[0].health().Status == "ok" && f.nodes[0].status("account0") == api.StatusPaused
	})
	t.Logf("it had caught up after %s", time.Since(at))
	finished, failed := l.end()
	if len(failed) > 0 {
		t.Errorf("%d of %d requests failed, such as %s", len(failed), len(failed)+len(finished), failed[0])
	}
	f.everything(finished)
}

func TestAThousandRequestsAtExpiryMakeOneRefreshOfEachAccountInTheFleet(t *testing.T) {
	t.Parallel()
	const accounts = 5
	f := newFaultyFleet(t, simulator.Options{}, accounts, -time.Minute, 0, time.Minute)
	sim := f.nodes[0].sim
	refreshed := make([]int, accounts)
	for i := range accounts {
		f.expire(fmt.Sprint("account", i))
		refreshed[i] = sim.Refreshes(fmt.Sprint("account", i))
	}
	f.all(func(n *node) bool { // they have seen it
		var all []api.Account
		if err := json.Unmarshal(n.get("/claude_balancer/accounts"), &all); err != nil {
			t.Fatal(err)
		}
		for _, a := range all {
			if a.TokenValid == 1 {
				return false
			}
		}
		return true
	})
	var clients sync.WaitGroup
	for i := range 1000 {
		clients.Go(func() {
			if _, status := f.nodes[i%3].served(messageBody(sonnet, false)); status != 200 {
				t.Errorf("status %d", status)
			}
		})
	}
	clients.Wait()
	for i := range accounts {
		name := fmt.Sprint("account", i)
		if n := sim.Refreshes(name) - refreshed[i]; n != 1 || sim.Reuses(name) != 0 {
			t.Errorf("%s: %d refreshes, %d with a spent token", name, n, sim.Reuses(name))
		}
	}
}

func TestATokenThatCannotBeStoredIsServedAndStoredFirst(t *testing.T) {
	t.Parallel()
	f := newFaultyFleet(t, simulator.Options{}, 1)
	sim := f.nodes[0].sim
	sim.Script("account0", simulator.Step{Path: simulator.OAuthTokenPath, Do: simulator.BeforeAnswer(f.nets[0].Cut)})
	f.expire("account0")
	f.nodes[0].waitFor("it knows", func() bool { a := f.nodes[0].account("account0"); return a.TokenValid == 0 })
	if _, status := f.nodes[0].served(messageBody(sonnet, false)); status != 200 {
		t.Errorf("with a token that is not stored: %d", status)
	}
	f.nets[0].Restore()
	for i, n := range f.nodes {
		if _, status := n.served(messageBody(sonnet, false)); status != 200 {
			t.Errorf("node %d: %d", i, status)
		}
	}
	if sim.Refreshes("account0") != 1 || sim.Reuses("account0") != 0 {
		t.Errorf("%d refreshes, %d with a spent token", sim.Refreshes("account0"), sim.Reuses("account0"))
	}
}

func TestANodeWaitsForItsDatabaseAtTheStart(t *testing.T) {
	t.Parallel()
	f := newFaultyFleet(t, simulator.Options{}, 1)
	n, net := f.nodes[0], f.nets[0]
	config, err := os.ReadFile(filepath.Join(n.dir, "Caddyfile"))
	if err != nil {
		t.Fatal(err)
	}
	n.kill()
	net.Cut()
	if told := n.tells("version"); !told.ok {
		t.Error("a command needs the database")
	}
	if out, err := n.command("validate", "--config", filepath.Join(n.dir, "Caddyfile")).CombinedOutput(); err != nil {
		t.Errorf("validating needs the database: %v %s", err, out)
	}
	n.begin(string(config))
	n.logs("waiting for the database")
	net.Restore()
	n.answers()
	if _, status := n.served(messageBody(sonnet, false)); status != 200 {
		t.Errorf("status %d", status)
	}

	n.kill()
	net.Cut()
	began := time.Now()
	n.begin(string(config))
	select {
	case err := <-n.exited:
		took := time.Since(began)
		if err == nil || took < databaseWait || !strings.Contains(n.logged(), "waited 1m0s for it") {
			t.Errorf("ended after %s: %v", took, err)
		}
	case <-time.After(databaseWait + 30*time.Second):
		t.Error("it waits for ever")
	}
}

func TestExpiredTokensWithoutADatabaseAreAReasonToComeBack(t *testing.T) {
	t.Parallel()
	f := newFaultyFleet(t, simulator.Options{}, 1)
	n := f.nodes[0]
	n.sim.Script("account0", simulator.Step{Path: simulator.OAuthTokenPath, Do: simulator.ServerError(503)}) // nobody refreshes yet
	f.expire("account0")
	n.waitFor("it knows", func() bool { return n.account("account0").TokenValid == 0 })
	f.nets[0].Cut()
	n.waitFor("it knows that the database is away", func() bool { return n.health().Status == "degraded" })
	_, body, status, err := n.send("POST", "/v1/messages", messageBody(sonnet, false))
	if err != nil || status != 503 || !strings.Contains(body, "the database is not available") {
		t.Errorf("%d %s %v", status, body, err)
	}
	f.nets[0].Restore()
	n.waitFor("it is back, and another node may have refreshed", func() bool {
		_, status := n.served(messageBody(sonnet, false))
		return status == 200
	})
}
