package oauth

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/secret"
	"github.com/claude-balancer/claude-balancer/store"
)

var errDisk = errors.New("database or disk is full")

func refuseAll(status int, body string) func(call) *answer {
	return func(call) *answer { return &answer{status: status, body: body} }
}

// Only between the provider's answer and the commit a login can be lost, and
// then the next process says so.
func TestACrashAtAnyStepLosesNoCommittedLogin(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		step string // what the process does not come to do
		want string // token of the next process; "" = needs_login
	}{
		{"lease", access(2)}, {"read", access(2)}, {"ask", access(2)}, {"save", ""}, {"release", access(2)},
	} {
		t.Run(tt.step, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := newProvider()
				v := expired(p)
				found, resume := make(chan *vault), make(chan struct{})
				defer close(resume)
				var dead atomic.Bool
				die := func(step string) {
					if step == tt.step && dead.CompareAndSwap(false, true) {
						found <- v.copy()
						<-resume
					}
				}
				v.before = die
				p.refuse = func(call) *answer { die("ask"); return nil }
				dying := newHouse("one", p, v)
				go func() { _, _ = dying.Token(context.Background(), "a") }()

				next := newHouse("two", p, <-found)
				token, err := next.Token(t.Context(), "a")
				if token.Value.Reveal() != tt.want {
					t.Errorf("the next process got %q, %v; want %q", token.Value.Reveal(), err, tt.want)
				}
				if _, dead := errors.AsType[*NeedsLoginError](err); dead != (tt.want == "") {
					t.Errorf("got %v", err)
				}
			})
		})
	}
}

func TestANewPairIsStoredBeforeAnybodyUsesIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newProvider()
		v := fresh(p)
		stored := make(chan struct{})
		v.before = func(what string) {
			if what == "save" {
				<-stored
			}
		}
		h := newHouse("one", p, v)
		used := mustToken(t, h.Source, "a", access(1))
		go func() { _, _ = h.Refresh(t.Context(), "a", used) }()
		synctest.Wait()
		mustToken(t, h.Source, "a", access(1))
		close(stored)
		synctest.Wait()
		mustToken(t, h.Source, "a", access(2))
	})
}

func TestAPairThatCannotBeStoredIsServedAndStoredLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newProvider()
		v := expired(p)
		h := newHouse("one", p, v)
		ctx, cancel := context.WithCancel(t.Context())
		go h.Run(ctx)
		defer func() { cancel(); synctest.Wait() }()

		v.failing("save", errDisk)
		mustToken(t, h.Source, "a", access(2))
		if h.told(EventSaveFailed) != 1 || h.told(EventRefreshed) != 1 || !strings.Contains(h.log.String(), "lost if the process ends") {
			t.Errorf("events %v, log %s", h.events, h.log)
		}
		h.Sync(v.entries()) // still the spent token
		mustToken(t, h.Source, "a", access(2))

		// It can even be refreshed again before the store takes it.
		time.Sleep(time.Minute)
		if _, err := h.Refresh(t.Context(), "a", mustToken(t, h.Source, "a", access(2))); err != nil {
			t.Fatal(err)
		}
		mustToken(t, h.Source, "a", access(3))

		// No other process may send the spent token meanwhile.
		other := newHouse("two", p, v)
		short, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		if _, err := other.Token(short, "a"); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}

		v.failing("save", nil)
		time.Sleep(leaseTime)
		if got := v.row("a"); got.cred.Refresh.Reveal() != refresh(3) || got.owner != "" {
			t.Errorf("stored %+v", got)
		}
		if p.spent != 0 {
			t.Errorf("a spent token was sent %d times", p.spent)
		}
		mustToken(t, other.Source, "a", access(3))
	})
}

func TestClosingStoresWhatCouldNotBeStoredOrSaysWhatIsLost(t *testing.T) {
	t.Parallel()
	p := newProvider()
	v := expired(p)
	h := newHouse("one", p, v)
	v.failing("save", errDisk)
	mustToken(t, h.Source, "a", access(2))
	if err := h.Close(t.Context()); !errors.Is(err, errDisk) || !strings.Contains(err.Error(), "name of a") {
		t.Errorf("got %v", err)
	}
	v.failing("save", nil)
	if err := h.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if v.row("a").cred.Refresh.Reveal() != refresh(2) {
		t.Error("the pair is lost")
	}
}

func TestAStoreWithoutWritesPutsOffOnlyWhatCanWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newProvider()
		v := fresh(p)
		h := newHouse("one", p, v)
		ctx, cancel := context.WithCancel(t.Context())
		go h.Run(ctx)
		defer func() { cancel(); synctest.Wait() }()
		v.failing("lease", errDisk)
		v.failing("save", errDisk)
		time.Sleep(8*time.Hour - time.Minute)
		if p.count() != 0 {
			t.Fatal("a pair was spent that need not have been")
		}
		if n := strings.Count(h.log.String(), "put off"); n == 0 || n > 30 {
			t.Errorf("put off %d times in at most 9 minutes", n)
		}
		time.Sleep(2 * time.Minute)
		mustToken(t, h.Source, "a", access(2)) // the old one has expired
	})
}

func TestAnUnreadableStoreIsNoReasonToSpendAToken(t *testing.T) {
	t.Parallel()
	p := newProvider()
	v := expired(p)
	v.failing("read", errDisk)
	h := newHouse("one", p, v)
	if _, err := h.Token(t.Context(), "a"); !errors.Is(err, errDisk) {
		t.Errorf("got %v", err)
	}
	if p.count() != 0 {
		t.Error("a refresh token was sent that somebody else may have spent")
	}
}

func TestACommitThatSeemedToFailIsRecognized(t *testing.T) {
	t.Parallel()
	p := newProvider()
	v := expired(p)
	h := newHouse("one", p, v)
	v.before = func(what string) {
		if what == "save" { // it lands, and then the connection breaks
			v.change("a", func(r *row) {
				r.cred.Access, r.cred.Refresh, r.cred.Generation = secret.New(access(2)), secret.New(refresh(2)), 2
				r.cred.ExpiresAt = time.Now().Add(8 * time.Hour)
			})
		}
	}
	token := mustToken(t, h.Source, "a", access(2))
	if token.Generation != 2 || h.told(EventSaveFailed) != 0 {
		t.Errorf("got %+v, %v", token, h.events)
	}
}

// meanwhile changes the row while the provider answers.
func meanwhile(p *provider, v *vault, change func(*row)) {
	p.answered = func(call) { v.change("a", change) }
}

func TestALoginDuringARefreshWins(t *testing.T) {
	t.Parallel()
	p := newProvider()
	v := expired(p)
	login := p.login(time.Now())
	login.Generation = 2
	meanwhile(p, v, func(r *row) { r.cred = login })
	h := newHouse("one", p, v)
	mustToken(t, h.Source, "a", access(2))
	if v.row("a").cred.Refresh.Reveal() != refresh(2) {
		t.Error("the login was overwritten")
	}
}

func TestAChangedRowWithTheSpentTokenDoesNotWin(t *testing.T) {
	t.Parallel()
	p := newProvider()
	v := expired(p)
	meanwhile(p, v, func(r *row) { r.cred.Generation = 7 })
	h := newHouse("one", p, v)
	if token := mustToken(t, h.Source, "a", access(2)); token.Generation != 8 || v.row("a").cred.Refresh.Reveal() != refresh(2) {
		t.Errorf("got %+v, stored %+v", token, v.row("a"))
	}
}

func TestAnUnsavedPairSurvivesAChangedRowWithTheSpentToken(t *testing.T) {
	t.Parallel()
	p := newProvider()
	v := expired(p)
	h := newHouse("one", p, v)
	v.failing("save", errDisk)
	mustToken(t, h.Source, "a", access(2))
	v.change("a", func(r *row) { r.cred.Generation = 7 })
	h.Sync(v.entries())
	mustToken(t, h.Source, "a", access(2))
	v.failing("save", nil)
	if err := h.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := v.row("a").cred; got.Generation != 8 || got.Refresh.Reveal() != refresh(2) {
		t.Errorf("stored %+v", got)
	}
}

func TestALoginWinsOverAnUnsavedPair(t *testing.T) {
	t.Parallel()
	for name, during := range map[string]string{"before the pair is kept": "save", "after": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProvider()
			v := expired(p)
			h := newHouse("one", p, v)
			relogin := p.login(time.Now())
			relogin.Generation = 2
			logIn := func(what string) {
				if what == during {
					v.change("a", func(r *row) { r.cred = relogin })
					h.Sync(v.entries())
				}
			}
			v.before = logIn
			v.failing("save", errDisk)
			if _, err := h.Token(t.Context(), "a"); err != nil {
				t.Fatal(err)
			}
			logIn("")
			mustToken(t, h.Source, "a", access(2))
			v.failing("save", nil)
			if err := h.Close(t.Context()); err != nil || v.row("a").cred.Refresh.Reveal() != refresh(2) {
				t.Errorf("stored %+v, %v", v.row("a"), err)
			}
		})
	}
}

func TestALeaseThatAnotherProcessHoldsIsWaitedForWhenTheStoreFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newProvider()
		v := expired(p)
		v.change("a", func(r *row) { r.owner, r.leaseUntil = "two", time.Now().Add(leaseTime) })
		h := newHouse("one", p, v)
		go func() {
			time.Sleep(time.Second)
			v.failing("lease", errDisk)
		}()
		if _, err := h.Token(t.Context(), "a"); err == nil || p.count() != 0 {
			t.Errorf("got %v after %d calls", err, p.count())
		}
	})
}

func TestClosingEndsTheWaitForALease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newProvider()
		v := expired(p)
		v.change("a", func(r *row) { r.owner, r.leaseUntil = "two", time.Now().Add(leaseTime) })
		h := newHouse("one", p, v)
		result := make(chan error, 1)
		go func() {
			_, err := h.Token(t.Context(), "a")
			result <- err
		}()
		synctest.Wait()
		start := time.Now()
		if err := h.Close(t.Context()); err != nil || time.Since(start) > time.Second {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
		if err := <-result; !errors.Is(err, ErrClosed) || p.count() != 0 {
			t.Errorf("got %v after %d calls", err, p.count())
		}
	})
}

func TestAnAccountThatIsRemovedDuringItsRefreshIsGone(t *testing.T) {
	t.Parallel()
	p := newProvider()
	v := expired(p)
	p.answered = func(call) {
		v.mu.Lock()
		defer v.mu.Unlock()
		delete(v.rows, "a")
	}
	h := newHouse("one", p, v)
	for range 2 {
		if _, err := h.Token(t.Context(), "a"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("got %v", err)
		}
	}
}

func TestADeadRefreshTokenNeedsALogin(t *testing.T) {
	t.Parallel()
	for _, code := range []string{"invalid_grant", "invalid_refresh_token", "refresh_token_reused"} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			p := newProvider()
			p.refuse = refuseAll(400, `{"error":"`+code+`","error_description":"Refresh token expired"}`)
			h := newHouse("one", p, expired(p))
			for range 3 {
				_, err := h.Token(t.Context(), "a")
				if dead, ok := errors.AsType[*NeedsLoginError](err); !ok || dead.Reason != code+": Refresh token expired" {
					t.Fatalf("got %v", err)
				}
			}
			if got := h.v.row("a"); got.state != api.StatusNeedsLogin || got.reason != code+": Refresh token expired" {
				t.Errorf("stored %+v", got)
			}
			if p.count() != 1 || h.told(EventNeedsLogin) != 1 || h.told(EventRefreshFailed) != 0 {
				t.Errorf("%d calls, events %v", p.count(), h.events)
			}
			p.set(func() { p.refuse = nil })
			if _, err := h.RefreshByHand(t.Context(), "a"); err != nil {
				t.Fatal(err)
			}
			if mustToken(t, h.Source, "a", access(2)); h.v.row("a").state != "" {
				t.Error("the state stays after a refresh by hand")
			}
		})
	}
}

func TestATokenThatSomebodyElseRotatedIsNotDead(t *testing.T) {
	t.Parallel()
	p := newProvider()
	v := expired(p)
	other := p.login(time.Now()) // what another process has got and stores while we ask
	other.Generation = 2
	p.refuse = func(c call) *answer {
		v.change("a", func(r *row) { r.cred = other })
		return &answer{status: 400, body: `{"error":"invalid_grant"}`}
	}
	h := newHouse("one", p, v)
	mustToken(t, h.Source, "a", access(2))
	if v.row("a").state != "" || h.told(EventNeedsLogin) != 0 || p.count() != 1 {
		t.Errorf("stored %+v, events %v, %d calls", v.row("a"), h.events, p.count())
	}
}

func TestAnUnstoredNeedsLoginStaysAndIsStoredLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newProvider()
		p.refuse = refuseAll(400, `{"error":"invalid_grant"}`)
		v := expired(p)
		v.failing("state", errDisk)
		h := newHouse("one", p, v)
		ctx, cancel := context.WithCancel(t.Context())
		go h.Run(ctx)
		defer func() { cancel(); synctest.Wait() }()
		for range 2 {
			if _, err := h.Token(t.Context(), "a"); !strings.Contains(err.Error(), "a new login is needed") {
				t.Fatalf("got %v", err)
			}
			h.Sync(v.entries())
		}
		v.failing("state", nil)
		time.Sleep(time.Minute)
		if v.row("a").state != api.StatusNeedsLogin || p.count() != 1 {
			t.Errorf("stored %+v after %d calls", v.row("a"), p.count())
		}
	})
}

func TestAnAccountOnHoldIsDisabled(t *testing.T) {
	t.Parallel()
	p := newProvider()
	p.refuse = refuseAll(400, `{"error":"invalid_grant","error_description":"The account is on hold","error_uri":"https://example.com/account_on_hold"}`)
	h := newHouse("one", p, expired(p))
	_, err := h.Token(t.Context(), "a")
	if held, ok := errors.AsType[*Error](err); !ok || !held.OnHold() || held.Dead() {
		t.Errorf("got %v", err)
	}
	if h.v.row("a").state != api.StatusDisabled || h.told(EventDisabled) != 1 || h.told(EventNeedsLogin) != 0 {
		t.Errorf("stored %+v, events %v", h.v.row("a"), h.events)
	}
	h.lookAround()
	if p.count() != 1 {
		t.Error("the background goes on asking")
	}
}

func TestWhatMayPassBacksOffAndKeepsTheOldToken(t *testing.T) {
	t.Parallel()
	for name, refuse := range map[string]func(call) *answer{
		"rate limit":  refuseAll(429, `{"error":{"type":"rate_limit_error","message":"slow down"}}`),
		"unavailable": refuseAll(503, `<html>`),
		"overloaded":  refuseAll(529, `{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}`),
		"redirect":    refuseAll(302, ``),
		"no token":    refuseAll(200, `{}`),
		"no JSON":     refuseAll(200, `ok`),
		"too long":    refuseAll(200, `{"access_token":"`+strings.Repeat("x", 1<<20)+`"}`),
		"other code":  refuseAll(400, `{"error":"invalid_client"}`),
		"status 401":  refuseAll(401, `{"error":"unauthorized_client"}`),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := newProvider()
				p.refuse = refuse
				h := newHouse("one", p, fresh(p))
				used := mustToken(t, h.Source, "a", access(1))
				_, err := h.Refresh(t.Context(), "a", used)
				if _, ok := errors.AsType[*Error](err); !ok {
					t.Fatalf("got %v", err)
				}
				_, again := h.Refresh(t.Context(), "a", used)
				if waits, ok := errors.AsType[*BackoffError](again); !ok || !waits.Until.After(time.Now()) || p.count() != 1 {
					t.Errorf("within the back-off: %v after %d calls", again, p.count())
				}
				if _, err := h.RefreshByHand(t.Context(), "a"); err == nil || p.count() != 2 {
					t.Errorf("by hand: %v after %d calls", err, p.count())
				}
				mustToken(t, h.Source, "a", access(1))
				if h.v.row("a").state != "" || h.told(EventRefreshFailed) != 2 {
					t.Errorf("stored %+v, events %v", h.v.row("a"), h.events)
				}
				p.set(func() { p.refuse = nil })
				time.Sleep(maxWait)
				if _, err := h.Refresh(t.Context(), "a", used); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

const maxWait = 5 * time.Minute

func TestBackOffDoublesFromOneSecondToFiveMinutes(t *testing.T) {
	t.Parallel()
	now := time.Now()
	a := newAccount("a")
	want := time.Second
	for range 40 {
		a.refreshFailed(now, errDisk, 0)
		if got := a.retry.until.Sub(now); got < want || got > want+want/4 || got > maxWait {
			t.Fatalf("failure %d: waits %v", a.retry.failures, got)
		}
		want = min(2*want, maxWait)
	}
	a = newAccount("a")
	a.refreshFailed(now, errDisk, time.Minute)
	if got := a.retry.until.Sub(now); got < time.Minute || got > 75*time.Second {
		t.Errorf("Retry-After of a minute: waits %v", got)
	}
}

func TestAHungTokenEndpointIsGivenUpAfterTwentySeconds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newProvider()
		end := make(chan struct{})
		defer close(end)
		p.refuse = func(call) *answer { <-end; return nil }
		h := newHouse("one", p, expired(p))
		start := time.Now()
		_, err := h.Token(context.Background(), "a")
		if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || took != 20*time.Second {
			t.Errorf("got %v after %v", err, took)
		}
	})
}

func TestAnExpiringTokenIsServedWhenItsRefreshFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newProvider()
		p.refuse = refuseAll(503, "")
		h := newHouse("one", p, fresh(p))
		time.Sleep(8*time.Hour - 10*time.Second)
		for range 2 { // the second within the back-off
			mustToken(t, h.Source, "a", access(1))
		}
		time.Sleep(10 * time.Second)
		if _, err := h.Token(t.Context(), "a"); err == nil {
			t.Error("an expired token was served")
		}
	})
}

func TestNoTokenIsEverLoggedOrTold(t *testing.T) {
	t.Parallel()
	p := newProvider()
	v := expired(p)
	h := newHouse("one", p, v, func(o *SourceOptions) {
		client := *p.client()
		client.Logger = o.Logger
		o.Client = func() *Client { return &client }
	})
	echo := func(status int, code string) func(call) *answer {
		return func(c call) *answer {
			return &answer{status: status, body: `{"error":"` + code + `","error_description":"bad ` + c.body["refresh_token"] + `"}`}
		}
	}
	var told []string
	try := func(f func() (Token, error)) {
		if _, err := f(); err != nil {
			told = append(told, err.Error())
		}
	}
	byHand := func() (Token, error) { return h.RefreshByHand(t.Context(), "a") }
	for _, refuse := range []func(call) *answer{echo(503, "x"), echo(400, "invalid_client"), refuseAll(200, `{"refresh_token":"`+refresh(9)+`"`), nil, echo(400, "invalid_grant")} {
		p.set(func() { p.refuse = refuse })
		v.failing("save", errDisk)
		try(byHand)
		v.failing("save", nil)
		try(byHand)
	}
	h.jobs.Wait()
	for _, e := range h.events {
		told = append(told, e.Reason)
	}
	told = append(told, h.log.String(), v.row("a").reason)
	for _, text := range told {
		if strings.Contains(text, "sk-ant") || strings.Contains(text, "refresh-") || strings.Contains(text, "access-") {
			t.Errorf("a token is shown: %s", text)
		}
	}
	if len(told) < 10 || !strings.Contains(strings.Join(told, " "), secret.Redacted) {
		t.Errorf("little was told: %q", told)
	}
}
