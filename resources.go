package claudebalancer

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/claude-balancer/claude-balancer/anthropic"
	"github.com/claude-balancer/claude-balancer/store"
)

// Batches, files, skills and containers exist on the account that made them
// only. Who owns what is remembered when it is made, or found once.

// findOwner binds the request to the account that owns what it names.
func (p *pass) findOwner() *refusal {
	switch p.target.Endpoint {
	case anthropic.Batches, anthropic.Files, anthropic.Skills:
		if p.target.ID != "" {
			return p.ownerOfPath()
		}
	case anthropic.Messages, anthropic.CountTokens:
		if p.body.repeatable() {
			return p.ownerOfBody()
		}
	}
	return nil
}

func (p *pass) ownerOfPath() *refusal {
	r, err := p.rt.store.Resource(p.ctx, p.target.ID)
	switch {
	case err == nil && !p.mayUse(r):
		return refuseUnknownID
	case err == nil:
		p.want.Owner = r.AccountID
		return nil
	case !errors.Is(err, store.ErrNotFound):
		p.log.Error("looking up who owns a resource", zap.Error(err))
	}
	return p.searchOwner()
}

// mayUse reports whether the client may know the resource: a key sees its own,
// a client without one sees all.
func (p *pass) mayUse(r store.Resource) bool {
	return p.who.Key == nil || r.ClientKey == p.who.Key.Name
}

// searchOwner lets a read of an unknown id ask each account once. Anything else
// is refused, since nobody knows on which account it would act.
func (p *pass) searchOwner() *refusal {
	limited := p.who.Key != nil && p.who.Key.Restricted()
	reads := p.r.Method == http.MethodGet || p.r.Method == http.MethodHead
	if limited || p.rt.unknown.has(p.target.ID, p.start) {
		return refuseUnknownID
	}
	if !reads && len(p.rt.pool.Snapshot()) > 1 {
		return refuseUnknownID
	}
	p.searching = reads
	return nil
}

var refuseUnknownID = &refusal{status: http.StatusNotFound, typ: typeNotFound, noRetry: true,
	message: "No account of the pool is known to have this resource."}

func (p *pass) ownerOfBody() *refusal {
	ids := anthropic.BodyResources(p.text)
	if len(ids) == 0 {
		return nil
	}
	owned, err := p.rt.store.Resources(p.ctx, ids)
	if err != nil {
		p.log.Error("looking up who owns a resource", zap.Error(err))
		return nil
	}
	for _, id := range ids { // all of them: one's own does not open another's
		r, known := owned[id]
		switch {
		case !known:
		case !p.mayUse(r):
			return refuseUnknownID
		case p.want.Owner == "":
			p.want.Owner = r.AccountID
		}
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

// rememberOwner keeps who owns what this request made, used or found.
func (p *pass) rememberOwner(s *streamWriter) {
	id := ""
	switch status := p.answer.res.StatusCode; {
	case p.searching && status == http.StatusNotFound:
		p.rt.unknown.add(p.target.ID, p.start)
		return
	case status >= 300:
		return
	case p.searching:
		id = p.target.ID
	case p.target.Create && s.whole != nil:
		id = s.whole.ID()
	case p.target.Endpoint == anthropic.Messages && s.events:
		id = s.scan.Container()
	case p.target.Endpoint == anthropic.Messages && s.whole != nil:
		id = s.whole.Container()
	}
	if id == "" {
		return
	}
	r := store.Resource{ID: id, AccountID: p.answer.ticket.ID, ClientKey: p.want.Client, CreatedAt: p.now()}
	// The client may be gone by now; what it made still has an owner.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.ctx), resourceWait)
	defer cancel()
	if err := p.rt.store.SaveResource(ctx, r); err != nil {
		p.log.Error("remembering who owns a resource", zap.String("account", p.answer.ticket.Name), zap.Error(err))
	}
}

// resourceWait bounds the write that remembers an owner.
const resourceWait = 5 * time.Second

// unknownIDs remembers ids that no account knows, for a while.
type unknownIDs struct {
	mu    sync.Mutex
	until map[string]time.Time
}

const (
	unknownKept = 10 * time.Minute
	unknownMost = 10_000
)

func (u *unknownIDs) has(id string, now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.until[id].After(now)
}

func (u *unknownIDs) add(id string, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.until == nil || len(u.until) >= unknownMost {
		u.until = make(map[string]time.Time)
	}
	u.until[id] = now.Add(unknownKept)
}
