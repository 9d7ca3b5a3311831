// Package selection decides which account serves a request: plans, limits,
// affinity, capacity and policies over the live state of the pool. It does no
// I/O; time and randomness are injected.
package selection

import (
	"slices"
	"strings"

	"github.com/claude-balancer/claude-balancer/anthropic"
	"github.com/claude-balancer/claude-balancer/api"
)

// Plan says which models an account of it may use, as globs.
type Plan struct {
	Models []string `json:"models,omitempty"`
	Except []string `json:"except,omitempty"`
}

// Plans are all plans by name.
type Plans map[string]Plan

// DefaultPlans are the plans that exist without configuration.
func DefaultPlans() Plans {
	return Plans{
		api.PlanConsole: {Models: []string{"*sonnet*", "*haiku*"}},
		api.PlanMax:     {Models: []string{"*opus*", "*sonnet*", "*haiku*", "*fable*", "*mythos*", "*"}},
		api.PlanAPI:     {Models: []string{"*"}},
	}
}

// Known reports whether any plan speaks of the model: by a pattern other than
// "*", be it to allow or to except it. Unknown models may use every account.
func (p Plans) Known(model string) bool {
	for _, plan := range p {
		if matchesNamed(plan.Models, model) || matchesNamed(plan.Except, model) {
			return true
		}
	}
	return false
}

// Allows reports whether the plan lists the model. A plan that is not defined
// allows nothing.
func (p Plan) Allows(model string) bool {
	return matches(p.Models, model) && !matches(p.Except, model)
}

// Names lists the plans in order, for messages.
func (p Plans) Names() []string {
	names := make([]string, 0, len(p))
	for name := range p {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Describe is the comma-separated list of patterns, an exception marked by "!".
func (p Plan) Describe() string {
	parts := slices.Clone(p.Models)
	for _, e := range p.Except {
		parts = append(parts, "!"+e)
	}
	return strings.Join(parts, ",")
}

func matches(globs []string, model string) bool {
	for _, g := range globs {
		if anthropic.MatchGlob(g, model) {
			return true
		}
	}
	return false
}

func matchesNamed(globs []string, model string) bool {
	for _, g := range globs {
		if g != "*" && anthropic.MatchGlob(g, model) {
			return true
		}
	}
	return false
}
