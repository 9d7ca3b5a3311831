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

// rowConnector makes connections that insert rows of the history.
type rowConnector struct{ driver.Connector }

// Connect implements driver.Connector.
func (c rowConnector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &rowConn{sqliteConn: conn.(sqliteConn)}, nil
}

// sqliteConn is what database/sql uses of a driver's connection.
type sqliteConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.Pinger
	driver.SessionResetter
	driver.Validator
}

// rowConn is a connection with its statements for chunks of rows.
type rowConn struct {
	sqliteConn
	statements []driver.Stmt       // for each of chunks, once there was a row
	values     []driver.NamedValue // room for the largest chunk
}

// Close implements driver.Conn. SQLite keeps the file open for as long as there
// is a statement.
func (c *rowConn) Close() (err error) {
	for _, stmt := range c.statements {
		err = errors.Join(err, stmt.Close())
	}
	c.statements = nil
	return errors.Join(err, c.sqliteConn.Close())
}

// prepare makes the statements.
func (c *rowConn) prepare(ctx context.Context) error {
	for _, n := range chunks[len(c.statements):] {
		stmt, err := c.PrepareContext(ctx, insertStatement(n))
		if err != nil {
			return err
		}
		c.statements = append(c.statements, stmt)
	}
	if c.values == nil {
		c.values = make([]driver.NamedValue, chunks[0]*rowValues)
		for i := range c.values {
			c.values[i].Ordinal = i + 1
		}
	}
	return nil
}

// errSomeThere means that a chunk holds new rows and old ones, and the database
// does not say which is which.
var errSomeThere = errors.New("some rows are there already")

// insertChunk inserts chunks[chunk] rows and reports whether they, all of them,
// are new.
func insertChunk(ctx context.Context, conn *sql.Conn, chunk int, rows []Row) (isNew bool, err error) {
	err = conn.Raw(func(conn any) error {
		c := conn.(*rowConn)
		if err := c.prepare(ctx); err != nil {
			return err
		}
		values := c.values[:len(rows)*rowValues]
		for i := range rows {
			setValues(values[i*rowValues:], &rows[i])
		}
		result, err := c.statements[chunk].(driver.StmtExecContext).ExecContext(ctx, values)
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
