package claudebalancer

import (
	"context"
	"errors"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/claude-balancer/claude-balancer/anthropic"
	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/oauth"
	"github.com/claude-balancer/claude-balancer/selection"
	"github.com/claude-balancer/claude-balancer/store"
)

// burstPatience is how long a conversation waits for its account after a burst
// before another one, without its prompt cache, serves it.
const burstPatience = 10 * time.Second

// roundTrip tries accounts until one answers, in rounds. What goes upstream is
// built anew for each try.
func (p *pass) roundTrip() (*http.Response, error) {
	if p.list != nil {
		return p.list.answer()
	}
	res, err := p.rounds()
	if err == nil && p.hidesModels(res) {
		return p.withoutHiddenModels(res)
	}
	return res, err
}

func (p *pass) rounds() (*http.Response, error) {
	for p.round = 1; ; p.round++ {
		p.tried = p.tried[:0]
		res, err := p.oneRound()
		if res != nil || err != nil {
			return res, err
		}
		if !p.anotherRound() {
			return p.giveUp()
		}
	}
}

// oneRound goes once through the candidates in the policy's order. It returns
// neither answer nor error if all of them were given up.
func (p *pass) oneRound() (*http.Response, error) {
	for p.mayTry() {
		ticket, err := p.nextAccount()
		if ticket == nil || err != nil {
			return nil, err
		}
		p.triedNow(ticket.ID)
		res, err := p.tryAccount(ticket)
		if p.answer == nil || p.answer.ticket != ticket {
			ticket.Release()
		}
		if res != nil || err != nil {
			return res, err
		}
		if !p.body.repeatable() {
			return nil, p.refuseLostAnswer()
		}
	}
	return nil, nil
}

// mayTry reports whether one more try may start.
func (p *pass) mayTry() bool {
	tries := len(p.attempts) - p.spent
	if tries == 0 {
		return true
	}
	return tries < p.h.MaxTries && p.now().Before(p.deadline)
}

// nextAccount gets a place on an account, waiting for one if that is worth it.
// It returns nil when the round is over.
func (p *pass) nextAccount() (*selection.Ticket, error) {
	ticket, refusal := p.rt.pool.Acquire(&p.want, p.h.policy, p.tried)
	if ticket != nil {
		p.debugChosen(ticket)
		return ticket, nil
	}
	if refusal.Allowed == 0 {
		return nil, p.refuseNobody(refusal)
	}
	if refusal.Open > 0 {
		return nil, nil
	}
	if !refusal.WorthWaiting(p.deadline) {
		return nil, nil
	}
	ticket = p.rt.pool.Wait(p.ctx, &p.want, p.h.policy, p.tried, p.deadline)
	if ticket == nil && p.ctx.Err() != nil {
		return nil, errClientGone
	}
	return ticket, nil
}

// anotherRound decides whether to go through the candidates again, and waits
// before it.
func (p *pass) anotherRound() bool {
	if p.round >= p.h.Retries || len(p.results) == 0 || !p.mayTry() || p.onlyPassable() || p.onlyLogins() {
		return false // there is nothing that time alone would change
	}
	if p.anyCause(anthropic.CauseOverloaded) && p.rt.pool.Incident(&p.want) {
		return false // more tries would only add to the provider's trouble
	}
	wait := time.Duration(p.h.RetryDelay)
	for range p.round - 1 {
		wait = time.Duration(float64(wait) * p.h.RetryBackoff)
	}
	refusal := p.rt.pool.Peek(&p.want)
	switch {
	case refusal.FreeAt.IsZero():
		if refusal.Open == 0 && refusal.Busy == 0 {
			return false // nobody is left, and nobody will be free by itself
		}
	case refusal.Open == 0 && refusal.Busy == 0:
		// Nobody is free before the first bench ends.
		wait = refusal.FreeAt.Sub(p.now())
	default:
		wait = min(wait, refusal.FreeAt.Sub(p.now()))
	}
	if p.now().Add(wait).After(p.deadline) {
		return false
	}
	return sleep(p.ctx, wait)
}

// sleep waits, or returns false when ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// tryAccount sends the request to the account, and again where the account
// deserves a second try at once. It returns neither answer nor error if the
// account is given up.
func (p *pass) tryAccount(ticket *selection.Ticket) (*http.Response, error) {
	if key := p.who.Key; key != nil && !key.Alive() {
		return nil, p.refuseEndedKey() // it ended while the request waited
	}
	token, err := p.rt.tokens.Token(p.ctx, ticket.ID)
	if err != nil {
		return nil, p.loginFailed(ticket, err)
	}
	waited := false
	for {
		a := p.try(ticket, token)
		switch a.verdict.Action {
		case anthropic.Done, anthropic.Pass:
			p.report(a)
			return p.commit(a), nil
		case anthropic.NextOrPass:
			p.report(a)
			p.hold(a)
			return nil, nil
		case anthropic.Refresh:
			fresh, err := p.refreshed(a, token)
			if err != nil {
				return nil, err
			}
			if fresh.Value.IsZero() || !p.mayTry() {
				return nil, nil
			}
			token = fresh
			continue
		}
		p.report(a)
		a.discard()
		if err := p.mustStop(a); err != nil {
			return nil, err
		}
		if a.verdict.Action == anthropic.WaitOrNext && !waited && p.waitsOut(a) {
			waited = true
			continue
		}
		return nil, nil
	}
}

// mustStop returns the answer to the client if no other account may be tried.
func (p *pass) mustStop(a *answer) error {
	switch {
	case p.ctx.Err() != nil:
		return errClientGone
	case a.verdict.Action == anthropic.Stop:
		return p.refuseTimeout()
	case a.verdict.Cause == anthropic.CauseReset && !a.verdict.Unprocessed:
		// Upstream may have worked on it, and may bill it.
		if p.repeated || !p.target.Repeatable() {
			return p.refuseLostAnswer()
		}
		p.repeated = true
	}
	return nil
}

// waitsOut waits for the end of a short burst bench, so that a conversation
// that has its cache on the account stays there. It holds the place meanwhile.
func (p *pass) waitsOut(a *answer) bool {
	if !a.ticket.Kept || !p.mayTry() {
		return false
	}
	until, limited := p.rt.pool.LimitedUntil(a.ticket.ID, &p.want)
	wait := until.Sub(p.now())
	if !limited || wait > burstPatience || until.After(p.deadline) {
		return false
	}
	return sleep(p.ctx, wait)
}

// refreshed answers a 401 or its like: with a fresh token if one can be had,
// without one if the account is to be given up.
func (p *pass) refreshed(a *answer, used oauth.Token) (oauth.Token, error) {
	defer a.discard()
	r := p.result(a.ticket)
	current, _ := p.rt.tokens.Current(a.ticket.ID)
	young := !used.OlderThan(freshToken, p.now()) && current.Value.Equal(used.Value)
	if r.refresh || young || a.ticket.Kind != api.KindOAuth {
		if a.ticket.Kind == api.KindOAuth && p.target.Endpoint == anthropic.Messages {
			// A good token that is refused: let the account rest.
			a.verdict.Scope, a.verdict.Until = anthropic.ScopeAccount, p.now().Add(refusedRest)
		}
		p.report(a)
		return oauth.Token{}, nil
	}
	r.refresh = true
	p.report(a)
	fresh, err := p.rt.tokens.Refresh(p.ctx, a.ticket.ID, used)
	if err != nil {
		if p.ctx.Err() != nil {
			return oauth.Token{}, errClientGone
		}
		r.message = "its login could not be refreshed: " + err.Error()
		p.log.Warn("refreshing a refused login", zap.String("account", a.ticket.Name), zap.Error(err))
		return oauth.Token{}, nil
	}
	return fresh, nil
}

const (
	freshToken  = time.Minute     // a younger token is not refreshed because of a 401
	refusedRest = 5 * time.Minute // of an account whose good token is refused
)

// loginFailed gives the account up because no token can be had.
func (p *pass) loginFailed(ticket *selection.Ticket, err error) error {
	if p.ctx.Err() != nil {
		return errClientGone
	}
	r := p.result(ticket)
	r.cause, r.message, r.storeAway = anthropic.CauseLogin, err.Error(), errors.Is(err, store.ErrUnavailable)
	p.attempts = append(p.attempts, api.Attempt{Account: ticket.Name, Cause: string(anthropic.CauseLogin)})
	p.log.Warn("an account has no login", zap.String("account", ticket.Name), zap.Error(err))
	return nil
}

// report tells the pool what the try showed.
func (p *pass) report(a *answer) {
	if errors.Is(p.ctx.Err(), context.Canceled) && a.res == nil {
		return // it shows only that the client left
	}
	a.ticket.Report(selection.Report{RequestID: p.id, Sent: a.sent, Verdict: a.verdict, SpendExtraUsage: p.h.SpendExtraUsage})
	p.debugTried(a)
}

// hold keeps an answer that is passed on if nothing better comes.
func (p *pass) hold(a *answer) {
	if p.held != nil {
		p.held.discard()
	}
	p.held = a
}

// onlyPassable reports whether every try ended with an answer that is as good
// for the client as any.
func (p *pass) onlyPassable() bool {
	if p.held == nil {
		return false
	}
	for _, r := range p.results {
		if !r.passable {
			return false
		}
	}
	return true
}

func (p *pass) anyCause(c anthropic.Cause) bool {
	for _, r := range p.results {
		if r.cause == c {
			return true
		}
	}
	return false
}

// giveUp ends the request: with the answer that was held back, or with one that
// says what every account did.
func (p *pass) giveUp() (*http.Response, error) {
	if p.ctx.Err() != nil {
		return nil, errClientGone
	}
	if p.onlyPassable() {
		return p.commit(p.held), nil
	}
	if p.held != nil {
		p.held.discard()
	}
	if p.want.Owner != "" && len(p.results) == 0 {
		return nil, p.refuseOwnerGone()
	}
	return nil, p.refuseExhausted()
}
