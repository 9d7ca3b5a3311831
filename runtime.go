package claudebalancer

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/claude-balancer/claude-balancer/access"
	"github.com/claude-balancer/claude-balancer/anthropic"
	"github.com/claude-balancer/claude-balancer/dashboard"
	"github.com/claude-balancer/claude-balancer/oauth"
	"github.com/claude-balancer/claude-balancer/selection"
	"github.com/claude-balancer/claude-balancer/signin"
	"github.com/claude-balancer/claude-balancer/store"
)

// runtimes holds what outlives a reload, by the store.
var runtimes = caddy.NewUsagePool()

// runtime is the pool with its store, tokens and history. Every App of its
// store and every request in flight holds it; the last one closes it, so that
// a reload takes nothing from under a running stream.
type runtime struct {
	at   location
	now  func() time.Time // tests replace it before the start
	refs atomic.Int64

	mu     sync.Mutex // orders start and close
	ready  chan struct{}
	opened bool

	started   []*App              // started and not stopped, oldest first
	app       atomic.Pointer[App] // the newest of them: its settings are in force
	store     *store.Store
	sealer    *store.Sealer
	pool      *selection.Pool
	tokens    *oauth.Source
	logins    *oauth.Logins
	recorder  *store.Recorder
	keys      *access.Keyring
	guard     *access.Guard
	signIns   *signin.Flow
	lookups   chan struct{} // holds one for each token that is being looked up
	prices    atomic.Pointer[anthropic.Prices]
	feed      feed
	owners    recent[store.Resource]
	unsaved   unsavedOwners
	unknown   recent[struct{}] // ids that no account knows, by who asked
	cursors   recent[string]   // accounts of list items
	warnings  limiter          // of failovers in the log
	exhausted limiter          // of requests that found no account
	emissions chan emission
	exchange  exchange
	link      link

	loading  sync.Mutex // makes reading accounts and keys and taking them over one step
	spending spending   // guarded by loading
	stop     context.CancelFunc
	running  sync.WaitGroup
}

// Times of the runtime's work beside the requests.
const (
	openTimeout   = 30 * time.Second
	databaseWait  = time.Minute
	databasePause = 2 * time.Second
	closeTimeout  = 30 * time.Second // a refresh that was sent takes 20 s at most
	pruneEvery    = 2 * time.Second
)

// wallClock is that of new runtimes; tests replace it.
var wallClock = time.Now

func newRuntime(at location) *runtime {
	rt := &runtime{at: at, now: wallClock, ready: make(chan struct{}), emissions: make(chan emission, maxEmissions), lookups: make(chan struct{}, maxLookups)}
	rt.refs.Store(1) // the UsagePool's
	return rt
}

// Destruct drops the hold of the last App.
func (rt *runtime) Destruct() error {
	rt.release()
	return nil
}

// acquire takes a hold for a request. It fails when the runtime is closed,
// which only a request to an abandoned configuration can meet.
func (rt *runtime) acquire() bool {
	for {
		n := rt.refs.Load()
		if n == 0 {
			return false
		}
		if rt.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (rt *runtime) release() {
	if rt.refs.Add(-1) == 0 {
		rt.close()
	}
}

func (rt *runtime) isReady() bool {
	select {
	case <-rt.ready:
		return true
	default:
		return false
	}
}

// start opens the store once and puts the App's settings in force.
func (rt *runtime) start(a *App) error {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	sealer, err := a.sealer()
	if err != nil {
		return err
	}
	if !rt.opened {
		if err := rt.open(a, sealer); err != nil {
			return err
		}
	} else if err := rt.sealer.CheckSuccessor(sealer); err != nil {
		return fmt.Errorf("the store %s is open: %w", rt.at.name, err)
	}
	rt.started = append(rt.started, a)
	rt.configure(a)
	if !rt.opened {
		rt.opened = true
		rt.run()
		close(rt.ready)
	}
	return nil
}

// leave takes a stopped App's settings out of force. After a reload that failed
// these are the new ones, and the configuration that goes on gets its own back.
func (rt *runtime) leave(a *App) {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	rt.started = slices.DeleteFunc(rt.started, func(other *App) bool { return other == a })
	if n := len(rt.started); n > 0 && rt.app.Load() == a {
		rt.configure(rt.started[n-1])
	}
}

func (rt *runtime) open(a *App, sealer *store.Sealer) error {
	options, err := rt.at.options()
	if err != nil {
		return err
	}
	options.Keys, options.Now, options.Logger = sealer, rt.now, a.logger.Named("store")
	s, err := openStore(options)
	if err != nil {
		return err
	}
	var seed [8]byte
	_, _ = rand.Read(seed[:]) // never fails
	rt.store, rt.sealer = s, sealer
	rt.exchange.node = hex.EncodeToString(seed[:])
	rt.pool = selection.New(rt.now, binary.LittleEndian.Uint64(seed[:]))
	rt.pool.SetPlans(a.plans)
	rt.keys = access.NewKeyring(rt.now)
	rt.guard = access.NewGuard(rt.now)
	rt.signIns = signin.New(signin.Options{
		Store: s, Keys: rt.keys, Guard: rt.guard, TokensChanged: rt.reloadKeys, Audit: rt.auditAs,
		Style: dashboard.Style(), Now: rt.now, Logger: rt.logger,
	})
	rt.logins = oauth.NewLogins(rt.oauthClient, rt.now)
	rt.tokens = oauth.NewSource(oauth.SourceOptions{
		Vault:         s,
		Client:        rt.oauthClient,
		Now:           rt.now,
		Logger:        a.logger.Named("oauth"),
		RefreshBefore: func() time.Duration { return rt.app.Load().refreshBefore() },
		Owner:         rt.exchange.node,
		NeedsLease:    s.Remote(),
		OnChange:      rt.tokenChanged,
	})
	rt.app.Store(a)
	ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
	defer cancel()
	if err := rt.restore(ctx); err != nil {
		return errors.Join(fmt.Errorf("reading the store %s: %w", rt.at.name, err), s.Close())
	}
	rt.recorder = store.NewRecorder(s, store.RecorderOptions{
		Logger:    a.logger.Named("history"),
		Off:       func() bool { return rt.app.Load().history().Off },
		OnWritten: rt.feed.rowsWritten,
	})
	return nil
}

// openStore waits for a database that is not there yet.
func openStore(o store.Options) (*store.Store, error) {
	deadline := time.Now().Add(databaseWait)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
		s, err := store.Open(ctx, o)
		cancel()
		if err == nil || !errors.Is(err, store.ErrUnavailable) {
			return s, err
		}
		left := time.Until(deadline)
		if left <= 0 {
			return nil, fmt.Errorf("%w; waited %s for it", err, databaseWait)
		}
		o.Logger.Warn("waiting for the database", zap.Duration("at_most", left), zap.Error(err))
		time.Sleep(min(left, databasePause))
	}
}

// configure puts the settings in force. Nothing in it can fail: a reload that
// fails later must not have changed the running configuration half.
func (rt *runtime) configure(a *App) {
	rt.app.Store(a)
	rt.pool.SetPlans(a.plans)
	prices := a.prices()
	rt.prices.Store(&prices)
}

// oauthClient is a client with the settings in force.
func (rt *runtime) oauthClient() *oauth.Client {
	a := rt.app.Load()
	return &oauth.Client{HTTP: withReplacer{a.transport}, Endpoints: a.endpoints, Now: rt.now, Logger: a.logger.Named("oauth")}
}

// withReplacer gives a request of the balancer's own the replacer that Caddy's
// transports look for in requests of clients.
type withReplacer struct{ http.RoundTripper }

func (t withReplacer) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx := context.WithValue(r.Context(), caddy.ReplacerCtxKey, caddy.NewReplacer())
	return t.RoundTripper.RoundTrip(r.WithContext(ctx))
}

// reload takes over accounts and keys as they are stored now. Of two that run
// at once, the later reader must also be the later one to take over: else what
// was removed or revoked in between would come back.
func (rt *runtime) reload(ctx context.Context) error {
	if err := rt.reloadAccounts(ctx); err != nil {
		return err
	}
	return rt.reloadKeys(ctx)
}

// reloadAccounts is reload for the accounts alone.
func (rt *runtime) reloadAccounts(ctx context.Context) error {
	rt.loading.Lock()
	defer rt.loading.Unlock()
	accounts, err := rt.store.Accounts(ctx)
	if err == nil {
		rt.syncAccounts(accounts)
	}
	return err
}

// reloadKeys is reload for the keys alone.
func (rt *runtime) reloadKeys(ctx context.Context) error {
	rt.loading.Lock()
	defer rt.loading.Unlock()
	keys, err := rt.store.Keys(ctx)
	if err != nil {
		return err
	}
	tokens, err := rt.store.Tokens(ctx)
	if err != nil {
		return err
	}
	rt.spending.keys(keys)
	spent, err := rt.spending.read(ctx, rt.store, rt.now())
	if err == nil {
		rt.keys.Sync(keys, tokens, spent)
	}
	return err
}

func (rt *runtime) syncAccounts(accounts []store.Account) {
	members := make([]selection.Account, 0, len(accounts))
	credentials := make(map[string]oauth.Entry, len(accounts))
	for _, a := range accounts {
		members = append(members, selection.Account{
			ID: a.ID, Name: a.Name, Plan: a.Plan, Models: a.Models, Kind: a.Credential.Kind, Tier: a.Tier,
			Priority: a.Priority, Weight: a.Weight, MaxInFlight: a.MaxInFlight, Paused: a.Paused,
			State: a.State, StateReason: a.StateReason,
		})
		credentials[a.ID] = oauth.Entry{Name: a.Name, Credential: a.Credential, State: a.State, StateReason: a.StateReason}
	}
	// Tokens first: an account must not be chosen before its token is known.
	rt.tokens.Sync(credentials)
	rt.pool.Sync(members)
	rt.feed.accountsChanged()
}

// run starts the work beside the requests.
func (rt *runtime) run() {
	ctx, cancel := context.WithCancel(context.Background())
	rt.stop = cancel
	for _, work := range []func(context.Context){rt.tokens.Run, rt.watchStore, rt.tell, rt.hear, rt.keepHistory, rt.watchLoad, rt.callSubscribers} {
		rt.running.Go(func() { work(ctx) })
	}
}

// every calls f until ctx ends, but not while the store is away; failures are
// logged, and the next call tries again.
func (rt *runtime) every(ctx context.Context, pause time.Duration, what string, f func(context.Context) error) {
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if rt.link.away() {
			continue
		}
		if err := f(ctx); err != nil && ctx.Err() == nil {
			rt.logger().Error(what, zap.Error(err))
		}
	}
}

// keepHistory deletes what is older or more than the settings keep.
func (rt *runtime) keepHistory(ctx context.Context) {
	var audited, signIns time.Time
	rt.every(ctx, pruneEvery, "pruning the history", func(ctx context.Context) error {
		now, h := rt.now(), rt.app.Load().history()
		if now.Sub(signIns) > time.Minute {
			signIns = now
			if err := rt.store.PruneSignIns(ctx); err != nil {
				return err
			}
		}
		if now.Sub(audited) > time.Hour {
			audited = now
			err := errors.Join(
				rt.store.PruneAudit(ctx, now.Add(-auditKept)),
				rt.store.RemoveSessions(ctx, now.Add(-selection.SessionsKept)),
				rt.store.PruneLimits(ctx, now.Add(-clocksDiffer)),
				rt.store.RemoveNodes(ctx, triesCount),
			)
			if err != nil {
				return err
			}
		}
		_, err := rt.store.Prune(ctx, now.Add(-time.Duration(h.MaxAge)), h.MaxRows)
		return err
	})
}

// auditKept is how long the audit trail is kept.
const auditKept = 365 * 24 * time.Hour

// close flushes and closes. It runs when nobody holds the runtime any more.
func (rt *runtime) close() {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if !rt.opened {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	rt.stop()
	err := errors.Join(
		rt.tokens.Close(ctx),
		rt.recorder.Close(ctx),
	)
	rt.running.Wait()
	err = errors.Join(err, rt.leaveFleet(ctx), rt.store.Close())
	if err != nil {
		rt.logger().Error("closing the store", zap.String("store", rt.at.name), zap.Error(err))
	}
}

func (rt *runtime) logger() *zap.Logger { return rt.app.Load().logger }

// Interface guard
var _ caddy.Destructor = (*runtime)(nil)
