package policies

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/claude-balancer/claude-balancer/selection"
)

func init() { caddy.RegisterModule(LeastUsed{}) }

// LeastUsed chooses the account with the fewest tries in the rolling five
// hours in proportion to its weight; then the one with the fewest requests in
// flight, then the longest unused. A new account starts at the median.
type LeastUsed struct{}

// CaddyModule returns the Caddy module information.
func (LeastUsed) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "claude_balancer.selection_policies.least_used",
		New: func() caddy.Module { return new(LeastUsed) },
	}
}

// Select implements selection.Policy.
func (LeastUsed) Select(_ *selection.Request, candidates []*selection.Candidate) int {
	return best(candidates, lessUsed)
}

// Score is the number of tries in the rolling five hours over the weight.
func (LeastUsed) Score(_ *selection.Request, c *selection.Candidate) float64 {
	return float64(c.Tries) / float64(c.Weight)
}

// UnmarshalCaddyfile sets up the policy from Caddyfile tokens. It has no
// options.
func (*LeastUsed) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { return noArguments(d) }

// Interface guards
var (
	_ selection.Policy      = (*LeastUsed)(nil)
	_ selection.Scorer      = (*LeastUsed)(nil)
	_ caddyfile.Unmarshaler = (*LeastUsed)(nil)
)
