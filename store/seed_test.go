package store

import (
	"errors"
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

func readFixture(tb testing.TB, name string) string {
	tb.Helper()
	script, err := os.ReadFile(filepath.Join("testdata", name+".sql"))
	must(tb, err)
	return string(script)
}

func openSeed(tb testing.TB, fixture string) *Store {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "claude-accounts.db")
	runScript(tb, path, readFixture(tb, fixture))
	return open(tb, testOptions(path))
}

func TestFilesOfEverySeedStateOpenAsTheyAre(t *testing.T) {
	t.Parallel()
	for _, fixture := range []string{"s0", "s1_server", "s1_cli", "s2", "s3"} {
		t.Run(fixture, func(t *testing.T) {
			t.Parallel()
			s := openSeed(t, fixture)
			accounts := got(s.Accounts(t.Context()))(t)
			if len(accounts) < 2 {
				t.Fatalf("%d accounts are left", len(accounts))
			}
			work, idle := accounts[0], accounts[1]
			if work.Name != "work" || work.Plan != api.PlanConsole || work.Models != nil || work.Weight != 1 || work.State != "" ||
				work.Credential.Kind != api.KindOAuth || work.Credential.Refresh.Reveal() != "rt-work" ||
				work.Credential.Access.Reveal() != "at-work" || work.Credential.ExpiresAt.UnixMilli() != 1752000000000 ||
				!work.Credential.IssuedAt.IsZero() || work.CreatedAt.UnixMilli() != 1751000000000 {
				t.Errorf("work came over as %+v", work)
			}
			if fixture != "s1_cli" && work.RequestCount != 7 {
				t.Errorf("work's count is %d", work.RequestCount)
			}
			if !idle.Credential.Access.IsZero() || !idle.Credential.ExpiresAt.IsZero() || !idle.LastUsed.IsZero() {
				t.Errorf("idle came over as %+v", idle)
			}
			if err := s.AddAccount(t.Context(), account("work")); !errors.Is(err, ErrExists) {
				t.Errorf("a used name: got %v", err)
			}
			must(t, s.AddAccount(t.Context(), account("new")))
			checkSeedHistory(t, s, fixture)

			must(t, s.Close())
			again := open(t, testOptions(s.Name()))
			if after := got(again.Accounts(t.Context()))(t); len(after) != len(accounts)+1 || !reflect.DeepEqual(after[:2], accounts[:2]) {
				t.Errorf("opened again, accounts are %+v", after)
			}
			checkSeedHistory(t, again, fixture)
		})
	}
}

func checkSeedHistory(t *testing.T, s *Store, fixture string) {
	t.Helper()
	rows := got(s.Requests(t.Context(), api.RequestQuery{}))(t)
	stats := got(s.Stats(t.Context(), time.Time{}))(t)
	if fixture == "s1_cli" {
		if len(rows) != 0 || stats.TotalRequests != 0 {
			t.Errorf("%d rows, %d requests out of nowhere", len(rows), stats.TotalRequests)
		}
		return
	}
	var have []string
	for _, r := range rows {
		name := "nobody"
		if r.AccountUsed != nil {
			name = *r.AccountUsed
		}
		have = append(have, r.ID+" "+name+" "+string(r.Outcome))
	}
	if want := []string{"r3 gone ok", "r2 nobody exhausted", "r1 work ok"}; !slices.Equal(have, want) {
		t.Errorf("the history is %q, want %q", have, want)
	}
	if stats.TotalRequests != 3 || stats.SuccessRate != 67 || stats.ByAccount["work"].Requests != 1 ||
		stats.ByAccount["gone"].Requests != 1 || stats.ByPlan[api.PlanConsole].Requests != 1 {
		t.Errorf("statistics are %+v", stats)
	}
	if gone := got(s.Requests(t.Context(), api.RequestQuery{Account: "gone"}))(t); len(gone) != 1 {
		t.Errorf("%d rows of the removed account are found", len(gone))
	}
	if fixture == "s3" && (stats.Opus != api.OpusStats{Requests: 2, SuccessRate: 50} ||
		stats.ByModel["claude-opus-4-20250514"].Tokens.Input != 100 ||
		!slices.Equal(stats.Unpriced, []string{"claude-opus-4-20250514"})) {
		t.Errorf("tokens and models are %+v", stats)
	}
	if n := rowCounter(t, s); n != 3 {
		t.Errorf("%d rows are counted", n)
	}
}

func TestAnOldAccountKeepsItsOwnModelList(t *testing.T) {
	t.Parallel()
	accounts := got(openSeed(t, "s1_server").Accounts(t.Context()))(t)
	if idle := accounts[1]; idle.Plan != api.PlanMax || idle.Models != nil {
		t.Errorf("the default list of a max account came over as %+v", idle)
	}
	if own := accounts[2]; !slices.Equal(own.Models, []string{"claude-3-opus-20240229"}) {
		t.Errorf("an own list came over as %q", own.Models)
	}
}

func TestOldNamesBecomeUsableAndUnique(t *testing.T) {
	t.Parallel()
	s := openSeed(t, "names")
	names := map[string]string{}
	for _, a := range got(s.Accounts(t.Context()))(t) {
		names[a.ID] = a.Name
		if want := "rt-" + strings.SplitN(a.ID, "-", 2)[1]; a.ID[0] < '5' && a.Credential.Refresh.Reveal() != want {
			t.Errorf("%s lost its token", a.ID)
		}
	}
	want := map[string]string{
		"2-old": "work", "1-young": "work-3", "3-same": "work-4", "4-taken": "work-2", "5-blank": "work-5",
		"6-empty": "account", "7-control": "a-b", "8-quote": `o'hara "x" <b>`, "9-long": strings.Repeat("n", 64),
	}
	if !reflect.DeepEqual(names, want) {
		t.Errorf("names are %q, want %q", names, want)
	}
	for name, id := range map[string]string{"work": "r1", "work-5": "r2"} {
		if rows := got(s.Requests(t.Context(), api.RequestQuery{Account: name}))(t); len(rows) != 1 || rows[0].ID != id {
			t.Errorf("the history of %q is %+v", name, rows)
		}
	}
}

func TestUsableNamesObeyTheRule(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		raw := string(rapid.SliceOf(rapid.Byte()).Draw(t, "name"))
		taken := map[string]bool{usableName(raw): true}
		for range 12 {
			name := freeName(usableName(raw), taken)
			taken[name] = true
		}
		if len(taken) != 13 {
			t.Fatalf("names repeat: %v", taken)
		}
		for name := range taken {
			if valid, err := api.ValidName(name); err != nil || valid != name || usableName(name) != name {
				t.Fatalf("%q became %q: %v", raw, name, err)
			}
		}
	})
}

func TestAFailedMigrationLeavesTheOldFileAsItWas(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "old.db")
	// A view in the way of one of our tables stops the migration at its end.
	runScript(t, path, readFixture(t, "s3")+`CREATE VIEW limits AS SELECT 1;`)
	if s, err := Open(t.Context(), testOptions(path)); err == nil {
		_ = s.Close()
		t.Fatal("it opened")
	}
	db := rawDB(t, path)
	var version, columns int
	var models string
	must(t, db.QueryRow(`PRAGMA user_version`).Scan(&version))
	must(t, db.QueryRow(`SELECT COUNT(*) FROM pragma_table_info('accounts')`).Scan(&columns))
	must(t, db.QueryRow(`SELECT supported_models FROM accounts WHERE id = 'id-work'`).Scan(&models))
	if version != 0 || columns != 17 || models == "" {
		t.Errorf("version %d, %d columns, models %q", version, columns, models)
	}
}

func TestASmallOldFileCanShrinkAfterwards(t *testing.T) {
	t.Parallel()
	s := openSeed(t, "s3")
	if mode := got(inSQLite(s).pragma(t.Context(), "auto_vacuum"))(t); mode != 2 {
		t.Errorf("auto_vacuum is %d", mode)
	}
}
