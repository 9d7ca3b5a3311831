package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/secret"
	"github.com/claude-balancer/claude-balancer/store/storetest"
)

// start is when the tests' clock stands: within the hour, to show rounding.
var start = time.Date(2026, 3, 14, 15, 9, 26, 0, time.UTC)

func testOptions(path string) Options {
	return Options{Path: path, Now: func() time.Time { return start }, busyTimeout: 10 * time.Second}
}

// testDB is a new database of one engine; each open is a Store of it.
type testDB struct{ o Options }

func (db testDB) open(tb testing.TB) *Store {
	tb.Helper()
	return open(tb, db.o)
}

// onEachEngine runs a test of what holds for every database.
func onEachEngine(t *testing.T, test func(*testing.T, testDB)) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		test(t, testDB{testOptions(filepath.Join(t.TempDir(), "accounts.db"))})
	})
	if storetest.HasPostgres() {
		t.Run("postgres", func(t *testing.T) {
			t.Parallel()
			test(t, newPostgresDB(t))
		})
	}
}

func open(tb testing.TB, o Options) *Store {
	tb.Helper()
	s, err := Open(tb.Context(), o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = s.Close() })
	return s
}

func openNew(tb testing.TB) *Store {
	tb.Helper()
	return open(tb, testOptions(filepath.Join(tb.TempDir(), "accounts.db")))
}

// holdWriters keeps everybody else from writing until the returned function is
// called.
func holdWriters(tb testing.TB, s *Store) (release func()) {
	tb.Helper()
	var conns []*sql.Conn
	for range s.writer.Stats().MaxOpenConnections {
		conns = append(conns, got(s.writer.Conn(context.Background()))(tb))
	}
	return func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}
}

func inSQLite(s *Store) *sqliteEngine { return s.engine.(*sqliteEngine) }

// rawDB opens a file as any other program would.
func rawDB(tb testing.TB, path string) *sql.DB {
	tb.Helper()
	db, err := sql.Open("sqlite", dsn(path, url.Values{"_pragma": {"busy_timeout(10000)"}}))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = db.Close() })
	return db
}

// runScript executes SQL on a file, outside of any Store.
func runScript(tb testing.TB, path, script string) {
	tb.Helper()
	db := rawDB(tb, path)
	if _, err := db.Exec(script); err != nil {
		tb.Fatal(err)
	}
	if err := db.Close(); err != nil {
		tb.Fatal(err)
	}
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func got[T any](v T, err error) func(testing.TB) T {
	return func(tb testing.TB) T {
		tb.Helper()
		must(tb, err)
		return v
	}
}

func account(name string) Account {
	return Account{
		ID: "id-" + name, Name: name, Plan: api.PlanMax, Weight: 1, CreatedAt: start.Add(-time.Hour),
		Credential: Credential{
			Kind: api.KindOAuth, Access: secret.New("access-" + name), Refresh: secret.New("refresh-" + name),
			ExpiresAt: start.Add(8 * time.Hour).Truncate(time.Millisecond), IssuedAt: start,
		},
	}
}

func TestANewStoreIsPrivateAndCanShrink(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "data", "deep", "accounts.db")
	s := open(t, testOptions(path))
	must(t, s.AddAccount(t.Context(), account("work")))
	for name, want := range map[string]fs.FileMode{
		filepath.Dir(path): 0o700, path: 0o600, path + "-wal": 0o600, path + "-shm": 0o600,
	} {
		info, err := os.Stat(name)
		must(t, err)
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", name, info.Mode().Perm(), want)
		}
	}
	for pragma, want := range map[string]int64{
		"auto_vacuum": 2, "secure_delete": 1, "synchronous": 2, "foreign_keys": 1, "user_version": int64(len(migrations)),
	} {
		if n := got(inSQLite(s).pragma(t.Context(), pragma))(t); n != want {
			t.Errorf("PRAGMA %s is %d, want %d", pragma, n, want)
		}
	}
}

func TestAnOldFileIsTakenFromOtherUsers(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "old.db")
	runScript(t, path, readFixture(t, "s1_cli"))
	must(t, os.Chmod(path, 0o644))
	open(t, testOptions(path))
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode().Perm(), err)
	}
}

func TestAPathMayHoldAnyCharacter(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"with blank.db", "what?.db", "a#b.db", "100%.db", "%41.db", "a&b=c.db", "ü 😀.db", "'q\".db", "+.db"} {
		path := filepath.Join(t.TempDir(), name)
		s := open(t, testOptions(path))
		must(t, s.AddAccount(t.Context(), account("work")))
		if s.Name() != path {
			t.Errorf("Name is %q, want %q", s.Name(), path)
		}
		files := got(filepath.Glob(filepath.Join(filepath.Dir(path), "*")))(t)
		for _, f := range files {
			if !strings.HasPrefix(f, path) {
				t.Errorf("opening %q made %q", path, f)
			}
		}
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
}

func TestOpenRefusesWhatIsNotOurs(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, want string
		prepare    func(path string)
	}{
		{"text", "not an SQLite database", func(p string) { must(t, os.WriteFile(p, []byte(strings.Repeat("not a database\n", 100)), 0o600)) }},
		{"folder", "file in a folder", func(p string) { must(t, os.Mkdir(p, 0o700)) }},
		{"other program", "another program's", func(p string) { runScript(t, p, `CREATE TABLE bookmarks (id INTEGER)`) }},
		{"other program's version", "another program's", func(p string) { runScript(t, p, `CREATE TABLE x (id); PRAGMA user_version = 1`) }},
		{"newer", "newer version (schema 99", func(p string) {
			must(t, got(Open(t.Context(), testOptions(p)))(t).Close())
			runScript(t, p, `PRAGMA user_version = 99`)
		}},
	} {
		path := filepath.Join(t.TempDir(), "x.db")
		c.prepare(path)
		_, err := Open(t.Context(), testOptions(path))
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got error %v, want one that names the file and says %q", c.name, err, c.want)
		}
	}
}

func TestAnEmptyFileIsANewStore(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "empty.db")
	must(t, os.WriteFile(path, nil, 0o644))
	s := open(t, testOptions(path))
	must(t, s.AddAccount(t.Context(), account("work")))
}

func TestManyProcessesMayOpenANewStoreAtOnce(t *testing.T) {
	onEachEngine(t, testManyProcessesMayOpenANewStoreAtOnce)
}

func testManyProcessesMayOpenANewStoreAtOnce(t *testing.T, db testDB) {
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			s, err := Open(t.Context(), db.o)
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = s.Close() }()
			if err := s.AddAccount(t.Context(), account(fmt.Sprint(i))); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if all := got(db.open(t).Accounts(t.Context()))(t); len(all) != 8 {
		t.Fatalf("%d accounts, want 8", len(all))
	}
}

func TestChangedSeesOthersWritesAndNotItsOwn(t *testing.T) {
	onEachEngine(t, testChangedSeesOthersWritesAndNotItsOwn)
}

func testChangedSeesOthersWritesAndNotItsOwn(t *testing.T, db testDB) {
	a := db.open(t)
	b := db.open(t)
	changed := func(s *Store) bool { t.Helper(); return got(s.Changed(t.Context()))(t) != 0 }
	changed(a) // b's opening may have written

	must(t, a.AddAccount(t.Context(), account("one")))
	if changed(a) {
		t.Error("a store's own write counts as a change")
	}
	if !changed(b) || changed(b) {
		t.Error("another's write is to be seen once")
	}
	must(t, a.AddAccount(t.Context(), account("two")))
	must(t, b.AddAccount(t.Context(), account("three")))
	if !changed(a) || !changed(b) {
		t.Error("writes of both sides are to be seen by both")
	}
	_ = got(b.Accounts(t.Context()))(t)
	if changed(a) || changed(b) {
		t.Error("reading counts as a change")
	}
}

func TestWaitingForTheWriterEndsWithTheContext(t *testing.T) {
	onEachEngine(t, testWaitingForTheWriterEndsWithTheContext)
}

func testWaitingForTheWriterEndsWithTheContext(t *testing.T, db testDB) {
	s := db.open(t)
	defer holdWriters(t, s)() // somebody writes
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.AddAccount(ctx, account("work")); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
}

func TestHostileTextIsStoredAsItIs(t *testing.T) { onEachEngine(t, testHostileTextIsStoredAsItIs) }

func testHostileTextIsStoredAsItIs(t *testing.T, db testDB) {
	s := db.open(t)
	for i, name := range []string{`o'hara`, `"; DROP TABLE accounts; --`, `%s?:@$1`, "<script>", "中文 ü", `a\b`} {
		a := account(name)
		a.Models = []string{"*opus*", `it's`}
		a.Tier = name
		must(t, s.AddAccount(t.Context(), a))
		must(t, s.SetState(t.Context(), a.ID, -1, api.StatusDisabled, name))
		must(t, s.AddAudit(t.Context(), Audit{What: "account.add", Who: name, Detail: name}))
		row := row(fmt.Sprint("r", i), start)
		row.Path, row.AccountUsed, row.AccountID = "/v1/"+name, &name, a.ID
		must(t, s.InsertRows(t.Context(), []Row{row}))

		all := got(s.Accounts(t.Context()))(t)
		last := all[len(all)-1]
		for _, one := range all {
			if one.ID == a.ID {
				last = one
			}
		}
		if last.Name != name || last.StateReason != name || last.Tier != name || last.Models[1] != `it's` {
			t.Errorf("%q came back as %+v", name, last)
		}
		found := got(s.Requests(t.Context(), api.RequestQuery{Account: name}))(t)
		if len(found) != 1 || found[0].Path != "/v1/"+name || *found[0].AccountUsed != name {
			t.Errorf("%q: history %+v", name, found)
		}
	}
}
