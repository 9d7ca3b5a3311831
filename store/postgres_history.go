package store

// The history in PostgreSQL: a batch is a few statements, however many rows it
// has; retention drops the partitions of whole days.

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
)

const dayMillis = 24 * hourMillis

// dayOf returns the start of the day (UTC) of a time in ms.
func dayOf(ms int64) int64 { return ms - (ms%dayMillis+dayMillis)%dayMillis }

// partition is the name of a day's partition.
func partition(day int64) string {
	return "requests_" + time.UnixMilli(day).UTC().Format("20060102")
}

// postgresDays are the days whose partition is known to be there.
type postgresDays struct {
	mu    sync.Mutex
	known map[int64]bool
}

func (d *postgresDays) knows(day int64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.known[day]
}

func (d *postgresDays) learn(day int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.known == nil {
		d.known = map[int64]bool{}
	}
	d.known[day] = true
}

func (d *postgresDays) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.known = nil
}

// makeDay makes a day's partition. It is attached, not made in its place, since
// that does not lock the history for those who read and write it.
func (e *postgresEngine) makeDay(ctx context.Context, day int64) error {
	if e.days.knows(day) {
		return nil
	}
	err := e.s.write(ctx, 0, func(ctx context.Context, tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `SELECT `+advisoryLock("pg_advisory_xact_lock", lockDays)); err != nil {
			return err
		}
		there := false
		if err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM request_days WHERE day = ?)`, day).Scan(&there); err != nil || there {
			return err
		}
		name := partition(day)
		if _, err := tx.ExecContext(ctx, fmt.Sprintf(`CREATE TABLE %s (LIKE requests INCLUDING DEFAULTS);
			ALTER TABLE requests ATTACH PARTITION %s FOR VALUES FROM (%d) TO (%d)`, name, name, day, day+dayMillis)); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO request_days (day, requests) VALUES (?, 0)`, day)
		return err
	})
	if err == nil {
		e.days.learn(day)
	}
	return err
}

func (e *postgresEngine) makeRoom(ctx context.Context, times []int64) error {
	for _, ms := range times {
		if err := e.makeDay(ctx, dayOf(ms)); err != nil {
			return err
		}
	}
	return nil
}

// pageQuery leaves it to PostgreSQL which index to use.
func (e *postgresEngine) pageQuery(p requestPage) (query string, args []any) {
	c := conditions{}
	for _, f := range p.filters {
		if f.kind == byOutcome && f.value != string(api.OutcomeOK) {
			c = c.and(`r.outcome <> 'ok'`) // the index leaves those out
		}
	}
	return p.query(`requests r`, `r.timestamp DESC, r.id DESC`, c)
}

func (e *postgresEngine) recount(ctx context.Context, tx *sql.Tx) error {
	for _, query := range []string{
		`SET LOCAL statement_timeout = 0`,
		`UPDATE request_days SET requests = (SELECT COUNT(*) FROM requests
			WHERE timestamp >= request_days.day AND timestamp < request_days.day + ` + strconv.Itoa(dayMillis) + `)`,
		`SELECT setval(pg_get_serial_sequence('audit', 'id'), (SELECT COALESCE(MAX(id), 0) + 1 FROM audit), false)`,
	} {
		if _, err := tx.ExecContext(ctx, query); err != nil {
			return err
		}
	}
	return nil
}

const insertUnnested = `INSERT INTO requests (id, timestamp, method, path, account_used, account_id, plan_type, model_used,
	status_code, success, outcome, error_message, response_time_ms, duration_ms, failover_attempts, stream, session, client,
	input_tokens, output_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, cost_usd,
	upstream_request_id, attempts)
	SELECT * FROM unnest(CAST(? AS text[]), CAST(? AS bigint[]), CAST(? AS text[]), CAST(? AS text[]), CAST(? AS text[]),
	CAST(? AS text[]), CAST(? AS text[]), CAST(? AS text[]), CAST(? AS bigint[]), CAST(? AS bigint[]), CAST(? AS text[]),
	CAST(? AS text[]), CAST(? AS bigint[]), CAST(? AS bigint[]), CAST(? AS bigint[]), CAST(? AS bigint[]), CAST(? AS text[]),
	CAST(? AS text[]), CAST(? AS bigint[]), CAST(? AS bigint[]), CAST(? AS bigint[]), CAST(? AS bigint[]), CAST(? AS bigint[]),
	CAST(? AS double precision[]), CAST(? AS text[]), CAST(? AS text[]))
	ON CONFLICT (id, timestamp) DO NOTHING RETURNING id`

// columnOf returns a column of rows.
func columnOf[R, T any](rows []R, value func(*R) T) []T {
	column := make([]T, len(rows))
	for i := range rows {
		column[i] = value(&rows[i])
	}
	return column
}

// requestColumnsOf returns the arguments of insertUnnested.
func requestColumnsOf(rows []Row) []any {
	return []any{
		columnOf(rows, func(r *Row) string { return r.ID }),
		columnOf(rows, func(r *Row) int64 { return r.Timestamp }),
		columnOf(rows, func(r *Row) string { return r.Method }),
		columnOf(rows, func(r *Row) string { return r.Path }),
		columnOf(rows, func(r *Row) *string { return r.AccountUsed }),
		columnOf(rows, func(r *Row) *string {
			if r.AccountID == "" {
				return nil
			}
			return &r.AccountID
		}),
		columnOf(rows, func(r *Row) *string { return r.PlanType }),
		columnOf(rows, func(r *Row) *string { return r.Model }),
		columnOf(rows, func(r *Row) int64 { return int64(r.StatusCode) }),
		columnOf(rows, func(r *Row) int64 { return int64(boolInt(r.Outcome == api.OutcomeOK)) }),
		columnOf(rows, func(r *Row) string { return string(r.Outcome) }),
		columnOf(rows, func(r *Row) *string { return r.ErrorMessage }),
		columnOf(rows, func(r *Row) int64 { return r.ResponseTimeMS }),
		columnOf(rows, func(r *Row) int64 { return r.DurationMS }),
		columnOf(rows, func(r *Row) int64 { return int64(r.FailoverAttempts) }),
		columnOf(rows, func(r *Row) int64 { return int64(r.Stream) }),
		columnOf(rows, func(r *Row) *string { return r.Session }),
		columnOf(rows, func(r *Row) *string { return r.Client }),
		columnOf(rows, func(r *Row) *int64 { return r.InputTokens }),
		columnOf(rows, func(r *Row) *int64 { return r.OutputTokens }),
		columnOf(rows, func(r *Row) *int64 { return r.CacheReadTokens }),
		columnOf(rows, func(r *Row) *int64 { return r.CacheWrite5mTokens }),
		columnOf(rows, func(r *Row) *int64 { return r.CacheWrite1hTokens }),
		columnOf(rows, func(r *Row) *float64 { return r.CostUSD }),
		columnOf(rows, func(r *Row) *string { return r.UpstreamRequestID }),
		columnOf(rows, func(r *Row) *string { return attemptsText(r.Attempts) }),
	}
}

func (e *postgresEngine) insertRequests(ctx context.Context, rows []Row) error {
	columns := requestColumnsOf(rows)
	times := columnOf(rows, func(r *Row) int64 { return r.Timestamp })
	for try := 0; ; try++ {
		if err := e.makeRoom(ctx, times); err != nil {
			return err
		}
		err := e.insertColumns(ctx, rows, columns)
		if postgresCode(err) != pgCheck || try > 0 {
			return err
		}
		e.days.forget() // another node has dropped one
	}
}

func (e *postgresEngine) insertColumns(ctx context.Context, rows []Row, columns []any) error {
	return e.s.write(ctx, ChangedUsage, func(ctx context.Context, tx *sql.Tx) error {
		ids, err := collect(ctx, tx, func(r *sql.Rows, id *string) error { return r.Scan(id) }, insertUnnested, columns...)
		if err != nil || len(ids) == 0 {
			return err
		}
		isNew := make(map[string]bool, len(ids))
		for _, id := range ids {
			isNew[id] = true
		}
		sums, days := newSummary(&e.s.models), map[int64]int64{}
		for i := range rows {
			if r := &rows[i]; isNew[cleanText(r.ID)] {
				delete(isNew, cleanText(r.ID)) // the batch may hold it twice
				sums.add(r)
				days[dayOf(r.Timestamp)]++
			}
		}
		for _, day := range slices.Sorted(maps.Keys(days)) {
			if _, err := tx.ExecContext(ctx, `UPDATE request_days SET requests = requests + ? WHERE day = ?`, days[day], day); err != nil {
				return err
			}
		}
		return e.saveSummary(ctx, tx, sums)
	})
}

const (
	addUnnestedHours = insertHour + ` SELECT * FROM unnest(CAST(? AS bigint[]), CAST(? AS text[]), CAST(? AS text[]),
	CAST(? AS bigint[]), CAST(? AS bigint[]), CAST(? AS bigint[]), CAST(? AS bigint[]), CAST(? AS bigint[]), CAST(? AS bigint[]),
	CAST(? AS bigint[]), CAST(? AS bigint[]), CAST(? AS bigint[]), CAST(? AS double precision[]))` + addHour

	addUnnestedSpend = insertSpend + ` SELECT * FROM unnest(CAST(? AS bigint[]), CAST(? AS text[]), CAST(? AS double precision[]))` + addSpend

	insertUnnestedNames = `INSERT INTO history_accounts (id, name) SELECT * FROM unnest(CAST(? AS text[]), CAST(? AS text[]))
	ON CONFLICT (id) DO NOTHING`

	// Rows are locked in one order, whoever does it.
	addUnnestedCounters = `WITH added AS (
		SELECT * FROM unnest(CAST(? AS text[]), CAST(? AS bigint[]), CAST(? AS bigint[]), CAST(? AS bigint[]), CAST(? AS bigint[]),
			CAST(? AS bigint[]), CAST(? AS bigint[]), CAST(? AS bigint[]), CAST(? AS double precision[]))
			AS t (id, requests, last_used, input, output, cache_read, cache_write_5m, cache_write_1h, cost)
	), locked AS (
		SELECT id FROM accounts WHERE id IN (SELECT id FROM added) ORDER BY id FOR NO KEY UPDATE
	)
	UPDATE accounts SET request_count = request_count + added.requests,
		last_used = CASE WHEN added.last_used > COALESCE(accounts.last_used, 0) THEN added.last_used ELSE accounts.last_used END,
		input_tokens = input_tokens + added.input, output_tokens = output_tokens + added.output,
		cache_read_tokens = cache_read_tokens + added.cache_read,
		cache_write_5m_tokens = cache_write_5m_tokens + added.cache_write_5m,
		cache_write_1h_tokens = cache_write_1h_tokens + added.cache_write_1h,
		cost_usd = CASE WHEN added.cost IS NULL THEN cost_usd ELSE COALESCE(cost_usd, 0) + added.cost END
		FROM added JOIN locked ON locked.id = added.id WHERE accounts.id = added.id`
)

// saveSummary writes each table's lines in the order of their keys: batches of
// other nodes lock the same lines.
func (e *postgresEngine) saveSummary(ctx context.Context, tx *sql.Tx, sums *summary) error {
	hours := slices.SortedFunc(maps.Keys(sums.hours), func(a, b sumKey) int {
		return cmp.Or(cmp.Compare(a.hour, b.hour), cmp.Compare(a.kind, b.kind), cmp.Compare(a.name, b.name))
	})
	spend := slices.SortedFunc(maps.Keys(sums.spend), func(a, b spendKey) int {
		return cmp.Or(cmp.Compare(a.hour, b.hour), cmp.Compare(a.name, b.name))
	})
	ids := slices.Sorted(maps.Keys(sums.accounts))

	hour := func(value func(*tally) int64) []int64 {
		return columnOf(hours, func(k *sumKey) int64 { return value(sums.hours[*k]) })
	}
	account := func(value func(*accountSum) int64) []int64 {
		return columnOf(ids, func(id *string) int64 { return value(sums.accounts[*id]) })
	}
	for _, statement := range []struct {
		lines int
		query string
		args  []any
	}{
		{len(hours), addUnnestedHours, []any{
			columnOf(hours, func(k *sumKey) int64 { return k.hour }),
			columnOf(hours, func(k *sumKey) string { return k.kind }),
			columnOf(hours, func(k *sumKey) string { return k.name }),
			hour(func(t *tally) int64 { return t.requests }),
			hour(func(t *tally) int64 { return t.errors }),
			hour(func(t *tally) int64 { return t.unpriced }),
			hour(func(t *tally) int64 { return t.responseMS }),
			hour(func(t *tally) int64 { return t.tokens.Input }),
			hour(func(t *tally) int64 { return t.tokens.Output }),
			hour(func(t *tally) int64 { return t.tokens.CacheRead }),
			hour(func(t *tally) int64 { return t.tokens.CacheWrite5m }),
			hour(func(t *tally) int64 { return t.tokens.CacheWrite1h }),
			columnOf(hours, func(k *sumKey) *float64 { return sums.hours[*k].costUSD() }),
		}},
		{len(spend), addUnnestedSpend, []any{
			columnOf(spend, func(k *spendKey) int64 { return k.hour }),
			columnOf(spend, func(k *spendKey) string { return k.name }),
			columnOf(spend, func(k *spendKey) float64 { return sums.spend[*k] }),
		}},
		{len(ids), insertUnnestedNames, []any{
			slices.Clone(ids),
			columnOf(ids, func(id *string) string { return sums.accounts[*id].name }),
		}},
		{len(ids), addUnnestedCounters, []any{
			slices.Clone(ids),
			account(func(a *accountSum) int64 { return a.successes }),
			account(func(a *accountSum) int64 { return a.lastUsed }),
			account(func(a *accountSum) int64 { return a.tally.tokens.Input }),
			account(func(a *accountSum) int64 { return a.tally.tokens.Output }),
			account(func(a *accountSum) int64 { return a.tally.tokens.CacheRead }),
			account(func(a *accountSum) int64 { return a.tally.tokens.CacheWrite5m }),
			account(func(a *accountSum) int64 { return a.tally.tokens.CacheWrite1h }),
			columnOf(ids, func(id *string) *float64 { return sums.accounts[*id].tally.costUSD() }),
		}},
	} {
		if statement.lines == 0 {
			continue
		}
		if _, err := tx.ExecContext(ctx, statement.query, statement.args...); err != nil {
			return err
		}
	}
	return nil
}

type requestDay struct{ day, requests int64 }

func (e *postgresEngine) requestDays(ctx context.Context) ([]requestDay, error) {
	return collect(ctx, e.s.reader, func(r *sql.Rows, d *requestDay) error { return r.Scan(&d.day, &d.requests) },
		`SELECT day, requests FROM request_days ORDER BY day`)
}

// pruneRequests drops whole days. A row stays until its day is over and past
// the bound: deleting it any sooner would cost as much as having written it.
// It also makes tomorrow's partition, so that no batch has to.
func (e *postgresEngine) pruneRequests(ctx context.Context, before, maxRows int64) (deleted int64, err error) {
	if err := e.makeDay(ctx, dayOf(e.s.now().UnixMilli())+dayMillis); err != nil {
		return 0, err
	}
	days, err := e.requestDays(ctx)
	if err != nil {
		return 0, err
	}
	var kept int64
	for _, d := range days {
		kept += d.requests
	}
	for _, d := range days {
		excess := int64(0)
		if maxRows > 0 {
			excess = max(0, kept-maxRows)
		}
		due, over := d.requests, d.day+dayMillis <= e.s.now().UnixMilli()
		var n int64
		switch {
		case d.day+dayMillis <= before, over && excess > 0 && excess >= due:
			n, err = e.dropDay(ctx, d.day)
		case excess > 0:
			due = min(excess, due)
			n, err = e.deleteOldest(ctx, d.day, due)
		default:
			return deleted, nil
		}
		deleted, kept = deleted+n, kept-n
		if err != nil || n < due { // newer rows have to wait for older ones
			return deleted, err
		}
	}
	return deleted, nil
}

// pruning runs fn unless another node prunes, or somebody reads what is to go:
// the next call tries again.
func (e *postgresEngine) pruning(ctx context.Context, fn func(ctx context.Context, tx *sql.Tx) (int64, error)) (n int64, err error) {
	err = e.s.write(ctx, ChangedUsage, func(ctx context.Context, tx *sql.Tx) error {
		mine := false
		err := tx.QueryRowContext(ctx, `SELECT `+advisoryLock("pg_try_advisory_xact_lock", lockPrune)).Scan(&mine)
		if err != nil || !mine {
			return err
		}
		// Whoever comes after us in the queue for the lock waits as long as we do.
		if _, err := tx.ExecContext(ctx, `SET LOCAL lock_timeout = '500ms'`); err != nil {
			return err
		}
		n, err = fn(ctx, tx)
		return err
	})
	if postgresCode(err) == pgLockNotAvailable {
		return 0, nil
	}
	if err != nil {
		n = 0
	}
	return n, err
}

func (e *postgresEngine) dropDay(ctx context.Context, day int64) (int64, error) {
	e.days.forget()
	return e.pruning(ctx, func(ctx context.Context, tx *sql.Tx) (n int64, err error) {
		if _, err := tx.ExecContext(ctx, `DROP TABLE IF EXISTS `+partition(day)); err != nil {
			return 0, err
		}
		err = tx.QueryRowContext(ctx, `DELETE FROM request_days WHERE day = ? RETURNING requests`, day).Scan(&n)
		if errors.Is(err, sql.ErrNoRows) { // another node was first
			err = nil
		}
		return n, err
	})
}

// deleteOldest deletes a day's first rows, in small transactions.
func (e *postgresEngine) deleteOldest(ctx context.Context, day, most int64) (deleted int64, err error) {
	for deleted < most {
		n, err := e.pruning(ctx, func(ctx context.Context, tx *sql.Tx) (int64, error) {
			n, err := execTx(ctx, tx, `DELETE FROM `+partition(day)+` WHERE ctid = ANY (ARRAY(
				SELECT ctid FROM `+partition(day)+` ORDER BY timestamp, id LIMIT ?))`, min(pruneBatch, most-deleted))
			if err != nil {
				return 0, err
			}
			_, err = tx.ExecContext(ctx, `UPDATE request_days SET requests = requests - ? WHERE day = ?`, n, day)
			return n, err
		})
		deleted += n
		if err != nil || n == 0 {
			return deleted, err
		}
	}
	return deleted, nil
}

func (e *postgresEngine) clearRequests(ctx context.Context, tables []string) (deleted int64, err error) {
	err = e.s.write(ctx, ChangedUsage, func(ctx context.Context, tx *sql.Tx) error {
		// Batches take their locks in this order, too.
		if _, err := tx.ExecContext(ctx, `TRUNCATE requests`); err != nil {
			return err
		}
		if err := tx.QueryRowContext(ctx, `SELECT COALESCE(SUM(requests), 0) FROM request_days`).Scan(&deleted); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE request_days SET requests = 0`); err != nil {
			return err
		}
		for _, table := range tables {
			if _, err := tx.ExecContext(ctx, `DELETE FROM `+table); err != nil {
				return err
			}
		}
		return nil
	})
	return deleted, err
}
