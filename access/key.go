package access

// One client key: what it may use, and its limits.

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/claude-balancer/claude-balancer/anthropic"
	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/store"
)

// Key is a client key as one request sees it: settings that do not change
// under it, and the counts that all requests of the key share. It is safe for
// concurrent use.
type Key struct {
	ID   string
	Name string
	Role string // api.RoleClient or api.RoleViewer

	models      []string
	accounts    []string
	expires     time.Time // zero = never
	rpm         int       // 0 = no bound, as in maxInFlight
	maxInFlight int
	budget      float64 // US dollars; 0 = no bound
	period      string
	now         func() time.Time
	meter       *meter
}

func newKey(s store.Key, m *meter, now func() time.Time) *Key {
	k := &Key{
		ID:          s.ID,
		Name:        s.Name,
		Role:        s.Role,
		models:      slices.Clone(s.Models),
		accounts:    slices.Clone(s.Accounts),
		expires:     s.ExpiresAt,
		rpm:         s.RPM,
		maxInFlight: s.MaxInFlight,
		period:      s.BudgetPeriod,
		now:         now,
		meter:       m,
	}
	if k.Role == "" {
		k.Role = api.RoleClient
	}
	if k.period != PeriodDay && k.period != PeriodWeek {
		k.period = PeriodMonth
	}
	if s.BudgetUSD != nil {
		k.budget = *s.BudgetUSD
	}
	return k
}

func (k *Key) expired(now time.Time) bool { return !k.expires.IsZero() && !now.Before(k.expires) }

// Alive reports whether the key still counts: neither revoked nor expired. Ask
// again after every wait.
func (k *Key) Alive() bool {
	return k.meter.life.Err() == nil && !k.expired(k.now())
}

// OnRevoke has f called, in a goroutine of its own, as soon as the key is
// revoked, so that a request that waits can end at once. Call stop once that is
// not needed any more. Expiry does not call f.
func (k *Key) OnRevoke(f func()) (stop func()) {
	s := context.AfterFunc(k.meter.life, f)
	return func() { s() }
}

// LastUsed returns when the key was last presented to this process, zero if it
// was not.
func (k *Key) LastUsed() time.Time {
	ms := k.meter.used.Load()
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

// Restricted reports whether the key may use some models only.
func (k *Key) Restricted() bool { return len(k.models) > 0 }

// Models returns the globs of the models that the key may use; none means all.
func (k *Key) Models() []string { return slices.Clone(k.models) }

// Allows reports whether the key may use model.
func (k *Key) Allows(model string) bool {
	return !k.Restricted() || slices.ContainsFunc(k.models, func(glob string) bool { return anthropic.MatchGlob(glob, model) })
}

// AllowsAccount reports whether the key may use the account of that name.
func (k *Key) AllowsAccount(name string) bool {
	return len(k.accounts) == 0 || slices.Contains(k.accounts, name)
}

// RefuseModel answers a request for a model that the key may not use.
func (k *Key) RefuseModel(model string) *Refusal {
	const shown = 100 // bytes of what the client sent
	if len(model) > shown {
		model = model[:shown] + "…"
	}
	return refuse(http.StatusBadRequest, typeInvalidRequest, fmt.Sprintf(
		"Client key %q may not use the model %q. It may use: %s.", k.Name, model, strings.Join(k.models, ", ")))
}

// Begin counts a request that starts now against the key's limits, or refuses
// it; a refused one does not count. Call release once the request has ended,
// with its cost in US dollars, 0 if unknown or told to Spend already. Further
// calls do nothing.
func (k *Key) Begin(now time.Time) (release func(cost float64), refusal *Refusal) {
	if refusal := k.enter(now); refusal != nil {
		return nil, refusal
	}
	var once sync.Once
	return func(cost float64) {
		once.Do(func() {
			k.meter.leave()
			k.Spend(cost)
		})
	}, nil
}

func (k *Key) enter(now time.Time) *Refusal {
	m := k.meter
	m.mu.Lock()
	defer m.mu.Unlock()
	m.turn(now)
	if k.budget > 0 && exhausted(m.spent, k.budget) {
		return refuseBudget(k.Name, k.budget, m.period, now, m.end)
	}
	if k.maxInFlight > 0 && m.inFlight+m.others.InFlight >= k.maxInFlight {
		return refuseFor(time.Second, typeRateLimit, fmt.Sprintf(
			"Client key %q is limited to %d requests at a time: try again when one has ended, or ask the operator to raise max_in_flight.",
			k.Name, k.maxInFlight))
	}
	if k.rpm > 0 {
		if wait := m.minute.take(now, k.rpm, m.others.Minute); wait > 0 {
			return refuseFor(wait, typeRateLimit, fmt.Sprintf(
				"Client key %q is limited to %d requests a minute: try again in %s, or ask the operator to raise rpm.",
				k.Name, k.rpm, wholeSeconds(wait)))
		}
	}
	m.inFlight++
	return nil
}

// Spend counts cost, in US dollars, against the key's budget. The next Begin
// sees it.
func (k *Key) Spend(cost float64) {
	if cost > 0 { // false for NaN too, which would poison the sum
		k.meter.spend(k.now(), cost)
	}
}

// Spent returns what the key has spent in its running budget period, in US
// dollars.
func (k *Key) Spent() float64 {
	spent, _ := k.meter.spending(k.now())
	return spent
}

// BudgetHeader returns the headers that tell a client how much of its budget is
// used, for successful answers to messages. It is nil for a key without one.
func (k *Key) BudgetHeader() http.Header {
	if k.budget <= 0 {
		return nil
	}
	spent, reset := k.meter.spending(k.now())
	return budgetHeader(spent, k.budget, reset)
}
