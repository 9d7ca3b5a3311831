package store

// The schema's versions for SQLite: user_version counts the migrations a file
// has had; the seed system's files have 0 and tables.

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.uber.org/zap"
)

// applicationID marks our files ("clba"), so that another program's
// user_version is not taken for ours.
const applicationID = 0x636c6261

// migrations lead from the version of their index to the next one.
var migrations = []func(context.Context, *sql.Tx) error{
	createTables,
	addSignIns,
	addExchange,
	addMinutes,
}

// maxRewriteBytes is the size up to which a file of the seed system is
// rewritten, so that it can give space back later; a larger one would hold up
// the start for too long.
const maxRewriteBytes = 64 << 20

// migrate runs the missing migrations, each in a transaction that also writes
// its version: after a crash a file is as it was before. A second process that
// opens the same file waits, then finds nothing left to do.
func (e *sqliteEngine) migrate(ctx context.Context) error {
	before, err := e.pragma(ctx, "user_version")
	if err != nil {
		return err
	}
	if before != int64(len(migrations)) {
		if err := e.withTempInFile(ctx, func() error { return e.migrateAll(ctx) }); err != nil {
			return err
		}
	}
	if before == 0 {
		if err := e.allowShrinking(ctx); err != nil {
			return err
		}
	}
	return e.prepareBatch(ctx)
}

func (e *sqliteEngine) migrateAll(ctx context.Context) (err error) {
	for more := true; more && err == nil; {
		err = e.s.write(ctx, 0, func(ctx context.Context, tx *sql.Tx) (err error) {
			more, err = migrateOnce(ctx, tx)
			return err
		})
	}
	return err
}

func migrateOnce(ctx context.Context, tx *sql.Tx) (more bool, err error) {
	var version, owner int
	if err := tx.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return false, err
	}
	if err := tx.QueryRowContext(ctx, "PRAGMA application_id").Scan(&owner); err != nil {
		return false, err
	}
	switch {
	case version > 0 && owner != applicationID:
		return false, errNotOurs
	case version > len(migrations):
		return false, fmt.Errorf("it was written by a newer version (schema %d, this one knows %d): update this program",
			version, len(migrations))
	case version == len(migrations):
		return false, nil
	}
	if err := migrations[version](ctx, tx); err != nil {
		return false, fmt.Errorf("migrate the schema from version %d: %w", version, err)
	}
	_, err = tx.ExecContext(ctx, fmt.Sprintf("PRAGMA application_id = %d; PRAGMA user_version = %d", applicationID, version+1))
	return true, err
}

var errNotOurs = errors.New("it is another program's database: choose another path")

// allowShrinking gives an old file the page map that incremental vacuuming
// needs, which only a full VACUUM can do.
func (e *sqliteEngine) allowShrinking(ctx context.Context) error {
	mode, err := e.pragma(ctx, "auto_vacuum")
	if err != nil || mode != 0 {
		return err
	}
	pages, err := e.pragma(ctx, "page_count")
	if err != nil {
		return err
	}
	size, err := e.pragma(ctx, "page_size")
	if err != nil || pages*size > maxRewriteBytes {
		return err
	}
	if err := e.vacuum(ctx); err != nil {
		e.s.log.Warn("the store cannot give space back yet", zap.String("path", e.path), zap.Error(err))
	}
	return nil
}

// column is a column that a table must have.
type column struct{ name, definition string }

// accountColumns begins with what every file of the seed system has.
var accountColumns = []column{
	{"id", "TEXT PRIMARY KEY"},
	{"name", "TEXT NOT NULL"},
	{"refresh_token", "TEXT NOT NULL"}, // '' where there is none
	{"access_token", "TEXT"},           // the API key of an account that has one
	{"expires_at", "INTEGER"},
	{"created_at", "INTEGER NOT NULL"},
	{"last_used", "INTEGER"},
	{"request_count", "INTEGER DEFAULT 0"},
	{"plan_type", "TEXT DEFAULT 'console'"},
	{"supported_models", "TEXT"}, // comma-separated; NULL = the plan's
	{"kind", "TEXT NOT NULL DEFAULT 'oauth'"},
	{"issued_at", "INTEGER"},
	{"generation", "INTEGER NOT NULL DEFAULT 1"},
	{"priority", "INTEGER NOT NULL DEFAULT 0"},
	{"weight", "INTEGER NOT NULL DEFAULT 1"},
	{"max_in_flight", "INTEGER NOT NULL DEFAULT 0"},
	{"paused", "INTEGER NOT NULL DEFAULT 0"},
	{"state", "TEXT NOT NULL DEFAULT ''"},
	{"state_reason", "TEXT NOT NULL DEFAULT ''"},
	{"state_since", "INTEGER"},
	{"tier", "TEXT NOT NULL DEFAULT ''"},
	{"input_tokens", "INTEGER NOT NULL DEFAULT 0"},
	{"output_tokens", "INTEGER NOT NULL DEFAULT 0"},
	{"cache_read_tokens", "INTEGER NOT NULL DEFAULT 0"},
	{"cache_write_5m_tokens", "INTEGER NOT NULL DEFAULT 0"},
	{"cache_write_1h_tokens", "INTEGER NOT NULL DEFAULT 0"},
	{"cost_usd", "REAL"},
	{"lease_owner", "TEXT"},
	{"lease_until", "INTEGER"},
}

// requestColumns likewise.
var requestColumns = []column{
	{"id", "TEXT PRIMARY KEY"},
	{"timestamp", "INTEGER NOT NULL"},
	{"method", "TEXT NOT NULL"},
	{"path", "TEXT NOT NULL"},
	{"account_used", "TEXT"}, // its name at the time
	{"status_code", "INTEGER"},
	{"success", "BOOLEAN"},
	{"error_message", "TEXT"},
	{"response_time_ms", "INTEGER"},
	{"failover_attempts", "INTEGER DEFAULT 0"},
	{"input_tokens", "INTEGER"},
	{"output_tokens", "INTEGER"},
	{"model_used", "TEXT"},
	{"account_id", "TEXT"},
	{"plan_type", "TEXT"},
	{"outcome", "TEXT NOT NULL DEFAULT ''"},
	{"duration_ms", "INTEGER NOT NULL DEFAULT 0"},
	{"stream", "INTEGER NOT NULL DEFAULT 0"},
	{"session", "TEXT"},
	{"client", "TEXT"},
	{"cache_read_tokens", "INTEGER"},
	{"cache_write_5m_tokens", "INTEGER"},
	{"cache_write_1h_tokens", "INTEGER"},
	{"cost_usd", "REAL"},
	{"upstream_request_id", "TEXT"},
	{"attempts", "TEXT"}, // JSON; NULL = none
}

//go:embed schema/sqlite/0001.sql
var tables string

// createTables is migration 1: a new file, or one of the seed system's in any
// of its states.
func createTables(ctx context.Context, tx *sql.Tx) error {
	old, err := isSeed(ctx, tx)
	if err != nil {
		return err
	}
	for name, columns := range map[string][]column{"accounts": accountColumns, "requests": requestColumns} {
		if err := completeTable(ctx, tx, name, columns); err != nil {
			return err
		}
	}
	if old {
		if err := cleanSeed(ctx, tx); err != nil {
			return err
		}
	}
	if _, err := tx.ExecContext(ctx, tables); err != nil || !old {
		return err
	}
	return summarizeSeed(ctx, tx)
}

//go:embed schema/sqlite/0002.sql
var signInTables string

// addSignIns is migration 2.
func addSignIns(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, signInTables)
	return err
}

//go:embed schema/sqlite/0003.sql
var exchangeTables string

// addExchange is migration 3.
func addExchange(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, exchangeTables)
	return err
}

//go:embed schema/sqlite/0004.sql
var minuteTable string

// addMinutes is migration 4. The indexes go last: they make quick what fills the
// table.
func addMinutes(ctx context.Context, tx *sql.Tx) error {
	if _, err := tx.ExecContext(ctx, minuteTable); err != nil {
		return err
	}
	if err := fillMinutes(ctx, tx); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, `CREATE INDEX request_minutes_minute ON request_minutes (minute);
		DROP INDEX requests_account; DROP INDEX requests_model; DROP INDEX requests_client; DROP INDEX requests_outcome`)
	return err
}

// isSeed tells a seed system's file from an empty one; anything else is not
// ours to change.
func isSeed(ctx context.Context, tx *sql.Tx) (bool, error) {
	var count int
	if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM sqlite_schema`).Scan(&count); err != nil || count == 0 {
		return false, err
	}
	has, err := columnsOf(ctx, tx, "accounts")
	if err != nil {
		return false, err
	}
	for _, c := range accountColumns[:8] {
		if !slices.Contains(has, c.name) {
			return false, errNotOurs
		}
	}
	return true, nil
}

// completeTable makes a table or adds the columns that it lacks.
func completeTable(ctx context.Context, tx *sql.Tx, table string, columns []column) error {
	has, err := columnsOf(ctx, tx, table)
	if err != nil {
		return err
	}
	if has == nil {
		definitions := make([]string, len(columns))
		for i, c := range columns {
			definitions[i] = c.name + " " + c.definition
		}
		_, err := tx.ExecContext(ctx, "CREATE TABLE "+table+" ("+strings.Join(definitions, ", ")+")")
		return err
	}
	for _, c := range columns {
		if slices.Contains(has, c.name) {
			continue
		}
		if _, err := tx.ExecContext(ctx, "ALTER TABLE "+table+" ADD COLUMN "+c.name+" "+c.definition); err != nil {
			return fmt.Errorf("add column %s.%s: %w", table, c.name, err)
		}
	}
	return nil
}

func columnsOf(ctx context.Context, tx *sql.Tx, table string) ([]string, error) {
	return collect(ctx, tx, func(r *sql.Rows, name *string) error { return r.Scan(name) },
		`SELECT name FROM pragma_table_info(?)`, table)
}
