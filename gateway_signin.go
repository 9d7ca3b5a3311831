package claudebalancer

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/claude-balancer/claude-balancer/access"
	"github.com/claude-balancer/claude-balancer/anthropic"
	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/signin"
	"github.com/claude-balancer/claude-balancer/store"
)

// Claude Code's sign-in, and the settings that it takes from the gateway it is
// signed in to.

// SignInConfig lets Claude Code sign in by /login. A person approves each
// sign-in on the site's page /device, with a client key or as a user.
type SignInConfig struct {
	// How long an access token is good. Clients get a new one by themselves.
	// Default: 8h.
	AccessLifetime caddy.Duration `json:"access_lifetime,omitempty"`

	// How long a sign-in lasts until somebody must approve it again.
	// Default: 30d.
	RefreshLifetime caddy.Duration `json:"refresh_lifetime,omitempty"`

	// A text that Claude Code shows beside the code, at most 500 characters.
	LoginNotice string `json:"login_notice,omitempty"`

	// Lets users approve whom a handler in front has authenticated. Default:
	// only a client key can approve.
	Users *SignInUsers `json:"users,omitempty"`
}

// SignInUsers says who the users are, and what their client keys are like. A
// user's key has the user's name. It is made when the user first approves; later
// it is changed like any other.
type SignInUsers struct {
	// The placeholder that holds the user's name; empty = nobody is
	// authenticated. Default: {http.auth.user.id}
	ID string `json:"id,omitempty"`

	// Globs of the models that the key may use. Default: all.
	Models []string `json:"models,omitempty"`
	// Names of the accounts that the key may use. Default: all.
	Accounts []string `json:"accounts,omitempty"`
	// Requests in any minute. Default: no bound.
	RPM int `json:"rpm,omitempty"`
	// Requests at a time. Default: no bound.
	MaxInFlight int `json:"max_in_flight,omitempty"`
	// US dollars in a period. Default: no bound.
	BudgetUSD *float64 `json:"budget_usd,omitempty"`
	// day, week or month. Default: month.
	BudgetPeriod string `json:"budget_period,omitempty"`
}

// ManagedSettingsConfig is a file of settings for Claude Code, in the form of
// its managed-settings.json. It is read when the configuration is loaded.
type ManagedSettingsConfig struct {
	File string `json:"file"`
	// Globs of the names of the client keys that get it. Default: all clients.
	Keys []string `json:"keys,omitempty"`
}

const defaultUserID = "{http.auth.user.id}"

// provision checks the settings and fills in defaults.
func (c *SignInConfig) provision() error {
	setDefault(&c.AccessLifetime, caddy.Duration(signin.DefaultAccessLifetime))
	setDefault(&c.RefreshLifetime, caddy.Duration(signin.DefaultLifetime))
	access, refresh := time.Duration(c.AccessLifetime), time.Duration(c.RefreshLifetime)
	switch {
	case access < time.Minute:
		return fmt.Errorf("sign_in: access_lifetime is %s, but must be at least 1m", access)
	case refresh < access:
		return fmt.Errorf("sign_in: refresh_lifetime (%s) must not be shorter than access_lifetime (%s)", refresh, access)
	case utf8.RuneCountInString(c.LoginNotice) > signin.MaxNotice:
		return fmt.Errorf("sign_in: login_notice has %d characters, but may have %d", utf8.RuneCountInString(c.LoginNotice), signin.MaxNotice)
	case strings.ContainsFunc(c.LoginNotice, func(r rune) bool { return unicode.IsControl(r) && r != '\n' }):
		return errors.New("sign_in: login_notice must be plain text without control characters")
	case c.Users == nil:
		return nil
	}
	setDefault(&c.Users.ID, defaultUserID)
	if _, err := validateUserKey(c.Users.newKey("somebody")); err != nil {
		return fmt.Errorf("sign_in: users: %w", err)
	}
	return nil
}

func validateUserKey(k api.NewKey) (store.Key, error) { return access.ValidateNewKey(k, time.Now()) }

func (u *SignInUsers) newKey(name string) api.NewKey {
	return api.NewKey{
		Name: name, Role: api.RoleClient, Models: u.Models, Accounts: u.Accounts,
		RPM: &u.RPM, MaxInFlight: &u.MaxInFlight, BudgetUSD: u.BudgetUSD, BudgetPeriod: u.BudgetPeriod,
	}
}

// serveSignIn answers clients that sign in, and the person who approves.
func (h *Handler) serveSignIn(w http.ResponseWriter, r *http.Request) {
	rt := h.app.runtime
	if !rt.enter(r) {
		return
	}
	defer rt.release()
	rt.signIns.ServeHTTP(w, r, &signin.Settings{
		AccessLifetime: time.Duration(h.SignIn.AccessLifetime),
		Lifetime:       time.Duration(h.SignIn.RefreshLifetime),
		Notice:         h.SignIn.LoginNotice,
	}, h.callerOf(r))
}

func (h *Handler) callerOf(r *http.Request) signin.Caller {
	scheme, host := originOf(r)
	from := signin.Caller{
		BaseURL: scheme + "://" + host + pathBefore(r),
		Secure:  scheme == "https" || access.LoopbackHost(host),
		Client:  peerOf(r).Client,
	}
	if users := h.SignIn.Users; users != nil {
		if name := userOf(r, users.ID); name != "" {
			from.User = &signin.User{Name: name, Key: func(ctx context.Context) (id, keyName string, err error) {
				return h.app.runtime.keyOfUser(ctx, users.newKey(name))
			}}
		}
	}
	return from
}

// originOf returns the scheme and host that the client used, as far as proxies
// in front are trusted to tell.
func originOf(r *http.Request) (scheme, host string) {
	scheme, host = "http", r.Host
	if r.TLS != nil {
		scheme = "https"
	}
	if trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool); !trusted {
		return scheme, host
	}
	if told := firstOf(r.Header.Get("X-Forwarded-Proto")); told == "http" || told == "https" {
		scheme = told
	}
	if told := firstOf(r.Header.Get("X-Forwarded-Host")); told != "" {
		host = told
	}
	return scheme, host
}

// firstOf is what the outermost of several proxies said.
func firstOf(list string) string {
	first, _, _ := strings.Cut(list, ",")
	return strings.ToLower(strings.TrimSpace(first))
}

// pathBefore is what handlers in front have taken from the path, as
// `handle_path /claude/*` does.
func pathBefore(r *http.Request) string {
	original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	if !ok || original.URL == nil {
		return ""
	}
	before, found := strings.CutSuffix(original.URL.Path, r.URL.Path)
	if !found {
		return ""
	}
	return before
}

// userOf is the name of the user whom a handler in front has authenticated.
func userOf(r *http.Request, placeholder string) string {
	replacer, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return ""
	}
	return strings.TrimSpace(replacer.ReplaceAll(placeholder, ""))
}

// keyOfUser returns the client key of a user, and makes it if there is none.
func (rt *runtime) keyOfUser(ctx context.Context, n api.NewKey) (id, name string, err error) {
	k, err := rt.storedKey(ctx, n.Name)
	if notFound := (*api.Error)(nil); errors.As(err, &notFound) {
		_, err = rt.AddKey(api.WithActor(ctx, "user "+n.Name), n)
		if conflict := (*api.Error)(nil); errors.As(err, &conflict) && conflict.Status == http.StatusConflict {
			err = nil // the user approves twice at once
		}
		if err == nil {
			k, err = rt.storedKey(ctx, n.Name)
		}
	}
	switch {
	case err != nil:
		return "", "", err
	case k.Role != api.RoleClient:
		return "", "", api.BadRequest("Your client key may only read the dashboard. Ask the operator.")
	case !k.ExpiresAt.IsZero() && !rt.now().Before(k.ExpiresAt):
		return "", "", api.BadRequest("Your client key has expired. Ask the operator.")
	}
	return k.ID, k.Name, nil
}

// auditAs is audit for one whom the context does not name.
func (rt *runtime) auditAs(ctx context.Context, what, who, detail string) {
	rt.audit(api.WithActor(ctx, who), what, detail)
}

// managedSettings are settings and the clients that get them.
type managedSettings struct {
	keys     []string
	settings *signin.ManagedSettings
}

// loadManagedSettings reads the files. The first that fits a client counts.
func loadManagedSettings(configs []ManagedSettingsConfig) ([]managedSettings, error) {
	var all []managedSettings
	for _, c := range configs {
		path, err := caddy.NewReplacer().ReplaceOrErr(c.File, true, true)
		if err != nil {
			return nil, fmt.Errorf("settings: %w", err)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("settings: %w", err)
		}
		settings, err := signin.NewManagedSettings(text)
		if err != nil {
			return nil, fmt.Errorf("settings: %s: %w", path, err)
		}
		all = append(all, managedSettings{c.Keys, settings})
	}
	return all, nil
}

// serveManagedSettings answers a signed-in client that asks for its settings.
func (h *Handler) serveManagedSettings(w http.ResponseWriter, r *http.Request, who access.Who) {
	for _, m := range h.managed {
		if m.isFor(who.Key) {
			m.settings.ServeHTTP(w, r)
			return
		}
	}
	refuseNoSettings.write(w, r, newID())
}

func (m *managedSettings) isFor(key *access.Key) bool {
	return len(m.keys) == 0 ||
		key != nil && slices.ContainsFunc(m.keys, func(glob string) bool { return anthropic.MatchGlob(glob, key.Name) })
}

var refuseNoSettings = &refusal{status: http.StatusNotFound, typ: typeNotFound, noRetry: true,
	message: "There are no managed settings for this client."}
