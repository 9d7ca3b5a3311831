//go:build unix

package store

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/store/storetest"
)

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// reportCPU reports the CPU time of an operation: on a busy machine the clock
// says little.
func reportCPU(b *testing.B) {
	from := cpuTime(b)
	b.Cleanup(func() {
		b.ReportMetric(float64(cpuTime(b)-from)/float64(b.N), "cpu-ns/op")
	})
}

// benchEachEngine runs a benchmark for every database.
func benchEachEngine(b *testing.B, bench func(*testing.B, testDB)) {
	b.Run("sqlite", func(b *testing.B) {
		bench(b, testDB{testOptions(filepath.Join(b.TempDir(), "accounts.db"))})
	})
	if storetest.HasPostgres() {
		b.Run("postgres", func(b *testing.B) { bench(b, newPostgresDB(b)) })
	}
}

// reportMedian reports the median time of what the returned function measures.
func reportMedian(b *testing.B) func(func()) {
	var took []time.Duration
	b.Cleanup(func() {
		slices.Sort(took)
		b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-us")
	})
	return func(f func()) {
		began := time.Now()
		f()
		took = append(took, time.Since(began))
	}
}

// BenchmarkHistoryRow is the cost of one row, in batches as the recorder makes
// them: four accounts, three models, ten keys. Ids are in the order in which
// requests begin, rows in that in which they end.
func BenchmarkHistoryRow(b *testing.B) { benchEachEngine(b, benchmarkHistoryRow) }

func benchmarkHistoryRow(b *testing.B, db testDB) {
	s := db.open(b)
	rows := make([]Row, 60) // one for each account, model and key
	for i := range rows {
		a := account(fmt.Sprint("account-", i%4))
		a.ID = fmt.Sprintf("0199c5d0-%04x-7abc-8def-0123456789ab", i%4)
		if i < 4 {
			must(b, s.AddAccount(b.Context(), a))
		}
		r := answered("", start, a)
		r.Model, r.Client, r.Session = new(fmt.Sprint("claude-sonnet-4-", i%3)), new(fmt.Sprint("key-", i%10)), new("6b86b273ff34fce1")
		r.CacheReadTokens, r.CacheWrite5mTokens, r.CacheWrite1hTokens = new(int64(20_000)), new(int64(300)), new(int64(0))
		r.UpstreamRequestID = new("req_011CSHoEeqs5C35K2UUqR7Fy")
		r.Attempts = r.Attempts[1:]
		rows[i] = r
	}
	batch := make([]Row, DefaultBatch)
	b.ReportAllocs()
	b.ResetTimer()
	reportCPU(b)
	for n := 0; n < b.N; {
		size := min(len(batch), b.N-n)
		for i := range size {
			end := start.Add(time.Duration(n+i) * time.Millisecond)
			batch[i] = rows[(n+i)%len(rows)]
			batch[i].ID = fmt.Sprintf("%012x-7abc-8def-%012x", end.UnixMilli()-int64((n+i)*7919%2000), n+i)
			batch[i].Timestamp = end.UnixMilli()
		}
		must(b, s.InsertRows(b.Context(), batch[:size]))
		n += size
	}
}

// generate fills a store with n rows over thirty days, and their sums.
func generate(b *testing.B, s *Store, n int) {
	b.Helper()
	_, postgres := s.engine.(*postgresEngine)
	must(b, s.write(b.Context(), 0, func(ctx context.Context, tx *sql.Tx) error {
		for _, statement := range storetest.Fill(n, start, postgres) {
			if _, err := tx.ExecContext(ctx, statement); err != nil {
				return err
			}
		}
		return s.engine.recount(ctx, tx)
	}))
}

func must2(tb testing.TB) func(int64, error) {
	return func(_ int64, err error) { tb.Helper(); must(tb, err) }
}

// benchmarkRows are the sizes of history to compare; BENCH_ROWS is
// another one.
func benchmarkRows(b *testing.B) []int {
	sizes := []int{1_000, 100_000}
	if text := os.Getenv("BENCH_ROWS"); text != "" {
		n, err := strconv.Atoi(text)
		must(b, err)
		sizes = []int{n}
	}
	return sizes
}

// BenchmarkRead is what a dashboard asks for; its cost must not grow with the
// number of rows.
func BenchmarkRead(b *testing.B) {
	for _, n := range benchmarkRows(b) {
		benchEachEngine(b, func(b *testing.B, db testDB) {
			db.o.patience = 10 * time.Minute
			s := db.open(b)
			generate(b, s, n)
			benchmarkRead(b, s, n)
		})
	}
}

func benchmarkRead(b *testing.B, s *Store, n int) {
	middle := start.Add(-15 * 24 * time.Hour)
	cursor := fmt.Sprintf("%012x", n/2)
	for _, c := range []struct {
		name string
		read func() error
	}{
		{"stats-all", func() error { _, err := s.Stats(b.Context(), time.Time{}); return err }},
		{"stats-24h", func() error { _, err := s.Stats(b.Context(), start.Add(-24*time.Hour)); return err }},
		{"chart-15d", func() error { _, err := s.Chart(b.Context(), middle); return err }},
		{"page", func() error { _, err := s.Requests(b.Context(), api.RequestQuery{}); return err }},
		{"page-middle", func() error { _, err := s.Requests(b.Context(), api.RequestQuery{Before: cursor}); return err }},
		{"page-filtered", func() error {
			_, err := s.Requests(b.Context(), api.RequestQuery{Account: "a3", Client: "key-3"})
			return err
		}},
		{"page-outcome", func() error {
			_, err := s.Requests(b.Context(), api.RequestQuery{Outcome: api.OutcomeExhausted})
			return err
		}},
		{"prune-nothing", func() error { _, err := s.Prune(b.Context(), start.Add(-60*24*time.Hour), 1<<40); return err }},
	} {
		b.Run(fmt.Sprintf("%s/rows=%d", c.name, n), func(b *testing.B) {
			measure := reportMedian(b)
			reportCPU(b)
			for b.Loop() {
				measure(func() { must(b, c.read()) })
			}
		})
	}
	b.Run(fmt.Sprintf("prune-a-day/rows=%d", n), func(b *testing.B) {
		measure := reportMedian(b)
		for day := 0; b.Loop(); day++ {
			measure(func() { _ = got(s.Prune(b.Context(), start.Add(-time.Duration(30-day)*24*time.Hour), 0))(b) })
		}
	})
}

// BenchmarkClear deletes a whole history.
func BenchmarkClear(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		s := openNew(b)
		generate(b, s, 100_000)
		b.StartTimer()
		must2(b)(s.ClearRequests(b.Context()))
	}
}
