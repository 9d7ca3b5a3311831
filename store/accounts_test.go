package store

import (
	"errors"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/secret"
)

func one(t *testing.T, s *Store, id string) Account {
	t.Helper()
	for _, a := range got(s.Accounts(t.Context()))(t) {
		if a.ID == id {
			return a
		}
	}
	t.Fatalf("no account %s", id)
	return Account{}
}

func TestAnAccountComesBackAsItWasStored(t *testing.T) {
	onEachEngine(t, testAnAccountComesBackAsItWasStored)
}

func testAnAccountComesBackAsItWasStored(t *testing.T, db testDB) {
	s := db.open(t)
	a := account("work")
	a.Models, a.Priority, a.Weight, a.MaxInFlight, a.Paused, a.Tier = []string{"*opus*", "claude-x"}, -2, 3, 4, true, "t20"
	must(t, s.AddAccount(t.Context(), a))
	b := Account{ID: "id-key", Name: "key", Plan: api.PlanAPI, Credential: Credential{Kind: api.KindAPIKey, Access: secret.New("sk")}}
	must(t, s.AddAccount(t.Context(), b))

	a.Credential.Generation, b.Credential.Generation, b.CreatedAt = 1, 1, start
	all := got(s.Accounts(t.Context()))(t)
	for i, want := range []Account{a, b} {
		have := all[i]
		have.CreatedAt, have.Credential.ExpiresAt, have.Credential.IssuedAt =
			have.CreatedAt.UTC(), utc(have.Credential.ExpiresAt), utc(have.Credential.IssuedAt)
		if !reflect.DeepEqual(have, want) {
			t.Errorf("got  %+v\nwant %+v", have, want)
		}
	}
}

func utc(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return t.UTC()
}

func TestANameIsUsedOnce(t *testing.T) { onEachEngine(t, testANameIsUsedOnce) }

func testANameIsUsedOnce(t *testing.T, db testDB) {
	s := db.open(t)
	must(t, s.AddAccount(t.Context(), account("one")))
	must(t, s.AddAccount(t.Context(), account("two")))
	other := account("one")
	other.ID = "other"
	if err := s.AddAccount(t.Context(), other); !errors.Is(err, ErrExists) {
		t.Errorf("adding: %v", err)
	}
	two := account("two")
	two.Name = "one"
	if err := s.UpdateAccount(t.Context(), two); !errors.Is(err, ErrExists) {
		t.Errorf("renaming: %v", err)
	}
	two.ID, two.Name = "nobody", "three"
	if err := s.UpdateAccount(t.Context(), two); !errors.Is(err, ErrNotFound) {
		t.Errorf("changing an unknown account: %v", err)
	}
	if err := s.RemoveAccount(t.Context(), "nobody"); !errors.Is(err, ErrNotFound) {
		t.Errorf("removing an unknown account: %v", err)
	}
}

func TestARenamedAccountKeepsHistoryKeysAndCredential(t *testing.T) {
	onEachEngine(t, testARenamedAccountKeepsHistoryKeysAndCredential)
}

func testARenamedAccountKeepsHistoryKeysAndCredential(t *testing.T, db testDB) {
	s := db.open(t)
	a := account("old")
	must(t, s.AddAccount(t.Context(), a))
	must(t, s.AddKey(t.Context(), Key{ID: "k", Name: "laptop", Accounts: []string{"x", "old"}}))
	must(t, s.InsertRows(t.Context(), []Row{answered("r1", start, a)}))

	a.Name = "new"
	must(t, s.UpdateAccount(t.Context(), a))
	rows := got(s.Requests(t.Context(), api.RequestQuery{Account: "new"}))(t)
	if len(rows) != 1 || *rows[0].AccountUsed != "new" {
		t.Errorf("the history is %+v", rows)
	}
	if stats := got(s.Stats(t.Context(), time.Time{}))(t); stats.ByAccount["new"].Requests != 1 || len(stats.ByAccount) != 1 {
		t.Errorf("by account: %+v", stats.ByAccount)
	}
	if keys := got(s.Keys(t.Context()))(t); !reflect.DeepEqual(keys[0].Accounts, []string{"x", "new"}) {
		t.Errorf("the key may use %q", keys[0].Accounts)
	}
	if now := one(t, s, a.ID); now.RequestCount != 1 || now.Credential.Access.Reveal() != "access-old" {
		t.Errorf("the account is %+v", now)
	}
}

func TestARemovedAccountLeavesItsHistory(t *testing.T) {
	onEachEngine(t, testARemovedAccountLeavesItsHistory)
}

func testARemovedAccountLeavesItsHistory(t *testing.T, db testDB) {
	s := db.open(t)
	first, again := account("work"), account("work")
	again.ID = "id-again"
	must(t, s.AddAccount(t.Context(), first))
	must(t, s.ChangeLimits(t.Context(), first.ID, []LimitChange{{Is: &Limit{Scope: api.ScopeAccount, Cause: "x"}}}))
	must(t, s.SaveWindows(t.Context(), []Window{{AccountID: first.ID, Name: "5h", SeenAt: start}}))
	must(t, s.SaveSessions(t.Context(), []Session{{Key: "s", AccountID: first.ID, LastUsed: start}}))
	must(t, s.SaveResource(t.Context(), Resource{ID: "file_1", AccountID: first.ID}))
	must(t, s.InsertRows(t.Context(), []Row{answered("r1", start, first), answered("r3", start.Add(2), first)}))
	must(t, s.RemoveAccount(t.Context(), first.ID))

	if n := len(got(s.Limits(t.Context()))(t)) + len(got(s.Windows(t.Context()))(t)) +
		len(sessions(t, s, time.Time{}, 10)); n != 0 {
		t.Errorf("%d of its limits, windows and sessions are left", n)
	}
	if _, err := s.Resource(t.Context(), "file_1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("its file: %v", err)
	}
	must(t, s.AddAccount(t.Context(), again))
	must(t, s.InsertRows(t.Context(), []Row{answered("r2", start.Add(time.Second), again)}))
	rows := got(s.Requests(t.Context(), api.RequestQuery{Account: "work", Limit: 2}))(t)
	if len(rows) != 2 || rows[0].ID != "r2" || rows[1].ID != "r3" {
		t.Errorf("the history of both accounts called work is %+v", rows)
	}
	if stats := got(s.Stats(t.Context(), time.Time{}))(t); stats.ByAccount["work"].Requests != 3 {
		t.Errorf("by account: %+v", stats.ByAccount)
	}
}

func TestAStateIsKeptWithItsReasonAndAge(t *testing.T) {
	onEachEngine(t, testAStateIsKeptWithItsReasonAndAge)
}

func testAStateIsKeptWithItsReasonAndAge(t *testing.T, db testDB) {
	s := db.open(t)
	now := start
	s.now = func() time.Time { return now }
	must(t, s.AddAccount(t.Context(), account("work")))
	must(t, s.SetState(t.Context(), "id-work", 1, api.StatusDisabled, "on hold"))
	now = now.Add(time.Hour)
	must(t, s.SetState(t.Context(), "id-work", -1, api.StatusDisabled, "still on hold"))
	if a := one(t, s, "id-work"); a.State != api.StatusDisabled || a.StateReason != "still on hold" || !a.StateSince.Equal(start) {
		t.Errorf("got %s, %q since %v", a.State, a.StateReason, a.StateSince)
	}
	if err := s.SetState(t.Context(), "id-work", 7, api.StatusNeedsLogin, "x"); !errors.Is(err, ErrStale) {
		t.Errorf("another generation: %v", err)
	}
	if err := s.SetState(t.Context(), "nobody", -1, "", ""); !errors.Is(err, ErrNotFound) {
		t.Errorf("unknown account: %v", err)
	}
	must(t, s.SetState(t.Context(), "id-work", -1, "", ""))
	if a := one(t, s, "id-work"); a.State != "" || !a.StateSince.IsZero() {
		t.Errorf("cleared, it is %s since %v", a.State, a.StateSince)
	}
}

func TestSavingACredentialComparesTheGeneration(t *testing.T) {
	onEachEngine(t, testSavingACredentialComparesTheGeneration)
}

func testSavingACredentialComparesTheGeneration(t *testing.T, db testDB) {
	a := db.open(t)
	b := db.open(t)
	must(t, a.AddAccount(t.Context(), account("work")))
	must(t, a.SetState(t.Context(), "id-work", -1, api.StatusNeedsLogin, "invalid_grant"))
	read := got(b.Credential(t.Context(), "id-work"))(t)

	fresh := Credential{Kind: api.KindOAuth, Access: secret.New("a2"), Refresh: secret.New("r2"), ExpiresAt: start.Add(time.Hour), IssuedAt: start}
	if n := got(a.SaveCredential(t.Context(), "id-work", read.Generation, fresh))(t); n != read.Generation+1 {
		t.Errorf("the generation is %d after %d", n, read.Generation)
	}
	if _, err := b.SaveCredential(t.Context(), "id-work", read.Generation, fresh); !errors.Is(err, ErrStale) {
		t.Errorf("the loser gets %v", err)
	}
	if c := got(b.Credential(t.Context(), "id-work"))(t); c.Access.Reveal() != "a2" || c.Refresh.Reveal() != "r2" ||
		!c.IssuedAt.Equal(start) || !c.ExpiresAt.Equal(start.Add(time.Hour)) || c.Generation != 2 {
		t.Errorf("stored is %+v", c)
	}
	if acc := one(t, b, "id-work"); acc.State != "" || acc.StateReason != "" {
		t.Errorf("the state is still %q", acc.State)
	}
	must(t, a.RemoveAccount(t.Context(), "id-work"))
	if _, err := b.SaveCredential(t.Context(), "id-work", 2, fresh); !errors.Is(err, ErrStale) {
		t.Errorf("a removed account: %v", err)
	}
	if _, err := b.Credential(t.Context(), "id-work"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a removed account's credential: %v", err)
	}
}

func TestOneOfManyWritersWinsAGeneration(t *testing.T) {
	onEachEngine(t, testOneOfManyWritersWinsAGeneration)
}

func testOneOfManyWritersWinsAGeneration(t *testing.T, db testDB) {
	stores := []*Store{db.open(t)}
	stores = append(stores, db.open(t))
	must(t, stores[0].AddAccount(t.Context(), account("work")))
	var won atomic.Int32
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			_, err := stores[i%2].SaveCredential(t.Context(), "id-work", 1, Credential{Kind: api.KindOAuth})
			switch {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, ErrStale):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Fatalf("%d writers won", won.Load())
	}
}

func TestALeaseHasOneOwnerAcrossProcesses(t *testing.T) {
	onEachEngine(t, testALeaseHasOneOwnerAcrossProcesses)
}

func testALeaseHasOneOwnerAcrossProcesses(t *testing.T, db testDB) {
	a := db.open(t)
	b := db.open(t)
	must(t, a.AddAccount(t.Context(), account("work")))
	acquire := func(s *Store, owner string, ttl time.Duration) bool {
		t.Helper()
		return got(s.AcquireLease(t.Context(), "id-work", owner, ttl))(t)
	}
	if !acquire(a, "a", time.Minute) || acquire(b, "b", time.Minute) {
		t.Fatal("the first owner holds it alone")
	}
	if !acquire(a, "a", time.Minute) {
		t.Error("the owner may prolong it")
	}
	must(t, b.ReleaseLease(t.Context(), "id-work", "b"))
	if acquire(b, "b", time.Minute) {
		t.Error("a stranger's release ended it")
	}
	must(t, a.ReleaseLease(t.Context(), "id-work", "a"))
	if !acquire(b, "b", 0) || !acquire(a, "a", time.Minute) {
		t.Error("a released or expired lease is free")
	}
	if _, err := a.AcquireLease(t.Context(), "nobody", "a", time.Minute); !errors.Is(err, ErrNotFound) {
		t.Errorf("an unknown account: %v", err)
	}
}

func TestResetStatsZeroesCountsAlone(t *testing.T) { onEachEngine(t, testResetStatsZeroesCountsAlone) }

func testResetStatsZeroesCountsAlone(t *testing.T, db testDB) {
	s := db.open(t)
	a := account("work")
	must(t, s.AddAccount(t.Context(), a))
	must(t, s.InsertRows(t.Context(), []Row{answered("r1", start, a)}))
	must(t, s.ResetStats(t.Context()))
	now := one(t, s, a.ID)
	if now.RequestCount != 0 || !now.LastUsed.IsZero() || now.Tokens.Input == 0 {
		t.Errorf("got %+v", now)
	}
	if n := got(s.Stats(t.Context(), time.Time{}))(t).TotalRequests; n != 1 {
		t.Errorf("the history counts %d", n)
	}
}
