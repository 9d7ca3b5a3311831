package store

// Limits and usage windows of accounts.

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Limits returns the limits of all accounts.
func (s *Store) Limits(ctx context.Context) ([]Limit, error) {
	limits, err := collect(ctx, s.reader, func(r *sql.Rows, l *Limit) error {
		return r.Scan(&l.AccountID, &l.Scope, &l.Name, &l.Cause, &l.Header, millis{&l.Since}, millis{&l.Until})
	}, `SELECT account_id, scope, name, cause, header, since, until FROM limits ORDER BY account_id, scope, name`)
	if err != nil {
		return nil, fmt.Errorf("read limits: %w", err)
	}
	return limits, nil
}

// LimitChange is what became of the limit of one scope and name.
type LimitChange struct {
	Was *Limit // the stored one that the change was made from; nil = there was none
	Is  *Limit // nil = it has ended
}

// ChangeLimits applies changes of an account's limits. Where the stored limit is
// not the one that a change was made from, another process has changed it too:
// then a new limit goes over it if it ends later, and it does not end.
// ErrNotFound means that the account is gone.
func (s *Store) ChangeLimits(ctx context.Context, accountID string, changes []LimitChange) error {
	err := s.write(ctx, ChangedLimits, func(ctx context.Context, tx *sql.Tx) error {
		var there int
		if err := tx.QueryRowContext(ctx, `SELECT 1 FROM accounts WHERE id = ?`+s.engine.lock(), accountID).Scan(&there); err != nil {
			return notFound(err)
		}
		for _, c := range changes {
			if err := changeLimit(ctx, tx, accountID, c); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("change limits of account %s: %w", accountID, err)
	}
	return nil
}

func changeLimit(ctx context.Context, tx *sql.Tx, accountID string, c LimitChange) error {
	var was Limit
	if c.Was != nil {
		was = *c.Was
	}
	if c.Is == nil {
		_, err := tx.ExecContext(ctx, `DELETE FROM limits WHERE account_id = ? AND scope = ? AND name = ?
			AND cause = ? AND since = ? AND until = ?`, accountID, was.Scope, was.Name, was.Cause, was.Since.UnixMilli(), was.Until.UnixMilli())
		return err
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO limits (account_id, scope, name, cause, header, since, until) VALUES (?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (account_id, scope, name) DO UPDATE SET
		cause = excluded.cause, header = excluded.header, since = excluded.since, until = excluded.until
		WHERE limits.until < excluded.until OR limits.cause = ? AND limits.since = ? AND limits.until = ?`,
		accountID, c.Is.Scope, c.Is.Name, c.Is.Cause, c.Is.Header, c.Is.Since.UnixMilli(), c.Is.Until.UnixMilli(),
		was.Cause, was.Since.UnixMilli(), was.Until.UnixMilli())
	return err
}

// ClearLimits ends all limits of an account.
func (s *Store) ClearLimits(ctx context.Context, accountID string) error {
	if _, err := s.exec(ctx, ChangedLimits, `DELETE FROM limits WHERE account_id = ?`, accountID); err != nil {
		return fmt.Errorf("clear limits of account %s: %w", accountID, err)
	}
	return nil
}

// PruneLimits removes limits that ended before the given time.
func (s *Store) PruneLimits(ctx context.Context, before time.Time) error {
	if _, err := s.exec(ctx, 0, `DELETE FROM limits WHERE until < ?`, before.UnixMilli()); err != nil {
		return fmt.Errorf("remove old limits: %w", err)
	}
	return nil
}

// Windows returns the usage windows of all accounts.
func (s *Store) Windows(ctx context.Context) ([]Window, error) {
	windows, err := collect(ctx, s.reader, func(r *sql.Rows, w *Window) error {
		return r.Scan(&w.AccountID, &w.Name, &w.Utilization, &w.Status, millis{&w.ResetsAt}, millis{&w.SeenAt})
	}, `SELECT account_id, name, COALESCE(utilization, -1), status, resets_at, seen_at FROM windows ORDER BY account_id, name`)
	if err != nil {
		return nil, fmt.Errorf("read windows: %w", err)
	}
	return windows, nil
}

// SaveWindows stores windows over older ones of the same name, and for the
// chart the highest utilization of each hour. Windows of accounts that are gone
// are left out.
func (s *Store) SaveWindows(ctx context.Context, windows []Window) error {
	if len(windows) == 0 {
		return nil
	}
	windows = slices.SortedFunc(slices.Values(windows), func(a, b Window) int { // writers lock rows in one order
		return cmp.Or(strings.Compare(a.AccountID, b.AccountID), strings.Compare(a.Name, b.Name))
	})
	err := s.write(ctx, ChangedWindows, func(ctx context.Context, tx *sql.Tx) error {
		for _, w := range windows {
			if err := saveWindow(ctx, tx, w); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("save windows: %w", err)
	}
	return nil
}

func saveWindow(ctx context.Context, tx *sql.Tx, w Window) error {
	var utilization any
	if w.Utilization >= 0 {
		utilization = w.Utilization
	}
	seen := w.SeenAt.UnixMilli()
	n, err := execTx(ctx, tx, `INSERT INTO windows (account_id, name, utilization, status, resets_at, seen_at)
		SELECT id, ?, ?, ?, ?, ? FROM accounts WHERE id = ?
		ON CONFLICT (account_id, name) DO UPDATE SET utilization = excluded.utilization, status = excluded.status,
		resets_at = excluded.resets_at, seen_at = excluded.seen_at WHERE excluded.seen_at >= windows.seen_at`,
		w.Name, utilization, w.Status, toMillis(w.ResetsAt), seen, w.AccountID)
	if err != nil || n == 0 || utilization == nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO window_hours (hour, account_id, utilization) VALUES (?, ?, ?)
		ON CONFLICT (hour, account_id) DO UPDATE SET utilization = excluded.utilization
		WHERE excluded.utilization > window_hours.utilization`, hourOf(seen), w.AccountID, utilization)
	return err
}
