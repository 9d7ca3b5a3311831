package store

// Writing the history: rows, their sums and the accounts' counters, together.

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/claude-balancer/claude-balancer/api"
)

// counterRequests counts the rows of the history: counting them takes too long
// once there are millions.
const counterRequests = "requests"

// chunk is how many rows one statement inserts: a statement a row costs a third
// more.
const chunk = 32

const requestValues = `(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`

func insertRequests(n int) string {
	return `INSERT INTO requests (id, timestamp, method, path, account_used, account_id, plan_type, model_used,
		status_code, success, outcome, error_message, response_time_ms, duration_ms, failover_attempts, stream, session, client,
		input_tokens, output_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, cost_usd,
		upstream_request_id, attempts)
		VALUES ` + requestValues + strings.Repeat(", "+requestValues, n-1) + ` ON CONFLICT (id) DO NOTHING`
}

const (
	updateCounters = `UPDATE accounts SET request_count = COALESCE(request_count, 0) + ?,
		last_used = CASE WHEN ? > COALESCE(last_used, 0) THEN ? ELSE last_used END,
		input_tokens = input_tokens + ?, output_tokens = output_tokens + ?, cache_read_tokens = cache_read_tokens + ?,
		cache_write_5m_tokens = cache_write_5m_tokens + ?, cache_write_1h_tokens = cache_write_1h_tokens + ?,
		cost_usd = CASE WHEN ? = 1 THEN COALESCE(cost_usd, 0) + ? ELSE cost_usd END WHERE id = ?`

	insertName = `INSERT INTO history_accounts (id, name) VALUES (?, ?) ON CONFLICT (id) DO NOTHING`

	upsertSpend = `INSERT INTO key_spend (hour, name, cost_usd) VALUES (?, ?, ?)
		ON CONFLICT (hour, name) DO UPDATE SET cost_usd = key_spend.cost_usd + excluded.cost_usd`

	addToCounter = `UPDATE counters SET value = value + ? WHERE name = ?`
)

// batchStatements are prepared once: parsing them costs more than a row.
type batchStatements struct{ row, chunk, hour, account, name, spend *sql.Stmt }

func (s *Store) prepareBatch(ctx context.Context) (err error) {
	for query, stmt := range map[string]**sql.Stmt{
		insertRequests(1):     &s.batch.row,
		insertRequests(chunk): &s.batch.chunk,
		upsertHour:            &s.batch.hour,
		updateCounters:        &s.batch.account,
		insertName:            &s.batch.name,
		upsertSpend:           &s.batch.spend,
	} {
		if *stmt, err = s.writer.PrepareContext(ctx, query); err != nil {
			return err
		}
	}
	return nil
}

// InsertRows stores finished requests with their sums and the counters of the
// accounts that answered them, in one transaction. A row whose id is there
// already is ignored, sums and all, so a batch of unknown fate can be repeated.
func (s *Store) InsertRows(ctx context.Context, rows []Row) error {
	if len(rows) == 0 {
		return nil
	}
	err := s.insertRows(ctx, rows, chunk)
	if errors.Is(err, errSomeThere) {
		err = s.insertRows(ctx, rows, 1)
	}
	if err != nil {
		return fmt.Errorf("write %d rows to the history: %w", len(rows), err)
	}
	return nil
}

// errSomeThere means that a chunk holds new rows and old ones, and the database
// does not say which is which.
var errSomeThere = errors.New("some rows are there already")

// insertRows inserts size rows at a time, 1 or chunk; a rest goes row by row.
func (s *Store) insertRows(ctx context.Context, rows []Row, size int) error {
	return s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		byChunk, byRow := tx.StmtContext(ctx, s.batch.chunk), tx.StmtContext(ctx, s.batch.row)
		sums, stored := newSummary(&s.models), 0
		for len(rows) > 0 {
			stmt, n := byChunk, chunk
			if size == 1 || len(rows) < chunk {
				stmt, n = byRow, 1
			}
			isNew, err := insertChunk(ctx, stmt, rows[:n])
			if err != nil {
				return err
			}
			if isNew {
				for i := range rows[:n] {
					sums.add(&rows[i])
				}
				stored += n
			}
			rows = rows[n:]
		}
		if stored == 0 {
			return nil
		}
		if _, err := tx.ExecContext(ctx, addToCounter, stored, counterRequests); err != nil {
			return err
		}
		return s.saveSummary(ctx, tx, sums)
	})
}

// insertChunk reports whether the rows, all of them, are new.
func insertChunk(ctx context.Context, insert *sql.Stmt, rows []Row) (isNew bool, err error) {
	var args []any
	for i := range rows {
		if args, err = appendValues(args, &rows[i]); err != nil {
			return false, err
		}
	}
	result, err := insert.ExecContext(ctx, args...)
	if err != nil {
		return false, err
	}
	n, err := result.RowsAffected()
	if err == nil && n > 0 && n < int64(len(rows)) {
		err = errSomeThere
	}
	return n > 0, err
}

// appendValues appends a row in the order of requestValues. It follows pointers
// itself: database/sql does it by reflection.
func appendValues(args []any, r *Row) ([]any, error) {
	var account, attempts any
	if r.AccountID != "" {
		account = r.AccountID
	}
	if len(r.Attempts) > 0 {
		text, err := json.Marshal(r.Attempts)
		if err != nil {
			return nil, err
		}
		attempts = string(text)
	}
	return append(args, r.ID, r.Timestamp, r.Method, r.Path, orNull(r.AccountUsed), account, orNull(r.PlanType), orNull(r.Model),
		int64(r.StatusCode), int64(boolInt(r.Outcome == api.OutcomeOK)), string(r.Outcome), orNull(r.ErrorMessage),
		r.ResponseTimeMS, r.DurationMS, int64(r.FailoverAttempts), int64(r.Stream), orNull(r.Session), orNull(r.Client),
		orNull(r.InputTokens), orNull(r.OutputTokens), orNull(r.CacheReadTokens), orNull(r.CacheWrite5mTokens),
		orNull(r.CacheWrite1hTokens), orNull(r.CostUSD), orNull(r.UpstreamRequestID), attempts), nil
}

func orNull[T any](p *T) any {
	if p == nil {
		return nil
	}
	return *p
}

// countRows stores the sums and counters of finished requests without the rows.
// The batch number, which rises with every batch of a recorder, takes the place
// of the rows' ids: a batch that is there already is ignored.
func (s *Store) countRows(ctx context.Context, recorder string, batch int64, rows []Row) error {
	err := s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		isNew, err := execTx(ctx, tx, `INSERT INTO counted_batches (recorder, batch, at) VALUES (?, ?, ?)
			ON CONFLICT (recorder) DO UPDATE SET batch = excluded.batch, at = excluded.at
			WHERE excluded.batch > counted_batches.batch`, recorder, batch, s.now().UnixMilli())
		if err != nil || isNew == 0 {
			return err
		}
		sums := newSummary(&s.models)
		for i := range rows {
			sums.add(&rows[i])
		}
		return s.saveSummary(ctx, tx, sums)
	})
	if err != nil {
		return fmt.Errorf("count %d requests: %w", len(rows), err)
	}
	return nil
}

func (s *Store) saveSummary(ctx context.Context, tx *sql.Tx, sums *summary) error {
	if err := sums.saveHours(ctx, tx.StmtContext(ctx, s.batch.hour)); err != nil {
		return err
	}
	spend := tx.StmtContext(ctx, s.batch.spend)
	for key, cost := range sums.spend {
		if _, err := spend.ExecContext(ctx, key.hour, key.name, cost); err != nil {
			return err
		}
	}
	name, counters := tx.StmtContext(ctx, s.batch.name), tx.StmtContext(ctx, s.batch.account)
	for id, a := range sums.accounts {
		if _, err := name.ExecContext(ctx, id, a.name); err != nil {
			return err
		}
		t := a.tally.tokens
		if _, err := counters.ExecContext(ctx, a.successes, a.lastUsed, a.lastUsed,
			t.Input, t.Output, t.CacheRead, t.CacheWrite5m, t.CacheWrite1h,
			boolInt(a.tally.priced), a.tally.cost, id); err != nil {
			return err
		}
	}
	return nil
}

// nameInHistory gives an account's whole history its name.
func nameInHistory(ctx context.Context, tx *sql.Tx, id, name string) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO history_accounts (id, name) VALUES (?, ?)
		ON CONFLICT (id) DO UPDATE SET name = excluded.name`, id, name)
	return err
}
