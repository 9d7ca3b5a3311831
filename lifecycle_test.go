package claudebalancer

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/quic-go/quic-go/http3"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/simulator"
)

// The tests here run Caddy as a process of its own: what happens at a reload, a
// signal or a crash cannot be seen from inside.

// asCaddy makes this test binary be Caddy.
const asCaddy = "CLAUDE_BALANCER_TEST_AS_CADDY"

// clockAhead is how far such a Caddy's clock is ahead.
const clockAhead = "CLAUDE_BALANCER_TEST_CLOCK_AHEAD"

// process is a running Caddy in front of a simulator.
type process struct {
	t      testing.TB
	sim    *simulator.Simulator
	up     *simulator.Server
	dir    string
	port   string // of the HTTPS site
	admin  string // address of the admin endpoint
	env    []string
	cmd    *exec.Cmd
	exited chan error
}

func newProcess(t testing.TB, o simulator.Options) *process {
	t.Helper()
	p := &process{t: t, sim: simulator.New(o), dir: t.TempDir(), port: freePort(t), admin: "localhost:" + freePort(t)}
	p.up = p.sim.Start()
	t.Cleanup(p.up.Close)
	return p
}

// freePort returns the number of a port that was free a moment ago.
func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return fmt.Sprint(l.Addr().(*net.TCPAddr).Port)
}

// config is a whole Caddyfile; global and directive are further lines.
func (p *process) config(global, directive string) string {
	return fmt.Sprintf(`{
	admin %s
	skip_install_trust
	local_certs
	auto_https disable_redirects
	log {
		level DEBUG
	}
	claude_balancer {
		oauth {
			token_url %[2]s/v1/oauth/token
			profile_url %[2]s/api/oauth/profile
		}
		%[3]s
	}
}
https://localhost:%[4]s {
	bind 127.0.0.1
	claude_balancer {
		upstream %[2]s
		%[5]s
	}
}`, p.admin, p.up.URL, global, p.port, directive)
}

func (p *process) command(args ...string) *exec.Cmd {
	p.t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(append(os.Environ(), p.env...), asCaddy+"=1", "HOME="+p.dir, "XDG_DATA_HOME="+filepath.Join(p.dir, "data"), "XDG_CONFIG_HOME="+filepath.Join(p.dir, "config"))
	return cmd
}

func (p *process) start(config string) {
	p.t.Helper()
	p.begin(config)
	p.answers()
}

// answers waits until the process does.
func (p *process) answers() {
	p.t.Helper()
	p.waitFor("Caddy answers", func() bool {
		select {
		case err := <-p.exited:
			p.t.Fatalf("Caddy ended: %v\n%s", err, p.logged())
		default:
		}
		res, err := p.client("1").Get(p.url("/health"))
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
	// The site may be served before the configuration counts as live.
	p.waitFor("the admin endpoint answers", func() bool {
		res, err := http.Get("http://" + p.admin + "/claude_balancer/accounts")
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
}

// begin starts the process and does not wait for it to answer.
func (p *process) begin(config string) {
	p.t.Helper()
	file := filepath.Join(p.dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		p.t.Fatal(err)
	}
	log, err := os.OpenFile(p.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	p.cmd = p.command("run", "--config", file)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.exited = make(chan error, 1)
	cmd, exited := p.cmd, p.exited
	go func() { exited <- cmd.Wait() }()
	p.t.Cleanup(func() { _ = cmd.Process.Kill() })
}

func (p *process) logFile() string { return filepath.Join(p.dir, "caddy.log") }

// logged is what Caddy has written so far.
func (p *process) logged() string {
	text, err := os.ReadFile(p.logFile())
	if err != nil {
		p.t.Error(err)
	}
	return string(text)
}

func (p *process) end(signal syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil {
		p.t.Fatal(err)
	}
	select {
	case <-p.exited:
	case <-time.After(40 * time.Second):
		p.t.Fatalf("Caddy does not end\n%s", p.logged())
	}
}

func (p *process) waitFor(what string, ok func() bool) {
	p.t.Helper()
	(&rig{t: p.t}).eventually(what, ok)
}

func (p *process) url(path string) string { return "https://localhost:" + p.port + path }

// client speaks one version of HTTP.
func (p *process) client(version string) *http.Client {
	insecure := &tls.Config{InsecureSkipVerify: true} // the certificate is Caddy's own
	switch version {
	case "3":
		transport := &http3.Transport{TLSClientConfig: insecure}
		p.t.Cleanup(func() { _ = transport.Close() })
		return &http.Client{Transport: transport}
	default:
		transport := &http.Transport{TLSClientConfig: insecure, ForceAttemptHTTP2: version == "2"}
		p.t.Cleanup(transport.CloseIdleConnections)
		return &http.Client{Transport: transport}
	}
}

func (p *process) ask(method, path string, body any, want int) []byte {
	p.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		p.t.Fatal(err)
	}
	req, _ := http.NewRequest(method, "http://"+p.admin+path, bytes.NewReader(text))
	req.Header.Set("Content-Type", "application/json")
	req.Close = true // a reload closes connections to the admin endpoint
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer res.Body.Close()
	answer, _ := io.ReadAll(res.Body)
	if res.StatusCode != want {
		p.t.Fatalf("%s %s: %d %s", method, path, res.StatusCode, answer)
	}
	return answer
}

func (p *process) add(name, plan string) {
	p.t.Helper()
	c := p.sim.AddAccount(simulator.Account{Name: name, Plan: plan})
	p.ask("POST", "/claude_balancer/accounts", map[string]any{
		"name": name, "plan_type": plan, "access_token": c.Access.Reveal(), "refresh_token": c.Refresh.Reveal(), "expires_at": c.ExpiresAt.UnixMilli(),
	}, 201)
}

func (p *process) reload(config string, want int) []byte {
	p.t.Helper()
	raw, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), nil)
	if err != nil {
		p.t.Fatal(err)
	}
	return p.ask("POST", "/load", json.RawMessage(raw), want)
}

func (p *process) message(ctx context.Context, client *http.Client, stream bool) (status int, body string, err error) {
	req, err := http.NewRequestWithContext(ctx, "POST", p.url("/v1/messages"), strings.NewReader(messageBody(sonnet, stream)))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Anthropic-Version", "2023-06-01")
	res, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return res.StatusCode, string(text), err
}

// TestStreamsOfEveryHTTPVersionSurviveReloads makes 12 reloads while the streams
// run; with CLAUDE_BALANCER_LONG=1 it makes 50.
func TestStreamsOfEveryHTTPVersionSurviveReloads(t *testing.T) {
	t.Parallel()
	reloads := 12
	if os.Getenv("CLAUDE_BALANCER_LONG") != "" {
		reloads = 50
	}
	p := newProcess(t, simulator.Options{Pace: time.Duration(reloads) * 20 * time.Millisecond}) // longer than they take
	other := filepath.Join(p.dir, "other.db")
	configs := []string{
		p.config("", "policy round_robin"),
		p.config("history 7d", "policy priority"),
		p.config("store sqlite "+other, ""),
		p.config("", ""),
	}
	p.start(configs[3])
	p.add("work", "max")

	type end struct{ version, problem string }
	ends := make(chan end, 6)
	for _, version := range []string{"1", "2", "3", "1", "2", "3"} {
		client := p.client(version)
		go func() {
			status, body, err := p.message(t.Context(), client, true)
			problem := ""
			if err != nil || status != 200 || !strings.HasSuffix(strings.TrimSpace(body), `{"type":"message_stop"}`) {
				problem = fmt.Sprintf("%d %v …%s", status, err, body[max(0, len(body)-100):])
			}
			ends <- end{version, problem}
		}()
	}
	p.waitFor("all streams run", func() bool { return p.sim.ActiveStreams() == 6 })
	for n := range reloads {
		p.reload(configs[n%4], 200)
	}
	if n := p.sim.ActiveStreams(); n != 6 {
		t.Errorf("after %d reloads %d streams of 6 run", reloads, n)
	}
	p.reload(configs[3], 200)
	for range 6 {
		if e := <-ends; e.problem != "" {
			t.Errorf("HTTP/%s: %s", e.version, e.problem)
		}
	}
	if status, _, err := p.message(t.Context(), p.client("2"), false); status != 200 || err != nil {
		t.Errorf("after the reloads: %d %v", status, err)
	}
	var rows []api.Request
	p.waitFor("the streams are in the history", func() bool {
		if err := json.Unmarshal(p.ask("GET", "/claude_balancer/requests", nil, 200), &rows); err != nil {
			t.Fatal(err)
		}
		return len(rows) >= 6
	})
	for _, row := range rows {
		if row.Outcome != api.OutcomeOK {
			t.Errorf("row %+v", row)
		}
	}
}

func TestABrokenAnswerNeverEndsCleanlyOnAnyHTTPVersion(t *testing.T) {
	t.Parallel()
	p := newProcess(t, simulator.Options{})
	p.start(p.config("", ""))
	p.add("work", "max")
	for _, version := range []string{"1", "2", "3"} {
		client := p.client(version)
		p.sim.Script("work", simulator.Step{Do: simulator.CutStream(1)})
		if _, _, err := p.message(t.Context(), client, false); err == nil {
			t.Errorf("HTTP/%s: a cut JSON answer ended cleanly", version)
		}
		p.sim.Script("work", simulator.Step{Do: simulator.CutStream(3)})
		_, body, err := p.message(t.Context(), client, true)
		if err != nil || strings.Count(body, "event: error\n") != 1 {
			t.Errorf("HTTP/%s: a cut stream: %v %s", version, err, body)
		}
	}
}

func TestAFailedReloadChangesNothing(t *testing.T) {
	t.Parallel()
	p := newProcess(t, simulator.Options{Pace: 50 * time.Millisecond, Output: 60})
	p.start(p.config("", ""))
	p.add("work", "max")
	broken := filepath.Join(p.dir, "broken.db")
	if err := os.WriteFile(broken, []byte(strings.Repeat("this is no database ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, port, _ := net.SplitHostPort(taken.Addr().String())

	before := p.get("/config/")
	streamed := make(chan string, 1)
	go func() {
		_, body, err := p.message(t.Context(), p.client("2"), true)
		streamed <- fmt.Sprint(body, err)
	}()
	p.waitFor("the stream runs", func() bool { return p.sim.ActiveStreams() == 1 })
	for _, c := range []struct{ name, config, says string }{
		{"a file that is no database", p.config("store sqlite "+broken, "policy random"), broken},
		{"a key that is not there", p.config("encryption_key {env.NO_SUCH_KEY}", "policy random"), "encryption key is missing"},
		{"the same with a store of its own", p.config("store sqlite "+filepath.Join(p.dir, "new.db")+"\nencryption_key {env.NO_SUCH_KEY}", ""), "encryption key is missing"},
		{"a port that is taken", strings.Replace(p.config("history off", "policy random"), "https://localhost:", "http://localhost:"+port+", https://localhost:", 1), "address already in use"},
	} {
		if answer := p.reload(c.config, 400); !strings.Contains(string(answer), c.says) {
			t.Errorf("%s: %s", c.name, answer)
		}
		if after := p.get("/config/"); !bytes.Equal(before, after) {
			t.Errorf("%s: the configuration is now %s", c.name, after)
		}
		if status, body, err := p.message(t.Context(), p.client("1"), false); status != 200 || err != nil {
			t.Errorf("%s: %d %v %s", c.name, status, err, body)
		}
		var accounts []api.Account
		if err := json.Unmarshal(p.ask("GET", "/claude_balancer/accounts", nil, 200), &accounts); err != nil || len(accounts) != 1 {
			t.Errorf("%s: the admin endpoint lost the pool: %v %v", c.name, accounts, err)
		}
	}
	if body := <-streamed; !strings.Contains(body, `"type":"message_stop"`) {
		t.Errorf("the stream was cut: …%s", body[max(0, len(body)-200):])
	}
	// What a failed configuration had put in force is undone: history goes on.
	n := p.history()
	p.serves()
	p.waitFor("the history goes on", func() bool { return p.history() == n+1 })
}

func TestValidateAndAdaptTouchNothing(t *testing.T) {
	t.Parallel()
	p := newProcess(t, simulator.Options{})
	file := filepath.Join(p.dir, "Caddyfile")
	config := p.config("store sqlite "+filepath.Join(p.dir, "never", "accounts.db")+"\nencryption_key {env.NO_SUCH_KEY}", "")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"validate", "--config", file}, {"adapt", "--config", file, "--validate"}} {
		if out, err := p.command(args...).CombinedOutput(); err != nil {
			t.Errorf("%v: %v %s", args, err, out)
		}
	}
	if _, err := os.Stat(filepath.Join(p.dir, "never")); !os.IsNotExist(err) {
		t.Errorf("the store's folder is there: %v", err)
	}
}

func TestADatabaseIsKeptPrivateInCaddysDataDirectory(t *testing.T) {
	t.Parallel()
	p := newProcess(t, simulator.Options{})
	p.start(p.config("", ""))
	found := 0
	err := filepath.WalkDir(filepath.Join(p.dir, "data"), func(path string, d os.DirEntry, err error) error {
		if err == nil && strings.HasPrefix(filepath.Base(path), databaseName) {
			found++
			if info, err := d.Info(); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%s: %v %v", path, info.Mode(), err)
			}
			if info, err := os.Stat(filepath.Dir(path)); err != nil || info.Mode().Perm() != 0o700 {
				t.Errorf("%s: %v %v", filepath.Dir(path), info.Mode(), err)
			}
		}
		return err
	})
	if err != nil || found < 1 {
		t.Errorf("%d files, %v", found, err)
	}
}

// finished sends n requests and returns how many got their whole answer.
func (p *process) finished(n int) int {
	client := p.client("1")
	done := 0
	for range n {
		if status, _, err := p.message(p.t.Context(), client, false); status == 200 && err == nil {
			done++
		}
	}
	return done
}

func (p *process) history() int {
	p.t.Helper()
	var rows []api.Request
	if err := json.Unmarshal(p.ask("GET", "/claude_balancer/requests?limit=1000", nil, 200), &rows); err != nil {
		p.t.Fatal(err)
	}
	return len(rows)
}

func TestSIGTERMLosesNoRowOfAFinishedRequest(t *testing.T) {
	t.Parallel()
	p := newProcess(t, simulator.Options{})
	p.start(p.config("", ""))
	p.add("work", "max")
	n := p.finished(40)
	p.end(syscall.SIGTERM)
	p.start(p.config("", ""))
	if rows := p.history(); rows != n || n != 40 {
		t.Errorf("%d requests were finished, %d are in the history", n, rows)
	}
}

func TestKillLosesNoAccountAndLittleHistory(t *testing.T) {
	t.Parallel()
	p := newProcess(t, simulator.Options{})
	p.start(p.config("", ""))
	p.add("work", "max")
	n := p.finished(40)
	p.waitFor("the rows are written", func() bool { return p.history() == n })
	late := p.finished(5)
	p.end(syscall.SIGKILL)
	p.start(p.config("", ""))
	if rows := p.history(); rows < n || rows > n+late {
		t.Errorf("%d of %d rows survived", rows, n+late)
	}
	var accounts []api.Account
	if err := json.Unmarshal(p.ask("GET", "/claude_balancer/accounts", nil, 200), &accounts); err != nil || len(accounts) != 1 || accounts[0].Name != "work" {
		t.Errorf("accounts %+v %v", accounts, err)
	}
	if status, _, err := p.message(t.Context(), p.client("1"), false); status != 200 || err != nil {
		t.Errorf("%d %v", status, err)
	}
}

func TestUpstreamIsSpokenToInHTTP1UnlessSaidOtherwise(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		versions string
		want     string
	}{{"", "HTTP/1.1"}, {"versions 2", "HTTP/2.0"}} {
		r := &rig{t: t, sim: simulator.New(simulator.Options{}), dir: t.TempDir()}
		r.up = r.sim.StartTLS()
		t.Cleanup(r.up.Close)
		ca := filepath.Join(r.dir, "ca.pem")
		if err := os.WriteFile(ca, r.up.CAPEM, 0o600); err != nil {
			t.Fatal(err)
		}
		r.start(r.caddyfile(rigOptions{path: filepath.Join(r.dir, "a.db"), directive: []string{"transport http {", "tls_trust_pool file " + ca, c.versions, "}"}}))
		r.add("work", "max")
		r.message(sonnet).mustBe(t, 200)
		r.stream(sonnet).mustBe(t, 200)
		var protos []string
		for _, seen := range r.sim.Requests() {
			protos = append(protos, seen.Proto)
		}
		if !slices.Equal(protos, []string{c.want, c.want}) {
			t.Errorf("%q: %v", c.versions, protos)
		}
	}
}
