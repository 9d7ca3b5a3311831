package claudebalancer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/claude-balancer/claude-balancer/simulator"
)

// Keys of 32 bytes.
var (
	keyA = strings.Repeat("a1", 32)
	keyB = strings.Repeat("b2", 32)
	keyC = strings.Repeat("c3", 32)
)

// sought are credentials that must be readable nowhere, by what they are. Unlike
// those of a scenario they change while they are sought.
type sought map[string]string

func (s sought) note(what, value string) {
	if value != "" && !slices.Contains(slices.Collect(maps.Values(s)), value) {
		s[fmt.Sprintf("%s (%d)", what, len(s))] = value
	}
}

// noteTokens adds the account's newest tokens.
func (s sought) noteTokens(sim *simulator.Simulator, account string) {
	c := sim.Credentials(account)
	s.note("access token of "+account, c.Access.Reveal())
	s.note("refresh token of "+account, c.Refresh.Reveal())
	s.note("API key of "+account, c.APIKey.Reveal())
}

// in returns which of the secrets a text shows. A part is too much, and a
// database may have torn one apart.
func (s sought) in(text []byte) (found []string) {
	for what, secret := range s {
		third := len(secret) / 3
		for _, part := range []string{secret[third : 2*third], secret[2*third:]} {
			if bytes.Contains(text, []byte(part)) {
				found = append(found, what)
				break
			}
		}
	}
	slices.Sort(found)
	return found
}

// inFiles looks through every file of the process: the database with its -wal
// and -shm, the log, the autosaved configuration.
func (p *process) inFiles(s sought) (found map[string][]string, looked int) {
	p.t.Helper()
	found = make(map[string][]string)
	err := filepath.WalkDir(p.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		looked++
		if shown := s.in(content); shown != nil {
			found[filepath.Base(path)] = shown
		}
		return nil
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return found, looked
}

// keyFile makes a file that holds a key.
func (p *process) keyFile(name, key string) (placeholder string) {
	p.t.Helper()
	path := filepath.Join(p.t.TempDir(), name)
	if err := os.WriteFile(path, []byte(key+"\n"), 0o600); err != nil {
		p.t.Fatal(err)
	}
	return "{file." + path + "}"
}

func TestOnceSealedNoTokenIsReadableAnywhere(t *testing.T) {
	t.Parallel()
	p := newProcess(t, simulator.Options{})
	hidden := make(sought)
	for name, plan := range map[string]string{"work": simulator.PlanMax, "login": simulator.PlanConsole, "key": simulator.PlanAPI} {
		p.sim.AddAccount(simulator.Account{Name: name, Plan: plan})
		hidden.noteTokens(p.sim, name)
	}

	// Without a key the tokens lie in the file: the search finds what is there.
	p.start(p.config("", ""))
	p.addWithLife("work", p.sim.Credentials("work"), time.Hour)
	p.end(syscall.SIGTERM)
	if found, _ := p.inFiles(hidden); len(found) != 1 || len(found["claude-accounts.db"]) != 2 {
		t.Fatalf("found %v", found)
	}

	p.env = []string{"KEY_A=" + keyA}
	hidden.note("encryption key", keyA)
	p.start(p.config("encryption_key {env.KEY_A}", ""))
	p.useEverything(hidden)
	p.hides(hidden, "sealed")
	p.kill()
	p.hides(hidden, "after a crash")

	// A new key, with the old one until everything is sealed anew.
	hidden.note("second encryption key", keyB)
	fileB := p.keyFile("b", keyB)
	p.start(p.config("encryption_key "+fileB+" {env.KEY_A}", ""))
	p.serves()
	p.hides(hidden, "with the new key")
	p.end(syscall.SIGTERM)
	p.env = nil
	p.start(p.config("encryption_key "+fileB, ""))
	p.serves()
	p.hides(hidden, "without the old key")
}

// useEverything does whatever handles credentials.
func (p *process) useEverything(hidden sought) {
	t := p.t
	t.Helper()
	said := p.login(func(page string) string {
		code := p.approve("login")(page)
		hidden.note("code", strings.Split(code, "#")[0])
		return code
	}, "add", "login")
	if !said.ok {
		t.Fatal(said.err)
	}

	keyFile := filepath.Join(t.TempDir(), "api-key")
	if err := os.WriteFile(keyFile, []byte(p.sim.Credentials("key").APIKey.Reveal()), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"add", "key", "--api-key-file", keyFile}, {"refresh", "work"}, {"refresh", "login"}, {"list", "-v"}, {"list", "--json"},
	} {
		hidden.noteTokens(p.sim, "work")
		hidden.noteTokens(p.sim, "login")
		said := p.tells(args...)
		if shown := hidden.in([]byte(said.out + said.err)); !said.ok || shown != nil {
			t.Errorf("%v: %s shows %v", args, said.err, shown)
		}
	}
	hidden.note("client key", strings.TrimSpace(p.tells("keys", "add", "alice").out))

	p.sim.RevokeAccess("work")
	for range 6 { // each account serves, one after a refresh
		p.serves()
	}
	hidden.noteTokens(p.sim, "work")
	hidden.noteTokens(p.sim, "login")

	// Refusals and what is logged of them.
	p.sim.KillRefresh("login")
	p.tells("refresh", "login")
	refresh := p.sim.Credentials("work").Refresh.Reveal()
	for _, body := range []any{
		map[string]any{"name": 1, "refresh_token": refresh},
		map[string]any{"name": "x", "refresh_token": []string{refresh}},
		map[string]any{"name": "x", refresh: "y"},
		map[string]any{"name": "x", "plan_type": "max", "api_key": refresh + " "},
		map[string]any{"name": "x", "plan_type": "max", "credentials": refresh},
	} {
		if answer := p.ask("POST", "/claude_balancer/accounts", body, 400); hidden.in(answer) != nil {
			t.Errorf("answered %s", answer)
		}
	}
}

// hides fails the test if a secret can be read in a file or an answer.
func (p *process) hides(hidden sought, when string) {
	p.t.Helper()
	found, files := p.inFiles(hidden)
	if len(found) > 0 {
		p.t.Errorf("%s: the files show %v", when, found)
	}
	answers := 0
	if p.cmd.ProcessState == nil { // it runs
		for _, path := range []string{
			"/config/", "/claude_balancer/accounts", "/claude_balancer/accounts/work", "/claude_balancer/requests",
			"/claude_balancer/stats", "/claude_balancer/explain?model=" + sonnet, "/claude_balancer/keys", "/claude_balancer/audit",
		} {
			answers++
			if shown := hidden.in(p.get(path)); shown != nil {
				p.t.Errorf("%s: %s shows %v", when, path, shown)
			}
		}
	}
	p.t.Logf("%s: %d secrets sought in %d files and %d answers, %d hits", when, len(hidden), files, answers, len(found))
}

func TestAStartWithoutTheRightKeyIsRefused(t *testing.T) {
	t.Parallel()
	p := newProcess(t, simulator.Options{})
	p.env = []string{"KEY_A=" + keyA, "KEY_B=" + keyB, "KEY_C=" + keyC, "SHORT=abc"}
	p.start(p.config("encryption_key {env.KEY_A}", ""))
	p.add("work", simulator.PlanMax)
	p.kill()

	for line, says := range map[string]string{
		"":                                       "the encryption key is missing",
		"encryption_key {env.UNSET}":             "encryption key is missing",
		"encryption_key {file./nowhere}":         "encryption key is missing",
		"encryption_key {env.KEY_B}":             "the encryption key is wrong",
		"encryption_key {env.KEY_B} {env.KEY_C}": "the encryption key is wrong",
		"encryption_key {env.SHORT}":             "an encryption key is 32 bytes in hex or base64",
	} {
		if said := p.fails(p.config(line, "")); !strings.Contains(said, says) || strings.Contains(said, keyB) || strings.Contains(said, "abc") {
			t.Errorf("%q: %s", line, said)
		}
	}
	p.start(p.config("encryption_key {env.KEY_B} {env.KEY_A}", ""))
	p.serves()
}

func TestAReloadWithoutTheRightKeyIsRefusedAndTheOldConfigurationGoesOn(t *testing.T) {
	t.Parallel()
	p := newProcess(t, simulator.Options{})
	p.env = []string{"KEY_A=" + keyA, "KEY_B=" + keyB}
	p.start(p.config("encryption_key {env.KEY_A}", ""))
	p.add("work", simulator.PlanMax)
	for _, tt := range []struct{ line, says string }{
		{"encryption_key {env.KEY_B}", "the encryption key is wrong"},
		{"", "the encryption key is missing"},
		{"encryption_key {env.UNSET}", "encryption key is missing"},
		{"encryption_key {env.KEY_B} {env.KEY_A}", "restart Caddy to change the encryption key"},
	} {
		if answer := p.reload(p.config(tt.line, ""), 400); !strings.Contains(string(answer), tt.says) {
			t.Errorf("%q: %s", tt.line, answer)
		}
		// Caddy may drop a connection that came to the listener of the refused
		// configuration.
		var status int
		p.waitFor("a connection", func() bool { status, _ = p.asks(); return status != 0 })
		if status != 200 {
			t.Errorf("after the reload: status %d", status)
		}
		if said := p.tells("refresh", "work"); !said.ok {
			t.Errorf("after the reload: %s", said.err)
		}
	}
	p.reload(p.config("encryption_key {env.KEY_A} {env.KEY_B}", ""), 200)
	p.serves()
}

func TestALiteralEncryptionKeyIsRefused(t *testing.T) {
	t.Parallel()
	caddyfile := "{\n\tclaude_balancer {\n\t\tencryption_key %s\n\t}\n}\n:80 {\n\tclaude_balancer\n}\n"
	for _, literal := range []string{keyA, "{$SOME_KEY:" + keyA + "}", "{env.KEY} " + keyA, "{http.request.header.x}"} {
		_, _, err := caddyconfig.GetAdapter("caddyfile").Adapt(fmt.Appendf(nil, caddyfile, literal), nil)
		if err == nil || !strings.Contains(err.Error(), "not the key itself: Caddy stores and shows its configuration") || strings.Contains(err.Error(), keyA) {
			t.Errorf("%s: %v", literal, err)
		}
	}
	var cfg caddy.Config
	if err := json.Unmarshal([]byte(`{"apps":{"claude_balancer":{"encryption_key":["`+keyA+`"]}}}`), &cfg); err != nil {
		t.Fatal(err)
	}
	provisioning.Lock()
	defer provisioning.Unlock()
	if err := caddy.Validate(&cfg); err == nil || !strings.Contains(err.Error(), "not literally") || strings.Contains(err.Error(), keyA) {
		t.Errorf("as JSON: %v", err)
	}
}
