package selection

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/claude-balancer/claude-balancer/anthropic"
	"github.com/claude-balancer/claude-balancer/api"
)

// Live is a copy of an account's live state.
type Live struct {
	Account
	Status      api.Status
	Reason      string    // in words; "" when available
	AvailableAt time.Time // zero = not limited, or not known
	ModelList   string    // comma-separated: its own list, else its plan's
	InFlight    int
	Limits      []Limit // those that hold now
	Windows     []Window
}

// Snapshot copies the live state of all accounts, in the order of the store.
func (p *Pool) Snapshot() []Live {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	out := make([]Live, 0, len(p.members))
	for _, m := range p.members {
		out = append(out, p.live(m, now))
	}
	return out
}

func (p *Pool) live(m *member, now time.Time) Live {
	l := Live{Account: m.Account, InFlight: m.inFlight, Windows: slices.Clone(m.windows)}
	l.Status, l.Reason, l.AvailableAt = m.status(now)
	for _, limit := range m.limits {
		if limit.Until.After(now) {
			l.Limits = append(l.Limits, limit)
		}
	}
	if m.Account.Models != nil {
		l.ModelList = strings.Join(m.Account.Models, ",")
	} else {
		l.ModelList = p.plans[m.Plan].Describe()
	}
	return l
}

// status sums a member up. An account whose limits cover single families or
// models only is available: it serves the rest.
func (m *member) status(now time.Time) (api.Status, string, time.Time) {
	switch {
	case m.State == api.StatusNeedsLogin:
		return m.State, "needs a new login: " + m.StateReason, time.Time{}
	case m.State == api.StatusDisabled:
		return m.State, "disabled by the provider: " + m.StateReason, time.Time{}
	case m.Paused:
		return api.StatusPaused, "paused by the operator", time.Time{}
	}
	var worst *Limit
	var parts []string
	for i := range m.limits {
		l := &m.limits[i]
		if !l.Until.After(now) {
			continue
		}
		if l.Scope != api.ScopeAccount {
			parts = append(parts, l.Words())
		} else if worst == nil || l.Until.After(worst.Until) {
			worst = l
		}
	}
	switch {
	case worst != nil:
		return api.StatusLimited, worst.Words(), worst.Until
	case m.MaxInFlight > 0 && m.inFlight >= m.MaxInFlight:
		return api.StatusBusy, strconv.Itoa(m.inFlight) + " requests running, its bound is " + strconv.Itoa(m.MaxInFlight), time.Time{}
	}
	if m.flag != "" {
		parts = append(parts, "chosen last: "+strings.ReplaceAll(m.flag, "_", " "))
	}
	return api.StatusAvailable, strings.Join(parts, "; "), time.Time{}
}

// Words says what the limit is, without its time.
func (l *Limit) Words() string {
	text := causeWords[l.Cause]
	if text == "" { // from a database that a newer version has written
		text = string(l.Cause)
	}
	if l.Name != "" {
		text = l.Name + ": " + text
	}
	if l.Header != "" {
		text += " (" + l.Header + ")"
	}
	return text
}

// causeWords says what a limit's cause means to the operator.
var causeWords = map[anthropic.Cause]string{
	anthropic.CauseWindow:         "usage window spent",
	anthropic.CauseScopedWindow:   "usage window of this family spent",
	anthropic.CauseExtraUsage:     "usage window spent; further answers would be paid extra usage",
	anthropic.CauseNoCredit:       "no credit for this family",
	anthropic.CauseSpendLimit:     "the organization's spend limit is reached",
	anthropic.CauseAPISpend:       "the organization's own API spend limit is reached",
	anthropic.CauseBilling:        "billing needs attention",
	anthropic.CauseBurst:          "throttled after a burst",
	anthropic.CauseServerError:    "failed repeatedly while others did not",
	anthropic.CauseUnauthorized:   "a fresh login was refused",
	anthropic.CauseModelForbidden: "no access to this model",
}

// word names the obstacle in one word, for metrics.
func (o obstacle) word() string {
	return [...]string{"free", "model", "client", "owner", "needs_login", "disabled", "paused", "limited", "probation", "busy"}[o]
}

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

// Opinion is what selection thinks of one account for a request.
type Opinion struct {
	ID       string
	Account  string
	Eligible bool
	Reason   string
	Score    float64
	Scored   bool
}

// Explain tells who would be chosen now and why not the others. Nothing
// changes.
func (p *Pool) Explain(r *Request, policy Policy) (opinions []Opinion, chosen string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	r.access = p.modelAccess(r.Model)
	candidates, _ := p.candidates(r, nil, now)
	scorer, _ := policy.(Scorer)

	pinned := p.pinned(r, nil, now)
	if len(candidates) > 0 {
		// The policy sees a fixed chance, so that asking twice answers the same.
		if i := policy.Select(r, candidates); i >= 0 && i < len(candidates) {
			chosen = candidates[i].Name
		}
	}
	if pinned != nil {
		chosen = pinned.Name
	}
	for _, m := range p.members {
		o := Opinion{ID: m.ID, Account: m.Name, Reason: m.explain(r, now)}
		o.Eligible = o.Reason == ""
		for i := range candidates {
			if candidates[i].member == m && scorer != nil {
				o.Score, o.Scored = scorer.Score(r, &candidates[i]), true
			}
		}
		switch {
		case !o.Eligible:
		case m == pinned:
			o.Reason = "keeps this session"
		case m.rank(now) == rankTroubled:
			o.Reason = "may serve; second choice after an overload a moment ago"
		case m.rank(now) == rankFlagged:
			o.Reason = "may serve; last choice: " + strings.ReplaceAll(m.flag, "_", " ")
		case m.Name == chosen:
			o.Reason = "the policy's choice"
		default:
			o.Reason = "may serve"
		}
		opinions = append(opinions, o)
	}
	return opinions, chosen
}

// Peek tells what Acquire would find in a new round, without taking a place:
// Refusal.Open counts the accounts that could serve.
func (p *Pool) Peek(r *Request) Refusal {
	p.mu.Lock()
	defer p.mu.Unlock()
	r.access = p.modelAccess(r.Model)
	candidates, refusal := p.candidates(r, nil, p.now())
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

// Why says for each account that was not tried, by id, why it cannot serve the
// request now.
func (p *Pool) Why(r *Request) []Opinion {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	r.access = p.modelAccess(r.Model)
	var out []Opinion
	for _, m := range p.members {
		if !m.allows(r) || r.Allowed != nil && !r.Allowed(m.Name) {
			continue
		}
		reason := m.explain(r, now)
		out = append(out, Opinion{ID: m.ID, Account: m.Name, Eligible: reason == "", Reason: reason})
	}
	return out
}

// Notice tells that an account's state changed.
type Notice struct {
	AccountID   string
	Account     string
	Status      api.Status
	Reason      string // in words
	StateReason string // of needs_login and disabled, to be stored
	Until       time.Time
}

func (p *Pool) notice(m *member, now time.Time) {
	status, reason, until := m.status(now)
	if status == api.StatusBusy { // not worth telling
		status = api.StatusAvailable
	}
	if status != m.noticedStatus {
		m.noticedStatus = status
		p.notices = append(p.notices, Notice{m.ID, m.Name, status, reason, m.StateReason, until})
	}
	// Windows are stored by the clock: waking for them while they may not be
	// stored yet would be a loop.
	if len(p.notices) > 0 || m.limitsDirty {
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
}

func (p *Pool) noticeAll(now time.Time) {
	for _, m := range p.members {
		p.notice(m, now)
	}
}

// Changed is signaled when there are notices to take or limits to store.
func (p *Pool) Changed() <-chan struct{} { return p.wake }

// TakeNotices returns the changes of state since the last call, those by the
// passing of time included.
func (p *Pool) TakeNotices() []Notice {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.noticeAll(p.now())
	out := p.notices
	p.notices = nil
	return out
}

// Dirty is what has to be stored of an account.
type Dirty struct {
	AccountID string
	Limits    []Limit // all that hold; nil if they did not change
	HasLimits bool
	Windows   []Window
}

// TakeDirty returns what changed since the last call: limits at once, windows
// every few seconds at most.
func (p *Pool) TakeDirty() []Dirty {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	var out []Dirty
	for _, m := range p.members {
		d := Dirty{AccountID: m.ID}
		if m.limitsDirty {
			m.limitsDirty = false
			m.limits = slices.DeleteFunc(m.limits, func(l Limit) bool { return !l.Until.After(now) })
			d.Limits, d.HasLimits = slices.Clone(m.limits), true
		}
		if m.windowsDirty && now.Sub(m.windowsSaved) >= windowsSaveEvery {
			m.windowsDirty, m.windowsSaved = false, now
			d.Windows = slices.Clone(m.windows)
		}
		if d.HasLimits || d.Windows != nil {
			out = append(out, d)
		}
	}
	return out
}

// Restore puts stored limits and windows back.
func (p *Pool) Restore(limits map[string][]Limit, windows map[string][]Window) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	for id, m := range p.byID {
		for _, l := range limits[id] {
			if l.Until.After(now) {
				m.limits = append(m.limits, l)
				m.probation = m.probation || l.Cause == anthropic.CauseServerError
			}
		}
		m.windows = append(m.windows, windows[id]...)
		p.notice(m, now)
	}
	p.serveWaiting()
}
