package selection

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
)

// Pool is the live state of all accounts. It is safe for concurrent use; no
// call but Wait waits, and none does I/O.
type Pool struct {
	now  func() time.Time
	rand *rand.Rand // guarded by mu

	mu       sync.Mutex
	members  []*member // in the order of the store
	byID     map[string]*member
	plans    Plans
	planBits map[string]uint64
	access   map[string]*modelAccess // by model; bounded
	scratch  []*Candidate
	turn     float64 // virtual time of the weighted round
	sessions sessions
	waiting  queue
	notices  []Notice
	wake     chan struct{} // signals notices and dirty state; capacity 1
}

// MaxPlans is how many plans there may be: as many as modelAccess has bits.
const MaxPlans = 64

// modelAccess caches which plans allow a model.
type modelAccess struct {
	plans uint64 // bit set of the plans that allow it
	known bool
}

// maxCachedModels bounds the cache: model names come from clients.
const maxCachedModels = 512

// New makes an empty pool. now and seed are injected for tests.
func New(now func() time.Time, seed uint64) *Pool {
	p := &Pool{
		now:  now,
		rand: rand.New(rand.NewPCG(seed, seed^0x9e3779b97f4a7c15)),
		byID: make(map[string]*member),
		wake: make(chan struct{}, 1),
	}
	p.sessions.init()
	p.SetPlans(DefaultPlans())
	return p
}

// SetPlans replaces the plans.
func (p *Pool) SetPlans(plans Plans) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.plans = plans
	p.planBits = make(map[string]uint64, len(plans))
	for i, name := range plans.Names() {
		if i < MaxPlans {
			p.planBits[name] = 1 << i
		}
	}
	p.access = make(map[string]*modelAccess)
	for _, m := range p.members {
		m.planBit = p.planBits[m.Plan]
	}
	p.serveWaiting()
}

// Sync makes the pool hold exactly these accounts, in this order. Live state
// stays with the account's id.
func (p *Pool) Sync(accounts []Account) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	share := p.medianShare(now)
	byID := make(map[string]*member, len(accounts))
	members := make([]*member, 0, len(accounts))
	for _, a := range accounts {
		a.Weight = max(1, a.Weight)
		m := p.byID[a.ID]
		if m == nil {
			m = &member{noticedStatus: api.StatusAvailable}
			m.seen.member = m
			// With nothing to its name it would get every request until it has
			// caught up with the others.
			epoch := bucketOf(now)
			m.lead.add(epoch, int(math.Round(share*float64(a.Weight))))
			m.count(epoch)
		}
		if m.State != "" && a.State == "" {
			m.refused401, m.lastRefused = 0, ""
		}
		if m.stateDirty = m.stateDirty && a.State == ""; m.stateDirty { // what is stored is older
			a.State, a.StateReason = m.State, m.StateReason
		}
		m.Account = a
		m.seen.Name, m.seen.Tier, m.seen.Priority, m.seen.Weight = a.Name, a.Tier, a.Priority, a.Weight
		m.planBit = p.planBits[a.Plan]
		byID[a.ID] = m
		members = append(members, m)
	}
	p.members, p.byID = members, byID
	clear(p.scratch[:cap(p.scratch)]) // it holds members that may be gone
	for _, m := range members {
		p.notice(m, now)
	}
	p.serveWaiting()
}

// medianShare is the median of the accounts' recent tries for each unit of
// weight.
func (p *Pool) medianShare(now time.Time) float64 {
	if len(p.members) == 0 {
		return 0
	}
	epoch := bucketOf(now)
	shares := make([]float64, 0, len(p.members))
	for _, m := range p.members {
		shares = append(shares, float64(m.recentTries(epoch))/float64(m.Weight))
	}
	slices.Sort(shares)
	return shares[len(shares)/2]
}

// modelAccess tells which plans allow the model. Callers hold mu.
func (p *Pool) modelAccess(model string) *modelAccess {
	if a := p.access[model]; a != nil {
		return a
	}
	a := &modelAccess{known: p.plans.Known(model)}
	for name, bit := range p.planBits {
		if p.plans[name].Allows(model) {
			a.plans |= bit
		}
	}
	if len(p.access) >= maxCachedModels {
		clear(p.access)
	}
	p.access[model] = a
	return a
}

// look readies the request for the members as they are now. Callers hold mu.
func (p *Pool) look(r *Request) time.Time {
	r.access, r.Now = p.modelAccess(r.Model), p.now()
	return r.Now
}

// Refusal says why no account was given.
type Refusal struct {
	// Accounts is the number of accounts in the pool, Allowed of those whose
	// plan (and client key) allows the model.
	Accounts, Allowed int
	// Open is the number of accounts that would serve, now or when they have
	// capacity, but were tried already in this round.
	Open int
	// Busy is the number of accounts that would serve but have no capacity.
	Busy int
	// FreeAt is when the first benched account is free that was not tried in
	// this round; zero = none will be by itself.
	FreeAt time.Time

	soonest time.Time // the same, of all benched accounts
	session bool      // others would serve, but the session waits for its account
}

// WorthWaiting reports whether an account can be expected until the deadline.
func (r *Refusal) WorthWaiting(deadline time.Time) bool {
	return r.Busy > 0 || !r.FreeAt.IsZero() && r.FreeAt.Before(deadline)
}

// Acquire picks an account for the request, or says why there is none. tried
// names the accounts (by id) that this round has had already.
func (p *Pool) Acquire(r *Request, policy Policy, tried []string) (*Ticket, Refusal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.serveWaiting() // who came earlier goes first
	return p.acquire(r, policy, tried)
}

func (p *Pool) acquire(r *Request, policy Policy, tried []string) (*Ticket, Refusal) {
	now := p.look(r)
	pin, moved := p.pinned(r, tried, now)
	switch {
	case pin != nil && moved == "":
		t := p.issue(pin, r, now)
		t.Kept = true
		return t, Refusal{}
	case pin != nil:
		return nil, Refusal{Accounts: len(p.members), Allowed: 1, FreeAt: pin.limitFor(r, now).Until, session: true}
	}
	r.Rand = p.rand.Uint64()
	m, probe, refusal := p.choose(r, policy, tried, now)
	if m == nil {
		return nil, refusal
	}
	if probe {
		m.probedAt = now
	}
	t := p.issue(m, r, now)
	t.moved = moved
	return t, Refusal{}
}

// pinned is the account that keeps the request's session, or nil and in one
// word why the account that kept it so far cannot go on. With both, the session
// waits for it.
func (p *Pool) pinned(r *Request, tried []string, now time.Time) (*member, string) {
	if r.Session == "" {
		return nil, ""
	}
	id := p.sessions.get(r.Session, now, r.Keep)
	if id == "" {
		return nil, ""
	}
	m := p.byID[id]
	if m == nil {
		return nil, "removed"
	}
	switch o := m.obstacleFor(r, now); {
	case slices.Contains(tried, id):
		return nil, "failed"
	case o == limited && !m.full() && m.restsBriefly(r, now):
		return m, o.word()
	case o != free:
		return nil, o.word()
	case m.rank(now) == rankFlagged:
		return nil, "flagged"
	}
	return m, ""
}

// choose picks among the candidates; if there are none, an account of the last
// resort. It changes nothing.
func (p *Pool) choose(r *Request, policy Policy, tried []string, now time.Time) (m *member, probe bool, refusal Refusal) {
	candidates, refusal := p.candidates(r, tried, now)
	if len(candidates) == 0 {
		m = p.lastResort(r, tried, now, &refusal)
		return m, m != nil, refusal
	}
	i := policy.Select(r, candidates)
	if i < 0 || i >= len(candidates) { // a policy of somebody else's making
		i = 0
	}
	return candidates[i].member, false, Refusal{}
}

// candidates fills the scratch with the members that may serve now: of those
// the ones without recent trouble, if there are any.
func (p *Pool) candidates(r *Request, tried []string, now time.Time) ([]*Candidate, Refusal) {
	refusal := Refusal{Accounts: len(p.members)}
	epoch := bucketOf(now)
	best := rankLast
	list := p.scratch[:0]
	planned := r.Model != "" && r.access.known
	anyone := r.Owner == "" && r.Allowed == nil && len(tried) == 0
	for _, m := range p.members {
		if m.plain && anyone && (!planned || r.access.plans&m.planBit != 0) {
			refusal.Allowed++
			if best > rankHealthy {
				best, list = rankHealthy, list[:0]
			}
			list = append(list, p.candidate(m, epoch))
			continue
		}
		o := m.obstacleFor(r, now)
		if o != notItsModel && o != notForClient && o != notTheOwner {
			refusal.Allowed++
		}
		again := len(tried) > 0 && slices.Contains(tried, m.ID)
		switch {
		case o == limited:
			at := m.limitFor(r, now).Until
			refusal.soonest = earlier(refusal.soonest, at)
			if !again {
				refusal.FreeAt = earlier(refusal.FreeAt, at)
			}
			continue
		case o != free && o != busy && o != onProbation:
			continue
		case again:
			refusal.Open++
			continue
		case o != free:
			refusal.Busy++
			continue
		}
		rank := m.rank(now)
		if rank > best {
			continue
		}
		if rank < best {
			best, list = rank, list[:0]
		}
		list = append(list, p.candidate(m, epoch))
	}
	p.scratch = list
	return list, refusal
}

// earlier returns the earlier of two times; zero is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// candidate is the member as policies see it at this time.
func (p *Pool) candidate(m *member, epoch int64) *Candidate {
	c := &m.seen
	if m.counted < epoch {
		m.count(epoch)
	}
	// A returning account starts where the round is, so that it does not get
	// every request until it has caught up.
	if c.Turn < p.turn {
		c.Turn = p.turn
	}
	return c
}

// Quota can come back before its stated time. When nothing else can serve, one
// real request every probeEvery may try an account that is benched for longer.
const probeEvery = 5 * time.Minute

// lastResort is a benched account for a request that nobody else can serve now
// or soon: one that was ejected for faults, since the others were to take over,
// or else one whose quota may be back.
func (p *Pool) lastResort(r *Request, tried []string, now time.Time, refusal *Refusal) *member {
	if refusal.Open > 0 || refusal.Busy > 0 || refusal.FreeAt.IsZero() {
		return nil
	}
	var best *member
	var bestEjected bool
	for _, m := range p.members {
		if m.full() || m.obstacleFor(r, now) != limited || slices.Contains(tried, m.ID) {
			continue
		}
		l := m.limitFor(r, now)
		ejected := l.ejection()
		switch {
		case ejected && m.probing > 0:
		case !ejected && (refusal.soonest.Sub(now) < probeEvery || now.Sub(l.Since) < probeEvery || now.Sub(m.probedAt) < probeEvery):
		case best != nil && (bestEjected && !ejected || bestEjected == ejected && best.seen.LastUsed <= m.seen.LastUsed):
		default:
			best, bestEjected = m, ejected
		}
	}
	return best
}

func (p *Pool) issue(m *member, r *Request, now time.Time) *Ticket {
	c := p.candidate(m, bucketOf(now))
	if r.Generative {
		m.tries.add(bucketOf(now), 1)
		c.Tries++
	}
	c.InFlight++
	c.LastUsed = now.UnixNano()
	p.turn = c.Turn
	c.Turn += 1 / float64(m.Weight)
	t := &r.first
	if t.pool != nil {
		t = new(Ticket)
	}
	*t = Ticket{Account: m.Account, pool: p, member: m, request: r, start: now}
	if m.probation {
		m.probing++
		t.probe = true
	}
	return t
}

// Ticket is a place on an account for one try. Release it exactly once.
type Ticket struct {
	Account // as it was when the ticket was issued

	Kept bool // the session's account was chosen

	pool     *Pool
	member   *member
	request  *Request
	start    time.Time
	moved    string // why the session's former account was not chosen
	probe    bool
	released bool
}

// Release gives the place back. Calls after the first do nothing.
func (t *Ticket) Release() {
	p := t.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if t.released {
		return
	}
	t.released = true
	t.member.seen.InFlight--
	t.endProbe()
	p.serveWaiting()
}

func (t *Ticket) endProbe() {
	if t.probe {
		t.probe = false
		t.member.probing--
	}
}
