package claudebalancer

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/claude-balancer/claude-balancer/access"
	"github.com/claude-balancer/claude-balancer/anthropic"
	"github.com/claude-balancer/claude-balancer/dashboard"
	"github.com/claude-balancer/claude-balancer/selection"
	"github.com/claude-balancer/claude-balancer/signin"
)

func init() {
	caddy.RegisterModule(Handler{})
}

// Handler serves Anthropic's API under /v1/ from the pool, and the dashboard
// beside it. Any other path goes to the next handler.
//
// It sets these placeholders, and access-log fields of the same names with
// claude_ before them:
//
// Placeholder | Description
// ------------|------------
// `{http.claude_balancer.account}` | Name of the account that answered
// `{http.claude_balancer.plan}` | Its plan
// `{http.claude_balancer.model}` | The requested model
// `{http.claude_balancer.session}` | The conversation, hashed
// `{http.claude_balancer.attempts}` | Number of upstream round trips
// `{http.claude_balancer.outcome}` | ok, upstream_error, refused, exhausted, client_gone or truncated
type Handler struct {
	// The API's base URL. Default: https://api.anthropic.com
	Upstream string `json:"upstream,omitempty"`

	// How an account is chosen among those that may serve: least_used,
	// headroom, round_robin, random or priority. Default: least_used.
	PolicyRaw json.RawMessage `json:"policy,omitempty" caddy:"namespace=claude_balancer.selection_policies inline_key=name"`

	// How long an unused conversation stays with its account, for the sake of
	// its prompt cache. 0 turns affinity off. Default: 1h. At most a week.
	SessionAffinity *caddy.Duration `json:"session_affinity,omitempty"`

	// Rounds through the accounts in one request: tries per account.
	// Default: 3.
	Retries int `json:"retries,omitempty"`

	// The wait before the second round. Default: 1s.
	RetryDelay caddy.Duration `json:"retry_delay,omitempty"`

	// The factor by which the wait grows with each round. Default: 2.
	RetryBackoff float64 `json:"retry_backoff,omitempty"`

	// Upstream round trips in one request, over all accounts. Default: 12.
	MaxTries int `json:"max_tries,omitempty"`

	// How long after its arrival a request may still start a try or a wait. It
	// cancels none that runs. Default: 60s.
	TryDuration caddy.Duration `json:"try_duration,omitempty"`

	// How long a streamed request waits for its first event. Default: 2m.
	FirstEventTimeout caddy.Duration `json:"first_event_timeout,omitempty"`

	// How long any other request waits for the answer's headers. Default: 10m.
	AnswerTimeout caddy.Duration `json:"answer_timeout,omitempty"`

	// How long upstream may be silent inside an answer. Default: 270s.
	IdleTimeout caddy.Duration `json:"idle_timeout,omitempty"`

	// The largest request body that is kept in memory, in bytes. Default:
	// 32 MiB.
	MaxBody int64 `json:"max_body,omitempty"`

	// All request bodies in memory together, in bytes. Default: 512 MiB.
	MaxBuffered int64 `json:"max_buffered,omitempty"`

	// Keep using accounts that answer on paid extra usage. Default: false,
	// they rest until their window resets while others can serve.
	SpendExtraUsage bool `json:"spend_extra_usage,omitempty"`

	// Who needs a client key: local (everyone but clients on this machine),
	// keys (everyone) or open (no one). Default: local.
	Access string `json:"access,omitempty"`

	// The dashboard and the read-only JSON under /api/. Default: enabled.
	Dashboard *DashboardConfig `json:"dashboard,omitempty"`

	// Tell clients the name of the account that served them. Default: true.
	ExposeAccount *bool `json:"expose_account,omitempty"`

	// Lets Claude Code sign in by /login. Default: it cannot.
	SignIn *SignInConfig `json:"sign_in,omitempty"`

	// Settings that a signed-in Claude Code takes from here. The first entry
	// that is for a client counts. Default: none.
	Settings []ManagedSettingsConfig `json:"settings,omitempty"`

	// What becomes of the telemetry that Claude Code sends to the gateway it
	// is signed in to. Default: it is dropped with sign_in; without, there is
	// no such endpoint.
	Telemetry *TelemetryConfig `json:"telemetry,omitempty"`

	// How requests travel upstream: a transport of Caddy's reverse_proxy.
	// Default: http, version 1.1.
	TransportRaw json.RawMessage `json:"transport,omitempty" caddy:"namespace=http.reverse_proxy.transport inline_key=protocol"`

	app       *App
	server    *caddyhttp.Server // nil if no server of the http app has the handler
	upstream  *url.URL
	policy    selection.Policy
	access    access.Mode
	transport http.RoundTripper
	site      *site
	managed   []managedSettings
	telemetry *signin.Telemetry // nil = not offered
	buffered  *atomic.Int64     // bytes of request bodies in memory
	logger    *zap.Logger
}

// DashboardConfig configures the dashboard.
type DashboardConfig struct {
	// Default: true.
	Enabled *bool `json:"enabled,omitempty"`
	// Origins, besides the site's own, whose pages may read the JSON.
	CORS []string `json:"cors,omitempty"`
}

// TelemetryConfig says what becomes of telemetry.
type TelemetryConfig struct {
	// The OTLP endpoint (HTTP) that gets it; /v1/metrics, /v1/logs and
	// /v1/traces are added to its path. Default: telemetry is dropped.
	Forward string `json:"forward,omitempty"`
}

// Defaults of the handler's settings.
const (
	defaultUpstream          = "https://api.anthropic.com"
	defaultPolicy            = "least_used"
	defaultSessionAffinity   = time.Hour
	defaultRetries           = 3
	defaultRetryDelay        = time.Second
	defaultRetryBackoff      = 2
	defaultMaxTries          = 12
	defaultTryDuration       = time.Minute
	defaultFirstEventTimeout = 2 * time.Minute
	defaultAnswerTimeout     = 10 * time.Minute
	defaultIdleTimeout       = 270 * time.Second
	defaultMaxBody           = 32 << 20
	defaultMaxBuffered       = 512 << 20
)

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.claude_balancer",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision fills in defaults and loads the guest modules.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.logger = ctx.Logger()
	h.buffered = new(atomic.Int64)
	h.setDefaults()

	app, err := ctx.App("claude_balancer")
	if err != nil {
		return fmt.Errorf("getting the claude_balancer app: %w", err)
	}
	h.app = app.(*App)
	h.server, _ = ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if h.upstream, err = parseUpstream(h.Upstream); err != nil {
		return err
	}
	if h.access, err = access.ParseMode(h.Access); err != nil {
		return err
	}
	policy, err := ctx.LoadModule(h, "PolicyRaw")
	if err != nil {
		return fmt.Errorf("loading the policy: %w", err)
	}
	var ok bool
	if h.policy, ok = policy.(selection.Policy); !ok {
		return fmt.Errorf("the policy module %T does not select", policy)
	}
	if h.transport, err = loadTransport(ctx, h, &h.TransportRaw); err != nil {
		return err
	}
	if h.Dashboard == nil || h.Dashboard.Enabled == nil || *h.Dashboard.Enabled {
		h.site = newSite(h)
	}
	if h.SignIn != nil {
		if err := h.SignIn.provision(); err != nil {
			return err
		}
		if h.Telemetry == nil {
			h.Telemetry = new(TelemetryConfig) // else clients log an error at each flush
		}
	}
	if h.managed, err = loadManagedSettings(h.Settings); err != nil {
		return err
	}
	if h.Telemetry != nil {
		if h.telemetry, err = signin.NewTelemetry(h.Telemetry.Forward, withReplacer{h.app.transport}, h.logger.Named("telemetry")); err != nil {
			return err
		}
	}
	h.app.use(h)
	return nil
}

func (h *Handler) setDefaults() {
	setDefault(&h.Upstream, defaultUpstream)
	setDefault(&h.Retries, defaultRetries)
	setDefault(&h.RetryDelay, caddy.Duration(defaultRetryDelay))
	setDefault(&h.RetryBackoff, defaultRetryBackoff)
	setDefault(&h.MaxTries, defaultMaxTries)
	setDefault(&h.TryDuration, caddy.Duration(defaultTryDuration))
	setDefault(&h.FirstEventTimeout, caddy.Duration(defaultFirstEventTimeout))
	setDefault(&h.AnswerTimeout, caddy.Duration(defaultAnswerTimeout))
	setDefault(&h.IdleTimeout, caddy.Duration(defaultIdleTimeout))
	setDefault(&h.MaxBody, defaultMaxBody)
	setDefault(&h.MaxBuffered, defaultMaxBuffered)
	setDefault(&h.Access, access.ModeLocal.String())
	if h.PolicyRaw == nil {
		h.PolicyRaw = json.RawMessage(`{"name":"` + defaultPolicy + `"}`)
	}
	if h.SessionAffinity == nil {
		keep := caddy.Duration(defaultSessionAffinity)
		h.SessionAffinity = &keep
	}
	if h.ExposeAccount == nil {
		yes := true
		h.ExposeAccount = &yes
	}
}

func setDefault[T comparable](v *T, value T) {
	var zero T
	if *v == zero {
		*v = value
	}
}

// Validate checks the settings.
func (h *Handler) Validate() error {
	for _, d := range []struct {
		name  string
		value caddy.Duration
	}{
		{"session_affinity", *h.SessionAffinity}, {"retry_delay", h.RetryDelay}, {"try_duration", h.TryDuration},
		{"first_event_timeout", h.FirstEventTimeout}, {"answer_timeout", h.AnswerTimeout}, {"idle_timeout", h.IdleTimeout},
	} {
		if d.value < 0 {
			return fmt.Errorf("%s is %s, but cannot be negative", d.name, time.Duration(d.value))
		}
	}
	switch {
	case time.Duration(*h.SessionAffinity) > selection.SessionsKept:
		return fmt.Errorf("session_affinity is %s, but may be %s at most", time.Duration(*h.SessionAffinity), selection.SessionsKept)
	case h.Retries < 1:
		return fmt.Errorf("retries is %d, but must be at least 1", h.Retries)
	case h.MaxTries < 1:
		return fmt.Errorf("max_tries is %d, but must be at least 1", h.MaxTries)
	case !(h.RetryBackoff >= 1 && h.RetryBackoff <= 100):
		return fmt.Errorf("retry_backoff is %v, but must be from 1 to 100", h.RetryBackoff)
	case h.MaxBody < 0 || h.MaxBuffered < h.MaxBody:
		return fmt.Errorf("max_buffered (%d bytes) must hold at least one max_body (%d bytes)", h.MaxBuffered, h.MaxBody)
	}
	return nil
}

func parseUpstream(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, fmt.Errorf("upstream: %w", err)
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return nil, fmt.Errorf("upstream is %q, but must be http:// or https:// and a host", text)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("upstream must have neither credentials nor a query nor a fragment")
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	return u, nil
}

// ServeHTTP implements caddyhttp.MiddlewareHandler: it says which path goes
// where.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if err := access.CleanPath(r); err != nil {
		refuseBadPath.write(w, r, newID())
		return nil
	}
	if r.Header.Get("Upgrade") != "" {
		refuseUpgrade.write(w, r, newID())
		return nil
	}
	path := r.URL.Path
	switch {
	case strings.HasPrefix(path, "/v1/"):
		if r.Method == http.MethodOptions {
			w.WriteHeader(http.StatusNoContent)
			return nil
		}
		if h.telemetry != nil && r.Method == http.MethodPost && signin.IsTelemetry(path) {
			h.serveTelemetry(w, r)
			return nil
		}
		h.serveAPI(w, r)
		return nil
	case r.Method == http.MethodHead && (path == "/" || path == "/api/hello"):
		// Claude Code asks this before it has any credential.
		w.WriteHeader(http.StatusOK)
		return nil
	case path == usagePath:
		h.serveKnown(w, r, func(rt *runtime, who access.Who) { h.serveUsage(w, r, rt, who) })
		return nil
	case h.SignIn != nil && signin.Owns(path):
		h.serveSignIn(w, r)
		return nil
	case path == signin.ManagedSettingsPath && (h.SignIn != nil || h.managed != nil):
		h.serveKnown(w, r, func(_ *runtime, who access.Who) { h.serveManagedSettings(w, r, who) })
		return nil
	case h.site != nil && dashboard.Owns(path):
		h.site.ServeHTTP(w, r)
		return nil
	}
	return next.ServeHTTP(w, r)
}

// serveAPI lets a request to the API in, or refuses it.
func (h *Handler) serveAPI(w http.ResponseWriter, r *http.Request) {
	rt := h.app.runtime
	if !rt.enter(r) {
		return // the client left before the store was open, or this configuration is gone
	}
	defer rt.release()

	target := anthropic.Classify(r.Method, r.URL.Path)
	who, refused := h.decide(r, rt)
	if refused == nil {
		refused = access.RefuseEndpoint(who, target.Endpoint)
	}
	if refused != nil {
		refused = rt.guard.Refuse(peerOf(r).Client, refused)
		h.notLetIn(r, who, refused)
		asRefusal(refused).write(w, r, newID())
		return
	}
	h.proxy(w, r, rt, target, who)
}

// notLetIn counts a refusal, and tells those who debug why the client does not
// count as local.
func (h *Handler) notLetIn(r *http.Request, who access.Who, refused *access.Refusal) {
	countRefused(refused)
	if c := h.logger.Check(zapcore.DebugLevel, "not let in"); c != nil {
		c.Write(zap.String("path", r.URL.Path), zap.Int("status", refused.Status), zap.String("type", refused.Type),
			zap.Bool("bad_key", refused.BadKey), zap.String("not_local", who.Reason))
	}
}

// enter takes a hold of the runtime, once its store is open.
func (rt *runtime) enter(r *http.Request) bool {
	select {
	case <-rt.ready:
		return rt.acquire()
	case <-r.Context().Done():
		return false
	}
}

// asRefusal gives the access room's refusal this room's form.
func asRefusal(a *access.Refusal) *refusal {
	return &refusal{status: a.Status, typ: a.Type, message: a.Message, header: a.Header}
}

// peerOf tells where the request came from: the peer of its connection, and
// the client that Caddy takes it to be from after its trusted proxies.
func peerOf(r *http.Request) access.Peer {
	p := access.Peer{Remote: parseAddr(r.RemoteAddr)}
	if addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		p.Unix = strings.HasPrefix(addr.Network(), "unix")
	}
	p.Client = p.Remote
	if client, ok := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string); ok {
		p.Client = parseAddr(client)
	}
	return p
}

// parseAddr reads an address with or without a port; anything else is the
// invalid address, which is never local.
func parseAddr(s string) netip.Addr {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr()
	}
	addr, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}
	}
	return addr
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.Validator             = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
