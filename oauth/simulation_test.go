package oauth

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// step is something that happens to the two processes of the simulation.
type step struct {
	What    string
	Process int
	Wait    time.Duration
}

var happenings = []string{"token", "token", "refused", "by hand", "leave", "sync", "saves fail", "states fail", "endpoint fails", "endpoint is slow", "all is well", "touch", "login"}

func steps() *rapid.Generator[[]step] {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
		return step{
			What:    rapid.SampledFrom(happenings).Draw(t, "what"),
			Process: rapid.IntRange(0, 1).Draw(t, "process"),
			Wait: rapid.SampledFrom([]time.Duration{0, 0, time.Second, 40 * time.Second, 3 * time.Minute, 21 * time.Minute}).
				Draw(t, "wait"),
		}
	}), 1, 25)
}

// Whatever fails in which order: as long as leases can be stored and no process
// dies, no spent token is ever sent, no login is lost, and both processes serve
// when the trouble is over.
func TestNoOrderOfFailuresLosesALogin(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		all := steps().Draw(rt, "steps")
		var problem string
		synctest.Test(t, func(t *testing.T) { problem = simulate(t, all) })
		if problem != "" {
			rt.Fatal(problem)
		}
	})
}

func simulate(t *testing.T, all []step) (problem string) {
	p := newProvider()
	p.lifetime = 20 * time.Minute
	v := fresh(p)
	houses := []*house{newHouse("one", p, v), newHouse("two", p, v)}
	ctx, cancel := context.WithCancel(t.Context())
	defer func() { cancel(); synctest.Wait() }()
	for _, h := range houses {
		go h.Run(ctx)
	}
	for _, s := range all {
		happen(ctx, s, p, v, houses)
		time.Sleep(s.Wait)
		synctest.Wait()
	}

	happen(ctx, step{What: "all is well"}, p, v, houses)
	time.Sleep(20 * time.Minute) // longer than every back-off
	for i, h := range houses {
		h.Sync(v.entries())
		token, err := h.Token(ctx, "a")
		if err != nil || token.Value.IsZero() {
			problem = fmt.Sprintf("process %d does not serve: %v", i, err)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if stored := v.row("a"); !p.live[stored.cred.Refresh.Reveal()] || stored.state != "" {
		problem = fmt.Sprintf("the store has a spent token or state %q", stored.state)
	}
	if p.spent != 0 {
		problem = fmt.Sprintf("%d spent tokens were sent", p.spent)
	}
	return problem
}

func happen(ctx context.Context, s step, p *provider, v *vault, houses []*house) {
	h := houses[s.Process]
	switch s.What {
	case "token":
		go func() { _, _ = h.Token(ctx, "a") }()
	case "refused":
		go func() {
			if token, err := h.Token(ctx, "a"); err == nil {
				_, _ = h.Refresh(ctx, "a", token)
			}
		}()
	case "by hand":
		go func() { _, _ = h.RefreshByHand(ctx, "a") }()
	case "leave":
		gone, cancel := context.WithCancel(ctx)
		go func() { _, _ = h.RefreshByHand(gone, "a") }()
		synctest.Wait()
		cancel()
	case "sync":
		h.Sync(v.entries())
	case "saves fail":
		v.failing("save", errDisk)
	case "states fail":
		v.failing("state", errDisk)
	case "endpoint fails":
		p.set(func() { p.refuse = refuseAll(503, "") })
	case "endpoint is slow":
		p.set(func() { p.refuse = func(call) *answer { time.Sleep(15 * time.Second); return nil } })
	case "all is well":
		v.failing("save", nil)
		v.failing("state", nil)
		p.set(func() { p.refuse = nil })
	case "touch", "login": // somebody stores the credential as it is, or logs in anew
		c, err := v.Credential(ctx, "a")
		generation := c.Generation
		if s.What == "login" {
			c = p.login(time.Now())
		}
		if err == nil {
			_, _ = v.SaveCredential(ctx, "a", generation, c)
		}
	}
}
