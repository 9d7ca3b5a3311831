//go:build unix

package store

import (
	"fmt"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
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

// BenchmarkHistoryRow is the cost of one row, in batches as the recorder makes
// them: four accounts, three models, ten keys.
func BenchmarkHistoryRow(b *testing.B) {
	s := openNew(b)
	accounts := make([]Account, 4)
	for i := range accounts {
		accounts[i] = account(fmt.Sprint("account-", i))
		must(b, s.AddAccount(b.Context(), accounts[i]))
	}
	models, keys := make([]string, 3), make([]string, 10)
	for i := range models {
		models[i] = fmt.Sprint("claude-sonnet-4-", i)
	}
	for i := range keys {
		keys[i] = fmt.Sprint("key-", i)
	}
	batch := make([]Row, DefaultBatch)
	b.ReportAllocs()
	b.ResetTimer()
	reportCPU(b)
	for n := 0; n < b.N; {
		size := min(len(batch), b.N-n)
		for i := range size {
			r := answered(fmt.Sprintf("%012x-7abc-8def-0123456789ab", n+i), start.Add(time.Duration(n+i)*time.Millisecond), accounts[i%4])
			r.Model, r.Client, r.Session = &models[i%3], &keys[i%10], new("6b86b273ff34fce1")
			r.UpstreamRequestID = new("req_011CSHoEeqs5C35K2UUqR7Fy")
			r.Attempts = r.Attempts[1:]
			batch[i] = r
		}
		must(b, s.InsertRows(b.Context(), batch[:size]))
		n += size
	}
}

// generate fills a store with n rows over thirty days, and their sums.
func generate(b *testing.B, s *Store, n int) {
	b.Helper()
	for _, query := range []string{
		`WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?1)
		INSERT INTO requests (id, timestamp, method, path, account_used, account_id, plan_type, model_used, status_code,
			success, outcome, response_time_ms, client, input_tokens, output_tokens, cost_usd)
		SELECT printf('%012x', i), ?2 + i * 2592000000 / ?1, 'POST', '/v1/messages', 'a' || i % 10, 'id-a' || i % 10, 'max',
			'model-' || i % 5, 200, i % 20 > 0, CASE WHEN i % 20 > 0 THEN 'ok' ELSE 'exhausted' END, 300, 'key-' || i % 20,
			100, 10, 0.01 FROM n`,
		`INSERT INTO history_accounts (id, name) SELECT DISTINCT account_id, account_used FROM requests WHERE ?1 = ?1 AND ?2 = ?2`,
		`UPDATE counters SET value = ?1 WHERE name = 'requests' AND ?2 = ?2`,
	} {
		must2(b)(s.exec(b.Context(), 0, query, n, start.Add(-30*24*time.Hour).UnixMilli()))
	}
	for kind, column := range map[string]string{byOutcome: "outcome", byModel: "model_used", byAccount: "account_id",
		byPlan: "plan_type", byKey: "client", byFamily: "'sonnet'"} {
		must2(b)(s.exec(b.Context(), 0, `INSERT INTO usage_hours SELECT timestamp - timestamp % 3600000, ?, `+column+`, COUNT(*), SUM(NOT success),
			0, SUM(response_time_ms), SUM(input_tokens), SUM(output_tokens), 0, 0, 0, SUM(cost_usd) FROM requests GROUP BY 1, 3`, kind))
	}
}

func must2(tb testing.TB) func(int64, error) {
	return func(_ int64, err error) { tb.Helper(); must(tb, err) }
}

// benchmarkRows are the sizes of history to compare; BENCH_ROWS adds a larger
// one.
func benchmarkRows(b *testing.B) []int {
	sizes := []int{1_000, 100_000}
	if text := os.Getenv("BENCH_ROWS"); text != "" {
		n, err := strconv.Atoi(text)
		must(b, err)
		sizes = append(sizes, n)
	}
	return sizes
}

// BenchmarkRead is what a dashboard asks for; its cost must not grow with the
// number of rows.
func BenchmarkRead(b *testing.B) {
	for _, n := range benchmarkRows(b) {
		s := openNew(b)
		generate(b, s, n)
		for name, read := range map[string]func() error{
			"stats-all": func() error { _, err := s.Stats(b.Context(), time.Time{}); return err },
			"stats-24h": func() error { _, err := s.Stats(b.Context(), start.Add(-24*time.Hour)); return err },
			"page":      func() error { _, err := s.Requests(b.Context(), api.RequestQuery{}); return err },
			"page-filtered": func() error {
				_, err := s.Requests(b.Context(), api.RequestQuery{Account: "a3", Client: "key-3"})
				return err
			},
			"prune-nothing": func() error { _, err := s.Prune(b.Context(), start.Add(-60*24*time.Hour), 1<<40); return err },
		} {
			b.Run(fmt.Sprintf("%s/rows=%d", name, n), func(b *testing.B) {
				reportCPU(b)
				for b.Loop() {
					must(b, read())
				}
			})
		}
	}
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
