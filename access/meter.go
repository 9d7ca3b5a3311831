package access

// What keys have used: requests in flight, in the last minute, and money.

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// meter counts what a key uses. It belongs to the key's id and outlives every
// change of the key's settings.
type meter struct {
	used   atomic.Int64    // when a request last presented the key, ms since the epoch; 0 = never in this process
	told   atomic.Int64    // what Keyring.Used last told of it
	life   context.Context // ends when the key is revoked; nothing else is carried in it
	revoke context.CancelFunc

	mu       sync.Mutex
	inFlight int
	minute   minute
	others   Load // of other processes, as they told last
	period   string
	start    time.Time // of the period that spent belongs to
	end      time.Time
	spent    float64 // US dollars
}

func newMeter() *meter {
	m := new(meter)
	m.life, m.revoke = context.WithCancel(context.Background())
	return m
}

// spendLag bounds how old a stored sum is when it arrives: one that arrives
// within it of a period's start may still be the last period's.
const spendLag = 2 * time.Second

// sync takes over the budget's period and what the store knows to be spent in
// it: more than was counted here if other processes serve the key too, less if
// rows are still on their way.
func (m *meter) sync(now time.Time, period string, stored float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.period != period {
		m.period, m.start, m.spent = period, time.Time{}, 0
	}
	m.turn(now)
	if now.Sub(m.start) >= spendLag {
		m.spent = max(m.spent, stored)
	}
}

// turn starts a new period if now is past the running one. It never goes back:
// a step of the clock must not forget what was spent. The caller holds mu.
func (m *meter) turn(now time.Time) {
	if !m.start.IsZero() && now.Before(m.end) {
		return
	}
	m.start, m.end = Period(m.period, now)
	m.spent = 0
}

// spending returns what was spent in the running period, and when that ends.
func (m *meter) spending(now time.Time) (spent float64, end time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.turn(now)
	return m.spent, m.end
}

func (m *meter) spend(now time.Time, cost float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.turn(now)
	m.spent += cost
}

// leave ends a request that was in flight.
func (m *meter) leave() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.inFlight--
}

// minute remembers when the requests of the last minute began: exact, at eight
// bytes for each.
type minute struct {
	base   time.Time       // starts are offsets to it, on the monotonic clock where there is one
	starts []time.Duration // in order; those before head are over a minute old
	head   int
}

// take counts a request that begins now, or returns how long to wait until
// fewer than limit have begun within a minute, here and elsewhere.
func (m *minute) take(now time.Time, limit int, others []int) (wait time.Duration) {
	at := m.advance(now)
	elsewhere := 0
	for _, n := range others {
		elsewhere += n
	}
	running := m.starts[m.head:]
	if excess := len(running) + elsewhere - limit; excess >= 0 {
		return m.leave(at, excess+1, others)
	}
	if m.head > len(m.starts)/2 {
		m.starts = m.starts[:copy(m.starts, m.starts[m.head:])]
		m.head = 0
	}
	m.starts = append(m.starts, at)
	return 0
}

// advance forgets what is over a minute old, and returns now as an offset.
func (m *minute) advance(now time.Time) time.Duration {
	if m.base.IsZero() {
		m.base = now
	}
	at := now.Sub(m.base)
	if n := len(m.starts); n > 0 {
		at = max(at, m.starts[n-1]) // requests read the clock before they get here
	}
	for m.head < len(m.starts) && m.starts[m.head] <= at-time.Minute {
		m.head++
	}
	return at
}

// leave returns how long it takes until n starts are over a minute old: of
// others' it is known only in which slot of the minute they were.
func (m *minute) leave(at time.Duration, n int, others []int) (wait time.Duration) {
	next := m.head
	for slot := len(others) - 1; n > 0; {
		oldest := time.Duration(math.MaxInt64)
		if slot >= 0 {
			oldest = time.Minute - time.Duration(slot)*minuteSlot
		}
		switch {
		case next < len(m.starts) && m.starts[next]+time.Minute-at <= oldest:
			wait = m.starts[next] + time.Minute - at
			next, n = next+1, n-1
		case slot < 0:
			return wait
		case others[slot] == 0:
			slot--
		default:
			wait = oldest
			n -= others[slot]
			slot--
		}
	}
	return wait
}

// slots counts the starts by age.
func (m *minute) slots(now time.Time) (slots []int) {
	at := m.advance(now)
	for _, start := range m.starts[m.head:] {
		if slots == nil {
			slots = make([]int, minuteSlots)
		}
		slots[min((at-start)/minuteSlot, minuteSlots-1)]++
	}
	return slots
}

// Processes tell each other in slots of this size how old the last minute's
// requests are.
const (
	minuteSlots = 6
	minuteSlot  = time.Minute / minuteSlots
)

// Load is what a process tells the others of its use of a key.
type Load struct {
	InFlight int `json:"f,omitempty"`
	// Minute counts the requests of the last minute by age, the youngest first.
	Minute []int `json:"m,omitempty"`
}

// load returns what this process uses of the key.
func (m *meter) load(now time.Time) Load {
	m.mu.Lock()
	defer m.mu.Unlock()
	return Load{InFlight: m.inFlight, Minute: m.minute.slots(now)}
}

// setOthers counts what other processes use of the key.
func (m *meter) setOthers(l Load) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.others = l
}
