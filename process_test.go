package claudebalancer

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/simulator"
)

// More of what can be done with a Caddy process: kill it, look into its file,
// start another one beside it, run the command against it.

// beside is another process in front of the same provider.
func (p *process) beside() *process {
	return &process{t: p.t, sim: p.sim, up: p.up, dir: p.t.TempDir(), port: freePort(p.t), admin: "localhost:" + freePort(p.t)}
}

// kill is what no process can prepare for.
func (p *process) kill() { p.end(syscall.SIGKILL) }

// fails starts Caddy, which must refuse, and returns what that run logged.
func (p *process) fails(config string) string {
	p.t.Helper()
	before := len(p.logged())
	p.begin(config)
	select {
	case err := <-p.exited:
		if err == nil {
			p.t.Error("Caddy ended without an error")
		}
	case <-time.After(time.Minute):
		p.t.Fatal("Caddy started")
	}
	return p.logged()[before:]
}

// logs waits for a line of its log.
func (p *process) logs(line string) {
	p.t.Helper()
	p.waitFor("it logs: "+line, func() bool { return strings.Contains(p.logged(), line) })
}

// storePath is where it keeps its accounts unless told otherwise.
func (p *process) storePath() string {
	return filepath.Join(p.dir, "data", "caddy", "claude-accounts.db")
}

// database opens a file beside the processes that use it.
func (p *process) database(path string) database {
	p.t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(20000)")
	if err != nil {
		p.t.Fatal(err)
	}
	conn, err := db.Conn(context.Background())
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		_ = conn.Close()
		_ = db.Close()
	})
	return database{p.t, conn}
}

type database struct {
	t    testing.TB
	conn *sql.Conn
}

func (d database) exec(statement string) {
	d.t.Helper()
	if _, err := d.conn.ExecContext(context.Background(), statement); err != nil {
		d.t.Fatalf("%s: %v", statement, err)
	}
}

func (d database) number(query string) (n int) {
	d.t.Helper()
	if err := d.conn.QueryRowContext(context.Background(), query).Scan(&n); err != nil {
		d.t.Fatalf("%s: %v", query, err)
	}
	return n
}

// addWithLife adds an account of the provider whose token is told to live for so
// long from now.
func (p *process) addWithLife(name string, c simulator.Credentials, life time.Duration) {
	p.t.Helper()
	p.ask("POST", "/claude_balancer/accounts", map[string]any{
		"name": name, "plan_type": "max", "access_token": c.Access.Reveal(), "refresh_token": c.Refresh.Reveal(),
		"expires_at": time.Now().Add(life).UnixMilli(),
	}, 201)
}

func (p *process) account(name string) (a api.Account) {
	p.t.Helper()
	if err := json.Unmarshal(p.get("/claude_balancer/accounts/"+url.PathEscape(name)), &a); err != nil {
		p.t.Fatal(err)
	}
	return a
}

// get reads from the admin endpoint.
func (p *process) get(path string) []byte {
	p.t.Helper()
	res, err := http.Get("http://" + p.admin + path)
	if err != nil {
		p.t.Fatal(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		p.t.Fatalf("GET %s: %d %s, %v", path, res.StatusCode, answer, err)
	}
	return answer
}

// asks makes a client's request; the error of a process that dies of it is 0.
func (p *process) asks() (status int, body string) {
	status, body, err := p.message(context.Background(), p.client("1"), false)
	if err != nil {
		return 0, err.Error()
	}
	return status, body
}

func (p *process) serves() {
	p.t.Helper()
	if status, body := p.asks(); status != http.StatusOK {
		p.t.Errorf("status %d: %s", status, body)
	}
}

// told is what a run of the command printed.
type told struct {
	out, err string
	ok       bool
}

// balancer is `caddy claude-balancer` with arguments, as a process.
func (p *process) balancer(args ...string) *exec.Cmd {
	return p.command(append([]string{"claude-balancer", "--address", p.admin}, args...)...)
}

// tells runs the command inside this process, which is much faster.
func (p *process) tells(args ...string) told {
	caddy, cmd := &cobra.Command{Use: "caddy", SilenceUsage: true}, &cobra.Command{Use: "claude-balancer"}
	caddycmd.Commands()["claude-balancer"].CobraFunc(cmd)
	caddy.AddCommand(cmd)
	var out, errs bytes.Buffer
	caddy.SetOut(&out)
	caddy.SetErr(&errs)
	caddy.SetIn(strings.NewReader(""))
	caddy.SetArgs(append([]string{"claude-balancer", "--address", p.admin}, args...))
	err := caddy.Execute()
	return told{out.String(), errs.String(), err == nil}
}

// login runs a command that prints a URL and asks for a code, and answers it
// with what paste makes of the URL.
func (p *process) login(paste func(url string) string, args ...string) told {
	p.t.Helper()
	cmd := p.balancer(args...)
	in, err := cmd.StdinPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	page, err := lines.ReadString('\n')
	if err == nil {
		_, err = io.WriteString(in, paste(strings.TrimSuffix(page, "\n"))+"\n")
	}
	if err != nil && err != io.EOF { // it may refuse before it has a URL
		p.t.Error(err)
	}
	_ = in.Close()
	rest, err := io.ReadAll(lines)
	if err != nil {
		p.t.Error(err)
	}
	err = cmd.Wait()
	return told{page + string(rest), errs.String(), err == nil}
}

// approve lets a login into an account at the provider and returns the code.
func (p *process) approve(account string) func(url string) string {
	return func(page string) string {
		code, err := p.sim.Approve(page, account)
		if err != nil {
			p.t.Error(err)
		}
		return code
	}
}
