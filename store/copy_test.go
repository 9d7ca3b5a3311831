package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/secret"
)

// fill puts something into every table.
func fill(t *testing.T, s *Store, rows int) {
	t.Helper()
	ctx := t.Context()
	a, b := account("work"), account("home")
	b.Models, b.Paused, b.Credential = []string{"*opus*"}, true, Credential{Kind: api.KindAPIKey, Access: secret.New("sk")}
	for _, a := range []Account{a, b} {
		must(t, s.AddAccount(ctx, a))
	}
	must(t, s.SetState(ctx, b.ID, -1, api.StatusDisabled, "it's ü"))
	must(t, s.ChangeLimits(ctx, a.ID, []LimitChange{{Is: &Limit{Scope: api.ScopeFamily, Name: "opus", Cause: "x", Since: start, Until: start}}}))
	must(t, s.SaveWindows(ctx, []Window{{AccountID: a.ID, Name: "5h", Utilization: 0.1, SeenAt: start}, {AccountID: a.ID, Name: "7d", Utilization: -1, SeenAt: start}}))
	must(t, s.SaveSessions(ctx, []Session{{Key: "s", AccountID: b.ID, LastUsed: start}}))
	must(t, s.SaveResource(ctx, Resource{ID: "file_1", AccountID: a.ID, ClientKey: "laptop"}))
	must(t, s.AddKey(ctx, Key{ID: "k", Name: "laptop", Role: api.RoleClient, Accounts: []string{"work"}, BudgetUSD: new(0.1 + 0.2), Hash: [32]byte{0, 255}}))
	must(t, s.AddDevice(ctx, Device{Hash: [32]byte{1}, UserCode: "AAAA", ExpiresAt: start.Add(time.Hour)}, 10))
	must(t, s.AddDevice(ctx, Device{Hash: [32]byte{2}, UserCode: "BBBB", ExpiresAt: start.Add(time.Hour)}, 10))
	must(t, s.DecideDevice(ctx, "AAAA", "k"))
	got(s.Redeem(ctx, [32]byte{1}, SignIn{ID: "in", ExpiresAt: start.Add(time.Hour)}, Issue{Access: [32]byte{3}, AccessExpires: start.Add(time.Hour), Refresh: [32]byte{4}}))(t)
	for i := range 3 {
		must(t, s.AddAudit(ctx, Audit{What: fmt.Sprint(i), Who: "cli", Detail: "d"}))
	}
	must(t, s.countRows(ctx, "recorder", 7, []Row{answered("x", start, a)}))
	var batch []Row
	for i := range rows {
		r := answered(fmt.Sprintf("%06d", i), start.Add(-time.Duration(i%5)*24*time.Hour), a)
		if i%3 == 0 {
			r = row(r.ID, time.UnixMilli(r.Timestamp))
		}
		r.Client = new("laptop")
		batch = append(batch, r)
	}
	must(t, s.InsertRows(ctx, batch))
}

// content is all that a store tells.
func content(t *testing.T, s *Store) []any {
	t.Helper()
	ctx := t.Context()
	sessions, _, err := s.Sessions(ctx, time.Time{}, 100)
	must(t, err)
	all := []any{
		got(s.Accounts(ctx))(t), got(s.Limits(ctx))(t), got(s.Windows(ctx))(t), sessions,
		got(s.Resource(ctx, "file_1"))(t), got(s.Keys(ctx))(t), got(s.KeySpend(ctx, time.Time{}))(t), got(s.Tokens(ctx))(t), got(s.SignIns(ctx))(t),
		got(s.Audits(ctx, 100))(t), got(s.Stats(ctx, time.Time{}))(t), got(s.Chart(ctx, time.Time{}))(t),
		got(s.Requests(ctx, api.RequestQuery{Limit: 1000, Account: "work"}))(t), rowCounter(t, s),
	}
	must(t, s.AddAudit(ctx, Audit{At: start.Add(-time.Hour)})) // its id must be free
	return all
}

func TestAStoreIsCopiedToPostgreSQLAndBack(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	db := newPostgresDB(t)
	o := testOptions(filepath.Join(t.TempDir(), "from.db"))
	back := testOptions(filepath.Join(t.TempDir(), "back.db"))
	o.Keys = sealer(t, testKey(1))
	db.o.Keys, back.Keys = o.Keys, o.Keys
	s := open(t, o)
	fill(t, s, 1200)
	must(t, s.Close())

	quiet := func(CopyProgress) {}
	tables := got(Copy(ctx, o, db.o, quiet))(t)
	if i := slices.IndexFunc(tables, func(c CopyProgress) bool { return c.Table == historyTable }); i < 0 || tables[i].Rows != 1200 || len(tables) != len(copiedTables) {
		t.Errorf("copied %+v", tables)
	}
	got(Copy(ctx, db.o, back, quiet))(t)
	want := content(t, open(t, o))
	for name, o := range map[string]Options{"postgres": db.o, "back": back} {
		for i, have := range content(t, open(t, o)) {
			if !reflect.DeepEqual(have, want[i]) {
				t.Errorf("%s, part %d:\ngot  %+v\nwant %+v", name, i, have, want[i])
			}
		}
	}
	if _, err := Copy(ctx, o, db.o, quiet); err == nil || !strings.Contains(err.Error(), "is in use already") {
		t.Errorf("into a store that is used: %v", err)
	}
}

func TestAnInterruptedCopyGoesOn(t *testing.T) {
	t.Parallel()
	db := newPostgresDB(t)
	o := testOptions(filepath.Join(t.TempDir(), "from.db"))
	s := open(t, o)
	fill(t, s, 5*copyChunk+7)
	must(t, s.Close())
	for stop := int64(0); stop <= 4*copyChunk; stop += 2 * copyChunk {
		ctx, cancel := context.WithCancel(t.Context())
		began := int64(-1)
		_, err := Copy(ctx, o, db.o, func(p CopyProgress) {
			if p.Table != historyTable || p.Checked {
				return
			}
			if began < 0 {
				began = p.Rows
			}
			if p.Rows == stop {
				cancel()
			}
		})
		cancel()
		if !errors.Is(err, context.Canceled) || stop > 0 && began != stop-2*copyChunk && began != stop-copyChunk {
			t.Fatalf("interrupted at %d, begun at %d: %v", stop, began, err)
		}
		if _, err := Open(t.Context(), db.o); !errors.Is(err, ErrCopying) {
			t.Errorf("an unfinished copy opens: %v", err)
		}
	}
	got(Copy(t.Context(), o, db.o, func(CopyProgress) {}))(t)
	if n := rowCounter(t, open(t, db.o)); n != 5*copyChunk+7 {
		t.Errorf("%d rows", n)
	}
}

func TestACopyOfASourceInUseIsNotBelieved(t *testing.T) {
	t.Parallel()
	db := newPostgresDB(t)
	o := testOptions(filepath.Join(t.TempDir(), "from.db"))
	s := open(t, o)
	fill(t, s, 10)
	changed := false
	_, err := Copy(t.Context(), o, db.o, func(p CopyProgress) {
		if p.Table == historyTable && !changed {
			changed = true
			must(t, s.SetState(t.Context(), "id-work", -1, api.StatusNeedsLogin, "x"))
		}
	})
	if err == nil || !strings.Contains(err.Error(), "compare accounts") {
		t.Errorf("got %v", err)
	}
}

func TestEveryTableIsCopiedOrKnownNotToBe(t *testing.T) {
	t.Parallel()
	known := slices.Clone(ownTables)
	for _, table := range copiedTables {
		known = append(known, table.name)
	}
	onPostgres := newPostgresDB(t).open(t)
	for _, c := range []struct {
		s     *Store
		query string
	}{
		{openNew(t), `SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'`},
		{onPostgres, `SELECT c.relname FROM pg_class c WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition`},
	} {
		for _, name := range got(collect(t.Context(), c.s.reader, func(r *sql.Rows, name *string) error { return r.Scan(name) }, c.query))(t) {
			if !slices.Contains(known, name) {
				t.Errorf("%s: the table %s is not in copiedTables", c.s.Name(), name)
			}
		}
	}
}
