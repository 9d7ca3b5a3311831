package signin

// The state of sign-ins and its changes: a code that waits, a person's
// decision, tokens, their rotation and their end.

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/claude-balancer/claude-balancer/access"
	"github.com/claude-balancer/claude-balancer/secret"
	"github.com/claude-balancer/claude-balancer/store"
)

// Numbers of the flow.
const (
	codeLifetime = 10 * time.Minute
	maxWaiting   = 10_000 // sign-ins that wait; more are refused

	pollInterval = 5 * time.Second
	slowDownBy   = 5 * time.Second  // RFC 8628, 3.5
	slowest      = 60 * time.Second // what repeated haste leads to
	pollSlack    = time.Second      // by which a poll may be early: networks are uneven

	// rotationGrace is how long a spent refresh token still gets tokens. A
	// client that crashed, or whose answer was lost, tries again in seconds,
	// and so do two processes that share one login.
	rotationGrace = time.Minute

	// What one address may do before it has to wait.
	beginsAtOnce  = 60
	beginsWindow  = codeLifetime
	guessesAtOnce = 20
	guessesWindow = time.Minute
)

// Store keeps sign-ins. Its changes are compare-and-set, so that of two that
// race one wins, in whatever process.
type Store interface {
	AddDevice(ctx context.Context, d store.Device, most int) error
	Device(ctx context.Context, hash [32]byte) (store.Device, error)
	DecideDevice(ctx context.Context, userCode, keyID string) error
	Redeem(ctx context.Context, device [32]byte, in store.SignIn, first store.Issue) (store.SignIn, error)
	Refresh(ctx context.Context, token [32]byte, next store.Issue, grace time.Duration) (store.SignIn, error)
	EndSignIn(ctx context.Context, token [32]byte) (store.SignIn, error)
}

// Options is what a Flow needs; all of it is required.
type Options struct {
	Store Store
	Keys  *access.Keyring
	Guard *access.Guard // of wrong client keys

	// TokensChanged has the keyring take over tokens that came or went.
	TokensChanged func(ctx context.Context) error
	// Audit writes to the audit trail.
	Audit func(ctx context.Context, what, who, detail string)

	// Style is a style sheet that the page's own rules add to.
	Style string

	Now    func() time.Time
	Logger func() *zap.Logger
}

// Flow is the sign-ins of one store. It is safe for concurrent use.
type Flow struct {
	Options
	random io.Reader
	begins *access.Guard // new codes by address
	codes  *access.Guard // wrong user codes by address
	polls  polls

	styleTag string
}

// New returns a Flow.
func New(o Options) *Flow {
	o.Style += "\n" + pageCSS
	sum := sha256.Sum256([]byte(o.Style))
	return &Flow{
		Options: o, random: rand.Reader,
		begins: access.NewGuardOf(o.Now, beginsAtOnce, beginsWindow),
		codes:  access.NewGuardOf(o.Now, guessesAtOnce, guessesWindow),

		styleTag: `"` + hex.EncodeToString(sum[:12]) + `"`,
	}
}

// Settings are a site's.
type Settings struct {
	AccessLifetime time.Duration // of an access token
	Lifetime       time.Duration // of a sign-in and its refresh tokens
	Notice         string        // shown beside the code, plain text; may be ""
}

// Defaults and bounds of Settings.
const (
	DefaultAccessLifetime = 8 * time.Hour
	DefaultLifetime       = 30 * 24 * time.Hour
	MaxNotice             = 500 // characters
)

// waiting is a sign-in that begins.
type waiting struct {
	deviceCode secret.String
	userCode   string
}

// begin stores a new sign-in. store.ErrFull means that too many wait.
func (f *Flow) begin(ctx context.Context) (waiting, error) {
	deviceCode, err := access.KindDevice.New(f.random)
	if err != nil {
		return waiting{}, err
	}
	for {
		userCode, err := newUserCode(f.random)
		if err != nil {
			return waiting{}, err
		}
		err = f.Store.AddDevice(ctx, store.Device{
			Hash: access.Hash(deviceCode), UserCode: userCode, ExpiresAt: f.Now().Add(codeLifetime),
		}, maxWaiting)
		if errors.Is(err, store.ErrExists) {
			continue // the one code in millions that is in use
		}
		return waiting{deviceCode, userCode}, err
	}
}

// oauthError is an error of RFC 6749, 5.2, with the status that goes with it.
type oauthError struct {
	status      int
	Code        string `json:"error"`
	Description string `json:"error_description,omitempty"`
}

// Error implements error.
func (e *oauthError) Error() string { return e.Code }

// Answers of the token endpoint. Those of a device code that no retry will help
// end the client's polling.
var (
	errPending = &oauthError{400, "authorization_pending", "Nobody has approved the code yet."}
	errTooFast = &oauthError{400, "slow_down", "Poll at the interval that you were told, and 5 seconds slower from now on."}
	errDenied  = &oauthError{400, "access_denied", "The sign-in was denied."}
	errLate    = &oauthError{400, "expired_token", "The code was not approved in time. Begin again."}
	errNoCode  = &oauthError{400, "invalid_grant", "This device code is unknown or was used. Begin again."}
	errEnded   = &oauthError{401, "invalid_grant", "This sign-in has ended: it expired, was revoked or its refresh token was used before. Sign in again."}
)

// tokens are a client's new credentials.
type tokens struct {
	access, refresh secret.String
	expiresIn       time.Duration
	keyName         string
}

// redeem answers a poll. Its error is an *oauthError where the client is told
// to wait, to stop, or that it is wrong.
func (f *Flow) redeem(ctx context.Context, s *Settings, deviceCode secret.String) (tokens, error) {
	hash := access.Hash(deviceCode)
	if !access.KindDevice.Fits(deviceCode) {
		return tokens{}, errNoCode
	}
	d, err := f.Store.Device(ctx, hash)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return tokens{}, errNoCode
	case err != nil:
		return tokens{}, err
	case !f.Now().Before(d.ExpiresAt):
		return tokens{}, errLate
	case d.State == store.DeviceDenied:
		return tokens{}, errDenied
	case d.State == store.DevicePending:
		if f.polls.tooFast(hash, f.Now()) {
			return tokens{}, errTooFast
		}
		return tokens{}, errPending
	}
	id, err := f.newID()
	if err != nil {
		return tokens{}, err
	}
	made, pair, err := f.makeTokens(s)
	if err != nil {
		return tokens{}, err
	}
	in, err := f.Store.Redeem(ctx, hash, store.SignIn{ID: id, ExpiresAt: f.Now().Add(s.Lifetime)}, pair)
	if errors.Is(err, store.ErrNotFound) {
		return tokens{}, errNoCode // another poll was faster, or the key is gone
	}
	if err != nil {
		return tokens{}, err
	}
	return f.issued(ctx, made, in), nil
}

// refresh answers a client that presents a refresh token.
func (f *Flow) refresh(ctx context.Context, s *Settings, token secret.String) (tokens, error) {
	if !access.KindRefresh.Fits(token) {
		return tokens{}, errEnded
	}
	made, pair, err := f.makeTokens(s)
	if err != nil {
		return tokens{}, err
	}
	in, err := f.Store.Refresh(ctx, access.Hash(token), pair, rotationGrace)
	switch {
	case errors.Is(err, store.ErrReused):
		f.Logger().Warn("a refresh token was used again after its time: the sign-in is revoked", zap.String("key", in.KeyName))
		f.Audit(ctx, "sign_in.reuse", "client", in.KeyName+", sign-in revoked")
		f.tokensChanged(ctx)
		return tokens{}, errEnded
	case errors.Is(err, store.ErrNotFound):
		return tokens{}, errEnded
	case err != nil:
		return tokens{}, err
	}
	return f.issued(ctx, made, in), nil
}

func (f *Flow) makeTokens(s *Settings) (t tokens, pair store.Issue, err error) {
	if t.access, err = access.KindAccess.New(f.random); err != nil {
		return t, pair, err
	}
	if t.refresh, err = access.KindRefresh.New(f.random); err != nil {
		return t, pair, err
	}
	t.expiresIn = s.AccessLifetime
	return t, store.Issue{
		Access: access.Hash(t.access), AccessExpires: f.Now().Add(s.AccessLifetime), Refresh: access.Hash(t.refresh),
	}, nil
}

// issued makes stored tokens count before their client has them.
func (f *Flow) issued(ctx context.Context, t tokens, in store.SignIn) tokens {
	t.keyName = in.KeyName
	t.expiresIn = min(t.expiresIn, in.ExpiresAt.Sub(f.Now()))
	f.tokensChanged(ctx)
	return t
}

// tokensChanged is no step that could fail a request: what is stored counts,
// and a token that a process does not know yet is looked up.
func (f *Flow) tokensChanged(ctx context.Context) {
	if err := f.TokensChanged(context.WithoutCancel(ctx)); err != nil {
		f.Logger().Error("taking over the tokens of sign-ins", zap.Error(err))
	}
}

// revoke ends the sign-in of a token, if there is one.
func (f *Flow) revoke(ctx context.Context, token secret.String) error {
	if !access.KindAccess.Fits(token) && !access.KindRefresh.Fits(token) {
		return nil
	}
	in, err := f.Store.EndSignIn(ctx, access.Hash(token))
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	f.Audit(ctx, "sign_in.revoke", "client", in.KeyName)
	f.tokensChanged(ctx)
	return nil
}

// newID names a sign-in. It opens nothing.
func (f *Flow) newID() (string, error) {
	var bits [16]byte
	if _, err := io.ReadFull(f.random, bits[:]); err != nil {
		return "", err
	}
	return hex.EncodeToString(bits[:]), nil
}

// polls remembers when codes were last asked for, and how often they may be.
// It forgets with the process, which at worst lets one poll be early.
type polls struct {
	mu    sync.Mutex
	last  map[[sha256.Size]byte]poll
	swept time.Time
}

type poll struct {
	at    time.Time
	every time.Duration
}

// tooFast reports whether this poll came before its time, which makes the next
// one's later.
func (p *polls) tooFast(code [sha256.Size]byte, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last == nil {
		p.last = make(map[[sha256.Size]byte]poll)
	}
	if now.Sub(p.swept) > time.Minute {
		p.swept = now
		for c, one := range p.last {
			if now.Sub(one.at) > slowest {
				delete(p.last, c) // it is late enough to be forgotten
			}
		}
	}
	before, known := p.last[code]
	next := poll{at: now, every: pollInterval}
	early := false
	if known {
		early = now.Sub(before.at) < before.every-pollSlack
		next.every = before.every
	}
	if early {
		next.every = min(next.every+slowDownBy, slowest)
	}
	p.last[code] = next
	return early
}
