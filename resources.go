package claudebalancer

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/claude-balancer/claude-balancer/anthropic"
	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/store"
)

// Batches, files, skills and containers exist on the account that made them
// only. Who owns what is remembered when it is made, or found once.

// findOwner binds the request to the account that owns what it names.
func (p *pass) findOwner() (refused *refusal) {
	switch t := p.target; t.Endpoint {
	case anthropic.Batches, anthropic.Files, anthropic.Skills:
		switch {
		case t.ID != "" && !(t.Endpoint == anthropic.Skills && anthropic.SharedSkill(t.ID)):
			return p.ownerOfPath()
		case t.List:
			p.list, refused = p.newList()
		case t.Create && t.Endpoint == anthropic.Batches:
			return p.ownerOfBody()
		}
	case anthropic.Messages, anthropic.CountTokens:
		return p.ownerOfBody()
	}
	return refused
}

func (p *pass) ownerOfPath() *refusal {
	r, err := p.rt.ownerOf(p.ctx, p.target.ID)
	switch {
	case err == nil && !p.mayUse(r):
		return refuseUnknownID
	case err == nil:
		p.want.Owner = r.AccountID
		return nil
	case !errors.Is(err, store.ErrNotFound):
		return p.refuseLookup(err)
	}
	return p.searchOwner()
}

// refuseLookup: without the store nobody can say whose a resource is, and a
// guess could show one client's to another.
func (p *pass) refuseLookup(err error) *refusal {
	if p.ctx.Err() != nil {
		p.outcome = api.OutcomeClientGone
		return &refusal{status: statusClientGone}
	}
	if !errors.Is(err, store.ErrUnavailable) { // which the log has been told
		p.log.Error("looking up who owns a resource", zap.Error(err))
	}
	return &refusal{status: http.StatusServiceUnavailable, typ: typeAPI, retryAfter: overloadWait,
		message: "The balancer cannot look up now which account has this resource. Try again in a few seconds."}
}

// mayUse reports whether the client may know the resource: a key sees its own,
// a client without one sees all.
func (p *pass) mayUse(r store.Resource) bool {
	return p.who.Key == nil || r.ClientKey == p.who.Key.Name
}

// searchOwner lets a read of an unknown id ask each account once. Anything else
// is refused, since nobody knows on which account it would act.
func (p *pass) searchOwner() *refusal {
	reads := p.r.Method == http.MethodGet || p.r.Method == http.MethodHead
	limited := p.who.Key != nil && (p.who.Key.Restricted() || !reads)
	if _, nowhere := p.rt.unknown.get(p.searchKey(), p.start); limited || nowhere {
		return refuseUnknownID
	}
	if !reads && len(p.rt.pool.Snapshot()) > 1 {
		return refuseUnknownID
	}
	p.searching = reads
	return nil
}

// searchKey is for whom a search went where: a key may not ask every account.
func (p *pass) searchKey() string { return p.want.Client + "\x00" + p.target.ID }

var refuseUnknownID = &refusal{status: http.StatusNotFound, typ: typeNotFound, noRetry: true,
	message: "No account of the pool is known to have this resource."}

var refuseMentions = &refusal{status: http.StatusBadRequest, typ: typeInvalidRequest,
	message: fmt.Sprintf("The body names more than %d files, containers and skills.", anthropic.MaxResources)}

// ownerOfBody binds the request to the account of the first resource that its
// body names. Each of them must be the client's.
func (p *pass) ownerOfBody() *refusal {
	switch n := len(p.mentions); {
	case n == 0:
		return nil
	case n > anthropic.MaxResources: // the rest would go unseen
		return refuseMentions
	}
	owned, err := p.rt.ownersOf(p.ctx, p.mentions)
	if err != nil {
		return p.refuseLookup(err)
	}
	for _, id := range p.mentions { // all of them: one's own does not open another's
		r, known := owned[id]
		switch {
		case !known:
			continue
		case !p.mayUse(r):
			return refuseUnknownID
		case p.want.Owner == "":
			p.want.Owner = r.AccountID
		}
		p.named = append(p.named, id)
	}
	return nil
}

// foundNowhere turns a 404 of one account into a reason to ask the next, while
// the owner of an id is searched.
func (p *pass) foundNowhere(a *answer) {
	if p.searching && a.res != nil && a.res.StatusCode == http.StatusNotFound {
		a.verdict.Action = anthropic.NextOrPass
	}
}

// endSearch remembers where the search for an unknown id has ended.
func (p *pass) endSearch() {
	if !p.searching {
		return
	}
	if p.answer.res.StatusCode < 300 {
		p.own(p.target.ID)
		return
	}
	for _, r := range p.results {
		if r.status != http.StatusNotFound {
			return // who did not answer may have it
		}
	}
	p.rt.unknown.add(p.searchKey(), struct{}{}, p.start)
}

// made is the id of what the answer has made, once it was told.
func (s *stream) made() string {
	p := s.pass
	switch {
	case p.answer.res.StatusCode >= 300:
		return ""
	case p.target.Create && s.whole != nil:
		return s.whole.ID()
	case p.target.Endpoint != anthropic.Messages:
		return ""
	case s.events:
		return s.scan.Container()
	case s.whole != nil:
		return s.whole.Container()
	}
	return ""
}

// rememberOwner keeps who owns what the answer has made, before the client has
// its id and may ask for it.
func (s *stream) rememberOwner() {
	if s.owned {
		return
	}
	if id := s.made(); id != "" {
		s.owned = true
		if !slices.Contains(s.pass.named, id) { // else it is known
			s.pass.own(id)
		}
	}
}

// own keeps that the answering account owns the resource.
func (p *pass) own(id string) {
	r := store.Resource{ID: id, AccountID: p.answer.ticket.ID, ClientKey: p.want.Client, CreatedAt: p.now()}
	p.rt.owners.add(id, r, p.start)
	if p.rt.link.away() {
		p.rt.unsaved.add(r)
		return
	}
	// The client may be gone by now; what it made still has an owner.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.ctx), resourceWait)
	defer cancel()
	if err := p.rt.store.SaveResource(ctx, r); err != nil {
		p.log.Error("remembering who owns a resource", zap.String("account", p.answer.ticket.Name), zap.Error(err))
		p.rt.unsaved.add(r)
	}
}

// resourceWait bounds the write that remembers an owner.
const resourceWait = 5 * time.Second

// ownersOf returns the owners of those ids that are known. Whose a resource is
// does not change, so that the store is asked once in a while only.
func (rt *runtime) ownersOf(ctx context.Context, ids []string) (map[string]store.Resource, error) {
	now := rt.now()
	found, missing := make(map[string]store.Resource, len(ids)), []string(nil)
	for _, id := range ids {
		if r, ok := rt.owners.get(id, now); ok && rt.pool.NameOf(r.AccountID) != "" {
			found[id] = r
		} else {
			missing = append(missing, id)
		}
	}
	if len(missing) == 0 {
		return found, nil
	}
	if rt.link.away() {
		return nil, store.ErrUnavailable
	}
	stored, err := rt.store.Resources(ctx, missing)
	if err != nil {
		return nil, err
	}
	for id, r := range stored {
		rt.owners.add(id, r, now)
		found[id] = r
	}
	return found, nil
}

func (rt *runtime) ownerOf(ctx context.Context, id string) (store.Resource, error) {
	found, err := rt.ownersOf(ctx, []string{id})
	if err != nil {
		return store.Resource{}, err
	}
	r, ok := found[id]
	if !ok {
		return store.Resource{}, store.ErrNotFound
	}
	return r, nil
}

// unsavedOwners are owners that could not be stored.
type unsavedOwners struct {
	mu   sync.Mutex
	list []store.Resource
}

// maxUnsavedOwners bounds them; the oldest are kept.
const maxUnsavedOwners = 10_000

func (u *unsavedOwners) add(r store.Resource) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.list) < maxUnsavedOwners {
		u.list = append(u.list, r)
	}
}

func (u *unsavedOwners) take() (list []store.Resource) {
	u.mu.Lock()
	defer u.mu.Unlock()
	list, u.list = u.list, nil
	return list
}

// saveOwners stores what could not be stored.
func (rt *runtime) saveOwners(ctx context.Context) error {
	var failed error
	for _, r := range rt.unsaved.take() {
		err := failed
		if err == nil {
			err = rt.store.SaveResource(ctx, r)
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) { // else its account is gone
			rt.unsaved.add(r)
			failed = err
		}
	}
	return failed
}

// recent remembers something of ids for a while.
type recent[V any] struct {
	mu   sync.Mutex
	byID map[string]dated[V]
}

type dated[V any] struct {
	value V
	until time.Time
}

const (
	recentKept = 10 * time.Minute
	recentMost = 10_000
)

func (r *recent[V]) get(id string, now time.Time) (value V, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if d, ok := r.byID[id]; ok && d.until.After(now) {
		return d.value, true
	}
	return value, false
}

func (r *recent[V]) add(id string, value V, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byID == nil || len(r.byID) >= recentMost {
		r.byID = make(map[string]dated[V])
	}
	r.byID[id] = dated[V]{value, now.Add(recentKept)}
}
