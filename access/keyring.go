package access

// All client keys, in memory.

import (
	"crypto/sha256"
	"sync"
	"sync/atomic"
	"time"

	"github.com/claude-balancer/claude-balancer/secret"
	"github.com/claude-balancer/claude-balancer/store"
)

// Keyring holds all client keys in memory, so that no request waits for the
// store. It is safe for concurrent use.
type Keyring struct {
	now   func() time.Time
	mu    sync.Mutex // one Sync at a time
	index atomic.Pointer[index]
}

// index is one state of the stored keys. It never changes.
type index struct {
	byHash map[[32]byte]entry
	byID   map[string]*Key
	byName map[string]*Key
}

// entry is what a credential leads to. One that a rotation has replaced leads
// there until its grace period ends, an access token until it expires; for the
// others, until is zero.
type entry struct {
	key   *Key
	until time.Time
}

// NewKeyring returns a keyring without keys.
func NewKeyring(now func() time.Time) *Keyring {
	k := &Keyring{now: now}
	k.index.Store(&index{})
	return k
}

// Sync makes keys the keys that count, tokens the access tokens that act as
// them, and takes over what each key has spent in its running budget period in
// US dollars, by key id. What is counted in memory goes on, by key id too; where
// it knows of more spending, that counts. Keys that are gone are revoked at
// once, with their tokens.
func (k *Keyring) Sync(keys []store.Key, tokens []store.Token, spent map[string]float64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	old, now := k.index.Load(), k.now()
	next := &index{
		byHash: make(map[[32]byte]entry, len(keys)+len(tokens)),
		byID:   make(map[string]*Key, len(keys)),
		byName: make(map[string]*Key, len(keys)),
	}
	for _, stored := range keys {
		var m *meter
		if before, ok := old.byID[stored.ID]; ok {
			m = before.meter
		} else {
			m = newMeter()
		}
		key := newKey(stored, m, k.now)
		m.sync(now, key.period, spent[stored.ID])

		next.byID[stored.ID] = key
		next.byName[stored.Name] = key
		if !stored.PreviousUntil.IsZero() {
			next.byHash[stored.PreviousHash] = entry{key, stored.PreviousUntil}
		}
		next.byHash[stored.Hash] = entry{key: key}
	}
	for _, t := range tokens {
		if key := next.byID[t.KeyID]; key != nil {
			next.byHash[t.Hash] = entry{key, t.ExpiresAt}
		}
	}
	k.index.Store(next)
	for id, key := range old.byID {
		if next.byID[id] == nil {
			key.meter.revoke()
		}
	}
}

// Find returns the key that a client key's credential belongs to. Unknown,
// expired and revoked ones are all alike.
//
// The lookup by hash need not take constant time: what its time could tell is
// how much of a stored hash a guess shares, and nobody can steer SHA-256
// towards a stored hash, nor get from one to 256 random bits.
func (k *Keyring) Find(credential secret.String) (*Key, bool) { return k.find(KindKey, credential) }

// FindToken returns the key that an access token acts as.
func (k *Keyring) FindToken(token secret.String) (*Key, bool) { return k.find(KindAccess, token) }

func (k *Keyring) find(kind Kind, credential secret.String) (*Key, bool) {
	raw := []byte(credential.Reveal())
	if !kind.fits(raw) {
		return nil, false
	}
	e, ok := k.index.Load().byHash[sha256.Sum256(raw)]
	if !ok {
		return nil, false
	}
	now := k.now()
	if e.key.expired(now) || !e.until.IsZero() && !now.Before(e.until) {
		return nil, false
	}
	e.key.meter.used.Store(now.UnixMilli())
	return e.key, true
}

// Named returns the key of that name, expired or not: to explain a choice, not
// to let anyone in.
func (k *Keyring) Named(name string) (*Key, bool) {
	key, ok := k.index.Load().byName[name]
	return key, ok
}

// Empty reports whether there is no key at all.
func (k *Keyring) Empty() bool { return len(k.index.Load().byID) == 0 }

// Used returns when keys were last presented, by key id, for those that were
// since the last call.
func (k *Keyring) Used() map[string]time.Time {
	used := make(map[string]time.Time)
	for id, key := range k.index.Load().byID {
		if ms := key.meter.used.Load(); key.meter.told.Swap(ms) != ms {
			used[id] = time.UnixMilli(ms)
		}
	}
	return used
}

// Load returns what this process uses of the keys, by id, those left out that
// it does not use.
func (k *Keyring) Load() map[string]Load {
	now, out := k.now(), make(map[string]Load)
	for id, key := range k.index.Load().byID {
		if l := key.meter.load(now); l.InFlight != 0 || l.Minute != nil {
			out[id] = l
		}
	}
	return out
}

// SetOthers counts what other processes told last of their use of the keys.
func (k *Keyring) SetOthers(loads []map[string]Load) {
	for id, key := range k.index.Load().byID {
		var sum Load
		for _, load := range loads {
			l := load[id]
			sum.InFlight += l.InFlight
			for i, n := range l.Minute[:min(len(l.Minute), minuteSlots)] {
				if sum.Minute == nil {
					sum.Minute = make([]int, minuteSlots)
				}
				sum.Minute[i] += n
			}
		}
		key.meter.setOthers(sum)
	}
}

// SetSpent takes over what keys have spent as it is stored, by id; see Sync.
func (k *Keyring) SetSpent(spent map[string]float64) {
	k.mu.Lock() // a Sync between may change a key's period
	defer k.mu.Unlock()
	now, index := k.now(), k.index.Load()
	for id, usd := range spent {
		if key := index.byID[id]; key != nil {
			key.meter.sync(now, key.period, usd)
		}
	}
}
