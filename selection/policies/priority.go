package policies

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/claude-balancer/claude-balancer/selection"
)

func init() { caddy.RegisterModule(Priority{}) }

// Priority chooses among the accounts with the lowest priority number, as
// least_used does; the others serve when none of these can.
type Priority struct{}

// CaddyModule returns the Caddy module information.
func (Priority) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "claude_balancer.selection_policies.priority",
		New: func() caddy.Module { return new(Priority) },
	}
}

// Select implements selection.Policy.
func (Priority) Select(_ *selection.Request, candidates []*selection.Candidate) int {
	return best(candidates, func(a, b *selection.Candidate) bool {
		if a.Priority != b.Priority {
			return a.Priority < b.Priority
		}
		return lessUsed(a, b)
	})
}

// Score is the priority.
func (Priority) Score(_ *selection.Request, c *selection.Candidate) float64 {
	return float64(c.Priority)
}

// UnmarshalCaddyfile sets up the policy from Caddyfile tokens. It has no
// options.
func (*Priority) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { return noArguments(d) }

// Interface guards
var (
	_ selection.Policy      = (*Priority)(nil)
	_ selection.Scorer      = (*Priority)(nil)
	_ caddyfile.Unmarshaler = (*Priority)(nil)
)
