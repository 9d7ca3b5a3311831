package store

import (
	"strings"
	"testing"

	"github.com/claude-balancer/claude-balancer/secret"
	"github.com/claude-balancer/claude-balancer/store/storetest"
)

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
