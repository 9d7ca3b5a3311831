package access

// Settings of client keys as operators give them.

import (
	"strings"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/store"
)

// ValidateNewKey turns a wish for a key into its record, without id and hash.
// Its errors are for the asker (400).
func ValidateNewKey(k api.NewKey, now time.Time) (store.Key, error) {
	name, err := api.ValidName(k.Name)
	if err != nil {
		return store.Key{}, err
	}
	return ValidatePatch(store.Key{Name: name, CreatedAt: now}, api.KeyPatch{
		Role:         api.Field[string]{Set: true, Value: orNil(k.Role)},
		Models:       api.Field[[]string]{Set: true, Value: &k.Models},
		Accounts:     api.Field[[]string]{Set: true, Value: &k.Accounts},
		ExpiresAt:    api.Field[int64]{Set: true, Value: k.ExpiresAt},
		RPM:          api.Field[int]{Set: true, Value: k.RPM},
		MaxInFlight:  api.Field[int]{Set: true, Value: k.MaxInFlight},
		BudgetUSD:    api.Field[float64]{Set: true, Value: k.BudgetUSD},
		BudgetPeriod: api.Field[string]{Set: true, Value: orNil(k.BudgetPeriod)},
	}, now)
}

func orNil(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// ValidatePatch returns k with p applied; null brings a default back. Its errors
// are for the asker (400).
func ValidatePatch(k store.Key, p api.KeyPatch, now time.Time) (store.Key, error) {
	var c checker
	if p.Role.Set {
		k.Role = c.oneOf("role", p.Role.Value, api.RoleClient, api.RoleViewer)
	}
	if p.Models.Set {
		k.Models = c.words("models", p.Models.Value)
	}
	if p.Accounts.Set {
		k.Accounts = c.words("accounts", p.Accounts.Value)
	}
	if p.ExpiresAt.Set {
		k.ExpiresAt = c.future("expires_at", p.ExpiresAt.Value, now)
	}
	if p.RPM.Set {
		k.RPM = c.count("rpm", p.RPM.Value)
	}
	if p.MaxInFlight.Set {
		k.MaxInFlight = c.count("max_in_flight", p.MaxInFlight.Value)
	}
	if p.BudgetUSD.Set {
		k.BudgetUSD = c.amount("budget_usd", p.BudgetUSD.Value)
	}
	if p.BudgetPeriod.Set {
		k.BudgetPeriod = c.oneOf("budget_period", p.BudgetPeriod.Value, PeriodMonth, PeriodDay, PeriodWeek)
	}
	if c.err != nil {
		return store.Key{}, c.err
	}
	return k, nil
}

// Larger limits bound nothing, and are a slip of the keyboard.
const (
	maxCount  = 1_000_000
	maxAmount = 1_000_000_000 // US dollars
)

// checker turns the members of a body into settings and keeps the first error.
type checker struct{ err error }

func (c *checker) keep(err error) {
	if c.err == nil {
		c.err = err
	}
}

func (c *checker) fail(format string, args ...any) { c.keep(api.BadRequest(format, args...)) }

// oneOf takes the first of the allowed words as the default.
func (c *checker) oneOf(member string, v *string, allowed ...string) string {
	if v == nil {
		return allowed[0]
	}
	for _, word := range allowed {
		if *v == word {
			return word
		}
	}
	c.fail("%s is %q, but may be %s", member, *v, strings.Join(allowed, " or "))
	return ""
}

func (c *checker) words(member string, v *[]string) []string {
	if v == nil {
		return nil
	}
	if err := api.ValidList(member, *v); err != nil {
		c.keep(err)
		return nil
	}
	var words []string
	for _, word := range *v {
		words = append(words, strings.TrimSpace(word))
	}
	return words
}

func (c *checker) future(member string, v *int64, now time.Time) time.Time {
	if v == nil {
		return time.Time{}
	}
	t := time.UnixMilli(*v).UTC()
	switch {
	case t.Year() > 9999:
		c.fail("%s is %d, which is after the year 9999: give milliseconds since 1970, or leave it out for a key that does not expire", member, *v)
	case !t.After(now):
		c.fail("%s is %d, which is in the past: give milliseconds since 1970, or leave it out for a key that does not expire", member, *v)
	}
	return t
}

func (c *checker) count(member string, v *int) int {
	if v == nil {
		return 0
	}
	switch {
	case *v < 0:
		c.fail("%s is %d, but may not be negative; 0 means no limit", member, *v)
	case *v > maxCount:
		c.fail("%s is %d, but may be up to %d; 0 means no limit", member, *v, maxCount)
	}
	return *v
}

func (c *checker) amount(member string, v *float64) *float64 {
	if v == nil {
		return nil
	}
	if !(*v > 0 && *v <= maxAmount) {
		c.fail("%s is %v, but must be more than 0 and up to %d; leave it out for no budget", member, *v, maxAmount)
	}
	usd := *v
	return &usd
}
