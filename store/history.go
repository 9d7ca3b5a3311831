package store

// Writing the history: rows, their sums and the accounts' counters, together.

import (
	"context"
	"database/sql"
	"fmt"
)

// InsertRows stores finished requests with their sums and the counters of the
// accounts that answered them, in one transaction. A row whose id is there
// already is ignored, sums and all, so a batch of unknown fate can be repeated.
func (s *Store) InsertRows(ctx context.Context, rows []Row) error {
	if len(rows) == 0 {
		return nil
	}
	if err := s.engine.insertRequests(ctx, rows); err != nil {
		return fmt.Errorf("write %d rows to the history: %w", len(rows), err)
	}
	return nil
}

// countRows stores the sums and counters of finished requests without the rows.
// The batch number, which rises with every batch of a recorder, takes the place
// of the rows' ids: a batch that is there already is ignored.
func (s *Store) countRows(ctx context.Context, recorder string, batch int64, rows []Row) error {
	err := s.write(ctx, ChangedUsage, func(ctx context.Context, tx *sql.Tx) error {
		isNew, err := execTx(ctx, tx, `INSERT INTO counted_batches (recorder, batch, at) VALUES (?, ?, ?)
			ON CONFLICT (recorder) DO UPDATE SET batch = excluded.batch, at = excluded.at
			WHERE excluded.batch > counted_batches.batch`, recorder, batch, s.now().UnixMilli())
		if err != nil || isNew == 0 {
			return err
		}
		sums := newSummary(&s.models)
		for i := range rows {
			sums.add(&rows[i])
		}
		return s.engine.saveSummary(ctx, tx, sums)
	})
	if err != nil {
		return fmt.Errorf("count %d requests: %w", len(rows), err)
	}
	return nil
}

// nameInHistory gives an account's whole history its name.
func nameInHistory(ctx context.Context, tx *sql.Tx, id, name string) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO history_accounts (id, name) VALUES (?, ?)
		ON CONFLICT (id) DO UPDATE SET name = excluded.name`, id, name)
	return err
}
