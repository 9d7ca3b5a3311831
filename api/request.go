package api

// Outcome is how a proxied request ended.
type Outcome string

// The outcomes of a request.
const (
	OutcomeOK            Outcome = "ok"
	OutcomeUpstreamError Outcome = "upstream_error" // upstream's error was passed on, or no answer came in time
	OutcomeRefused       Outcome = "refused"        // by the balancer: no plan allows the model, no account, bad request
	OutcomeExhausted     Outcome = "exhausted"      // every candidate failed
	OutcomeClientGone    Outcome = "client_gone"
	OutcomeTruncated     Outcome = "truncated" // the answer broke after its first byte
)

// Request is a row of the history. Timestamp is its end; ResponseTimeMS runs
// to the first byte of the answer, DurationMS to the last.
type Request struct {
	ID                 string    `json:"id"`
	Timestamp          int64     `json:"timestamp"`
	Method             string    `json:"method"`
	Path               string    `json:"path"`
	AccountUsed        *string   `json:"account_used"`
	PlanType           *string   `json:"plan_type"`
	Model              *string   `json:"model"`
	StatusCode         int       `json:"status_code"`
	Success            int       `json:"success"` // 1 if the outcome is ok
	Outcome            Outcome   `json:"outcome"`
	ErrorMessage       *string   `json:"error_message"`
	ResponseTimeMS     int64     `json:"response_time_ms"`
	DurationMS         int64     `json:"duration_ms"`
	FailoverAttempts   int       `json:"failover_attempts"` // accounts given up
	Stream             int       `json:"stream"`
	Session            *string   `json:"session"` // hashed
	Client             *string   `json:"client"`  // name of the client key
	InputTokens        *int64    `json:"input_tokens"`
	OutputTokens       *int64    `json:"output_tokens"`
	CacheReadTokens    *int64    `json:"cache_read_tokens"`
	CacheWrite5mTokens *int64    `json:"cache_write_5m_tokens"`
	CacheWrite1hTokens *int64    `json:"cache_write_1h_tokens"`
	CostUSD            *float64  `json:"cost_usd"`
	UpstreamRequestID  *string   `json:"upstream_request_id"`
	Attempts           []Attempt `json:"attempts"` // never null
}

// Attempt is one try of a request: one upstream round trip with one account.
type Attempt struct {
	Account string `json:"account"`
	Status  int    `json:"status"` // 0 when no answer came
	Cause   string `json:"cause"`
	MS      int64  `json:"ms"`
}

// RequestQuery filters the history; zero members do not filter.
type RequestQuery struct {
	Limit   int    // 1–1000
	Before  string // id of the row to continue below
	Account string
	Model   string
	Outcome Outcome
	Client  string
}

// Bounds of RequestQuery.Limit.
const (
	DefaultRequestLimit = 50
	MaxRequestLimit     = 1000
)

// Stats sums up the history since the asked time, or all of it.
type Stats struct {
	TotalRequests   int64            `json:"totalRequests"`
	SuccessRate     int              `json:"successRate"`     // integer percent, 0 without requests
	ActiveAccounts  int              `json:"activeAccounts"`  // not paused, disabled or needs_login
	AvgResponseTime int64            `json:"avgResponseTime"` // ms to the first byte
	ByModel         map[string]Usage `json:"by_model"`
	ByAccount       map[string]Usage `json:"by_account"`
	ByPlan          map[string]Usage `json:"by_plan"`
	ByKey           map[string]Usage `json:"by_key"`
	Opus            OpusStats        `json:"opus"`
	Tokens          Tokens           `json:"tokens"`
	CostUSD         *float64         `json:"cost_usd"`
	Unpriced        []string         `json:"unpriced"` // models whose cost is unknown
}

// Usage is one line of Stats. CostUSD is null if no request of it has a price.
type Usage struct {
	Requests int64    `json:"requests"`
	Errors   int64    `json:"errors"`
	Tokens   Tokens   `json:"tokens"`
	CostUSD  *float64 `json:"cost_usd"`
}

// OpusStats counts what was asked of the opus family, refusals included.
type OpusStats struct {
	Requests    int64 `json:"requests"`
	SuccessRate int   `json:"successRate"`
}

// Health is the answer of /health.
type Health struct {
	Status    string `json:"status"` // ok | degraded | limited | no_accounts
	Accounts  int    `json:"accounts"`
	Available int    `json:"available"`
	Timestamp string `json:"timestamp"` // ISO 8601, UTC
}

// ChartHour is what happened in one hour of the history.
type ChartHour struct {
	At          int64              `json:"at"` // start of the hour
	Outcomes    map[Outcome]int64  `json:"outcomes"`
	Tokens      Tokens             `json:"tokens"`
	CostByModel map[string]float64 `json:"cost_by_model"`
	Utilization map[string]float64 `json:"utilization"` // by account: its fullest window
}
