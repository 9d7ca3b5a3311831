package claudebalancer

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/claude-balancer/claude-balancer/access"
	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/secret"
	"github.com/claude-balancer/claude-balancer/simulator"
	"github.com/claude-balancer/claude-balancer/store"
	"github.com/claude-balancer/claude-balancer/store/storetest"
)

// BenchmarkFleet is one node and three on one machine with 200 accounts, 1,000
// keys that take turns, and a month of history: requests a second, what each
// takes of the processors, round trips to the database and its transactions for
// each request; and statistics as a node answers them.
//
//	BENCH_ROWS=5000000 .ci/postgres go test -run '^$' -bench BenchmarkFleet -benchtime 1x .
func BenchmarkFleet(b *testing.B) {
	f := newBenchFleet(b)
	for _, nodes := range []int{1, 3} {
		b.Run(fmt.Sprint(nodes, "-nodes"), func(b *testing.B) { f.bench(b, nodes) })
	}
}

// benchFleet is what one node and three share.
type benchFleet struct {
	url      string
	provider *process // that never runs
	db       *sql.DB
	clients  []string // credentials
	viewer   string
}

func newBenchFleet(b *testing.B) *benchFleet {
	rows := 100_000
	if text := os.Getenv("BENCH_ROWS"); text != "" {
		var err error
		if rows, err = strconv.Atoi(text); err != nil {
			b.Fatal(err)
		}
	}
	f := &benchFleet{url: storetest.Postgres(b), provider: newProcess(b, simulator.Options{Fast: true})}
	st, err := store.Open(b.Context(), store.Options{URL: secret.New(f.url)})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = st.Close() }()
	if f.db, err = sql.Open("pgx", f.url); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = f.db.Close() })
	for _, statement := range append(storetest.Fill(rows, time.Now(), true), `VACUUM ANALYZE`) { // else the server does it meanwhile
		if _, err := f.db.Exec(statement); err != nil {
			b.Fatal(err)
		}
	}
	for i := range storetest.Accounts {
		name := fmt.Sprint("a", i)
		c := f.provider.sim.AddAccount(simulator.Account{Name: name, Plan: "max"})
		if err := st.AddAccount(b.Context(), store.Account{ID: "id-" + name, Name: name, Plan: "max", Weight: 1,
			Credential: store.Credential{Kind: api.KindOAuth, Access: c.Access, Refresh: c.Refresh, ExpiresAt: c.ExpiresAt, IssuedAt: time.Now()}}); err != nil {
			b.Fatal(err)
		}
	}
	for i := range storetest.Keys {
		f.clients = append(f.clients, f.key(b, st, fmt.Sprint("key-", i), api.RoleClient))
	}
	f.viewer = f.key(b, st, "viewer", api.RoleViewer)
	b.Logf("%d rows of history, %d accounts, %d keys", rows, storetest.Accounts, storetest.Keys)
	return f
}

// key adds a key and returns its credential.
func (f *benchFleet) key(b *testing.B, st *store.Store, name, role string) string {
	b.Helper()
	credential, err := access.NewCredential(rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	key := store.Key{ID: newID(), Name: name, Role: role, Hash: access.Hash(credential)}
	if role == api.RoleClient {
		key.RPM, key.BudgetUSD, key.BudgetPeriod = 1e6, new(1e6), "month"
	}
	if err := st.AddKey(b.Context(), key); err != nil {
		b.Fatal(err)
	}
	return credential.Reveal()
}

func (f *benchFleet) bench(b *testing.B, nodes int) {
	const runs = 15 * time.Second
	var fleet []*process
	var nets []*storetest.Proxy
	for range nodes {
		p, net := f.provider.beside(), storetest.NewProxy(b, f.url)
		p.t, p.env = b, []string{"DATABASE_URL=" + net.URL}
		p.begin(strings.Replace(p.config("store postgres {env.DATABASE_URL}", "access keys"), "level DEBUG", "level INFO", 1))
		fleet, nets = append(fleet, p), append(nets, net)
	}
	for _, p := range fleet {
		p.answers()
		p.waitFor("the accounts are known", func() bool {
			return bytes.Count(p.get("/claude_balancer/accounts"), []byte(`"id"`)) == storetest.Accounts
		})
	}
	f.load(b, fleet, 3*time.Second) // until caches are warm, and the nodes know one another
	transactions, trips, used := f.transactions(b), roundTrips(nets), usage(fleet)
	served := float64(f.load(b, fleet, runs))
	b.ReportMetric(served/runs.Seconds(), "requests/s")
	for unit, ticks := range usage(fleet) {
		b.ReportMetric(float64(ticks-used[unit])/runs.Seconds(), unit)
	}
	b.ReportMetric(float64(roundTrips(nets)-trips)/served, "round-trips/request")
	b.ReportMetric(float64(f.transactions(b)-transactions)/served, "transactions/request")
	for _, since := range []string{"24h", "7d", ""} {
		f.statistics(b, fleet[0], since)
	}
	for _, p := range fleet {
		p.end(syscall.SIGTERM)
	}
	b.ReportMetric(0, "ns/op")
}

// load lets 64 clients ask for so long, and returns how many requests were
// served.
func (f *benchFleet) load(b *testing.B, fleet []*process, long time.Duration) int64 {
	const clients = 64
	ctx, cancel := context.WithTimeout(b.Context(), long)
	defer cancel()
	var served atomic.Int64
	var all sync.WaitGroup
	for i := range clients {
		client := fleet[i%len(fleet)].client("1")
		target := fleet[i%len(fleet)].url("/v1/messages")
		all.Go(func() {
			for n := i; ctx.Err() == nil; n += clients {
				req, err := http.NewRequestWithContext(ctx, "POST", target, strings.NewReader(messageBody(sonnet, false)))
				if err != nil {
					b.Error(err)
					return
				}
				req.Header.Set("Anthropic-Version", "2023-06-01")
				req.Header.Set("X-Api-Key", f.clients[n%len(f.clients)])
				res, err := client.Do(req)
				if err != nil {
					continue // its time is over
				}
				text, _ := io.ReadAll(res.Body)
				_ = res.Body.Close()
				if res.StatusCode != http.StatusOK {
					b.Errorf("%d %s", res.StatusCode, text)
					return
				}
				served.Add(1)
			}
		})
	}
	all.Wait()
	return served.Load()
}

// transactions returns how many the server has committed.
func (f *benchFleet) transactions(b *testing.B) (n int64) {
	b.Helper()
	time.Sleep(2 * time.Second) // it counts with a delay
	if err := f.db.QueryRow(`SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()`).Scan(&n); err != nil {
		b.Fatal(err)
	}
	return n
}

func roundTrips(nets []*storetest.Proxy) (n int64) {
	for _, net := range nets {
		n += net.RoundTrips()
	}
	return n
}

// usage is what each has used of the processors, in hundredths of a second, by
// the unit of what is reported of it.
func usage(fleet []*process) map[string]int64 {
	nodes := func(pid int, _ string) bool {
		return slices.ContainsFunc(fleet, func(p *process) bool { return p.cmd.Process.Pid == pid })
	}
	return map[string]int64{
		"%cpu-postgres": ticks(func(_ int, name string) bool { return name == "postgres" }),
		"%cpu-nodes":    ticks(nodes),
		"%cpu-clients":  ticks(func(pid int, _ string) bool { return pid == os.Getpid() }), // and the provider
	}
}

// ticks are the hundredths of a second that processes have used.
func ticks(of func(pid int, name string) bool) (sum int64) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range stats {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		head, rest, ok := strings.Cut(string(text), ") ")
		fields := strings.Fields(rest)
		first, name, _ := strings.Cut(head, " (")
		pid, err := strconv.Atoi(first)
		if !ok || err != nil || len(fields) < 13 || !of(pid, name) {
			continue
		}
		for _, f := range fields[11:13] { // user and system time
			n, _ := strconv.ParseInt(f, 10, 64)
			sum += n
		}
	}
	return sum
}

// statistics asks a node for them again and again.
func (f *benchFleet) statistics(b *testing.B, p *process, since string) {
	b.Helper()
	path := "/api/stats"
	if since != "" {
		path += "?since=" + since
	}
	client := p.client("1")
	took := make([]time.Duration, 15)
	for i := range took {
		req, err := http.NewRequestWithContext(b.Context(), "GET", p.url(path), nil)
		if err != nil {
			b.Fatal(err)
		}
		req.SetBasicAuth("viewer", f.viewer)
		began := time.Now()
		res, err := client.Do(req)
		if err != nil {
			b.Fatal(err)
		}
		text, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil || res.StatusCode != http.StatusOK {
			b.Fatalf("%s: %d %s %v", path, res.StatusCode, text, err)
		}
		took[i] = time.Since(began)
	}
	slices.Sort(took)
	if since == "" {
		since = "all"
	}
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms-stats-"+since)
}
