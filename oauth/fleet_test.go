package oauth

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestClocksThatDifferByAMinuteMakeNoSecondRefresh(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newProvider()
		p.lifetime = time.Hour
		v := fresh(p)
		ctx, cancel := context.WithCancel(t.Context())
		defer func() { cancel(); synctest.Wait() }()
		var houses []*house
		for i, ahead := range []time.Duration{-time.Minute, 0, time.Minute} {
			now := func() time.Time { return time.Now().Add(ahead) }
			h := newHouse(fmt.Sprint(i), p, v, func(o *SourceOptions) {
				o.Now, o.NeedsLease = now, true
				o.Client = func() *Client { c := p.client(); c.Now = now; return c }
			})
			go h.Run(ctx)
			houses = append(houses, h)
		}
		for range 5 * 60 * 60 {
			time.Sleep(time.Second)
			for _, h := range houses {
				h.Sync(v.entries())
				if _, err := h.Token(t.Context(), "a"); err != nil {
					t.Fatal(err)
				}
			}
		}
		if n := p.count(); p.spent != 0 || n < 5 || n > 6 {
			t.Errorf("%d refreshes in five lives of an hour less ten minutes, %d with a spent token", n, p.spent)
		}
	})
}

func TestAProcessThatDiesInARefreshDelaysItByItsLease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newProvider()
		v := expired(p)
		if ok, err := v.AcquireLease(t.Context(), "a", "dead", leaseTime); !ok || err != nil {
			t.Fatal(ok, err)
		}
		begin := time.Now()
		var all sync.WaitGroup
		for _, owner := range []string{"one", "two"} {
			h := newHouse(owner, p, v, func(o *SourceOptions) { o.NeedsLease = true })
			all.Go(func() {
				if token, err := h.Token(t.Context(), "a"); err != nil || token.Value.Reveal() != access(2) {
					t.Errorf("%s got %q, %v", owner, token.Value.Reveal(), err)
				}
			})
		}
		all.Wait()
		if took := time.Since(begin); took > leaseTime+2*leasePoll || p.count() != 1 {
			t.Errorf("%d refreshes after %s", p.count(), took)
		}
	})
}

func TestWhileTheStoreIsAwayValidTokensAreServedAndNoneIsRefreshed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newProvider()
		v := fresh(p)
		h := newHouse("one", p, v, func(o *SourceOptions) { o.NeedsLease = true })
		ctx, cancel := context.WithCancel(t.Context())
		go h.Run(ctx)
		defer func() { cancel(); synctest.Wait() }()

		time.Sleep(7 * time.Hour)
		h.Away(true)
		time.Sleep(time.Hour - 10*time.Second)
		mustToken(t, h.Source, "a", access(1)) // due, but good for ten seconds
		time.Sleep(20 * time.Second)
		calls := v.calls
		var wait *BackoffError
		if _, err := h.Token(t.Context(), "a"); !errors.As(err, &wait) || time.Until(wait.Until) > 2*time.Second {
			t.Errorf("got %v", err)
		}
		if _, err := h.RefreshByHand(t.Context(), "a"); !errors.As(err, &wait) {
			t.Errorf("by hand: %v", err)
		}
		if p.count() != 0 || v.calls != calls {
			t.Errorf("%d refreshes, %d calls of the store", p.count(), v.calls-calls)
		}
		h.Away(false)
		mustToken(t, h.Source, "a", access(2))
	})
}

func TestAStoreWithoutLeasesRefreshesNothingThatOthersMayRefreshToo(t *testing.T) {
	t.Parallel()
	p := newProvider()
	v := expired(p)
	v.failing("lease", errDisk)
	h := newHouse("one", p, v, func(o *SourceOptions) { o.NeedsLease = true })
	if _, err := h.Token(t.Context(), "a"); !errors.Is(err, errDisk) || p.count() != 0 {
		t.Errorf("got %v after %d refreshes", err, p.count())
	}
}

// The lease of the one process has ended, and the row has a spent token: only
// time keeps the other process from sending it.
func TestOnceTheStoreIsBackWhatCouldNotBeStoredGoesFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newProvider()
		v := expired(p)
		ctx, cancel := context.WithCancel(t.Context())
		defer func() { cancel(); synctest.Wait() }()
		var houses []*house
		for _, owner := range []string{"one", "two"} {
			h := newHouse(owner, p, v, func(o *SourceOptions) { o.NeedsLease = true })
			go h.Run(ctx)
			houses = append(houses, h)
		}
		time.Sleep(500 * time.Millisecond)
		v.failing("save", errDisk)
		mustToken(t, houses[0].Source, "a", access(2))
		for _, what := range []string{"lease", "read"} {
			v.failing(what, errDisk)
		}
		for _, h := range houses {
			h.Away(true)
		}
		time.Sleep(3 * leaseTime)
		for _, what := range []string{"save", "lease", "read"} {
			v.failing(what, nil)
		}
		for _, h := range houses {
			h.Away(false)
		}
		mustToken(t, houses[1].Source, "a", access(2))
		if p.spent != 0 || p.count() != 1 {
			t.Errorf("%d refreshes, %d with a spent token", p.count(), p.spent)
		}
	})
}
