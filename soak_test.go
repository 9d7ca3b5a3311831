package claudebalancer

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/simulator"
)

var (
	soakTime = flag.Duration("soak", 0, "how long TestSoak lasts (default 5s, with CLAUDE_BALANCER_LONG 1m)")
	soakSeed = flag.Uint64("seed", 0, "what TestSoak's traffic and faults are drawn from (default: another each time)")
)

// TestSoak lets clients of all HTTP versions ask for whatever there is, while
// the configuration is reloaded, accounts come and go, and upstream fails in
// every way that an account can make up for, or the client must be told of. At
// the end the books of the clients, the balancer and the provider must agree,
// and the process must be as small as it was. For longer, and again:
//
//	go test -run TestSoak -timeout 0 -v . -soak 1h -seed 7
func TestSoak(t *testing.T) {
	t.Parallel()
	last, seed := *soakTime, *soakSeed
	switch {
	case last > 0:
	case os.Getenv("CLAUDE_BALANCER_LONG") != "":
		last = time.Minute
	default:
		last = 5 * time.Second
	}
	if seed == 0 {
		seed = rand.Uint64N(1_000_000)
	}
	s := newSoak(t, seed)
	s.run(last / 4) // until caches, pools and buffers have their size
	begin := s.size()
	s.run(last - last/4)
	s.smallAgain(begin)
	s.settle()
}

// soak is one run.
type soak struct {
	*process
	seed    uint64
	phase   uint64
	manage  sync.Mutex // one at a time: a reload replaces the admin endpoint
	clients []*http.Client
	books   books
	reloads atomic.Int64
	faults  atomic.Int64
	moves   atomic.Int64 // accounts added or removed
}

// books are what the clients have seen.
type books struct {
	ok, broken, left atomic.Int64 // whole answers; visibly broken ones; ones that the client left
	turnedAway       atomic.Int64 // connections that Caddy closed at a reload before they carried a request
	lost             atomic.Int64 // anything else
}

func (b *books) sent() int64 { return b.ok.Load() + b.broken.Load() + b.left.Load() + b.lost.Load() }

// Accounts of the soak. Two never fail, so that every request can be served.
var (
	soakSteady = []string{"steady-1", "steady-2"}
	soakFaulty = []string{"faulty-1", "faulty-2", "faulty-3", "faulty-4", "faulty-5", "faulty-6"}
)

func newSoak(t *testing.T, seed uint64) *soak {
	s := &soak{process: newProcess(t, simulator.Options{Seed: seed, Pace: 3 * time.Millisecond}), seed: seed}
	for _, name := range append(soakSteady, soakFaulty...) {
		// Short enough to be refreshed now and then.
		s.sim.AddAccount(simulator.Account{Name: name, Plan: simulator.PlanMax, TokenLife: 45 * time.Second})
	}
	s.start(s.configuration(0))
	for _, name := range append(soakSteady, soakFaulty[:3]...) {
		s.join(name)
	}
	for _, version := range []string{"1", "2", "3"} {
		s.clients = append(s.clients, s.client(version))
	}
	return s
}

// configuration is one of a few, none of which matters to a client.
func (s *soak) configuration(n int) string {
	variants := []string{"policy least_used", "policy round_robin\nsession_affinity off", "policy random\nexpose_account off", "policy headroom", "policy priority"}
	return fmt.Sprintf(`{
	admin %s
	skip_install_trust
	local_certs
	auto_https disable_redirects
	log {
		level ERROR
	}
	claude_balancer {
		history 30d 300
		oauth {
			token_url %[2]s/v1/oauth/token
			profile_url %[2]s/api/oauth/profile
			refresh_before 10s
		}
	}
}
https://localhost:%[3]s {
	bind 127.0.0.1
	claude_balancer {
		upstream %[2]s
		retry_delay 10ms
		transport http {
			keepalive 2s
		}
		%[4]s
	}
}`, s.admin, s.up.URL, s.port, variants[n%len(variants)])
}

// join adds an account to the pool with its credentials of now.
func (s *soak) join(name string) {
	s.t.Helper()
	c := s.sim.Credentials(name)
	s.ask("POST", "/claude_balancer/accounts", map[string]any{
		"name": name, "plan_type": simulator.PlanMax, "access_token": c.Access.Reveal(),
		"refresh_token": c.Refresh.Reveal(), "expires_at": c.ExpiresAt.UnixMilli(),
	}, http.StatusCreated)
}

// random is a source of its own for each actor: what it does is the same for
// the same seed, whatever the others do.
func (s *soak) random(actor uint64) *rand.Rand {
	return rand.New(rand.NewPCG(s.seed, s.phase<<32|actor))
}

// soakers is how many clients there are.
const soakers = 9

// run lets everybody act for a while, and returns when all requests have ended.
func (s *soak) run(last time.Duration) {
	s.t.Helper()
	s.phase++
	ctx, cancel := context.WithTimeout(s.t.Context(), last)
	defer cancel()
	var all sync.WaitGroup
	for i := range uint64(soakers) {
		all.Go(func() {
			r := s.random(i)
			for ctx.Err() == nil {
				s.request(r, s.clients[i%uint64(len(s.clients))])
				time.Sleep(time.Duration(r.IntN(20)) * time.Millisecond) // as people do
			}
		})
	}
	all.Go(func() { s.reloadEverySecond(ctx) })
	all.Go(func() { s.moveAccounts(ctx, s.random(100)) })
	all.Go(func() { s.failNowAndThen(ctx, s.random(101)) })
	all.Wait()
	for _, name := range soakFaulty {
		s.sim.Unscript(name)
	}
	for _, client := range s.clients {
		client.CloseIdleConnections()
	}
	s.waitFor("all requests have ended", func() bool { return s.scrape()["requests_running"] == "0" && s.scrape()["history_queue"] == "0" })
}

// request makes one request and enters how it ended.
func (s *soak) request(r *rand.Rand, client *http.Client) {
	method, path, body := "POST", "/v1/messages", ""
	stream, leaves := r.IntN(2) == 0, r.IntN(30) == 0
	switch r.IntN(10) {
	case 0:
		method, path = "GET", "/v1/models"
	case 1:
		path = "/v1/messages/count_tokens"
	}
	if method == "POST" {
		size := []int{100, 3000, 40_000, 300_000}[r.IntN(4)]
		body = fmt.Sprintf(`{"model":%q,"max_tokens":32,"messages":[{"role":"user","content":"%s %d"}],"stream":%v}`,
			[]string{sonnet, opus, haiku}[r.IntN(3)], strings.Repeat(`word \"`, size/7), r.IntN(50), stream && path == "/v1/messages")
	}
	for !s.answered(r, client, method, path, body, leaves) {
		s.books.turnedAway.Add(1)
	}
}

// answered reports false if the request did not get to the balancer: at a
// reload Caddy closes idle connections, and a request may just be on its way.
func (s *soak) answered(r *rand.Rand, client *http.Client, method, path, body string, leaves bool) bool {
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, s.url(path), strings.NewReader(body))
	if err != nil {
		s.t.Error(err)
		return true
	}
	req.Header.Set("Anthropic-Version", "2023-06-01")
	if r.IntN(2) == 0 {
		req.Header.Set("X-Claude-Code-Session-Id", fmt.Sprint("session-", r.IntN(50)))
	}
	res, err := client.Do(req)
	if err != nil {
		if ctx.Err() == nil {
			return false
		}
		s.books.lost.Add(1)
		s.t.Errorf("%s %s: %v", method, path, err)
		return true
	}
	defer res.Body.Close()
	if leaves && res.StatusCode == http.StatusOK {
		cancel()
		s.books.left.Add(1)
		return true
	}
	text, err := io.ReadAll(res.Body)
	switch {
	case res.StatusCode != http.StatusOK:
		s.books.lost.Add(1)
		s.t.Errorf("%s %s: %d %s", method, path, res.StatusCode, text)
	case err != nil, bytes.Contains(text, []byte("event: error\n")):
		s.books.broken.Add(1)
	case strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") && !bytes.Contains(text, []byte(`"type":"message_stop"`)):
		s.books.lost.Add(1)
		s.t.Errorf("a stream that ended early and says nothing: …%s", text[max(0, len(text)-200):])
	default:
		s.books.ok.Add(1)
	}
	return true
}

// reloadEverySecond loads another configuration; every fifth time one that
// cannot start.
func (s *soak) reloadEverySecond(ctx context.Context) {
	for every := time.NewTicker(time.Second); ctx.Err() == nil; {
		select {
		case <-ctx.Done():
			every.Stop()
			return
		case <-every.C:
		}
		n := int(s.reloads.Add(1))
		config, want := s.configuration(n), http.StatusOK
		if n%5 == 0 {
			config, want = strings.Replace(config, "history 30d 300", "encryption_key {env.NO_SUCH_KEY}", 1), http.StatusBadRequest
		}
		s.manage.Lock()
		s.reload(config, want)
		s.manage.Unlock()
	}
}

// moveAccounts takes accounts that fail out of the pool and puts them back.
func (s *soak) moveAccounts(ctx context.Context, r *rand.Rand) {
	in := map[string]bool{}
	var accounts []api.Account
	if err := json.Unmarshal(s.ask("GET", "/claude_balancer/accounts", nil, http.StatusOK), &accounts); err != nil {
		s.t.Error(err)
	}
	for _, a := range accounts {
		in[a.Name] = true
	}
	for sleep(ctx, time.Duration(200+r.IntN(400))*time.Millisecond) {
		name := soakFaulty[r.IntN(len(soakFaulty))]
		s.manage.Lock()
		if in[name] {
			s.ask("DELETE", "/claude_balancer/accounts/"+name, struct{}{}, http.StatusNoContent)
		} else {
			s.join(name)
		}
		s.manage.Unlock()
		in[name] = !in[name]
		s.moves.Add(1)
	}
}

// failNowAndThen lets an account's next request fail.
func (s *soak) failNowAndThen(ctx context.Context, r *rand.Rand) {
	for sleep(ctx, time.Duration(20+r.IntN(60))*time.Millisecond) {
		n := r.IntN(len(soakFaulty))
		do := []simulator.Behaviour{
			simulator.ServerError(500), simulator.Overloaded529, simulator.Burst(time.Second), simulator.Bare429,
			simulator.Window5h(time.Now().Add(time.Hour)), simulator.OutOfCredits, simulator.Unauthorized,
			simulator.FirstEventError("overloaded_error"), simulator.PingsBeforeFirstEvent(2, 10*time.Millisecond),
			// The client of a stream is told of these. Other answers break
			// without a head that could be counted.
			inStreams(simulator.CutStream(2)), inStreams(simulator.EndWithoutStop(3)), inStreams(simulator.LateEventError("api_error", 3)),
		}
		if n == 0 {
			// What upstream may have got is sent again only once, so one
			// account alone loses answers. Go repeats GETs by itself.
			do = []simulator.Behaviour{ofPosts(simulator.ResetBeforeHeaders), ofPosts(simulator.ResetAfterRead)}
		}
		s.sim.Script(soakFaulty[n], simulator.Step{Do: do[r.IntN(len(do))]})
		s.faults.Add(1)
	}
}

func inStreams(do simulator.Behaviour) simulator.Behaviour {
	return func(x *simulator.Exchange) {
		if body, err := x.ReadBody(); err != nil || !bytes.Contains(body, []byte(`"stream":true`)) {
			x.Next()
			return
		}
		do(x)
	}
}

func ofPosts(do simulator.Behaviour) simulator.Behaviour {
	return func(x *simulator.Exchange) {
		if x.Request.Method != http.MethodPost {
			x.Next()
			return
		}
		do(x)
	}
}

// settle compares the books of the clients, the balancer and the provider.
func (s *soak) settle() {
	s.t.Helper()
	metrics := s.scrape()
	sum := func(prefix string, labels ...string) (n int64) {
		for name, value := range metrics {
			if strings.HasPrefix(name, prefix+"{") && containsAll(name, labels) {
				v, err := strconv.ParseFloat(value, 64)
				if err != nil {
					s.t.Error(name, err)
				}
				n += int64(v)
			}
		}
		return n
	}
	var stats api.Stats
	if err := json.Unmarshal(s.ask("GET", "/claude_balancer/stats", nil, http.StatusOK), &stats); err != nil {
		s.t.Error(err)
	}
	b := &s.books
	total := sum("requests_total")
	ok, broken := sum("requests_total", `outcome="ok"`), sum("requests_total", `outcome="truncated"`)+sum("requests_total", `outcome="upstream_error"`)
	gone := sum("requests_total", `outcome="client_gone"`)
	tries := sum("tries_total") - sum("tries_total", `cause="login"`)
	s.t.Logf(`the books after %d reloads, %d faults, %d accounts added or removed (seed %d)
           clients   metrics   history   provider
requests   %7d   %7d   %7d
whole      %7d   %7d
broken     %7d   %7d
left       %7d   %7d
tries                %7d             %7d
lost       %7d   connections that Caddy closed at a reload: %d`,
		s.reloads.Load(), s.faults.Load(), s.moves.Load(), s.seed, b.sent(), total, stats.TotalRequests, b.ok.Load(), ok,
		b.broken.Load(), broken, b.left.Load(), gone, tries, s.sim.Count(""), b.lost.Load(), b.turnedAway.Load())
	left := b.left.Load()
	switch {
	case b.lost.Load() > 0:
		s.t.Errorf("%d requests were lost though two accounts could serve them", b.lost.Load())
	case b.sent() != total || stats.TotalRequests != total:
		s.t.Error("the numbers of requests differ")
	case ok < b.ok.Load() || ok > b.ok.Load()+left, broken < b.broken.Load() || broken > b.broken.Load()+left, gone > left:
		s.t.Error("outcomes differ")
	case tries != int64(s.sim.Count("")):
		s.t.Error("the numbers of tries differ")
	case metrics["history_dropped_total"] != "0":
		s.t.Errorf("%s rows were dropped", metrics["history_dropped_total"])
	}
}

func containsAll(s string, parts []string) bool {
	for _, p := range parts {
		if !strings.Contains(s, p) {
			return false
		}
	}
	return true
}

// size is what the process holds while nobody asks for anything.
type size struct{ goroutines, descriptors, heap, file, wal int64 }

func (s *soak) size() size {
	s.t.Helper()
	var z size
	z.goroutines = s.figure("/debug/pprof/goroutine?debug=1", `goroutine profile: total (\d+)`)
	z.heap = s.figure("/debug/pprof/heap?gc=1&debug=1", `# HeapAlloc = (\d+)`)
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.cmd.Process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	z.descriptors = int64(len(entries))
	_ = filepath.WalkDir(filepath.Join(s.dir, "data"), func(path string, d os.DirEntry, err error) error {
		if info, statErr := os.Stat(path); err == nil && statErr == nil {
			switch filepath.Base(path) {
			case databaseName:
				z.file = info.Size()
			case databaseName + "-wal":
				z.wal = info.Size()
			}
		}
		return err
	})
	return z
}

func (s *soak) figure(path, pattern string) int64 {
	s.t.Helper()
	found := regexp.MustCompile(pattern).FindSubmatch(s.get(path))
	if found == nil {
		s.t.Fatalf("%s does not tell %s", path, pattern)
	}
	n, err := strconv.ParseInt(string(found[1]), 10, 64)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// smallAgain waits until the process holds no more than it did at the
// beginning, but for what time and chance make of it.
func (s *soak) smallAgain(begin size) {
	s.t.Helper()
	var end size
	defer func() {
		s.t.Logf("the process: goroutines %d, then %d; descriptors %d, then %d; heap %d kB, then %d kB; database %d kB and WAL %d kB, then %d kB and %d kB",
			begin.goroutines, end.goroutines, begin.descriptors, end.descriptors, begin.heap>>10, end.heap>>10,
			begin.file>>10, begin.wal>>10, end.file>>10, end.wal>>10)
	}()
	const (
		some     = 15
		mebibyte = 1 << 20
	)
	s.waitFor("the process is small again", func() bool {
		end = s.size()
		return end.goroutines <= begin.goroutines+some && end.descriptors <= begin.descriptors+some &&
			end.heap <= begin.heap+begin.heap/4+2*mebibyte && end.file <= begin.file+mebibyte && end.wal <= 8*mebibyte
	})
}
