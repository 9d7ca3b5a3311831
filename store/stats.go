package store

// Statistics and the chart, from the sums alone.

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"time"

	"github.com/claude-balancer/claude-balancer/anthropic"
	"github.com/claude-balancer/claude-balancer/api"
)

// sumLine is a line of usage_hours, or the sum of several.
type sumLine struct {
	hour       int64
	kind, name string
	tally      tally
}

const sumColumns = `SUM(u.requests), SUM(u.errors), SUM(u.unpriced), SUM(u.response_ms), SUM(u.input_tokens), SUM(u.output_tokens),
	SUM(u.cache_read_tokens), SUM(u.cache_write_5m_tokens), SUM(u.cache_write_1h_tokens), SUM(u.cost_usd)`

// summedColumns are sumColumns under the names of the columns.
const summedColumns = `SUM(u.requests) AS requests, SUM(u.errors) AS errors, SUM(u.unpriced) AS unpriced, SUM(u.response_ms) AS response_ms,
	SUM(u.input_tokens) AS input_tokens, SUM(u.output_tokens) AS output_tokens, SUM(u.cache_read_tokens) AS cache_read_tokens,
	SUM(u.cache_write_5m_tokens) AS cache_write_5m_tokens, SUM(u.cache_write_1h_tokens) AS cache_write_1h_tokens, SUM(u.cost_usd) AS cost_usd`

func (l *sumLine) scan(r *sql.Rows, first ...any) error {
	var cost sql.NullFloat64
	t := &l.tally
	err := r.Scan(append(first, &t.requests, &t.errors, &t.unpriced, &t.responseMS, &t.tokens.Input, &t.tokens.Output,
		&t.tokens.CacheRead, &t.tokens.CacheWrite5m, &t.tokens.CacheWrite1h, &cost)...)
	t.cost, t.priced = cost.Float64, cost.Valid
	return err
}

func (l *sumLine) usage() api.Usage {
	return api.Usage{Requests: l.tally.requests, Errors: l.tally.errors, Tokens: l.tally.tokens, CostUSD: l.tally.costUSD()}
}

// Stats sums up the requests since the given time, rounded down to the hour;
// the zero time means all that the history keeps.
func (s *Store) Stats(ctx context.Context, since time.Time) (api.Stats, error) {
	// The many lines are summed up before the few sums get their names.
	lines, err := collect(ctx, s.reader, func(r *sql.Rows, l *sumLine) error {
		return l.scan(r, &l.kind, &l.name)
	}, `SELECT u.kind, COALESCE(h.name, u.name) AS shown, `+sumColumns+` FROM (SELECT u.kind, u.name, `+summedColumns+`
		FROM usage_hours u WHERE u.hour >= ? GROUP BY u.kind, u.name) u
		LEFT JOIN history_accounts h ON u.kind = '`+byAccount+`' AND h.id = u.name GROUP BY u.kind, shown`, hourOf(since.UnixMilli()))
	if err != nil {
		return api.Stats{}, fmt.Errorf("read statistics: %w", err)
	}
	stats := api.Stats{
		ByModel: map[string]api.Usage{}, ByAccount: map[string]api.Usage{}, ByPlan: map[string]api.Usage{},
		ByKey: map[string]api.Usage{}, Unpriced: []string{},
	}
	var total tally
	for i := range lines {
		addLine(&stats, &total, &lines[i])
	}
	stats.TotalRequests = total.requests
	stats.SuccessRate = percent(total.requests-total.errors, total.requests)
	stats.AvgResponseTime = divide(total.responseMS, total.requests)
	stats.Tokens, stats.CostUSD = total.tokens, total.costUSD()
	slices.Sort(stats.Unpriced)
	if err := s.reader.scan(ctx, []any{&stats.ActiveAccounts}, `SELECT COUNT(*) FROM accounts WHERE paused = 0 AND state = ''`); err != nil {
		return api.Stats{}, fmt.Errorf("count active accounts: %w", err)
	}
	return stats, nil
}

func addLine(stats *api.Stats, total *tally, l *sumLine) {
	switch l.kind {
	case byOutcome:
		total.add(&l.tally)
	case byModel:
		stats.ByModel[l.name] = l.usage()
		if l.tally.unpriced > 0 {
			stats.Unpriced = append(stats.Unpriced, l.name)
		}
	case byAccount:
		stats.ByAccount[l.name] = l.usage()
	case byPlan:
		stats.ByPlan[l.name] = l.usage()
	case byKey:
		stats.ByKey[l.name] = l.usage()
	case byFamily:
		if l.name == string(anthropic.FamilyOpus) {
			stats.Opus = api.OpusStats{
				Requests:    l.tally.requests,
				SuccessRate: percent(l.tally.requests-l.tally.errors, l.tally.requests),
			}
		}
	}
}

// percent returns part of whole in percent, rounded; 0 of nothing.
func percent(part, whole int64) int { return int(divide(100*part, whole)) }

// divide rounds half up; by zero it is 0.
func divide(a, b int64) int64 {
	if b == 0 {
		return 0
	}
	return (2*a + b) / (2 * b)
}

// Chart returns one point an hour, the oldest first: from since, rounded down to
// the hour, or from the first hour with something to show if since is zero, to
// now.
func (s *Store) Chart(ctx context.Context, since time.Time) ([]api.ChartHour, error) {
	lines, err := collect(ctx, s.reader, func(r *sql.Rows, l *sumLine) error {
		return l.scan(r, &l.hour, &l.kind, &l.name)
	}, `SELECT u.hour, u.kind, u.name, `+sumColumns+` FROM usage_hours u
		WHERE u.hour >= ? AND u.kind IN ('`+byOutcome+`', '`+byModel+`') GROUP BY u.hour, u.kind, u.name ORDER BY u.hour`,
		hourOf(since.UnixMilli()))
	if err != nil {
		return nil, fmt.Errorf("read the chart: %w", err)
	}
	fullest, err := collect(ctx, s.reader, func(r *sql.Rows, p *windowPoint) error {
		return r.Scan(&p.hour, &p.account, &p.utilization)
	}, `SELECT w.hour, h.name, MAX(w.utilization) FROM window_hours w JOIN history_accounts h ON h.id = w.account_id
		WHERE w.hour >= ? GROUP BY w.hour, h.name ORDER BY w.hour`, hourOf(since.UnixMilli()))
	if err != nil {
		return nil, fmt.Errorf("read the windows' chart: %w", err)
	}
	from := hourOf(since.UnixMilli())
	if since.IsZero() {
		from = hourOf(s.now().UnixMilli()) + hourMillis
		if len(lines) > 0 {
			from = lines[0].hour
		}
		if len(fullest) > 0 {
			from = min(from, fullest[0].hour)
		}
	}
	return plot(from, hourOf(s.now().UnixMilli()), lines, fullest), nil
}

// windowPoint is how full an account's fullest window was in an hour.
type windowPoint struct {
	hour        int64
	account     string
	utilization float64
}

// plot makes a point for every hour from first to last; what lies outside is
// left out.
func plot(first, last int64, lines []sumLine, fullest []windowPoint) []api.ChartHour {
	points := []api.ChartHour{}
	for at := first; at <= last; at += hourMillis {
		points = append(points, api.ChartHour{At: at, Outcomes: map[api.Outcome]int64{},
			CostByModel: map[string]float64{}, Utilization: map[string]float64{}})
	}
	for _, l := range lines {
		if l.hour > last {
			continue
		}
		p := &points[(l.hour-first)/hourMillis]
		switch {
		case l.kind == byOutcome:
			p.Outcomes[api.Outcome(l.name)] = l.tally.requests
			p.Tokens.Add(l.tally.tokens)
		case l.tally.priced:
			p.CostByModel[l.name] = l.tally.cost
		}
	}
	for _, f := range fullest {
		if f.hour <= last {
			points[(f.hour-first)/hourMillis].Utilization[f.account] = f.utilization
		}
	}
	return points
}
