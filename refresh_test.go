package claudebalancer

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/simulator"
	"github.com/claude-balancer/claude-balancer/store"
)

// addExpiring adds an account whose access token ends so long from now.
func (r *rig) addExpiring(name string, left time.Duration) {
	r.t.Helper()
	c := r.sim.AddAccount(simulator.Account{Name: name, Plan: simulator.PlanMax})
	if left <= 0 {
		r.sim.ExpireAccess(name)
	}
	expires := time.Now().Add(left).UnixMilli()
	_, err := r.app.runtime.AddAccount(context.Background(), api.NewAccount{
		Name: name, PlanType: api.PlanMax, AccessToken: c.Access, RefreshToken: c.Refresh, ExpiresAt: &expires,
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

// stored is the credential that a process which starts now would find.
func (r *rig) stored(name string) store.Credential {
	r.t.Helper()
	a, err := r.app.runtime.stored(context.Background(), name)
	if err != nil {
		r.t.Fatal(err)
	}
	return a.Credential
}

func TestAThousandRequestsAtExpiryCauseOneRefresh(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	// All of them are there before the refresh ends.
	const requests = 1000
	r.sim.AddAccount(simulator.Account{Name: "other"})
	r.sim.Script("", simulator.Step{Path: simulator.OAuthTokenPath, Do: simulator.BeforeAnswer(func() {
		r.eventually("every request waits for the token", func() bool { return r.app.runtime.refs.Load() >= requests })
	})})
	r.addExpiring("work", -time.Minute)
	var served, failed atomic.Int64
	var wg sync.WaitGroup
	for range requests {
		wg.Go(func() {
			if answer := r.message(sonnet); answer.status == 200 {
				served.Add(1)
			} else {
				failed.Add(1)
			}
		})
	}
	wg.Wait()
	t.Logf("%d requests served, %d failed, %d refreshes, %d spent tokens sent",
		served.Load(), failed.Load(), r.sim.Refreshes("work"), r.sim.Reuses("work"))
	if served.Load() != requests || r.sim.Refreshes("work") != 1 || r.sim.Reuses("work") != 0 {
		t.Errorf("%d of %d served, %d refreshes", served.Load(), requests, r.sim.Refreshes("work"))
	}
}

func TestATokenIsRefreshedBeforeAnybodyNeedsIt(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	names := []string{"a", "b", "c"}
	for _, name := range names {
		r.addExpiring(name, time.Minute) // less than refresh_before
	}
	for _, name := range names {
		r.eventually(name+" has a new token", func() bool {
			a := r.account(name)
			return r.sim.Refreshes(name) == 1 && a.ExpiresAt != nil && time.UnixMilli(*a.ExpiresAt).After(time.Now().Add(time.Hour))
		})
	}
	for _, name := range names {
		if n := r.sim.Refreshes(name); n != 1 {
			t.Errorf("%s was refreshed %d times", name, n)
		}
		if !r.stored(name).Refresh.Equal(r.sim.Credentials(name).Refresh) {
			t.Errorf("%s: the stored refresh token is not the newest", name)
		}
	}
}

// Claude Code may go on using an imported login.
func TestATokenThatAnotherProgramRotatesMeanwhileIsTakenOver(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	r.sim.AddAccount(simulator.Account{Name: "other"})
	path := r.app.runtime.at.path
	r.sim.Script("", simulator.Step{Path: simulator.OAuthTokenPath, Do: func(x *simulator.Exchange) {
		if err := rotate(r, path, "work"); err != nil {
			t.Error(err)
		}
		x.Next() // the token that we sent is spent by now
	}})
	r.addExpiring("work", -time.Minute)
	r.message(sonnet).mustBe(t, 200)
	if a := r.account("work"); a.Status != api.StatusAvailable || r.sim.Refreshes("work") != 1 || r.sim.Reuses("work") != 1 {
		t.Errorf("%s, %d refreshes, %d spent tokens sent", a.Status, r.sim.Refreshes("work"), r.sim.Reuses("work"))
	}
}

// rotate is another program that refreshes an account of the same file.
func rotate(r *rig, path, name string) error {
	s, err := store.Open(context.Background(), store.Options{Path: path})
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	accounts, err := s.Accounts(context.Background())
	if err != nil {
		return err
	}
	for _, a := range accounts {
		if a.Name != name {
			continue
		}
		grant, err := r.app.runtime.oauthClient().Refresh(context.Background(), a.Credential.Refresh)
		if err != nil {
			return err
		}
		_, err = s.SaveCredential(context.Background(), a.ID, a.Credential.Generation, grant.Credential())
		return err
	}
	return errors.New("no such account")
}

func TestARefreshThatFailsForNowKeepsTheLogin(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		step simulator.Step
	}{
		{"429", simulator.Step{Status: 429}},
		{"500", simulator.Step{Status: 500}},
		{"529", simulator.Step{Status: 529}},
		{"reset", simulator.Step{Do: simulator.ResetBeforeHeaders}},
		{"not JSON", simulator.Step{Status: 200, Body: "<html>"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, rigOptions{directive: []string{"retries 1"}})
			r.sim.AddAccount(simulator.Account{Name: "other"})
			tt.step.Path = simulator.OAuthTokenPath
			tt.step.Times = 2
			r.sim.Script("", tt.step)
			r.addExpiring("work", -time.Minute)
			if answer := r.message(sonnet); answer.status == 200 {
				t.Errorf("status %d with an expired token", answer.status)
			}
			if a := r.account("work"); a.Status == api.StatusNeedsLogin || a.Status == api.StatusDisabled {
				t.Errorf("the account is %s: %s", a.Status, a.StatusReason)
			}
			// The operator does not wait for the back-off to end.
			r.eventually("a refresh by hand succeeds", func() bool {
				_, err := r.app.runtime.RefreshAccount(context.Background(), "work")
				return err == nil
			})
			r.message(sonnet).mustBe(t, 200)
		})
	}
}

// smallDisk mounts a file system of so many KiB, or skips the test.
func smallDisk(t *testing.T, kib int) string {
	t.Helper()
	dir := t.TempDir()
	if err := mountMemory(dir, kib); err != nil {
		t.Skipf("needs root to mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := unmount(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill leaves no room on a disk; the returned function makes some.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	name := filepath.Join(dir, "ballast")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	for size := 64 << 10; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	if err := f.Close(); err != nil && !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(name); err != nil {
			t.Error(err)
		}
	}
}

// truncateWAL leaves SQLite no room in a file that it has already.
func truncateWAL(t *testing.T, path string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec("PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
		t.Fatal(err)
	}
}

func TestOnAFullDiskANewTokenIsServedAndStoredOnceThereIsRoom(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t, 2048)
	r := newRig(t, rigOptions{path: filepath.Join(disk, "accounts.db")})
	r.addExpiring("work", time.Hour)
	truncateWAL(t, r.app.runtime.at.path)
	free := fill(t, disk)

	old := r.stored("work")
	r.sim.RevokeAccess("work") // the 401 asks for a refresh
	r.message(sonnet).mustBe(t, 200)
	if !r.stored("work").Refresh.Equal(old.Refresh) {
		t.Fatal("the disk was not full")
	}
	for range 3 {
		r.message(sonnet).mustBe(t, 200)
	}
	if r.sim.Refreshes("work") != 1 || r.sim.Reuses("work") != 0 {
		t.Errorf("%d refreshes, %d spent tokens sent", r.sim.Refreshes("work"), r.sim.Reuses("work"))
	}

	free()
	r.eventually("the new pair is stored", func() bool {
		return r.stored("work").Refresh.Equal(r.sim.Credentials("work").Refresh)
	})
	r.message(sonnet).mustBe(t, 200)
	if r.sim.Refreshes("work") != 1 || r.sim.Reuses("work") != 0 {
		t.Errorf("%d refreshes, %d spent tokens sent", r.sim.Refreshes("work"), r.sim.Reuses("work"))
	}
	if rows := r.rows(5); len(rows) != 5 {
		t.Errorf("%d rows of 5 requests", len(rows))
	}
}

func TestAStoreOnAReadOnlyDiskIsRefusedWithASentence(t *testing.T) {
	t.Parallel()
	p := newProcess(t, simulator.Options{})
	disk := smallDisk(t, 2048)
	path := filepath.Join(disk, "accounts.db")
	config := p.config("store sqlite "+path, "")
	p.start(config)
	p.end(syscall.SIGTERM)
	if err := remountReadOnly(disk); err != nil {
		t.Fatal(err)
	}
	if said := p.fails(config); !strings.Contains(said, path) || !strings.Contains(said, "this user may write to") {
		t.Errorf("said %s", said)
	}
}

func TestTwoProcessesOnOneFileRefreshEachTokenOnce(t *testing.T) {
	t.Parallel()
	const accounts, rounds, clients = 3, 4, 8
	one := newProcess(t, simulator.Options{})
	two := one.beside()
	store := "store sqlite " + one.storePath()
	for _, p := range []*process{one, two} {
		p.start(p.config(store, ""))
	}
	for i := range accounts {
		name := fmt.Sprint("work", i)
		one.addWithLife(name, one.sim.AddAccount(simulator.Account{Name: name, Plan: simulator.PlanMax}), time.Hour)
	}
	two.waitFor("the other process knows the accounts", func() bool {
		return strings.Count(string(two.get("/claude_balancer/accounts")), `"name":"work`) == accounts
	})

	ctx, stop := context.WithCancel(t.Context())
	var served, failed atomic.Int64
	var load sync.WaitGroup
	for i := range clients {
		p := []*process{one, two}[i%2]
		client := p.client("1")
		load.Go(func() {
			for ctx.Err() == nil {
				status, body, err := p.message(context.Background(), client, false)
				if err == nil && status == 200 {
					served.Add(1)
				} else if failed.Add(1) == 1 {
					t.Errorf("status %d: %s, %v", status, body, err)
				}
			}
		})
	}
	db := one.database(one.storePath())
	for range rounds {
		// Hours pass for the stored tokens, and both processes see it.
		db.exec(`UPDATE accounts SET expires_at = 1000, generation = generation + 1`)
		one.waitFor("every token is new and stored", func() bool {
			return db.number(`SELECT COUNT(*) FROM accounts WHERE expires_at = 1000`) == 0
		})
	}
	stop()
	load.Wait()
	for i := range accounts {
		name := fmt.Sprint("work", i)
		if n := one.sim.Refreshes(name); n != rounds || one.sim.Reuses(name) != 0 {
			t.Errorf("%s: %d refreshes in %d rounds, %d spent tokens sent", name, n, rounds, one.sim.Reuses(name))
		}
	}
	t.Logf("%d requests served by two processes, %d failed", served.Load(), failed.Load())
}
