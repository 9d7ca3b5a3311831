package store

// Keeping the history within its bounds.

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"time"
)

// pruneBatch is how many rows a transaction deletes: others get their turn at
// the writer in between.
const pruneBatch = 1000

// Prune deletes what is older than the given time, rows and sums, then the
// oldest rows above maxRows (0 = no bound). It returns the number of rows
// deleted. It costs little when there is nothing to do.
func (s *Store) Prune(ctx context.Context, olderThan time.Time, maxRows int64) (deleted int64, err error) {
	deleted, err = s.deleteRows(ctx, olderThan.UnixMilli(), math.MaxInt64)
	if err == nil && maxRows > 0 {
		var n, excess int64
		if excess, err = s.rowsAbove(ctx, maxRows); err == nil && excess > 0 {
			n, err = s.deleteRows(ctx, math.MaxInt64, excess)
			deleted += n
		}
	}
	if err == nil {
		err = s.pruneSums(ctx, olderThan)
	}
	if err == nil && deleted > 0 {
		err = s.shrink(ctx)
	}
	if err != nil {
		return deleted, fmt.Errorf("prune the history: %w", err)
	}
	return deleted, nil
}

func (s *Store) rowsAbove(ctx context.Context, maxRows int64) (excess int64, err error) {
	err = s.reader.QueryRowContext(ctx, `SELECT value - ? FROM counters WHERE name = ?`, maxRows, counterRequests).Scan(&excess)
	return excess, err
}

// deleteRows deletes the oldest rows, those before the given time in ms and no
// more than most, in small transactions.
func (s *Store) deleteRows(ctx context.Context, before, most int64) (deleted int64, err error) {
	for deleted < most {
		if there, err := s.anyBefore(ctx, before); err != nil || !there {
			return deleted, err
		}
		var n int64
		err := s.write(ctx, func(ctx context.Context, tx *sql.Tx) (err error) {
			n, err = execTx(ctx, tx, `DELETE FROM requests WHERE id IN
				(SELECT id FROM requests WHERE timestamp < ? ORDER BY timestamp LIMIT ?)`, before, min(pruneBatch, most-deleted))
			if err != nil {
				return err
			}
			_, err = tx.ExecContext(ctx, addToCounter, -n, counterRequests)
			return err
		})
		if err != nil || n == 0 {
			return deleted, err
		}
		deleted += n
	}
	return deleted, nil
}

// anyBefore saves the writer from transactions that would delete nothing.
func (s *Store) anyBefore(ctx context.Context, before int64) (there bool, err error) {
	err = s.reader.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM requests WHERE timestamp < ?)`, before).Scan(&there)
	return there, err
}

// prunedTables are the tables whose hours go with the history; see key_spend
// for the one that does not.
var prunedTables = []string{"usage_hours", "window_hours"}

func (s *Store) pruneSums(ctx context.Context, olderThan time.Time) error {
	history := hourOf(olderThan.UnixMilli())
	spend := hourOf(s.now().Add(-spendRetention).UnixMilli())
	due := false
	if err := s.reader.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM usage_hours WHERE hour < ?)
		OR EXISTS (SELECT 1 FROM window_hours WHERE hour < ?) OR EXISTS (SELECT 1 FROM key_spend WHERE hour < ?)
		OR EXISTS (SELECT 1 FROM counted_batches WHERE at < ?)`, history, history, spend, spend).Scan(&due); err != nil || !due {
		return err
	}
	return s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
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
	var last sql.NullInt64
	err = s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		for _, table := range prunedTables {
			if _, err := tx.ExecContext(ctx, `DELETE FROM `+table); err != nil {
				return err
			}
		}
		return tx.QueryRowContext(ctx, `SELECT MAX(timestamp) FROM requests`).Scan(&last)
	})
	if err == nil && last.Valid {
		deleted, err = s.deleteRows(ctx, last.Int64+1, math.MaxInt64)
	}
	if err == nil {
		err = s.shrink(ctx)
	}
	if err != nil {
		return deleted, fmt.Errorf("clear the history: %w", err)
	}
	return deleted, nil
}
