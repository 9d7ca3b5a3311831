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
	r.upstream_request_id, r.attempts FROM `

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
	p, err := s.pageOf(ctx, q)
	if err != nil {
		return nil, err
	}
	found := []api.Request{}
	if q.Account == "" {
		page, err := s.page(ctx, p)
		return append(found, page...), err
	}
	// An account that was removed and added again is several, each found by
	// itself.
	ids, err := collect(ctx, s.reader, func(r *sql.Rows, id *string) error { return r.Scan(id) },
		`SELECT id FROM history_accounts WHERE name = ?`, q.Account)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		page, err := s.page(ctx, p.with(byAccount, id))
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

// requestPage says which rows are on a page: the newest that have all values.
type requestPage struct {
	filters  []requestFilter
	before   int64 // time of the row to continue below
	beforeID string
	limit    int
}

// requestFilter is a value that a row must have.
type requestFilter struct {
	kind  string // that the history is summed up by: byOutcome, byModel, byAccount or byKey
	value string
}

// filterColumns are the columns that can be filtered by.
var filterColumns = map[string]string{byOutcome: "outcome", byModel: "model_used", byAccount: "account_id", byKey: "client"}

// with returns p with one more filter, if value is not empty; p stays as it is.
func (p requestPage) with(kind, value string) requestPage {
	if value != "" {
		p.filters = append(slices.Clip(p.filters), requestFilter{kind, value})
	}
	return p
}

// pageOf is q's page but for the account.
func (s *Store) pageOf(ctx context.Context, q api.RequestQuery) (p requestPage, err error) {
	p.limit, p.beforeID = q.Limit, q.Before
	if q.Before != "" {
		if err := s.reader.scan(ctx, []any{&p.before}, `SELECT timestamp FROM requests WHERE id = ?`, q.Before); err != nil {
			return p, notFound(err)
		}
	}
	return p.with(byModel, q.Model).with(byKey, q.Client).with(byOutcome, string(q.Outcome)), nil
}

func (s *Store) page(ctx context.Context, p requestPage) ([]api.Request, error) {
	query, args := s.engine.pageQuery(p)
	return collect(ctx, s.reader, scanRequest, query, args...)
}

// query is selectRequests with p's conditions. The engine says where the rows
// come from, in which order, and may add conditions.
func (p requestPage) query(from, order string, more conditions) (query string, args []any) {
	c := more
	if p.beforeID != "" {
		c = c.and(`(r.timestamp, r.id) < (?, ?)`, p.before, p.beforeID)
	}
	for _, f := range p.filters {
		c = c.and(`r.`+filterColumns[f.kind]+` = ?`, f.value)
	}
	query = selectRequests + from + ` LEFT JOIN history_accounts h ON h.id = r.account_id`
	if len(c.terms) > 0 {
		query += ` WHERE ` + strings.Join(c.terms, ` AND `)
	}
	return query + ` ORDER BY ` + order + ` LIMIT ?`, append(c.args, p.limit)
}

// conditions are the terms of a WHERE clause, with their arguments.
type conditions struct {
	terms []string
	args  []any
}

func (c conditions) and(term string, args ...any) conditions {
	return conditions{append(c.terms, term), append(c.args, args...)}
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
