package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
)

// Options say where the database is and how it is opened.
type Options struct {
	Path   string           // the database file; it and its folder are made if missing
	Keys   *Sealer          // seals credentials at rest; nil = they are stored as they are
	Now    func() time.Time // nil = time.Now
	Logger *zap.Logger      // nil = silent

	busyTimeout time.Duration // how long to wait for another process's lock; 0 = 5 s
}

// Store is an open database. It is safe for concurrent use.
type Store struct {
	engine engine
	keys   *Sealer
	now    func() time.Time
	log    *zap.Logger

	writer *sql.DB
	reader *sql.DB
	models modelNames
}

// Open opens the database, creates or migrates it, and seals what is to be
// sealed. Its error names the file and says what to do; a sealed file without
// its key is ErrKeyMissing, one with another key ErrKeyWrong.
func Open(ctx context.Context, o Options) (*Store, error) {
	s := &Store{keys: o.Keys, now: o.Now, log: o.Logger}
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = zap.NewNop()
	}
	var err error
	if s.engine, err = newSQLite(s, o); err != nil {
		return nil, err
	}
	if err := s.open(ctx); err != nil {
		return nil, errors.Join(s.engine.explainOpen(err), s.Close())
	}
	return s, nil
}

func (s *Store) open(ctx context.Context) error {
	if err := s.engine.open(ctx); err != nil {
		return err
	}
	if err := s.engine.migrate(ctx); err != nil {
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
	for _, db := range []*sql.DB{s.reader, s.writer} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	return errors.Join(errs...)
}

// Name says which database it is, without any secret: the absolute path of the
// file.
func (s *Store) Name() string { return s.engine.name() }

// Changed reports whether another process, or another Store, has written since
// the last call.
func (s *Store) Changed(ctx context.Context) (bool, error) {
	changed, err := s.engine.changed(ctx)
	if err != nil {
		return false, fmt.Errorf("look for changes in the store: %w", err)
	}
	return changed, nil
}

// write runs fn in a transaction. ctx bounds the wait for the writer alone: a
// transaction that has begun runs to its end, because an interrupted one costs
// the connection and its prepared statements, and leaves the caller not
// knowing whether it was committed.
func (s *Store) write(ctx context.Context, fn func(ctx context.Context, tx *sql.Tx) error) error {
	conn, err := s.writer.Conn(ctx)
	if err != nil {
		return s.engine.explain(err)
	}
	defer func() { _ = conn.Close() }()
	return s.engine.explain(transact(context.WithoutCancel(ctx), conn, fn))
}

func transact(ctx context.Context, conn *sql.Conn, fn func(ctx context.Context, tx *sql.Tx) error) error {
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // does nothing after Commit
	if err := fn(ctx, tx); err != nil {
		return err
	}
	return tx.Commit()
}

// exec runs one statement in a transaction of its own and returns the number
// of rows it changed.
func (s *Store) exec(ctx context.Context, query string, args ...any) (changed int64, err error) {
	err = s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
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

// querier is a database, a connection or a transaction.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// collect runs a query and scans each of its rows into a T.
func collect[T any](ctx context.Context, q querier, scan func(*sql.Rows, *T) error, query string, args ...any) ([]T, error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var all []T
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
