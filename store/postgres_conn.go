package store

// Connections to PostgreSQL, such that the statements written for SQLite run
// on them.

import (
	"context"
	"database/sql/driver"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// postgresConnector makes connections that take ? for a parameter, and text of
// any bytes.
type postgresConnector struct{ driver.Connector }

func newPostgresConnector(config *pgx.ConnConfig) driver.Connector {
	return postgresConnector{stdlib.GetConnector(*config)}
}

// Connect implements driver.Connector.
func (c postgresConnector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return postgresConn{conn.(*stdlib.Conn)}, nil
}

type postgresConn struct{ *stdlib.Conn }

// PrepareContext implements driver.ConnPrepareContext.
func (c postgresConn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	return c.Conn.PrepareContext(ctx, numbered(query))
}

// ExecContext implements driver.ExecerContext. Without arguments the query may
// be several statements.
func (c postgresConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if len(args) > 0 {
		query = numbered(query)
	}
	return c.Conn.ExecContext(ctx, query, args)
}

// QueryContext implements driver.QueryerContext.
func (c postgresConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	return c.Conn.QueryContext(ctx, numbered(query), args)
}

// CheckNamedValue implements driver.NamedValueChecker. PostgreSQL refuses text
// that is not UTF-8 or holds a NUL; clients can send both.
func (c postgresConn) CheckNamedValue(v *driver.NamedValue) error {
	switch value := v.Value.(type) {
	case string:
		v.Value = cleanText(value)
	case []string:
		for i := range value {
			value[i] = cleanText(value[i])
		}
	case []*string:
		for i, p := range value {
			if p != nil {
				text := cleanText(*p)
				value[i] = &text
			}
		}
	}
	return c.Conn.CheckNamedValue(v)
}

func cleanText(s string) string {
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, string(utf8.RuneError))
	}
	if strings.IndexByte(s, 0) >= 0 {
		s = strings.ReplaceAll(s, "\x00", string(utf8.RuneError))
	}
	return s
}

// numberedQueries remembers what numbered made of a query.
var numberedQueries sync.Map

// numbered writes $1, $2, … for each ? outside of quotes.
func numbered(query string) string {
	if known, ok := numberedQueries.Load(query); ok {
		return known.(string)
	}
	var b strings.Builder
	n, quoted := 0, false
	for _, r := range query {
		switch {
		case r == '?' && !quoted:
			n++
			b.WriteString("$" + strconv.Itoa(n))
			continue
		case r == '\'':
			quoted = !quoted
		}
		b.WriteRune(r)
	}
	numberedQueries.Store(query, b.String())
	return b.String()
}

// Interface guards
var (
	_ driver.ConnPrepareContext = postgresConn{}
	_ driver.ExecerContext      = postgresConn{}
	_ driver.QueryerContext     = postgresConn{}
	_ driver.NamedValueChecker  = postgresConn{}
	_ driver.SessionResetter    = postgresConn{}
	_ driver.Pinger             = postgresConn{}
	_ driver.ConnBeginTx        = postgresConn{}
)
