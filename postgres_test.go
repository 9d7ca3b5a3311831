package claudebalancer

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/claude-balancer/claude-balancer/simulator"
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

// hiddenURL puts a schema's URL into the environment of a process, and returns
// the password in it.
func (p *process) hiddenURL(at string) (password string) {
	p.t.Helper()
	u, err := url.Parse(at)
	if err != nil {
		p.t.Fatal(err)
	}
	p.env = append(p.env, "DATABASE_URL="+at)
	password, _ = u.User.Password()
	return password
}

func TestAPostgreSQLPasswordIsSeenNowhere(t *testing.T) {
	t.Parallel()
	at := storetest.Postgres(t)
	c := newProcess(t, simulator.Options{})
	password := c.hiddenURL(at)
	c.start(c.config("store postgres {env.DATABASE_URL}", ""))
	c.add("work", "max")
	c.serves()
	if config := string(c.get("/config/")); strings.Contains(config, password) || !strings.Contains(config, "{env.DATABASE_URL}") {
		t.Errorf("the configuration is %s", config)
	}
	c.end(syscall.SIGTERM)
	if strings.Contains(c.logged(), password) {
		t.Error("the log holds it")
	}

	c.hiddenURL(strings.Replace(at, password+"@", password+"x@", 1))
	said := c.fails(c.config("store postgres {env.DATABASE_URL}", ""))
	if strings.Contains(said, password) || !strings.Contains(said, "check the user and the password") {
		t.Errorf("a wrong password: %s", said)
	}
	if said := c.fails(c.config("store postgres {env.NOT_SET}", "")); !strings.Contains(said, "postgres {env.NOT_SET}: there is no URL in it") {
		t.Errorf("no URL: %s", said)
	}
}

func TestAKilledMigrationGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	at := storetest.Postgres(t)
	c := newProcess(t, simulator.Options{})
	c.hiddenURL(at)
	c.start(c.config("", ""))
	c.add("work", "max")
	c.serves()
	c.end(syscall.SIGTERM)
	old := c.database(c.storePath())
	const rows = 30_000
	old.exec(fmt.Sprintf(`WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d)
		INSERT INTO requests (id, timestamp, method, path, outcome) SELECT printf('%%06d', i), 1760000000000 + i * 10000, 'POST', '/', 'ok' FROM n`, rows))

	watch, err := pgx.Connect(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close(context.Background())
	arrived := func() (n int) {
		_ = watch.QueryRow(context.Background(), "SELECT COUNT(*) FROM requests").Scan(&n) // 0 until there is a table
		return n
	}
	migrate := func() *exec.Cmd {
		return c.balancer("migrate-store", "--from", "sqlite:"+c.storePath(), "--to", "postgres:{env.DATABASE_URL}")
	}
	first := migrate()
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	c.waitFor("some rows arrive", func() bool { return arrived() > 0 })
	_ = first.Process.Kill()
	_ = first.Wait()
	if n := arrived(); n == 0 || n >= rows {
		t.Errorf("%d rows have arrived when it is killed", n)
	}
	if said := c.fails(c.config("store postgres {env.DATABASE_URL}", "")); !strings.Contains(said, "unfinished copy") {
		t.Errorf("half a copy: %s", said)
	}
	out, err := migrate().CombinedOutput()
	if err != nil || !strings.Contains(string(out), "and compared them") {
		t.Fatalf("%v: %s", err, out)
	}
	t.Logf("%s", out)
	c.start(c.config("store postgres {env.DATABASE_URL}", ""))
	if a := c.account("work"); a.RequestCount != 1 {
		t.Errorf("the account had %d requests", a.RequestCount)
	}
	c.serves()
	c.waitFor("the history goes on", func() bool { return arrived() == rows+2 })
}
