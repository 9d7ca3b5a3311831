package store

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/claude-balancer/claude-balancer/secret"
)

// Options say where the database is and how it is opened.
type Options struct {
	Path   string           // SQLite's file; it and its folder are made if missing
	URL    secret.String    // of a PostgreSQL database; it goes before Path
	Keys   *Sealer          // seals credentials at rest; nil = they are stored as they are
	Now    func() time.Time // nil = time.Now
	Logger *zap.Logger      // nil = silent

	busyTimeout time.Duration // SQLite: how long to wait for another process's lock; 0 = 5 s
	patience    time.Duration // PostgreSQL: how long anything may take; 0 = 10 s
}

// Store is an open database. It is safe for concurrent use.
type Store struct {
	engine engine
	keys   *Sealer
	now    func() time.Time
	log    *zap.Logger

	writer *sql.DB
	reader reader
	models modelNames
}

// Open opens the database, creates or migrates it, and seals what is to be
// sealed. Its error names the database and says what to do; ErrUnavailable means
// that it may open later as things are, ErrKeyMissing that it is sealed and
// there is no key, ErrKeyWrong that it is another key's.
func Open(ctx context.Context, o Options) (*Store, error) {
	s := &Store{keys: o.Keys, now: o.Now, log: o.Logger}
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = zap.NewNop()
	}
	if err := s.choose(o); err != nil {
		return nil, err
	}
	if err := s.open(ctx); err != nil {
		return nil, errors.Join(s.engine.explainOpen(err), s.Close())
	}
	return s, nil
}

func (s *Store) choose(o Options) (err error) {
	if o.URL.IsZero() {
		s.engine, err = newSQLite(s, o)
	} else {
		s.engine, err = newPostgres(s, o)
	}
	s.reader.engine = s.engine
	return err
}

func (s *Store) open(ctx context.Context) error {
	if err := s.engine.open(ctx); err != nil {
		return err
	}
	if err := s.engine.migrate(ctx); err != nil {
		return err
	}
	if err := s.refuseCopy(ctx); err != nil {
		return err
	}
	if err := s.resealAll(ctx); err != nil {
		return err
	}
	if err := s.loadModels(ctx); err != nil {
		return err
	}
	_, err := s.Changed(ctx) // the state to compare with from now on
	return err
}

// Close closes the database. Writes that run are finished first.
func (s *Store) Close() error {
	errs := []error{s.engine.close()}
	for _, db := range []*sql.DB{s.reader.DB, s.writer} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	return errors.Join(errs...)
}

// Name says which database it is, without any secret: the absolute path of
// SQLite's file, or PostgreSQL's host and database.
func (s *Store) Name() string { return s.engine.name() }

// write runs fn in a transaction that makes these changes; fn may run again if
// other writers were in the way. ctx bounds the wait for a connection alone: a
// transaction that has begun runs to its end or to the engine's patience,
// because an interrupted one costs the connection and its prepared statements,
// and leaves the caller not knowing whether it was committed.
func (s *Store) write(ctx context.Context, changes Changes, fn func(ctx context.Context, tx *sql.Tx) error) (err error) {
	return s.writeOn(ctx, changes, func(ctx context.Context, _ *sql.Conn, tx *sql.Tx) error { return fn(ctx, tx) })
}

// writeOn also gives fn the connection that the transaction is on.
func (s *Store) writeOn(ctx context.Context, changes Changes, fn func(context.Context, *sql.Conn, *sql.Tx) error) (err error) {
	const tries = 5
	for range tries {
		if err = s.tryWrite(ctx, changes, fn); err == nil || !s.engine.again(err) {
			break
		}
	}
	return s.engine.explain(err)
}

func (s *Store) tryWrite(ctx context.Context, changes Changes, fn func(context.Context, *sql.Conn, *sql.Tx) error) error {
	waiting, cancel := bounded(ctx, s.engine)
	defer cancel()
	conn, err := s.writer.Conn(waiting)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel = bounded(context.WithoutCancel(ctx), s.engine)
	defer cancel()
	return transact(ctx, conn, func(ctx context.Context, tx *sql.Tx) error {
		if err := fn(ctx, conn, tx); err != nil || changes == 0 {
			return err
		}
		return s.engine.tell(ctx, tx, changes)
	})
}

// bounded ends ctx when the engine's patience does.
func bounded(ctx context.Context, e engine) (context.Context, context.CancelFunc) {
	if patience := e.patience(); patience > 0 {
		return context.WithTimeout(ctx, patience)
	}
	return ctx, func() {}
}

// changedNothing is the error of a transaction that did not begin, or of a
// read: the connection may have died while nobody used it.
type changedNothing struct{ error }

func (e changedNothing) Unwrap() error { return e.error }

func transact(ctx context.Context, conn *sql.Conn, fn func(ctx context.Context, tx *sql.Tx) error) error {
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return changedNothing{err}
	}
	defer func() { _ = tx.Rollback() }() // does nothing after Commit
	if err := fn(ctx, tx); err != nil {
		return err
	}
	return tx.Commit()
}

// exec runs one statement in a transaction of its own and returns the number
// of rows it changed.
func (s *Store) exec(ctx context.Context, changes Changes, query string, args ...any) (changed int64, err error) {
	err = s.write(ctx, changes, func(ctx context.Context, tx *sql.Tx) error {
		changed, err = execTx(ctx, tx, query, args...)
		return err
	})
	return changed, err
}

func execTx(ctx context.Context, tx *sql.Tx, query string, args ...any) (changed int64, err error) {
	result, err := tx.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// reader is a database for reading: what it reads takes no longer than the
// engine's patience.
type reader struct {
	*sql.DB
	engine engine
}

// read runs fn, and again if it met a connection that had died while nobody
// used it.
func (r reader) read(ctx context.Context, fn func(ctx context.Context) error) error {
	ctx, cancel := bounded(ctx, r.engine)
	defer cancel()
	var err error
	for range postgresReaders + 1 { // all that are open may have died
		if err = fn(ctx); err == nil || ctx.Err() != nil || !r.engine.again(changedNothing{err}) {
			break
		}
	}
	return r.engine.explain(err)
}

// scan reads one row.
func (r reader) scan(ctx context.Context, to []any, query string, args ...any) error {
	return r.read(ctx, func(ctx context.Context) error {
		return r.QueryRowContext(ctx, query, args...).Scan(to...)
	})
}

// querier is a database, a reader or a transaction.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// collect runs a query and scans each of its rows into a T.
func collect[T any](ctx context.Context, q querier, scan func(*sql.Rows, *T) error, query string, args ...any) (all []T, err error) {
	if r, ok := q.(reader); ok {
		err = r.read(ctx, func(ctx context.Context) error {
			all, err = collect(ctx, r.DB, scan, query, args...)
			return err
		})
		return all, err
	}
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var one T
		if err := scan(rows, &one); err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, rows.Err()
}

// millis is how a time is stored: ms since the epoch, NULL for the zero time.
type millis struct{ t *time.Time }

// Scan implements sql.Scanner.
func (m millis) Scan(src any) error {
	var n sql.NullInt64
	if err := n.Scan(src); err != nil {
		return err
	}
	*m.t = time.Time{}
	if n.Valid {
		*m.t = time.UnixMilli(n.Int64)
	}
	return nil
}

// toMillis is the other direction.
func toMillis(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMilli()
}
