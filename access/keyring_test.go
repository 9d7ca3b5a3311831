package access_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/access"
	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/secret"
	"github.com/claude-balancer/claude-balancer/store"
)

// noon is a Wednesday in the middle of its month.
var noon = time.Date(2026, time.July, 15, 12, 0, 0, 0, time.UTC)

// clock is a clock that tests move.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: noon} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) Add(d time.Duration) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
	return c.t
}

// stored makes the record of a key with a fresh credential.
func stored(tb testing.TB, name string, settings ...func(*store.Key)) (store.Key, secret.String) {
	tb.Helper()
	c := newCredential(tb)
	k := store.Key{ID: "id-" + name, Name: name, Role: api.RoleClient, CreatedAt: noon, BudgetPeriod: access.PeriodMonth, Hash: access.Hash(c)}
	for _, set := range settings {
		set(&k)
	}
	return k, c
}

func withBudget(usd float64, period string) func(*store.Key) {
	return func(k *store.Key) { k.BudgetUSD, k.BudgetPeriod = &usd, period }
}

// oneKey returns a ring with one key, and that key.
func oneKey(tb testing.TB, c *clock, settings ...func(*store.Key)) (*access.Keyring, *access.Key, store.Key) {
	tb.Helper()
	record, credential := stored(tb, "ci", settings...)
	ring := access.NewKeyring(c.Now)
	ring.Sync([]store.Key{record}, nil, nil)
	key, ok := ring.Find(credential)
	if !ok {
		tb.Fatal("the key is not found")
	}
	return ring, key, record
}

func TestOnlyGoodKeysAreFound(t *testing.T) {
	t.Parallel()
	c := newClock()
	ring := access.NewKeyring(c.Now)
	good, goodCredential := stored(t, "good")
	brief, briefCredential := stored(t, "brief", func(k *store.Key) { k.ExpiresAt = noon.Add(time.Hour) })
	if _, ok := ring.Find(goodCredential); ok {
		t.Error("an empty ring finds a key")
	}
	ring.Sync([]store.Key{good, brief}, nil, nil)

	find := func(s secret.String, want string) {
		t.Helper()
		key, ok := ring.Find(s)
		if ok != (want != "") || ok && key.Name != want {
			t.Errorf("found %v, want %q", ok, want)
		}
	}
	find(goodCredential, "good")
	find(briefCredential, "brief")
	find(newCredential(t), "")
	find(secret.New("cb_"), "")
	find(secret.String{}, "")
	find(secret.New(goodCredential.Reveal()+" "), "")

	c.Add(time.Hour - 1)
	find(briefCredential, "brief")
	c.Add(1)
	find(briefCredential, "")

	ring.Sync([]store.Key{brief}, nil, nil)
	find(goodCredential, "")
}

func TestARotatedCredentialWorksForItsGracePeriod(t *testing.T) {
	t.Parallel()
	c := newClock()
	ring := access.NewKeyring(c.Now)
	record, before := stored(t, "ci")
	after := newCredential(t)
	record.PreviousHash, record.PreviousUntil, record.Hash = record.Hash, noon.Add(time.Hour), access.Hash(after)
	ring.Sync([]store.Key{record}, nil, nil)
	for _, s := range []secret.String{before, after} {
		if key, ok := ring.Find(s); !ok || key.Name != "ci" {
			t.Error("a credential does not work within the grace period")
		}
	}
	c.Add(time.Hour)
	if _, ok := ring.Find(before); ok {
		t.Error("the old credential works after the grace period")
	}
	if _, ok := ring.Find(after); !ok {
		t.Error("the new credential has ended with the old one")
	}
}

func TestARevokedKeyEndsAtOnce(t *testing.T) {
	t.Parallel()
	c := newClock()
	ring, key, record := oneKey(t, c)
	ring.Sync([]store.Key{record}, nil, nil)
	if !key.Alive() {
		t.Fatal("a sync that keeps the key ends it")
	}
	ended, stopped := make(chan struct{}), make(chan struct{})
	key.OnRevoke(func() { close(ended) })
	key.OnRevoke(func() { close(stopped) })()
	select {
	case <-ended:
		t.Fatal("ended before it is revoked")
	default:
	}
	ring.Sync(nil, nil, nil)
	<-ended
	select {
	case <-stopped:
		t.Error("a request that has stopped listening is called")
	default:
	}
	if key.Alive() {
		t.Error("alive after it was revoked")
	}
	ring.Sync(nil, nil, nil)
}

func TestAnExpiredKeyIsNotAlive(t *testing.T) {
	t.Parallel()
	c := newClock()
	_, key, _ := oneKey(t, c, func(k *store.Key) { k.ExpiresAt = noon.Add(time.Minute) })
	if !key.Alive() {
		t.Error("dead before it expires")
	}
	c.Add(time.Minute)
	if key.Alive() {
		t.Error("alive after it expired")
	}
}

func TestUsedTellsEachUseOnce(t *testing.T) {
	t.Parallel()
	c := newClock()
	ring := access.NewKeyring(c.Now)
	a, credentialA := stored(t, "a")
	b, _ := stored(t, "b")
	ring.Sync([]store.Key{a, b}, nil, nil)
	key, _ := ring.Named("a")
	if !key.LastUsed().IsZero() {
		t.Error("used before it was")
	}
	ring.Find(credentialA)
	at := c.Add(time.Second)
	ring.Find(credentialA)
	ring.Sync([]store.Key{a, b}, nil, nil)
	if used := ring.Used(); len(used) != 1 || !used["id-a"].Equal(at) {
		t.Errorf("used: %v, want a at %v", used, at)
	}
	if used := ring.Used(); len(used) != 0 {
		t.Errorf("told twice: %v", used)
	}
	if key, _ := ring.Named("a"); !key.LastUsed().Equal(at) {
		t.Errorf("last used at %v once that was told", key.LastUsed())
	}
	if ring.Empty() {
		t.Error("a ring with keys is empty")
	}
	if ring.Sync(nil, nil, nil); !ring.Empty() {
		t.Error("a ring without keys is not empty")
	}
}

func TestAKeyAllowsWhatItsListsSay(t *testing.T) {
	t.Parallel()
	ring, open, record := oneKey(t, newClock(), func(k *store.Key) { k.Role = "" })
	if open.Role != api.RoleClient || open.Restricted() || !open.Allows("claude-opus-4-5") || !open.Allows("") || !open.AllowsAccount("work") {
		t.Error("a key without role and lists is not a client that may use all")
	}
	record.Models, record.Accounts = []string{"*haiku*", "*sonnet*"}, []string{"work"}
	ring.Sync([]store.Key{record}, nil, nil)
	key, ok := ring.Named("ci")
	if !ok || !key.Restricted() || !slices.Equal(key.Models(), record.Models) {
		t.Fatal("the new settings do not count")
	}
	for model, want := range map[string]bool{"claude-haiku-4-5": true, "claude-sonnet-4-5": true, "claude-opus-4-5": false, "": false} {
		if key.Allows(model) != want {
			t.Errorf("allows %q: %v", model, !want)
		}
	}
	if !key.AllowsAccount("work") || key.AllowsAccount("home") {
		t.Error("the list of accounts does not count")
	}
	if _, ok := ring.Named("nobody"); ok {
		t.Error("a key by a name that none has")
	}
}

func TestKeysAreFoundWhileTheyChange(t *testing.T) {
	t.Parallel()
	c := newClock()
	ring := access.NewKeyring(c.Now)
	kept, keptCredential := stored(t, "kept", func(k *store.Key) { k.RPM, k.MaxInFlight = 1_000_000, 1000 })
	other, otherCredential := stored(t, "other")
	ring.Sync([]store.Key{kept}, nil, nil)

	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 500 {
				key, ok := ring.Find(keptCredential)
				if !ok {
					t.Error("a key is lost while another one changes")
					return
				}
				release, refusal := key.Begin(c.Now())
				if refusal != nil {
					t.Error(refusal.Message)
					return
				}
				release(0.001)
				ring.Find(otherCredential)
				ring.Used()
			}
		})
	}
	for i := range 200 {
		ring.Sync([]store.Key{kept, other}[:1+i%2], nil, map[string]float64{kept.ID: 0.5})
	}
	wg.Wait()
	key, _ := ring.Find(keptCredential)
	if spent := key.Spent(); spent < 2-1e-6 || spent > 2.5+1e-6 {
		t.Errorf("spent %v after 2000 requests at $0.001", spent)
	}
}

func BenchmarkFind(b *testing.B) {
	ring := access.NewKeyring(time.Now)
	var records []store.Key
	var credential secret.String
	for i := range 1000 {
		record, c := stored(b, fmt.Sprintf("key-%d", i))
		records, credential = append(records, record), c
	}
	ring.Sync(records, nil, nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := ring.Find(credential); !ok {
			b.Fatal("not found")
		}
	}
}
