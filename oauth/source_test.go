package oauth

import (
	"context"
	"errors"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/secret"
	"github.com/claude-balancer/claude-balancer/store"
)

// expired and fresh make a vault with account "a".
func expired(p *provider) *vault {
	return newVault(map[string]store.Credential{"a": p.login(time.Now().Add(-9 * time.Hour))})
}

func fresh(p *provider) *vault {
	return newVault(map[string]store.Credential{"a": p.login(time.Now())})
}

func TestAValidTokenComesWithoutAskingAnybody(t *testing.T) { // not parallel: it counts allocations
	p := newProvider()
	v := fresh(p)
	h := newHouse("one", p, v)
	token := mustToken(t, h.Source, "a", access(1))
	if token.Kind != api.KindOAuth || token.Generation != 1 || token.ExpiresAt.IsZero() {
		t.Errorf("got %+v", token)
	}
	if p.count() != 0 || v.calls != 0 {
		t.Errorf("%d calls to the provider, %d to the store", p.count(), v.calls)
	}
	if current, ok := h.Current("a"); !ok || current != token {
		t.Errorf("the current token is %+v", current)
	}
	if _, ok := h.Current("b"); ok {
		t.Error("there is a token of an unknown account")
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = h.Token(context.Background(), "a") }); n > 0 {
		t.Errorf("the hot path allocates %v times", n)
	}
}

func TestAThousandRequestsAtExpiryMakeOneRefresh(t *testing.T) {
	t.Parallel()
	p := newProvider()
	server := httptest.NewServer(p)
	defer server.Close()
	h := newHouse("one", p, expired(p), func(o *SourceOptions) {
		o.Client = func() *Client {
			return &Client{HTTP: server.Client().Transport, Endpoints: Endpoints{TokenURL: server.URL}}
		}
	})
	var all sync.WaitGroup
	for range 1000 {
		all.Go(func() {
			if token, err := h.Token(context.Background(), "a"); err != nil || token.Value.Reveal() != access(2) {
				t.Errorf("got %q, %v", token.Value.Reveal(), err)
			}
		})
	}
	all.Wait()
	if p.count() != 1 {
		t.Errorf("%d refreshes", p.count())
	}
	if got := h.v.row("a"); got.cred.Refresh.Reveal() != refresh(2) || got.cred.Generation != 2 || got.owner != "" {
		t.Errorf("stored %+v", got)
	}
}

func TestProcessesThatShareAStoreRefreshOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newProvider()
		v := expired(p)
		slow := make(chan struct{})
		p.answered = func(call) { <-slow }
		var all sync.WaitGroup
		for _, owner := range []string{"one", "two", "three"} {
			h := newHouse(owner, p, v)
			for range 20 {
				all.Go(func() {
					if token, err := h.Token(t.Context(), "a"); err != nil || token.Value.Reveal() != access(2) {
						t.Errorf("%s got %q, %v", owner, token.Value.Reveal(), err)
					}
				})
			}
		}
		time.Sleep(5 * time.Second)
		close(slow)
		all.Wait()
		if p.count() != 1 || p.spent != 0 {
			t.Errorf("%d refreshes, %d with a spent token", p.count(), p.spent)
		}
	})
}

func TestProcessesThatShareADatabaseRefreshOnce(t *testing.T) {
	t.Parallel()
	p := newProvider()
	path := filepath.Join(t.TempDir(), "accounts.db")
	var id string
	var all sync.WaitGroup
	for i, owner := range []string{"one", "two"} {
		db, err := store.Open(t.Context(), store.Options{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = db.Close() }()
		if i == 0 {
			id = "11111111-1111-4111-8111-111111111111"
			a := store.Account{ID: id, Name: "work", Plan: api.PlanMax, Credential: p.login(time.Now().Add(-9 * time.Hour)), CreatedAt: time.Now()}
			if err := db.AddAccount(t.Context(), a); err != nil {
				t.Fatal(err)
			}
		}
		accounts, err := db.Accounts(t.Context())
		if err != nil || len(accounts) != 1 {
			t.Fatalf("%d accounts, %v", len(accounts), err)
		}
		h := newHouse(owner, p, newVault(nil), func(o *SourceOptions) { o.Vault = db })
		h.Sync(map[string]Entry{id: {Credential: accounts[0].Credential}})
		for range 50 {
			all.Go(func() {
				if token, err := h.Token(context.Background(), id); err != nil || token.Value.Reveal() != access(2) {
					t.Errorf("%s got %q, %v", owner, token.Value.Reveal(), err)
				}
			})
		}
	}
	all.Wait()
	if p.count() != 1 {
		t.Errorf("%d refreshes", p.count())
	}
}

func TestARequestThatLeavesDoesNotStopTheRefresh(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newProvider()
		h := newHouse("one", p, expired(p))
		slow := make(chan struct{})
		p.answered = func(call) { <-slow }
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := h.Token(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
		close(slow)
		mustToken(t, h.Source, "a", access(2))
		if p.count() != 1 || h.v.row("a").cred.Refresh.Reveal() != refresh(2) {
			t.Errorf("%d refreshes, stored %+v", p.count(), h.v.row("a").cred)
		}
	})
}

func TestAForcedRefreshOfAnOldTokenDoesNotAskAgain(t *testing.T) {
	t.Parallel()
	p := newProvider()
	h := newHouse("one", p, fresh(p))
	used := mustToken(t, h.Source, "a", access(1))
	for range 3 { // three requests had the same 401
		token, err := h.Refresh(t.Context(), "a", used)
		if err != nil || token.Value.Reveal() != access(2) || token.OlderThan(time.Minute, time.Now()) {
			t.Fatalf("got %q, %v", token.Value.Reveal(), err)
		}
	}
	if p.count() != 1 {
		t.Errorf("%d refreshes", p.count())
	}
}

func TestATokenThatAnotherProcessGotIsTakenOver(t *testing.T) {
	t.Parallel()
	p := newProvider()
	v := expired(p)
	stale, other := newHouse("one", p, v), newHouse("two", p, v)
	mustToken(t, other.Source, "a", access(2))
	mustToken(t, stale.Source, "a", access(2))
	if p.count() != 1 || stale.told(EventRefreshed) != 0 || other.told(EventRefreshed) != 1 {
		t.Errorf("%d refreshes", p.count())
	}
}

func TestTokensAreRefreshedAheadOfTimeOneAfterTheOther(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newProvider()
		creds := map[string]store.Credential{}
		for _, id := range []string{"a", "b", "c", "d", "e", "f"} {
			creds[id] = p.login(time.Now())
		}
		var at []time.Time
		p.answered = func(call) { at = append(at, time.Now()) }
		h := newHouse("one", p, newVault(creds))
		ends := time.Now().Add(8 * time.Hour)
		ctx, cancel := context.WithCancel(t.Context())
		go h.Run(ctx)
		time.Sleep(8*time.Hour - time.Minute)
		cancel()
		synctest.Wait()
		if len(at) != 6 {
			t.Fatalf("%d refreshes", len(at))
		}
		for i, when := range at {
			if ahead := ends.Sub(when); ahead > 10*time.Minute || ahead < 5*time.Minute {
				t.Errorf("refreshed %v ahead", ahead)
			}
			if i > 0 && when.Sub(at[i-1]) < time.Second {
				t.Errorf("refreshes %d and %d are %v apart", i-1, i, when.Sub(at[i-1]))
			}
		}
	})
}

func TestATokenThatEndsSoonIsServedWhileItIsGood(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newProvider()
		h := newHouse("one", p, fresh(p))
		time.Sleep(8*time.Hour - time.Minute)
		mustToken(t, h.Source, "a", access(1))
		if p.count() != 0 {
			t.Fatal("a request waited for a refresh that was not due")
		}
		time.Sleep(45 * time.Second)
		mustToken(t, h.Source, "a", access(2))
	})
}

func TestATokenThatLivesForSecondsIsNotRefreshedForEachRequest(t *testing.T) {
	t.Parallel()
	p := newProvider()
	p.lifetime = 20 * time.Second
	h := newHouse("one", p, fresh(p))
	for range 10 {
		mustToken(t, h.Source, "a", access(1))
	}
	if p.count() != 0 {
		t.Errorf("%d refreshes", p.count())
	}
}

func TestAnAnswerWithoutRefreshTokenKeepsTheOldOne(t *testing.T) {
	t.Parallel()
	p := newProvider()
	p.keeps = true
	h := newHouse("one", p, expired(p))
	mustToken(t, h.Source, "a", access(2))
	if got := h.v.row("a").cred; got.Refresh.Reveal() != refresh(1) || got.Kind != api.KindOAuth {
		t.Errorf("stored %+v", got)
	}
}

func TestWhatCannotBeRefreshedIsServedAsItIs(t *testing.T) {
	t.Parallel()
	p := newProvider()
	past := time.Now().Add(-time.Hour)
	h := newHouse("one", p, newVault(map[string]store.Credential{
		"key":   {Kind: api.KindAPIKey, Access: secret.New("key"), Generation: 1},
		"token": {Kind: api.KindToken, Access: secret.New("token"), ExpiresAt: past, Generation: 1},
		"empty": {Kind: api.KindOAuth, Generation: 1},
	}))
	for _, id := range []string{"key", "token"} {
		token := mustToken(t, h.Source, id, id)
		if _, err := h.Refresh(t.Context(), id, token); !errors.Is(err, ErrNotRefreshable) {
			t.Errorf("%s: got %v", id, err)
		}
		if _, err := h.RefreshByHand(t.Context(), id); !errors.Is(err, ErrNotRefreshable) {
			t.Errorf("%s by hand: got %v", id, err)
		}
	}
	if _, err := h.Token(t.Context(), "empty"); !errors.Is(err, ErrNotRefreshable) {
		t.Errorf("got %v", err)
	}
	h.lookAround()
	if p.count() != 0 {
		t.Error("the provider was asked")
	}
}

func TestATokenOfUnknownEndIsTakenAsExpired(t *testing.T) {
	t.Parallel()
	p := newProvider()
	c := p.login(time.Now())
	c.ExpiresAt, c.IssuedAt = time.Time{}, time.Time{}
	h := newHouse("one", p, newVault(map[string]store.Credential{"a": c}))
	mustToken(t, h.Source, "a", access(2))
}

func TestATokenOfUnknownAgeIsOld(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, tt := range []struct {
		issued time.Time
		want   bool
	}{{time.Time{}, true}, {now.Add(-61 * time.Second), true}, {now.Add(-59 * time.Second), false}, {now.Add(time.Hour), false}} {
		if got := (Token{IssuedAt: tt.issued}).OlderThan(time.Minute, now); got != tt.want {
			t.Errorf("issued %v: got %v", tt.issued, got)
		}
	}
}

func TestSyncTakesOverWhatIsNewerAndForgetsTheRemoved(t *testing.T) {
	t.Parallel()
	p := newProvider()
	v := fresh(p)
	h := newHouse("one", p, v)
	old := v.entries()

	relogin := p.login(time.Now())
	relogin.Generation = 5
	h.Sync(map[string]Entry{"a": {Credential: relogin}, "b": {Credential: p.login(time.Now())}})
	mustToken(t, h.Source, "a", access(2))
	mustToken(t, h.Source, "b", access(3))

	h.Sync(old) // read before the login
	mustToken(t, h.Source, "a", access(2))
	if _, err := h.Token(t.Context(), "b"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("got %v", err)
	}
}

func TestAStoredNeedsLoginAnswersAtOnceUntilALogin(t *testing.T) {
	t.Parallel()
	p := newProvider()
	c := p.login(time.Now())
	h := newHouse("one", p, newVault(nil))
	h.Sync(map[string]Entry{"a": {Credential: c, State: api.StatusNeedsLogin, StateReason: "invalid_grant"}})
	_, err := h.Token(t.Context(), "a")
	if dead, ok := errors.AsType[*NeedsLoginError](err); !ok || dead.Reason != "invalid_grant" {
		t.Fatalf("got %v", err)
	}
	h.lookAround()
	if p.count() != 0 {
		t.Fatal("the provider was asked")
	}
	c = p.login(time.Now())
	c.Generation = 2
	h.Sync(map[string]Entry{"a": {Credential: c}})
	mustToken(t, h.Source, "a", access(2))
}

func TestCloseWaitsForTheRefreshThatRuns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newProvider()
		h := newHouse("one", p, expired(p))
		p.answered = func(call) { time.Sleep(3 * time.Second) }
		go func() { _, _ = h.Token(context.Background(), "a") }()
		synctest.Wait()
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := h.Close(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
		if err := h.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if h.v.row("a").cred.Refresh.Reveal() != refresh(2) {
			t.Error("the pair is lost")
		}
		token := mustToken(t, h.Source, "a", access(2))
		if _, err := h.Refresh(t.Context(), "a", token); !errors.Is(err, ErrClosed) {
			t.Errorf("got %v", err)
		}
	})
}

func BenchmarkToken(b *testing.B) {
	p := newProvider()
	h := newHouse("one", p, fresh(p))
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			_, _ = h.Token(context.Background(), "a")
		}
	})
}
