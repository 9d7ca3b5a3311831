package main

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/claude-balancer/claude-balancer/store"
)

// A curve shows that a request costs the same however much there is of
// something.
type curve struct {
	of   string
	most func(o options) []int
	with func(n int) variant
}

var curves = []curve{
	{"accounts", func(options) []int { return []int{1, 10, 100, maxAccounts} }, func(n int) variant { return balancer(label(n), n) }},
	{"conversations remembered", func(options) []int { return []int{1, 1000, 100_000} }, func(n int) variant {
		v := balancer(label(n), someAccounts)
		v.fill = func(ctx context.Context, path string) error { return fillSessions(ctx, path, n) }
		return v
	}},
	{"rows of history", func(o options) []int { return rowsUpTo(o.rows) }, func(n int) variant {
		v := balancer(label(n), someAccounts)
		v.fill = func(ctx context.Context, path string) error { return fillHistory(ctx, path, n) }
		return v
	}},
}

// rowsUpTo are ten, and a thousand times more as often as most allows, and most.
func rowsUpTo(most int) (sizes []int) {
	for n := 10; n < most; n *= 1000 {
		sizes = append(sizes, n)
	}
	return append(sizes, most)
}

// label writes 1000000 as 1,000,000.
func label(n int) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// drawCurves measures all curves and writes them as a Markdown table.
func drawCurves(ctx context.Context, b *bench, w io.Writer) error {
	var out bytes.Buffer
	fmt.Fprintf(&out, "%s, %d rounds\n%s\n\n", time.Now().UTC().Format("2006-01-02 15:04 MST"), b.rounds, machine())
	out.WriteString("| of | how many | CPU-s per 10,000 requests | to the first |\n| --- | --- | --- | --- |\n")
	for _, c := range curves {
		if !strings.Contains(c.of, b.only) {
			continue
		}
		sizes := c.most(b.options)
		variants := make([]variant, len(sizes))
		for i, n := range sizes {
			variants[i] = c.with(n)
		}
		samples, err := b.sideBySide(ctx, load{conns: 32, body: small, last: b.round()}, atOnce, variants...)
		if err != nil {
			return fmt.Errorf("%s: %w", c.of, err)
		}
		first := each(samples[variants[0].name], cpuPerTenThousand)
		for _, v := range variants {
			cost := each(samples[v.name], cpuPerTenThousand)
			fmt.Fprintf(&out, "| %s | %s | %s | %s |\n", c.of, v.name, spreadOf(cost).text(), spreadOf(ratios(cost, first)).ratioText())
		}
	}
	_, err := w.Write(out.Bytes())
	return err
}

// storePath is where a Caddy with this home keeps its accounts.
func storePath(home string) string { return filepath.Join(home, "caddy", "claude-accounts.db") }

func fillSessions(ctx context.Context, path string, n int) error {
	s, err := store.Open(ctx, store.Options{Path: path})
	if err != nil {
		return err
	}
	defer s.Close()
	sessions := make([]store.Session, n)
	for i := range sessions {
		sessions[i] = store.Session{Key: fmt.Sprintf("%016x", i), AccountID: "nobody", LastUsed: time.Now().Add(-time.Duration(i) * time.Millisecond)}
	}
	return s.SaveSessions(ctx, sessions)
}

// fillHistory writes n rows of the last twenty days.
func fillHistory(ctx context.Context, path string, n int) error {
	s, err := store.Open(ctx, store.Options{Path: path}) // makes the tables
	if err != nil {
		return err
	}
	if err := s.Close(); err != nil {
		return err
	}
	db, err := sql.Open("sqlite", path)
	if err != nil {
		return err
	}
	defer db.Close()
	const days = 20 * 24 * int64(time.Hour/time.Millisecond)
	for _, query := range []string{
		`WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?1)
		INSERT INTO requests (id, timestamp, method, path, account_used, account_id, plan_type, model_used, status_code,
			success, outcome, response_time_ms, input_tokens, output_tokens, cost_usd)
		SELECT printf('%012x-7000-8000-000000000000', i), ?2 + i * ?3 / ?1, 'POST', '/v1/messages', 'a' || i % 10, 'id-a' || i % 10,
			'max', 'model-' || i % 5, 200, 1, 'ok', 300, 100, 10, 0.01 FROM n`,
		`UPDATE counters SET value = ?1 WHERE name = 'requests' AND ?2 = ?2 AND ?3 = ?3`,
	} {
		if _, err := db.ExecContext(ctx, query, n, time.Now().UnixMilli()-days, days); err != nil {
			return err
		}
	}
	return nil
}
