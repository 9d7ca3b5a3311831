package store

// How SQLite finds the rows of an account, a model, a client key or an outcome.
// An index of rows for each costs as much as all else that is done to store a
// row. So request_minutes says in which minutes there are any, and the rows of
// those are looked at one by one.

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
)

const minuteMillis = 60_000

// minute is a line of request_minutes: it holds a row that the filter finds.
type minute struct {
	requestFilter
	start int64 // ms
}

// minutes are the lines for a batch of rows.
type minutes map[minute]struct{}

func (m minutes) add(r *Row) {
	start := r.Timestamp - r.Timestamp%minuteMillis
	m[minute{requestFilter{byOutcome, string(r.Outcome)}, start}] = struct{}{}
	if r.AccountID != "" {
		m[minute{requestFilter{byAccount, r.AccountID}, start}] = struct{}{}
	}
	if r.Model != nil {
		m[minute{requestFilter{byModel, *r.Model}, start}] = struct{}{}
	}
	if r.Client != nil {
		m[minute{requestFilter{byKey, *r.Client}, start}] = struct{}{}
	}
}

const insertMinute = `INSERT INTO request_minutes (kind, name, minute) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`

// save writes the lines with a prepared insertMinute.
func (m minutes) save(ctx context.Context, insert *sql.Stmt) error {
	for line := range m {
		if _, err := insert.ExecContext(ctx, line.kind, line.value, line.start); err != nil {
			return err
		}
	}
	return nil
}

// fillMinutes makes the lines for all rows.
func fillMinutes(ctx context.Context, tx *sql.Tx) error {
	for kind, column := range filterColumns {
		if _, err := tx.ExecContext(ctx, fmt.Sprintf(`INSERT INTO request_minutes (kind, name, minute)
			SELECT DISTINCT '%s', %[2]s, timestamp - timestamp %% %d FROM requests WHERE %[2]s IS NOT NULL
			ON CONFLICT DO NOTHING`,
			kind, column, minuteMillis)); err != nil {
			return err
		}
	}
	return nil
}

// deleteMinutes deletes the lines before the oldest row.
func deleteMinutes(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, `DELETE FROM request_minutes
		WHERE minute <= COALESCE((SELECT MIN(timestamp) FROM requests), 9223372036854775807) - ?`, minuteMillis)
	return err
}

// pageQuery walks through the minutes in which every filter finds something,
// the newest first. CROSS JOIN keeps SQLite from another order.
func (e *sqliteEngine) pageQuery(p requestPage) (query string, args []any) {
	from, order, c := `requests r`, `r.timestamp DESC, r.id DESC`, conditions{}
	if len(p.filters) == 0 {
		return p.query(from, order, c)
	}
	from += fmt.Sprintf(` ON r.timestamp >= m0.minute AND r.timestamp < m0.minute + %d`, minuteMillis)
	for i, f := range slices.Backward(p.filters) {
		from = fmt.Sprintf(`request_minutes m%d CROSS JOIN `, i) + from
		c = c.and(fmt.Sprintf(`m%[1]d.kind = ? AND m%[1]d.name = ? AND m%[1]d.minute = m0.minute`, i), f.kind, f.value)
	}
	if p.beforeID != "" {
		c = c.and(`m0.minute <= ?`, p.before)
	}
	return p.query(from, `m0.minute DESC, `+order, c)
}
