package admin

// Sub-commands about client keys.

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddyserver/caddy/v2"

	"github.com/claude-balancer/claude-balancer/api"
)

func (c *cli) keysCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keys <command>",
		Short: "Manages the keys that the balancer's own clients use",
	}
	c.group(cmd, c.keysAddCommand(), c.keysListCommand(), c.keysShowCommand(),
		c.keysSetCommand(), c.keysRevokeCommand(), c.keysRotateCommand())
	return cmd
}

func (c *cli) keysAddCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "add <name>",
		Short: "Issues a key and prints it, this once",
		Args:  named("name"),
	}
	keyFlags(cmd)
	cmd.RunE = c.run(func(ctx context.Context, e *env, args []string) error {
		body, err := keyMembers(cmd, e.now)
		if err != nil {
			return err
		}
		body["name"] = args[0]
		return ask(ctx, e, http.MethodPost, pathOf("keys"), body, func(k api.Key) {
			e.issued(k, `Key "%s" added. It is shown this once:`)
			e.warnOfAccounts(ctx, k)
		})
	})
	return cmd
}

// issued prints the credential alone on standard output, so that it can be
// piped to where it is kept.
func (e *env) issued(k api.Key, sentence string) {
	e.notes.line(sentence, k.Name)
	e.out.line("%s", k.Key)
	if k.Role == api.RoleViewer {
		e.notes.line("Open the dashboard with any user name and this key as the password.")
		return
	}
	e.notes.line("Clients send it as their API key or bearer token, for instance in ANTHROPIC_AUTH_TOKEN beside ANTHROPIC_BASE_URL.")
}

// warnOfAccounts tells of accounts that the key may use and that are not there:
// nothing would serve the key.
func (e *env) warnOfAccounts(ctx context.Context, k api.Key) {
	if len(k.Accounts) == 0 {
		return
	}
	accounts, err := fetch[[]api.Account](ctx, e, http.MethodGet, pathOf("accounts"), nil)
	if err != nil {
		return // the key is there all the same
	}
	for _, name := range k.Accounts {
		if !slices.ContainsFunc(accounts, func(a api.Account) bool { return a.Name == name }) {
			e.notes.line(`Warning: there is no account "%s".`, name)
		}
	}
}

func (c *cli) keysListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "Lists the keys",
		Args:  named(),
		RunE: c.run(func(ctx context.Context, e *env, _ []string) error {
			return ask(ctx, e, http.MethodGet, pathOf("keys"), nil, func(keys []api.Key) {
				if len(keys) == 0 {
					e.out.line(`No keys yet. Add one with "caddy claude-balancer keys add <name>".`)
					return
				}
				t := newTable("NAME", "ROLE", "MODELS", "ACCOUNTS", "EXPIRES", "LAST USED", ">SIGN-INS", ">RPM", ">IN FLIGHT", ">SPENT", ">BUDGET")
				for _, k := range keys {
					t.row(k.Name, k.Role, all(k.Models), all(k.Accounts), expiryWords(k.ExpiresAt, e.now), ago(k.LastUsed, e.now),
						bound(k.SignIns), bound(k.RPM), bound(k.MaxInFlight), dollars(&k.SpentUSD), budgetWords(k))
				}
				e.out.print(t.fit(e.columns, "SIGN-INS", "IN FLIGHT", "RPM", "LAST USED", "ACCOUNTS", "EXPIRES", "MODELS").String())
			})
		}),
	}
}

// forKey is a sub-command whose one argument is the name of a key.
func (c *cli) forKey(use, short string, do func(ctx context.Context, e *env, name string) error) *cobra.Command {
	return c.forName(use, short, c.keyNames, do)
}

func (c *cli) keysShowCommand() *cobra.Command {
	return c.forKey("show", "Tells all about a key but the key itself", func(ctx context.Context, e *env, name string) error {
		keys, err := fetch[[]api.Key](ctx, e, http.MethodGet, pathOf("keys"), nil)
		if err != nil {
			return err
		}
		for _, k := range keys {
			if k.Name == name {
				return presentValue(e, k, func() { describeKey(e.out, k, e.now) })
			}
		}
		return fmt.Errorf("key %q not found", name)
	})
}

func describeKey(out *printer, k api.Key, now time.Time) {
	out.line("%s", k.Name)
	field := func(label, value string) { out.line("  %-14s %s", label+":", value) }
	field("Role", k.Role)
	field("Models", all(k.Models))
	field("Accounts", all(k.Accounts))
	field("Created", clock(k.CreatedAt, now))
	field("Expires", expiryWords(k.ExpiresAt, now))
	field("Last used", ago(k.LastUsed, now))
	field("Signed in", bound(k.SignIns))
	field("Requests/min", bound(k.RPM))
	field("Max in flight", bound(k.MaxInFlight))
	field("Spent", dollars(&k.SpentUSD))
	field("Budget", budgetWords(k))
}

func (c *cli) keysSetCommand() *cobra.Command {
	var cmd *cobra.Command
	cmd = c.forKey("set", "Changes what a key may do", func(ctx context.Context, e *env, name string) error {
		body, err := keyMembers(cmd, e.now)
		if err != nil {
			return err
		}
		if len(body) == 0 {
			return errors.New("nothing to set: give at least one flag, such as --models or --budget-usd")
		}
		return ask(ctx, e, http.MethodPatch, pathOf("keys", name), body, func(k api.Key) {
			e.out.line(`Key "%s" updated.`, k.Name)
			e.warnOfAccounts(ctx, k)
		})
	})
	keyFlags(cmd)
	return cmd
}

func (c *cli) keysRevokeCommand() *cobra.Command {
	return c.forKey("revoke", "Ends a key", func(ctx context.Context, e *env, name string) error {
		return ask(ctx, e, http.MethodDelete, pathOf("keys", name), nil, func(struct{}) {
			e.out.line(`Key "%s" revoked.`, name)
		})
	})
}

func (c *cli) keysRotateCommand() *cobra.Command {
	var grace *string
	cmd := c.forKey("rotate", "Issues a key anew and prints it, this once", func(ctx context.Context, e *env, name string) error {
		d, err := caddy.ParseDuration(*grace)
		if err != nil {
			return fmt.Errorf("--grace %q is no duration: use for instance 1h or 7d", *grace)
		}
		body := rotation{GraceSeconds: int64(d / time.Second)}
		return ask(ctx, e, http.MethodPost, pathOf("keys", name, "rotate"), body, func(k api.Key) {
			e.issued(k, `Key "%s" rotated. The new one is shown this once:`)
		})
	})
	grace = cmd.Flags().String("grace", "0s", "How long the old key goes on working, such as 1h or 7d")
	return cmd
}

// keyFlags are the flags that add and set share.
func keyFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.String("role", "", "client (the default) for the API, viewer for the dashboard")
	flags.String("models", "", `Comma-separated patterns of the models it may use, or "all"`)
	flags.String("accounts", "", `Comma-separated names of the accounts it may use, or "all"`)
	flags.String("expires", "", `A duration from now such as 30d, a time (RFC 3339), or "never"`)
	flags.Int("rpm", 0, "Most requests a minute, 0 for no bound")
	flags.Int("max-in-flight", 0, "Most requests at a time, 0 for no bound")
	flags.String("budget-usd", "", `Most US dollars a period, or "none"`)
	flags.String("budget-period", "", "day, week or month")
	completeFlag(cmd, "role", api.RoleClient, api.RoleViewer)
	completeFlag(cmd, "budget-period", "day", "week", "month")
}

// keyMembers holds the members whose flags were given; null is the default.
func keyMembers(cmd *cobra.Command, now time.Time) (map[string]any, error) {
	flags := cmd.Flags()
	body := make(map[string]any)
	given(cmd, body, "role", "role", flags.GetString)
	given(cmd, body, "rpm", "rpm", flags.GetInt)
	given(cmd, body, "max-in-flight", "max_in_flight", flags.GetInt)
	given(cmd, body, "budget-period", "budget_period", flags.GetString)
	for _, flag := range []string{"models", "accounts"} {
		if err := givenList(cmd, body, flag, "all"); err != nil {
			return nil, err
		}
	}
	if text, _ := flags.GetString("expires"); flags.Changed("expires") {
		expires, err := parseExpiry(text, now)
		if err != nil {
			return nil, err
		}
		body["expires_at"] = expires
	}
	if text, _ := flags.GetString("budget-usd"); flags.Changed("budget-usd") {
		budget, err := parseBudget(text)
		if err != nil {
			return nil, err
		}
		body["budget_usd"] = budget
	}
	return body, nil
}

// parseExpiry returns milliseconds since the epoch, nil for never.
func parseExpiry(text string, now time.Time) (*int64, error) {
	if text == "never" {
		return nil, nil
	}
	if d, err := caddy.ParseDuration(text); err == nil && d > 0 {
		ms := now.Add(d).UnixMilli()
		return &ms, nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return nil, fmt.Errorf("--expires %q is neither a duration such as 30d, nor a time (RFC 3339), nor never", text)
	}
	ms := t.UnixMilli()
	return &ms, nil
}

// parseBudget returns US dollars, nil for no budget.
func parseBudget(text string) (*float64, error) {
	if text == "none" {
		return nil, nil
	}
	usd, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(usd) || math.IsInf(usd, 0) {
		return nil, fmt.Errorf("--budget-usd %q is neither an amount of US dollars nor none", text)
	}
	return &usd, nil
}

func expiryWords(ms *int64, now time.Time) string {
	switch {
	case ms == nil:
		return "never"
	case *ms <= now.UnixMilli():
		return "expired"
	default:
		return "in " + until(*ms, now)
	}
}

func budgetWords(k api.Key) string {
	if k.BudgetUSD == nil {
		return none
	}
	return dollars(k.BudgetUSD) + " a " + k.BudgetPeriod
}
