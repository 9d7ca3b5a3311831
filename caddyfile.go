package claudebalancer

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/dustin/go-humanize"

	"github.com/claude-balancer/claude-balancer/access"
	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/oauth"
	"github.com/claude-balancer/claude-balancer/secret"
	"github.com/claude-balancer/claude-balancer/selection"
)

func init() {
	httpcaddyfile.RegisterGlobalOption("claude_balancer", parseApp)
	httpcaddyfile.RegisterHandlerDirective("claude_balancer", parseHandler)
	httpcaddyfile.RegisterDirectiveOrder("claude_balancer", httpcaddyfile.Before, "reverse_proxy")
}

// parseApp parses the global option; a second block adds to the first.
func parseApp(d *caddyfile.Dispenser, existing any) (any, error) {
	a := new(App)
	if former, ok := existing.(httpcaddyfile.App); ok {
		if err := json.Unmarshal(former.Value, a); err != nil {
			return nil, d.Errf("reading the former claude_balancer block: %v", err)
		}
	}
	if err := a.UnmarshalCaddyfile(d); err != nil {
		return nil, err
	}
	return httpcaddyfile.App{Name: "claude_balancer", Value: caddyconfig.JSON(a, nil)}, nil
}

func parseHandler(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler := new(Handler)
	if err := handler.UnmarshalCaddyfile(h.Dispenser); err != nil {
		return nil, err
	}
	return handler, nil
}

// block calls parse for each line of a block with the line's first word, after
// it has made sure that words which may stand once do not stand twice.
func block(d *caddyfile.Dispenser, repeatable []string, parse func(word string) error) error {
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		word := d.Val()
		if seen[word] && !slices.Contains(repeatable, word) {
			return d.Errf("%s is already specified", word)
		}
		seen[word] = true
		if err := parse(word); err != nil {
			return err
		}
	}
	return nil
}

// UnmarshalCaddyfile sets up the App from Caddyfile tokens. Syntax:
//
//	claude_balancer {
//		store sqlite [<path>]
//		store postgres {env.<name>}|{file.<path>}
//		encryption_key <new> [<old>]
//		history <age>|off [<max_rows>]
//		plan <name> {
//			models <glob>...
//			except <glob>...
//		}
//		oauth {
//			preset current|legacy
//			authorize_url <plan> <url>
//			token_url <url>
//			profile_url <url>
//			redirect_uri <url>
//			client_id <id>
//			scopes <scope>...
//			refresh_before <duration>
//		}
//		price <glob> <in> <out> <write5m> <write1h> <read>
//		transport <name> {
//			...
//		}
//	}
func (a *App) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume option name
	if d.NextArg() {
		return d.ArgErr()
	}
	return block(d, []string{"plan", "price"}, func(word string) error {
		switch word {
		case "store":
			return a.parseStore(d)
		case "encryption_key":
			return a.parseEncryptionKey(d)
		case "history":
			return a.parseHistory(d)
		case "plan":
			return a.parsePlan(d)
		case "oauth":
			return a.parseOAuth(d)
		case "price":
			return a.parsePrice(d)
		case "transport":
			return parseTransport(d, &a.TransportRaw)
		}
		return d.Errf("unrecognized option '%s': allowed are store, encryption_key, history, plan, oauth, price and transport", word)
	})
}

func (a *App) parseStore(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.ArgErr()
	}
	a.Store = &StoreConfig{Driver: d.Val()}
	args := d.RemainingArgs()
	switch a.Store.Driver {
	case driverPostgres: // its errors repeat nothing that may hold a password
		if len(args) != 1 {
			return d.Err("store postgres needs the database's URL, as {env.NAME} or {file./path}")
		}
		if a.Store.URL = args[0]; !secret.IsReference(args[0]) {
			return d.Err("store postgres must be followed by {env.NAME} or {file./path}, not the URL itself: it holds a password, and Caddy stores and shows its configuration")
		}
	case driverSQLite:
		if len(args) > 1 {
			return d.ArgErr()
		}
		if len(args) == 1 {
			a.Store.Path = args[0]
		}
	default:
		return d.Errf("unrecognized store '%s': allowed are sqlite and postgres", a.Store.Driver)
	}
	return nil
}

func (a *App) parseEncryptionKey(d *caddyfile.Dispenser) error {
	a.EncryptionKey = d.RemainingArgs()
	if len(a.EncryptionKey) == 0 || len(a.EncryptionKey) > 2 {
		return d.ArgErr()
	}
	for _, key := range a.EncryptionKey {
		if !secret.IsReference(key) {
			return d.Err("encryption_key must be {env.NAME} or {file./path}, not the key itself: Caddy stores and shows its configuration")
		}
	}
	return nil
}

func (a *App) parseHistory(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) == 0 || len(args) > 2 || args[0] == "off" && len(args) > 1 {
		return d.ArgErr()
	}
	a.History = new(HistoryConfig)
	if args[0] == "off" {
		a.History.Off = true
		return nil
	}
	var err error
	if a.History.MaxAge, err = parseDuration(d, "history", args[0], time.Minute); err != nil {
		return err
	}
	if len(args) == 2 {
		rows, err := strconv.ParseInt(args[1], 10, 64)
		if err != nil || rows < 1 {
			return d.Errf("history: the number of rows is '%s', but must be a whole number of at least 1", args[1])
		}
		a.History.MaxRows = rows
	}
	return nil
}

// checkPlanName: plans are told apart by people, as accounts are.
func checkPlanName(name string) error {
	if valid, err := api.ValidName(name); err != nil || valid != name {
		return fmt.Errorf("plan is %q, but must be a name of 1 to %d printable characters", name, api.MaxNameLength)
	}
	return nil
}

func (a *App) parsePlan(d *caddyfile.Dispenser) error {
	var name string
	if !d.AllArgs(&name) {
		return d.ArgErr()
	}
	if _, twice := a.Plans[name]; twice {
		return d.Errf("plan %s is already specified", name)
	}
	if err := checkPlanName(name); err != nil {
		return d.WrapErr(err)
	}
	var plan selection.Plan
	err := block(d, nil, func(word string) error {
		globs := d.RemainingArgs()
		if len(globs) == 0 {
			return d.ArgErr()
		}
		for _, g := range globs {
			if strings.ContainsAny(g, ", \t") {
				return d.Errf("plan %s: '%s' is no glob: globs are separated by blanks, without commas", name, g)
			}
		}
		switch word {
		case "models":
			plan.Models = globs
		case "except":
			plan.Except = globs
		default:
			return d.Errf("unrecognized option '%s' of plan %s: allowed are models and except", word, name)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(plan.Models) == 0 {
		return d.Errf("plan %s needs a line with its models, such as: models *sonnet* *haiku*", name)
	}
	if a.Plans == nil {
		a.Plans = make(selection.Plans)
	}
	a.Plans[name] = plan
	return nil
}

func (a *App) parseOAuth(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.ArgErr()
	}
	c := new(OAuthConfig)
	a.OAuth = c
	return block(d, []string{"authorize_url"}, func(word string) error {
		switch word {
		case "preset":
			if !d.AllArgs(&c.Preset) {
				return d.ArgErr()
			}
			if _, err := oauth.Preset(c.Preset); err != nil {
				return d.Errf("preset is '%s', but may be current or legacy", c.Preset)
			}
			return nil
		case "authorize_url":
			return c.parseAuthorizeURL(d)
		case "token_url":
			return parseURL(d, &c.TokenURL)
		case "profile_url":
			return parseURL(d, &c.ProfileURL)
		case "redirect_uri":
			return parseURL(d, &c.RedirectURI)
		case "client_id":
			return parseWord(d, &c.ClientID)
		case "scopes":
			if c.Scopes = d.RemainingArgs(); len(c.Scopes) == 0 {
				return d.ArgErr()
			}
			return nil
		case "refresh_before":
			return parseDurationArg(d, &c.RefreshBefore, time.Second)
		}
		return d.Errf("unrecognized option '%s' of oauth: allowed are preset, authorize_url, token_url, profile_url, redirect_uri, client_id, scopes and refresh_before", word)
	})
}

func (c *OAuthConfig) parseAuthorizeURL(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.ArgErr()
	}
	plan := d.Val()
	if _, twice := c.AuthorizeURL[plan]; twice {
		return d.Errf("authorize_url of plan %s is already specified", plan)
	}
	var u string
	if err := parseURL(d, &u); err != nil {
		return err
	}
	if c.AuthorizeURL == nil {
		c.AuthorizeURL = make(map[string]string)
	}
	c.AuthorizeURL[plan] = u
	return nil
}

func (a *App) parsePrice(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) != 6 {
		return d.Errf("price takes a glob and five prices in US dollars per million tokens (in, out, write5m, write1h, read), but there are %d words", len(args))
	}
	p := PriceConfig{Models: args[0]}
	for i, to := range []*float64{&p.Input, &p.Output, &p.Write5m, &p.Write1h, &p.Read} {
		usd, err := strconv.ParseFloat(args[i+1], 64)
		if err != nil || !(usd >= 0 && usd < 1e6) {
			return d.Errf("price %s: '%s' is no price: it must be a number of US dollars, 0 or more", p.Models, args[i+1])
		}
		*to = usd
	}
	a.Prices = append(a.Prices, p)
	return nil
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. No block is
// needed: every line has a default. Syntax:
//
//	claude_balancer [<matcher>] {
//		upstream https://api.anthropic.com
//		policy least_used|headroom|round_robin|random|priority
//		session_affinity 1h|off
//		retries 3
//		retry_delay 1s
//		retry_backoff 2
//		max_tries 12
//		try_duration 60s
//		first_event_timeout 2m
//		answer_timeout 10m
//		idle_timeout 270s
//		max_body 32MiB
//		max_buffered 512MiB
//		spend_extra_usage on|off
//		access local|keys|open
//		dashboard on|off
//		dashboard {
//			cors <origin>...
//		}
//		expose_account on|off
//		sign_in on|off
//		sign_in {
//			access_lifetime 8h
//			refresh_lifetime 30d
//			login_notice <text>
//			users [<placeholder>] {
//				models <glob>...
//				accounts <name>...
//				rpm <n>
//				max_in_flight <n>
//				budget_usd <amount>
//				budget_period day|week|month
//			}
//		}
//		settings <file> [<glob>...]
//		telemetry drop|forward <url>
//		transport <name> {
//			...
//		}
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume directive name
	if d.NextArg() {
		return d.ArgErr()
	}
	return block(d, []string{"settings"}, func(word string) error {
		switch word {
		case "upstream":
			if err := parseWord(d, &h.Upstream); err != nil {
				return err
			}
			if _, err := parseUpstream(h.Upstream); err != nil {
				return d.WrapErr(err)
			}
			return nil
		case "policy":
			return h.parsePolicy(d)
		case "session_affinity":
			return h.parseAffinity(d)
		case "retries":
			return parseCount(d, &h.Retries)
		case "retry_delay":
			return parseDurationArg(d, &h.RetryDelay, time.Millisecond)
		case "retry_backoff":
			return h.parseBackoff(d)
		case "max_tries":
			return parseCount(d, &h.MaxTries)
		case "try_duration":
			return parseDurationArg(d, &h.TryDuration, time.Millisecond)
		case "first_event_timeout":
			return parseDurationArg(d, &h.FirstEventTimeout, time.Millisecond)
		case "answer_timeout":
			return parseDurationArg(d, &h.AnswerTimeout, time.Millisecond)
		case "idle_timeout":
			return parseDurationArg(d, &h.IdleTimeout, time.Millisecond)
		case "max_body":
			return parseSize(d, &h.MaxBody)
		case "max_buffered":
			return parseSize(d, &h.MaxBuffered)
		case "spend_extra_usage":
			return parseSwitch(d, &h.SpendExtraUsage)
		case "access":
			return h.parseAccess(d)
		case "dashboard":
			return h.parseDashboard(d)
		case "expose_account":
			h.ExposeAccount = new(bool)
			return parseSwitch(d, h.ExposeAccount)
		case "sign_in":
			return h.parseSignIn(d)
		case "settings":
			return h.parseSettings(d)
		case "telemetry":
			return h.parseTelemetry(d)
		case "transport":
			return parseTransport(d, &h.TransportRaw)
		}
		return d.Errf("unrecognized option '%s': allowed are upstream, policy, session_affinity, retries, retry_delay, retry_backoff, max_tries, try_duration, first_event_timeout, answer_timeout, idle_timeout, max_body, max_buffered, spend_extra_usage, access, dashboard, expose_account, sign_in, settings, telemetry and transport", word)
	})
}

func (h *Handler) parsePolicy(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.ArgErr()
	}
	name := d.Val()
	const namespace = "claude_balancer.selection_policies"
	if _, err := caddy.GetModule(namespace + "." + name); err != nil {
		var allowed []string
		for _, m := range caddy.GetModules(namespace) {
			allowed = append(allowed, m.ID.Name())
		}
		return d.Errf("policy is '%s', but may be %s", name, strings.Join(allowed, ", "))
	}
	module, err := caddyfile.UnmarshalModule(d, namespace+"."+name)
	if err != nil {
		return err
	}
	if _, ok := module.(selection.Policy); !ok {
		return d.Errf("module %s.%s does not select", namespace, name)
	}
	h.PolicyRaw = caddyconfig.JSONModuleObject(module, "name", name, nil)
	return nil
}

func (h *Handler) parseAffinity(d *caddyfile.Dispenser) error {
	var text string
	if err := parseWord(d, &text); err != nil {
		return err
	}
	h.SessionAffinity = new(caddy.Duration)
	if text == "off" {
		return nil
	}
	keep, err := parseDuration(d, "session_affinity", text, time.Second)
	if err != nil {
		return err
	}
	if time.Duration(keep) > selection.SessionsKept {
		return d.Errf("session_affinity is %s, but may be 7d at most", text)
	}
	*h.SessionAffinity = keep
	return nil
}

func (h *Handler) parseBackoff(d *caddyfile.Dispenser) error {
	var text string
	if err := parseWord(d, &text); err != nil {
		return err
	}
	factor, err := strconv.ParseFloat(text, 64)
	if err != nil || !(factor >= 1 && factor <= 100) {
		return d.Errf("retry_backoff is '%s', but must be a number from 1 to 100", text)
	}
	h.RetryBackoff = factor
	return nil
}

func (h *Handler) parseAccess(d *caddyfile.Dispenser) error {
	if err := parseWord(d, &h.Access); err != nil {
		return err
	}
	if _, err := access.ParseMode(h.Access); err != nil {
		return d.Errf("access is '%s', but may be local, keys or open", h.Access)
	}
	return nil
}

func (h *Handler) parseDashboard(d *caddyfile.Dispenser) error {
	h.Dashboard = new(DashboardConfig)
	if d.CountRemainingArgs() > 0 {
		h.Dashboard.Enabled = new(bool)
		return parseSwitch(d, h.Dashboard.Enabled)
	}
	return block(d, nil, func(word string) error {
		if word != "cors" {
			return d.Errf("unrecognized option '%s' of dashboard: allowed is cors", word)
		}
		h.Dashboard.CORS = d.RemainingArgs()
		if len(h.Dashboard.CORS) == 0 {
			return d.ArgErr()
		}
		for _, origin := range h.Dashboard.CORS {
			if !isOrigin(origin) {
				return d.Errf("cors: '%s' is no origin: it must look like https://ops.example.com, without a path", origin)
			}
		}
		return nil
	})
}

func isOrigin(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && s == u.Scheme+"://"+u.Host
}

// The parsers of single values. Their errors name the word, the value and what
// is allowed.

func parseWord(d *caddyfile.Dispenser, to *string) error {
	if !d.AllArgs(to) {
		return d.ArgErr()
	}
	return nil
}

func parseURL(d *caddyfile.Dispenser, to *string) error {
	word := d.Val()
	if err := parseWord(d, to); err != nil {
		return err
	}
	u, err := url.Parse(*to)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return d.Errf("%s is '%s', but must be an http or https URL", word, *to)
	}
	return nil
}

func parseDurationArg(d *caddyfile.Dispenser, to *caddy.Duration, least time.Duration) error {
	word := d.Val()
	var text string
	err := parseWord(d, &text)
	if err != nil {
		return err
	}
	*to, err = parseDuration(d, word, text, least)
	return err
}

func parseDuration(d *caddyfile.Dispenser, word, text string, least time.Duration) (caddy.Duration, error) {
	v, err := caddy.ParseDuration(text)
	if err != nil || v < least {
		return 0, d.Errf("%s is '%s', but must be a duration of at least %s, such as 30s, 5m, 2h or 7d", word, text, least)
	}
	return caddy.Duration(v), nil
}

func parseCount(d *caddyfile.Dispenser, to *int) error {
	word := d.Val()
	var text string
	if err := parseWord(d, &text); err != nil {
		return err
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > 1000 {
		return d.Errf("%s is '%s', but must be a whole number from 1 to 1000", word, text)
	}
	*to = n
	return nil
}

func parseSize(d *caddyfile.Dispenser, to *int64) error {
	word := d.Val()
	var text string
	if err := parseWord(d, &text); err != nil {
		return err
	}
	n, err := humanize.ParseBytes(text)
	if err != nil || n < 1 || n > 1<<40 {
		return d.Errf("%s is '%s', but must be a size such as 512KiB, 32MiB or 1GiB", word, text)
	}
	*to = int64(n)
	return nil
}

func parseSwitch(d *caddyfile.Dispenser, to *bool) error {
	word := d.Val()
	var text string
	if err := parseWord(d, &text); err != nil {
		return err
	}
	switch text {
	case "on", "off":
		*to = text == "on"
		return nil
	}
	return d.Errf("%s is '%s', but may be on or off", word, text)
}

func parseTransport(d *caddyfile.Dispenser, to *json.RawMessage) error {
	if !d.NextArg() {
		return d.ArgErr()
	}
	name := d.Val()
	module, err := caddyfile.UnmarshalModule(d, "http.reverse_proxy.transport."+name)
	if err != nil {
		return err
	}
	*to = caddyconfig.JSONModuleObject(module, "protocol", name, nil)
	return nil
}

// Interface guards
var (
	_ caddyfile.Unmarshaler = (*App)(nil)
	_ caddyfile.Unmarshaler = (*Handler)(nil)
)
