package admin

// Sub-commands about sums, and about what was built.

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/claude-balancer/claude-balancer/api"
)

func (c *cli) statsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "stats",
		Short: "Sums up requests, tokens and costs",
		Args:  named(),
	}
	since := cmd.Flags().String("since", "", "Begin of the sums: a duration such as 24h or 7d, or a time (RFC 3339)")
	cmd.RunE = c.run(func(ctx context.Context, e *env, _ []string) error {
		path := pathOf("stats")
		if *since != "" {
			path += "?" + url.Values{"since": {*since}}.Encode()
		}
		return ask(ctx, e, http.MethodGet, path, nil, func(s api.Stats) {
			describeStats(e, s)
		})
	})
	return cmd
}

func describeStats(e *env, s api.Stats) {
	field := func(label, value string) { e.out.line("%-16s %s", label+":", value) }
	field("Requests", number(s.TotalRequests))
	field("Success rate", fmt.Sprintf("%d%%", s.SuccessRate))
	field("Opus", fmt.Sprintf("%s, %d%% successful", counted(s.Opus.Requests, "request"), s.Opus.SuccessRate))
	field("Active accounts", number(int64(s.ActiveAccounts)))
	field("First byte", latency(s.AvgResponseTime)+" on average")
	field("Tokens", tokensWords(s.Tokens))
	field("Cost", dollars(s.CostUSD))
	if len(s.Unpriced) > 0 {
		field("No price for", strings.Join(s.Unpriced, ", "))
	}
	for _, section := range []struct {
		title string
		usage map[string]api.Usage
	}{{"MODEL", s.ByModel}, {"ACCOUNT", s.ByAccount}, {"PLAN", s.ByPlan}, {"KEY", s.ByKey}} {
		if len(section.usage) > 0 {
			e.out.print("\n" + usageTable(section.title, section.usage).fit(e.columns, "CACHE WRITE", "CACHE READ", "ERRORS", "IN").String())
		}
	}
}

// usageTable puts the most used first.
func usageTable(title string, usage map[string]api.Usage) *table {
	names := slices.SortedFunc(maps.Keys(usage), func(a, b string) int {
		return cmp.Or(cmp.Compare(usage[b].Requests, usage[a].Requests), cmp.Compare(a, b))
	})
	t := newTable(title, ">REQUESTS", ">ERRORS", ">IN", ">OUT", ">CACHE READ", ">CACHE WRITE", ">COST")
	for _, name := range names {
		u := usage[name]
		t.row(name, number(u.Requests), number(u.Errors), number(u.Tokens.Input), number(u.Tokens.Output),
			number(u.Tokens.CacheRead), number(u.Tokens.CacheWrite5m+u.Tokens.CacheWrite1h), dollars(u.CostUSD))
	}
	return t
}

func (c *cli) resetStatsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "reset-stats",
		Short: "Sets the accounts' request counts back to zero",
		Args:  named(),
		RunE: c.run(func(ctx context.Context, e *env, _ []string) error {
			return ask(ctx, e, http.MethodPost, pathOf("stats", "reset"), nil, func(struct{}) {
				e.out.line("Statistics reset for all accounts.")
			})
		}),
	}
}

func (c *cli) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Prints the version of this binary and of the running server",
		Args:  named(),
		RunE: c.run(func(ctx context.Context, e *env, _ []string) error {
			answer := struct {
				Command versions  `json:"command"`
				Server  *versions `json:"server"` // null if none answers
			}{Command: ownVersions()}
			if server, err := fetch[versions](ctx, e, http.MethodGet, pathOf("version"), nil); err == nil {
				answer.Server = &server
			}
			return presentValue(e, answer, func() {
				e.out.line("claude-balancer %s", answer.Command.words())
				if answer.Server != nil {
					e.out.line("server          %s", answer.Server.words())
				}
			})
		}),
	}
}

func (v versions) words() string {
	return fmt.Sprintf("%s (Caddy %s, %s)", v.Version, v.Caddy, v.Go)
}
