package store

import (
	"slices"
	"testing"
	"time"
)

func sessions(t *testing.T, s *Store, since time.Time, limit int) []Session {
	t.Helper()
	all, _, err := s.Sessions(t.Context(), since, limit)
	must(t, err)
	return all
}

func TestSessionsAreReadOnFromTheLastOne(t *testing.T) {
	onEachEngine(t, testSessionsAreReadOnFromTheLastOne)
}

func testSessionsAreReadOnFromTheLastOne(t *testing.T, db testDB) {
	s := db.open(t)
	must(t, s.AddAccount(t.Context(), account("a")))
	save := func(keys ...string) {
		t.Helper()
		var all []Session
		for _, key := range keys {
			all = append(all, Session{Key: key, AccountID: "id-a", LastUsed: start})
		}
		must(t, s.SaveSessions(t.Context(), all))
	}
	save("a", "b")
	_, revision, err := s.Sessions(t.Context(), time.Time{}, 10)
	must(t, err)
	read := func(limit int, want ...string) {
		t.Helper()
		all, next, err := s.SessionsAfter(t.Context(), revision, limit)
		must(t, err)
		var keys []string
		for _, one := range all {
			keys = append(keys, one.Key)
		}
		slices.Sort(keys)
		if revision = next; !slices.Equal(keys, want) {
			t.Errorf("read %v, want %v", keys, want)
		}
	}
	read(10)
	save("c")
	save("d", "e")
	save("a")
	save("f")
	read(2, "c", "d", "e")
	read(10, "a", "f")
	read(10)
}

func TestNodesSeeWhatTheOthersToldLately(t *testing.T) {
	onEachEngine(t, testNodesSeeWhatTheOthersToldLately)
}

func testNodesSeeWhatTheOthersToldLately(t *testing.T, db testDB) {
	s := db.open(t)
	must(t, s.TellNode(t.Context(), "one", []byte(`{"x":1}`)))
	must(t, s.TellNode(t.Context(), "two", []byte(`{}`)))
	must(t, s.TellNode(t.Context(), "two", []byte(`{"y":2}`)))
	all := got(s.OtherNodes(t.Context(), "one", time.Minute))(t)
	if len(all) != 1 || all[0].ID != "two" || string(all[0].Load) != `{"y":2}` || all[0].Age < 0 || all[0].Age > time.Minute {
		t.Errorf("%+v", all)
	}
	if all := got(s.OtherNodes(t.Context(), "three", -time.Minute))(t); len(all) != 0 {
		t.Errorf("%+v", all)
	}
	must(t, s.RemoveNodes(t.Context(), time.Minute))
	if all := got(s.OtherNodes(t.Context(), "three", time.Minute))(t); len(all) != 2 {
		t.Errorf("%+v", all)
	}
	must(t, s.RemoveNodes(t.Context(), -time.Minute))
	if all := got(s.OtherNodes(t.Context(), "three", time.Minute))(t); len(all) != 0 {
		t.Errorf("%+v", all)
	}
}
