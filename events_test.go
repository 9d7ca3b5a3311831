package claudebalancer

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	_ "github.com/caddyserver/caddy/v2/modules/caddyevents/eventsconfig" // the global option

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/simulator"
)

// subscriber is an event handler as a Caddyfile names one. It keeps what it
// heard under its name, since each configuration makes a subscriber of its own.
type subscriber struct {
	Name string `json:"name"`
}

var heard struct {
	sync.Mutex
	events map[string][]caddy.Event // by subscriber
}

func init() { caddy.RegisterModule(subscriber{}) }

func (subscriber) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.test", New: func() caddy.Module { return new(subscriber) }}
}

func (s *subscriber) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.AllArgs(&s.Name) {
		return d.ArgErr()
	}
	return nil
}

func (s *subscriber) Handle(_ context.Context, e caddy.Event) error {
	heard.Lock()
	defer heard.Unlock()
	if heard.events == nil {
		heard.events = make(map[string][]caddy.Event)
	}
	heard.events[s.Name] = append(heard.events[s.Name], e)
	return nil
}

// Interface guards
var (
	_ caddyevents.Handler   = (*subscriber)(nil)
	_ caddyfile.Unmarshaler = (*subscriber)(nil)
)

// subscribed is a rig whose Caddyfile subscribes to an event.
func subscribed(t *testing.T, event string, o rigOptions) *rig {
	t.Helper()
	o.options = append(o.options, "events {", "on "+event+" test "+t.Name(), "}")
	return newRig(t, o)
}

// hears waits for the rig's event and returns it.
func (r *rig) hears() (e caddy.Event) {
	r.t.Helper()
	r.eventually("the event", func() bool {
		heard.Lock()
		defer heard.Unlock()
		all := heard.events[r.t.Name()]
		if len(all) > 0 {
			e = all[0]
		}
		return len(all) > 0
	})
	return e
}

func TestACaddyfileSubscribesToWhatBecomesOfAccountsAndTokens(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		event string
		cause func(r *rig)
		data  []string // the members
	}{
		{"account_limited", func(r *rig) {
			r.add("work", simulator.PlanMax)
			r.sim.Script("work", simulator.Step{Do: simulator.Window5h(time.Now().Add(time.Hour))})
			r.message(sonnet)
		}, []string{"account", "reason", "until"}},
		{"account_available", func(r *rig) {
			r.add("work", simulator.PlanMax)
			r.sim.Script("work", simulator.Step{Do: simulator.Window5h(time.Now().Add(time.Hour))})
			r.message(sonnet)
			r.eventually("it is limited", func() bool { return r.account("work").Status == api.StatusLimited })
			if _, err := r.app.runtime.ClearLimits(context.Background(), "work"); err != nil {
				r.t.Error(err)
			}
		}, []string{"account", "reason"}},
		{"account_needs_login", func(r *rig) {
			r.add("work", simulator.PlanMax)
			r.sim.RevokeAccess("work")
			r.sim.KillRefresh("work")
			r.message(sonnet)
		}, []string{"account", "reason"}},
		{"token_refreshed", func(r *rig) {
			r.add("work", simulator.PlanMax)
			r.sim.RevokeAccess("work")
			r.message(sonnet).mustBe(r.t, 200)
		}, []string{"account"}},
		{"pool_exhausted", func(r *rig) {
			r.add("work", simulator.PlanMax)
			r.sim.Script("work", simulator.Step{Do: simulator.Window5h(time.Now().Add(time.Hour))})
			r.message(sonnet)
		}, []string{"family", "model"}},
	} {
		t.Run(tt.event, func(t *testing.T) {
			t.Parallel()
			r := subscribed(t, tt.event, rigOptions{directive: quick})
			tt.cause(r)
			e := r.hears()
			if e.Name() != tt.event || string(e.Origin().CaddyModule().ID) != "claude_balancer" {
				t.Errorf("heard %s of %v", e.Name(), e.Origin())
			}
			if names := slices.Sorted(maps.Keys(e.Data)); !slices.Equal(names, tt.data) {
				t.Errorf("the members are %v", names)
			}
			if account, there := e.Data["account"]; there && account != "work" {
				t.Errorf("it is about %v", account)
			}
			for name, value := range e.Data {
				if text, ok := value.(string); !ok || strings.Contains(text, "sk-ant-") {
					t.Errorf("%s is %v", name, value)
				}
			}
		})
	}
}
