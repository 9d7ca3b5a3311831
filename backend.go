package claudebalancer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/claude-balancer/claude-balancer/access"
	"github.com/claude-balancer/claude-balancer/anthropic"
	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/secret"
	"github.com/claude-balancer/claude-balancer/selection"
	"github.com/claude-balancer/claude-balancer/store"
)

// The runtime is the Backend of the admin endpoint and the site: accounts and
// what is known of them. Keys and logins are in files of their own.

// flushWait is how long a reader waits for rows that are on their way.
const flushWait = time.Second

// settle lets what has just finished be seen: nobody should miss his own
// request in the list he asks for next.
func (rt *runtime) settle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, flushWait)
	defer cancel()
	_ = rt.recorder.Flush(ctx) // what does not make it in time is seen later
}

// Accounts implements api.Backend.
func (rt *runtime) Accounts(ctx context.Context) ([]api.Account, error) {
	rt.settle(ctx)
	stored, err := rt.store.Accounts(ctx)
	if err != nil {
		return nil, err
	}
	live := make(map[string]selection.Live, len(stored))
	for _, l := range rt.pool.Snapshot() {
		live[l.ID] = l
	}
	now := rt.now()
	out := make([]api.Account, 0, len(stored))
	for i := range stored {
		l, ok := live[stored[i].ID]
		if !ok {
			continue // another process has just added it; it is seen within a second
		}
		out = append(out, accountJSON(&stored[i], &l, rt.expiry(&stored[i]), now))
	}
	slices.SortStableFunc(out, func(a, b api.Account) int { return int(b.RequestCount - a.RequestCount) })
	return out, nil
}

// expiry is that of the token in use, which may not be stored yet.
func (rt *runtime) expiry(a *store.Account) time.Time {
	if token, ok := rt.tokens.Current(a.ID); ok {
		return token.ExpiresAt
	}
	return a.Credential.ExpiresAt
}

// Account implements api.Backend.
func (rt *runtime) Account(ctx context.Context, name string) (api.Account, error) {
	accounts, err := rt.Accounts(ctx)
	if err != nil {
		return api.Account{}, err
	}
	for _, a := range accounts {
		if a.Name == name {
			return a, nil
		}
	}
	return api.Account{}, noSuchAccount(name)
}

func noSuchAccount(name string) error {
	return api.NotFound("there is no account %q; `caddy claude-balancer list` shows all", name)
}

// stored returns the account of that name as it is stored.
func (rt *runtime) stored(ctx context.Context, name string) (store.Account, error) {
	accounts, err := rt.store.Accounts(ctx)
	if err != nil {
		return store.Account{}, err
	}
	for _, a := range accounts {
		if a.Name == name {
			return a, nil
		}
	}
	return store.Account{}, noSuchAccount(name)
}

// AddAccount implements api.Backend.
func (rt *runtime) AddAccount(ctx context.Context, n api.NewAccount) (api.Account, error) {
	now := rt.now()
	credential, tier, err := credentialOf(n, now)
	if err != nil {
		return api.Account{}, err
	}
	a := store.Account{ID: newID(), CreatedAt: now, Weight: 1, Tier: tier, Credential: credential}
	if n.PlanType == "" {
		n.PlanType = api.PlanConsole
		if credential.Kind == api.KindAPIKey {
			n.PlanType = api.PlanAPI
		}
	}
	patch := api.AccountPatch{
		Name: setField(n.Name), PlanType: setField(n.PlanType),
		Models:   api.Field[[]string]{Set: n.Models != nil, Value: &n.Models},
		Priority: api.Field[int]{Set: n.Priority != nil, Value: n.Priority},
		Weight:   api.Field[int]{Set: n.Weight != nil, Value: n.Weight}, MaxInFlight: api.Field[int]{Set: n.MaxInFlight != nil, Value: n.MaxInFlight},
	}
	if err := rt.apply(&a, patch); err != nil {
		return api.Account{}, err
	}
	if err := rt.store.AddAccount(ctx, a); err != nil {
		return api.Account{}, explainName(a.Name, err)
	}
	rt.audit(ctx, "account.add", a.Name+", plan "+a.Plan+", "+string(credential.Kind))
	return rt.reloaded(ctx, a.Name)
}

func setField[T any](v T) api.Field[T] { return api.Field[T]{Set: true, Value: &v} }

// reloaded takes over what was stored and returns the account.
func (rt *runtime) reloaded(ctx context.Context, name string) (api.Account, error) {
	if err := rt.reload(ctx); err != nil {
		return api.Account{}, err
	}
	return rt.Account(ctx, name)
}

func explainName(name string, err error) error {
	if errors.Is(err, store.ErrExists) {
		return api.Conflict("an account named %q already exists", name)
	}
	return err
}

// credentialOf reads the one credential that a new account is given.
func credentialOf(n api.NewAccount, now time.Time) (c store.Credential, tier string, err error) {
	given := 0
	if !n.RefreshToken.IsZero() {
		given++
		c = store.Credential{Kind: api.KindOAuth, Access: n.AccessToken, Refresh: n.RefreshToken}
	} else if !n.AccessToken.IsZero() {
		given++
		c = store.Credential{Kind: api.KindToken, Access: n.AccessToken}
	}
	if !n.APIKey.IsZero() {
		given++
		c = store.Credential{Kind: api.KindAPIKey, Access: n.APIKey}
	}
	if len(n.Credentials) > 0 && string(n.Credentials) != "null" {
		given++
		if c, tier, err = importedCredential(n.Credentials); err != nil {
			return c, "", err
		}
	}
	if given != 1 {
		return c, "", api.BadRequest("give exactly one credential: refresh_token (with or without access_token), access_token, api_key, or credentials")
	}
	if n.ExpiresAt != nil {
		if *n.ExpiresAt <= 0 || *n.ExpiresAt > math.MaxInt64/2 {
			return c, "", api.BadRequest("expires_at must be a time in milliseconds since 1970")
		}
		c.ExpiresAt = time.UnixMilli(*n.ExpiresAt)
	}
	for _, s := range []secret.String{c.Access, c.Refresh} {
		if strings.ContainsFunc(s.Reveal(), func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			return c, "", api.BadRequest("the credential holds characters that no credential has, such as blanks or line ends")
		}
	}
	return c, tier, nil
}

// importedCredential reads the content of Claude Code's credentials file, given
// as an object or as its text.
func importedCredential(raw json.RawMessage) (store.Credential, string, error) {
	bad := api.BadRequest("credentials is not the content of Claude Code's credentials file: it needs claudeAiOauth with accessToken")
	var text string
	if json.Unmarshal(raw, &text) == nil {
		raw = json.RawMessage(text)
	}
	var file struct {
		OAuth struct {
			AccessToken   secret.String `json:"accessToken"`
			RefreshToken  secret.String `json:"refreshToken"`
			ExpiresAt     float64       `json:"expiresAt"` // ms
			RateLimitTier string        `json:"rateLimitTier"`
		} `json:"claudeAiOauth"`
	}
	if err := json.Unmarshal(raw, &file); err != nil || file.OAuth.AccessToken.IsZero() && file.OAuth.RefreshToken.IsZero() {
		return store.Credential{}, "", bad
	}
	c := store.Credential{Kind: api.KindOAuth, Access: file.OAuth.AccessToken, Refresh: file.OAuth.RefreshToken}
	if c.Refresh.IsZero() {
		c.Kind = api.KindToken
	}
	if ms := file.OAuth.ExpiresAt; ms > 0 && ms < math.MaxInt64/2 {
		c.ExpiresAt = time.UnixMilli(int64(ms))
	}
	return c, file.OAuth.RateLimitTier, nil
}

// apply changes the settings that the patch names, after checking them.
func (rt *runtime) apply(a *store.Account, p api.AccountPatch) error {
	if p.Name.Set {
		if p.Name.Value == nil {
			return api.BadRequest("name cannot be null")
		}
		name, err := api.ValidName(*p.Name.Value)
		if err != nil {
			return err
		}
		a.Name = name
	}
	if p.PlanType.Set {
		a.Plan = api.PlanConsole
		if p.PlanType.Value != nil {
			a.Plan = *p.PlanType.Value
		}
		if plans := rt.app.Load().plans; plans[a.Plan].Models == nil {
			return api.BadRequest("plan_type is %q, but may be %s", a.Plan, strings.Join(plans.Names(), ", "))
		}
	}
	if p.Models.Set {
		a.Models = nil
		if p.Models.Value != nil && len(*p.Models.Value) > 0 {
			if err := api.ValidList("models", *p.Models.Value); err != nil {
				return err
			}
			for _, m := range *p.Models.Value {
				if m == "" || strings.ContainsAny(m, ", \t\r\n") {
					return api.BadRequest("models holds %q, but each must be a model or a glob without blanks or commas", m)
				}
			}
			a.Models = *p.Models.Value
		}
	}
	if err := applyNumber(&a.Priority, p.Priority, "priority", math.MinInt32, 0); err != nil {
		return err
	}
	if err := applyNumber(&a.Weight, p.Weight, "weight", 1, 1); err != nil {
		return err
	}
	if err := applyNumber(&a.MaxInFlight, p.MaxInFlight, "max_in_flight", 0, 0); err != nil {
		return err
	}
	if p.Paused.Set {
		a.Paused = p.Paused.Value != nil && *p.Paused.Value
	}
	return nil
}

// maxNumber bounds weights and the like, so that sums of them stay small.
const maxNumber = 1_000_000

func applyNumber(to *int, f api.Field[int], name string, least, otherwise int) error {
	switch {
	case !f.Set:
		return nil
	case f.Value == nil:
		*to = otherwise
	case *f.Value < least || *f.Value > maxNumber:
		return api.BadRequest("%s is %d, but may be from %d to %d", name, *f.Value, least, maxNumber)
	default:
		*to = *f.Value
	}
	return nil
}

// UpdateAccount implements api.Backend.
func (rt *runtime) UpdateAccount(ctx context.Context, name string, p api.AccountPatch) (api.Account, error) {
	a, err := rt.stored(ctx, name)
	if err != nil {
		return api.Account{}, err
	}
	if err := rt.apply(&a, p); err != nil {
		return api.Account{}, err
	}
	if err := rt.store.UpdateAccount(ctx, a); err != nil {
		return api.Account{}, explainGone(name, explainName(a.Name, err))
	}
	rt.audit(ctx, "account.change", changed(name, &a, p))
	return rt.reloaded(ctx, a.Name)
}

// changed names the settings that were changed, not their values.
func changed(name string, a *store.Account, p api.AccountPatch) string {
	var what []string
	for _, f := range []struct {
		set  bool
		name string
	}{
		{p.PlanType.Set, "plan_type"}, {p.Models.Set, "models"}, {p.Priority.Set, "priority"},
		{p.Weight.Set, "weight"}, {p.MaxInFlight.Set, "max_in_flight"},
		{p.Paused.Set && a.Paused, "paused"}, {p.Paused.Set && !a.Paused, "resumed"},
	} {
		if f.set {
			what = append(what, f.name)
		}
	}
	text := name + ": " + strings.Join(what, ", ")
	if name != a.Name {
		text = name + ": renamed to " + a.Name
	}
	return text
}

func explainGone(name string, err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return noSuchAccount(name)
	}
	return err
}

// RemoveAccount implements api.Backend.
func (rt *runtime) RemoveAccount(ctx context.Context, name string) error {
	a, err := rt.stored(ctx, name)
	if err != nil {
		return err
	}
	if err := rt.store.RemoveAccount(ctx, a.ID); err != nil {
		return explainGone(name, err)
	}
	rt.audit(ctx, "account.remove", name)
	return rt.reload(ctx)
}

// RefreshAccount implements api.Backend.
func (rt *runtime) RefreshAccount(ctx context.Context, name string) (api.Account, error) {
	a, err := rt.stored(ctx, name)
	if err != nil {
		return api.Account{}, err
	}
	if a.Credential.Kind != api.KindOAuth {
		return api.Account{}, api.Conflict("account %q has no refresh token, so there is nothing to refresh: for a new credential remove it and add it again", name)
	}
	if _, err := rt.tokens.RefreshByHand(ctx, a.ID); err != nil {
		return api.Account{}, &api.Error{Status: 502, Message: fmt.Sprintf("refreshing account %q: %v", name, err)}
	}
	rt.audit(ctx, "account.refresh", name)
	return rt.reopened(ctx, a)
}

// ClearLimits implements api.Backend.
func (rt *runtime) ClearLimits(ctx context.Context, name string) (api.Account, error) {
	a, err := rt.stored(ctx, name)
	if err != nil {
		return api.Account{}, err
	}
	if err := rt.clearLimits(ctx, a.ID); err != nil {
		return api.Account{}, err
	}
	rt.audit(ctx, "account.clear_limits", name)
	return rt.reopened(ctx, a)
}

// reopened ends the account's disabled state.
func (rt *runtime) reopened(ctx context.Context, a store.Account) (api.Account, error) {
	if a.State == api.StatusDisabled {
		if err := rt.store.SetState(ctx, a.ID, -1, "", ""); err != nil {
			return api.Account{}, explainGone(a.Name, err)
		}
		rt.pool.SetState(a.ID, "", "")
	}
	return rt.reloaded(ctx, a.Name)
}

// Requests implements api.Backend.
func (rt *runtime) Requests(ctx context.Context, q api.RequestQuery) ([]api.Request, error) {
	rt.settle(ctx)
	rows, err := rt.store.Requests(ctx, q)
	if errors.Is(err, store.ErrNotFound) {
		return nil, api.BadRequest("before: there is no request %q in the history", q.Before)
	}
	return rows, err
}

// ClearRequests implements api.Backend.
func (rt *runtime) ClearRequests(ctx context.Context) (int64, error) {
	rt.settle(ctx)
	n, err := rt.store.ClearRequests(ctx)
	if err == nil {
		rt.audit(ctx, "history.clear", fmt.Sprintf("%d requests", n))
	}
	return n, err
}

// Stats implements api.Backend.
func (rt *runtime) Stats(ctx context.Context, since time.Time) (api.Stats, error) {
	rt.settle(ctx)
	return rt.store.Stats(ctx, since)
}

// Chart implements api.Backend.
func (rt *runtime) Chart(ctx context.Context, since time.Time) ([]api.ChartHour, error) {
	return rt.store.Chart(ctx, since)
}

// ResetStats implements api.Backend.
func (rt *runtime) ResetStats(ctx context.Context) error {
	rt.settle(ctx)
	if err := rt.store.ResetStats(ctx); err != nil {
		return err
	}
	rt.audit(ctx, "stats.reset", "")
	return nil
}

// Health implements api.Backend. It asks no database, so that it can be asked
// often.
func (rt *runtime) Health(context.Context) (api.Health, error) {
	h := api.Health{Timestamp: rt.now().UTC().Format("2006-01-02T15:04:05.000Z07:00")}
	for _, l := range rt.pool.Snapshot() {
		h.Accounts++
		if l.Status == api.StatusAvailable {
			h.Available++
		}
	}
	switch {
	case h.Accounts == 0:
		h.Status = "no_accounts"
	case h.Available == 0:
		h.Status = "limited"
	case rt.link.away():
		h.Status = "degraded"
	default:
		h.Status = "ok"
	}
	return h, nil
}

// Explain implements api.Backend.
func (rt *runtime) Explain(_ context.Context, q api.ExplainQuery) (api.Explanation, error) {
	family := anthropic.FamilyOf(q.Model)
	want := selection.Request{Model: q.Model, Family: family, Generative: true}
	if q.Key != "" {
		key, ok := rt.keys.Named(q.Key)
		if !ok {
			return api.Explanation{}, noSuchKey(q.Key)
		}
		want.Client, want.Allowed = key.Name, key.AllowsAccount
		if !key.Allows(q.Model) {
			return explainKey(key, q.Model, rt.pool.Snapshot()), nil
		}
	}
	a := rt.app.Load()
	policy, keep := a.routing()
	if q.Session != "" && keep > 0 {
		want.Session, want.Keep = hashed(want.Client, string(family), q.Session), keep
		want.WaitUntil = rt.now().Add(burstPatience)
	}
	opinions, chosen := rt.pool.Explain(&want, policy)
	out := api.Explanation{Model: q.Model, Family: string(family), Chosen: optional(chosen), Candidates: []api.Candidate{}}
	for _, o := range opinions {
		c := api.Candidate{Account: o.Account, Eligible: o.Eligible, Reason: o.Reason}
		if o.Scored && !math.IsInf(o.Score, 0) && !math.IsNaN(o.Score) {
			c.Score = &o.Score
		}
		out.Candidates = append(out.Candidates, c)
	}
	return out, nil
}

// explainKey explains a request that no account gets because of its key.
func explainKey(key *access.Key, model string, accounts []selection.Live) api.Explanation {
	out := api.Explanation{Model: model, Family: string(anthropic.FamilyOf(model)), Candidates: []api.Candidate{}}
	reason := fmt.Sprintf("the client key may use %s only", strings.Join(key.Models(), ", "))
	for _, a := range accounts {
		out.Candidates = append(out.Candidates, api.Candidate{Account: a.Name, Reason: reason})
	}
	return out
}

// audit keeps who did what. A trail that cannot be written stops nothing, but
// it is said. What was done is kept even if who did it has hung up meanwhile.
func (rt *runtime) audit(ctx context.Context, what, detail string) {
	ctx = context.WithoutCancel(ctx)
	if err := rt.store.AddAudit(ctx, store.Audit{At: rt.now(), What: what, Who: api.Actor(ctx), Detail: detail}); err != nil {
		rt.logger().Error("writing the audit trail: " + err.Error())
	}
}

// Interface guard
var _ api.Backend = (*runtime)(nil)
