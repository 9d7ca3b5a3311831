package store

import (
	"context"
	"database/sql"
	"fmt"

	"go.uber.org/zap"

	"github.com/claude-balancer/claude-balancer/secret"
)

// counterRewrite is 1 from the moment that credentials were sealed until the
// file was rewritten, since a crash may come between the two.
const counterRewrite = "rewrite"

// sealedColumns are the columns of accounts that hold credentials.
var sealedColumns = []string{columnAccess, columnRefresh}

const (
	columnAccess  = "access_token"
	columnRefresh = "refresh_token"
)

// storedCredential is one column of one account, as it is stored.
type storedCredential struct{ account, column, text string }

// resealAll checks that every credential can be opened, and seals those that
// are plain or under an old key. No plain copy stays in the file.
func (s *Store) resealAll(ctx context.Context) error {
	stored, err := readCredentials(ctx, s.reader, "")
	if err != nil {
		return err
	}
	pending := false
	for _, c := range stored {
		if _, err := s.keys.open(c.account, c.column, c.text); err != nil {
			return explainSeal(c.account, err)
		}
		pending = pending || s.keys != nil && !s.keys.isCurrent(c.text)
	}
	if pending {
		if err := s.write(ctx, ChangedAccounts, s.reseal); err != nil {
			return fmt.Errorf("seal credentials: %w", err)
		}
	}
	return s.finishSealing(ctx)
}

func (s *Store) reseal(ctx context.Context, tx *sql.Tx) error {
	stored, err := readCredentials(ctx, tx, s.engine.lock())
	if err != nil {
		return err
	}
	for _, c := range stored {
		if s.keys.isCurrent(c.text) {
			continue
		}
		plain, err := s.keys.open(c.account, c.column, c.text)
		if err != nil {
			return explainSeal(c.account, err)
		}
		if _, err := tx.ExecContext(ctx, `UPDATE accounts SET `+c.column+` = ? WHERE id = ?`,
			s.keys.seal(c.account, c.column, plain), c.account); err != nil {
			return err
		}
	}
	_, err = tx.ExecContext(ctx, `UPDATE counters SET value = 1 WHERE name = ?`, counterRewrite)
	return err
}

// finishSealing rewrites the file if that is still to be done. A store that
// cannot do it now, for want of space or because another process reads, works
// all the same and tries again at the next start.
func (s *Store) finishSealing(ctx context.Context) error {
	var due int
	if err := s.reader.scan(ctx, []any{&due}, `SELECT value FROM counters WHERE name = ?`, counterRewrite); err != nil {
		return err
	}
	if due == 0 {
		return nil
	}
	if err := s.engine.rewrite(ctx); err != nil {
		s.log.Error("credentials are sealed, but unused parts of the store may still hold them in the clear; start again to clean it",
			zap.String("store", s.Name()), zap.Error(err))
		return nil
	}
	_, err := s.exec(ctx, 0, `UPDATE counters SET value = 0 WHERE name = ?`, counterRewrite)
	return err
}

func readCredentials(ctx context.Context, q querier, lock string) ([]storedCredential, error) {
	var all []storedCredential
	for _, column := range sealedColumns {
		some, err := collect(ctx, q, func(r *sql.Rows, c *storedCredential) error {
			c.column = column
			return r.Scan(&c.account, &c.text)
		}, `SELECT id, COALESCE(`+column+`, '') FROM accounts ORDER BY id`+lock)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}

func explainSeal(account string, err error) error {
	return fmt.Errorf("the credential of account %s is sealed: %w", account, err)
}

// openCredential opens the two sealed columns of an account.
func (s *Store) openCredential(account, access, refresh string, c *Credential) (err error) {
	for _, col := range []struct {
		name, text string
		into       *secret.String
	}{{columnAccess, access, &c.Access}, {columnRefresh, refresh, &c.Refresh}} {
		if *col.into, err = s.keys.open(account, col.name, col.text); err != nil {
			return explainSeal(account, err)
		}
	}
	return nil
}
