package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/secret"
	"github.com/claude-balancer/claude-balancer/store/storetest"
)

// What only PostgreSQL can do to a store: several nodes write at once, the
// network and the server fail.

func TestTheStoreIsTestedOnPostgreSQL(t *testing.T) {
	t.Parallel()
	if name := newPostgresDB(t).open(t).Name(); !strings.HasPrefix(name, "postgres://") {
		t.Errorf("the store is %s", name)
	}
}

func newPostgresDB(tb testing.TB) testDB {
	tb.Helper()
	o := testOptions("")
	o.URL = secret.New(storetest.Postgres(tb))
	return testDB{o}
}

// throughProxy is the database by way of a network that can fail; its stores
// give up soon.
func (db testDB) throughProxy(tb testing.TB) (*storetest.Proxy, testDB) {
	tb.Helper()
	p := storetest.NewProxy(tb, db.o.URL.Reveal())
	db.o.URL, db.o.patience = secret.New(p.URL), 500*time.Millisecond
	return p, db
}

func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("never: %s", what)
		}
	}
}

func TestNodesTellOneAnotherWhatTheyChanged(t *testing.T) {
	t.Parallel()
	db := newPostgresDB(t)
	a, b := db.open(t), db.open(t)
	must(t, a.AddAccount(t.Context(), account("work")))
	eventually(t, "b is notified", func() bool {
		<-b.Notified()
		return got(b.Changed(t.Context()))(t) == ChangedAccounts
	})
	for name, c := range map[string]struct {
		want Changes
		do   func() error
	}{
		"key":     {ChangedKeys, func() error { return a.AddKey(t.Context(), Key{ID: "k", Name: "laptop"}) }},
		"limits":  {ChangedLimits, func() error { return a.ClearLimits(t.Context(), "id-work") }},
		"windows": {ChangedWindows, func() error { return a.SaveWindows(t.Context(), []Window{{AccountID: "id-work", SeenAt: start}}) }},
		"usage":   {ChangedUsage, func() error { return a.InsertRows(t.Context(), []Row{row("r", start)}) }},
		"lease":   {0, func() error { _, err := a.AcquireLease(t.Context(), "id-work", "a", time.Minute); return err }},
	} {
		must(t, c.do())
		if changes := got(b.Changed(t.Context()))(t); changes != c.want {
			t.Errorf("%s: b sees %b, want %b", name, changes, c.want)
		}
		if changes := got(a.Changed(t.Context()))(t); changes != 0 {
			t.Errorf("%s: a sees its own change %b", name, changes)
		}
	}
}

func TestANodeThatIsCutOffSeesTheChangesLater(t *testing.T) {
	t.Parallel()
	db := newPostgresDB(t)
	a := db.open(t)
	proxy, cutOff := db.throughProxy(t)
	b := cutOff.open(t)
	proxy.Cut()
	must(t, a.AddAccount(t.Context(), account("work")))
	if _, err := b.Changed(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("cut off: %v", err)
	}
	proxy.Restore()
	eventually(t, "b is called after the network is back", func() bool { <-b.Notified(); return true })
	if changes := got(b.Changed(t.Context()))(t); changes != ChangedAccounts {
		t.Errorf("b sees %b", changes)
	}
}

func TestAHangingDatabaseHangsNobody(t *testing.T) {
	t.Parallel()
	proxy, db := newPostgresDB(t).throughProxy(t)
	s := db.open(t)
	must(t, s.AddAccount(t.Context(), account("work")))
	proxy.Stall()
	var wg sync.WaitGroup
	for i := range 40 { // many more than there are connections
		wg.Go(func() {
			began := time.Now()
			var err error
			switch i % 4 {
			case 0:
				_, err = s.Accounts(t.Context())
			case 1:
				_, err = s.Stats(t.Context(), time.Time{})
			case 2:
				err = s.SetState(t.Context(), "id-work", -1, "", "")
			case 3:
				_, err = s.Changed(t.Context())
			}
			if took := time.Since(began); !errors.Is(err, ErrUnavailable) || took > 10*db.o.patience {
				t.Errorf("after %v: %v", took, err)
			}
		})
	}
	wg.Wait()
	proxy.Restore()
	eventually(t, "it works again", func() bool { _, err := s.Accounts(t.Context()); return err == nil })
}

func TestConnectionsThatDiedUnusedFailNoCall(t *testing.T) {
	t.Parallel()
	db := newPostgresDB(t)
	killer := db.open(t)
	mine := fmt.Sprint("victim-", rand.Uint64())
	db.o.URL = secret.New(db.o.URL.Reveal() + "&application_name=" + mine)
	s := db.open(t)
	must(t, s.AddAccount(t.Context(), account("work")))
	for range 5 {
		holdWriters(t, s)() // makes all connections
		killed := got(collect(t.Context(), killer.writer, func(r *sql.Rows, ok *bool) error { return r.Scan(ok) },
			`SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = ?`, mine))(t)
		if len(killed) < postgresWriters {
			t.Fatalf("%d connections were killed", len(killed))
		}
		must(t, s.SetState(t.Context(), "id-work", -1, "", ""))
		got(s.Accounts(t.Context()))(t)
	}
}

func TestACommitOfUnknownFateIsRepeatedAndCountsOnce(t *testing.T) {
	t.Parallel()
	direct := newPostgresDB(t)
	proxy, db := direct.throughProxy(t)
	a := account("work")
	watcher := direct.open(t)
	must(t, watcher.AddAccount(t.Context(), a))
	for _, off := range []bool{false, true} {
		s := db.open(t)
		r, written := newRecorder(t, s, RecorderOptions{Batch: 3, Every: time.Hour, Off: func() bool { return off }})
		got(s.engine.(*postgresEngine).requestDays(t.Context()))(t)
		must(t, s.engine.(*postgresEngine).makeDay(t.Context(), dayOf(start.UnixMilli()))) // its commit is none of a batch
		before := one(t, watcher, a.ID).RequestCount
		proxy.CutAtCommit()
		for i := range 3 {
			r.Record(answered(fmt.Sprintf("%v-%d", off, i), start, a))
		}
		eventually(t, "the first try is in the database", func() bool { return one(t, watcher, a.ID).RequestCount == before+3 })
		proxy.Restore()
		<-written
		if now := one(t, watcher, a.ID); now.RequestCount != before+3 || r.Dropped() != 0 {
			t.Errorf("off %v: %d are counted, want %d; %d dropped", off, now.RequestCount, before+3, r.Dropped())
		}
	}
	if n := got(watcher.Stats(t.Context(), time.Time{}))(t).TotalRequests; n != 6 || rowCounter(t, watcher) != 3 {
		t.Errorf("%d requests in the sums, %d rows", n, rowCounter(t, watcher))
	}
}

func TestHistoryWaitsWhileTheDatabaseIsAway(t *testing.T) {
	t.Parallel()
	direct := newPostgresDB(t)
	proxy, db := direct.throughProxy(t)
	s := db.open(t)
	r, _ := newRecorder(t, s, RecorderOptions{Batch: 10, Every: time.Millisecond, Queue: 20})
	proxy.Cut()
	accepted := 0
	for i := range 100 {
		if r.Record(row(fmt.Sprint(i), start)) {
			accepted++
		}
		if r.Dropped() == 3 {
			break
		}
	}
	if r.Dropped() != 3 || accepted < 20 {
		t.Errorf("%d accepted, %d dropped", accepted, r.Dropped())
	}
	proxy.Restore()
	must(t, r.Flush(t.Context()))
	if n := rowCounter(t, direct.open(t)); n != int64(accepted) {
		t.Errorf("%d rows are stored of %d accepted", n, accepted)
	}
}

// Nodes write batches that touch the same lines in every order.
func TestManyNodesWriteTheSameLinesAtOnce(t *testing.T) {
	t.Parallel()
	db := newPostgresDB(t)
	stores := []*Store{db.open(t), db.open(t), db.open(t)}
	accounts := make([]Account, 10)
	for i := range accounts {
		accounts[i] = account(fmt.Sprint(i))
		must(t, stores[0].AddAccount(t.Context(), accounts[i]))
	}
	const batches, size = 20, 40
	var wg sync.WaitGroup
	for n, s := range stores {
		wg.Go(func() {
			for b := range batches {
				rows := make([]Row, size)
				for i := range rows {
					a := accounts[rand.IntN(len(accounts))]
					rows[i] = answered(fmt.Sprint(n, "-", b, "-", i), start.Add(time.Duration(rand.IntN(48)-24)*time.Hour), a)
					rows[i].Client = new(fmt.Sprint("key", rand.IntN(5)))
				}
				must(t, s.InsertRows(t.Context(), rows))
				switch b % 4 {
				case 0:
					must(t, s.ResetStats(t.Context()))
				case 1:
					must(t, s.SaveWindows(t.Context(), []Window{{AccountID: "id-7", SeenAt: start}, {AccountID: "id-1", SeenAt: start}}))
				case 2:
					must(t, s.SaveSessions(t.Context(), []Session{{Key: "b", AccountID: "id-3", LastUsed: start}, {Key: "a", AccountID: "id-1", LastUsed: start}}))
				case 3:
					must(t, s.ChangeLimits(t.Context(), "id-1", []LimitChange{{Is: &Limit{Scope: api.ScopeAccount, Cause: "x"}}}))
				}
			}
		})
	}
	wg.Wait()
	stats := got(stores[1].Stats(t.Context(), time.Time{}))(t)
	want := int64(len(stores) * batches * size)
	var byAccount int64
	for u := range maps.Values(stats.ByAccount) {
		byAccount += u.Requests
	}
	if stats.TotalRequests != want || byAccount != want || rowCounter(t, stores[0]) != want {
		t.Errorf("%d requests, %d by account, %d rows; want %d", stats.TotalRequests, byAccount, rowCounter(t, stores[0]), want)
	}
}

func TestANodesClockDecidesNoLease(t *testing.T) {
	t.Parallel()
	db := newPostgresDB(t)
	ahead := db
	ahead.o.Now = func() time.Time { return time.Now().Add(time.Hour) }
	a, b := db.open(t), ahead.open(t)
	must(t, a.AddAccount(t.Context(), account("work")))
	if !got(a.AcquireLease(t.Context(), "id-work", "a", time.Minute))(t) {
		t.Fatal("nobody had it")
	}
	if got(b.AcquireLease(t.Context(), "id-work", "b", time.Minute))(t) {
		t.Error("a node whose clock is an hour ahead takes it")
	}
}

func TestTextThatPostgreSQLRefusesIsStoredNearly(t *testing.T) {
	t.Parallel()
	s := newPostgresDB(t).open(t)
	r := row("r", start)
	r.Path, r.Model, r.ErrorMessage = "/v1/\x00", new("a\x00b\xff"), new("\xf0\x28")
	must(t, s.InsertRows(t.Context(), []Row{r}))
	must(t, s.AddAudit(t.Context(), Audit{What: "a\x00", Who: "\xff", Detail: ""}))
	if found := got(s.Requests(t.Context(), api.RequestQuery{Model: "a\x00b\xff"}))(t); len(found) != 1 || *found[0].Model != "a\uFFFDb\uFFFD" {
		t.Errorf("found %+v", found)
	}
}

func TestADroppedDayComesBackForALateRow(t *testing.T) {
	t.Parallel()
	db := newPostgresDB(t)
	a, b := db.open(t), db.open(t)
	old := start.Add(-72 * time.Hour)
	must(t, a.InsertRows(t.Context(), []Row{row("1", old)}))
	must(t, b.InsertRows(t.Context(), []Row{row("2", old)}))
	if n := got(b.Prune(t.Context(), start.Add(-24*time.Hour), 0))(t); n != 2 {
		t.Fatalf("%d rows went", n)
	}
	must(t, a.InsertRows(t.Context(), []Row{row("3", old)})) // it believes that the day is there
	if rows := got(b.Requests(t.Context(), api.RequestQuery{}))(t); len(rows) != 1 || rows[0].ID != "3" {
		t.Errorf("got %q", ids(rows))
	}
}

func TestABoundOfRowsTakesWholeDaysThenRows(t *testing.T) {
	t.Parallel()
	s := newPostgresDB(t).open(t)
	var rows []Row
	for i := range 40 { // ten a day
		rows = append(rows, row(fmt.Sprintf("%02d", i), start.Add(-time.Duration(3-i/10)*24*time.Hour+time.Duration(i)*time.Second)))
	}
	must(t, s.InsertRows(t.Context(), rows))
	if n := got(s.Prune(t.Context(), time.Time{}, 15))(t); n != 25 {
		t.Errorf("%d rows went", n)
	}
	left := ids(got(s.Requests(t.Context(), api.RequestQuery{}))(t))
	if len(left) != 15 || left[14] != "25" || rowCounter(t, s) != 15 {
		t.Errorf("left are %q", left)
	}
	var days []int64
	for _, d := range got(s.engine.(*postgresEngine).requestDays(t.Context()))(t) {
		days = append(days, (d.day-dayOf(start.UnixMilli()))/dayMillis)
	}
	if !slices.Equal(days, []int64{-1, 0, 1}) {
		t.Errorf("the days are %v, want yesterday, today and tomorrow", days)
	}
}

func TestSchemaVersionsAllowForRollingUpgrades(t *testing.T) {
	t.Parallel()
	db := newPostgresDB(t)
	s := db.open(t)
	set := func(version, oldest int) {
		t.Helper()
		must2(t)(s.exec(t.Context(), 0, `UPDATE schema_version SET version = ?, oldest = ?`, version, oldest))
	}
	must2(t)(s.exec(t.Context(), 0, `ALTER TABLE accounts ADD COLUMN colour text`))
	set(len(postgresMigrations)+1, len(postgresMigrations))
	old := db.open(t) // one version behind
	must(t, old.AddAccount(t.Context(), account("work")))
	must(t, old.InsertRows(t.Context(), []Row{answered("r", start, account("work"))}))
	set(len(postgresMigrations)+2, len(postgresMigrations)+1)
	if _, err := Open(t.Context(), db.o); err == nil || !strings.Contains(err.Error(), "newer version (schema") {
		t.Errorf("two versions behind: %v", err)
	}
}

func TestOpenTellsWhatIsWrongAndNoPassword(t *testing.T) {
	t.Parallel()
	good := got(url.Parse(newPostgresDB(t).o.URL.Reveal()))(t)
	password, _ := good.User.Password()
	for name, c := range map[string]struct {
		change    func(u *url.URL)
		want      string
		available bool
	}{
		"password": {func(u *url.URL) { u.User = url.UserPassword(good.User.Username(), password+"x") }, "check the user and the password", true},
		"database": {func(u *url.URL) { u.Path = "/nowhere" }, "no such database", true},
		"server":   {func(u *url.URL) { u.Host = "127.0.0.1:1" }, "not available", false},
		"name":     {func(u *url.URL) { u.Host = "nobody.invalid:5432" }, "not available", false},
		"scheme":   {func(u *url.URL) { u.Scheme = "mysql" }, "cannot be read", true},
		"option":   {func(u *url.URL) { u.RawQuery = "sslmode=" + password }, "cannot be read", true},
	} {
		u := *good
		c.change(&u)
		o := testOptions("")
		o.URL = secret.New(u.String())
		_, err := Open(t.Context(), o)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), password) || errors.Is(err, ErrUnavailable) == c.available {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSealingOverNodesLosesNoNewToken(t *testing.T) {
	t.Parallel()
	db := newPostgresDB(t)
	plain := db.open(t)
	for i := range 20 {
		must(t, plain.AddAccount(t.Context(), account(fmt.Sprint(i))))
	}
	sealed := db
	sealed.o.Keys = sealer(t, testKey(1))
	var wg sync.WaitGroup
	wg.Go(func() { // a node that does not seal refreshes meanwhile
		for i := range 20 {
			c := Credential{Kind: api.KindOAuth, Access: secret.New("new"), Refresh: secret.New("new")}
			_, err := plain.SaveCredential(context.Background(), fmt.Sprint("id-", i), 1, c)
			must(t, err)
		}
	})
	s := sealed.open(t)
	wg.Wait()
	due := -1
	must(t, s.reader.scan(t.Context(), []any{&due}, `SELECT value FROM counters WHERE name = ?`, counterRewrite))
	if due != 0 {
		t.Error("the table was not rewritten")
	}
	for _, a := range got(s.Accounts(t.Context()))(t) {
		if a.Credential.Refresh.Reveal() != "new" {
			t.Errorf("%s has lost its new token", a.Name)
		}
	}
}
