package claudebalancer

import (
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/simulator"
)

// crash is a process that refreshes a login and is to die of it.
type crash struct {
	*process
	db   database
	died chan struct{}
}

// die kills the process from within the provider.
func (c *crash) die() {
	c.kill()
	close(c.died)
}

// onRefresh says what the provider does with the next refresh.
func (c *crash) onRefresh(do simulator.Behaviour) {
	c.sim.Script("work", simulator.Step{Path: simulator.OAuthTokenPath, Do: do})
}

// holdLease lets no lease be given back.
const (
	holdLease = `CREATE TRIGGER hold_lease BEFORE UPDATE OF lease_owner ON accounts
		WHEN NEW.lease_owner IS NULL BEGIN SELECT RAISE(ABORT, 'held'); END`
	freeLease = `DROP TRIGGER IF EXISTS hold_lease`
)

// A login can be lost in one gap alone, which nobody can close: the provider has
// replaced the refresh token and the new one is not on the disk yet. Then the
// account says so.
func TestAProcessKilledInARefreshLosesNoLoginThatCouldBeKept(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		die  func(c *crash) // arranges and awaits the process's death in the refresh
		lost bool           // the login
	}{
		{"before the lease", func(c *crash) {
			c.db.exec("BEGIN IMMEDIATE") // the process waits for its turn to write
			go c.asks()
			c.waitFor("upstream has refused the token", func() bool { return c.sim.Count("work") == 1 })
			c.kill()
			c.db.exec("ROLLBACK")
		}, false},
		{"after the lease, before the provider acts", func(c *crash) {
			c.onRefresh(func(*simulator.Exchange) { c.die() })
			c.asks()
			<-c.died
		}, false},
		{"after the provider has acted, before its answer", func(c *crash) {
			c.onRefresh(simulator.BeforeAnswer(c.die))
			c.asks()
			<-c.died
		}, true},
		{"after the answer, before the commit", func(c *crash) {
			c.onRefresh(simulator.BeforeAnswer(func() { c.db.exec("BEGIN IMMEDIATE") }))
			go c.asks()
			c.logs("the OAuth service answered")
			c.kill()
			c.db.exec("ROLLBACK")
		}, true},
		{"after the commit, before the lease is given back", func(c *crash) {
			c.db.exec(holdLease)
			go c.asks()
			c.logs("the lease stays until it ends by itself")
			c.kill()
			c.db.exec(freeLease)
		}, false},
		{"after the refresh", func(c *crash) {
			c.serves()
			c.kill()
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := &crash{process: newProcess(t, simulator.Options{}), died: make(chan struct{})}
			login := c.sim.AddAccount(simulator.Account{Name: "work", Plan: simulator.PlanMax})
			config := c.config("", "retry_delay 1ms")
			c.start(config)
			c.db = c.database(c.storePath())
			c.addWithLife("work", login, time.Hour)
			c.sim.RevokeAccess("work")
			tt.die(c)

			// The minute of the lease passes.
			c.db.exec(`UPDATE accounts SET lease_until = lease_until - 60000`)
			c.start(config)
			status, body := c.asks()
			a := c.account("work")
			t.Logf("next process: %d, %s; refreshes %d, spent tokens sent %d; %s",
				status, a.Status, c.sim.Refreshes("work"), c.sim.Reuses("work"), a.StatusReason)
			if tt.lost {
				if status == 200 || a.Status != api.StatusNeedsLogin {
					t.Errorf("status %d, account %s: %s", status, a.Status, body)
				}
				if said := c.login(c.approve("work"), "login", "work"); !said.ok {
					t.Errorf("logging in again: %s", said.err)
				}
				status, body = c.asks()
			}
			if a := c.account("work"); status != 200 || a.Status != api.StatusAvailable {
				t.Errorf("status %d, account %s: %s", status, a.Status, body)
			}
			if reused := c.sim.Reuses("work") > 0; c.sim.Refreshes("work") != 1 || reused != tt.lost {
				t.Errorf("%d refreshes, spent tokens sent: %v", c.sim.Refreshes("work"), reused)
			}
		})
	}
}
