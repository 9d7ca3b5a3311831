package store

// Credentials, and the lease that lets one process at a time refresh them.

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

// Credential returns what a refresh needs.
func (s *Store) Credential(ctx context.Context, id string) (Credential, error) {
	var c Credential
	var access, refresh string
	err := s.reader.scan(ctx, []any{&c.Kind, &access, &refresh, millis{&c.ExpiresAt}, millis{&c.IssuedAt}, &c.Generation},
		`SELECT kind, COALESCE(access_token, ''), refresh_token, expires_at, issued_at, generation FROM accounts WHERE id = ?`, id)
	if err != nil {
		return Credential{}, fmt.Errorf("read credential of account %s: %w", id, notFound(err))
	}
	if err := s.openCredential(id, access, refresh, &c); err != nil {
		return Credential{}, err
	}
	return c, nil
}

// SaveCredential stores a new credential if the stored one is still of the
// given generation, and ends needs_login and disabled. ErrStale means that it
// is not, or that the account is gone: the stored state wins. When it returns
// without error the credential is on disk.
func (s *Store) SaveCredential(ctx context.Context, id string, generation int64, c Credential) (newGeneration int64, err error) {
	n, err := s.exec(ctx, ChangedAccounts, `UPDATE accounts SET kind = ?, access_token = ?, refresh_token = ?, expires_at = ?, issued_at = ?,
		generation = generation + 1, state = '', state_reason = '', state_since = NULL WHERE id = ? AND generation = ?`,
		string(c.Kind), s.keys.seal(id, columnAccess, c.Access), s.keys.seal(id, columnRefresh, c.Refresh),
		toMillis(c.ExpiresAt), toMillis(c.IssuedAt), id, generation)
	if err == nil && n == 0 {
		err = ErrStale
	}
	if err != nil {
		return 0, fmt.Errorf("save credential of account %s: %w", id, err)
	}
	return generation + 1, nil
}

// AcquireLease makes owner the one who may refresh the account, for ttl at
// most; the database's clock decides. It reports false while somebody else is.
// The owner may acquire again, which prolongs the lease.
func (s *Store) AcquireLease(ctx context.Context, id, owner string, ttl time.Duration) (bool, error) {
	acquired := false
	err := s.write(ctx, 0, func(ctx context.Context, tx *sql.Tx) error {
		n, err := execTx(ctx, tx, `UPDATE accounts SET lease_owner = ?, lease_until = `+s.engine.now()+` + ?
			WHERE id = ? AND (lease_owner IS NULL OR lease_owner = ? OR lease_until <= `+s.engine.now()+`)`,
			owner, ttl.Milliseconds(), id, owner)
		if err != nil || n > 0 {
			acquired = n > 0
			return err
		}
		var there int
		return notFound(tx.QueryRowContext(ctx, `SELECT 1 FROM accounts WHERE id = ?`, id).Scan(&there))
	})
	if err != nil {
		return false, fmt.Errorf("acquire lease of account %s: %w", id, err)
	}
	return acquired, nil
}

// ReleaseLease ends the owner's lease; another's stays.
func (s *Store) ReleaseLease(ctx context.Context, id, owner string) error {
	_, err := s.exec(ctx, 0, `UPDATE accounts SET lease_owner = NULL, lease_until = NULL WHERE id = ? AND lease_owner = ?`, id, owner)
	if err != nil {
		return fmt.Errorf("release lease of account %s: %w", id, err)
	}
	return nil
}
