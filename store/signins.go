package store

// Claude Code's sign-ins: codes that wait, and the tokens of signed-in clients.

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

const (
	tokenAccess  = "access"
	tokenRefresh = "refresh"

	// What one client key and one sign-in may have. More than that makes the
	// oldest end: nobody has so many machines, nor refreshes so often.
	maxSignIns       = 100
	maxAccessTokens  = 16
	maxRefreshTokens = 200 // spent ones, too
)

// AddDevice stores a sign-in that begins. ErrFull means that most wait already,
// ErrExists that its user code is in use.
func (s *Store) AddDevice(ctx context.Context, d Device, most int) error {
	err := s.write(ctx, 0, func(ctx context.Context, tx *sql.Tx) error {
		var waiting int
		if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM device_codes WHERE expires_at > ?`,
			s.now().UnixMilli()).Scan(&waiting); err != nil {
			return err
		}
		if waiting >= most {
			return ErrFull
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO device_codes (hash, user_code, state, expires_at) VALUES (?, ?, ?, ?)`,
			d.Hash[:], d.UserCode, DevicePending, d.ExpiresAt.UnixMilli())
		return err
	})
	if errors.Is(err, errDuplicate) {
		err = ErrExists
	}
	if err != nil {
		return fmt.Errorf("store a sign-in: %w", err)
	}
	return nil
}

// Device returns the sign-in of a device code, ended or not. ErrNotFound means
// that there is none any more.
func (s *Store) Device(ctx context.Context, hash [32]byte) (Device, error) {
	d := Device{Hash: hash}
	err := s.reader.scan(ctx, []any{&d.UserCode, &d.State, millis{&d.ExpiresAt}},
		`SELECT user_code, state, expires_at FROM device_codes WHERE hash = ?`, hash[:])
	if err != nil {
		return Device{}, fmt.Errorf("read a sign-in: %w", orNotFound(err))
	}
	return d, nil
}

func orNotFound(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return ErrNotFound
	}
	return err
}

// DecideDevice stores a person's decision on the sign-in of a user code: the
// key that it is approved for, or "" to deny it. Only the first decision
// counts. ErrNotFound means that nothing waits under this code.
func (s *Store) DecideDevice(ctx context.Context, userCode, keyID string) error {
	state, key := DeviceDenied, any(nil)
	if keyID != "" {
		state, key = DeviceApproved, keyID
	}
	n, err := s.exec(ctx, 0, `UPDATE device_codes SET state = ?, key_id = ? WHERE user_code = ? AND state = ? AND expires_at > ?`,
		state, key, userCode, DevicePending, s.now().UnixMilli())
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("decide on a sign-in: %w", err)
	}
	return nil
}

// Redeem turns an approved sign-in into a signed-in client with its first
// tokens, once. The key's oldest sign-ins end if it has too many. ErrNotFound
// means that there is nothing to redeem.
func (s *Store) Redeem(ctx context.Context, device [32]byte, in SignIn, first Issue) (SignIn, error) {
	err := s.write(ctx, ChangedKeys, func(ctx context.Context, tx *sql.Tx) error {
		now := s.now().UnixMilli()
		err := tx.QueryRowContext(ctx, `SELECT k.id, k.name FROM device_codes d JOIN client_keys k ON k.id = d.key_id
			WHERE d.hash = ? AND d.state = ? AND d.expires_at > ? AND (k.expires_at IS NULL OR k.expires_at > ?)`,
			device[:], DeviceApproved, now, now).Scan(&in.KeyID, &in.KeyName)
		if err != nil {
			return orNotFound(err)
		}
		n, err := execTx(ctx, tx, `DELETE FROM device_codes WHERE hash = ?`, device[:])
		if err == nil && n == 0 { // another process was faster
			err = ErrNotFound
		}
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO sign_ins (id, key_id, created_at, expires_at) VALUES (?, ?, ?, ?)`,
			in.ID, in.KeyID, now, in.ExpiresAt.UnixMilli()); err != nil {
			return err
		}
		if err := s.issue(ctx, tx, in, first); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM sign_ins WHERE id IN (SELECT id FROM sign_ins
			WHERE key_id = ? AND id <> ? ORDER BY created_at DESC, id LIMIT ? OFFSET ?)`, in.KeyID, in.ID, pruneBatch, maxSignIns-1)
		return err
	})
	if err != nil {
		return SignIn{}, fmt.Errorf("redeem a device code: %w", err)
	}
	return in, nil
}

// issue stores a pair of tokens and lets go of the oldest ones.
func (s *Store) issue(ctx context.Context, tx *sql.Tx, in SignIn, pair Issue) error {
	now := s.now().UnixMilli()
	for _, t := range []struct {
		kind    string
		hash    [32]byte
		expires time.Time
		most    int
	}{
		{tokenAccess, pair.Access, pair.AccessExpires, maxAccessTokens},
		{tokenRefresh, pair.Refresh, in.ExpiresAt, maxRefreshTokens},
	} {
		if t.expires.After(in.ExpiresAt) {
			t.expires = in.ExpiresAt
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO sign_in_tokens (hash, sign_in_id, kind, issued_at, expires_at)
			VALUES (?, ?, ?, ?, ?)`, t.hash[:], in.ID, t.kind, now, t.expires.UnixMilli()); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM sign_in_tokens WHERE hash IN (SELECT hash FROM sign_in_tokens
			WHERE sign_in_id = ? AND kind = ? AND hash <> ? ORDER BY issued_at DESC, hash LIMIT ? OFFSET ?)`,
			in.ID, t.kind, t.hash[:], pruneBatch, t.most-1); err != nil {
			return err
		}
	}
	return nil
}

// Refresh gives the sign-in of a refresh token its next pair, and spends the
// token. A token that was spent no longer than grace ago still gets another
// pair, for a client that never saw the answer to its first try; after that
// the sign-in ends, since one of two holders has stolen it: ErrReused.
// ErrNotFound means that the token counts no more.
func (s *Store) Refresh(ctx context.Context, token [32]byte, next Issue, grace time.Duration) (in SignIn, err error) {
	reused := false
	err = s.write(ctx, ChangedKeys, func(ctx context.Context, tx *sql.Tx) error {
		now := s.now()
		var spent time.Time
		err := tx.QueryRowContext(ctx, `SELECT i.id, i.key_id, k.name, i.expires_at, t.spent_at FROM sign_in_tokens t
			JOIN sign_ins i ON i.id = t.sign_in_id JOIN client_keys k ON k.id = i.key_id
			WHERE t.hash = ? AND t.kind = ? AND i.expires_at > ? AND (k.expires_at IS NULL OR k.expires_at > ?)`,
			token[:], tokenRefresh, now.UnixMilli(), now.UnixMilli()).
			Scan(&in.ID, &in.KeyID, &in.KeyName, millis{&in.ExpiresAt}, millis{&spent})
		if err != nil {
			return orNotFound(err)
		}
		if reused = !spent.IsZero() && now.Sub(spent) > grace; reused {
			_, err := tx.ExecContext(ctx, `DELETE FROM sign_ins WHERE id = ?`, in.ID)
			return err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE sign_in_tokens SET spent_at = ? WHERE hash = ? AND spent_at IS NULL`,
			now.UnixMilli(), token[:]); err != nil {
			return err
		}
		return s.issue(ctx, tx, in, next)
	})
	if err == nil && reused {
		err = ErrReused
	}
	if err != nil {
		return in, fmt.Errorf("refresh a sign-in: %w", err)
	}
	return in, nil
}

// EndSignIn ends the sign-in that a token of either kind belongs to, with all
// its tokens. ErrNotFound means that there is none.
func (s *Store) EndSignIn(ctx context.Context, token [32]byte) (in SignIn, err error) {
	err = s.write(ctx, ChangedKeys, func(ctx context.Context, tx *sql.Tx) error {
		err := tx.QueryRowContext(ctx, `SELECT i.id, i.key_id, k.name, i.expires_at FROM sign_in_tokens t
			JOIN sign_ins i ON i.id = t.sign_in_id JOIN client_keys k ON k.id = i.key_id WHERE t.hash = ?`, token[:]).
			Scan(&in.ID, &in.KeyID, &in.KeyName, millis{&in.ExpiresAt})
		if err != nil {
			return orNotFound(err)
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM sign_ins WHERE id = ?`, in.ID)
		return err
	})
	if err != nil {
		return in, fmt.Errorf("end a sign-in: %w", err)
	}
	return in, nil
}

// limitSignIns lets no sign-in of a key outlive the given time.
func limitSignIns(ctx context.Context, tx *sql.Tx, keyID string, end time.Time) error {
	for _, query := range []string{
		`UPDATE sign_in_tokens SET expires_at = ? WHERE expires_at > ? AND sign_in_id IN (SELECT id FROM sign_ins WHERE key_id = ?)`,
		`UPDATE sign_ins SET expires_at = ? WHERE expires_at > ? AND key_id = ?`,
	} {
		if _, err := tx.ExecContext(ctx, query, end.UnixMilli(), end.UnixMilli(), keyID); err != nil {
			return err
		}
	}
	return nil
}

// Tokens returns the access tokens that count.
func (s *Store) Tokens(ctx context.Context) ([]Token, error) {
	tokens, err := s.tokens(ctx, `t.kind = ? AND t.expires_at > ?`, tokenAccess, s.now().UnixMilli())
	if err != nil {
		return nil, fmt.Errorf("read the tokens of sign-ins: %w", err)
	}
	return tokens, nil
}

// HasToken reports whether an access token counts.
func (s *Store) HasToken(ctx context.Context, hash [32]byte) (bool, error) {
	tokens, err := s.tokens(ctx, `t.hash = ? AND t.kind = ? AND t.expires_at > ?`, hash[:], tokenAccess, s.now().UnixMilli())
	if err != nil {
		return false, fmt.Errorf("look for the token of a sign-in: %w", err)
	}
	return len(tokens) > 0, nil
}

func (s *Store) tokens(ctx context.Context, where string, args ...any) ([]Token, error) {
	return collect(ctx, s.reader, func(r *sql.Rows, t *Token) error {
		var hash []byte
		if err := r.Scan(&hash, &t.KeyID, millis{&t.ExpiresAt}); err != nil {
			return err
		}
		if copy(t.Hash[:], hash) != len(t.Hash) {
			return errors.New("the hash of a token is damaged")
		}
		return nil
	}, `SELECT t.hash, i.key_id, t.expires_at FROM sign_in_tokens t JOIN sign_ins i ON i.id = t.sign_in_id WHERE `+where, args...)
}

// SignIns counts the signed-in clients of each key, by its id.
func (s *Store) SignIns(ctx context.Context) (map[string]int, error) {
	type count struct {
		key string
		n   int
	}
	all, err := collect(ctx, s.reader, func(r *sql.Rows, c *count) error { return r.Scan(&c.key, &c.n) },
		`SELECT key_id, COUNT(*) FROM sign_ins WHERE expires_at > ? GROUP BY key_id`, s.now().UnixMilli())
	if err != nil {
		return nil, fmt.Errorf("count sign-ins: %w", err)
	}
	counts := make(map[string]int, len(all))
	for _, c := range all {
		counts[c.key] = c.n
	}
	return counts, nil
}

// codesKept is how long an expired code is kept: a client that is late is told
// that, and not that there never was such a code.
const codesKept = 10 * time.Minute

// PruneSignIns removes what has expired. It costs little when there is nothing
// to do.
func (s *Store) PruneSignIns(ctx context.Context) error {
	now := s.now()
	for _, table := range []struct {
		name   string
		before int64
	}{
		{"device_codes", now.Add(-codesKept).UnixMilli()}, {"sign_ins", now.UnixMilli()}, {"sign_in_tokens", now.UnixMilli()},
	} {
		var due bool
		err := s.reader.scan(ctx, []any{&due}, `SELECT EXISTS (SELECT 1 FROM `+table.name+` WHERE expires_at <= ?)`, table.before)
		if err == nil && due {
			_, err = s.exec(ctx, ChangedKeys, `DELETE FROM `+table.name+` WHERE expires_at <= ?`, table.before)
		}
		if err != nil {
			return fmt.Errorf("prune sign-ins: %w", err)
		}
	}
	return nil
}
