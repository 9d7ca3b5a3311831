package claudebalancer

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/secret"
	"github.com/claude-balancer/claude-balancer/simulator"
	"github.com/claude-balancer/claude-balancer/store"
	"github.com/claude-balancer/claude-balancer/store/storetest"
)

// BenchmarkFleet is one node and three on one machine with 200 accounts and
// 1,000 keys: requests a second, what the database takes of the processors, and
// its transactions for each request.
//
//	.ci/postgres go test -run '^$' -bench BenchmarkFleet -benchtime 1x .
func BenchmarkFleet(b *testing.B) {
	for _, nodes := range []int{1, 3} {
		b.Run(fmt.Sprint(nodes, "-nodes"), func(b *testing.B) {
			for range b.N {
				benchFleet(b, nodes)
			}
		})
	}
}

func benchFleet(b *testing.B, nodes int) {
	const accounts, keys, clients, runs = 200, 1000, 64, 10 * time.Second
	url := storetest.Postgres(b)
	first := newProcess(b, simulator.Options{Fast: true})
	var fleet []*process
	for i := range nodes {
		p := first
		if i > 0 {
			p = first.beside()
		}
		p.env = append(p.env, "DATABASE_URL="+url)
		p.begin(strings.Replace(p.config("store postgres {env.DATABASE_URL}", ""), "level DEBUG", "level INFO", 1))
		p.answers()
		fleet = append(fleet, p)
	}
	db, err := store.Open(b.Context(), store.Options{URL: secret.New(url)})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	for i := range accounts {
		name := fmt.Sprint("account", i)
		c := first.sim.AddAccount(simulator.Account{Name: name, Plan: "max"})
		err := db.AddAccount(b.Context(), store.Account{ID: newID(), Name: name, Plan: "max", Weight: 1,
			Credential: store.Credential{Kind: api.KindOAuth, Access: c.Access, Refresh: c.Refresh, ExpiresAt: c.ExpiresAt, IssuedAt: time.Now()}})
		if err != nil {
			b.Fatal(err)
		}
	}
	for i := range keys {
		budget := 1000.0
		if err := db.AddKey(b.Context(), store.Key{ID: newID(), Name: fmt.Sprint("key", i), Role: api.RoleClient, RPM: 1e6, BudgetUSD: &budget,
			BudgetPeriod: "month", Hash: [32]byte{byte(i), byte(i >> 8), 1}, PreviousHash: [32]byte{byte(i), byte(i >> 8), 2}}); err != nil {
			b.Fatal(err)
		}
	}
	for _, p := range fleet {
		p.waitFor("the accounts are known", func() bool { return bytes.Count(p.get("/claude_balancer/accounts"), []byte(`"id"`)) == accounts })
	}

	count, err := sql.Open("pgx", url)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = count.Close() }()
	transactions := func() (n int64) {
		if err := count.QueryRow(`SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()`).Scan(&n); err != nil {
			b.Fatal(err)
		}
		return n
	}
	time.Sleep(3 * time.Second) // the server counts with a delay
	ctx, cancel := context.WithTimeout(b.Context(), runs)
	defer cancel()
	var served atomic.Int64
	before, cpu, own := transactions(), ticks("postgres"), ticks(filepath.Base(os.Args[0]))
	var all sync.WaitGroup
	for i := range clients {
		client := fleet[i%nodes].client("1")
		target := fleet[i%nodes].url("/v1/messages")
		all.Go(func() {
			for ctx.Err() == nil {
				req, err := http.NewRequestWithContext(ctx, "POST", target, strings.NewReader(messageBody(sonnet, false)))
				if err != nil {
					b.Error(err)
					return
				}
				req.Header.Set("Anthropic-Version", "2023-06-01")
				res, err := client.Do(req)
				if err != nil {
					continue // its time is over
				}
				_, _ = io.Copy(io.Discard, res.Body)
				_ = res.Body.Close()
				if res.StatusCode == http.StatusOK {
					served.Add(1)
				}
			}
		})
	}
	all.Wait()
	seconds := runs.Seconds()
	b.ReportMetric(float64(served.Load())/seconds, "requests/s")
	b.ReportMetric(float64(transactions()-before)/float64(served.Load()), "transactions/request")
	b.ReportMetric(float64(ticks("postgres")-cpu)/seconds, "%cpu-postgres")
	b.ReportMetric(float64(ticks(filepath.Base(os.Args[0]))-own)/seconds, "%cpu-nodes+clients")
	b.ReportMetric(0, "ns/op")
}

// ticks are the hundredths of a second that processes of a name have used.
func ticks(name string) (sum int64) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range stats {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		head, rest, ok := strings.Cut(string(text), ") ")
		fields := strings.Fields(rest)
		if !ok || len(fields) < 13 || !strings.HasSuffix(head, "("+name[:min(15, len(name))]) {
			continue
		}
		for _, f := range fields[11:13] { // user and system time
			n, _ := strconv.ParseInt(f, 10, 64)
			sum += n
		}
	}
	return sum
}
