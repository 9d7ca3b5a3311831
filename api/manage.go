package api

import (
	"bytes"
	"encoding/json"

	"github.com/claude-balancer/claude-balancer/secret"
)

// NewAccount is the body of POST /claude_balancer/accounts. Exactly one kind of
// credential is given: a refresh token (with or without its access token), an
// access token alone, an API key, or the content of Claude Code's credentials
// file.
type NewAccount struct {
	Name         string          `json:"name"`
	PlanType     string          `json:"plan_type"`
	RefreshToken secret.String   `json:"refresh_token"`
	AccessToken  secret.String   `json:"access_token"`
	ExpiresAt    *int64          `json:"expires_at"`
	APIKey       secret.String   `json:"api_key"`
	Credentials  json.RawMessage `json:"credentials"`
	Models       []string        `json:"models"`
	Priority     *int            `json:"priority"`
	Weight       *int            `json:"weight"`
	MaxInFlight  *int            `json:"max_in_flight"`
}

// Field is a member of a PATCH body: absent (Set is false), null (Value is nil:
// back to the default) or a value.
type Field[T any] struct {
	Set   bool
	Value *T
}

// UnmarshalJSON implements json.Unmarshaler. It is called for members that are
// there, null included.
func (f *Field[T]) UnmarshalJSON(data []byte) error {
	f.Set = true
	if bytes.Equal(bytes.TrimSpace(data), []byte("null")) {
		f.Value = nil
		return nil
	}
	f.Value = new(T)
	return json.Unmarshal(data, f.Value)
}

// AccountPatch is the body of PATCH /claude_balancer/accounts/{name}.
type AccountPatch struct {
	Name        Field[string]   `json:"name"`
	PlanType    Field[string]   `json:"plan_type"`
	Models      Field[[]string] `json:"models"`
	Priority    Field[int]      `json:"priority"`
	Weight      Field[int]      `json:"weight"`
	MaxInFlight Field[int]      `json:"max_in_flight"`
	Paused      Field[bool]     `json:"paused"`
}

// LoginRequest is the body of POST /claude_balancer/login.
type LoginRequest struct {
	Name     string `json:"name"`
	PlanType string `json:"plan_type"`
	Replace  bool   `json:"replace"` // log an existing account in again
}

// Login is a login that waits for its code.
type Login struct {
	ID           string `json:"id"`
	AuthorizeURL string `json:"authorize_url"`
	ExpiresAt    int64  `json:"expires_at"`
}

// LoginCode is the body of POST /claude_balancer/login/{id}: `CODE#STATE`, the
// bare code, or the whole callback URL.
type LoginCode struct {
	Code secret.String `json:"code"`
}

// ExplainQuery asks how a request would be routed now.
type ExplainQuery struct {
	Model   string
	Session string
	Key     string // name of a client key
}

// Explanation is the answer: nothing is sent, no state changes.
type Explanation struct {
	Model      string      `json:"model"`
	Family     string      `json:"family"`
	Candidates []Candidate `json:"candidates"` // every account, eligible or not
	Chosen     *string     `json:"chosen"`
}

// Candidate is one account of an Explanation.
type Candidate struct {
	Account  string   `json:"account"`
	Eligible bool     `json:"eligible"`
	Reason   string   `json:"reason"` // in words
	Score    *float64 `json:"score"`  // the policy's; null if not eligible
}

// Roles of a client key.
const (
	RoleClient = "client"
	RoleViewer = "viewer"
)

// Key is a credential that the balancer issues to its own clients.
type Key struct {
	Name         string   `json:"name"`
	Role         string   `json:"role"`
	Models       []string `json:"models"`   // globs; empty = all
	Accounts     []string `json:"accounts"` // names; empty = all
	CreatedAt    int64    `json:"created_at"`
	ExpiresAt    *int64   `json:"expires_at"`
	LastUsed     *int64   `json:"last_used"`
	RPM          int      `json:"rpm"`           // requests a minute; 0 = no bound
	MaxInFlight  int      `json:"max_in_flight"` // 0 = no bound
	BudgetUSD    *float64 `json:"budget_usd"`
	BudgetPeriod string   `json:"budget_period"` // day | week | month
	SpentUSD     float64  `json:"spent_usd"`     // in the running period
	SignIns      int      `json:"sign_ins"`      // clients that are signed in as this key
	Key          string   `json:"key,omitempty"` // the credential itself: only in the answer that made it
}

// NewKey is the body of POST /claude_balancer/keys.
type NewKey struct {
	Name         string   `json:"name"`
	Role         string   `json:"role"`
	Models       []string `json:"models"`
	Accounts     []string `json:"accounts"`
	ExpiresAt    *int64   `json:"expires_at"`
	RPM          *int     `json:"rpm"`
	MaxInFlight  *int     `json:"max_in_flight"`
	BudgetUSD    *float64 `json:"budget_usd"`
	BudgetPeriod string   `json:"budget_period"`
}

// KeyPatch is the body of PATCH /claude_balancer/keys/{name}.
type KeyPatch struct {
	Role         Field[string]   `json:"role"`
	Models       Field[[]string] `json:"models"`
	Accounts     Field[[]string] `json:"accounts"`
	ExpiresAt    Field[int64]    `json:"expires_at"`
	RPM          Field[int]      `json:"rpm"`
	MaxInFlight  Field[int]      `json:"max_in_flight"`
	BudgetUSD    Field[float64]  `json:"budget_usd"`
	BudgetPeriod Field[string]   `json:"budget_period"`
}

// AuditEntry says who did what when.
type AuditEntry struct {
	At     int64  `json:"at"`
	What   string `json:"what"` // account.add, account.login, key.revoke, …
	Who    string `json:"who"`
	Detail string `json:"detail"`
}
