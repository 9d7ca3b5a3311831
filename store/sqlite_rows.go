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
	setValue(&to[0], &r.ID)
	setValue(&to[1], &r.Timestamp)
	setValue(&to[2], &r.Method)
	setValue(&to[3], &r.Path)
	setValue(&to[4], r.AccountUsed)
	setValue(&to[5], orNil(&r.AccountID))
	setValue(&to[6], r.PlanType)
	setValue(&to[7], r.Model)
	setValue(&to[8], new(int64(r.StatusCode)))
	setValue(&to[9], new(int64(boolInt(r.Outcome == api.OutcomeOK))))
	setValue(&to[10], new(string(r.Outcome)))
	setValue(&to[11], r.ErrorMessage)
	setValue(&to[12], &r.ResponseTimeMS)
	setValue(&to[13], &r.DurationMS)
	setValue(&to[14], new(int64(r.FailoverAttempts)))
	setValue(&to[15], new(int64(r.Stream)))
	setValue(&to[16], r.Session)
	setValue(&to[17], r.Client)
	setValue(&to[18], r.InputTokens)
	setValue(&to[19], r.OutputTokens)
	setValue(&to[20], r.CacheReadTokens)
	setValue(&to[21], r.CacheWrite5mTokens)
	setValue(&to[22], r.CacheWrite1hTokens)
	setValue(&to[23], r.CostUSD)
	setValue(&to[24], r.UpstreamRequestID)
	setValue(&to[25], attemptsText(r.Attempts))
}

// setValue leaves alone what an earlier row has put there, if it is the same:
// most values are as in most rows, and making an interface of one costs an
// allocation.
func setValue[T comparable](to *driver.NamedValue, p *T) {
	if p == nil {
		to.Value = nil
	} else if old, ok := to.Value.(T); !ok || old != *p {
		to.Value = *p
	}
}

func orNil(s *string) *string {
	if *s == "" {
		return nil
	}
	return s
}
