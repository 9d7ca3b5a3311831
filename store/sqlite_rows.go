package store

// Inserting rows of the history by SQLite's driver itself: database/sql checks
// and copies every value of a statement, and a row has many.

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"strings"

	"github.com/claude-balancer/claude-balancer/api"
)

// chunks are how many rows one statement inserts: a statement a row costs a
// third more.
var chunks = [...]int{64, 8, 1}

const rowValues = 26

const requestValues = `(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`

func insertStatement(n int) string {
	return `INSERT INTO requests (id, timestamp, method, path, account_used, account_id, plan_type, model_used,
		status_code, success, outcome, error_message, response_time_ms, duration_ms, failover_attempts, stream, session, client,
		input_tokens, output_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, cost_usd,
		upstream_request_id, attempts)
		VALUES ` + requestValues + strings.Repeat(", "+requestValues, n-1) + ` ON CONFLICT (id) DO NOTHING`
}

// rowWriter has the statements for chunks of rows, on one connection. It is used
// within the writer's transactions alone.
type rowWriter struct {
	conn       any
	statements [len(chunks)]driver.StmtExecContext
	values     []driver.NamedValue // room for the largest chunk
}

// errSomeThere means that a chunk holds new rows and old ones, and the database
// does not say which is which.
var errSomeThere = errors.New("some rows are there already")

// insert inserts chunks[chunk] rows and reports whether they, all of them, are
// new.
func (w *rowWriter) insert(ctx context.Context, conn *sql.Conn, chunk int, rows []Row) (isNew bool, err error) {
	err = conn.Raw(func(conn any) error {
		if err := w.prepare(ctx, conn); err != nil {
			return err
		}
		values := w.values[:len(rows)*rowValues]
		for i := range rows {
			setValues(values[i*rowValues:], &rows[i])
		}
		result, err := w.statements[chunk].ExecContext(ctx, values)
		if err != nil {
			return err
		}
		n, err := result.RowsAffected()
		if err == nil && n > 0 && n < int64(len(rows)) {
			err = errSomeThere
		}
		isNew = n > 0
		return err
	})
	return isNew, err
}

// prepare makes the statements, again if the connection is another one.
func (w *rowWriter) prepare(ctx context.Context, conn any) error {
	if w.conn == conn {
		return nil
	}
	for i, n := range chunks {
		stmt, err := conn.(driver.ConnPrepareContext).PrepareContext(ctx, insertStatement(n))
		if err != nil {
			return err
		}
		w.statements[i] = stmt.(driver.StmtExecContext)
	}
	w.values = make([]driver.NamedValue, chunks[0]*rowValues)
	for i := range w.values {
		w.values[i].Ordinal = i + 1
	}
	w.conn = conn
	return nil
}

// setValues sets a row's values in the order of requestValues.
func setValues(to []driver.NamedValue, r *Row) {
	var account any
	if r.AccountID != "" {
		account = r.AccountID
	}
	for i, v := range [rowValues]driver.Value{
		r.ID, r.Timestamp, r.Method, r.Path, orNull(r.AccountUsed), account, orNull(r.PlanType), orNull(r.Model),
		int64(r.StatusCode), int64(boolInt(r.Outcome == api.OutcomeOK)), string(r.Outcome), orNull(r.ErrorMessage),
		r.ResponseTimeMS, r.DurationMS, int64(r.FailoverAttempts), int64(r.Stream), orNull(r.Session), orNull(r.Client),
		orNull(r.InputTokens), orNull(r.OutputTokens), orNull(r.CacheReadTokens), orNull(r.CacheWrite5mTokens),
		orNull(r.CacheWrite1hTokens), orNull(r.CostUSD), orNull(r.UpstreamRequestID), orNull(attemptsText(r.Attempts)),
	} {
		to[i].Value = v
	}
}

func orNull[T any](p *T) driver.Value {
	if p == nil {
		return nil
	}
	return *p
}
