package policies

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/claude-balancer/claude-balancer/selection"
)

func init() { caddy.RegisterModule(RoundRobin{}) }

// RoundRobin gives each account its turn: an account of weight 2 gets twice as
// many as one of weight 1, evenly interleaved.
type RoundRobin struct{}

// CaddyModule returns the Caddy module information.
func (RoundRobin) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "claude_balancer.selection_policies.round_robin",
		New: func() caddy.Module { return new(RoundRobin) },
	}
}

// Select implements selection.Policy.
func (RoundRobin) Select(_ *selection.Request, candidates []*selection.Candidate) int {
	return best(candidates, func(a, b *selection.Candidate) bool { return a.Turn < b.Turn })
}

// Score is the place in the round.
func (RoundRobin) Score(_ *selection.Request, c *selection.Candidate) float64 { return c.Turn }

// UnmarshalCaddyfile sets up the policy from Caddyfile tokens. It has no
// options.
func (*RoundRobin) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { return noArguments(d) }

// Interface guards
var (
	_ selection.Policy      = (*RoundRobin)(nil)
	_ selection.Scorer      = (*RoundRobin)(nil)
	_ caddyfile.Unmarshaler = (*RoundRobin)(nil)
)
