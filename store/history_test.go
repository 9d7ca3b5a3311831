package store

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/claude-balancer/claude-balancer/api"
)

// row is a request that the balancer refused.
func row(id string, at time.Time) Row {
	return Row{Request: api.Request{
		ID: id, Timestamp: at.UnixMilli(), Method: "POST", Path: "/v1/messages", StatusCode: 403,
		Outcome: api.OutcomeRefused, Attempts: []api.Attempt{},
	}}
}

// answered is a request that an account answered: 100 tokens in, 10 out, 1 cent.
func answered(id string, at time.Time, a Account) Row {
	r := row(id, at)
	r.StatusCode, r.Success, r.Outcome, r.AccountID, r.Family = 200, 1, api.OutcomeOK, a.ID, "sonnet"
	r.AccountUsed, r.PlanType, r.Model = &a.Name, &a.Plan, new("claude-sonnet-4-5")
	r.InputTokens, r.OutputTokens, r.CostUSD = new(int64(100)), new(int64(10)), new(0.01)
	r.ResponseTimeMS, r.DurationMS, r.Stream = 200, 900, 1
	r.Attempts = []api.Attempt{{Account: "other", Status: 529, Cause: "overloaded", MS: 5}, {Account: a.Name, Status: 200, MS: 200}}
	return r
}

func rowCounter(tb testing.TB, s *Store) int64 {
	tb.Helper()
	if e, ok := s.engine.(*postgresEngine); ok {
		var n int64
		for _, d := range got(e.requestDays(tb.Context()))(tb) {
			n += d.requests
		}
		return n
	}
	return got(inSQLite(s).rowsAbove(tb.Context(), 0))(tb)
}

func ids(rows []api.Request) []string {
	list := []string{}
	for _, r := range rows {
		list = append(list, r.ID)
	}
	return list
}

func TestARowComesBackAsItWasStored(t *testing.T) { onEachEngine(t, testARowComesBackAsItWasStored) }

func testARowComesBackAsItWasStored(t *testing.T, db testDB) {
	s := db.open(t)
	a := account("work")
	must(t, s.AddAccount(t.Context(), a))
	full := answered("r1", start, a)
	full.Session, full.Client, full.UpstreamRequestID, full.ErrorMessage = new("abc"), new("laptop"), new("req_1"), new("oops")
	full.CacheReadTokens, full.CacheWrite5mTokens, full.CacheWrite1hTokens = new(int64(1)), new(int64(2)), new(int64(3))
	full.FailoverAttempts = 1
	refused := row("r2", start.Add(time.Second))
	must(t, s.InsertRows(t.Context(), []Row{full, refused}))
	rows := got(s.Requests(t.Context(), api.RequestQuery{}))(t)
	if want := []api.Request{refused.Request, full.Request}; !reflect.DeepEqual(rows, want) {
		t.Errorf("got  %+v\nwant %+v", rows, want)
	}
}

func TestARepeatedBatchCountsOnce(t *testing.T) { onEachEngine(t, testARepeatedBatchCountsOnce) }

func testARepeatedBatchCountsOnce(t *testing.T, db testDB) {
	s := db.open(t)
	a := account("work")
	must(t, s.AddAccount(t.Context(), a))
	first := []Row{answered("r1", start, a), answered("r2", start, a)}
	must(t, s.InsertRows(t.Context(), first))
	must(t, s.InsertRows(t.Context(), append(first, answered("r3", start.Add(time.Second), a), first[0])))
	must(t, s.InsertRows(t.Context(), first))
	must(t, s.InsertRows(t.Context(), nil))

	stats := got(s.Stats(t.Context(), time.Time{}))(t)
	now := one(t, s, a.ID)
	if stats.TotalRequests != 3 || now.RequestCount != 3 || now.Tokens.Input != 300 || rowCounter(t, s) != 3 {
		t.Errorf("%d in the statistics, %d on the account with %+v, %d rows",
			stats.TotalRequests, now.RequestCount, now.Tokens, rowCounter(t, s))
	}
	if now.LastUsed.UnixMilli() != start.Add(time.Second).UnixMilli() || *now.CostUSD < 0.0299 {
		t.Errorf("last used %v, cost %v", now.LastUsed, *now.CostUSD)
	}
}

func TestRowsAreWrittenOnWhateverConnectionThereIs(t *testing.T) {
	t.Parallel()
	s := openNew(t)
	s.writer.SetMaxIdleConns(0) // each transaction makes its own
	for i := range 3 {
		must(t, s.InsertRows(t.Context(), []Row{row(fmt.Sprint(i), start)}))
	}
	if n := rowCounter(t, s); n != 3 {
		t.Errorf("%d rows", n)
	}
	path := s.Name()
	must(t, s.Close())
	descriptors, _ := filepath.Glob("/proc/self/fd/*") // none where there is no such folder
	for _, d := range descriptors {
		if open, err := os.Readlink(d); err == nil && strings.HasPrefix(open, path) {
			t.Errorf("%s is still open", open)
		}
	}
	if _, err := os.Stat(path + "-wal"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the write-ahead log was left: %v", err)
	}
}

func TestOnlySuccessRaisesAnAccountsCount(t *testing.T) {
	onEachEngine(t, testOnlySuccessRaisesAnAccountsCount)
}

func testOnlySuccessRaisesAnAccountsCount(t *testing.T, db testDB) {
	s := db.open(t)
	a := account("work")
	must(t, s.AddAccount(t.Context(), a))
	cut := answered("r1", start, a)
	cut.Outcome, cut.CostUSD = api.OutcomeTruncated, nil
	must(t, s.InsertRows(t.Context(), []Row{cut, row("r2", start)}))
	if now := one(t, s, a.ID); now.RequestCount != 0 || !now.LastUsed.IsZero() || now.Tokens.Output != 10 || now.CostUSD != nil {
		t.Errorf("got %+v", now)
	}
}

func TestFiltersChooseRows(t *testing.T) { onEachEngine(t, testFiltersChooseRows) }

func testFiltersChooseRows(t *testing.T, db testDB) {
	s := db.open(t)
	a, b := account("a"), account("b")
	must(t, s.AddAccount(t.Context(), a))
	must(t, s.AddAccount(t.Context(), b))
	opus := answered("opus", start.Add(1*time.Second), a)
	opus.Model = new("claude-opus-4-8")
	laptop := answered("laptop", start.Add(2*time.Second), b)
	laptop.Client = new("laptop")
	must(t, s.InsertRows(t.Context(), []Row{opus, laptop, row("refused", start.Add(3*time.Second))}))
	for _, c := range []struct {
		q    api.RequestQuery
		want []string
	}{
		{api.RequestQuery{}, []string{"refused", "laptop", "opus"}},
		{api.RequestQuery{Limit: 1}, []string{"refused"}},
		{api.RequestQuery{Account: "a"}, []string{"opus"}},
		{api.RequestQuery{Account: "nobody"}, []string{}},
		{api.RequestQuery{Model: "claude-opus-4-8"}, []string{"opus"}},
		{api.RequestQuery{Client: "laptop"}, []string{"laptop"}},
		{api.RequestQuery{Outcome: api.OutcomeOK}, []string{"laptop", "opus"}},
		{api.RequestQuery{Outcome: api.OutcomeRefused}, []string{"refused"}},
		{api.RequestQuery{Before: "refused"}, []string{"laptop", "opus"}},
		{api.RequestQuery{Before: "refused", Account: "b", Model: "claude-sonnet-4-5", Client: "laptop", Outcome: api.OutcomeOK}, []string{"laptop"}},
		{api.RequestQuery{Before: "opus"}, []string{}},
	} {
		rows := got(s.Requests(t.Context(), c.q))(t)
		if have := ids(rows); rows == nil || !slices.Equal(have, c.want) {
			t.Errorf("%+v: got %q, want %q", c.q, have, c.want)
		}
	}
	if _, err := s.Requests(t.Context(), api.RequestQuery{Before: "never was"}); !errors.Is(err, ErrNotFound) {
		t.Errorf("an unknown cursor: %v", err)
	}
}

// Every page must be answered from indexes that also have the order: its cost
// does not grow with the history.
func TestPagesUseIndexes(t *testing.T) {
	t.Parallel()
	s := openNew(t)
	for name, p := range map[string]requestPage{
		"all":           {},
		"account":       requestPage{}.with(byAccount, "x"),
		"model":         requestPage{}.with(byModel, "x"),
		"client":        requestPage{}.with(byKey, "x"),
		"outcome":       requestPage{}.with(byOutcome, "ok"),
		"two at a time": requestPage{}.with(byKey, "x").with(byAccount, "y"),
	} {
		for _, before := range []string{"", "x"} {
			p.beforeID = before
			query, args := s.engine.pageQuery(p)
			type step struct {
				id, parent, unused int
				detail             string
			}
			plan := got(collect(t.Context(), s.reader, func(r *sql.Rows, p *step) error {
				return r.Scan(&p.id, &p.parent, &p.unused, &p.detail)
			}, "EXPLAIN QUERY PLAN "+query, args...))(t)
			text := fmt.Sprint(plan)
			if !strings.Contains(text, "r USING INDEX requests_time") || strings.Contains(text, "B-TREE FOR ORDER BY") ||
				len(p.filters) > 0 && !strings.Contains(text, "SEARCH m0 USING PRIMARY KEY (kind=? AND name=?") ||
				len(p.filters) > 1 && !strings.Contains(text, "SEARCH m1 USING COVERING INDEX request_minutes_minute (minute=? AND kind=? AND name=?)") {
				t.Errorf("%s (continued: %v): the plan is %s", name, before, text)
			}
		}
	}
}

func TestAnOlderFilesRowsAreFoundByEveryFilter(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "accounts.db")
	s := open(t, testOptions(path))
	a := account("work")
	must(t, s.AddAccount(t.Context(), a))
	r := answered("r1", start, a)
	r.Client = new("laptop")
	must(t, s.InsertRows(t.Context(), []Row{r, row("r2", start.Add(time.Second))}))
	must(t, s.Close())
	runScript(t, path, `DROP TABLE request_minutes; PRAGMA user_version = 3;
		CREATE INDEX requests_account ON requests (account_id, timestamp) WHERE account_id IS NOT NULL;
		CREATE INDEX requests_model ON requests (model_used, timestamp) WHERE model_used IS NOT NULL;
		CREATE INDEX requests_client ON requests (client, timestamp) WHERE client IS NOT NULL;
		CREATE INDEX requests_outcome ON requests (outcome, timestamp) WHERE outcome <> 'ok'`)

	s = open(t, testOptions(path))
	for _, q := range []api.RequestQuery{{Account: "work"}, {Model: *r.Model}, {Client: "laptop"}, {Outcome: api.OutcomeOK}} {
		if have := ids(got(s.Requests(t.Context(), q))(t)); !slices.Equal(have, []string{"r1"}) {
			t.Errorf("%+v: got %q", q, have)
		}
	}
	var indexes string
	must(t, s.reader.scan(t.Context(), []any{&indexes}, `SELECT group_concat(name) FROM pragma_index_list('requests')`))
	if indexes != "requests_time,sqlite_autoindex_requests_1" {
		t.Errorf("the table has %s", indexes)
	}
}

func TestMinutesGoWithTheirRows(t *testing.T) {
	t.Parallel()
	s := openNew(t)
	minutes := func() (n int) {
		must(t, s.reader.scan(t.Context(), []any{&n}, `SELECT COUNT(*) FROM request_minutes`))
		return n
	}
	var rows []Row
	for i := range 10 {
		rows = append(rows, row(fmt.Sprint(i), start.Add(time.Duration(i)*30*time.Second)))
	}
	must(t, s.InsertRows(t.Context(), rows))
	// As after a copy, which an older version may have begun.
	must(t, s.write(t.Context(), 0, s.engine.recount))
	for _, c := range []struct{ maxRows, left int64 }{{10, 5}, {8, 4}, {7, 4}, {1, 1}} {
		got(s.Prune(t.Context(), time.Time{}, c.maxRows))(t)
		if n := minutes(); n != int(c.left) {
			t.Errorf("with %d rows, %d minutes are left, want %d", c.maxRows, n, c.left)
		}
	}
	got(s.ClearRequests(t.Context()))(t)
	if n := minutes(); n != 0 {
		t.Errorf("%d minutes are left without rows", n)
	}
}

func TestPagesJoinWithoutGapOrOverlap(t *testing.T) {
	onEachEngine(t, testPagesJoinWithoutGapOrOverlap)
}

func testPagesJoinWithoutGapOrOverlap(t *testing.T, db testDB) {
	s := db.open(t)
	a := account("work")
	must(t, s.AddAccount(t.Context(), a))
	rapid.Check(t, func(rt *rapid.T) {
		if _, err := s.ClearRequests(t.Context()); err != nil {
			rt.Fatal(err)
		}
		times := rapid.SliceOfN(rapid.IntRange(0, 4), 0, 30).Draw(rt, "times") // many at the same millisecond
		step := rapid.SampledFrom([]time.Duration{time.Millisecond, time.Minute - time.Millisecond, 40 * time.Second}).Draw(rt, "step")
		var rows []Row
		for i, n := range times {
			r := row(fmt.Sprintf("%c%d", 'a'+i%3, i), start.Add(time.Duration(n)*step))
			if i%2 == 0 {
				r = answered(r.ID, time.UnixMilli(r.Timestamp), a)
			}
			rows = append(rows, r)
		}
		if err := s.InsertRows(t.Context(), rows); err != nil {
			rt.Fatal(err)
		}
		q := api.RequestQuery{Limit: rapid.IntRange(1, 10).Draw(rt, "limit")}
		if rapid.Bool().Draw(rt, "by account") {
			q.Account = "work"
		}
		if rapid.Bool().Draw(rt, "by outcome") {
			q.Outcome = api.OutcomeOK
		}
		var want []api.Request
		for _, r := range rows {
			if q.Account+string(q.Outcome) == "" || r.AccountID != "" {
				want = append(want, r.Request)
			}
		}
		slices.SortFunc(want, newestFirst)
		var have []api.Request
		for {
			page, err := s.Requests(t.Context(), q)
			if err != nil {
				rt.Fatal(err)
			}
			have = append(have, page...)
			if len(page) < q.Limit {
				break
			}
			q.Before = page[len(page)-1].ID
		}
		if !slices.Equal(ids(have), ids(want)) {
			rt.Fatalf("got %q, want %q", ids(have), ids(want))
		}
	})
}

func TestPruneKeepsAgeAndRowBounds(t *testing.T) { onEachEngine(t, testPruneKeepsAgeAndRowBounds) }

func testPruneKeepsAgeAndRowBounds(t *testing.T, db testDB) {
	s := db.open(t)
	a := account("work")
	must(t, s.AddAccount(t.Context(), a))
	var rows []Row
	for i := range 2500 {
		rows = append(rows, answered(fmt.Sprintf("old-%04d", i), start.Add(-48*time.Hour+time.Duration(i)*time.Millisecond), a))
	}
	for i := range 20 {
		rows = append(rows, answered(fmt.Sprintf("new-%02d", i), start.Add(time.Duration(i)*time.Millisecond), a))
	}
	must(t, s.InsertRows(t.Context(), rows))
	size := func() int64 {
		if e, ok := s.engine.(*sqliteEngine); ok {
			return got(e.pragma(t.Context(), "page_count"))(t)
		}
		var used int64
		for _, d := range got(s.engine.(*postgresEngine).requestDays(t.Context()))(t) {
			used += min(d.requests, 1)
		}
		return used
	}
	before := size()

	if n := got(s.Prune(t.Context(), start.Add(-24*time.Hour), 0))(t); n != 2500 {
		t.Errorf("%d rows went by age", n)
	}
	if n := got(s.Stats(t.Context(), time.Time{}))(t).TotalRequests; n != 20 {
		t.Errorf("%d requests are left in the sums", n)
	}
	if after := size(); after >= before || before > 4 && after > before/4 {
		t.Errorf("it takes %d after %d", after, before)
	}
	if n := got(s.Prune(t.Context(), time.Time{}, 5))(t); n != 15 {
		t.Errorf("%d rows went by number", n)
	}
	if left := ids(got(s.Requests(t.Context(), api.RequestQuery{}))(t)); len(left) != 5 || left[4] != "new-15" || rowCounter(t, s) != 5 {
		t.Errorf("left are %q, counted %d", left, rowCounter(t, s))
	}
	if n := got(s.Prune(t.Context(), start.Add(-24*time.Hour), 5))(t); n != 0 {
		t.Errorf("%d rows went for no reason", n)
	}
}

func TestClearingTheHistoryKeepsCountersAndBudgets(t *testing.T) {
	onEachEngine(t, testClearingTheHistoryKeepsCountersAndBudgets)
}

func testClearingTheHistoryKeepsCountersAndBudgets(t *testing.T, db testDB) {
	s := db.open(t)
	a := account("work")
	must(t, s.AddAccount(t.Context(), a))
	must(t, s.AddKey(t.Context(), Key{ID: "k", Name: "laptop"}))
	r := answered("r1", start, a)
	r.Client = new("laptop")
	must(t, s.InsertRows(t.Context(), []Row{r, row("r2", start)}))
	if n := got(s.ClearRequests(t.Context()))(t); n != 2 || rowCounter(t, s) != 0 {
		t.Errorf("%d rows went, %d are counted", n, rowCounter(t, s))
	}
	if n := got(s.ClearRequests(t.Context()))(t); n != 0 {
		t.Errorf("%d rows went out of nothing", n)
	}
	if stats := got(s.Stats(t.Context(), time.Time{}))(t); stats.TotalRequests != 0 || len(stats.ByAccount) != 0 {
		t.Errorf("statistics are %+v", stats)
	}
	if now := one(t, s, a.ID); now.RequestCount != 1 {
		t.Errorf("the account's count is %d", now.RequestCount)
	}
	if spent := got(s.KeySpend(t.Context(), start))(t); spent["laptop"] != 0.01 {
		t.Errorf("spent %v", spent)
	}
}
