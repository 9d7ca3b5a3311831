package claudebalancer

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/claude-balancer/claude-balancer/simulator"
)

// The command against a Caddy of its own: the sentences are the pool's.

func TestTheCommandManagesTheAccountsOfARunningCaddy(t *testing.T) {
	t.Parallel()
	p := newProcess(t, simulator.Options{})
	p.sim.AddAccount(simulator.Account{Name: "work", Plan: simulator.PlanMax})
	key := p.sim.AddAccount(simulator.Account{Name: "ci", Plan: simulator.PlanAPI}).APIKey.Reveal()
	keyFile := filepath.Join(t.TempDir(), "key")
	credentials := filepath.Join(t.TempDir(), "credentials.json")
	for path, text := range map[string]string{
		keyFile:     key + "\n",
		credentials: `{"claudeAiOauth":{"accessToken":"sk-ant-oat01-imported","refreshToken":"sk-ant-ort01-imported","expiresAt":4102444800000,"subscriptionType":"pro"}}`,
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p.start(p.config("", ""))

	said := p.login(p.approve("work"), "add", "work", "--mode", "max")
	url, rest, _ := strings.Cut(said.out, "\n")
	if !said.ok || !strings.HasPrefix(url, "https://claude.com/cai/oauth/authorize?") || strings.Contains(url, " ") {
		t.Errorf("add: %s %s", said.out, said.err)
	}
	want := "Account \"work\" added successfully.\nPlan: max (Opus enabled)\nSupported models: *opus*, *sonnet*, *haiku*, *fable*, *mythos*, *\n"
	if rest != want {
		t.Errorf("add says %q", rest)
	}
	if n := strings.Count(said.err, "Add only accounts that are your own."); n != 1 {
		t.Errorf("the notice stands there %d times: %s", n, said.err)
	}

	for _, tt := range []struct {
		args string
		says []string // on standard output
	}{
		{"list", []string{"work  max   yes   available         0  never      expires in"}},
		{"list -v", []string{"work\n", "Plan:         max (Opus enabled)", "Tier:         default_claude_max_20x", "*opus* (Opus)"}},
		{"add ci --api-key-file " + keyFile, []string{`Account "ci" added successfully.`, "Plan: api"}},
		{"import laptop --file " + credentials, []string{`Account "laptop" added successfully.`, "Plan: console"}},
		{"set ci --priority 3 --models *haiku*", []string{`Account "ci" updated.`}},
		{"show ci", []string{"API key", "Priority:     3", "*haiku*"}},
		{"pause laptop", []string{`Account "laptop" is paused.`}},
		{"list", []string{"laptop  console  no    paused"}},
		{"resume laptop", []string{`Account "laptop" is resumed.`}},
		{"remove laptop", []string{`Account "laptop" removed successfully.`}},
		{"refresh work", []string{`Account "work" refreshed; token: expires in`}},
		{"clear-limits work", []string{`Limits of account "work" cleared; state: available.`}},
		{"explain --model " + opus, []string{"Chosen: work"}},
		{"stats", []string{"Requests:        0"}},
		{"history", nil},
		{"reset-stats", []string{"Statistics reset for all accounts."}},
		{"clear-history", []string{"No request history to clear."}},
		{"keys add alice", []string{"cb_"}},
		{"keys list", []string{"alice  client"}},
		{"keys revoke alice", []string{`Key "alice" revoked.`}},
		{"audit", []string{"account.login", "account.change", "ci: models, priority", "laptop: paused", "laptop: resumed", "account.remove"}},
	} {
		said := p.tells(strings.Fields(tt.args)...)
		for _, text := range tt.says {
			if !said.ok || !strings.Contains(said.out, text) {
				t.Errorf("%s: %q is not in\n%s%s", tt.args, text, said.out, said.err)
			}
		}
	}
	for _, args := range []string{"list --json", "show work --json", "stats --json", "history --json", "keys list --json", "audit --json"} {
		if said := p.tells(strings.Fields(args)...); !said.ok || !json.Valid([]byte(said.out)) || said.err != "" {
			t.Errorf("%s: %s %s", args, said.out, said.err)
		}
	}
}

func TestWhatTheCommandCannotDoIsOnePlainSentence(t *testing.T) {
	t.Parallel()
	p := newProcess(t, simulator.Options{})
	for _, args := range []string{"list", "add work"} {
		p.refuses(args, `no Caddy server answers at `+p.admin+`: start one with "caddy run", or name its admin endpoint with --address`)
	}
	p.start(p.config("", ""))
	p.add("work", simulator.PlanMax)
	key := p.sim.AddAccount(simulator.Account{Name: "ci", Plan: simulator.PlanAPI}).APIKey.Reveal()
	p.ask("POST", "/claude_balancer/accounts", map[string]any{"name": "ci", "plan_type": "api", "api_key": key}, 201)
	for args, says := range map[string]string{
		"add work":             "an account named \"work\" already exists; to log it in again, set replace or use `caddy claude-balancer login`",
		"add other --mode pro": `plan_type is "pro", but may be api, console, max`,
		"add":                  `the name is missing: use "caddy claude-balancer add <name>"`,
		"show nobody":          "there is no account \"nobody\"; `caddy claude-balancer list` shows all",
		"login nobody":         "there is no account \"nobody\"; `caddy claude-balancer list` shows all",
		"remove nobody --yes":  "there is no account \"nobody\"; `caddy claude-balancer list` shows all",
		"keys revoke nobody":   "there is no client key \"nobody\"; `caddy claude-balancer keys list` shows all",
		"refresh ci":           `account "ci" has no refresh token, so there is nothing to refresh: for a new credential remove it and add it again`,
		"login ci":             `accounts of the plan api have an API key and no login; a new key is a new account: remove this one and add it with its key`,
		"set work --weight 0":  `weight is 0, but may be from 1 to 1000000`,
		"explain --key nobody": "there is no client key \"nobody\"; `caddy claude-balancer keys list` shows all",
	} {
		p.refuses(args, says)
	}
	said := p.login(func(string) string { return "not-a-code" }, "add", "new")
	if want := "Error: the provider refused the login: invalid_grant: Invalid 'code' in request; start a new one\n"; said.ok || !strings.HasSuffix(said.err, want) {
		t.Errorf("a wrong code: %s", said.err)
	}
}

func TestTheCommandFailsWithOneLineAndStatus1(t *testing.T) {
	t.Parallel()
	p := newProcess(t, simulator.Options{})
	var out, errs strings.Builder
	cmd := p.balancer("list")
	cmd.Stdout, cmd.Stderr = &out, &errs
	_ = cmd.Run() // its exit status is looked at
	if text := errs.String(); cmd.ProcessState.ExitCode() != 1 || out.Len() > 0 || strings.Count(text, "\n") != 1 || !strings.HasPrefix(text, "Error: no Caddy server answers") {
		t.Errorf("exit status %d, printed %s%s", cmd.ProcessState.ExitCode(), out.String(), text)
	}
}

// refuses runs a command that must fail with one line.
func (p *process) refuses(args, says string) {
	p.t.Helper()
	if said := p.tells(strings.Fields(args)...); said.ok || said.out != "" || said.err != "Error: "+says+"\n" {
		p.t.Errorf("%s: %s%s", args, said.out, said.err)
	}
}
