package claudebalancer

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/claude-balancer/claude-balancer/store/storetest"
)

// onPostgres is the line that keeps a pool in a PostgreSQL schema of its own.
func onPostgres(t testing.TB) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "url")
	if err := os.WriteFile(file, []byte(storetest.Postgres(t)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return "store postgres {file." + file + "}"
}

func TestANodeServesFromPostgreSQL(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{store: onPostgres(t)})
	r.add("work", "max")
	if a := r.message(sonnet); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if a := r.stream(opus); a.status != 200 || a.header.Get("X-Proxy-Account") != "work" {
		t.Fatalf("%d %s", a.status, a.body)
	}
	r.rows(2)
	r.restart()
	if n := len(r.rows(2)); n != 2 || r.account("work").RequestCount != 2 {
		t.Errorf("%d rows and %d requests are left", n, r.account("work").RequestCount)
	}
	if a := r.message(sonnet); a.status != 200 {
		t.Errorf("after the restart: %d %s", a.status, a.body)
	}
}
