package claudebalancer

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/claude-balancer/claude-balancer/anthropic"
	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/oauth"
	"github.com/claude-balancer/claude-balancer/selection"
)

// Names of the events that the Caddyfile can subscribe to. None carries a
// secret.
const (
	eventLimited    = "account_limited"
	eventAvailable  = "account_available"
	eventNeedsLogin = "account_needs_login"
	eventRefreshed  = "token_refreshed"
	eventExhausted  = "pool_exhausted"
)

// emission is an event that waits for its subscribers.
type emission struct {
	event string
	data  map[string]any
}

// maxEmissions bounds the events that wait. More of them come only while a
// subscriber hangs, and then they are dropped.
const maxEmissions = 256

// emit lets Caddy's event subscribers hear of an event. They may be slow, so
// nobody waits for them.
func (rt *runtime) emit(event string, data map[string]any) {
	select {
	case rt.emissions <- emission{event, data}:
	default:
		rt.logger().Warn("an event is dropped, since its subscribers do not keep up", zap.String("event", event))
	}
}

// callSubscribers calls them, one event after the other.
func (rt *runtime) callSubscribers(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-rt.emissions:
			a := rt.app.Load()
			a.events.Emit(a.ctx, e.event, e.data)
		}
	}
}

// tellNotices logs what became of accounts and tells the subscribers.
func (rt *runtime) tellNotices() {
	notices := rt.pool.TakeNotices()
	for _, n := range notices {
		rt.tellNotice(n)
	}
	if len(notices) > 0 {
		rt.feed.accountsChanged()
	}
}

func (rt *runtime) tellNotice(n selection.Notice) {
	log := rt.logger().With(zap.String("account", n.Account), zap.String("reason", n.Reason))
	data := map[string]any{"account": n.Account, "reason": n.Reason}
	switch n.Status {
	case api.StatusAvailable:
		log.Info("account is available")
		rt.emit(eventAvailable, data)
	case api.StatusLimited:
		log.Info("account is limited", zap.Time("until", n.Until))
		data["until"] = n.Until.UTC().Format(time.RFC3339)
		rt.emit(eventLimited, data)
	case api.StatusNeedsLogin:
		log.Error("account needs a new login: run caddy claude-balancer login " + shellWord(n.Account))
		rt.emit(eventNeedsLogin, data)
	case api.StatusDisabled:
		log.Error("account is disabled by the provider; to try it again: caddy claude-balancer clear-limits " + shellWord(n.Account))
	default:
		log.Info("account is " + string(n.Status))
	}
}

// tokenChanged is told by the token source.
func (rt *runtime) tokenChanged(id string, e oauth.Event) {
	name := rt.pool.NameOf(id)
	metrics.refreshes.WithLabelValues(name, string(e.Type)).Inc()
	switch e.Type {
	case oauth.EventRefreshed:
		rt.pool.LoginRenewed(id)
		rt.emit(eventRefreshed, map[string]any{"account": name})
	case oauth.EventNeedsLogin:
		rt.pool.SetState(id, api.StatusNeedsLogin, e.Reason)
	case oauth.EventDisabled:
		rt.pool.SetState(id, api.StatusDisabled, e.Reason)
	}
}

// poolExhausted tells that a request found no account. Many requests find that
// at once; the subscribers hear of it once in a while.
func (rt *runtime) poolExhausted(p *pass) {
	if !rt.exhausted.allow(rt.now()) {
		return
	}
	model, tries := p.want.Model, len(p.attempts)
	p.log.Warn("no account could serve a request", zap.String("id", p.id), zap.String("model", model), zap.Int("tries", tries))
	rt.emit(eventExhausted, map[string]any{"model": model, "family": string(anthropic.FamilyOf(model))})
}

// limiter lets one message through in a while.
type limiter struct {
	mu   sync.Mutex
	last time.Time
}

const messageEvery = 5 * time.Second

func (l *limiter) allow(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.last) < messageEvery {
		return false
	}
	l.last = now
	return true
}
