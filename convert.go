package claudebalancer

import (
	"time"

	"github.com/claude-balancer/claude-balancer/anthropic"
	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/selection"
	"github.com/claude-balancer/claude-balancer/store"
)

// The rooms below know nothing of each other; what passes between them is put
// into the other's words here.

func millis(t time.Time) *int64 {
	if t.IsZero() {
		return nil
	}
	ms := t.UnixMilli()
	return &ms
}

// optional is nil for the zero value.
func optional[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

func limitsByAccount(stored []store.Limit) map[string][]selection.Limit {
	out := make(map[string][]selection.Limit)
	for _, l := range stored {
		out[l.AccountID] = append(out[l.AccountID], selection.Limit{
			Scope: l.Scope, Name: l.Name, Cause: anthropic.Cause(l.Cause), Header: l.Header,
			Since: l.Since, Until: l.Until, Utilization: 1,
		})
	}
	return out
}

func changesToStore(changes []selection.LimitChange) []store.LimitChange {
	out := make([]store.LimitChange, 0, len(changes))
	for _, c := range changes {
		out = append(out, store.LimitChange{Was: limitToStore(c.Was), Is: limitToStore(c.Is)})
	}
	return out
}

func limitToStore(l *selection.Limit) *store.Limit {
	if l == nil {
		return nil
	}
	return &store.Limit{Scope: l.Scope, Name: l.Name, Cause: string(l.Cause), Header: l.Header, Since: l.Since, Until: l.Until}
}

func windowsByAccount(stored []store.Window) map[string][]selection.Window {
	out := make(map[string][]selection.Window)
	for _, w := range stored {
		out[w.AccountID] = append(out[w.AccountID], selection.Window{
			Window: anthropic.Window{Name: w.Name, Utilization: w.Utilization, Status: w.Status, ResetsAt: w.ResetsAt},
			SeenAt: w.SeenAt,
		})
	}
	return out
}

func windowsToStore(account string, windows []selection.Window) []store.Window {
	out := make([]store.Window, 0, len(windows))
	for _, w := range windows {
		out = append(out, store.Window{
			AccountID: account, Name: w.Name, Utilization: w.Utilization, Status: w.Status, ResetsAt: w.ResetsAt, SeenAt: w.SeenAt,
		})
	}
	return out
}

func sessionsFromStore(stored []store.Session) []selection.Session {
	out := make([]selection.Session, 0, len(stored))
	for _, s := range stored {
		out = append(out, selection.Session{Key: s.Key, AccountID: s.AccountID, LastUsed: s.LastUsed})
	}
	return out
}

func sessionsToStore(sessions []selection.Session) []store.Session {
	out := make([]store.Session, 0, len(sessions))
	for _, s := range sessions {
		out = append(out, store.Session{Key: s.Key, AccountID: s.AccountID, LastUsed: s.LastUsed})
	}
	return out
}

// accountJSON joins what is stored of an account with its live state.
func accountJSON(a *store.Account, live *selection.Live, expires time.Time, now time.Time) api.Account {
	out := api.Account{
		ID: a.ID, Name: a.Name, PlanType: a.Plan, SupportedModels: live.ModelList,
		RequestCount: a.RequestCount, LastUsed: millis(a.LastUsed), CreatedAt: a.CreatedAt.UnixMilli(),
		ExpiresAt: millis(expires), Kind: a.Credential.Kind,
		Status: live.Status, StatusReason: live.Reason, AvailableAt: millis(live.AvailableAt),
		InFlight: live.InFlight, MaxInFlight: a.MaxInFlight, Priority: a.Priority, Weight: max(1, a.Weight),
		Windows: windowsJSON(live.Windows), Limits: limitsJSON(live.Limits),
		Tokens: a.Tokens, CostUSD: a.CostUSD, Tier: a.Tier,
	}
	dead := live.Status == api.StatusNeedsLogin || live.Status == api.StatusDisabled
	if a.Credential.Kind == api.KindAPIKey || expires.IsZero() && a.Credential.Kind == api.KindToken {
		out.TokenValid = truth(!dead)
	} else {
		out.TokenValid = truth(expires.After(now) && live.Status != api.StatusNeedsLogin)
	}
	return out
}

func windowsJSON(windows []selection.Window) []api.Window {
	out := make([]api.Window, 0, len(windows))
	for _, w := range windows {
		j := api.Window{Name: w.Name, Status: w.Status, ResetsAt: millis(w.ResetsAt)}
		if w.Utilization >= 0 {
			u := w.Utilization
			j.Utilization = &u
		}
		out = append(out, j)
	}
	return out
}

func limitsJSON(limits []selection.Limit) []api.Limit {
	out := make([]api.Limit, 0, len(limits))
	for _, l := range limits {
		out = append(out, api.Limit{
			Scope: l.Scope, Family: optional(l.Name), Until: l.Until.UnixMilli(),
			Cause: string(l.Cause), Header: optional(l.Header), Since: l.Since.UnixMilli(),
		})
	}
	return out
}

func truth(b bool) int {
	if b {
		return 1
	}
	return 0
}
