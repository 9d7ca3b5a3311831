package store

// Reading the history.

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/claude-balancer/claude-balancer/api"
)

const selectRequests = `SELECT r.id, r.timestamp, r.method, r.path, COALESCE(h.name, r.account_used), r.plan_type, r.model_used,
	COALESCE(r.status_code, 0), r.outcome, r.error_message, COALESCE(r.response_time_ms, 0), r.duration_ms,
	COALESCE(r.failover_attempts, 0), r.stream, r.session, r.client,
	r.input_tokens, r.output_tokens, r.cache_read_tokens, r.cache_write_5m_tokens, r.cache_write_1h_tokens, r.cost_usd,
	r.upstream_request_id, r.attempts
	FROM requests r LEFT JOIN history_accounts h ON h.id = r.account_id`

// Requests returns finished requests, the newest first. An account is named as
// it is called today, or as it was called last. ErrNotFound means that the row
// to continue below is not there, or no longer.
func (s *Store) Requests(ctx context.Context, q api.RequestQuery) ([]api.Request, error) {
	if q.Limit <= 0 {
		q.Limit = api.DefaultRequestLimit
	}
	q.Limit = min(q.Limit, api.MaxRequestLimit)
	found, err := s.findRequests(ctx, q)
	if err != nil {
		return nil, fmt.Errorf("read the history: %w", err)
	}
	return found, nil
}

func (s *Store) findRequests(ctx context.Context, q api.RequestQuery) ([]api.Request, error) {
	where, err := s.conditions(ctx, q)
	if err != nil {
		return nil, err
	}
	found := []api.Request{}
	if q.Account == "" {
		page, err := s.page(ctx, where, q.Limit)
		return append(found, page...), err
	}
	// An account that was removed and added again is several, each with an
	// index range of its own.
	ids, err := collect(ctx, s.reader, func(r *sql.Rows, id *string) error { return r.Scan(id) },
		`SELECT id FROM history_accounts WHERE name = ?`, q.Account)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		page, err := s.page(ctx, where.and(`r.account_id = ?`, id), q.Limit)
		if err != nil {
			return nil, err
		}
		found = append(found, page...)
	}
	if len(ids) > 1 {
		slices.SortFunc(found, newestFirst)
	}
	return found[:min(len(found), q.Limit)], nil
}

func newestFirst(a, b api.Request) int {
	return cmp.Or(cmp.Compare(b.Timestamp, a.Timestamp), strings.Compare(b.ID, a.ID))
}

// conditions are the terms of a WHERE clause, with their arguments.
type conditions struct {
	terms []string
	args  []any
}

// and returns c with one more term; c stays as it is.
func (c conditions) and(term string, args ...any) conditions {
	return conditions{append(slices.Clip(c.terms), term), append(slices.Clip(c.args), args...)}
}

// conditions writes all of q's filters but the account.
func (s *Store) conditions(ctx context.Context, q api.RequestQuery) (c conditions, err error) {
	if q.Before != "" {
		var at int64
		if err := s.reader.scan(ctx, []any{&at}, `SELECT timestamp FROM requests WHERE id = ?`, q.Before); err != nil {
			return c, notFound(err)
		}
		c = c.and(`(r.timestamp, r.id) < (?, ?)`, at, q.Before)
	}
	if q.Model != "" {
		c = c.and(`r.model_used = ?`, q.Model)
	}
	if q.Client != "" {
		c = c.and(`r.client = ?`, q.Client)
	}
	switch q.Outcome {
	case "":
	case api.OutcomeOK: // most rows are: the index leaves them out
		c = c.and(`r.outcome = 'ok'`)
	default: // the second term lets the database use that index
		c = c.and(`r.outcome = ? AND r.outcome <> 'ok'`, string(q.Outcome))
	}
	return c, nil
}

// page returns the newest rows that meet all conditions.
func (s *Store) page(ctx context.Context, c conditions, limit int) ([]api.Request, error) {
	query, args := pageQuery(c, limit)
	return collect(ctx, s.reader, scanRequest, query, args...)
}

func pageQuery(c conditions, limit int) (query string, args []any) {
	query = selectRequests
	if len(c.terms) > 0 {
		query += ` WHERE ` + strings.Join(c.terms, ` AND `)
	}
	return query + ` ORDER BY r.timestamp DESC, r.id DESC LIMIT ?`, append(slices.Clip(c.args), limit)
}

func scanRequest(rows *sql.Rows, r *api.Request) error {
	var attempts sql.NullString
	if err := rows.Scan(&r.ID, &r.Timestamp, &r.Method, &r.Path, &r.AccountUsed, &r.PlanType, &r.Model,
		&r.StatusCode, &r.Outcome, &r.ErrorMessage, &r.ResponseTimeMS, &r.DurationMS,
		&r.FailoverAttempts, &r.Stream, &r.Session, &r.Client,
		&r.InputTokens, &r.OutputTokens, &r.CacheReadTokens, &r.CacheWrite5mTokens, &r.CacheWrite1hTokens, &r.CostUSD,
		&r.UpstreamRequestID, &attempts); err != nil {
		return err
	}
	r.Success = boolInt(r.Outcome == api.OutcomeOK)
	r.Attempts = []api.Attempt{}
	if !attempts.Valid {
		return nil
	}
	return json.Unmarshal([]byte(attempts.String), &r.Attempts)
}
