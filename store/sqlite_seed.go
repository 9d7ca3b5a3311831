package store

// Files of the seed system, in any of its states: every row is kept, what it
// left open is filled in.

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"unicode"

	"github.com/claude-balancer/claude-balancer/anthropic"
	"github.com/claude-balancer/claude-balancer/api"
)

// removedAccount begins the id that stands for an account of which the seed's
// history knows the name alone.
const removedAccount = "removed:"

// cleanSeed works on the completed tables, before they get indexes. Requests
// come first: they name accounts by the names that cleaning may change.
func cleanSeed(ctx context.Context, tx *sql.Tx) error {
	for _, query := range []string{
		`UPDATE accounts SET plan_type = '` + api.PlanConsole + `' WHERE COALESCE(plan_type, '') = ''`,
		`UPDATE accounts SET request_count = COALESCE(request_count, 0)`,
		// Of accounts with one name the older one keeps it, and the history with it.
		`UPDATE requests SET account_id = COALESCE(
			(SELECT id FROM accounts WHERE name = account_used ORDER BY created_at, rowid LIMIT 1),
			'` + removedAccount + `' || account_used) WHERE account_used IS NOT NULL`,
		`UPDATE requests SET plan_type = (SELECT plan_type FROM accounts WHERE id = account_id)`,
		`UPDATE requests SET success = COALESCE(lower(CAST(success AS TEXT)) IN ('1', 'true'), 0)`,
		`UPDATE requests SET outcome = CASE
			WHEN success THEN '` + string(api.OutcomeOK) + `'
			WHEN account_used IS NOT NULL THEN '` + string(api.OutcomeUpstreamError) + `'
			WHEN status_code = 503 THEN '` + string(api.OutcomeExhausted) + `'
			ELSE '` + string(api.OutcomeRefused) + `' END`,
		`UPDATE accounts SET
			input_tokens = (SELECT COALESCE(SUM(r.input_tokens), 0) FROM requests r WHERE r.account_id = accounts.id),
			output_tokens = (SELECT COALESCE(SUM(r.output_tokens), 0) FROM requests r WHERE r.account_id = accounts.id)`,
	} {
		if _, err := tx.ExecContext(ctx, query); err != nil {
			return err
		}
	}
	return cleanAccounts(ctx, tx)
}

type seedAccount struct {
	id, name string
	models   sql.NullString
}

// cleanAccounts makes names usable and unique, and takes the seed's default
// model lists for what they meant: whatever the plan allows.
func cleanAccounts(ctx context.Context, tx *sql.Tx) error {
	accounts, err := collect(ctx, tx, func(r *sql.Rows, a *seedAccount) error {
		return r.Scan(&a.id, &a.name, &a.models)
	}, `SELECT id, name, supported_models FROM accounts ORDER BY created_at, rowid`)
	if err != nil {
		return err
	}
	taken := map[string]bool{}
	for _, a := range accounts {
		taken[usableName(a.name)] = true
	}
	given := map[string]bool{}
	for _, a := range accounts {
		name := usableName(a.name)
		if given[name] {
			name = freeName(name, taken)
		}
		given[name], taken[name] = true, true
		if strings.TrimSpace(a.models.String) == "" || anthropic.IsSeedDefault(a.models.String) {
			a.models = sql.NullString{}
		}
		if _, err := tx.ExecContext(ctx, `UPDATE accounts SET name = ?, supported_models = ? WHERE id = ?`,
			name, a.models, a.id); err != nil {
			return fmt.Errorf("account %q: %w", a.name, err)
		}
	}
	return nil
}

// usableName makes an old name obey today's rule, see api.ValidName.
func usableName(name string) string {
	name = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '-'
		}
		return r
	}, strings.TrimSpace(strings.ToValidUTF8(name, "-")))
	if name == "" || name == "." || name == ".." {
		return "account"
	}
	return cut(name, api.MaxNameLength)
}

// freeName returns the first of name-2, name-3, … that is not taken.
func freeName(name string, taken map[string]bool) string {
	for n := 2; ; n++ {
		suffix := fmt.Sprintf("-%d", n)
		if free := cut(name, api.MaxNameLength-len(suffix)) + suffix; !taken[free] {
			return free
		}
	}
}

// cut shortens s to at most n characters.
func cut(s string, n int) string {
	if runes := []rune(s); len(runes) > n {
		return strings.TrimSpace(string(runes[:n]))
	}
	return s
}

// summarizeSeed counts and sums up the history that is there, once all tables
// are.
func summarizeSeed(ctx context.Context, tx *sql.Tx) error {
	for _, query := range []string{
		`INSERT INTO history_accounts (id, name) SELECT id, name FROM accounts`,
		`INSERT INTO history_accounts (id, name) SELECT DISTINCT account_id, account_used FROM requests
			WHERE account_id IS NOT NULL ON CONFLICT (id) DO NOTHING`,
		`UPDATE counters SET value = (SELECT COUNT(*) FROM requests) WHERE name = '` + counterRequests + `'`,
	} {
		if _, err := tx.ExecContext(ctx, query); err != nil {
			return err
		}
	}
	var models modelNames
	if err := models.load(ctx, tx, `SELECT DISTINCT model_used FROM requests
		WHERE model_used IS NOT NULL AND status_code BETWEEN 200 AND 299`); err != nil {
		return err
	}
	rows, err := tx.QueryContext(ctx, `SELECT timestamp, outcome, account_id, plan_type, model_used,
		COALESCE(status_code, 0), COALESCE(response_time_ms, 0), input_tokens, output_tokens FROM requests`)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	sums := newSummary(&models)
	for rows.Next() {
		var r Row
		var account sql.NullString
		if err := rows.Scan(&r.Timestamp, &r.Outcome, &account, &r.PlanType, &r.Model,
			&r.StatusCode, &r.ResponseTimeMS, &r.InputTokens, &r.OutputTokens); err != nil {
			return err
		}
		r.AccountID = account.String
		if r.Model != nil {
			r.Family = string(anthropic.FamilyOf(*r.Model))
		}
		sums.add(&r)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	upsert, err := tx.PrepareContext(ctx, upsertHour)
	if err != nil {
		return err
	}
	defer func() { _ = upsert.Close() }()
	return sums.saveHours(ctx, upsert)
}
