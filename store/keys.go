package store

// Client keys and what they spent.

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"
)

// spendRetention is how long spending is kept: longer than the longest budget
// period.
const spendRetention = 32 * 24 * time.Hour

// Keys returns all client keys, the oldest first.
func (s *Store) Keys(ctx context.Context) ([]Key, error) {
	keys, err := collect(ctx, s.reader, scanKey, `SELECT id, name, role, models, accounts, created_at, expires_at, last_used,
		rpm, max_in_flight, budget_usd, budget_period, hash, previous_hash, previous_until
		FROM client_keys ORDER BY created_at, name`)
	if err != nil {
		return nil, fmt.Errorf("read client keys: %w", err)
	}
	return keys, nil
}

func scanKey(r *sql.Rows, k *Key) error {
	var hash, previous []byte
	if err := r.Scan(&k.ID, &k.Name, &k.Role, jsonList{&k.Models}, jsonList{&k.Accounts},
		millis{&k.CreatedAt}, millis{&k.ExpiresAt}, millis{&k.LastUsed},
		&k.RPM, &k.MaxInFlight, &k.BudgetUSD, &k.BudgetPeriod, &hash, &previous, millis{&k.PreviousUntil}); err != nil {
		return err
	}
	if copy(k.Hash[:], hash) != len(k.Hash) || copy(k.PreviousHash[:], previous) != len(k.PreviousHash) {
		return fmt.Errorf("client key %q: its hash is damaged", k.Name)
	}
	return nil
}

// AddKey stores a new client key. ErrExists means that its name or its id is
// used.
func (s *Store) AddKey(ctx context.Context, k Key) error {
	if k.CreatedAt.IsZero() {
		k.CreatedAt = s.now()
	}
	_, err := s.exec(ctx, ChangedKeys, `INSERT INTO client_keys (name, role, models, accounts, expires_at, rpm, max_in_flight,
		budget_usd, budget_period, hash, previous_hash, previous_until, id, created_at)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`, append(keySettings(k), k.ID, k.CreatedAt.UnixMilli())...)
	return explainName("add client key", k.Name, err)
}

// UpdateKey stores all of a client key but its id, its age and its last use.
func (s *Store) UpdateKey(ctx context.Context, k Key) error {
	err := s.write(ctx, ChangedKeys, func(ctx context.Context, tx *sql.Tx) error { return updateKey(ctx, tx, k) })
	return explainName("change client key", k.Name, err)
}

// RotateKey is UpdateKey for a key with a new credential. Clients that signed
// in with the former one stay signed in as long as that is good.
func (s *Store) RotateKey(ctx context.Context, k Key) error {
	err := s.write(ctx, ChangedKeys, func(ctx context.Context, tx *sql.Tx) error {
		if err := updateKey(ctx, tx, k); err != nil {
			return err
		}
		return limitSignIns(ctx, tx, k.ID, k.PreviousUntil)
	})
	return explainName("rotate client key", k.Name, err)
}

func updateKey(ctx context.Context, tx *sql.Tx, k Key) error {
	n, err := execTx(ctx, tx, `UPDATE client_keys SET name = ?, role = ?, models = ?, accounts = ?, expires_at = ?, rpm = ?,
		max_in_flight = ?, budget_usd = ?, budget_period = ?, hash = ?, previous_hash = ?, previous_until = ?
		WHERE id = ?`, append(keySettings(k), k.ID)...)
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	return err
}

func keySettings(k Key) []any {
	return []any{k.Name, k.Role, jsonList{&k.Models}.text(), jsonList{&k.Accounts}.text(), toMillis(k.ExpiresAt), k.RPM,
		k.MaxInFlight, k.BudgetUSD, k.BudgetPeriod, k.Hash[:], k.PreviousHash[:], toMillis(k.PreviousUntil)}
}

// RemoveKey removes a client key and its spending: another key of the same
// name starts with a full budget.
func (s *Store) RemoveKey(ctx context.Context, id string) error {
	err := s.write(ctx, ChangedKeys, func(ctx context.Context, tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM key_spend WHERE name = (SELECT name FROM client_keys WHERE id = ?)`,
			id); err != nil {
			return err
		}
		n, err := execTx(ctx, tx, `DELETE FROM client_keys WHERE id = ?`, id)
		if err == nil && n == 0 {
			err = ErrNotFound
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("remove client key %s: %w", id, err)
	}
	return nil
}

// TouchKeys stores when keys were used last, by id.
func (s *Store) TouchKeys(ctx context.Context, used map[string]time.Time) error {
	if len(used) == 0 {
		return nil
	}
	err := s.write(ctx, 0, func(ctx context.Context, tx *sql.Tx) error {
		for _, id := range slices.Sorted(maps.Keys(used)) { // writers lock rows in one order
			at := used[id]
			if _, err := tx.ExecContext(ctx, `UPDATE client_keys SET last_used = ? WHERE id = ? AND COALESCE(last_used, 0) < ?`,
				at.UnixMilli(), id, at.UnixMilli()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("store the last use of client keys: %w", err)
	}
	return nil
}

// KeySpend returns what each client key spent, in US dollars by its name, since
// the given time (rounded down to the hour), at most a month ago. Clearing or
// pruning the history does not change it.
func (s *Store) KeySpend(ctx context.Context, since time.Time) (map[string]float64, error) {
	return s.KeySpendBetween(ctx, since, time.UnixMilli(math.MaxInt64))
}

// KeySpendBetween is KeySpend up to the hour of a time, that one left out.
func (s *Store) KeySpendBetween(ctx context.Context, since, until time.Time) (map[string]float64, error) {
	type spend struct {
		name string
		cost float64
	}
	all, err := collect(ctx, s.reader, func(r *sql.Rows, one *spend) error { return r.Scan(&one.name, &one.cost) },
		`SELECT name, SUM(cost_usd) FROM key_spend WHERE hour >= ? AND hour < ? GROUP BY name`,
		hourOf(since.UnixMilli()), hourOf(until.UnixMilli()))
	if err != nil {
		return nil, fmt.Errorf("read spending of client keys: %w", err)
	}
	spent := make(map[string]float64, len(all))
	for _, one := range all {
		spent[one.name] = one.cost
	}
	return spent, nil
}

// renameInKeys keeps keys that are bound to an account bound to it: its old
// name may be another's tomorrow.
func renameInKeys(ctx context.Context, tx *sql.Tx, from, to string) error {
	type bound struct {
		id       string
		accounts []string
	}
	keys, err := collect(ctx, tx, func(r *sql.Rows, b *bound) error { return r.Scan(&b.id, jsonList{&b.accounts}) },
		`SELECT id, accounts FROM client_keys WHERE accounts IS NOT NULL`)
	if err != nil {
		return err
	}
	for _, k := range keys {
		at := slices.Index(k.accounts, from)
		if at < 0 {
			continue
		}
		k.accounts[at] = to
		if _, err := tx.ExecContext(ctx, `UPDATE client_keys SET accounts = ? WHERE id = ?`,
			jsonList{&k.accounts}.text(), k.id); err != nil {
			return err
		}
	}
	return nil
}

// jsonList is how a list of strings is stored: JSON text, NULL if it is empty.
type jsonList struct{ list *[]string }

// Scan implements sql.Scanner.
func (l jsonList) Scan(src any) error {
	var text sql.NullString
	if err := text.Scan(src); err != nil {
		return err
	}
	*l.list = nil
	if !text.Valid {
		return nil
	}
	return json.Unmarshal([]byte(text.String), l.list)
}

func (l jsonList) text() any {
	if len(*l.list) == 0 {
		return nil
	}
	text, _ := json.Marshal(*l.list) // strings always can be
	return string(text)
}
