package api

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

// Backend is what the admin endpoint and the site ask. Its errors are *Error
// where the asker is at fault; everything else is the balancer's own failure.
type Backend interface {
	Accounts(ctx context.Context) ([]Account, error)
	Account(ctx context.Context, name string) (Account, error)
	AddAccount(ctx context.Context, a NewAccount) (Account, error)
	UpdateAccount(ctx context.Context, name string, p AccountPatch) (Account, error)
	RemoveAccount(ctx context.Context, name string) error
	RefreshAccount(ctx context.Context, name string) (Account, error)
	ClearLimits(ctx context.Context, name string) (Account, error)

	StartLogin(ctx context.Context, r LoginRequest) (Login, error)
	FinishLogin(ctx context.Context, id string, code LoginCode) (Account, error)

	Requests(ctx context.Context, q RequestQuery) ([]Request, error)
	ClearRequests(ctx context.Context) (deleted int64, err error)
	// Stats sums up requests since the given time; the zero time means all.
	Stats(ctx context.Context, since time.Time) (Stats, error)
	ResetStats(ctx context.Context) error
	Health(ctx context.Context) (Health, error)
	Explain(ctx context.Context, q ExplainQuery) (Explanation, error)
	// Chart returns one point an hour since the given time, oldest first.
	Chart(ctx context.Context, since time.Time) ([]ChartHour, error)

	Keys(ctx context.Context) ([]Key, error)
	AddKey(ctx context.Context, k NewKey) (Key, error)
	UpdateKey(ctx context.Context, name string, p KeyPatch) (Key, error)
	// RotateKey issues a new credential; the old one works for the grace period.
	RotateKey(ctx context.Context, name string, grace time.Duration) (Key, error)
	RevokeKey(ctx context.Context, name string) error
	Audit(ctx context.Context) ([]AuditEntry, error)
}

// Feed tells subscribers what changed. A subscriber that does not keep up
// loses events, never delays anybody.
type Feed interface {
	Subscribe() (events <-chan Event, cancel func())
}

// Event is one message of the live feed: a finished request, or the note that
// accounts changed and should be read again.
type Event struct {
	Type    string   `json:"type"` // request | accounts
	Request *Request `json:"request,omitempty"`
}

// Error is a refusal with the HTTP status that says whose fault it is and a
// sentence that says what to do.
type Error struct {
	Status  int
	Message string
}

// Error implements error.
func (e *Error) Error() string { return e.Message }

// BadRequest refuses a malformed or impossible wish (400).
func BadRequest(format string, args ...any) error {
	return &Error{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

// NotFound says that what was named does not exist (404).
func NotFound(format string, args ...any) error {
	return &Error{http.StatusNotFound, fmt.Sprintf(format, args...)}
}

// Conflict says that the present state forbids it, such as a used name (409).
func Conflict(format string, args ...any) error {
	return &Error{http.StatusConflict, fmt.Sprintf(format, args...)}
}
