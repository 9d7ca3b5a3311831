package claudebalancer

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"go.uber.org/zap"

	"github.com/claude-balancer/claude-balancer/access"
	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/oauth"
	"github.com/claude-balancer/claude-balancer/store"
)

// The Backend's part on logins, client keys and the audit trail.

// StartLogin implements api.Backend.
func (rt *runtime) StartLogin(ctx context.Context, r api.LoginRequest) (api.Login, error) {
	name, err := api.ValidName(r.Name)
	if err != nil {
		return api.Login{}, err
	}
	existing, err := rt.stored(ctx, name)
	found := err == nil
	if notFound := (*api.Error)(nil); err != nil && !errors.As(err, &notFound) {
		return api.Login{}, err
	}
	a := store.Account{Plan: r.PlanType}
	switch {
	case found && !r.Replace:
		return api.Login{}, api.Conflict("an account named %q already exists; to log it in again, set replace or use `caddy claude-balancer login`", name)
	case !found && r.Replace:
		return api.Login{}, noSuchAccount(name)
	case found && r.PlanType == "":
		a.Plan = existing.Plan
	case r.PlanType == "":
		a.Plan = api.PlanConsole
	}
	if a.Plan == api.PlanAPI {
		return api.Login{}, api.BadRequest("accounts of the plan %s have an API key and no login; a new key is a new account: remove this one and add it with its key", a.Plan)
	}
	if err := rt.apply(&a, api.AccountPatch{PlanType: setField(a.Plan)}); err != nil {
		return api.Login{}, err
	}
	p := rt.logins.Start(name, a.Plan, existing.ID)
	return api.Login{ID: p.ID, AuthorizeURL: p.URL, ExpiresAt: p.ExpiresAt.UnixMilli()}, nil
}

// profileWait is how long a finished login waits for the account's profile,
// which is only a hint.
const profileWait = 10 * time.Second

// FinishLogin implements api.Backend.
func (rt *runtime) FinishLogin(ctx context.Context, id string, code api.LoginCode) (api.Account, error) {
	done, err := rt.logins.Finish(ctx, id, code.Code)
	if err != nil {
		return api.Account{}, err
	}
	// From here on the login is the only copy of what the provider gave out:
	// a caller that leaves must not lose it.
	ctx = context.WithoutCancel(ctx)
	credential := done.Grant.Credential()
	profile, profileErr := rt.profile(ctx, credential)
	name, err := rt.saveLogin(ctx, done, credential, profile)
	if err != nil {
		return api.Account{}, err
	}
	a, err := rt.reloaded(ctx, name)
	if err == nil && profileErr == nil {
		a.Warning = contradiction(a, profile.Plan)
	}
	return a, err
}

// contradiction warns of a plan that is not the one that the provider told. Of
// plans that only the configuration knows the provider can tell nothing.
func contradiction(a api.Account, told string) string {
	ours := a.PlanType == api.PlanConsole || a.PlanType == api.PlanMax
	if !ours || told == "" || told == a.PlanType {
		return ""
	}
	return fmt.Sprintf("the provider says that this account's plan is %s, but it is added as %s; to change that: caddy claude-balancer set %s --plan %s",
		told, a.PlanType, shellWord(a.Name), told)
}

// shellWord is a name as one argument of a command.
func shellWord(name string) string {
	plain := func(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("-_.@", r) }
	if strings.IndexFunc(name, func(r rune) bool { return !plain(r) }) < 0 {
		return name
	}
	return "'" + strings.ReplaceAll(name, "'", `'\''`) + "'"
}

func (rt *runtime) profile(ctx context.Context, c store.Credential) (oauth.Profile, error) {
	ctx, cancel := context.WithTimeout(ctx, profileWait)
	defer cancel()
	p, err := rt.oauthClient().Profile(ctx, c.Access)
	if err != nil {
		rt.logger().Info("reading the profile of a new login", zap.Error(err))
	}
	return p, err
}

// saveLogin stores a login: in place for an account that logs in again.
func (rt *runtime) saveLogin(ctx context.Context, done oauth.Done, c store.Credential, profile oauth.Profile) (name string, err error) {
	if done.ReplaceID == "" {
		a := store.Account{ID: newID(), Name: done.Name, Plan: done.Plan, CreatedAt: rt.now(), Weight: 1, Tier: profile.Tier, Credential: c}
		if err := rt.store.AddAccount(ctx, a); err != nil {
			return "", explainName(a.Name, err)
		}
		rt.audit(ctx, "account.login", a.Name+", plan "+a.Plan)
		return a.Name, nil
	}
	for {
		old, err := rt.store.Credential(ctx, done.ReplaceID)
		if err == nil {
			_, err = rt.store.SaveCredential(ctx, done.ReplaceID, old.Generation, c)
		}
		if errors.Is(err, store.ErrStale) {
			continue // a refresh came between; the new login goes over it
		}
		if err != nil {
			return "", explainGone(done.Name, err)
		}
		break
	}
	a, err := rt.byID(ctx, done.ReplaceID)
	if err != nil {
		return "", err
	}
	a.Plan = done.Plan
	if profile.Tier != "" {
		a.Tier = profile.Tier
	}
	if err := rt.store.UpdateAccount(ctx, a); err != nil {
		return "", explainGone(a.Name, err)
	}
	rt.audit(ctx, "account.login", a.Name+", again")
	return a.Name, nil
}

func (rt *runtime) byID(ctx context.Context, id string) (store.Account, error) {
	accounts, err := rt.store.Accounts(ctx)
	if err != nil {
		return store.Account{}, err
	}
	for _, a := range accounts {
		if a.ID == id {
			return a, nil
		}
	}
	return store.Account{}, api.NotFound("the account was removed meanwhile")
}

func noSuchKey(name string) error {
	return api.NotFound("there is no client key %q; `caddy claude-balancer keys list` shows all", name)
}

// Keys implements api.Backend.
func (rt *runtime) Keys(ctx context.Context) ([]api.Key, error) {
	stored, err := rt.store.Keys(ctx)
	if err != nil {
		return nil, err
	}
	signIns, err := rt.store.SignIns(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]api.Key, 0, len(stored))
	for i := range stored {
		k := rt.keyJSON(&stored[i])
		k.SignIns = signIns[stored[i].ID]
		out = append(out, k)
	}
	return out, nil
}

func (rt *runtime) keyJSON(k *store.Key) api.Key {
	out := api.Key{
		Name: k.Name, Role: k.Role, Models: k.Models, Accounts: k.Accounts, CreatedAt: k.CreatedAt.UnixMilli(),
		ExpiresAt: millis(k.ExpiresAt), LastUsed: millis(k.LastUsed), RPM: k.RPM, MaxInFlight: k.MaxInFlight,
		BudgetUSD: k.BudgetUSD, BudgetPeriod: k.BudgetPeriod,
	}
	if out.Models == nil {
		out.Models = []string{}
	}
	if out.Accounts == nil {
		out.Accounts = []string{}
	}
	if live, ok := rt.keys.Named(k.Name); ok {
		out.SpentUSD = live.Spent()
		if used := live.LastUsed(); used.After(k.LastUsed) { // written behind
			out.LastUsed = millis(used)
		}
	}
	return out
}

func (rt *runtime) storedKey(ctx context.Context, name string) (store.Key, error) {
	keys, err := rt.store.Keys(ctx)
	if err != nil {
		return store.Key{}, err
	}
	for _, k := range keys {
		if k.Name == name {
			return k, nil
		}
	}
	return store.Key{}, noSuchKey(name)
}

// AddKey implements api.Backend.
func (rt *runtime) AddKey(ctx context.Context, n api.NewKey) (api.Key, error) {
	k, err := access.ValidateNewKey(n, rt.now())
	if err != nil {
		return api.Key{}, err
	}
	credential, err := access.NewCredential(rand.Reader)
	if err != nil {
		return api.Key{}, err
	}
	k.ID, k.CreatedAt, k.Hash = newID(), rt.now(), access.Hash(credential)
	if err := rt.store.AddKey(ctx, k); err != nil {
		if errors.Is(err, store.ErrExists) {
			return api.Key{}, api.Conflict("a client key named %q already exists", k.Name)
		}
		return api.Key{}, err
	}
	rt.audit(ctx, "key.add", k.Name+", role "+k.Role)
	return rt.issued(ctx, &k, credential.Reveal())
}

// issued returns the key with its credential, which is shown this once.
func (rt *runtime) issued(ctx context.Context, k *store.Key, credential string) (api.Key, error) {
	// It is stored: it counts even if who asked for it has hung up.
	ctx = context.WithoutCancel(ctx)
	if err := rt.reloadKeys(ctx); err != nil {
		return api.Key{}, err
	}
	signIns, err := rt.store.SignIns(ctx)
	if err != nil {
		return api.Key{}, err
	}
	out := rt.keyJSON(k)
	out.SignIns = signIns[k.ID]
	out.Key = credential
	return out, nil
}

// UpdateKey implements api.Backend.
func (rt *runtime) UpdateKey(ctx context.Context, name string, p api.KeyPatch) (api.Key, error) {
	k, err := rt.storedKey(ctx, name)
	if err != nil {
		return api.Key{}, err
	}
	if k, err = access.ValidatePatch(k, p, rt.now()); err != nil {
		return api.Key{}, err
	}
	if err := rt.store.UpdateKey(ctx, k); err != nil {
		return api.Key{}, explainKeyGone(name, err)
	}
	rt.audit(ctx, "key.change", name+": "+strings.Join(changedOfKey(p), ", "))
	return rt.issued(ctx, &k, "")
}

// changedOfKey names the settings that a patch changes, not their values.
func changedOfKey(p api.KeyPatch) (names []string) {
	for _, f := range []struct {
		set  bool
		name string
	}{
		{p.Role.Set, "role"}, {p.Models.Set, "models"}, {p.Accounts.Set, "accounts"}, {p.ExpiresAt.Set, "expires_at"},
		{p.RPM.Set, "rpm"}, {p.MaxInFlight.Set, "max_in_flight"}, {p.BudgetUSD.Set, "budget_usd"}, {p.BudgetPeriod.Set, "budget_period"},
	} {
		if f.set {
			names = append(names, f.name)
		}
	}
	return names
}

func explainKeyGone(name string, err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return noSuchKey(name)
	}
	return err
}

// RotateKey implements api.Backend.
func (rt *runtime) RotateKey(ctx context.Context, name string, grace time.Duration) (api.Key, error) {
	k, err := rt.storedKey(ctx, name)
	if err != nil {
		return api.Key{}, err
	}
	credential, err := access.NewCredential(rand.Reader)
	if err != nil {
		return api.Key{}, err
	}
	k.PreviousHash, k.PreviousUntil = k.Hash, rt.now().Add(grace)
	k.Hash = access.Hash(credential)
	if err := rt.store.RotateKey(ctx, k); err != nil {
		return api.Key{}, explainKeyGone(name, err)
	}
	rt.audit(ctx, "key.rotate", name)
	return rt.issued(ctx, &k, credential.Reveal())
}

// RevokeKey implements api.Backend.
func (rt *runtime) RevokeKey(ctx context.Context, name string) error {
	k, err := rt.storedKey(ctx, name)
	if err != nil {
		return err
	}
	if err := rt.store.RemoveKey(ctx, k.ID); err != nil {
		return explainKeyGone(name, err)
	}
	rt.audit(ctx, "key.revoke", name)
	return rt.reloadKeys(context.WithoutCancel(ctx))
}

// maxAudits bounds one answer.
const maxAudits = 10_000

// Audit implements api.Backend.
func (rt *runtime) Audit(ctx context.Context) ([]api.AuditEntry, error) {
	stored, err := rt.store.Audits(ctx, maxAudits)
	if err != nil {
		return nil, err
	}
	out := make([]api.AuditEntry, 0, len(stored))
	for _, a := range stored {
		out = append(out, api.AuditEntry{At: a.At.UnixMilli(), What: a.What, Who: a.Who, Detail: a.Detail})
	}
	return out, nil
}
