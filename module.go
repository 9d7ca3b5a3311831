// Package claudebalancer is a Caddy plugin that serves one Anthropic API
// endpoint from a pool of the operator's own Claude accounts.
//
// The app module claude_balancer (App) owns the pool, its store and its tokens,
// shared by all sites. The handler module http.handlers.claude_balancer
// (Handler) sends requests through it. Both work without configuration; the
// Caddyfile directive alone is enough.
package claudebalancer

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"go.uber.org/zap"

	"github.com/claude-balancer/claude-balancer/anthropic"
	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/oauth"
	"github.com/claude-balancer/claude-balancer/secret"
	"github.com/claude-balancer/claude-balancer/selection"
	"github.com/claude-balancer/claude-balancer/selection/policies"
	"github.com/claude-balancer/claude-balancer/store"

	_ "github.com/claude-balancer/claude-balancer/admin" // admin routes and the command
)

func init() {
	caddy.RegisterModule(new(App))
}

// App is the pool that all sites share: its store, its plans, its logins. An
// App that nobody configured has the defaults.
//
// State outlives reloads: Apps of the same store share one runtime, which when the last App and the last request have left it.
type App struct {
	// Where accounts and history are kept. Default: SQLite in
	// claude-accounts.db in Caddy's data directory.
	Store *StoreConfig `json:"store,omitempty"`

	// The key that seals credentials at rest, and behind it former ones that
	// rows may still be sealed with: 32 bytes as hex or base64, each given as a
	// placeholder {env.*} or {file.*}, never literally, since a configuration
	// is stored and shown. Default: credentials are not sealed.
	EncryptionKey []string `json:"encryption_key,omitempty"`

	// How much history is kept. Default: 30 days.
	History *HistoryConfig `json:"history,omitempty"`

	// Plans by name: console, max and api are redefined, others added.
	Plans selection.Plans `json:"plan,omitempty"`

	// The provider's OAuth endpoints. Default: the current ones.
	OAuth *OAuthConfig `json:"oauth,omitempty"`

	// Prices that go before the built-in ones, in US dollars per million
	// tokens. The first glob that matches the model counts.
	Prices []PriceConfig `json:"price,omitempty"`

	// How token and profile calls travel: a transport of Caddy's
	// reverse_proxy. Default: http.
	TransportRaw json.RawMessage `json:"transport,omitempty" caddy:"namespace=http.reverse_proxy.transport inline_key=protocol"`

	runtime    *runtime
	runtimeKey string // set while this App counts in runtimes
	plans      selection.Plans
	endpoints  oauth.Endpoints
	transport  http.RoundTripper
	ctx        caddy.Context
	events     *caddyevents.App
	logger     *zap.Logger

	mu       sync.Mutex
	handlers []*Handler // that use this App, in the order of their provisioning
}

// StoreConfig names the store.
type StoreConfig struct {
	// sqlite, for one machine, or postgres, for several that share one pool.
	// Default: sqlite.
	Driver string `json:"driver,omitempty"`
	// SQLite's file. Its folder is made with mode 0700, the file with 0600.
	// Placeholders are replaced.
	Path string `json:"path,omitempty"`
	// The URL of a PostgreSQL database, such as
	// postgres://user:password@host:5432/database?sslmode=verify-full. It is
	// given as a placeholder {env.*} or {file.*}, never literally, since a
	// configuration is stored and shown.
	URL string `json:"url,omitempty"`
}

// HistoryConfig bounds the history.
type HistoryConfig struct {
	// Rows older than this are deleted. Default: 30 days.
	MaxAge caddy.Duration `json:"max_age,omitempty"`
	// More rows than this are deleted, the oldest first. Default: no bound.
	MaxRows int64 `json:"max_rows,omitempty"`
	// No rows are kept, only sums.
	Off bool `json:"off,omitempty"`
}

// OAuthConfig replaces endpoints of a preset.
type OAuthConfig struct {
	// current or legacy (those of 2025). Default: current.
	Preset string `json:"preset,omitempty"`
	// The authorize URL by plan.
	AuthorizeURL map[string]string `json:"authorize_url,omitempty"`
	TokenURL     string            `json:"token_url,omitempty"`
	ProfileURL   string            `json:"profile_url,omitempty"`
	RedirectURI  string            `json:"redirect_uri,omitempty"`
	ClientID     string            `json:"client_id,omitempty"`
	Scopes       []string          `json:"scopes,omitempty"`
	// How long before its end a token is refreshed in the background.
	// Default: 10m.
	RefreshBefore caddy.Duration `json:"refresh_before,omitempty"`
}

// PriceConfig prices the models that match a glob, in US dollars per million
// tokens of each kind.
type PriceConfig struct {
	Models  string  `json:"models"`
	Input   float64 `json:"input"`
	Output  float64 `json:"output"`
	Write5m float64 `json:"write_5m"`
	Write1h float64 `json:"write_1h"`
	Read    float64 `json:"read"`
}

const (
	defaultHistory       = 30 * 24 * time.Hour
	defaultRefreshBefore = 10 * time.Minute
)

// CaddyModule returns the Caddy module information.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "claude_balancer",
		New: func() caddy.Module { return new(App) },
	}
}

// Provision reads the settings. It touches no file: validating a configuration
// provisions it too, and a reload may still fail after it.
func (a *App) Provision(ctx caddy.Context) error {
	a.ctx, a.logger = ctx, ctx.Logger()

	a.plans = selection.DefaultPlans()
	for name, plan := range a.Plans {
		a.plans[name] = plan
	}
	var err error
	if a.endpoints, err = a.OAuth.endpoints(); err != nil {
		return err
	}
	if a.transport, err = loadTransport(ctx, a, &a.TransportRaw); err != nil {
		return err
	}
	events, err := ctx.App("events")
	if err != nil {
		return fmt.Errorf("getting the events app: %w", err)
	}
	a.events = events.(*caddyevents.App)

	at, err := a.Store.location()
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	v, _, err := runtimes.LoadOrNew(at.key(), func() (caddy.Destructor, error) { return newRuntime(at), nil })
	if err != nil {
		return err
	}
	a.runtime, a.runtimeKey = v.(*runtime), at.key()
	if err := registerMetrics(ctx, a); err != nil {
		return fmt.Errorf("registering metrics: %w", err)
	}
	return nil
}

// Validate checks the settings.
func (a *App) Validate() error {
	if h := a.History; h != nil && (h.MaxAge < 0 || h.MaxRows < 0) {
		return errors.New("history: neither the age nor the number of rows can be negative")
	}
	if len(a.plans) > selection.MaxPlans {
		return fmt.Errorf("plan: %d plans are defined; %d are allowed", len(a.plans), selection.MaxPlans)
	}
	for _, p := range a.EncryptionKey {
		if !secret.IsReference(p) {
			return errors.New("encryption_key: give the key as {env.NAME} or {file./path}, not literally: Caddy stores and shows its configuration")
		}
	}
	for name, plan := range a.Plans {
		if err := checkPlanName(name); err != nil {
			return err
		}
		if len(plan.Models) == 0 {
			return fmt.Errorf("plan %s: models must list at least one glob", name)
		}
	}
	for _, p := range a.Prices {
		for _, usd := range []float64{p.Input, p.Output, p.Write5m, p.Write1h, p.Read} {
			if usd < 0 || math.IsNaN(usd) || math.IsInf(usd, 0) {
				return fmt.Errorf("price %s: a price must be a number of US dollars, not %v", p.Models, usd)
			}
		}
	}
	return nil
}

// Start opens the store, if no earlier configuration has, and makes this
// App's settings the runtime's.
func (a *App) Start() error {
	if err := a.runtime.start(a); err != nil {
		return err
	}
	a.warnOfExposure()
	return nil
}

// Stop takes the settings out of force. It closes nothing: requests of this
// configuration may still be running, and each holds the runtime itself.
func (a *App) Stop() error {
	a.runtime.leave(a)
	return nil
}

// Cleanup gives up this App's hold on the runtime. The key is blank unless
// Provision took the hold, so that a failed configuration never drops
// somebody else's.
func (a *App) Cleanup() error {
	if a.runtimeKey == "" {
		return nil
	}
	key := a.runtimeKey
	a.runtimeKey = ""
	_, err := runtimes.Delete(key)
	return err
}

// Backend is the pool as the admin endpoint and the site see it. It is an
// error until the store is open.
func (a *App) Backend() (api.Backend, error) {
	if !a.runtime.isReady() {
		return nil, errors.New("the pool is still starting")
	}
	return a.runtime, nil
}

// replaced reports whether this configuration is on its way out. It is what
// lets long answers of the site end without waiting for Stop.
func (a *App) replaced() bool {
	if caddy.Exiting() {
		return true
	}
	current, err := caddy.ActiveContext().AppIfConfigured("claude_balancer")
	return err == nil && current != a
}

// use notes a handler of this configuration.
func (a *App) use(h *Handler) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.handlers = append(a.handlers, h)
}

// routing returns how the first site routes, which is what an explanation
// explains.
func (a *App) routing() (selection.Policy, time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.handlers) == 0 {
		return policies.LeastUsed{}, defaultSessionAffinity
	}
	h := a.handlers[0]
	return h.policy, time.Duration(*h.SessionAffinity)
}

// prices are the configured ones before the built-in ones.
func (a *App) prices() anthropic.Prices {
	list := make(anthropic.Prices, 0, len(a.Prices))
	for _, p := range a.Prices {
		list = append(list, anthropic.Price{
			Glob: p.Models, Input: p.Input, Output: p.Output, Write5m: p.Write5m, Write1h: p.Write1h, Read: p.Read,
		})
	}
	return append(list, anthropic.DefaultPrices()...)
}

func (a *App) refreshBefore() time.Duration {
	if a.OAuth != nil && a.OAuth.RefreshBefore > 0 {
		return time.Duration(a.OAuth.RefreshBefore)
	}
	return defaultRefreshBefore
}

func (a *App) history() HistoryConfig {
	h := HistoryConfig{}
	if a.History != nil {
		h = *a.History
	}
	if h.MaxAge == 0 {
		h.MaxAge = caddy.Duration(defaultHistory)
	}
	return h
}

func (c *OAuthConfig) endpoints() (oauth.Endpoints, error) {
	if c == nil {
		return oauth.Preset("current")
	}
	preset := c.Preset
	if preset == "" {
		preset = "current"
	}
	e, err := oauth.Preset(preset)
	if err != nil {
		return e, fmt.Errorf("oauth: %w", err)
	}
	for plan, u := range c.AuthorizeURL {
		e.AuthorizeURL[plan] = u
	}
	for _, f := range []struct {
		to   *string
		from string
	}{{&e.TokenURL, c.TokenURL}, {&e.ProfileURL, c.ProfileURL}, {&e.RedirectURI, c.RedirectURI}, {&e.ClientID, c.ClientID}} {
		if f.from != "" {
			*f.to = f.from
		}
	}
	if len(c.Scopes) > 0 {
		e.Scopes = c.Scopes
	}
	return e, nil
}

// sealer reads the encryption keys that the placeholders stand for; nil
// without any.
func (a *App) sealer() (*store.Sealer, error) {
	if len(a.EncryptionKey) == 0 {
		return nil, nil
	}
	keys := make([][]byte, 0, len(a.EncryptionKey))
	for _, p := range a.EncryptionKey {
		text, err := caddy.NewReplacer().ReplaceOrErr(p, true, true)
		if err != nil {
			return nil, fmt.Errorf("encryption key is missing: %w", err)
		}
		key, err := store.ParseKey(strings.TrimSpace(text))
		if err != nil {
			return nil, fmt.Errorf("encryption_key %s: %w", p, err)
		}
		keys = append(keys, key)
	}
	return store.NewSealer(keys[0], keys[1:]...)
}

// Interface guards
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.Validator    = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)
