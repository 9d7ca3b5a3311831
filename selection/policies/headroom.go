package policies

import (
	"math"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/claude-balancer/claude-balancer/selection"
)

func init() { caddy.RegisterModule(Headroom{}) }

// Headroom chooses the account with the most room. An account's room is
//
//	min over its windows of (1 − utilization) ÷ seconds to the reset
//	× tier × weight ÷ (1 + requests in flight)
//
// Utilization is a fraction of the account's own window, so it is multiplied by
// the tier: 5 or 20 for the larger subscriptions, else 1. Per second to the
// reset, because what is left of a window shortly before it starts anew would
// be lost otherwise. Windows that are over, or whose utilization or reset is
// not known, do not count. An account of which no window is known, since it was
// not asked yet, counts as having as much room as the roomiest. Equals are
// decided as by least_used.
//
// An API key's windows are buckets of a minute, which are nearly always roomy:
// beside subscriptions, give it a plan or a policy that holds it back.
type Headroom struct{}

// CaddyModule returns the Caddy module information.
func (Headroom) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "claude_balancer.selection_policies.headroom",
		New: func() caddy.Module { return new(Headroom) },
	}
}

// Select implements selection.Policy.
func (Headroom) Select(r *selection.Request, candidates []*selection.Candidate) int {
	known, unknown := -1, -1 // the best of those whose windows are known, and of the others
	most := 0.0
	for i, c := range candidates {
		space := room(r, c)
		switch {
		case math.IsInf(space, 1):
			if unknown < 0 || lessUsed(c, candidates[unknown]) {
				unknown = i
			}
		case known < 0 || space > most || space == most && lessUsed(c, candidates[known]):
			known, most = i, space
		}
	}
	if known < 0 || unknown >= 0 && lessUsed(candidates[unknown], candidates[known]) {
		return unknown
	}
	return known
}

// Score is the negative room, so that the lowest is chosen; -Inf if no window
// is known.
func (Headroom) Score(r *selection.Request, c *selection.Candidate) float64 { return -room(r, c) }

// room is +Inf if no window is known.
func room(r *selection.Request, c *selection.Candidate) float64 {
	least := math.Inf(1) // per nanosecond
	for i := range c.Windows {
		w := &c.Windows[i]
		if left := w.ResetsAt.Sub(r.Now); left > 0 && w.Utilization >= 0 {
			least = min(least, max(0, 1-w.Utilization)/float64(max(left, time.Second)))
		}
	}
	return least * float64(time.Second) * tierFactor(c.Tier) * float64(c.Weight) / float64(1+c.InFlight)
}

// tierFactor tells how much larger a tier's windows are than the smallest
// subscription's. Source: rate_limit_tier in the profiles of OAuth accounts.
func tierFactor(tier string) float64 {
	switch tier {
	case "default_claude_max_5x":
		return 5
	case "default_claude_max_20x":
		return 20
	default:
		return 1
	}
}

// UnmarshalCaddyfile sets up the policy from Caddyfile tokens. It has no
// options.
func (*Headroom) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { return noArguments(d) }

// Interface guards
var (
	_ selection.Policy      = (*Headroom)(nil)
	_ selection.Scorer      = (*Headroom)(nil)
	_ caddyfile.Unmarshaler = (*Headroom)(nil)
)
