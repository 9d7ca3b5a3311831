// Package api holds the JSON types that the site, the admin endpoint and the
// command speak, and the Backend interface behind which the pool answers them.
//
// Times are integer milliseconds since the Unix epoch, or null. Utilizations
// are fractions (1 = used up), costs US dollars, durations milliseconds.
package api

// Plan names that exist without configuration.
const (
	PlanConsole = "console"
	PlanMax     = "max"
	PlanAPI     = "api"
)

// Kind says what sort of credential an account has.
type Kind string

// The kinds of credentials.
const (
	KindOAuth  Kind = "oauth"   // access and refresh token: can be refreshed
	KindToken  Kind = "token"   // a bearer token without a refresh token
	KindAPIKey Kind = "api_key" // sent as x-api-key
)

// Status is an account's state in one word.
type Status string

// The states of an account; a later one hides an earlier one.
const (
	StatusAvailable  Status = "available"
	StatusBusy       Status = "busy"        // max_in_flight reached
	StatusLimited    Status = "limited"     // benched as a whole until available_at
	StatusPaused     Status = "paused"      // by the operator
	StatusDisabled   Status = "disabled"    // refused by the provider; refresh or clear_limits ends it
	StatusNeedsLogin Status = "needs_login" // its credential is dead
)

// Account is a member of the pool. It carries no credential.
type Account struct {
	ID              string   `json:"id"`
	Name            string   `json:"name"`
	PlanType        string   `json:"plan_type"`
	SupportedModels string   `json:"supported_models"` // comma-separated: the account's own list, else its plan's patterns
	RequestCount    int64    `json:"request_count"`
	LastUsed        *int64   `json:"last_used"`
	CreatedAt       int64    `json:"created_at"`
	TokenValid      int      `json:"token_valid"` // 0 or 1
	ExpiresAt       *int64   `json:"expires_at"`
	Kind            Kind     `json:"kind"`
	Status          Status   `json:"status"`
	StatusReason    string   `json:"status_reason"` // in words; empty when available
	AvailableAt     *int64   `json:"available_at"`
	InFlight        int      `json:"in_flight"`
	MaxInFlight     int      `json:"max_in_flight"` // 0 = no bound
	Priority        int      `json:"priority"`      // lower first
	Weight          int      `json:"weight"`        // 1 unless set
	Windows         []Window `json:"windows"`       // never null
	Limits          []Limit  `json:"limits"`        // never null
	Tokens          Tokens   `json:"tokens"`        // over all recorded requests
	CostUSD         *float64 `json:"cost_usd"`

	Tier    string `json:"tier,omitempty"`    // the provider's rate-limit tier, when a profile told it
	Warning string `json:"warning,omitempty"` // after add or login: what the operator should know
}

// Window is a usage window of the provider as its last answer told it.
type Window struct {
	Name        string   `json:"name"` // "5h", "7d", "7d_opus", …
	Utilization *float64 `json:"utilization"`
	Status      string   `json:"status"`
	ResetsAt    *int64   `json:"resets_at"`
}

// Scopes of a limit.
const (
	ScopeAccount = "account"
	ScopeFamily  = "family"
	ScopeModel   = "model" // one model, named in Limit.Family
)

// Limit says why and until when an account, or one model family of it, is not
// chosen.
type Limit struct {
	Scope  string  `json:"scope"`
	Family *string `json:"family"` // null for scope account
	Until  int64   `json:"until"`
	Cause  string  `json:"cause"`
	Header *string `json:"header"` // the header that said so, null if none did
	Since  int64   `json:"since"`
}

// Tokens counts tokens by the five kinds that have prices of their own.
type Tokens struct {
	Input        int64 `json:"input"`
	Output       int64 `json:"output"`
	CacheRead    int64 `json:"cache_read"`
	CacheWrite5m int64 `json:"cache_write_5m"`
	CacheWrite1h int64 `json:"cache_write_1h"`
}

// Add adds u to t.
func (t *Tokens) Add(u Tokens) {
	t.Input += u.Input
	t.Output += u.Output
	t.CacheRead += u.CacheRead
	t.CacheWrite5m += u.CacheWrite5m
	t.CacheWrite1h += u.CacheWrite1h
}
