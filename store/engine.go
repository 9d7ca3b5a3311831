package store

import (
	"context"
	"database/sql"
	"errors"
	"time"
)

// engine is what differs between databases. All statements that are not behind
// it are the same for every database.
type engine interface {
	// name says which database it is, without any secret.
	name() string
	// open sets up the Store's connections and makes sure that they work.
	open(ctx context.Context) error
	// migrate creates the schema or brings it up to date, and makes ready what
	// the other methods need of it.
	migrate(ctx context.Context) error
	// close ends what open began, besides the Store's connections.
	close() error

	// now is the database's clock in ms, as an expression: all processes that
	// share a database agree on it.
	now() string
	// lock is what makes a SELECT of rows that are about to be changed keep
	// other writers off them until the transaction ends.
	lock() string
	// patience bounds a read or a transaction; 0 = no bound.
	patience() time.Duration
	// again reports whether a transaction that failed so is to be repeated.
	again(err error) bool
	// explain adds to an error of the driver what callers go by.
	explain(err error) error
	// explainOpen says which database could not be opened and what to do.
	explainOpen(err error) error
	// tell is the end of a transaction that made changes.
	tell(ctx context.Context, tx *sql.Tx, changes Changes) error
	// changed returns what other Stores have changed since the last call.
	changed(ctx context.Context) (Changes, error)
	// notified receives when others have made changes that do not wait for the
	// next call of changed; nil = never.
	notified() <-chan struct{}

	// insertRequests stores rows of the history with their sums, in one
	// transaction; those that are there already are ignored, sums and all.
	insertRequests(ctx context.Context, rows []Row) error
	// pageQuery is the query for a page of the history.
	pageQuery(p requestPage) (query string, args []any)
	// makeRoom makes ready for rows of the history of the given times in ms.
	makeRoom(ctx context.Context, times []int64) error
	// recount makes right what the database keeps beside its rows, after they
	// were put there from elsewhere.
	recount(ctx context.Context, tx *sql.Tx) error
	// saveSummary adds a batch's sums to the stored ones.
	saveSummary(ctx context.Context, tx *sql.Tx, sums *summary) error
	// pruneRequests deletes rows of the history that are older than the given
	// time in ms, then the oldest above maxRows (0 = no bound).
	pruneRequests(ctx context.Context, before, maxRows int64) (deleted int64, err error)
	// clearRequests deletes all rows of the history, and all of the given tables.
	clearRequests(ctx context.Context, tables []string) (deleted int64, err error)
	// rewrite leaves nothing of what was overwritten or deleted in the table
	// of accounts.
	rewrite(ctx context.Context) error
}

// errDuplicate means that a unique value is there already.
var errDuplicate = errors.New("a unique value is there already")
