// Package store keeps what must not be lost: accounts and their credentials,
// limits, sessions, client keys, the history and the audit trail. It is the
// only owner of the database; everything else works on copies.
package store

import (
	"errors"
	"net/http"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/secret"
)

// Errors that callers tell apart.
var (
	ErrNotFound = errors.New("no such record")
	ErrExists   = errors.New("the name is used already")
	// ErrStale means that the row was changed or removed since it was read:
	// the stored state wins.
	ErrStale = errors.New("the record was changed meanwhile")
	// ErrUnavailable means that the database cannot be reached or does not
	// answer in time: the same call may succeed later. Whether a write was
	// committed is not known.
	ErrUnavailable error = &api.Error{Status: http.StatusServiceUnavailable,
		Message: "the database is not available: requests go on, but nothing can be looked up or changed until it is back"}
	// ErrFull means that there are as many records as there may be.
	ErrFull = errors.New("there are too many records")
	// ErrReused means that a spent credential was presented again.
	ErrReused = errors.New("the credential was used before")
)

// Account is a stored account.
type Account struct {
	ID           string
	Name         string
	Plan         string
	Models       []string // its own patterns; nil = its plan's
	Priority     int
	Weight       int
	MaxInFlight  int
	Paused       bool
	CreatedAt    time.Time
	LastUsed     time.Time // zero = never
	RequestCount int64
	State        api.Status // "", needs_login or disabled
	StateReason  string
	StateSince   time.Time
	Tier         string
	Credential   Credential
	Tokens       api.Tokens
	CostUSD      *float64
}

// Credential is what an account proves itself with. Generation rises with
// every stored change; a writer names the one it has read.
type Credential struct {
	Kind       api.Kind
	Access     secret.String // access token or API key
	Refresh    secret.String // kind oauth only
	ExpiresAt  time.Time     // zero = unknown, taken as expired for kind oauth that has a refresh token
	IssuedAt   time.Time     // zero = unknown, taken as old
	Generation int64
}

// Limit benches an account, or one family or model of it.
type Limit struct {
	AccountID string
	Scope     string // api.ScopeAccount, api.ScopeFamily, api.ScopeModel
	Name      string // family or model; "" for scope account
	Cause     string
	Header    string
	Since     time.Time
	Until     time.Time
}

// Window is a usage window as an account's last answer told it.
type Window struct {
	AccountID   string
	Name        string
	Utilization float64 // negative = not told
	Status      string
	ResetsAt    time.Time
	SeenAt      time.Time
}

// Session is a conversation's place.
type Session struct {
	Key       string // opaque, bounded, holds nothing of the conversation
	AccountID string
	LastUsed  time.Time
}

// Resource is a batch, file, container or skill and its owners.
type Resource struct {
	ID        string
	AccountID string
	ClientKey string // name of the client key that made it; "" = a local client
	CreatedAt time.Time
}

// Row is a finished request on its way into the history.
type Row struct {
	api.Request
	AccountID string // "" when no account answered
	Family    string
}

// Key is a stored client key.
type Key struct {
	ID            string
	Name          string
	Role          string
	Models        []string
	Accounts      []string
	CreatedAt     time.Time
	ExpiresAt     time.Time // zero = never
	LastUsed      time.Time
	RPM           int
	MaxInFlight   int
	BudgetUSD     *float64
	BudgetPeriod  string
	Hash          [32]byte // SHA-256 of the credential
	PreviousHash  [32]byte // still valid until PreviousUntil, after a rotation
	PreviousUntil time.Time
}

// Device is a sign-in that waits: for a person's decision, then for its client.
type Device struct {
	Hash      [32]byte // SHA-256 of the device code
	UserCode  string
	State     string // DevicePending, DeviceApproved or DeviceDenied
	ExpiresAt time.Time
}

// States of a Device.
const (
	DevicePending  = "pending"
	DeviceApproved = "approved"
	DeviceDenied   = "denied"
)

// SignIn is a client that is signed in as a client key. Its tokens end with it,
// and it ends with its key.
type SignIn struct {
	ID        string
	KeyID     string
	KeyName   string
	ExpiresAt time.Time
}

// Issue is a pair of tokens for a SignIn to be stored, by their SHA-256. Neither
// outlives the sign-in.
type Issue struct {
	Access        [32]byte
	AccessExpires time.Time
	Refresh       [32]byte
}

// Token is an access token that counts.
type Token struct {
	Hash      [32]byte
	KeyID     string
	ExpiresAt time.Time
}

// Audit is an entry of the audit trail.
type Audit struct {
	At     time.Time
	What   string
	Who    string
	Detail string
}
