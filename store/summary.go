package store

// The history summed up as it is written: statistics never read its rows.

import (
	"context"
	"database/sql"
	"maps"
	"slices"
	"sync"

	"github.com/claude-balancer/claude-balancer/api"
)

// Kinds of sums in usage_hours.
const (
	byOutcome = "outcome"
	byFamily  = "family"
	byModel   = "model"
	byAccount = "account" // named by the account's id
	byPlan    = "plan"
	byKey     = "key"
)

const hourMillis = 60 * 60 * 1000

// hourOf returns the start of the hour of a time in ms.
func hourOf(ms int64) int64 { return ms - ms%hourMillis }

// tally is what is summed up.
type tally struct {
	requests, errors int64
	unpriced         int64 // requests that used tokens of a model without a price
	responseMS       int64
	tokens           api.Tokens
	cost             float64
	priced           bool // cost is known of at least one request
}

func (t *tally) add(u *tally) {
	t.requests += u.requests
	t.errors += u.errors
	t.unpriced += u.unpriced
	t.responseMS += u.responseMS
	t.tokens.Add(u.tokens)
	t.cost += u.cost
	t.priced = t.priced || u.priced
}

// costUSD returns nil while no cost is known.
func (t *tally) costUSD() *float64 {
	if !t.priced {
		return nil
	}
	return &t.cost
}

func tallyOf(r *Row) tally {
	t := tally{requests: 1, responseMS: r.ResponseTimeMS, tokens: api.Tokens{
		Input:        value(r.InputTokens),
		Output:       value(r.OutputTokens),
		CacheRead:    value(r.CacheReadTokens),
		CacheWrite5m: value(r.CacheWrite5mTokens),
		CacheWrite1h: value(r.CacheWrite1hTokens),
	}}
	if r.Outcome != api.OutcomeOK {
		t.errors = 1
	}
	switch {
	case r.CostUSD != nil:
		t.cost, t.priced = *r.CostUSD, true
	case r.Model != nil && t.tokens != (api.Tokens{}):
		t.unpriced = 1
	}
	return t
}

func value(p *int64) int64 {
	if p == nil {
		return 0
	}
	return *p
}

// sumKey names a line of usage_hours.
type sumKey struct {
	hour       int64
	kind, name string
}

// spendKey names a line of key_spend.
type spendKey struct {
	hour int64
	name string
}

// accountSum is what a batch adds to an account's own counters.
type accountSum struct {
	name      string
	successes int64
	lastUsed  int64 // ms, 0 = no success
	tally     tally
}

// summary sums up a batch in memory, so that each sum is written once.
type summary struct {
	models   *modelNames
	hours    map[sumKey]*tally
	accounts map[string]*accountSum
	spend    map[spendKey]float64
}

func newSummary(models *modelNames) *summary {
	return &summary{models, map[sumKey]*tally{}, map[string]*accountSum{}, map[spendKey]float64{}}
}

func (s *summary) add(r *Row) {
	hour, t := hourOf(r.Timestamp), tallyOf(r)
	s.addTo(hour, byOutcome, string(r.Outcome), &t)
	if r.Family != "" {
		s.addTo(hour, byFamily, r.Family, &t)
	}
	if r.Model != nil && s.models.keep(*r.Model, r.StatusCode) {
		s.addTo(hour, byModel, *r.Model, &t)
	}
	if r.Client != nil {
		s.addTo(hour, byKey, *r.Client, &t)
		if t.priced {
			s.spend[spendKey{hour, *r.Client}] += t.cost
		}
	}
	if r.AccountID == "" {
		return
	}
	s.addTo(hour, byAccount, r.AccountID, &t)
	if r.PlanType != nil {
		s.addTo(hour, byPlan, *r.PlanType, &t)
	}
	s.addToAccount(r, &t)
}

func (s *summary) addTo(hour int64, kind, name string, t *tally) {
	key := sumKey{hour, kind, name}
	sum, ok := s.hours[key]
	if !ok {
		sum = new(tally)
		s.hours[key] = sum
	}
	sum.add(t)
}

func (s *summary) addToAccount(r *Row, t *tally) {
	sum, ok := s.accounts[r.AccountID]
	if !ok {
		sum = new(accountSum)
		s.accounts[r.AccountID] = sum
	}
	if r.AccountUsed != nil {
		sum.name = *r.AccountUsed
	}
	if r.Outcome == api.OutcomeOK {
		sum.successes++
		sum.lastUsed = max(sum.lastUsed, r.Timestamp)
	}
	sum.tally.add(t)
}

// Statements that add lines to sums; the lines go in between.
const (
	insertHour = `INSERT INTO usage_hours (hour, kind, name, requests, errors, unpriced, response_ms,
	input_tokens, output_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, cost_usd)`

	addHour = ` ON CONFLICT (hour, kind, name) DO UPDATE SET
	requests = usage_hours.requests + excluded.requests,
	errors = usage_hours.errors + excluded.errors,
	unpriced = usage_hours.unpriced + excluded.unpriced,
	response_ms = usage_hours.response_ms + excluded.response_ms,
	input_tokens = usage_hours.input_tokens + excluded.input_tokens,
	output_tokens = usage_hours.output_tokens + excluded.output_tokens,
	cache_read_tokens = usage_hours.cache_read_tokens + excluded.cache_read_tokens,
	cache_write_5m_tokens = usage_hours.cache_write_5m_tokens + excluded.cache_write_5m_tokens,
	cache_write_1h_tokens = usage_hours.cache_write_1h_tokens + excluded.cache_write_1h_tokens,
	cost_usd = CASE WHEN excluded.cost_usd IS NULL THEN usage_hours.cost_usd
		ELSE COALESCE(usage_hours.cost_usd, 0) + excluded.cost_usd END`

	insertSpend = `INSERT INTO key_spend (hour, name, cost_usd)`

	addSpend = ` ON CONFLICT (hour, name) DO UPDATE SET cost_usd = key_spend.cost_usd + excluded.cost_usd`

	upsertHour = insertHour + ` VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)` + addHour
)

// saveHours writes the sums with a prepared upsertHour.
func (s *summary) saveHours(ctx context.Context, upsert *sql.Stmt) error {
	for key, t := range s.hours {
		if _, err := upsert.ExecContext(ctx, key.hour, key.kind, key.name, t.requests, t.errors, t.unpriced, t.responseMS,
			t.tokens.Input, t.tokens.Output, t.tokens.CacheRead, t.tokens.CacheWrite5m, t.tokens.CacheWrite1h,
			t.costUSD()); err != nil {
			return err
		}
	}
	return nil
}

// modelNames are the models that statistics name: those that upstream once
// answered with a 2xx. Clients can ask for any name; that must not make lines.
type modelNames struct {
	mu    sync.Mutex
	names map[string]bool
}

// keep reports whether the model has a line of its own, given the status that
// a request for it had.
func (m *modelNames) keep(model string, status int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.names[model] {
		return true
	}
	if status < 200 || status > 299 {
		return false
	}
	m.add(model)
	return true
}

func (m *modelNames) add(model string) {
	if m.names == nil {
		m.names = map[string]bool{}
	}
	m.names[model] = true
}

func (m *modelNames) learn(models []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, model := range models {
		m.add(model)
	}
}

// load adds the models that a query returns.
func (m *modelNames) load(ctx context.Context, q querier, query string) error {
	models, err := collect(ctx, q, func(r *sql.Rows, name *string) error { return r.Scan(name) }, query)
	m.learn(models)
	return err
}

// Models returns the models that statistics name.
func (s *Store) Models() []string {
	s.models.mu.Lock()
	defer s.models.mu.Unlock()
	return slices.Sorted(maps.Keys(s.models.names))
}

// LearnModels lets statistics name models that another process has seen
// answered.
func (s *Store) LearnModels(models []string) { s.models.learn(models) }

func (s *Store) loadModels(ctx context.Context) error {
	return s.models.load(ctx, s.reader, `SELECT DISTINCT name FROM usage_hours WHERE kind = '`+byModel+`'`)
}
