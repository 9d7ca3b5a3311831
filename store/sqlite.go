package store

// What only SQLite knows: the file, its connections and pragmas, its error
// codes, changes by others, and giving space back.

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// sqliteEngine keeps the store in a file.
type sqliteEngine struct {
	s           *Store
	path        string
	busyTimeout time.Duration
	batch       batchStatements

	dataVersion struct {
		sync.Mutex
		last int64
	}
}

func newSQLite(s *Store, o Options) (*sqliteEngine, error) {
	path, err := filepath.Abs(o.Path)
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", o.Path, err)
	}
	if o.busyTimeout == 0 {
		o.busyTimeout = 5 * time.Second
	}
	return &sqliteEngine{s: s, path: path, busyTimeout: o.busyTimeout}, nil
}

func (e *sqliteEngine) name() string { return e.path }

func (e *sqliteEngine) now() string { return `CAST(unixepoch('subsec') * 1000 AS INTEGER)` }

func (e *sqliteEngine) close() error { return nil }

// A transaction has the file for itself.
func (e *sqliteEngine) lock() string { return "" }

func (e *sqliteEngine) patience() time.Duration { return 0 }

func (e *sqliteEngine) again(error) bool { return false }

func (e *sqliteEngine) tell(context.Context, *sql.Tx, Changes) error { return nil }

func (e *sqliteEngine) notified() <-chan struct{} { return nil }

// What a statement of several rows keeps for undoing itself goes to memory:
// writing it to a file costs as much as the rows. See withTempInFile for the
// exceptions.
const (
	tempInMemory = "temp_store(MEMORY)"
	tempInFile   = "temp_store(FILE)"
)

// readers bounds the read-only connections.
const readers = 4

func (e *sqliteEngine) open(ctx context.Context) error {
	if err := e.prepareFile(); err != nil {
		return err
	}
	busy := fmt.Sprintf("busy_timeout(%d)", e.busyTimeout.Milliseconds())
	writer, err := sqlite.NewConnector(dsn(e.path, url.Values{
		"_txlock": {"immediate"}, // a deferred transaction that comes to write fails at once if it lost the race
		// For new files; SQLite ignores it for others until their next VACUUM.
		"_auto_vacuum": {"INCREMENTAL"},
		"_pragma": {busy, "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)", "secure_delete(1)",
			"journal_size_limit(67108864)", tempInMemory},
	}))
	if err != nil {
		return err
	}
	reader, err := sqlite.NewConnector(dsn(e.path, url.Values{"_pragma": {busy, "query_only(1)"}}))
	if err != nil {
		return err
	}
	s := e.s
	s.writer, s.reader.DB = sql.OpenDB(rowConnector{writer}), sql.OpenDB(reader)
	// SQLite has one writer at a time. A pool of one connection makes writers
	// of this process queue in Go, where waiting can be cancelled, instead of
	// polling for the file's lock.
	s.writer.SetMaxOpenConns(1)
	s.reader.SetMaxOpenConns(readers)
	s.reader.SetMaxIdleConns(readers)
	return e.connect(ctx)
}

// connect makes the writer's connection. Changing a file to WAL fails at once
// while another process does the same, whatever the busy timeout says.
func (e *sqliteEngine) connect(ctx context.Context) error {
	deadline := time.Now().Add(e.busyTimeout)
	for {
		err := e.s.writer.PingContext(ctx)
		if err == nil {
			_, err = e.s.writer.ExecContext(ctx, `SELECT COUNT(*) FROM sqlite_schema`)
		}
		if !isCode(err, sqlite3.SQLITE_BUSY) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// dsn writes path so that a blank, ?, # or % in it stays part of the path.
func dsn(path string, params url.Values) string {
	path = filepath.ToSlash(path)
	if !strings.HasPrefix(path, "/") { // a drive letter
		path = "/" + path
	}
	return "file://" + (&url.URL{Path: path}).EscapedPath() + "?" + params.Encode()
}

// fileMaking keeps two Opens of this process from making the same file: while
// one has it open to make it, the other must not be using it yet, because on
// POSIX systems closing any descriptor of a file drops all of the process's
// locks on it.
var fileMaking sync.Mutex

// prepareFile makes the folder and the file if they are missing and takes away
// other users' access. SQLite gives its -wal and -shm files the same mode.
func (e *sqliteEngine) prepareFile() error {
	if err := os.MkdirAll(filepath.Dir(e.path), 0o700); err != nil {
		return err
	}
	fileMaking.Lock()
	defer fileMaking.Unlock()
	f, err := os.OpenFile(e.path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err == nil {
		return f.Close()
	}
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	for _, name := range []string{e.path, e.path + "-wal", e.path + "-shm", e.path + "-journal"} {
		if err := makePrivate(name); err != nil {
			e.s.log.Warn("other users may be able to read the store", zap.String("path", name), zap.Error(err))
		}
	}
	return nil
}

// makePrivate works on the name: opening and closing the file would drop
// locks, see fileMaking.
func makePrivate(name string) error {
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || info.IsDir() || info.Mode().Perm()&0o077 == 0 {
		return err
	}
	return os.Chmod(name, info.Mode().Perm()&0o700)
}

func (e *sqliteEngine) explainOpen(err error) error {
	path := e.path
	advice := ""
	switch {
	case isCode(err, sqlite3.SQLITE_NOTADB):
		advice = "it is not an SQLite database; move it away or choose another path"
	case isCode(err, sqlite3.SQLITE_CORRUPT):
		advice = "the file is damaged; restore it from a backup"
	case isCode(err, sqlite3.SQLITE_CANTOPEN), isCode(err, sqlite3.SQLITE_READONLY), isCode(err, sqlite3.SQLITE_PERM),
		errors.Is(err, fs.ErrPermission):
		advice = "check that it is a file in a folder that this user may write to"
	case isCode(err, sqlite3.SQLITE_BUSY):
		advice = "another process keeps it locked; stop that process"
	case isCode(err, sqlite3.SQLITE_FULL):
		advice = "the disk is full; make room"
	case errors.Is(err, ErrKeyMissing), errors.Is(err, ErrKeyWrong):
		return fmt.Errorf("cannot open the store %s: %w; set encryption_key to the key that sealed it", path, err)
	default:
		return fmt.Errorf("cannot open the store %s: %w", path, err)
	}
	return fmt.Errorf("cannot open the store %s: %s (%w)", path, advice, err)
}

// isCode reports whether err is SQLite's, with this primary result code.
func isCode(err error, code int) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code()&0xff == code
}

func (e *sqliteEngine) explain(err error) error {
	var failed *sqlite.Error
	if errors.As(err, &failed) &&
		(failed.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE || failed.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY) {
		return fmt.Errorf("%w (%w)", errDuplicate, err)
	}
	return err
}

// changed asks on the writer's connection: for that one alone SQLite does not
// count this Store's own commits.
func (e *sqliteEngine) changed(ctx context.Context) (Changes, error) {
	e.dataVersion.Lock()
	defer e.dataVersion.Unlock()
	version, err := e.pragma(ctx, "data_version")
	if err != nil || version == e.dataVersion.last {
		return 0, err
	}
	e.dataVersion.last = version
	return AllChanges, nil
}

// pragma reads a number on the writer's connection. See write for the context.
func (e *sqliteEngine) pragma(ctx context.Context, name string) (n int64, err error) {
	conn, err := e.s.writer.Conn(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	err = conn.QueryRowContext(context.WithoutCancel(ctx), "PRAGMA "+name).Scan(&n)
	return n, err
}

// shrink gives free pages back to the file system, some at a time so that
// others get their turn at the writer. A file that was not made for it (one
// of the seed's that was never vacuumed) stays as large as it is.
func (e *sqliteEngine) shrink(ctx context.Context) error {
	const pages = 1000
	free, err := e.pragma(ctx, "freelist_count")
	for err == nil && free > 0 {
		before := free
		if err = e.alone(ctx, "PRAGMA incremental_vacuum("+strconv.Itoa(pages)+")"); err != nil {
			break
		}
		if free, err = e.pragma(ctx, "freelist_count"); free >= before {
			break
		}
	}
	return err
}

// rewrite copies the whole file page by page and empties the WAL: nothing that
// was overwritten or deleted remains in either.
func (e *sqliteEngine) rewrite(ctx context.Context) error {
	if err := e.vacuum(ctx); err != nil {
		return err
	}
	var busy, frames, moved int
	err := e.s.writer.QueryRowContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &frames, &moved)
	if err == nil && busy != 0 {
		err = errors.New("another process is reading the file")
	}
	return err
}

func (e *sqliteEngine) vacuum(ctx context.Context) error {
	return e.withTempInFile(ctx, func() error { return e.alone(ctx, "VACUUM") })
}

// withTempInFile calls f, which may need as much temporary space as the
// database has.
func (e *sqliteEngine) withTempInFile(ctx context.Context, f func() error) error {
	if err := e.alone(ctx, "PRAGMA "+tempInFile); err != nil {
		return err
	}
	return errors.Join(f(), e.alone(ctx, "PRAGMA "+tempInMemory))
}

// alone runs a statement that cannot be part of a transaction.
func (e *sqliteEngine) alone(ctx context.Context, query string) error {
	conn, err := e.s.writer.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_, err = conn.ExecContext(context.WithoutCancel(ctx), query)
	return err
}
