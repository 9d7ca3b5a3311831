package store

// The schema's versions for PostgreSQL.

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"time"
)

//go:embed schema/postgres/0001.sql
var postgresTables string

//go:embed schema/postgres/0002.sql
var postgresExchange string

//go:embed schema/postgres/0003.sql
var postgresChart string

// postgresMigration leads to the version of its index plus one. During a
// rolling upgrade nodes of the version before go on using the migrated schema:
// a migration adds, and takes away only what the version before did not use any
// more. Oldest is the oldest version that can use the result.
type postgresMigration struct {
	statements string
	oldest     int
}

var postgresMigrations = []postgresMigration{
	{postgresTables, 1},
	{postgresExchange, 1},
	{postgresChart, 1},
}

// migrateTimeout bounds the wait for another node that migrates, and the work.
const migrateTimeout = 5 * time.Minute

// Locks that nodes hold for what one of them does at a time, by schema.
const (
	lockSchema = 0x636c6200 + iota
	lockDays
	lockPrune
)

// advisoryLock is an expression that takes a lock until the transaction ends.
func advisoryLock(function string, lock int) string {
	return function + `(` + strconv.Itoa(lock) + `, hashtext(current_schema()))`
}

func (e *postgresEngine) migrate(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, migrateTimeout)
	defer cancel()
	conn, err := e.s.writer.Conn(ctx)
	if err != nil {
		return e.explain(err)
	}
	defer func() { _ = conn.Close() }()
	if err := transact(ctx, conn, migratePostgres); err != nil {
		return e.explain(err)
	}
	return nil
}

// migratePostgres runs the missing migrations in one transaction; a second node
// that starts meanwhile waits, then finds nothing left to do.
func migratePostgres(ctx context.Context, tx *sql.Tx) error {
	for _, statement := range []string{
		`SET LOCAL statement_timeout = 0`,
		`SELECT ` + advisoryLock("pg_advisory_xact_lock", lockSchema),
		`CREATE TABLE IF NOT EXISTS schema_version (version bigint NOT NULL, oldest bigint NOT NULL)`,
	} {
		if _, err := tx.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	var version, oldest int
	err := tx.QueryRowContext(ctx, `SELECT version, oldest FROM schema_version`).Scan(&version, &oldest)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		if _, err := tx.ExecContext(ctx, `INSERT INTO schema_version (version, oldest) VALUES (0, 0)`); err != nil {
			return err
		}
	case err != nil:
		return err
	case oldest > len(postgresMigrations):
		return fmt.Errorf("it was written by a newer version (schema %d, this one knows %d): update this program",
			version, len(postgresMigrations))
	case version >= len(postgresMigrations):
		return nil
	}
	for ; version < len(postgresMigrations); version++ {
		m := postgresMigrations[version]
		if _, err := tx.ExecContext(ctx, m.statements); err != nil {
			return fmt.Errorf("migrate the schema from version %d: %w", version, err)
		}
		if _, err := tx.ExecContext(ctx, `UPDATE schema_version SET version = ?, oldest = ?`, version+1, m.oldest); err != nil {
			return err
		}
	}
	return nil
}
