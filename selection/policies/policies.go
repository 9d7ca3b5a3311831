// Package policies holds the selection policies as guest modules of the
// handler, in the namespace claude_balancer.selection_policies. Each is a pure
// function over the candidates; what they count lives in the pool.
package policies

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/claude-balancer/claude-balancer/selection"
)

// noArguments consumes a policy's name and refuses anything behind it.
func noArguments(d *caddyfile.Dispenser) error {
	d.Next() // consume policy name
	if d.NextArg() {
		return d.ArgErr()
	}
	for d.NextBlock(d.Nesting()) {
		return d.Errf("policy takes no options, got '%s'", d.Val())
	}
	return nil
}

// best returns the index of the first candidate that no other one precedes.
func best(candidates []*selection.Candidate, less func(a, b *selection.Candidate) bool) int {
	b := 0
	for i := 1; i < len(candidates); i++ {
		if less(candidates[i], candidates[b]) {
			b = i
		}
	}
	return b
}

// lessUsed orders by tries in the rolling five hours, then by requests in
// flight, both in proportion to the weight, then by the longest unused.
func lessUsed(a, b *selection.Candidate) bool {
	if x, y := a.Tries*b.Weight, b.Tries*a.Weight; x != y {
		return x < y
	}
	if x, y := a.InFlight*b.Weight, b.InFlight*a.Weight; x != y {
		return x < y
	}
	return a.LastUsed < b.LastUsed
}
