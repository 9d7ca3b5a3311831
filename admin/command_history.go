package admin

// Sub-commands that look back at requests, or ahead at the next one.

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/claude-balancer/claude-balancer/api"
)

// historyFilters are the flags that history and export share.
func (c *cli) historyFilters(cmd *cobra.Command) func() url.Values {
	names := []string{"account", "model", "outcome", "client"}
	flags := cmd.Flags()
	flags.String("account", "", "Only requests that this account answered")
	flags.String("model", "", "Only requests for this model")
	flags.String("outcome", "", "Only requests that ended so")
	flags.String("client", "", "Only requests of this client key")
	mustRegister(cmd, "account", c.complete(c.accountNames))
	mustRegister(cmd, "client", c.complete(c.keyNames))
	completeFlag(cmd, "outcome",
		string(api.OutcomeOK), string(api.OutcomeUpstreamError), string(api.OutcomeRefused),
		string(api.OutcomeExhausted), string(api.OutcomeClientGone), string(api.OutcomeTruncated))
	return func() url.Values {
		query := make(url.Values)
		for _, name := range names {
			if value, _ := flags.GetString(name); value != "" {
				query.Set(name, value)
			}
		}
		return query
	}
}

func (c *cli) historyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "history",
		Short: "Shows the latest requests, newest first",
		Args:  named(),
	}
	limit := cmd.Flags().IntP("limit", "n", api.DefaultRequestLimit, "Number of requests, at most "+strconv.Itoa(api.MaxRequestLimit))
	filters := c.historyFilters(cmd)
	cmd.RunE = c.run(func(ctx context.Context, e *env, _ []string) error {
		query := filters()
		query.Set("limit", strconv.Itoa(*limit))
		return ask(ctx, e, http.MethodGet, pathOf("requests")+"?"+query.Encode(), nil, func(requests []api.Request) {
			if len(requests) == 0 {
				e.out.line("No requests.")
				return
			}
			e.out.print(historyTable(e, requests).String())
		})
	})
	return cmd
}

func historyTable(e *env, requests []api.Request) *table {
	t := newTable("TIME", "MODEL", "ACCOUNT", "SESSION", ">STATUS", "OUTCOME", ">FAILOVERS", ">FIRST BYTE", ">DURATION", ">IN", ">OUT", ">COST")
	for _, r := range requests {
		t.row(
			clock(r.Timestamp, e.now), optional(r.Model), optional(r.AccountUsed), shortSession(r.Session),
			strconv.Itoa(r.StatusCode), string(r.Outcome), strconv.Itoa(r.FailoverAttempts),
			latency(r.ResponseTimeMS), latency(r.DurationMS),
			optionalNumber(r.InputTokens), optionalNumber(r.OutputTokens), dollars(r.CostUSD),
		)
	}
	return t.fit(e.columns, "SESSION", "FAILOVERS", "DURATION", "IN", "STATUS", "OUT", "FIRST BYTE", "COST")
}

// shortSession is enough of a hash to tell sessions apart by eye.
func shortSession(session *string) string {
	text := optional(session)
	if r := []rune(text); len(r) > 8 {
		return string(r[:8])
	}
	return text
}

func (c *cli) clearHistoryCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "clear-history",
		Short: "Deletes the recorded requests",
		Args:  named(),
		RunE: c.run(func(ctx context.Context, e *env, _ []string) error {
			return ask(ctx, e, http.MethodDelete, pathOf("requests"), nil, func(d deleted) {
				switch d.Deleted {
				case 0:
					e.out.line("No request history to clear.")
				case 1:
					e.out.line("Cleared 1 request from history.")
				default:
					e.out.line("Cleared %d requests from history.", d.Deleted)
				}
			})
		}),
	}
}

func (c *cli) explainCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain",
		Short: "Tells which account a request would get now, and why",
		Long:  "Tells which account a request would get now, and why not the others. Nothing is sent.",
		Args:  named(),
	}
	flags := cmd.Flags()
	model := flags.String("model", "", "Model that the request names")
	session := flags.String("session", "", "Session that the request belongs to")
	key := flags.String("key", "", "Name of the client key that the request comes with")
	mustRegister(cmd, "key", c.complete(c.keyNames))
	cmd.RunE = c.run(func(ctx context.Context, e *env, _ []string) error {
		query := url.Values{"model": {*model}, "session": {*session}, "key": {*key}}
		return ask(ctx, e, http.MethodGet, pathOf("explain")+"?"+query.Encode(), nil, func(x api.Explanation) {
			describeExplanation(e.out, x)
		})
	})
	return cmd
}

func describeExplanation(out *printer, x api.Explanation) {
	if x.Model != "" {
		out.line("Model:  %s (family %s)", x.Model, x.Family)
	}
	chosen := "none"
	if x.Chosen != nil {
		chosen = *x.Chosen
	}
	out.line("Chosen: %s", chosen)
	if len(x.Candidates) == 0 {
		return
	}
	t := newTable("ACCOUNT", "ELIGIBLE", ">SCORE", "REASON")
	for _, candidate := range x.Candidates {
		score := none
		if candidate.Score != nil {
			score = strconv.FormatFloat(*candidate.Score, 'g', 4, 64)
		}
		t.row(candidate.Account, yesNo(candidate.Eligible), score, candidate.Reason)
	}
	out.print("\n" + t.String())
}

func (c *cli) auditCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "audit",
		Short: "Shows who changed what",
		Args:  named(),
		RunE: c.run(func(ctx context.Context, e *env, _ []string) error {
			return ask(ctx, e, http.MethodGet, pathOf("audit"), nil, func(entries []api.AuditEntry) {
				if len(entries) == 0 {
					e.out.line("Nothing was changed yet.")
					return
				}
				t := newTable("TIME", "WHAT", "WHO", "DETAIL")
				for _, entry := range entries {
					t.row(clock(entry.At, e.now), entry.What, entry.Who, entry.Detail)
				}
				e.out.print(t.String())
			})
		}),
	}
}
