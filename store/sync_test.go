package store

import (
	"os"
	"testing"
	"time"
)

// Nothing but the history may be committed without waiting for the disk.
func TestTheHistoryIsSyncedWithinTheNextPruningAndAllElseAtOnce(t *testing.T) {
	t.Parallel()
	s := openNew(t)
	e := inSQLite(s)
	a := account("work")
	must(t, s.AddAccount(t.Context(), a))
	if e.unsynced.Load() {
		t.Error("an account is not synced")
	}
	must(t, s.InsertRows(t.Context(), []Row{answered("1", start, a)}))
	if !e.unsynced.Load() {
		t.Error("a row waits for the disk")
	}
	if n, err := e.pragma(t.Context(), "synchronous"); err != nil || n != 2 {
		t.Errorf("the next transaction would not be synced: %d %v", n, err)
	}
	before := fileSize(t, s.Name())
	if _, err := s.Prune(t.Context(), start.Add(-time.Hour), 0); err != nil {
		t.Fatal(err)
	}
	if e.unsynced.Load() || fileSize(t, s.Name()) <= before {
		t.Error("pruning does not bring the row into the file")
	}
}

func fileSize(t *testing.T, name string) int64 {
	t.Helper()
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}
