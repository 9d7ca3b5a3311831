package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/claude-balancer/claude-balancer/simulator"
)

// maxAccounts is how many accounts the simulated provider knows. A balancer
// gets the first few.
const maxAccounts = 1000

// Upstream's ways to answer, each on a port of its own; all know the same
// accounts.
const (
	atOnce  = "at once"        // whole answers, and streams in one write
	overTLS = "at once, HTTPS" // the same with HTTP/2 and HTTP/1.1 over TLS
	paced   = "paced"          // an event every few milliseconds
	slow    = "slow"           // streams that hardly move
)

// Paces of the streams.
const (
	pacedEvent = 4 * time.Millisecond
	slowEvent  = 5 * time.Second
)

// announcement is what the upstream's process says when it listens.
type announcement struct {
	URLs     map[string]string
	CA       []byte            // in PEM
	Accounts []json.RawMessage // as the admin API takes them
	Key      string            // an API key, for a proxy that has no credential of its own
}

// runUpstream is the simulator's process. It ends with its standard input.
func runUpstream() {
	a := announcement{URLs: make(map[string]string)}
	for way, o := range map[string]simulator.Options{
		atOnce:  {},
		overTLS: {},
		paced:   {Pace: pacedEvent, Output: 400},
		slow:    {Pace: slowEvent, Output: 400},
	} {
		o.Fast = true
		s := simulator.New(o)
		a.Accounts = addAccounts(s) // the same each time: names and seed decide
		if way == overTLS {
			server := s.StartTLS()
			a.URLs[way], a.CA = server.URL, server.CAPEM
		} else {
			a.URLs[way] = s.Start().URL
		}
		a.Key = s.AddAccount(simulator.Account{Name: "client", Plan: simulator.PlanAPI}).APIKey.Reveal()
	}
	if err := json.NewEncoder(os.Stdout).Encode(a); err != nil {
		fatal(err)
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func accountName(i int) string { return fmt.Sprintf("account-%d", i+1) }

func addAccounts(s *simulator.Simulator) (bodies []json.RawMessage) {
	for i := range maxAccounts {
		name := accountName(i)
		c := s.AddAccount(simulator.Account{Name: name, Plan: simulator.PlanMax})
		body, err := json.Marshal(map[string]any{
			"name": name, "plan_type": simulator.PlanMax, "access_token": c.Access.Reveal(),
			"refresh_token": c.Refresh.Reveal(), "expires_at": c.ExpiresAt.UnixMilli(),
		})
		if err != nil {
			fatal(err) // strings and a number
		}
		bodies = append(bodies, body)
	}
	return bodies
}

// upstream is the running simulator.
type upstream struct {
	announcement
	caFile string
	stop   func()
}

func startUpstream(dir string) (*upstream, error) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), role+"="+roleUpstream)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the simulator: %w", err)
	}
	u := &upstream{caFile: filepath.Join(dir, "ca.pem"), stop: func() { _ = in.Close(); _ = cmd.Wait() }}
	if err := json.NewDecoder(out).Decode(&u.announcement); err != nil {
		u.stop()
		return nil, fmt.Errorf("start the simulator: %w", err)
	}
	if err := os.WriteFile(u.caFile, u.CA, 0o600); err != nil {
		u.stop()
		return nil, err
	}
	return u, nil
}
