package oauth

// Logins of accounts: an authorize URL to open, then a code to paste.

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/secret"
)

const (
	loginLife = 10 * time.Minute
	maxLogins = 100 // that wait for their code; a further one ends the oldest
)

// Logins are the logins that wait for their code. They live in memory and end
// with the process. Logins is safe for concurrent use.
type Logins struct {
	client func() *Client
	now    func() time.Time

	mu      sync.Mutex
	waiting []*login // oldest first
}

// Pending is a login that was begun.
type Pending struct {
	ID        string
	URL       string // to open in a browser
	ExpiresAt time.Time
}

// Done is a login that succeeded.
type Done struct {
	Name      string
	Plan      string
	ReplaceID string // of the account that was logged in again; "" for a new one
	Grant     Grant
}

type login struct {
	id        string
	done      Done // without the grant
	endpoints Endpoints
	state     string
	verifier  string
	expires   time.Time
}

// NewLogins returns an empty set. client gives the client with the settings in
// force; a login is ended at the endpoints that it was begun with.
func NewLogins(client func() *Client, now func() time.Time) *Logins {
	return &Logins{client: client, now: now}
}

// Start begins a login of an account that will have the name and plan.
// replaceID is the account that it is a new login of, or "".
func (l *Logins) Start(name, plan, replaceID string) Pending {
	c := l.client()
	p := &login{
		id: randomText(), verifier: randomText(), state: randomText(),
		done:      Done{Name: name, Plan: plan, ReplaceID: replaceID},
		endpoints: c.Endpoints,
		expires:   l.now().Add(loginLife),
	}
	if c.Endpoints.StateIsVerifier {
		p.state = p.verifier
	}
	l.add(p)
	sum := sha256.Sum256([]byte(p.verifier))
	challenge := base64.RawURLEncoding.EncodeToString(sum[:])
	return Pending{ID: p.id, URL: c.AuthorizeURL(plan, p.state, challenge), ExpiresAt: p.expires}
}

// Finish exchanges what was pasted: CODE#STATE, the bare code, or the whole
// callback URL. An id that is unknown, used or expired is an api.NotFound, a
// code that cannot be one, has another state or is refused an api.BadRequest;
// any other error is a failure on the way to the provider. Once a code was sent
// the login is over, whatever came of it, since a code works once.
func (l *Logins) Finish(ctx context.Context, id string, pasted secret.String) (Done, error) {
	p := l.find(id)
	if p == nil {
		return Done{}, unknownLogin()
	}
	code, state, err := parsePasted(pasted)
	if err != nil {
		return Done{}, err
	}
	if state != "" && subtle.ConstantTimeCompare([]byte(state), []byte(p.state)) != 1 {
		return Done{}, api.BadRequest("the state does not match: the code belongs to another login; paste the one of this login's page")
	}
	if !l.take(p) {
		return Done{}, unknownLogin()
	}
	c := *l.client()
	c.Endpoints = p.endpoints
	done := p.done
	// From here on the code is spent: a caller that leaves must not cost the login.
	done.Grant, err = c.Exchange(context.WithoutCancel(ctx), code, p.state, p.verifier)
	if refused, ok := errors.AsType[*Error](err); ok && !refused.Transient() {
		return Done{}, api.BadRequest("the provider refused the login: %s; start a new one", strings.TrimSuffix(refused.reason(), "."))
	}
	if err != nil {
		return Done{}, fmt.Errorf("log in %s: %w; start a new login", done.Name, err)
	}
	return done, nil
}

func unknownLogin() error {
	return api.NotFound("this login is unknown, used or expired: start a new one")
}

func (l *Logins) add(p *login) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	l.waiting = slices.DeleteFunc(l.waiting, func(old *login) bool { return !now.Before(old.expires) })
	if len(l.waiting) >= maxLogins {
		l.waiting = slices.Delete(l.waiting, 0, 1)
	}
	l.waiting = append(l.waiting, p)
}

// find returns the login with the id while it waits, or nil.
func (l *Logins) find(id string) *login {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.waiting {
		if p.id == id && l.now().Before(p.expires) {
			return p
		}
	}
	return nil
}

// take ends the waiting; of many calls for a login one gets true.
func (l *Logins) take(p *login) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.Index(l.waiting, p)
	if i < 0 {
		return false
	}
	l.waiting = slices.Delete(l.waiting, i, i+1)
	return true
}

// randomText is 32 random bytes in base64url: what PKCE wants of a verifier.
func randomText() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}
