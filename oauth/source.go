package oauth

// The token source: a valid token for every account, at any time.

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/secret"
	"github.com/claude-balancer/claude-balancer/store"
)

// Vault is where credentials are durable; *store.Store is one. A method that
// reports success has made its change durable.
type Vault interface {
	Credential(ctx context.Context, id string) (store.Credential, error)
	// SaveCredential is a compare-and-set on the generation, and ends the
	// states needs_login and disabled.
	SaveCredential(ctx context.Context, id string, generation int64, c store.Credential) (int64, error)
	AcquireLease(ctx context.Context, id, owner string, ttl time.Duration) (bool, error)
	ReleaseLease(ctx context.Context, id, owner string) error
	SetState(ctx context.Context, id string, generation int64, state api.Status, reason string) error
}

// Token is what a request to upstream proves itself with.
type Token struct {
	Kind       api.Kind
	Value      secret.String
	Generation int64
	IssuedAt   time.Time // zero = unknown
	ExpiresAt  time.Time // zero = unknown
}

// OlderThan reports whether the token was issued more than d before now. A
// token of unknown age is.
func (t Token) OlderThan(d time.Duration, now time.Time) bool {
	return t.IssuedAt.IsZero() || now.Sub(t.IssuedAt) > d
}

// Entry is an account as it is stored.
type Entry struct {
	Name        string // for logs; "" = the id is shown
	Credential  store.Credential
	State       api.Status // "", needs_login or disabled
	StateReason string
}

// EventType says what happened to an account's credential.
type EventType string

// The types of events.
const (
	EventRefreshed     EventType = "refreshed"
	EventRefreshFailed EventType = "refresh_failed" // the old token stays; tried again later
	EventSaveFailed    EventType = "save_failed"    // a new token is kept in memory only
	EventNeedsLogin    EventType = "needs_login"
	EventDisabled      EventType = "disabled" // the provider holds the account
)

// Event is a change that somebody may want to know of.
type Event struct {
	Type   EventType
	Reason string // in words, without credentials; "" for refreshed
}

// SourceOptions configure a Source. The functions are called anew each time,
// since a reload may change what they return.
type SourceOptions struct {
	Vault         Vault
	Client        func() *Client
	Now           func() time.Time     // nil = time.Now
	Logger        *zap.Logger          // nil = silent
	RefreshBefore func() time.Duration // how long before its end a token is refreshed in the background; nil = 10 min
	Owner         string               // names this process in leases, unlike any other
	// NeedsLease says that no refresh may go on without a lease, since processes
	// of other machines use the vault too: what keeps it from giving a lease does
	// not keep them from refreshing. Otherwise one goes on for an account that
	// could not serve without it.
	NeedsLease bool
	// OnChange is called outside all locks, from several goroutines; nil = nobody.
	OnChange func(accountID string, e Event)
}

// Source hands out tokens and refreshes them. An account is refreshed by one
// goroutine of one process at a time, and a new pair is durable before anybody
// uses it. What cannot be closed is the gap between the provider's answer and
// our commit: a process that dies in it has lost that login.
//
// Source is safe for concurrent use.
type Source struct {
	vault    Vault
	client   func() *Client
	now      func() time.Time
	log      *zap.Logger
	before   func() time.Duration
	owner    string
	strict   bool // NeedsLease
	onChange func(string, Event)

	mu       sync.RWMutex // before account.mu, where both are held
	accounts map[string]*account

	jobs struct {
		sync.Mutex
		sync.WaitGroup
		closed bool
	}
	closing chan struct{}
	away    atomic.Bool               // see Away
	settled atomic.Pointer[time.Time] // see settle
}

const defaultRefreshBefore = 10 * time.Minute

// NewSource returns a Source without accounts: give them with Sync.
func NewSource(o SourceOptions) *Source {
	s := &Source{
		vault: o.Vault, client: o.Client, now: o.Now, log: o.Logger,
		before: o.RefreshBefore, owner: o.Owner, strict: o.NeedsLease, onChange: o.OnChange,
		accounts: make(map[string]*account), closing: make(chan struct{}),
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = zap.NewNop()
	}
	if s.before == nil {
		s.before = func() time.Duration { return defaultRefreshBefore }
	}
	if s.onChange == nil {
		s.onChange = func(string, Event) {}
	}
	return s
}

// Sync takes over all accounts as they are stored, by id, and forgets the
// others. What this process knows better stays: a newer generation, and what it
// could not store yet.
func (s *Source) Sync(entries map[string]Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, a := range s.accounts {
		if _, there := entries[id]; !there {
			a.remove()
			delete(s.accounts, id)
		}
	}
	for id, e := range entries {
		a := s.accounts[id]
		if a == nil {
			a = newAccount(id)
			s.accounts[id] = a
		}
		a.mu.Lock()
		a.update(e)
		a.mu.Unlock()
	}
}

// Token returns the account's token. As long as that is valid for 30 s more it
// asks nobody. Otherwise it waits, as long as ctx allows, for the one refresh
// that all callers share and that goes on when they leave.
//
// Errors: *NeedsLoginError; *BackoffError when the refresh failed and the old
// token has expired; store.ErrNotFound; ErrClosed; ctx's.
func (s *Source) Token(ctx context.Context, id string) (Token, error) {
	return s.obtain(ctx, id, func(*account) want { return want{} })
}

// Current returns the account's token as it is, good or not, and asks nobody.
// ok is false if there is no such account.
func (s *Source) Current(id string) (t Token, ok bool) {
	a := s.find(id)
	if a == nil {
		return Token{}, false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.token(), true
}

// Refresh returns a token other than the used one, which upstream has refused.
// If there is one already, upstream is not asked. It fails at once while an
// earlier failure's back-off lasts. Errors are Token's and ErrNotRefreshable.
func (s *Source) Refresh(ctx context.Context, id string, used Token) (Token, error) {
	return s.obtain(ctx, id, func(*account) want { return want{forced: true, used: used.Value} })
}

// RefreshByHand replaces the account's token because the operator wishes so,
// whatever its age, its state or the back-off. Errors are Refresh's.
func (s *Source) RefreshByHand(ctx context.Context, id string) (Token, error) {
	return s.obtain(ctx, id, func(a *account) want { return want{forced: true, byHand: true, used: a.cred.Access} })
}

func (s *Source) find(id string) *account {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.accounts[id]
}

// want is what a caller is content with.
type want struct {
	forced bool // a token other than used
	used   secret.String
	byHand bool // no back-off, no state counts
}

func (s *Source) obtain(ctx context.Context, id string, wish func(*account) want) (Token, error) {
	a := s.find(id)
	if a == nil {
		return Token{}, unknownAccount(id)
	}
	a.mu.Lock()
	w := wish(a)
	for {
		token, j, err := s.answer(a, w)
		a.mu.Unlock()
		if j == nil {
			return token, err
		}
		select {
		case <-ctx.Done():
			return Token{}, ctx.Err()
		case <-j.done:
		}
		if j.task == taskRefresh {
			return s.outcome(a, w, j.err)
		}
		a.mu.Lock() // that job was content with less: look again
	}
}

// answer returns the token, or why there is none, or the job to wait for. The
// caller holds a.mu.
func (s *Source) answer(a *account, w want) (Token, *job, error) {
	now := s.now()
	err := a.blocked()
	switch {
	case err != nil && (a.gone || !w.byHand):
		return Token{}, nil, err
	case !a.refreshable() && (w.forced || a.cred.Access.IsZero()):
		return Token{}, nil, ErrNotRefreshable
	case !a.due(now) && !(w.forced && a.cred.Access.Equal(w.used)):
		return a.token(), nil, nil
	}
	var j *job
	switch {
	case a.retry.waiting(now) && !w.byHand:
		err = &BackoffError{Until: a.retry.until, Err: a.retry.err}
	case s.away.Load():
		err = &BackoffError{Until: now.Add(awayPause), Err: errAway}
	default:
		j, err = s.join(a, taskRefresh)
	}
	if err != nil && !w.forced && a.usable(now) {
		return a.token(), nil, nil
	}
	return Token{}, j, err
}

var errAway = fmt.Errorf("no token is refreshed without the store: %w", store.ErrUnavailable)

// awayPause is when to ask again for a token while the vault is away.
const awayPause = time.Second

// outcome is the answer after a refresh that ended with err.
func (s *Source) outcome(a *account, w want, err error) (Token, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err == nil || !w.forced && a.blocked() == nil && a.usable(s.now()) {
		return a.token(), nil
	}
	return Token{}, err
}

// drop forgets an account that the store does not have any more.
func (s *Source) drop(a *account) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.accounts[a.id] == a {
		delete(s.accounts, a.id)
	}
	a.remove()
	return unknownAccount(a.id)
}

func unknownAccount(id string) error {
	return fmt.Errorf("token of account %s: %w", id, store.ErrNotFound)
}
