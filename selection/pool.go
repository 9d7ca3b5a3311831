package selection

import (
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
)

// Pool is the live state of all accounts. It is safe for concurrent use; no
// call waits for I/O.
type Pool struct {
	now  func() time.Time
	rand *rand.Rand // guarded by mu

	mu       sync.Mutex
	members  []*member // in the order of the store
	byID     map[string]*member
	plans    Plans
	planBits map[string]uint64
	access   map[string]*modelAccess // by model; bounded
	scratch  []Candidate
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
	start := p.medianTries(now)
	fresh := len(p.members) == 0

	byID := make(map[string]*member, len(accounts))
	members := make([]*member, 0, len(accounts))
	for _, a := range accounts {
		if a.Weight < 1 {
			a.Weight = 1
		}
		m := p.byID[a.ID]
		if m == nil {
			m = &member{turn: p.turn, noticedStatus: api.StatusAvailable}
			if !fresh { // else it would get every request until it has caught up
				m.tries.add(bucketOf(now), start)
			}
		}
		if m.State != "" && a.State == "" {
			m.refused401, m.lastRefused = 0, ""
		}
		m.Account = a
		m.planBit = p.planBits[a.Plan]
		byID[a.ID] = m
		members = append(members, m)
	}
	p.members, p.byID = members, byID
	p.noticeAll(now)
	p.serveWaiting()
}

func (p *Pool) medianTries(now time.Time) int {
	if len(p.members) == 0 {
		return 0
	}
	epoch := bucketOf(now)
	sums := make([]int, 0, len(p.members))
	for _, m := range p.members {
		m.tries.advance(epoch)
		sums = append(sums, m.tries.sum)
	}
	slices.Sort(sums)
	return sums[len(sums)/2]
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

// allows reports whether the plan, or the account's own list, allows the
// request's model.
func (m *member) allows(r *Request) bool {
	if r.Model == "" || !r.access.known {
		return true
	}
	if m.Models != nil {
		return matches(m.Models, r.Model)
	}
	return r.access.plans&m.planBit != 0
}

// obstacle says why a member cannot serve a request now.
type obstacle uint8

const (
	free obstacle = iota
	notItsModel
	notForClient
	notTheOwner
	needsLogin
	disabled
	paused
	limited
	onProbation // half-open, and a request is on its way already
	busy
)

// obstacleFor is the one rule of who is a candidate.
func (m *member) obstacleFor(r *Request, now time.Time) obstacle {
	switch {
	case r.Owner != "" && r.Owner != m.ID:
		return notTheOwner
	case !m.allows(r):
		return notItsModel
	case r.Allowed != nil && !r.Allowed(m.Name):
		return notForClient
	case m.State == api.StatusNeedsLogin:
		return needsLogin
	case m.State == api.StatusDisabled:
		return disabled
	case m.Paused:
		return paused
	case m.limitFor(r, now) != nil:
		return limited
	case m.probation && m.probing > 0:
		return onProbation
	case m.MaxInFlight > 0 && m.inFlight >= m.MaxInFlight:
		return busy
	}
	return free
}

// Ticket is a place on an account for one try. Release it exactly once.
type Ticket struct {
	Account // as it was when the ticket was issued

	pool     *Pool
	member   *member
	request  *Request
	start    time.Time
	probe    bool
	released bool
	Kept     bool // the session's account was chosen
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
}

// Acquire picks an account for the request, or says why there is none. tried
// names the accounts (by id) that this round has had already.
func (p *Pool) Acquire(r *Request, policy Policy, tried []string) (*Ticket, Refusal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.acquire(r, policy, tried)
}

func (p *Pool) acquire(r *Request, policy Policy, tried []string) (*Ticket, Refusal) {
	now := p.now()
	r.access = p.modelAccess(r.Model)
	if m := p.pinned(r, tried, now); m != nil {
		t := p.issue(m, r, now)
		t.Kept = true
		return t, Refusal{}
	}
	candidates, refusal := p.candidates(r, tried, now)
	if len(candidates) == 0 {
		if m := p.probeable(r, tried, now, refusal); m != nil {
			m.probedAt = now
			return p.issue(m, r, now), Refusal{}
		}
		return nil, refusal
	}

	r.Rand = p.rand.Uint64()
	i := policy.Select(r, candidates)
	if i < 0 || i >= len(candidates) { // a policy of somebody else's making
		i = 0
	}
	return p.issue(candidates[i].member, r, now), Refusal{}
}

// pinned is the account that keeps the request's session, if it may serve it.
func (p *Pool) pinned(r *Request, tried []string, now time.Time) *member {
	if r.Session == "" {
		return nil
	}
	m := p.byID[p.sessions.get(r.Session, now, r.Keep)]
	if m == nil || slices.Contains(tried, m.ID) || m.obstacleFor(r, now) != free {
		return nil
	}
	return m
}

// candidates fills the scratch with the members that may serve now: of those
// the ones without recent trouble, if there are any.
func (p *Pool) candidates(r *Request, tried []string, now time.Time) ([]Candidate, Refusal) {
	var refusal Refusal
	refusal.Accounts = len(p.members)
	epoch := bucketOf(now)
	best := rankLast
	list := p.scratch[:0]
	for _, m := range p.members {
		o := m.obstacleFor(r, now)
		if o != notItsModel && o != notForClient && o != notTheOwner {
			refusal.Allowed++
		}
		again := slices.Contains(tried, m.ID)
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
		m.tries.advance(epoch)
		list = append(list, Candidate{
			Name: m.Name, Tries: m.tries.sum, InFlight: m.inFlight, LastUsed: m.lastUsed, Turn: max(m.turn, p.turn),
			Priority: m.Priority, Weight: m.Weight, Headroom: m.headroom(now), member: m,
		})
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

// Ranks: an account of a later one is chosen only if there is none of an
// earlier one.
const (
	rankHealthy  = iota
	rankTroubled // overloaded a moment ago
	rankFlagged  // the provider's policy turned traffic of this kind away
	rankLast
)

// overloadPenalty is how long a 529 makes an account second choice.
const overloadPenalty = 10 * time.Second

func (m *member) rank(now time.Time) int {
	switch {
	case m.flag != "":
		return rankFlagged
	case now.Sub(m.overloadedAt) < overloadPenalty:
		return rankTroubled
	default:
		return rankHealthy
	}
}

// Quota can come back before its stated time. When nothing else can serve, one
// real request every probeEvery may try an account that is benched for longer.
const probeEvery = 5 * time.Minute

func (p *Pool) probeable(r *Request, tried []string, now time.Time, refusal Refusal) *member {
	if refusal.Open > 0 || refusal.Busy > 0 || refusal.soonest.Sub(now) < probeEvery {
		return nil
	}
	var oldest *member
	for _, m := range p.members {
		if m.obstacleFor(r, now) != limited || slices.Contains(tried, m.ID) {
			continue
		}
		if m.MaxInFlight > 0 && m.inFlight >= m.MaxInFlight {
			continue
		}
		since := m.probedAt
		if l := m.limitFor(r, now); l.Since.After(since) {
			since = l.Since
		}
		if now.Sub(since) >= probeEvery && (oldest == nil || m.probedAt.Before(oldest.probedAt)) {
			oldest = m
		}
	}
	return oldest
}

func (p *Pool) issue(m *member, r *Request, now time.Time) *Ticket {
	m.inFlight++
	m.lastUsed = now.UnixNano()
	if r.Generative {
		m.tries.add(bucketOf(now), 1)
	}
	// A returning account starts where the round is, so that it does not get
	// every request until it has caught up.
	m.turn = max(m.turn, p.turn)
	p.turn = m.turn
	m.turn += 1 / float64(m.Weight)
	t := &Ticket{Account: m.Account, pool: p, member: m, request: r, start: now}
	if m.probation {
		m.probing++
		t.probe = true
	}
	return t
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
	t.member.inFlight--
	t.endProbe()
	p.serveWaiting()
}

func (t *Ticket) endProbe() {
	if t.probe {
		t.probe = false
		t.member.probing--
	}
}
