package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/claude-balancer/claude-balancer"
	"github.com/claude-balancer/claude-balancer/simulator"
)

// stage is what the demo plays on: the provider and Caddy.
type stage struct {
	sim      *simulator.Simulator
	upstream *simulator.Server
	url      string
}

// accounts of the demo: the windows are small, so that they fill while one
// watches.
var accounts = []simulator.Account{
	{Name: "work", Plan: simulator.PlanConsole, Windows: []simulator.Window{
		{Name: "5h", Limit: 25, Length: time.Minute}, {Name: "7d", Limit: 400, Length: time.Hour}}},
	{Name: "home", Plan: simulator.PlanConsole, Windows: []simulator.Window{
		{Name: "5h", Limit: 40, Length: time.Minute}, {Name: "7d", Limit: 400, Length: time.Hour}}},
	{Name: "team-max", Plan: simulator.PlanMax, Windows: []simulator.Window{
		{Name: "5h", Limit: 120, Length: time.Minute}, {Name: "7d", Limit: 2000, Length: time.Hour}}},
}

func startStage(dir, addr string) (*stage, error) {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("%w (choose another address with -addr localhost:0)", err)
	}
	site := listener.Addr().(*net.TCPAddr)
	if err := listener.Close(); err != nil { // Caddy opens it again
		return nil, err
	}

	s := &stage{sim: simulator.New(simulator.Options{Pace: 20 * time.Millisecond, Output: 60})}
	s.upstream = s.sim.Start()
	s.url = fmt.Sprintf("http://localhost:%d", site.Port)
	socket := filepath.Join(dir, "admin.sock")
	config := fmt.Sprintf(`{
	admin unix/%s
	persist_config off
	log {
		level ERROR
	}
	grace_period 2s
	claude_balancer {
		store sqlite %q
		oauth {
			token_url %[3]s/v1/oauth/token
			profile_url %[3]s/api/oauth/profile
		}
	}
}
%[4]s {
	claude_balancer {
		upstream %[3]s
		retry_delay 200ms
	}
}`, socket, filepath.Join(dir, "accounts.db"), s.upstream.URL, s.url)
	raw, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), nil)
	if err != nil {
		return nil, err
	}
	if err := caddy.Load(raw, true); err != nil {
		return nil, err
	}
	admin := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	for _, a := range accounts {
		if err := addAccount(admin, a, s.sim.AddAccount(a)); err != nil {
			s.stop()
			return nil, err
		}
	}
	return s, nil
}

// addAccount adds the account as an operator would: over the admin endpoint.
func addAccount(admin *http.Client, a simulator.Account, c simulator.Credentials) error {
	body, err := json.Marshal(map[string]any{
		"name": a.Name, "plan_type": a.Plan, "expires_at": c.ExpiresAt.UnixMilli(),
		"access_token": c.Access.Reveal(), "refresh_token": c.Refresh.Reveal(),
	})
	if err != nil {
		return err
	}
	res, err := admin.Post("http://localhost/claude_balancer/accounts", "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusCreated {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 1<<10))
		return fmt.Errorf("adding account %s: %s: %s", a.Name, res.Status, text)
	}
	return nil
}

// play makes the provider misbehave now and then, so that failover can be seen.
func (s *stage) play(i int) {
	switch i % 12 {
	case 3:
		s.sim.Script("work", simulator.Step{Do: simulator.Overloaded529})
	case 6:
		s.sim.Script("", simulator.Step{Do: simulator.ServerError(500)})
	case 9:
		s.sim.Script("work", simulator.Step{Do: simulator.Unauthorized})
	case 11:
		s.sim.Script("home", simulator.Step{Do: simulator.Burst(8 * time.Second)})
	}
}

func (s *stage) stop() {
	_ = caddy.Stop() // the process ends anyway
	s.upstream.Close()
}
