package store

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// signInRig is a store with a clock and one client key.
type signInRig struct {
	*Store
	t     *testing.T
	now   atomic.Int64
	token byte
}

func newSignInRig(t *testing.T, db testDB) *signInRig {
	r := &signInRig{t: t}
	r.now.Store(start.UnixMilli())
	o := db.o
	o.Now = func() time.Time { return time.UnixMilli(r.now.Load()) }
	r.Store = open(t, o)
	r.addKey("dev")
	return r
}

func (r *signInRig) pass(d time.Duration) { r.now.Add(d.Milliseconds()) }

func (r *signInRig) addKey(id string) {
	r.t.Helper()
	must(r.t, r.AddKey(r.t.Context(), Key{ID: id, Name: id, Role: "client", Hash: r.hash()}))
}

func (r *signInRig) hash() [32]byte {
	r.token++
	return [32]byte{r.token}
}

func (r *signInRig) pair() Issue {
	return Issue{Access: r.hash(), AccessExpires: r.Store.now().Add(8 * time.Hour), Refresh: r.hash()}
}

// begin stores a sign-in that waits.
func (r *signInRig) begin(userCode string) [32]byte {
	r.t.Helper()
	d := Device{Hash: r.hash(), UserCode: userCode, ExpiresAt: r.Store.now().Add(10 * time.Minute)}
	must(r.t, r.AddDevice(r.t.Context(), d, 100))
	return d.Hash
}

// signIn returns the tokens of a client that has signed in.
func (r *signInRig) signIn(key string) Issue {
	r.t.Helper()
	code := fmt.Sprintf("CODE-%d", r.token)
	device, pair := r.begin(code), r.pair()
	must(r.t, r.DecideDevice(r.t.Context(), code, key))
	got(r.Redeem(r.t.Context(), device, SignIn{ID: code, ExpiresAt: r.Store.now().Add(30 * 24 * time.Hour)}, pair))(r.t)
	return pair
}

func (r *signInRig) counts(access [32]byte) bool {
	r.t.Helper()
	one := got(r.HasToken(r.t.Context(), access))(r.t)
	listed := false
	for _, t := range got(r.Tokens(r.t.Context()))(r.t) {
		listed = listed || t.Hash == access
	}
	if one != listed {
		r.t.Errorf("looked up: %v, listed: %v", one, listed)
	}
	return one
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
}

func TestADeviceCodeIsDecidedOnceAndRedeemedOnce(t *testing.T) {
	onEachEngine(t, testADeviceCodeIsDecidedOnceAndRedeemedOnce)
}

func testADeviceCodeIsDecidedOnceAndRedeemedOnce(t *testing.T, db testDB) {
	r, ctx := newSignInRig(t, db), t.Context()
	device := r.begin("BCDF-GHJK")
	in := SignIn{ID: "s", ExpiresAt: r.Store.now().Add(time.Hour)}
	_, err := r.Redeem(ctx, device, in, r.pair())
	wantErr(t, "redeemed before it was approved", err, ErrNotFound)
	must(t, r.DecideDevice(ctx, "BCDF-GHJK", "dev"))
	wantErr(t, "denied after it was approved", r.DecideDevice(ctx, "BCDF-GHJK", ""), ErrNotFound)
	wantErr(t, "an unknown code", r.DecideDevice(ctx, "ZZZZ-ZZZZ", "dev"), ErrNotFound)
	if d := got(r.Device(ctx, device))(t); d.State != DeviceApproved || d.UserCode != "BCDF-GHJK" {
		t.Errorf("stored: %+v", d)
	}
	pair := r.pair()
	if in = got(r.Redeem(ctx, device, in, pair))(t); in.KeyID != "dev" || in.KeyName != "dev" {
		t.Errorf("signed in: %+v", in)
	}
	_, err = r.Redeem(ctx, device, SignIn{ID: "t", ExpiresAt: in.ExpiresAt}, r.pair())
	wantErr(t, "redeemed twice", err, ErrNotFound)
	_, err = r.Device(ctx, device)
	wantErr(t, "a used code", err, ErrNotFound)
	if r.pass(59 * time.Minute); !r.counts(pair.Access) {
		t.Error("the token does not count")
	}
	if r.pass(time.Minute); r.counts(pair.Access) {
		t.Error("an access token outlives its sign-in")
	}
}

func TestADeniedOrLateDeviceCodeGetsNothing(t *testing.T) {
	onEachEngine(t, testADeniedOrLateDeviceCodeGetsNothing)
}

func testADeniedOrLateDeviceCodeGetsNothing(t *testing.T, db testDB) {
	r, ctx := newSignInRig(t, db), t.Context()
	denied, late := r.begin("DENY"), r.begin("LATE")
	must(t, r.DecideDevice(ctx, "DENY", ""))
	must(t, r.DecideDevice(ctx, "LATE", "dev"))
	r.begin("PEND")
	r.pass(10 * time.Minute)
	for _, device := range [][32]byte{denied, late} {
		_, err := r.Redeem(ctx, device, SignIn{ID: "s", ExpiresAt: r.Store.now().Add(time.Hour)}, r.pair())
		wantErr(t, "redeemed", err, ErrNotFound)
	}
	wantErr(t, "approved too late", r.DecideDevice(ctx, "PEND", "dev"), ErrNotFound)
	must(t, r.PruneSignIns(ctx))
	got(r.Device(ctx, late))(t) // still tells that it is late
	r.pass(codesKept)
	must(t, r.PruneSignIns(ctx))
	_, err := r.Device(ctx, late)
	wantErr(t, "after pruning", err, ErrNotFound)
}

func TestOfManyDecisionsAtOnceOneCounts(t *testing.T) {
	onEachEngine(t, testOfManyDecisionsAtOnceOneCounts)
}

func testOfManyDecisionsAtOnceOneCounts(t *testing.T, db testDB) {
	r, ctx := newSignInRig(t, db), t.Context()
	other := db.open(t) // as another process would
	device := r.begin("RACE")
	var won, redeemed atomic.Int32
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			s := []*Store{r.Store, other}[i%2]
			if err := s.DecideDevice(ctx, "RACE", []string{"dev", ""}[i/8]); err == nil {
				won.Add(1)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d decisions count", won.Load())
	}
	if got(r.Device(ctx, device))(t).State == DeviceDenied {
		return
	}
	for i := range 16 {
		wg.Go(func() {
			in := SignIn{ID: fmt.Sprint("race", i), ExpiresAt: start.Add(time.Hour)}
			pair := Issue{Access: [32]byte{200, byte(i)}, AccessExpires: in.ExpiresAt, Refresh: [32]byte{201, byte(i)}}
			if _, err := []*Store{r.Store, other}[i%2].Redeem(ctx, device, in, pair); err == nil {
				redeemed.Add(1)
			}
		})
	}
	wg.Wait()
	if redeemed.Load() != 1 {
		t.Errorf("redeemed %d times", redeemed.Load())
	}
}

func TestOnlySoManySignInsWait(t *testing.T) { onEachEngine(t, testOnlySoManySignInsWait) }

func testOnlySoManySignInsWait(t *testing.T, db testDB) {
	r, ctx := newSignInRig(t, db), t.Context()
	add := func(code string) error {
		return r.AddDevice(ctx, Device{Hash: r.hash(), UserCode: code, ExpiresAt: r.Store.now().Add(time.Minute)}, 3)
	}
	for _, code := range []string{"A", "B", "C"} {
		must(t, add(code))
	}
	wantErr(t, "one more", add("D"), ErrFull)
	r.pass(time.Minute)
	wantErr(t, "a used code", add("A"), ErrExists)
	must(t, add("D"))
}

func TestRefreshTokensRotateAndReuseEndsTheSignIn(t *testing.T) {
	onEachEngine(t, testRefreshTokensRotateAndReuseEndsTheSignIn)
}

func testRefreshTokensRotateAndReuseEndsTheSignIn(t *testing.T, db testDB) {
	r, ctx := newSignInRig(t, db), t.Context()
	const grace = time.Minute
	first := r.signIn("dev")
	second := r.pair()
	if in := got(r.Refresh(ctx, first.Refresh, second, grace))(t); in.KeyName != "dev" {
		t.Errorf("refreshed: %+v", in)
	}
	if !r.counts(first.Access) || !r.counts(second.Access) {
		t.Error("a refresh ended a token that its client may still be using")
	}
	r.pass(grace) // the answer was lost: the client tries again
	third := r.pair()
	got(r.Refresh(ctx, first.Refresh, third, grace))(t)
	got(r.Refresh(ctx, second.Refresh, r.pair(), grace))(t)
	_, err := r.Refresh(ctx, third.Access, r.pair(), grace)
	wantErr(t, "an access token", err, ErrNotFound)

	r.pass(time.Millisecond)
	in, err := r.Refresh(ctx, first.Refresh, r.pair(), grace)
	wantErr(t, "reuse", err, ErrReused)
	if in.KeyName != "dev" {
		t.Errorf("whose it was: %+v", in)
	}
	for _, p := range []Issue{first, second, third} {
		if r.counts(p.Access) {
			t.Error("an access token outlives the reuse")
		}
		_, err := r.Refresh(ctx, p.Refresh, r.pair(), grace)
		wantErr(t, "after the reuse", err, ErrNotFound)
	}
}

func TestASignInEndsWithItsKey(t *testing.T) { onEachEngine(t, testASignInEndsWithItsKey) }

func testASignInEndsWithItsKey(t *testing.T, db testDB) {
	r, ctx := newSignInRig(t, db), t.Context()
	r.addKey("gone")
	mine, gone := r.signIn("dev"), r.signIn("gone")
	waiting := r.begin("WAIT")
	must(t, r.DecideDevice(ctx, "WAIT", "gone"))
	if n := got(r.SignIns(ctx))(t); n["dev"] != 1 || n["gone"] != 1 {
		t.Errorf("counted: %v", n)
	}
	must(t, r.RemoveKey(ctx, "gone"))
	if r.counts(gone.Access) || !r.counts(mine.Access) {
		t.Error("removing a key ended the wrong sign-ins")
	}
	_, err := r.Refresh(ctx, gone.Refresh, r.pair(), time.Minute)
	wantErr(t, "refresh", err, ErrNotFound)
	_, err = r.Device(ctx, waiting)
	wantErr(t, "approved for a removed key", err, ErrNotFound)
}

func TestASignInOfAnExpiredKeyIsNotRefreshed(t *testing.T) {
	onEachEngine(t, testASignInOfAnExpiredKeyIsNotRefreshed)
}

func testASignInOfAnExpiredKeyIsNotRefreshed(t *testing.T, db testDB) {
	r, ctx := newSignInRig(t, db), t.Context()
	pair := r.signIn("dev")
	waiting := r.begin("WAIT")
	must(t, r.DecideDevice(ctx, "WAIT", "dev"))
	k := got(r.Keys(ctx))(t)[0]
	k.ExpiresAt = r.Store.now().Add(time.Second)
	must(t, r.UpdateKey(ctx, k))
	r.pass(time.Second)
	_, err := r.Refresh(ctx, pair.Refresh, r.pair(), time.Minute)
	wantErr(t, "refresh", err, ErrNotFound)
	_, err = r.Redeem(ctx, waiting, SignIn{ID: "late", ExpiresAt: r.Store.now().Add(time.Hour)}, r.pair())
	wantErr(t, "redeemed", err, ErrNotFound)
}

func TestRotatingAKeyEndsItsSignInsWithTheFormerCredential(t *testing.T) {
	onEachEngine(t, testRotatingAKeyEndsItsSignInsWithTheFormerCredential)
}

func testRotatingAKeyEndsItsSignInsWithTheFormerCredential(t *testing.T, db testDB) {
	r, ctx := newSignInRig(t, db), t.Context()
	pair := r.signIn("dev")
	k := got(r.Keys(ctx))(t)[0]
	k.PreviousHash, k.Hash, k.PreviousUntil = k.Hash, r.hash(), r.Store.now().Add(time.Hour)
	must(t, r.RotateKey(ctx, k))
	if r.pass(time.Hour - time.Millisecond); !r.counts(pair.Access) {
		t.Error("the sign-in ended before the former credential")
	}
	if r.pass(time.Millisecond); r.counts(pair.Access) {
		t.Error("the sign-in outlives the former credential")
	}
	must(t, r.PruneSignIns(ctx))
	if n := got(r.SignIns(ctx))(t); len(n) != 0 {
		t.Errorf("left after pruning: %v", n)
	}
}

func TestEitherTokenEndsItsSignIn(t *testing.T) { onEachEngine(t, testEitherTokenEndsItsSignIn) }

func testEitherTokenEndsItsSignIn(t *testing.T, db testDB) {
	r, ctx := newSignInRig(t, db), t.Context()
	for _, pick := range []func(Issue) [32]byte{func(p Issue) [32]byte { return p.Access }, func(p Issue) [32]byte { return p.Refresh }} {
		pair := r.signIn("dev")
		if in := got(r.EndSignIn(ctx, pick(pair)))(t); in.KeyName != "dev" {
			t.Errorf("ended: %+v", in)
		}
		_, err := r.EndSignIn(ctx, pick(pair))
		wantErr(t, "ended twice", err, ErrNotFound)
		if r.counts(pair.Access) {
			t.Error("its access token still counts")
		}
	}
}

func TestSignInsAndTheirTokensAreBounded(t *testing.T) {
	onEachEngine(t, testSignInsAndTheirTokensAreBounded)
}

func testSignInsAndTheirTokensAreBounded(t *testing.T, db testDB) {
	r, ctx := newSignInRig(t, db), t.Context()
	big := func(kind byte, i int) [32]byte { return [32]byte{kind, byte(i), byte(i >> 8), 1} }
	pair := r.signIn("dev")
	for i := range maxRefreshTokens + 50 {
		next := Issue{Access: big(1, i), AccessExpires: r.Store.now().Add(8 * time.Hour), Refresh: big(2, i)}
		got(r.Refresh(ctx, pair.Refresh, next, time.Minute))(t)
		pair = next
		r.pass(time.Millisecond)
	}
	tokens := got(r.Tokens(ctx))(t)
	if len(tokens) != maxAccessTokens || !r.counts(pair.Access) {
		t.Errorf("%d access tokens count", len(tokens))
	}
	var all int
	must(t, r.reader.QueryRowContext(ctx, `SELECT COUNT(*) FROM sign_in_tokens`).Scan(&all))
	if all != maxAccessTokens+maxRefreshTokens {
		t.Errorf("%d tokens are kept", all)
	}
	for i := range maxSignIns + 5 {
		d := Device{Hash: big(3, i), UserCode: fmt.Sprint("U", i), ExpiresAt: r.Store.now().Add(time.Minute)}
		must(t, r.AddDevice(ctx, d, 1000))
		must(t, r.DecideDevice(ctx, d.UserCode, "dev"))
		in := SignIn{ID: fmt.Sprint("s", i), ExpiresAt: r.Store.now().Add(time.Hour)}
		got(r.Redeem(ctx, d.Hash, in, Issue{Access: big(4, i), AccessExpires: in.ExpiresAt, Refresh: big(5, i)}))(t)
		r.pass(time.Millisecond)
	}
	if n := got(r.SignIns(ctx))(t)["dev"]; n != maxSignIns {
		t.Errorf("%d sign-ins of one key", n)
	}
	if r.counts(pair.Access) || !r.counts(big(4, maxSignIns+4)) {
		t.Error("the newest ended and not the oldest")
	}
}
