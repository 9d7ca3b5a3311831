package policies

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/claude-balancer/claude-balancer/selection"
)

func init() { caddy.RegisterModule(Random{}) }

// Random chooses by chance, in proportion to the weights.
type Random struct{}

// CaddyModule returns the Caddy module information.
func (Random) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "claude_balancer.selection_policies.random",
		New: func() caddy.Module { return new(Random) },
	}
}

// Select implements selection.Policy.
func (Random) Select(r *selection.Request, candidates []*selection.Candidate) int {
	total := uint64(0)
	for i := range candidates {
		total += uint64(candidates[i].Weight)
	}
	n := r.Rand % total
	for i := range candidates {
		w := uint64(candidates[i].Weight)
		if n < w {
			return i
		}
		n -= w
	}
	return 0
}

// UnmarshalCaddyfile sets up the policy from Caddyfile tokens. It has no
// options.
func (*Random) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { return noArguments(d) }

// Interface guards
var (
	_ selection.Policy      = (*Random)(nil)
	_ caddyfile.Unmarshaler = (*Random)(nil)
)
