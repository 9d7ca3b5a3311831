package access

// What slows down guessing at keys.

import (
	"fmt"
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

const (
	guardSlots    = 1024
	guardWindow   = time.Minute
	guardFailures = 30 // in a window; Claude Code with an expired key may fail in bursts
)

// Guard counts bad keys by client address and slows down who sends many. It
// only ever changes the answer to a bad key: a good key works from every
// address, so nobody is locked out by what others send.
//
// Its memory is fixed. Addresses that fall into the same slot displace each
// other, which forgets failures and never invents any. It is safe for
// concurrent use.
type Guard struct {
	now    func() time.Time
	most   int // failures in a window
	window time.Duration
	seed   maphash.Seed // random: nobody can aim at a slot

	mu    sync.Mutex
	slots [guardSlots]guardSlot
}

type guardSlot struct {
	from   netip.Prefix
	since  time.Time
	failed int
}

// NewGuard returns a guard that has seen nothing.
func NewGuard(now func() time.Time) *Guard { return NewGuardOf(now, guardFailures, guardWindow) }

// NewGuardOf returns a guard over something else than bad keys, which blocks an
// address after most of it in a window.
func NewGuardOf(now func() time.Time, most int, window time.Duration) *Guard {
	return &Guard{now: now, most: most, window: window, seed: maphash.MakeSeed()}
}

// Refuse counts a refusal against the client it goes to and returns what to
// answer: r itself, or a 429 if the client has sent too many bad keys. Refusals
// that are not about a bad key pass.
func (g *Guard) Refuse(client netip.Addr, r *Refusal) *Refusal {
	if !r.BadKey {
		return r
	}
	if wait, blocked := g.Blocked(client); blocked {
		slow := refuseFor(wait, typeRateLimit, fmt.Sprintf(
			"Too many requests with a bad client key came from this address: send a good one, or try again in %s.", wholeSeconds(wait)))
		slow.Header.Set(shouldRetry, "false")
		slow.BadKey = true
		return slow
	}
	g.Failed(client)
	return r
}

// Failed counts a bad key from client.
func (g *Guard) Failed(client netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now, from := g.now(), network(client)
	slot := g.slot(from)
	if slot.from != from || now.Sub(slot.since) >= g.window {
		*slot = guardSlot{from: from, since: now}
	}
	slot.failed++
}

// Blocked reports whether client has sent too many bad keys, and how long that
// counts.
func (g *Guard) Blocked(client netip.Addr) (retryAfter time.Duration, blocked bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	from := network(client)
	slot := g.slot(from)
	wait := g.window - g.now().Sub(slot.since)
	if slot.from != from || slot.failed < g.most || wait <= 0 {
		return 0, false
	}
	return wait, true
}

func (g *Guard) slot(from netip.Prefix) *guardSlot {
	return &g.slots[maphash.Comparable(g.seed, from)%guardSlots]
}

// network is what counts as one client: an IPv4 address, or the /64 that one
// IPv6 host can choose its addresses from. All unknown addresses are one.
func network(client netip.Addr) netip.Prefix {
	client = client.Unmap().WithZone("")
	bits := 64
	if client.Is4() {
		bits = 32
	}
	from, err := client.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return from
}
