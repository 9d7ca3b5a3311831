package store

import (
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
)

func TestALimitIsChangedOnlyFromTheOneThatIsStored(t *testing.T) {
	onEachEngine(t, testALimitIsChangedOnlyFromTheOneThatIsStored)
}

func testALimitIsChangedOnlyFromTheOneThatIsStored(t *testing.T, db testDB) {
	s := db.open(t)
	must(t, s.AddAccount(t.Context(), account("a")))
	must(t, s.AddAccount(t.Context(), account("b")))
	limit := func(id, name string, minutes time.Duration) *Limit {
		return &Limit{AccountID: id, Scope: api.ScopeFamily, Name: name, Cause: "burst", Header: "retry-after",
			Since: start.Local(), Until: start.Add(minutes * time.Minute).Local()}
	}
	first, longer, shorter := limit("id-a", "opus", 10), limit("id-a", "opus", 20), limit("id-a", "opus", 5)
	other, elsewhere := limit("id-a", "haiku", 1), limit("id-b", "opus", 1)
	must(t, s.ChangeLimits(t.Context(), "id-b", []LimitChange{{Is: elsewhere}}))
	for i, step := range []struct {
		changes []LimitChange
		want    []Limit
	}{
		{[]LimitChange{{Is: first}, {Is: other}}, []Limit{*other, *first}},
		{[]LimitChange{{Is: shorter}}, []Limit{*other, *first}},
		{[]LimitChange{{Was: longer}}, []Limit{*other, *first}},
		{[]LimitChange{{Was: longer, Is: shorter}}, []Limit{*other, *first}},
		{[]LimitChange{{Was: first, Is: shorter}}, []Limit{*other, *shorter}},
		{[]LimitChange{{Was: first, Is: longer}}, []Limit{*other, *longer}},
		{[]LimitChange{{Was: longer}, {Was: other}}, nil},
		{[]LimitChange{{Was: longer}}, nil},
	} {
		must(t, s.ChangeLimits(t.Context(), "id-a", step.changes))
		if have := got(s.Limits(t.Context()))(t); !reflect.DeepEqual(have, append(step.want, *elsewhere)) {
			t.Errorf("step %d: got %+v", i, have)
		}
	}
	if err := s.ChangeLimits(t.Context(), "gone", []LimitChange{{Is: first}}); !errors.Is(err, ErrNotFound) {
		t.Errorf("an account that is gone: %v", err)
	}
	must(t, s.ChangeLimits(t.Context(), "id-a", []LimitChange{{Is: first}}))
	must(t, s.ClearLimits(t.Context(), "id-b"))
	must(t, s.PruneLimits(t.Context(), first.Until))
	if have := got(s.Limits(t.Context()))(t); !reflect.DeepEqual(have, []Limit{*first}) {
		t.Errorf("cleared and pruned: %+v", have)
	}
	must(t, s.PruneLimits(t.Context(), first.Until.Add(time.Second)))
	if have := got(s.Limits(t.Context()))(t); len(have) != 0 {
		t.Errorf("pruned: %+v", have)
	}
}

func TestTheNewestWindowCounts(t *testing.T) { onEachEngine(t, testTheNewestWindowCounts) }

func testTheNewestWindowCounts(t *testing.T, db testDB) {
	s := db.open(t)
	must(t, s.AddAccount(t.Context(), account("a")))
	window := Window{AccountID: "id-a", Name: "5h", Utilization: 0.5, Status: "allowed", ResetsAt: start.Add(time.Hour).Local(), SeenAt: start.Local()}
	older, gone, silent := window, window, window
	older.SeenAt, older.Utilization = start.Add(-time.Minute), 0.9
	gone.AccountID = "gone"
	silent.Name, silent.Utilization, silent.ResetsAt = "7d", -1, time.Time{}
	must(t, s.SaveWindows(t.Context(), []Window{window, older, gone, silent}))
	if have := got(s.Windows(t.Context()))(t); !reflect.DeepEqual(have, []Window{window, silent}) {
		t.Errorf("got %+v", have)
	}
}

func TestSessionsMoveAndExpire(t *testing.T) { onEachEngine(t, testSessionsMoveAndExpire) }

func testSessionsMoveAndExpire(t *testing.T, db testDB) {
	s := db.open(t)
	must(t, s.AddAccount(t.Context(), account("a")))
	must(t, s.AddAccount(t.Context(), account("b")))
	session := func(key, id string, age time.Duration) Session {
		return Session{Key: key, AccountID: id, LastUsed: start.Add(-age).Local()}
	}
	must(t, s.SaveSessions(t.Context(), []Session{
		session("x", "id-a", time.Hour), session("y", "id-a", time.Minute), session("z", "id-a", 0), session("w", "gone", 0)}))
	must(t, s.SaveSessions(t.Context(), []Session{session("x", "id-b", time.Second)}))
	have := sessions(t, s, start.Add(-time.Minute), 2)
	if want := []Session{session("z", "id-a", 0), session("x", "id-b", time.Second)}; !reflect.DeepEqual(have, want) {
		t.Errorf("got %+v", have)
	}
	must(t, s.RemoveSessions(t.Context(), start.Add(-time.Second)))
	if have := sessions(t, s, time.Time{}, 10); len(have) != 2 {
		t.Errorf("left are %+v", have)
	}
}

func TestResourcesAreFoundById(t *testing.T) { onEachEngine(t, testResourcesAreFoundById) }

func testResourcesAreFoundById(t *testing.T, db testDB) {
	s := db.open(t)
	must(t, s.AddAccount(t.Context(), account("a")))
	var ids []string
	for i := range 1100 {
		ids = append(ids, fmt.Sprint("file_", i))
	}
	file := Resource{ID: "file_1099", AccountID: "id-a", ClientKey: "laptop", CreatedAt: start.Local()}
	must(t, s.SaveResource(t.Context(), file))
	if have := got(s.Resource(t.Context(), file.ID))(t); !reflect.DeepEqual(have, file) {
		t.Errorf("got %+v", have)
	}
	if have := got(s.Resources(t.Context(), ids))(t); !reflect.DeepEqual(have, map[string]Resource{file.ID: file}) {
		t.Errorf("got %+v", have)
	}
	must(t, s.RemoveResource(t.Context(), file.ID))
	must(t, s.RemoveResource(t.Context(), file.ID))
	if _, err := s.Resource(t.Context(), file.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("after removal: %v", err)
	}
	if err := s.SaveResource(t.Context(), Resource{ID: "x", AccountID: "gone"}); !errors.Is(err, ErrNotFound) {
		t.Errorf("an account that is gone: %v", err)
	}
}

func TestClientKeysComeBackAsTheyWereStored(t *testing.T) {
	onEachEngine(t, testClientKeysComeBackAsTheyWereStored)
}

func testClientKeysComeBackAsTheyWereStored(t *testing.T, db testDB) {
	s := db.open(t)
	k := Key{ID: "k1", Name: "laptop", Role: api.RoleClient, Models: []string{"*haiku*", "a,b"}, Accounts: []string{`o'hara, "x"`},
		CreatedAt: start.Local(), ExpiresAt: start.Add(time.Hour).Local(), RPM: 60, MaxInFlight: 2, BudgetUSD: new(1.5), BudgetPeriod: "month",
		Hash: [32]byte{1, 2, 3}, PreviousHash: [32]byte{4}, PreviousUntil: start.Local()}
	must(t, s.AddKey(t.Context(), k))
	if err := s.AddKey(t.Context(), Key{ID: "k2", Name: "laptop"}); !errors.Is(err, ErrExists) {
		t.Errorf("a used name: %v", err)
	}
	check := func(want Key) {
		t.Helper()
		if have := got(s.Keys(t.Context()))(t); !reflect.DeepEqual(have, []Key{want}) {
			t.Errorf("got  %+v\nwant %+v", have, want)
		}
	}
	check(k)
	must(t, s.TouchKeys(t.Context(), map[string]time.Time{"k1": start, "unknown": start}))
	must(t, s.TouchKeys(t.Context(), map[string]time.Time{"k1": start.Add(-time.Hour)}))
	k.LastUsed = start.Local()
	check(k)
	k.Models, k.Accounts, k.BudgetUSD, k.Hash = nil, nil, nil, [32]byte{9}
	must(t, s.UpdateKey(t.Context(), k))
	check(k)
	must(t, s.RemoveKey(t.Context(), "k1"))
	for _, err := range []error{s.RemoveKey(t.Context(), "k1"), s.UpdateKey(t.Context(), k)} {
		if !errors.Is(err, ErrNotFound) {
			t.Errorf("a removed key: %v", err)
		}
	}
}

func TestSpendingIsKeptByKeyAndHour(t *testing.T) { onEachEngine(t, testSpendingIsKeptByKeyAndHour) }

func testSpendingIsKeptByKeyAndHour(t *testing.T, db testDB) {
	s := db.open(t)
	must(t, s.AddKey(t.Context(), Key{ID: "k1", Name: "laptop"}))
	var rows []Row
	for i, age := range []time.Duration{0, time.Hour, 40 * 24 * time.Hour} {
		r := answered(fmt.Sprint(i), start.Add(-age), account("work"))
		r.Client = new("laptop")
		rows = append(rows, r)
	}
	must(t, s.InsertRows(t.Context(), rows))
	for _, c := range []struct {
		since time.Time
		want  float64
	}{{start, 0.01}, {start.Add(-time.Hour), 0.02}, {time.Time{}, 0.03}} {
		if spent := got(s.KeySpend(t.Context(), c.since))(t); spent["laptop"] < c.want-1e-9 || spent["laptop"] > c.want+1e-9 {
			t.Errorf("since %v: %v, want %v", c.since, spent, c.want)
		}
	}
	// A short history must not empty a month's budget.
	_ = got(s.Prune(t.Context(), start.Add(time.Hour), 0))(t)
	if spent := got(s.KeySpend(t.Context(), time.Time{}))(t); spent["laptop"] < 0.02-1e-9 || spent["laptop"] > 0.02+1e-9 {
		t.Errorf("after pruning: %v", spent)
	}
	must(t, s.RemoveKey(t.Context(), "k1"))
	if spent := got(s.KeySpend(t.Context(), time.Time{}))(t); len(spent) != 0 {
		t.Errorf("after removal: %v", spent)
	}
}

func TestTheAuditTrailIsReadBackwards(t *testing.T) {
	onEachEngine(t, testTheAuditTrailIsReadBackwards)
}

func testTheAuditTrailIsReadBackwards(t *testing.T, db testDB) {
	s := db.open(t)
	for i := range 3 {
		must(t, s.AddAudit(t.Context(), Audit{At: start.Add(time.Duration(i/2) * time.Hour), What: fmt.Sprint(i), Who: "cli", Detail: "d"}))
	}
	have := got(s.Audits(t.Context(), 2))(t)
	if len(have) != 2 || have[0].What != "2" || have[1].What != "1" {
		t.Errorf("got %+v", have)
	}
	must(t, s.PruneAudit(t.Context(), start.Add(time.Hour)))
	if have := got(s.Audits(t.Context(), 10))(t); len(have) != 1 {
		t.Errorf("left are %+v", have)
	}
}
