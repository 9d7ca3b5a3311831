package selection

import (
	"math"
	"time"

	"github.com/claude-balancer/claude-balancer/anthropic"
	"github.com/claude-balancer/claude-balancer/api"
)

// Account is what the pool is told of an account: the operator's settings and
// the stored state. What it learns from traffic it keeps itself.
type Account struct {
	ID          string
	Name        string
	Plan        string
	Models      []string // its own patterns; nil = its plan's
	Kind        api.Kind
	Tier        string
	Priority    int
	Weight      int
	MaxInFlight int
	Paused      bool
	State       api.Status // "", needs_login or disabled
	StateReason string
}

// member is an account with its live state, guarded by Pool.mu.
type member struct {
	// First what is looked at for each request: a large pool does not fit into
	// the processor's first cache.
	planBit uint64       // its plan's bit in modelAccess.plans; 0 = plan not defined
	plain   bool         // see isPlain
	counted int64        // the bucket that seen.Tries was counted in
	seen    Candidate    // what policies see of it
	tries   rollingCount // of this process
	others  rollingCount // of other processes, as they told last
	lead    rollingCount // that a new account begins with
	Account

	limits   []Limit
	stored   []Limit // those in the store, as far as this process knows
	bursts   map[anthropic.Family]burst
	flag     string
	probedAt time.Time // last real request that was let through a long bench

	faults
	overloadedAt time.Time // last 529
	refused401   int       // distinct requests in a row whose static credential was refused
	lastRefused  string

	elsewhere     int  // requests in flight in other processes
	stateDirty    bool // State was found out here and is not stored yet
	limitsDirty   bool
	windowsDirty  bool
	windowsSaved  time.Time
	noticedStatus api.Status
}

// Window is a usage window as the last answer told it.
type Window struct {
	anthropic.Window
	SeenAt time.Time
}

// over reports whether the window has started anew since: what was told of it
// holds no more.
func (w *Window) over(now time.Time) bool { return !w.ResetsAt.IsZero() && !w.ResetsAt.After(now) }

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

// isPlain reports whether nothing but the plan decides if the member is a
// candidate, as for most members at most times. Asked whenever one of these
// changes, it spares the requests to look at them.
func (m *member) isPlain() bool {
	return m.Models == nil && m.State == "" && !m.Paused && m.MaxInFlight == 0 &&
		len(m.limits) == 0 && m.flag == "" && !m.probation && m.overloadedAt.IsZero()
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

// word names the obstacle in one word, for metrics.
func (o obstacle) word() string {
	return [...]string{"free", "model", "client", "owner", "needs_login", "disabled", "paused", "limited", "probation", "busy"}[o]
}

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
	case len(m.limits) > 0 && m.limitFor(r, now) != nil:
		return limited
	case m.probation && m.probing > 0:
		return onProbation
	case m.full():
		return busy
	}
	return free
}

func (m *member) full() bool { return m.MaxInFlight > 0 && m.seen.InFlight >= m.MaxInFlight }

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
	case !m.overloadedAt.IsZero() && now.Sub(m.overloadedAt) < overloadPenalty:
		return rankTroubled
	default:
		return rankHealthy
	}
}

// Windows of rolling counts: five hours in quarters.
const (
	bucketSpan = 15 * time.Minute
	buckets    = 20
)

// rollingCount counts events in the last five hours.
type rollingCount struct {
	epoch int64 // bucket number of the newest bucket
	sum   int
	ring  [buckets]int32
}

func (c *rollingCount) advance(epoch int64) {
	if epoch <= c.epoch { // also a clock that was set back
		return
	}
	for step := min(epoch-c.epoch, buckets); step > 0; step-- {
		i := (epoch - step + 1) % buckets
		c.sum -= int(c.ring[i])
		c.ring[i] = 0
	}
	c.epoch = epoch
}

func (c *rollingCount) add(epoch int64, n int) {
	c.advance(epoch)
	c.ring[c.epoch%buckets] += int32(n)
	c.sum += n
}

// addAt adds to a bucket of the past. A clock that runs ahead counts as now.
func (c *rollingCount) addAt(epoch int64, n int) {
	epoch = min(epoch, c.epoch)
	if n <= 0 || epoch <= c.epoch-buckets || epoch < 0 {
		return
	}
	c.ring[epoch%buckets] += int32(min(n, math.MaxInt32/buckets))
	c.sum += min(n, math.MaxInt32/buckets)
}

// list returns the buckets that count something, as pairs of epoch and number.
func (c *rollingCount) list() (pairs [][2]int64) {
	for epoch := max(0, c.epoch-buckets+1); epoch <= c.epoch; epoch++ {
		if n := c.ring[epoch%buckets]; n > 0 {
			pairs = append(pairs, [2]int64{epoch, int64(n)})
		}
	}
	return pairs
}

// recentTries counts the tries of all processes in the last five hours.
func (m *member) recentTries(epoch int64) int {
	m.tries.advance(epoch)
	m.others.advance(epoch)
	m.lead.advance(epoch)
	return m.tries.sum + m.others.sum + m.lead.sum
}

// count has policies see the tries as they are now.
func (m *member) count(epoch int64) {
	m.seen.Tries, m.counted = m.recentTries(epoch), epoch
}

func bucketOf(now time.Time) int64 { return now.UnixNano() / int64(bucketSpan) }
