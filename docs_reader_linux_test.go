package claudebalancer

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/simulator"
)

// What a reader of the documentation brings along and does by hand.

// reader follows a page in a shell. It has a HOME of its own and lives in the
// checkout.
type reader struct {
	t      *testing.T
	sim    *simulator.Simulator
	people map[string]bool // accounts at the provider

	authority string // a file: who signs the provider's certificates
	home      string
	env       string // file that holds the shell's variables
	said      string // by the last command
	running   *exec.Cmd
	exited    <-chan struct{}
}

func newReader(t *testing.T, sim *simulator.Simulator, people map[string]bool, authority string) *reader {
	t.Helper()
	r := &reader{t: t, sim: sim, people: people, authority: authority, home: t.TempDir()}
	r.env = filepath.Join(t.TempDir(), "env")
	r.write(r.env, "export HOME="+r.home+" SSL_CERT_FILE="+authority+" PATH=$PATH:/usr/local/bin:/usr/lib/postgresql/bin\n")
	// A command fails if the server refuses. claude.example.com has a certificate
	// that everybody trusts.
	r.write(filepath.Join(r.home, ".curlrc"), "silent\nshow-error\nfail-with-body\ncacert = "+filepath.Join(r.data(), "pki/authorities/local/root.crt")+"\n")
	r.write(filepath.Join(r.home, ".claude", ".credentials.json"), r.credentials("laptop"))
	for _, file := range []string{"key.txt", filepath.Join(r.home, "key.txt")} {
		r.write(file, r.provider("ci", simulator.PlanAPI).APIKey.Reveal()+"\n")
	}
	for _, folder := range []string{"/etc/caddy", "/run/caddy", "/srv/claude"} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r.writeCaddyfile("http://localhost:8080, https://claude.example.com {\n\tclaude_balancer\n}\n")
	t.Cleanup(r.stop)
	return r
}

func (r *reader) data() string { return filepath.Join(r.home, ".local/share/caddy") }

func (r *reader) write(path, text string) {
	r.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// provider is an account at the provider, whose person sits at the keyboard.
func (r *reader) provider(name, plan string) simulator.Credentials {
	if !r.people[name] {
		r.people[name] = true
		r.sim.AddAccount(simulator.Account{Name: name, Plan: plan})
	}
	return r.sim.Credentials(name)
}

// credentials is the file of a Claude Code that is logged in.
func (r *reader) credentials(name string) string {
	c := r.provider(name, simulator.PlanMax)
	return fmt.Sprintf(`{"claudeAiOauth":{"accessToken":%q,"refreshToken":%q,"expiresAt":%d,"subscriptionType":"max"}}`,
		c.Access.Reveal(), c.Refresh.Reveal(), c.ExpiresAt.UnixMilli())
}

var runsCaddy = regexp.MustCompile(`^(\./)?caddy run( --config (\S+))?$`)

// start starts Caddy anew and waits until it serves.
func (r *reader) start(command string) {
	r.t.Helper()
	r.stop()
	log, err := os.OpenFile(filepath.Join(r.home, "caddy.log"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		r.t.Fatal(err)
	}
	defer log.Close()
	r.running = r.shell("exec " + command)
	r.running.Stdout, r.running.Stderr = log, log
	if err := r.running.Start(); err != nil {
		r.t.Fatal(err)
	}
	exited := make(chan struct{})
	r.exited = exited
	go func(cmd *exec.Cmd) {
		_ = cmd.Wait() // how it ends is tested elsewhere
		close(exited)
	}(r.running)
	config := runsCaddy.FindStringSubmatch(command)[3]
	if config == "" {
		config = "Caddyfile"
	}
	(&rig{t: r.t}).eventually("Caddy serves", func() bool {
		select {
		case <-exited:
			text, _ := os.ReadFile(log.Name())
			r.t.Fatalf("Caddy does not serve\n%s", text)
		default:
		}
		res, err := http.Get("http://localhost:2019/claude_balancer/version")
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return res.StatusCode == http.StatusOK && (!hasCertificate.MatchString(readText(r.t, config)) || r.secure())
	})
}

var hasCertificate = regexp.MustCompile(`(?m)(^|https://)claude\.example\.com`)

// secure reports whether the site that has a certificate answers.
func (r *reader) secure() bool {
	conn, err := tls.Dial("tcp", "claude.example.com:443", &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

func (r *reader) stop() {
	if r.running == nil {
		return
	}
	_ = r.running.Process.Signal(syscall.SIGTERM)
	<-r.exited
	r.running = nil
}

var (
	needsServer = regexp.MustCompile(`^curl |caddy (claude-balancer|reload|trust)`)
	takesOne    = regexp.MustCompile(`claude-balancer (?:show|set|pause|resume|refresh|clear-limits|remove|login) (\w+)|/claude_balancer/accounts/(\w+)`)
	takesList   = regexp.MustCompile(`--accounts ([\w,]+)`)
	takesKey    = regexp.MustCompile(`keys (?:show|set|rotate|revoke) ([\w-]+)|--key (\w+)`)
	makesOne    = regexp.MustCompile(`claude-balancer (?:add|import) (\w+)|"name": ?"(\w+)"`)
	makesKey    = regexp.MustCompile(`keys add ([\w-]+)`)
	atAddress   = regexp.MustCompile(`--address (\S+)`)
)

// prepare brings about what a page may take for granted: what a command names
// is there, and what it makes is not.
func (r *reader) prepare(command string) {
	if !needsServer.MatchString(command) {
		return
	}
	if at := atAddress.FindStringSubmatch(command); at != nil {
		r.startAt(at[1])
	}
	accounts, keys := r.names("list"), r.names("keys list")
	for _, name := range strings.Split(named(takesList, command), ",") {
		r.ensureAccount(name, accounts)
	}
	r.ensureAccount(named(takesOne, command), accounts)
	if name := named(makesOne, command); slices.Contains(accounts, name) {
		r.mustRun("caddy claude-balancer remove --yes " + name)
	}
	if name := named(takesKey, command); name != "" && !slices.Contains(keys, name) {
		r.mustRun("caddy claude-balancer keys add " + name)
	}
	if name := named(makesKey, command); slices.Contains(keys, name) {
		r.mustRun("caddy claude-balancer keys revoke " + name)
	}
}

// named is what the expression's groups found.
func named(expression *regexp.Regexp, command string) string {
	match := expression.FindStringSubmatch(command)
	if match == nil {
		return ""
	}
	return strings.Join(match[1:], "") // one of the groups has it
}

func (r *reader) ensureAccount(name string, have []string) {
	if name == "" {
		return
	}
	plan := simulator.PlanMax
	if name == "ci" {
		plan = simulator.PlanAPI
	}
	r.provider(name, plan)
	switch {
	case slices.Contains(have, name):
	case plan == simulator.PlanAPI:
		r.mustRun("caddy claude-balancer add ci --api-key-file key.txt")
	default:
		r.write(filepath.Join(r.home, "given.json"), r.credentials(name))
		r.mustRun("caddy claude-balancer import " + name + " --file ~/given.json")
	}
}

// names lists what there is.
func (r *reader) names(list string) (names []string) {
	before := r.said
	defer func() { r.said = before }()
	r.mustRun("caddy claude-balancer " + list + " --json")
	for _, match := range regexp.MustCompile(`(?m)^    "name": "(.*)"`).FindAllStringSubmatch(r.said, -1) {
		names = append(names, match[1])
	}
	return names
}

// startAt starts one more Caddy on the same database, whose admin endpoint is
// where the page has it.
func (r *reader) startAt(address string) {
	file := filepath.Join(r.home, "Caddyfile-beside")
	r.write(file, "{\n\tadmin "+address+"\n\tpersist_config off\n\tclaude_balancer\n}\n")
	beside := r.shell("exec caddy run --config " + file)
	if err := beside.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		_ = beside.Process.Signal(syscall.SIGTERM)
		_ = beside.Wait()
	})
	for range 500 {
		if r.run("caddy claude-balancer version --address "+address+" | grep -q server") == nil {
			return
		}
	}
	r.t.Errorf("no Caddy at %s: %s", address, r.said)
}

var (
	loginID  = regexp.MustCompile(`"id": ?"([^"]+)"`)
	loginURL = regexp.MustCompile(`https://[^\s"]*/oauth/authorize\?[^\s"]*`)
	aKey     = regexp.MustCompile(`cb_\w{20,}`)
)

// filled is a command with what a reader puts for the placeholders.
func (r *reader) filled(command string) string {
	if id := loginID.FindStringSubmatch(r.said); id != nil && strings.Contains(command, "/login/") {
		code := r.approve(loginURL.FindString(strings.ReplaceAll(r.said, `\u0026`, "&")))
		r.write("code.json", fmt.Sprintf(`{"code":%q}`, code))
		command = strings.NewReplacer("/login/ID", "/login/"+id[1], "CODE#STATE", code).Replace(command)
	}
	if strings.Contains(command, "cb_…") || strings.Contains(command, "$CLAUDE_KEY") {
		role := "client"
		if strings.Contains(command, "-u any:") {
			role = "viewer"
		}
		said := r.said
		r.mustRun("caddy claude-balancer keys add for-" + role + "-$RANDOM --role " + role)
		key := aKey.FindString(r.said)
		r.said = said
		command = strings.NewReplacer("cb_…", key, "$CLAUDE_KEY", key).Replace(command)
		if r.names("list") == nil {
			r.ensureAccount("work", nil)
		}
	}
	return command
}

// approve is a person in the browser.
func (r *reader) approve(url string) string {
	r.provider("me", simulator.PlanMax)
	code, err := r.sim.Approve(url, "me")
	if err != nil {
		r.t.Errorf("%s: %v", url, err)
	}
	return code
}

func (r *reader) mustRun(command string) {
	r.t.Helper()
	if err := r.run(command); err != nil {
		r.t.Errorf("%s: %v\n%s", command, err, r.said)
	}
}

// run runs a command as the next one of the shell. At the keyboard sits somebody
// who opens the URL of a login and types the code.
func (r *reader) run(command string) error {
	cmd := r.shell("set -o pipefail\n" + command + "\nstatus=$?\nexport -p >" + r.env + "\nexit $status")
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		return err
	}
	if strings.Contains(command, "--pwprompt") {
		_, _ = io.WriteString(in, "PASSWORD\nPASSWORD\n") // it may have ended
	}
	var printed strings.Builder
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadString('\n')
		printed.WriteString(line)
		if url := loginURL.FindString(line); url != "" && strings.TrimSpace(line) == url {
			_, _ = io.WriteString(in, r.approve(url)+"\n") // it may have ended
		}
		if err != nil {
			break
		}
	}
	_ = in.Close()
	err = cmd.Wait()
	r.said = printed.String() + said.String()
	return err
}

// shell is bash with the variables that earlier commands have set.
func (r *reader) shell(script string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(r.t.Context(), 3*time.Minute)
	r.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, "bash", "-c", ". "+r.env+"\n"+script)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // no terminal that a prompt could ask
	cmd.Env = slices.DeleteFunc(os.Environ(), func(variable string) bool { return strings.HasPrefix(variable, "XDG_") })
	return cmd
}
