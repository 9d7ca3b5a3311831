package selection

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// crowd is a pool with one place, in a bubble with a clock of its own.
type crowd struct {
	t      *testing.T
	pool   *Pool
	served []string
	mu     sync.Mutex
	wg     sync.WaitGroup
}

func inCrowd(t *testing.T, f func(*crowd), list ...Account) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &crowd{t: t, pool: New(time.Now, 1)}
		c.pool.Sync(list)
		f(c)
		c.wg.Wait()
		if n := c.pool.Waiting(); n != 0 {
			t.Errorf("%d still wait", n)
		}
	})
}

func onePlace() Account {
	a := accounts("a")[0]
	a.MaxInFlight = 1
	return a
}

// hold takes the place.
func (c *crowd) hold() *Ticket {
	c.t.Helper()
	t, refusal := c.pool.Acquire(message(sonnet), inOrder{}, nil)
	if t == nil {
		c.t.Fatalf("no place to hold: %+v", refusal)
	}
	return t
}

// join lets a client wait and, once served, do something with the ticket. It
// returns when the client waits.
func (c *crowd) join(ctx context.Context, client, name string, patience time.Duration, served func(*Ticket)) {
	req := message(sonnet)
	req.Client = client
	c.wg.Go(func() {
		t := c.pool.Wait(ctx, req, inOrder{}, nil, time.Now().Add(patience))
		c.mu.Lock()
		if t == nil {
			name = "!" + name
		}
		c.served = append(c.served, name)
		c.mu.Unlock()
		if t != nil && served != nil {
			served(t)
		}
	})
	synctest.Wait()
}

func (c *crowd) order() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.served, " ")
}

func release(t *Ticket) { t.Release() }

func TestTheQueueIsFairToClientsAndInOrderWithinEach(t *testing.T) {
	inCrowd(t, func(c *crowd) {
		first := c.hold()
		for i := range 4 {
			c.join(c.t.Context(), "busy", fmt.Sprint("busy", i), time.Minute, release)
		}
		c.join(c.t.Context(), "calm", "calm0", time.Minute, release)
		c.join(c.t.Context(), "calm", "calm1", time.Minute, release)
		c.join(c.t.Context(), "late", "late0", time.Minute, release)
		if n := c.pool.Waiting(); n != 7 {
			t.Errorf("%d wait", n)
		}
		first.Release()
		c.wg.Wait()
		if got := c.order(); got != "busy0 calm0 late0 busy1 calm1 busy2 busy3" {
			t.Errorf("served %s", got)
		}
	}, onePlace())
}

func TestNobodyOvertakesTheQueue(t *testing.T) {
	inCrowd(t, func(c *crowd) {
		c.pool.ClearLimits("a")
		held := c.hold()
		held.Report(Report{RequestID: "1", Verdict: burstOf("sonnet", time.Now().Add(10*time.Second))})
		held.Release()
		kept := make(chan *Ticket, 1)
		c.join(c.t.Context(), "", "first", time.Minute, func(t *Ticket) { kept <- t })
		time.Sleep(10 * time.Second) // to the nanosecond when the bench ends
		if ticket, refusal := c.pool.Acquire(message(sonnet), inOrder{}, nil); ticket != nil || refusal.Busy != 1 {
			t.Error("who came later was served first")
		}
		(<-kept).Release()
	}, onePlace())
}

func TestWhoLeavesTheQueueHoldsNothing(t *testing.T) {
	inCrowd(t, func(c *crowd) {
		held := c.hold()
		ctx, cancel := context.WithCancel(c.t.Context())
		c.join(ctx, "", "leaver", time.Minute, nil)
		c.join(c.t.Context(), "", "next", time.Minute, release)
		cancel()
		synctest.Wait()
		if n := c.pool.Waiting(); n != 1 {
			t.Errorf("%d wait after one has left", n)
		}
		held.Release()
		c.wg.Wait()
		if got := c.order(); got != "!leaver next" {
			t.Errorf("served %s", got)
		}
	}, onePlace())
}

func TestAPlaceThatIsHandedOverTooLateIsGivenBack(t *testing.T) {
	inCrowd(t, func(c *crowd) {
		held := c.hold()
		w := &waiter{request: message(sonnet), policy: inOrder{}, deadline: time.Now().Add(time.Minute), result: make(chan *Ticket, 1)}
		c.pool.mu.Lock()
		c.pool.waiting.push(w)
		c.pool.mu.Unlock()
		held.Release() // the place is the waiter's now, who is about to leave
		if n := c.pool.Snapshot()[0].InFlight; n != 1 || !w.done {
			t.Fatalf("%d in flight", n)
		}
		c.pool.leave(w)
		c.hold().Release()
	}, onePlace())
}

func TestTheQueueEndsWithTheDeadline(t *testing.T) {
	inCrowd(t, func(c *crowd) {
		held := c.hold()
		start := time.Now()
		c.join(c.t.Context(), "", "patient", 20*time.Second, nil)
		c.wg.Wait()
		if waited := time.Since(start); waited != 20*time.Second || c.order() != "!patient" {
			t.Errorf("%s after %s", c.order(), waited)
		}
		held.Release()
		if n := c.pool.Snapshot()[0].InFlight; n != 0 {
			t.Errorf("%d in flight", n)
		}
	}, onePlace())
}

func TestTheQueueEndsWhenABenchEnds(t *testing.T) {
	inCrowd(t, func(c *crowd) {
		c.pool.now = time.Now
		held := c.hold()
		held.Report(Report{RequestID: "1", Verdict: burstOf("sonnet", time.Now().Add(7*time.Second))})
		held.Release()
		start := time.Now()
		c.join(c.t.Context(), "", "one", time.Minute, release)
		c.wg.Wait()
		if waited := time.Since(start); waited != 7*time.Second {
			t.Errorf("waited %s", waited)
		}
	}, onePlace())
}

func TestASessionThatWaitsForItsAccountHoldsNobodyUp(t *testing.T) {
	inCrowd(t, func(c *crowd) {
		req := turnOf("s")
		ticket, _ := c.pool.Acquire(req, inOrder{}, nil)
		ticket.Report(Report{RequestID: "1", Verdict: ok})
		time.Sleep(time.Second)
		ticket.Report(Report{RequestID: "2", Sent: time.Now(), Verdict: burstOf("sonnet", time.Now().Add(5*time.Second))})
		ticket.Release()
		b, _ := c.pool.Acquire(message(sonnet), inOrder{}, nil)

		start := time.Now()
		c.wg.Go(func() {
			req := turnOf("s")
			req.WaitUntil = start.Add(10 * time.Second)
			kept := c.pool.Wait(c.t.Context(), req, inOrder{}, nil, start.Add(time.Minute))
			if kept == nil || !kept.Kept || kept.Name != "a" || time.Since(start) != 5*time.Second {
				t.Errorf("%+v after %s", kept, time.Since(start))
			}
			kept.Release()
		})
		synctest.Wait()
		c.join(c.t.Context(), "", "other", time.Minute, release)
		b.Release()
		synctest.Wait()
		if got := c.order(); got != "other" || time.Since(start) != 0 {
			t.Errorf("served %q after %s", got, time.Since(start))
		}
	}, onePlace(), func() Account { b := onePlace(); b.ID, b.Name = "b", "b"; return b }())
}

func TestTheQueueEndsWhenTheOperatorAddsAnAccount(t *testing.T) {
	inCrowd(t, func(c *crowd) {
		held := c.hold()
		start := time.Now()
		c.join(c.t.Context(), "", "one", time.Minute, release)
		c.pool.Sync([]Account{onePlace(), accounts("b")[0]})
		c.wg.Wait()
		if time.Since(start) != 0 || c.order() != "one" {
			t.Errorf("served %s", c.order())
		}
		held.Release()
	}, onePlace())
}

func TestTheQueueEndsWhenNobodyCanBeExpectedAnyMore(t *testing.T) {
	inCrowd(t, func(c *crowd) {
		held := c.hold()
		start := time.Now()
		c.join(c.t.Context(), "", "one", time.Minute, nil)
		c.join(c.t.Context(), "", "two", time.Minute, nil)
		c.join(c.t.Context(), "", "very patient", 4*time.Hour, release)
		held.Report(Report{RequestID: "1", Verdict: spent(time.Now().Add(time.Hour))})
		held.Release()
		synctest.Wait()
		if got := c.order(); time.Since(start) != 0 || got != "!one !two" && got != "!two !one" {
			t.Errorf("served %s after %s", got, time.Since(start))
		}
		c.wg.Wait()
		if got := c.order(); !strings.HasSuffix(got, " very patient") {
			t.Errorf("served %s", got)
		}
	}, onePlace())
}

func TestWaitingThatIsWorthNothingIsOverAtOnce(t *testing.T) {
	inCrowd(t, func(c *crowd) {
		start := time.Now()
		c.join(c.t.Context(), "", "one", time.Minute, nil)
		c.wg.Wait()
		if time.Since(start) != 0 {
			t.Errorf("waited %s for an empty pool", time.Since(start))
		}
	})
}

func TestAWaiterIsServedBehindOneThatCannotBe(t *testing.T) {
	inCrowd(t, func(c *crowd) {
		held := c.hold()
		stuck := message(opus) // not allowed for the account, but busy b may
		c.wg.Go(func() {
			if ticket := c.pool.Wait(c.t.Context(), stuck, inOrder{}, nil, time.Now().Add(time.Minute)); ticket != nil {
				ticket.Release()
			}
		})
		synctest.Wait()
		c.join(c.t.Context(), "", "sonnet", time.Minute, release)
		held.Release()
		synctest.Wait()
		if got := c.order(); got != "sonnet" {
			t.Errorf("served %q", got)
		}
	}, func() []Account {
		a, b := onePlace(), onePlace()
		b.ID, b.Name, b.Plan, a.Plan = "b", "b", "max", "console"
		return []Account{a, b}
	}()...)
}

func TestTheWaitOfManyCostsOneLookForEachKind(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := New(time.Now, 1)
		p.Sync([]Account{onePlace()})
		held, _ := p.Acquire(message(sonnet), inOrder{}, nil)
		var looks int
		var wg sync.WaitGroup
		for range 200 {
			req := message(sonnet)
			req.Allowed = func(string) bool { looks++; return true } // called under the pool's lock
			wg.Go(func() {
				if ticket := p.Wait(t.Context(), req, inOrder{}, nil, time.Now().Add(time.Minute)); ticket != nil {
					ticket.Release()
				}
			})
		}
		synctest.Wait()
		looks = 0
		p.SetState("nobody", "", "")
		p.mu.Lock()
		p.serveWaiting()
		p.mu.Unlock()
		if looks > 5 {
			t.Errorf("%d looks for 200 requests of one kind", looks)
		}
		held.Release()
		wg.Wait()
	})
}

func TestManyAtOnceGetTheirPlacesAndGiveThemBack(t *testing.T) {
	t.Parallel()
	p := New(time.Now, 1)
	list := accounts("a", "b", "c")
	for i := range list {
		list[i].MaxInFlight = 4
	}
	p.Sync(list)
	stop := make(chan struct{})
	var background sync.WaitGroup
	background.Go(func() { // everything that happens beside the requests
		for {
			select {
			case <-stop:
				return
			default:
			}
			p.Snapshot()
			p.TakeDirty(0)
			p.TakeNotices()
			p.TakeChangedSessions()
			p.Explain(message(sonnet), inOrder{})
			p.Sync(list)
			p.ClearLimits("b")
		}
	})
	var wg sync.WaitGroup
	for g := range 50 {
		wg.Go(func() {
			for i := range 40 {
				req := turnOf(fmt.Sprint(g % 7))
				req.Client = fmt.Sprint(g % 3)
				ticket := p.Wait(t.Context(), req, inOrder{}, nil, time.Now().Add(time.Minute))
				if ticket == nil {
					t.Error("no place within a minute")
					return
				}
				v := ok
				switch i % 10 {
				case 3:
					v = fault
				case 7:
					v = burstOf("sonnet", time.Now().Add(time.Millisecond))
				}
				ticket.Report(Report{RequestID: fmt.Sprint(g, i), Verdict: v})
				ticket.Release()
			}
		})
	}
	wg.Wait()
	close(stop)
	background.Wait()
	for _, l := range p.Snapshot() {
		if l.InFlight != 0 {
			t.Errorf("%s keeps %d places", l.Name, l.InFlight)
		}
	}
	if n := p.Waiting(); n != 0 {
		t.Errorf("%d still wait", n)
	}
}
