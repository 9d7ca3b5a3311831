package signin

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"pgregory.net/rapid"

	"github.com/claude-balancer/claude-balancer/access"
	"github.com/claude-balancer/claude-balancer/secret"
	"github.com/claude-balancer/claude-balancer/store"
)

func TestUserCodesAreReadHoweverTheyAreTyped(t *testing.T) {
	t.Parallel()
	for typed, want := range map[string]string{
		"WDJB-MJHT": "WDJB-MJHT", "wdjbmjht": "WDJB-MJHT", " wdjb mjht ": "WDJB-MJHT", "W-D-J-B-M-J-H-T": "WDJB-MJHT",
		"": "", "WDJB": "", "WDJB-MJH": "", "WDJB-MJHTT": "", "ADJB-MJHT": "", "WDJB_MJHT": "", "ＷDJB-MJHT": "", "<b>WDJB</b>": "", "WDJB-MJHſ": "",
	} {
		if got := readUserCode(typed); got != want {
			t.Errorf("%q: got %q, want %q", typed, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		if got := readUserCode(rapid.String().Draw(t, "typed")); got != "" && readUserCode(got) != got {
			t.Fatalf("%q is not read as itself", got)
		}
	})
}

func TestUserCodesUseTheirLettersEvenly(t *testing.T) {
	t.Parallel()
	count := make(map[rune]int)
	const codes = 5000
	for range codes {
		code, err := newUserCode(rand.Reader)
		if err != nil || readUserCode(code) != code {
			t.Fatalf("%q: %v", code, err)
		}
		for _, c := range code {
			count[c]++
		}
	}
	delete(count, '-')
	for _, c := range codeLetters {
		// 2000 are expected, with a deviation of 44.
		if n := count[c]; n < 1700 || n > 2300 {
			t.Errorf("%c came %d times", c, n)
		}
	}
	if len(count) != 20 {
		t.Errorf("%d letters", len(count))
	}
	if _, err := newUserCode(strings.NewReader("x")); err == nil {
		t.Error("a code without randomness")
	}
}

func TestTokensAreNoKeysAndKeysNoTokens(t *testing.T) {
	t.Parallel()
	kinds := []access.Kind{access.KindKey, access.KindAccess, access.KindRefresh, access.KindDevice}
	for _, made := range kinds {
		s, err := made.New(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		for _, asked := range kinds {
			if asked.Fits(s) != (made == asked) {
				t.Errorf("a %s fits %s: %v", made, asked, asked.Fits(s))
			}
		}
		if strings.HasPrefix(s.Reveal(), "sk-ant") {
			t.Error("it passes for one of Anthropic's")
		}
	}
}

// flowRig is a Flow over a real store with one client key.
type flowRig struct {
	*Flow
	store *store.Store
	now   atomic.Int64
	key   secret.String
}

func newFlowRig(t testing.TB) *flowRig {
	t.Helper()
	r := &flowRig{}
	r.now.Store(time.Date(2026, 3, 14, 15, 9, 26, 0, time.UTC).UnixMilli())
	now := func() time.Time { return time.UnixMilli(r.now.Load()) }
	var err error
	if r.store, err = store.Open(t.Context(), store.Options{Path: filepath.Join(t.TempDir(), "accounts.db"), Now: now}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.store.Close() })
	if r.key, err = access.NewCredential(rand.Reader); err != nil {
		t.Fatal(err)
	}
	record := store.Key{ID: "dev", Name: "dev", Role: "client", Hash: access.Hash(r.key)}
	if err := r.store.AddKey(t.Context(), record); err != nil {
		t.Fatal(err)
	}
	ring := access.NewKeyring(now)
	ring.Sync([]store.Key{record}, nil, nil)
	r.Flow = New(Options{
		Store: r.store, Keys: ring, Guard: access.NewGuard(now),
		TokensChanged: func(context.Context) error { return nil },
		Audit:         func(context.Context, string, string, string) {},
		Now:           now, Logger: zap.NewNop,
	})
	return r
}

func (r *flowRig) beginFrom(i uint32) *httptest.ResponseRecorder {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], 0x0b000000+i)
	w := httptest.NewRecorder()
	r.ServeHTTP(w, httptest.NewRequest("POST", devicePath, nil), &Settings{}, Caller{BaseURL: "https://x", Secure: true, Client: netip.AddrFrom4(b)})
	return w
}

// fullStore is a store in which as many sign-ins wait as the flow allows.
type fullStore struct{ *store.Store }

func (s fullStore) AddDevice(ctx context.Context, d store.Device, most int) error {
	if most != 10_000 {
		return errors.New("another bound")
	}
	return s.Store.AddDevice(ctx, d, 3)
}

func TestWhenTooManySignInsWaitMoreAreRefused(t *testing.T) {
	t.Parallel()
	r := newFlowRig(t)
	r.Store = fullStore{r.store}
	for i := range uint32(3) {
		if w := r.beginFrom(i); w.Code != 200 {
			t.Fatalf("%d: %d %s", i, w.Code, w.Body)
		}
	}
	w := r.beginFrom(4)
	if w.Code != 503 || w.Header().Get("Retry-After") == "" || !strings.Contains(w.Body.String(), "temporarily_unavailable") {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	r.now.Add((10 * time.Minute).Milliseconds())
	if w := r.beginFrom(5); w.Code != 200 {
		t.Errorf("after they expired: %d %s", w.Code, w.Body)
	}
}

func TestTenThousandWaitingSignInsTakeLittleMemory(t *testing.T) {
	// Not parallel: it measures.
	var p polls
	now := time.Now()
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	var code [32]byte
	for i := range uint32(maxWaiting) {
		binary.BigEndian.PutUint32(code[:], i)
		p.tooFast(code, now)
	}
	grown := heap() - before
	t.Logf("%d polled codes take %d KiB", len(p.last), grown>>10)
	if len(p.last) != maxWaiting || grown > 4<<20 {
		t.Errorf("%d polled codes take %d bytes", len(p.last), grown)
	}
	// They are forgotten once nobody polls.
	if p.tooFast(code, now.Add(2*time.Minute)); len(p.last) != 1 {
		t.Errorf("%d are remembered", len(p.last))
	}
}

func TestAPollMayBeALittleEarly(t *testing.T) {
	t.Parallel()
	var p polls
	now := time.Now()
	steps := []struct {
		after time.Duration
		early bool
	}{{0, false}, {5 * time.Second, false}, {4100 * time.Millisecond, false}, {time.Second, true}, {5 * time.Second, true}, {15 * time.Second, false}, {14 * time.Second, false}, {10 * time.Second, true}, {19 * time.Second, false}}
	for i, s := range steps {
		now = now.Add(s.after)
		if early := p.tooFast([32]byte{1}, now); early != s.early {
			t.Errorf("step %d, %s after the last: early = %v", i, s.after, early)
		}
	}
	for range 100 {
		p.tooFast([32]byte{1}, now)
	}
	if now = now.Add(time.Minute); p.tooFast([32]byte{1}, now) {
		t.Error("haste is never forgiven")
	}
}

// What a failing store makes of each step: an error in its form, and nothing of
// its cause.
type brokenStore struct{}

var errBroken = errors.New("disk full of secrets")

func (brokenStore) AddDevice(context.Context, store.Device, int) error { return errBroken }
func (brokenStore) Device(context.Context, [32]byte) (store.Device, error) {
	return store.Device{}, errBroken
}
func (brokenStore) DecideDevice(context.Context, string, string) error { return errBroken }
func (brokenStore) Redeem(context.Context, [32]byte, store.SignIn, store.Issue) (store.SignIn, error) {
	return store.SignIn{}, errBroken
}
func (brokenStore) Refresh(context.Context, [32]byte, store.Issue, time.Duration) (store.SignIn, error) {
	return store.SignIn{}, errBroken
}
func (brokenStore) EndSignIn(context.Context, [32]byte) (store.SignIn, error) {
	return store.SignIn{}, errBroken
}

func TestAStoreThatFailsIsNoVerdictOnTheClient(t *testing.T) {
	t.Parallel()
	r := newFlowRig(t)
	r.Store = brokenStore{}
	credential := func(k access.Kind) string {
		s, err := k.New(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return s.Reveal()
	}
	for _, tc := range [][2]string{
		{devicePath, ""},
		{tokenPath, "grant_type=" + grantDevice + "&device_code=" + credential(access.KindDevice)},
		{tokenPath, "grant_type=refresh_token&refresh_token=" + credential(access.KindRefresh)},
		{revokePath, "token=" + credential(access.KindAccess)},
		{pagePath, "user_code=BBBB-BBBB&decision=approve&key=" + r.key.Reveal()},
	} {
		w := httptest.NewRecorder()
		r.ServeHTTP(w, httptest.NewRequest("POST", tc[0], strings.NewReader(tc[1])), &Settings{}, Caller{BaseURL: "https://x", Secure: true})
		if w.Code != 500 || strings.Contains(w.Body.String(), "secrets") || tc[0] != pagePath && !strings.Contains(w.Body.String(), "server_error") {
			t.Errorf("%s: %d %s", tc[0], w.Code, w.Body)
		}
	}
}
