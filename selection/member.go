package selection

import (
	"math"
	"slices"
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
	Account
	planBit uint64 // its plan's bit in modelAccess.plans; 0 = plan not defined

	inFlight int
	tries    rollingCount
	turn     float64
	lastUsed int64

	limits  []Limit
	windows []Window

	failures     int // distinct requests in a row that met a fault
	failingSince time.Time
	lastFailed   string // request id of the last failure
	lastSuccess  time.Time
	ejections    int
	probation    bool // half-open: one request at a time until a success
	probing      int

	troubledAt    time.Time // last 529 or 5xx
	overloadedAt  time.Time // last 529
	bursts        map[anthropic.Family]burst
	refused401    int // distinct requests in a row whose static credential was refused
	lastRefused   string
	flag          string
	probedAt      time.Time // last real request let through a long bench
	limitsDirty   bool
	windowsDirty  bool
	windowsSaved  time.Time
	wasAvailable  bool
	noticedStatus api.Status
}

// burst remembers how throttling without a stated end has grown.
type burst struct {
	step  time.Duration
	until time.Time
}

// Limit is a bench: why and until when the account, or one family or model of
// it, is not chosen.
type Limit struct {
	Scope  string // api.ScopeAccount, api.ScopeFamily, api.ScopeModel
	Name   string // family or model
	Cause  anthropic.Cause
	Header string
	Since  time.Time
	Until  time.Time
	// Utilization of the fullest window when the limit was set, to notice that
	// quota came back early; negative = unknown.
	Utilization float64
}

// Window is a usage window as the last answer told it.
type Window struct {
	anthropic.Window
	SeenAt time.Time
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

func bucketOf(now time.Time) int64 { return now.UnixNano() / int64(bucketSpan) }

// limitFor returns the limit that keeps the member from serving the request
// the longest, or nil.
func (m *member) limitFor(r *Request, now time.Time) *Limit {
	if len(m.limits) == 0 {
		return nil
	}
	var worst *Limit
	for i := range m.limits {
		l := &m.limits[i]
		if !l.Until.After(now) || !l.covers(r) {
			continue
		}
		if worst == nil || l.Until.After(worst.Until) {
			worst = l
		}
	}
	return worst
}

func (l *Limit) covers(r *Request) bool {
	switch l.Scope {
	case api.ScopeAccount:
		// What messages use up does not stop batches, files or lists; an
		// account that fails fails for all of them.
		return r.Generative || l.Cause == anthropic.CauseServerError
	case api.ScopeFamily:
		return r.Generative && l.Name == string(r.Family)
	default:
		return r.Generative && l.Name == r.Model
	}
}

// setLimit adds the limit, or replaces the one of the same scope, name and
// cause. A limit never becomes shorter by a later answer of the same cause.
func (m *member) setLimit(l Limit) {
	for i := range m.limits {
		old := &m.limits[i]
		if old.Scope == l.Scope && old.Name == l.Name && old.Cause == l.Cause {
			if old.Until.After(l.Since) {
				l.Since = old.Since
				if old.Until.After(l.Until) {
					l.Until = old.Until
				}
			}
			*old = l
			m.limitsDirty = true
			return
		}
	}
	m.limits = append(m.limits, l)
	m.limitsDirty = true
}

func (m *member) dropLimits(drop func(*Limit) bool) {
	n := len(m.limits)
	m.limits = slices.DeleteFunc(m.limits, func(l Limit) bool { return drop(&l) })
	if len(m.limits) != n {
		m.limitsDirty = true
	}
}

func (m *member) headroom(now time.Time) float64 {
	room := math.Inf(1)
	for i := range m.windows {
		w := &m.windows[i]
		if w.Utilization < 0 || !w.ResetsAt.After(now) {
			continue
		}
		left := max(0, 1-w.Utilization) / max(1, w.ResetsAt.Sub(now).Seconds())
		room = min(room, left)
	}
	return room * tierFactor(m.Tier)
}

// tierFactor tells how much larger a tier's windows are than the smallest
// subscription's, since utilization is a fraction of each account's own.
func tierFactor(tier string) float64 {
	switch tier {
	case "default_claude_max_5x":
		return 5
	case "default_claude_max_20x":
		return 20
	default:
		return 1
	}
}

// fullest is the highest known utilization, or -1.
func (m *member) fullest() float64 {
	u := -1.0
	for i := range m.windows {
		u = max(u, m.windows[i].Utilization)
	}
	return u
}
