package policies

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/claude-balancer/claude-balancer/selection"
)

func init() { caddy.RegisterModule(Headroom{}) }

// Headroom chooses the account with the most room in its tightest window:
//
//	min over its windows of (1 − utilization) ÷ seconds to the reset, × tier × weight
//
// where tier is 5 or 20 for the larger subscriptions and 1 otherwise, because a
// utilization is a fraction of the own window. Requests in flight share the
// room: the result is divided by 1 + in flight. Accounts whose windows are
// unknown come first, since a request is what makes them known. Ties are
// decided as least_used does.
type Headroom struct{}

// CaddyModule returns the Caddy module information.
func (Headroom) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "claude_balancer.selection_policies.headroom",
		New: func() caddy.Module { return new(Headroom) },
	}
}

// Select implements selection.Policy.
func (h Headroom) Select(r *selection.Request, candidates []selection.Candidate) int {
	return best(candidates, func(a, b *selection.Candidate) bool {
		if x, y := h.Score(r, a), h.Score(r, b); x != y {
			return x < y
		}
		return lessUsed(a, b)
	})
}

// Score is the negative room, so that the lowest is chosen.
func (Headroom) Score(_ *selection.Request, c *selection.Candidate) float64 {
	return -c.Headroom * float64(c.Weight) / float64(1+c.InFlight)
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
