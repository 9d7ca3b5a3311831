package store

// What only PostgreSQL knows: its URL, its connections, its error codes, and
// telling others of changes.

import (
	"context"
	"crypto/rand"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/zap"
)

// Bounds of what a Store takes of a PostgreSQL server. One more connection
// listens.
const (
	postgresWriters = 4
	postgresReaders = 4
	connectTimeout  = 5 * time.Second
	// postgresPatience is how long a read or a transaction may take: a database
	// that hangs must not hang its callers.
	postgresPatience = 10 * time.Second
	// postgresPause is how long a transaction may stand still: others may wait
	// for what it has locked.
	postgresPause = 3 * time.Second
)

// postgresEngine keeps the store in a PostgreSQL database, in the first schema
// of its search path. Many Stores, on many machines, may share it.
type postgresEngine struct {
	s      *Store
	config *pgx.ConnConfig
	node   string // tells this Store's changes from others'
	limit  time.Duration

	days postgresDays
	seen struct {
		sync.Mutex
		versions map[Changes]int64
	}
	told      chan struct{}
	stop      context.CancelFunc
	listening sync.WaitGroup
}

func newPostgres(s *Store, o Options) (*postgresEngine, error) {
	scheme, _, _ := strings.Cut(o.URL.Reveal(), "://")
	config, err := pgx.ParseConfig(o.URL.Reveal())
	if err != nil || scheme != "postgres" && scheme != "postgresql" { // the error holds the URL, and that a password
		return nil, errors.New("the store's URL cannot be read: it must look like postgres://user:password@host:5432/database?sslmode=verify-full")
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTimeout
	}
	// The server gives up as the client does, so that what a lost or halted node
	// has locked is free again soon.
	if o.patience == 0 {
		o.patience = postgresPatience
	}
	limit := strconv.FormatInt(o.patience.Milliseconds(), 10)
	pause := strconv.FormatInt(min(o.patience, postgresPause).Milliseconds(), 10)
	for name, value := range map[string]string{
		"application_name": "claude-balancer", "statement_timeout": limit, "idle_in_transaction_session_timeout": pause,
	} {
		if _, set := config.RuntimeParams[name]; !set {
			config.RuntimeParams[name] = value
		}
	}
	return &postgresEngine{s: s, config: config, node: rand.Text(), limit: o.patience, told: make(chan struct{}, 1), stop: func() {}}, nil
}

func (e *postgresEngine) name() string {
	return (&url.URL{
		Scheme: "postgres",
		Host:   net.JoinHostPort(e.config.Host, strconv.Itoa(int(e.config.Port))),
		Path:   "/" + e.config.Database,
	}).String()
}

func (e *postgresEngine) now() string {
	return `CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)`
}

func (e *postgresEngine) lock() string { return ` FOR NO KEY UPDATE` }

func (e *postgresEngine) patience() time.Duration { return e.limit }

func (e *postgresEngine) open(ctx context.Context) error {
	connector := newPostgresConnector(e.config)
	e.s.writer, e.s.reader.DB = sql.OpenDB(connector), sql.OpenDB(connector)
	for db, most := range map[*sql.DB]int{e.s.writer: postgresWriters, e.s.reader.DB: postgresReaders} {
		db.SetMaxOpenConns(most)
		db.SetMaxIdleConns(most)
		db.SetConnMaxIdleTime(5 * time.Minute)
		db.SetConnMaxLifetime(30 * time.Minute) // a name may lead to another server by then
	}
	if err := e.s.writer.PingContext(ctx); err != nil {
		return e.explain(err)
	}
	listen, cancel := context.WithCancel(context.Background())
	e.stop = cancel
	e.listening.Go(func() { e.listen(listen) })
	return nil
}

func (e *postgresEngine) close() error {
	e.stop()
	e.listening.Wait()
	return nil
}

// Codes of PostgreSQL's errors (its manual's appendix A).
const (
	pgForeignKey       = "23503"
	pgUnique           = "23505"
	pgCheck            = "23514" // also: there is no partition for a row
	pgReadOnly         = "25006"
	pgSerialization    = "40001"
	pgDeadlock         = "40P01"
	pgNoDatabase       = "3D000"
	pgNoPrivilege      = "42501"
	pgPassword         = "28P01"
	pgAuthorization    = "28000"
	pgTooMany          = "53300"
	pgLockNotAvailable = "55P03"
	pgCanceled         = "57014" // statement_timeout, too
)

func postgresCode(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

func (e *postgresEngine) explain(err error) error {
	switch {
	case err == nil, errors.Is(err, ErrUnavailable):
		return err
	case postgresCode(err) == pgUnique:
		return fmt.Errorf("%w (%w)", errDuplicate, err)
	case isUnavailable(err):
		return fmt.Errorf("%w (%w)", ErrUnavailable, err)
	}
	return err
}

// isUnavailable tells a server that is away, busy or on its way from one that
// said no.
func isUnavailable(err error) bool {
	switch code := postgresCode(err); {
	case code == "":
	case code[:2] == "08", code[:2] == "57", code[:2] == "58", code[:2] == "53", code == pgReadOnly, code == pgLockNotAvailable:
		return true
	default:
		return false
	}
	var connect *pgconn.ConnectError
	var network net.Error
	return errors.As(err, &connect) || errors.As(err, &network) || pgconn.Timeout(err) || errors.Is(err, pgconn.ErrConnClosed) ||
		errors.Is(err, driver.ErrBadConn) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, net.ErrClosed) || errors.Is(err, context.DeadlineExceeded)
}

// again: other nodes write at the same time, and what they did may have been in
// the way.
func (e *postgresEngine) again(err error) bool {
	switch postgresCode(err) {
	case pgSerialization, pgDeadlock, pgForeignKey:
		return true
	}
	var none changedNothing
	return errors.As(err, &none) && !errors.Is(err, context.DeadlineExceeded) && isUnavailable(err)
}

func (e *postgresEngine) explainOpen(err error) error {
	advice := ""
	switch postgresCode(err) {
	case pgPassword, pgAuthorization:
		advice = "the server refuses this user; check the user and the password in the URL"
	case pgNoDatabase:
		advice = "there is no such database; make it with: createdb --owner <user> <database>"
	case pgNoPrivilege:
		advice = "this user may not make tables there; make it the owner of the database or the schema"
	}
	switch {
	case errors.Is(err, ErrKeyMissing), errors.Is(err, ErrKeyWrong):
		return fmt.Errorf("cannot open the store %s: %w; set encryption_key to the key that sealed it", e.name(), err)
	case advice != "":
		return fmt.Errorf("cannot open the store %s: %s (%w)", e.name(), advice, err)
	}
	return fmt.Errorf("cannot open the store %s: %w", e.name(), err)
}

// changesChannel is where Stores call the others.
const changesChannel = "claude_balancer"

// quietChanges come so often that others do not need to be called for them:
// they look often enough.
const quietChanges = ChangedUsage | ChangedWindows | ChangedSessions

// tell notes the changes in rows of this node alone, so that nodes do not wait
// for one another.
func (e *postgresEngine) tell(ctx context.Context, tx *sql.Tx, changes Changes) error {
	var kinds []int64
	for kind := Changes(1); kind <= AllChanges; kind <<= 1 {
		if changes&kind != 0 {
			kinds = append(kinds, int64(kind))
		}
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO changes (node, kind, version, at) SELECT ?, k, 1, `+e.now()+` FROM unnest(CAST(? AS bigint[])) k
		ON CONFLICT (node, kind) DO UPDATE SET version = changes.version + 1, at = excluded.at`, e.node, kinds); err != nil {
		return err
	}
	if changes&^quietChanges == 0 {
		return nil
	}
	_, err := tx.ExecContext(ctx, `SELECT pg_notify('`+changesChannel+`', ?)`, e.node)
	return err
}

func (e *postgresEngine) changed(ctx context.Context) (changes Changes, err error) {
	type line struct{ kind, version int64 }
	lines, err := collect(ctx, e.s.reader, func(r *sql.Rows, l *line) error { return r.Scan(&l.kind, &l.version) },
		`SELECT kind, SUM(version) FROM changes WHERE node <> ? GROUP BY kind`, e.node)
	if err != nil {
		return 0, err
	}
	e.seen.Lock() // of two calls at once, both may see the change
	defer e.seen.Unlock()
	versions := make(map[Changes]int64, len(lines))
	for _, l := range lines {
		kind := Changes(l.kind)
		if versions[kind] = l.version; e.seen.versions[kind] != l.version {
			changes |= kind & AllChanges
		}
	}
	e.seen.versions = versions
	return changes, nil
}

func (e *postgresEngine) notified() <-chan struct{} { return e.told }

// listen hears of others' changes as they come. What it misses while its
// connection is away, changed finds.
func (e *postgresEngine) listen(ctx context.Context) {
	for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
		if err := e.listenOnce(ctx, func() { wait = firstRetry }); ctx.Err() == nil {
			e.s.log.Debug("not listening for changes, trying again", zap.String("store", e.name()), zap.Error(err))
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

func (e *postgresEngine) listenOnce(ctx context.Context, connected func()) error {
	config := e.config.Copy()
	config.RuntimeParams["statement_timeout"] = "0"
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = conn.Close(closing)
	}()
	if _, err := conn.Exec(ctx, "LISTEN "+changesChannel); err != nil {
		return err
	}
	connected()
	for {
		e.call()
		for {
			n, err := conn.WaitForNotification(ctx)
			if err != nil {
				return err
			}
			if n.Payload != e.node {
				break
			}
		}
	}
}

func (e *postgresEngine) call() {
	select {
	case e.told <- struct{}{}:
	default:
	}
}

// rewrite leaves what others keep alone: the write-ahead log, its archive and
// replicas.
func (e *postgresEngine) rewrite(ctx context.Context) error {
	conn, err := e.s.writer.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := bounded(context.WithoutCancel(ctx), e)
	defer cancel()
	_, err = conn.ExecContext(ctx, "VACUUM (FULL) accounts")
	return err
}
