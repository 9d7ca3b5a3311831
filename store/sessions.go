package store

// Sessions and resources: which account a conversation or an object is bound
// to.

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// Sessions returns at most limit sessions that were used since the given time,
// the newest first, and the revision to read on from.
func (s *Store) Sessions(ctx context.Context, since time.Time, limit int) ([]Session, int64, error) {
	// First the revision: what is written in between is then read twice.
	var revision int64
	if err := s.reader.scan(ctx, []any{&revision}, `SELECT value FROM counters WHERE name = ?`, counterSessions); err != nil {
		return nil, 0, fmt.Errorf("read sessions: %w", err)
	}
	sessions, err := collect(ctx, s.reader, scanSession(nil),
		`SELECT session_key, account_id, last_used, revision FROM sessions WHERE last_used >= ? ORDER BY last_used DESC LIMIT ?`,
		since.UnixMilli(), limit)
	if err != nil {
		return nil, 0, fmt.Errorf("read sessions: %w", err)
	}
	return sessions, revision, nil
}

// counterSessions numbers the batches of sessions that are saved.
const counterSessions = "sessions"

// SessionsAfter returns sessions that were saved after the revision, in the
// order in which they were, and the revision to read on from. It ends behind
// limit sessions, or as many more as were saved at once.
func (s *Store) SessionsAfter(ctx context.Context, revision int64, limit int) ([]Session, int64, error) {
	sessions, err := collect(ctx, s.reader, scanSession(&revision),
		`SELECT session_key, account_id, last_used, revision FROM sessions WHERE revision > ? AND revision <= COALESCE(
			(SELECT revision FROM sessions WHERE revision > ? ORDER BY revision LIMIT 1 OFFSET ?), ?) ORDER BY revision`,
		revision, revision, limit-1, int64(math.MaxInt64))
	if err != nil {
		return nil, 0, fmt.Errorf("read sessions: %w", err)
	}
	return sessions, revision, nil
}

func scanSession(last *int64) func(*sql.Rows, *Session) error {
	var unused int64
	if last == nil {
		last = &unused
	}
	return func(r *sql.Rows, one *Session) error {
		return r.Scan(&one.Key, &one.AccountID, millis{&one.LastUsed}, last)
	}
}

// SaveSessions stores sessions over what was stored of them. Those of accounts
// that are gone are left out.
func (s *Store) SaveSessions(ctx context.Context, sessions []Session) error {
	if len(sessions) == 0 {
		return nil
	}
	sessions = slices.SortedFunc(slices.Values(sessions), func(a, b Session) int { // writers lock rows in one order
		return strings.Compare(a.Key, b.Key)
	})
	err := s.write(ctx, ChangedSessions, func(ctx context.Context, tx *sql.Tx) error {
		// The counter is locked until the end: of two processes that save sessions,
		// the one with the higher revision is the later one.
		var revision int64
		if err := tx.QueryRowContext(ctx, `UPDATE counters SET value = value + 1 WHERE name = ? RETURNING value`,
			counterSessions).Scan(&revision); err != nil {
			return err
		}
		for _, one := range sessions {
			if _, err := tx.ExecContext(ctx, `INSERT INTO sessions (session_key, account_id, last_used, revision)
				SELECT ?, id, ?, ? FROM accounts WHERE id = ?
				ON CONFLICT (session_key) DO UPDATE SET
				account_id = excluded.account_id, last_used = excluded.last_used, revision = excluded.revision`,
				one.Key, one.LastUsed.UnixMilli(), revision, one.AccountID); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("save sessions: %w", err)
	}
	return nil
}

// RemoveSessions removes sessions that were last used before the given time.
func (s *Store) RemoveSessions(ctx context.Context, before time.Time) error {
	if _, err := s.exec(ctx, 0, `DELETE FROM sessions WHERE last_used < ?`, before.UnixMilli()); err != nil {
		return fmt.Errorf("remove old sessions: %w", err)
	}
	return nil
}

const selectResources = `SELECT id, account_id, client, created_at FROM resources `

// Resource returns the owners of an object.
func (s *Store) Resource(ctx context.Context, id string) (Resource, error) {
	found, err := s.Resources(ctx, []string{id})
	if err != nil {
		return Resource{}, err
	}
	r, ok := found[id]
	if !ok {
		return Resource{}, fmt.Errorf("resource %q: %w", id, ErrNotFound)
	}
	return r, nil
}

// Resources returns those of the given objects whose owners are known, by id.
func (s *Store) Resources(ctx context.Context, ids []string) (map[string]Resource, error) {
	const most = 500 // of one statement's parameters
	found := make(map[string]Resource, len(ids))
	for len(ids) > 0 {
		n := min(len(ids), most)
		args := make([]any, n)
		for i, id := range ids[:n] {
			args[i] = id
		}
		some, err := collect(ctx, s.reader, scanResource,
			selectResources+`WHERE id IN (?`+strings.Repeat(", ?", n-1)+`)`, args...)
		if err != nil {
			return nil, fmt.Errorf("read resources: %w", err)
		}
		for _, r := range some {
			found[r.ID] = r
		}
		ids = ids[n:]
	}
	return found, nil
}

func scanResource(rows *sql.Rows, r *Resource) error {
	return rows.Scan(&r.ID, &r.AccountID, &r.ClientKey, millis{&r.CreatedAt})
}

// SaveResource stores the owners of an object. ErrNotFound means that the
// account is gone.
func (s *Store) SaveResource(ctx context.Context, r Resource) error {
	if r.CreatedAt.IsZero() {
		r.CreatedAt = s.now()
	}
	n, err := s.exec(ctx, 0, `INSERT INTO resources (id, account_id, client, created_at)
		SELECT ?, id, ?, ? FROM accounts WHERE id = ?
		ON CONFLICT (id) DO UPDATE SET account_id = excluded.account_id, client = excluded.client`,
		r.ID, r.ClientKey, r.CreatedAt.UnixMilli(), r.AccountID)
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("save resource %q: %w", r.ID, err)
	}
	return nil
}

// RemoveResource forgets an object; it is no error if nothing is known of it.
func (s *Store) RemoveResource(ctx context.Context, id string) error {
	if _, err := s.exec(ctx, 0, `DELETE FROM resources WHERE id = ?`, id); err != nil {
		return fmt.Errorf("remove resource %q: %w", id, err)
	}
	return nil
}
