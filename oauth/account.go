package oauth

// One account's credential in memory: pure transitions, no I/O.

import (
	"encoding/binary"
	"hash/fnv"
	"math"
	"sync"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/secret"
	"github.com/claude-balancer/claude-balancer/store"
)

// expiryMargin is how long before its end a token is not handed out any more:
// a request sent with it must still arrive in time. A token that lives for less
// than two minutes has a quarter of its life.
const expiryMargin = 30 * time.Second

// account is what the Source knows of one account. mu is never held over I/O.
type account struct {
	id string

	mu   sync.Mutex
	name string
	// cred is what is served. Its generation is the stored row's, as far as
	// this process knows, even while cred itself could not be stored.
	cred store.Credential
	// unsaved says that cred is newer than the row and replaced, directly or
	// over several steps, the refresh token base, which the row still has.
	unsaved bool
	base    secret.String
	// state is "", needs_login or disabled. While stateUnsaved the row does
	// not have it yet.
	state        api.Status
	reason       string
	stateUnsaved bool
	gone         bool // removed from the store

	job   *job    // the one that runs, or nil
	retry backoff // of the token endpoint
	save  backoff // of the store
}

func newAccount(id string) *account {
	return &account{id: id, cred: store.Credential{Generation: -1}} // older than any row's
}

// update takes over what the store has, from a listing that may be older than
// what this process has done meanwhile.
func (a *account) update(e Entry) {
	a.name = e.Name
	if e.Credential.Generation < a.cred.Generation {
		return
	}
	newer := e.Credential.Generation > a.cred.Generation
	a.take(e.Credential)
	if newer || !a.ahead() {
		a.state, a.reason, a.stateUnsaved = e.State, e.StateReason, false
	}
}

// ahead reports whether something could not be stored yet.
func (a *account) ahead() bool { return a.unsaved || a.stateUnsaved }

// take takes over a credential as it is stored. A pair that could not be stored
// stays as long as the row has the refresh token that it replaced, which is
// spent; with any other, somebody has logged in or rotated since, and the
// stored state wins.
func (a *account) take(stored store.Credential) {
	switch {
	case stored.Generation <= a.cred.Generation:
		return
	case a.unsaved && stored.Refresh.Equal(a.base) && !stored.Access.Equal(a.cred.Access):
		a.cred.Generation = stored.Generation
		return
	}
	a.install(stored)
}

// install makes a stored credential the one that is served. Storing one ends
// every state, so the state is that of a new account.
func (a *account) install(stored store.Credential) {
	a.cred, a.unsaved, a.base = stored, false, secret.String{}
	a.state, a.reason, a.stateUnsaved = "", "", false
	a.retry, a.save = backoff{}, backoff{}
}

// keep serves a credential that could not be stored, unless the row got another
// meanwhile; base is the row's refresh token when c was made.
func (a *account) keep(c store.Credential, base secret.String) {
	if a.cred.Generation > c.Generation {
		if !a.stored().Equal(base) {
			return
		}
		c.Generation = a.cred.Generation
	}
	a.cred, a.unsaved, a.base = c, true, base
	a.state, a.reason, a.stateUnsaved = "", "", false
	a.retry = backoff{}
}

// stored is the refresh token that the row has, as far as we know.
func (a *account) stored() secret.String {
	if a.unsaved {
		return a.base
	}
	return a.cred.Refresh
}

// condemn puts the account into a state that only the operator can end. A pair
// that is still unsaved has died with it.
func (a *account) condemn(state api.Status, reason string) {
	a.state, a.reason = state, reason
	a.unsaved, a.base = false, secret.String{}
}

func (a *account) token() Token {
	return Token{
		Kind: a.cred.Kind, Value: a.cred.Access, Generation: a.cred.Generation,
		IssuedAt: a.cred.IssuedAt, ExpiresAt: a.cred.ExpiresAt,
	}
}

func (a *account) refreshable() bool {
	return a.cred.Kind == api.KindOAuth && !a.cred.Refresh.IsZero()
}

// usable reports whether the token is still good. A refreshable token of
// unknown age is taken as expired; one that cannot be refreshed is upstream's
// to judge.
func (a *account) usable(now time.Time) bool {
	if a.cred.Access.IsZero() {
		return false
	}
	return !a.refreshable() || now.Before(a.cred.ExpiresAt)
}

// due reports whether the token has to be refreshed before it is used again.
func (a *account) due(now time.Time) bool {
	if !a.refreshable() {
		return false
	}
	margin := expiryMargin
	if life, known := a.life(); known {
		margin = min(margin, life/4)
	}
	return !a.usable(now.Add(margin))
}

// earlyAt is when the background refreshes the token: up to before ahead of its
// end, no more than half its life, at a moment of that time's first half that
// differs from account to account.
func (a *account) earlyAt(before time.Duration) time.Time {
	if life, known := a.life(); known {
		before = min(before, life/2)
	}
	if a.cred.Access.IsZero() {
		return time.Time{}
	}
	return a.cred.ExpiresAt.Add(-before).Add(spread(before/2, a.id, 0))
}

func (a *account) life() (life time.Duration, known bool) {
	life = a.cred.ExpiresAt.Sub(a.cred.IssuedAt)
	return life, !a.cred.IssuedAt.IsZero() && life > 0
}

// blocked is why the account gets no token now, or nil.
func (a *account) blocked() error {
	switch {
	case a.gone:
		return unknownAccount(a.id)
	case a.state == api.StatusNeedsLogin:
		return &NeedsLoginError{Reason: a.reason}
	}
	return nil
}

// remove is for who still holds the account; the caller does not hold mu.
func (a *account) remove() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.gone = true
}

// label is what logs call the account.
func (a *account) label() string {
	if a.name != "" {
		return a.name
	}
	return a.id
}

// refreshFailed begins or prolongs the token endpoint's back-off. wish is the
// provider's Retry-After.
func (a *account) refreshFailed(now time.Time, err error, wish time.Duration) {
	a.retry.fail(a.id, now, err, wish, 5*time.Minute)
}

// saveFailed begins or prolongs the store's back-off. It stays below the time
// of a lease, so that a lease that protects an unsaved pair can be prolonged.
func (a *account) saveFailed(now time.Time, err error) {
	a.save.fail(a.id, now, err, 0, leaseTime/2)
}

// backoff delays the next attempt after failures in a row.
type backoff struct {
	failures int
	until    time.Time
	err      error
}

// fail counts a failure. The delay begins at 1 s, doubles with each, is at
// least the wish, has up to a quarter more for jitter, and is at most limit.
func (b *backoff) fail(id string, now time.Time, err error, wish, limit time.Duration) {
	delay := max(time.Second<<min(b.failures, 16), wish)
	b.failures++
	delay += spread(delay/4, id, b.failures)
	b.until, b.err = now.Add(min(delay, limit)), err
}

func (b *backoff) waiting(now time.Time) bool { return now.Before(b.until) }

// spread is a duration below d that depends on id and n alone, so that the
// accounts do not act in step.
func spread(d time.Duration, id string, n int) time.Duration {
	h := fnv.New64a()
	_, _ = h.Write([]byte(id))
	_ = binary.Write(h, binary.LittleEndian, uint64(n))
	return time.Duration(float64(d) * float64(h.Sum64()) / math.MaxUint64)
}
