package admin

// Sub-commands that show and change accounts.

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/claude-balancer/claude-balancer/api"
)

func (c *cli) listCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Lists the accounts and their state",
		Args:  named(),
	}
	verbose := cmd.Flags().BoolP("verbose", "v", false, "Tell all about each account")
	cmd.RunE = c.run(func(ctx context.Context, e *env, _ []string) error {
		return ask(ctx, e, http.MethodGet, pathOf("accounts"), nil, func(accounts []api.Account) {
			switch {
			case len(accounts) == 0:
				e.out.line(`No accounts yet. Add one with "caddy claude-balancer add <name>".`)
			case *verbose:
				for i, account := range accounts {
					if i > 0 {
						e.out.print("\n")
					}
					describeAccount(e.out, account, e.now)
				}
			default:
				e.out.print(accountTable(accounts, e.now).fit(e.columns, "LAST USED", "OPUS", "REQUESTS", "TOKEN").String())
			}
		})
	})
	return cmd
}

// forAccount is a sub-command whose one argument is the name of an account.
func (c *cli) forAccount(use, short string, do func(ctx context.Context, e *env, name string) error) *cobra.Command {
	return c.forName(use, short, c.accountNames, do)
}

func (c *cli) showCommand() *cobra.Command {
	return c.forAccount("show", "Tells all about an account", func(ctx context.Context, e *env, name string) error {
		return ask(ctx, e, http.MethodGet, pathOf("accounts", name), nil, func(a api.Account) {
			describeAccount(e.out, a, e.now)
		})
	})
}

func (c *cli) setCommand() *cobra.Command {
	var cmd *cobra.Command
	cmd = c.forAccount("set", "Changes an account's settings", func(ctx context.Context, e *env, name string) error {
		patch, err := accountPatch(cmd)
		if err != nil {
			return err
		}
		if len(patch) == 0 {
			return errors.New("nothing to set: give at least one of --name, --plan, --models, --priority, --weight, --max-in-flight")
		}
		return ask(ctx, e, http.MethodPatch, pathOf("accounts", name), patch, func(a api.Account) {
			e.out.line(`Account "%s" updated.`, a.Name)
			e.warn(a)
		})
	})
	flags := cmd.Flags()
	flags.String("name", "", "New name")
	flags.String("plan", "", "Plan, such as console, max or api")
	flags.String("models", "", `Comma-separated model patterns, or "default" for its plan's`)
	flags.Int("priority", 0, "Lower is chosen first by the policy priority")
	flags.Int("weight", 1, "Share of requests under weighted policies")
	flags.Int("max-in-flight", 0, "Most requests at a time, 0 for no bound")
	completeFlag(cmd, "plan", api.PlanConsole, api.PlanMax, api.PlanAPI)
	return cmd
}

// accountPatch holds the members whose flags were given.
func accountPatch(cmd *cobra.Command) (map[string]any, error) {
	patch := make(map[string]any)
	given(cmd, patch, "name", "name", cmd.Flags().GetString)
	given(cmd, patch, "plan", "plan_type", cmd.Flags().GetString)
	given(cmd, patch, "priority", "priority", cmd.Flags().GetInt)
	given(cmd, patch, "weight", "weight", cmd.Flags().GetInt)
	given(cmd, patch, "max-in-flight", "max_in_flight", cmd.Flags().GetInt)
	return patch, givenList(cmd, patch, "models", "default")
}

func (c *cli) pauseCommand() *cobra.Command {
	return c.forAccount("pause", "Stops choosing an account", func(ctx context.Context, e *env, name string) error {
		return setPaused(ctx, e, name, true, `Account "%s" is paused.`)
	})
}

func (c *cli) resumeCommand() *cobra.Command {
	return c.forAccount("resume", "Chooses a paused account again", func(ctx context.Context, e *env, name string) error {
		return setPaused(ctx, e, name, false, `Account "%s" is resumed.`)
	})
}

func setPaused(ctx context.Context, e *env, name string, paused bool, sentence string) error {
	patch := map[string]any{"paused": paused}
	return ask(ctx, e, http.MethodPatch, pathOf("accounts", name), patch, func(a api.Account) {
		e.out.line(sentence, a.Name)
	})
}

func (c *cli) refreshCommand() *cobra.Command {
	return c.forAccount("refresh", "Gets a new access token now", func(ctx context.Context, e *env, name string) error {
		return ask(ctx, e, http.MethodPost, pathOf("accounts", name, "refresh"), nil, func(a api.Account) {
			e.out.line(`Account "%s" refreshed; token: %s.`, a.Name, tokenWords(a, e.now))
			e.warn(a)
		})
	})
}

func (c *cli) clearLimitsCommand() *cobra.Command {
	return c.forAccount("clear-limits", "Forgets what an account is limited by", func(ctx context.Context, e *env, name string) error {
		return ask(ctx, e, http.MethodPost, pathOf("accounts", name, "clear_limits"), nil, func(a api.Account) {
			e.out.line(`Limits of account "%s" cleared; state: %s.`, a.Name, stateWords(a, e.now))
		})
	})
}

func (c *cli) removeCommand() *cobra.Command {
	var yes *bool
	cmd := c.forAccount("remove", "Removes an account; its history is kept", func(ctx context.Context, e *env, name string) error {
		if !*yes && e.terminal(e.in) {
			// Nobody should be asked about a name that is not there.
			if _, err := e.client.call(ctx, http.MethodGet, pathOf("accounts", name), nil); err != nil {
				return err
			}
			sure, err := e.confirm(ctx, fmt.Sprintf(`Remove account "%s"?`, safe(name)))
			if err != nil {
				return err
			}
			if !sure {
				return fmt.Errorf("account %q was not removed", name)
			}
		}
		return ask(ctx, e, http.MethodDelete, pathOf("accounts", name), nil, func(struct{}) {
			e.out.line(`Account "%s" removed successfully.`, name)
		})
	})
	yes = cmd.Flags().BoolP("yes", "y", false, "Do not ask")
	return cmd
}

// warn tells what the server wants the operator to know about an account.
func (e *env) warn(a api.Account) {
	if a.Warning != "" {
		e.notes.line("Warning: %s", a.Warning)
	}
}
