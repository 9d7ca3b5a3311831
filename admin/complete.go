package admin

// Completion of names and fixed words, for the scripts of `caddy completion`.

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/claude-balancer/claude-balancer/api"
)

// completionTimeout bounds how long the TAB key waits for the server.
const completionTimeout = time.Second

// nameSource asks the server for what may be completed.
type nameSource func(context.Context, *env) []string

type completion = func(cmd *cobra.Command, args []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective)

// completeFirst completes the first argument only, out of names.
func (c *cli) completeFirst(names nameSource) completion {
	complete := c.complete(names)
	return func(cmd *cobra.Command, args []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return complete(cmd, args, toComplete)
	}
}

// complete offers nothing if the server cannot be asked: there is no place for
// an error message in a half-typed line.
func (c *cli) complete(names nameSource) completion {
	return func(cmd *cobra.Command, _ []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
		e, err := c.env(cmd)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
		defer cancel()
		var offered []cobra.Completion
		for _, name := range names(ctx, e) {
			if strings.HasPrefix(name, toComplete) && name == safe(name) {
				offered = append(offered, name)
			}
		}
		return offered, cobra.ShellCompDirectiveNoFileComp
	}
}

func (c *cli) accountNames(ctx context.Context, e *env) []string {
	accounts, _ := fetch[[]api.Account](ctx, e, http.MethodGet, pathOf("accounts"), nil)
	names := make([]string, len(accounts))
	for i, a := range accounts {
		names[i] = a.Name
	}
	return names
}

func (c *cli) keyNames(ctx context.Context, e *env) []string {
	keys, _ := fetch[[]api.Key](ctx, e, http.MethodGet, pathOf("keys"), nil)
	names := make([]string, len(keys))
	for i, k := range keys {
		names[i] = k.Name
	}
	return names
}

// completeFlag completes a flag out of fixed words.
func completeFlag(cmd *cobra.Command, flag string, words ...string) {
	mustRegister(cmd, flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}

// mustRegister panics on a flag that does not exist: a mistake of this package.
func mustRegister(cmd *cobra.Command, flag string, f completion) {
	if err := cmd.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic(err)
	}
}
