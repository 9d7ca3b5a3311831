package selection

import (
	"strings"
	"time"
)

// explain says in words why the member may not serve the request, "" if it may.
func (m *member) explain(r *Request, now time.Time) string {
	switch o := m.obstacleFor(r, now); o {
	case free:
		return ""
	case notItsModel:
		if m.Models != nil {
			return "its own list of models does not hold " + r.Model
		}
		return "plan " + m.Plan + " does not allow " + r.Model
	case notForClient:
		return "the client key may not use it"
	case notTheOwner:
		return "another account owns the resource"
	case needsLogin, disabled, paused:
		_, reason, _ := m.status(now)
		return reason
	case limited:
		l := m.limitFor(r, now)
		return l.Words() + " until " + l.Until.UTC().Format(time.RFC3339)
	case onProbation:
		return "it failed repeatedly and one request is trying it now"
	default:
		_, reason, _ := m.status(now)
		return reason
	}
}

// standing says what holds an account back that may serve, "" if nothing does.
func (m *member) standing(now time.Time) string {
	switch m.rank(now) {
	case rankTroubled:
		return "; second choice after an overload a moment ago"
	case rankFlagged:
		return "; last choice: " + strings.ReplaceAll(m.flag, "_", " ")
	}
	return ""
}

// Opinion is what selection thinks of one account for a request.
type Opinion struct {
	ID       string
	Account  string
	Eligible bool
	Reason   string  // in words, also for accounts that may serve
	Score    float64 // the policy's: the lowest is chosen
	Scored   bool    // it is eligible, and the policy has scores
}

// Explain tells who would be chosen now and why not the others. Nothing
// changes.
func (p *Pool) Explain(r *Request, policy Policy) (opinions []Opinion, chosen string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.look(r)
	r.Rand = 0 // a fixed chance, so that asking twice answers the same
	choice, _, _ := p.choose(r, policy, nil, now)
	pin, _ := p.pinned(r, nil, now)
	if pin != nil {
		choice = pin
	}
	scorer, _ := policy.(Scorer)
	for _, m := range p.members {
		o := Opinion{ID: m.ID, Account: m.Name, Reason: m.explain(r, now)}
		o.Eligible = o.Reason == ""
		if o.Eligible && scorer != nil {
			o.Score, o.Scored = scorer.Score(r, p.candidate(m, bucketOf(now))), true
		}
		switch {
		case !o.Eligible && m == pin:
			o.Reason += "; its session waits for it"
		case !o.Eligible && m == choice:
			o.Reason += "; nobody else can serve, so a real request tries it"
		case !o.Eligible:
		case m == pin:
			o.Reason = "keeps this session" + m.standing(now)
		case m == choice:
			o.Reason = "the policy's choice" + m.standing(now)
		default:
			o.Reason = "may serve" + m.standing(now)
		}
		opinions = append(opinions, o)
	}
	if choice != nil {
		chosen = choice.Name
	}
	return opinions, chosen
}

// Peek tells what Acquire would find in a new round, without taking a place:
// Refusal.Open counts the accounts that could serve.
func (p *Pool) Peek(r *Request) Refusal {
	p.mu.Lock()
	defer p.mu.Unlock()
	candidates, refusal := p.candidates(r, nil, p.look(r))
	refusal.Open = len(candidates)
	return refusal
}

// LimitedUntil tells until when the account is benched for the request.
func (p *Pool) LimitedUntil(id string, r *Request) (until time.Time, limited bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.byID[id]
	if m == nil {
		return time.Time{}, false
	}
	l := m.limitFor(r, p.now())
	if l == nil {
		return time.Time{}, false
	}
	return l.Until, true
}

// Allowed lists the accounts whose plan or own list allows the model.
func (p *Pool) Allowed(model string) (names []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := &Request{Model: model, access: p.modelAccess(model)}
	for _, m := range p.members {
		if m.allows(r) {
			names = append(names, m.Name)
		}
	}
	return names
}

// Why says of each account that the model, the client key and the owner leave
// whether it can serve the request now, and why not.
func (p *Pool) Why(r *Request) []Opinion {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.look(r)
	var out []Opinion
	for _, m := range p.members {
		if !m.allows(r) || r.Allowed != nil && !r.Allowed(m.Name) || r.Owner != "" && r.Owner != m.ID {
			continue
		}
		reason := m.explain(r, now)
		out = append(out, Opinion{ID: m.ID, Account: m.Name, Eligible: reason == "", Reason: reason})
	}
	return out
}
