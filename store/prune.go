package store

// Keeping the history within its bounds.

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

// pruneBatch is how many rows a transaction deletes: others get their turn at
// the writer in between.
const pruneBatch = 1000

// Prune deletes what is older than the given time, rows and sums, then the
// oldest rows above maxRows (0 = no bound). It returns the number of rows
// deleted. It costs little when there is nothing to do.
func (s *Store) Prune(ctx context.Context, olderThan time.Time, maxRows int64) (deleted int64, err error) {
	deleted, err = s.engine.pruneRequests(ctx, olderThan.UnixMilli(), maxRows)
	if err == nil {
		err = s.pruneSums(ctx, olderThan)
	}
	if err != nil {
		return deleted, fmt.Errorf("prune the history: %w", err)
	}
	return deleted, nil
}

// prunedTables are the tables whose hours go with the history; see key_spend
// for the one that does not.
var prunedTables = []string{"usage_hours", "window_hours"}

func (s *Store) pruneSums(ctx context.Context, olderThan time.Time) error {
	history := hourOf(olderThan.UnixMilli())
	spend := hourOf(s.now().Add(-spendRetention).UnixMilli())
	due := false
	if err := s.reader.scan(ctx, []any{&due}, `SELECT EXISTS (SELECT 1 FROM usage_hours WHERE hour < ?)
		OR EXISTS (SELECT 1 FROM window_hours WHERE hour < ?) OR EXISTS (SELECT 1 FROM key_spend WHERE hour < ?)
		OR EXISTS (SELECT 1 FROM counted_batches WHERE at < ?)`, history, history, spend, spend); err != nil || !due {
		return err
	}
	return s.write(ctx, ChangedUsage, func(ctx context.Context, tx *sql.Tx) error {
		for _, table := range prunedTables {
			if _, err := tx.ExecContext(ctx, `DELETE FROM `+table+` WHERE hour < ?`, history); err != nil {
				return err
			}
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM key_spend WHERE hour < ?`, spend); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM counted_batches WHERE at < ?`, spend)
		return err
	})
}

// ClearRequests deletes the whole history, rows and sums, and returns the number
// of rows. The accounts' own counters and what keys spent stay.
func (s *Store) ClearRequests(ctx context.Context) (deleted int64, err error) {
	deleted, err = s.engine.clearRequests(ctx, prunedTables)
	if err != nil {
		return deleted, fmt.Errorf("clear the history: %w", err)
	}
	return deleted, nil
}
