// Package storetest gives tests a PostgreSQL database.
package storetest

import (
	"context"
	"crypto/rand"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// Variable names a server for tests, as the URL of a user that may make schemas
// in its database.
const Variable = "CLAUDE_BALANCER_POSTGRES"

// Skip is what a test says that found no server.
const Skip = "not tested on PostgreSQL; this does: .ci/postgres go test ./... (or set " + Variable + "=postgres://...)"

// HasPostgres reports whether there is a server.
func HasPostgres() bool { return os.Getenv(Variable) != "" }

// Postgres returns the URL of an empty schema that is the test's own, or skips
// the test.
func Postgres(tb testing.TB) string {
	tb.Helper()
	if !HasPostgres() {
		tb.Skip(Skip)
	}
	schema := "test_" + strings.ToLower(rand.Text())
	run(tb, "CREATE SCHEMA "+schema)
	tb.Cleanup(func() { run(tb, "DROP SCHEMA "+schema+" CASCADE") })
	at, err := url.Parse(os.Getenv(Variable))
	if err != nil {
		tb.Fatal("the server's URL cannot be read")
	}
	query := at.Query()
	query.Set("search_path", schema)
	at.RawQuery = query.Encode()
	return at.String()
}

func run(tb testing.TB, query string) {
	tb.Helper()
	ctx := context.Background() // it runs when the test's is over, too
	conn, err := pgx.Connect(ctx, os.Getenv(Variable))
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.Exec(ctx, query); err != nil {
		tb.Fatal(err)
	}
}
