package store

// Changes that other Stores of the same database made.

import (
	"context"
	"fmt"
)

// Changes are kinds of records.
type Changes uint

// Kinds of records that Stores tell one another about.
const (
	ChangedAccounts Changes = 1 << iota // settings, states and credentials
	ChangedKeys                         // client keys
	ChangedLimits                       // limits of accounts
	ChangedWindows                      // usage windows
	ChangedSessions                     // sessions' places
	ChangedUsage                        // the history, counters, spending of keys

	AllChanges = ChangedUsage<<1 - 1
)

// Changed returns what another process, or another Store, has changed since the
// last call. A database that cannot tell changes apart returns all of them.
func (s *Store) Changed(ctx context.Context) (Changes, error) {
	changes, err := s.engine.changed(ctx)
	if err != nil {
		return 0, fmt.Errorf("look for changes in the store: %w", s.engine.explain(err))
	}
	return changes, nil
}

// Notified receives when another Store has made changes that should be taken
// over at once: call Changed, and in any case twice a second, since a
// notification can be lost. It is nil if the database has no notifications.
func (s *Store) Notified() <-chan struct{} { return s.engine.notified() }
