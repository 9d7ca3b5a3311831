package store

// The history in SQLite: prepared statements, and deletion in small steps.

import (
	"context"
	"database/sql"
	"errors"
	"math"
)

// counterRequests counts the rows of the history: counting them takes too long
// once there are millions.
const counterRequests = "requests"

const (
	updateCounters = `UPDATE accounts SET request_count = COALESCE(request_count, 0) + ?,
		last_used = CASE WHEN ? > COALESCE(last_used, 0) THEN ? ELSE last_used END,
		input_tokens = input_tokens + ?, output_tokens = output_tokens + ?, cache_read_tokens = cache_read_tokens + ?,
		cache_write_5m_tokens = cache_write_5m_tokens + ?, cache_write_1h_tokens = cache_write_1h_tokens + ?,
		cost_usd = CASE WHEN ? = 1 THEN COALESCE(cost_usd, 0) + ? ELSE cost_usd END WHERE id = ?`

	insertName = `INSERT INTO history_accounts (id, name) VALUES (?, ?) ON CONFLICT (id) DO NOTHING`

	upsertSpend = insertSpend + ` VALUES (?, ?, ?)` + addSpend

	addToCounter = `UPDATE counters SET value = value + ? WHERE name = ?`
)

// batchStatements are prepared once: parsing them costs more than a row.
type batchStatements struct {
	minute, hour, account, name, spend *sql.Stmt
}

func (e *sqliteEngine) prepareBatch(ctx context.Context) (err error) {
	statements := map[string]**sql.Stmt{
		insertMinute:   &e.batch.minute,
		upsertHour:     &e.batch.hour,
		updateCounters: &e.batch.account,
		insertName:     &e.batch.name,
		upsertSpend:    &e.batch.spend,
	}
	for query, stmt := range statements {
		if *stmt, err = e.s.writer.PrepareContext(ctx, query); err != nil {
			return err
		}
	}
	return nil
}

func (e *sqliteEngine) insertRequests(ctx context.Context, rows []Row) error {
	err := e.insertRows(ctx, rows, chunks[0])
	if errors.Is(err, errSomeThere) {
		err = e.insertRows(ctx, rows, 1)
	}
	return err
}

// insertRows inserts as many rows at a time as most allows.
func (e *sqliteEngine) insertRows(ctx context.Context, rows []Row, most int) error {
	return e.s.writeOn(ctx, ChangedUsage, func(ctx context.Context, conn *sql.Conn, tx *sql.Tx) error {
		sums, found, stored := newSummary(&e.s.models), minutes{}, 0
		for i, n := range chunks {
			for ; n <= min(most, len(rows)); rows = rows[n:] {
				isNew, err := insertChunk(ctx, conn, i, rows[:n])
				if err != nil {
					return err
				}
				if !isNew {
					continue
				}
				for i := range rows[:n] {
					sums.add(&rows[i])
					found.add(&rows[i])
				}
				stored += n
			}
		}
		if stored == 0 {
			return nil
		}
		if _, err := tx.ExecContext(ctx, addToCounter, stored, counterRequests); err != nil {
			return err
		}
		if err := found.save(ctx, tx.StmtContext(ctx, e.batch.minute)); err != nil {
			return err
		}
		return e.saveSummary(ctx, tx, sums)
	})
}

func (e *sqliteEngine) saveSummary(ctx context.Context, tx *sql.Tx, sums *summary) error {
	if err := sums.saveHours(ctx, tx.StmtContext(ctx, e.batch.hour)); err != nil {
		return err
	}
	spend := tx.StmtContext(ctx, e.batch.spend)
	for key, cost := range sums.spend {
		if _, err := spend.ExecContext(ctx, key.hour, key.name, cost); err != nil {
			return err
		}
	}
	name, counters := tx.StmtContext(ctx, e.batch.name), tx.StmtContext(ctx, e.batch.account)
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

func (e *sqliteEngine) makeRoom(context.Context, []int64) error { return nil }

func (e *sqliteEngine) recount(ctx context.Context, tx *sql.Tx) error {
	if _, err := tx.ExecContext(ctx, `UPDATE counters SET value = (SELECT COUNT(*) FROM requests) WHERE name = ?`,
		counterRequests); err != nil {
		return err
	}
	return fillMinutes(ctx, tx)
}

func (e *sqliteEngine) pruneRequests(ctx context.Context, before, maxRows int64) (deleted int64, err error) {
	deleted, err = e.deleteRows(ctx, before, math.MaxInt64)
	if err == nil && maxRows > 0 {
		var n, excess int64
		if excess, err = e.rowsAbove(ctx, maxRows); err == nil && excess > 0 {
			n, err = e.deleteRows(ctx, math.MaxInt64, excess)
			deleted += n
		}
	}
	if err == nil && deleted > 0 {
		err = e.shrink(ctx)
	}
	return deleted, err
}

func (e *sqliteEngine) clearRequests(ctx context.Context, tables []string) (deleted int64, err error) {
	var last sql.NullInt64
	err = e.s.write(ctx, ChangedUsage, func(ctx context.Context, tx *sql.Tx) error {
		for _, table := range tables {
			if _, err := tx.ExecContext(ctx, `DELETE FROM `+table); err != nil {
				return err
			}
		}
		return tx.QueryRowContext(ctx, `SELECT MAX(timestamp) FROM requests`).Scan(&last)
	})
	if err == nil && last.Valid {
		deleted, err = e.deleteRows(ctx, last.Int64+1, math.MaxInt64)
	}
	if err == nil {
		err = e.shrink(ctx)
	}
	return deleted, err
}

func (e *sqliteEngine) rowsAbove(ctx context.Context, maxRows int64) (excess int64, err error) {
	err = e.s.reader.scan(ctx, []any{&excess}, `SELECT value - ? FROM counters WHERE name = ?`, maxRows, counterRequests)
	return excess, err
}

// deleteRows deletes the oldest rows, those before the given time in ms and no
// more than most, in small transactions.
func (e *sqliteEngine) deleteRows(ctx context.Context, before, most int64) (deleted int64, err error) {
	for deleted < most {
		if there, err := e.anyBefore(ctx, before); err != nil || !there {
			return deleted, err
		}
		var n int64
		err := e.s.write(ctx, ChangedUsage, func(ctx context.Context, tx *sql.Tx) (err error) {
			n, err = execTx(ctx, tx, `DELETE FROM requests WHERE id IN
				(SELECT id FROM requests WHERE timestamp < ? ORDER BY timestamp LIMIT ?)`, before, min(pruneBatch, most-deleted))
			if err != nil {
				return err
			}
			if err := deleteMinutes(ctx, tx); err != nil {
				return err
			}
			_, err = tx.ExecContext(ctx, addToCounter, -n, counterRequests)
			return err
		})
		if err != nil || n == 0 {
			return deleted, err
		}
		deleted += n
	}
	return deleted, nil
}

// anyBefore saves the writer from transactions that would delete nothing.
func (e *sqliteEngine) anyBefore(ctx context.Context, before int64) (there bool, err error) {
	err = e.s.reader.scan(ctx, []any{&there}, `SELECT EXISTS (SELECT 1 FROM requests WHERE timestamp < ?)`, before)
	return there, err
}
