package store

// Accounts: their settings and states. Credentials are in credentials.go.

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/claude-balancer/claude-balancer/api"
)

const selectAccounts = `SELECT id, name, COALESCE(plan_type, ''), COALESCE(supported_models, ''),
	priority, weight, max_in_flight, paused, created_at, last_used, COALESCE(request_count, 0),
	state, state_reason, state_since, tier,
	kind, COALESCE(access_token, ''), refresh_token, expires_at, issued_at, generation,
	input_tokens, output_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, cost_usd
	FROM accounts ORDER BY created_at, id`

// Accounts returns all accounts, the oldest first, with their credentials.
func (s *Store) Accounts(ctx context.Context) ([]Account, error) {
	accounts, err := collect(ctx, s.reader, s.scanAccount, selectAccounts)
	if err != nil {
		return nil, fmt.Errorf("read accounts: %w", err)
	}
	return accounts, nil
}

func (s *Store) scanAccount(r *sql.Rows, a *Account) error {
	var models, access, refresh string
	if err := r.Scan(&a.ID, &a.Name, &a.Plan, &models,
		&a.Priority, &a.Weight, &a.MaxInFlight, &a.Paused, millis{&a.CreatedAt}, millis{&a.LastUsed}, &a.RequestCount,
		&a.State, &a.StateReason, millis{&a.StateSince}, &a.Tier,
		&a.Credential.Kind, &access, &refresh, millis{&a.Credential.ExpiresAt}, millis{&a.Credential.IssuedAt},
		&a.Credential.Generation,
		&a.Tokens.Input, &a.Tokens.Output, &a.Tokens.CacheRead, &a.Tokens.CacheWrite5m, &a.Tokens.CacheWrite1h,
		&a.CostUSD); err != nil {
		return err
	}
	a.Models = splitModels(models)
	return s.openCredential(a.ID, access, refresh, &a.Credential)
}

// AddAccount stores a new account; its generation is 1 and its counters are 0.
// ErrExists means that its name or its id is used.
func (s *Store) AddAccount(ctx context.Context, a Account) error {
	if a.CreatedAt.IsZero() {
		a.CreatedAt = s.now()
	}
	c := a.Credential
	err := s.write(ctx, ChangedAccounts, func(ctx context.Context, tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO accounts (id, name, plan_type, supported_models,
			priority, weight, max_in_flight, paused, created_at, request_count, tier, state, state_reason, state_since,
			kind, access_token, refresh_token, expires_at, issued_at, generation)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1)`,
			a.ID, a.Name, a.Plan, joinModels(a.Models),
			a.Priority, a.Weight, a.MaxInFlight, boolInt(a.Paused), a.CreatedAt.UnixMilli(), a.Tier,
			string(a.State), a.StateReason, toMillis(a.StateSince),
			string(c.Kind), s.keys.seal(a.ID, columnAccess, c.Access), s.keys.seal(a.ID, columnRefresh, c.Refresh),
			toMillis(c.ExpiresAt), toMillis(c.IssuedAt)); err != nil {
			return err
		}
		return nameInHistory(ctx, tx, a.ID, a.Name)
	})
	return explainName("add account", a.Name, err)
}

// UpdateAccount stores an account's settings: name, plan, models, priority,
// weight, max_in_flight, paused and tier. Renaming it renames it in the history
// and in what client keys may use, too.
func (s *Store) UpdateAccount(ctx context.Context, a Account) error {
	err := s.write(ctx, ChangedAccounts|ChangedKeys, func(ctx context.Context, tx *sql.Tx) error {
		var old string
		if err := tx.QueryRowContext(ctx, `SELECT name FROM accounts WHERE id = ?`+s.engine.lock(), a.ID).Scan(&old); err != nil {
			return notFound(err)
		}
		if _, err := tx.ExecContext(ctx, `UPDATE accounts SET name = ?, plan_type = ?, supported_models = ?,
			priority = ?, weight = ?, max_in_flight = ?, paused = ?, tier = ? WHERE id = ?`,
			a.Name, a.Plan, joinModels(a.Models), a.Priority, a.Weight, a.MaxInFlight, boolInt(a.Paused), a.Tier,
			a.ID); err != nil || a.Name == old {
			return err
		}
		if err := nameInHistory(ctx, tx, a.ID, a.Name); err != nil {
			return err
		}
		return renameInKeys(ctx, tx, old, a.Name)
	})
	return explainName("change account", a.Name, err)
}

// RemoveAccount removes an account with its limits, windows, sessions and
// resources; its history stays.
func (s *Store) RemoveAccount(ctx context.Context, id string) error {
	n, err := s.exec(ctx, ChangedAccounts, `DELETE FROM accounts WHERE id = ?`, id)
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("remove account %s: %w", id, err)
	}
	return nil
}

// SetState stores needs_login, disabled or "" with its reason. ErrStale means
// that the credential is no longer the one of the given generation; a negative
// generation means any.
func (s *Store) SetState(ctx context.Context, id string, generation int64, state api.Status, reason string) error {
	err := s.write(ctx, ChangedAccounts, func(ctx context.Context, tx *sql.Tx) error {
		var now int64
		if err := tx.QueryRowContext(ctx, `SELECT generation FROM accounts WHERE id = ?`+s.engine.lock(), id).Scan(&now); err != nil {
			return notFound(err)
		}
		if generation >= 0 && generation != now {
			return ErrStale
		}
		var since any
		if state != "" {
			since = s.now().UnixMilli()
		}
		_, err := tx.ExecContext(ctx, `UPDATE accounts SET
			state_since = CASE WHEN state = ? THEN state_since ELSE ? END, state = ?, state_reason = ? WHERE id = ?`,
			string(state), since, string(state), reason, id)
		return err
	})
	if err != nil {
		return fmt.Errorf("set state of account %s: %w", id, err)
	}
	return nil
}

// ResetStats zeroes the request count and the last use of every account.
func (s *Store) ResetStats(ctx context.Context) error {
	if _, err := s.exec(ctx, ChangedUsage, `UPDATE accounts SET request_count = 0, last_used = NULL`); err != nil {
		return fmt.Errorf("reset statistics: %w", err)
	}
	return nil
}

// explainName adds what was tried, and tells a used name from other errors.
func explainName(what, name string, err error) error {
	if errors.Is(err, errDuplicate) {
		err = ErrExists
	}
	if err != nil {
		return fmt.Errorf("%s %q: %w", what, name, err)
	}
	return nil
}

func notFound(err error) error {
	if err == sql.ErrNoRows {
		return ErrNotFound
	}
	return err
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

func joinModels(models []string) any {
	if len(models) == 0 {
		return nil
	}
	return strings.Join(models, ",")
}

func splitModels(list string) []string {
	var models []string
	for m := range strings.SplitSeq(list, ",") {
		if m = strings.TrimSpace(m); m != "" {
			models = append(models, m)
		}
	}
	return models
}
