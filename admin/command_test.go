package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/claude-balancer/claude-balancer/api"
)

// samplePool has one account of each sort.
func samplePool() *fakeBackend {
	work := newAccount("work", api.PlanMax)
	work.RequestCount, work.LastUsed = 1234, ptr(at(-5*time.Minute))
	work.Tier, work.CostUSD = "default_claude_max_20x", ptr(12.5)
	work.Tokens = api.Tokens{Input: 1000, Output: 2000, CacheRead: 30000, CacheWrite5m: 400, CacheWrite1h: 50}
	work.Windows = []api.Window{
		{Name: "5h", Utilization: ptr(0.42), Status: "allowed", ResetsAt: ptr(at(2 * time.Hour))},
		{Name: "7d_opus", Status: "rejected", ResetsAt: ptr(at(50 * time.Hour))},
	}
	work.Limits = []api.Limit{{
		Scope: api.ScopeFamily, Family: ptr("opus"), Until: at(50 * time.Hour), Cause: "window 7d_opus rejected",
		Header: ptr("anthropic-ratelimit-unified-7d_opus-status"), Since: at(-time.Minute),
	}}
	home := newAccount("名前 of home", api.PlanConsole)
	home.Status, home.StatusReason, home.AvailableAt = api.StatusLimited, "window 5h rejected", ptr(at(133*time.Minute))
	home.Limits = []api.Limit{{Scope: api.ScopeAccount, Until: at(133 * time.Minute), Cause: "window 5h rejected", Since: at(-time.Hour)}}
	home.RequestCount, home.LastUsed = 7, ptr(at(-49*time.Hour))
	ci := newAccount("ci", api.PlanAPI)
	ci.Kind, ci.ExpiresAt, ci.Status = api.KindAPIKey, nil, api.StatusPaused
	evil := newAccount("evil\x1b[2J\u202e", api.PlanMax)
	evil.Status, evil.StatusReason, evil.TokenValid, evil.ExpiresAt = api.StatusNeedsLogin, "bell\a\nline", 0, ptr(at(-time.Hour))

	return &fakeBackend{
		accounts: []api.Account{work, home, ci, evil},
		requests: []api.Request{
			{
				ID: "r0", Timestamp: at(-time.Second), Method: "POST", Path: "/v1/messages", AccountUsed: ptr("work"), PlanType: ptr("max"),
				Model: ptr("claude-opus-4-5"), StatusCode: 200, Success: 1, Outcome: api.OutcomeOK, ResponseTimeMS: 812, DurationMS: 12345,
				FailoverAttempts: 1, Stream: 1, Session: ptr("0123456789abcdef"), Client: ptr("alice"), InputTokens: ptr[int64](1200),
				OutputTokens: ptr[int64](345), CostUSD: ptr(0.0123), UpstreamRequestID: ptr("req_1"),
				Attempts: []api.Attempt{{Account: "名前 of home", Status: 429, Cause: "limited", MS: 80}, {Account: "work", Status: 200, Cause: "ok", MS: 812}},
			},
			{
				ID: "r1", Timestamp: at(-time.Hour), Method: "POST", Path: "/v1/messages", Model: ptr("evil\x1b]0;x\a"), StatusCode: 503,
				Outcome: api.OutcomeExhausted, ErrorMessage: ptr("All accounts failed\nto proxy request"), Attempts: []api.Attempt{},
			},
		},
		keys: []api.Key{
			{Name: "alice", Role: api.RoleClient, CreatedAt: at(-time.Hour), SpentUSD: 1.5, SignIns: 2, BudgetUSD: ptr(20.0), BudgetPeriod: "month", RPM: 60},
			{Name: "wall", Role: api.RoleViewer, Models: []string{"*sonnet*"}, Accounts: []string{"work", "ci"}, ExpiresAt: ptr(at(36 * time.Hour)), LastUsed: ptr(at(-time.Minute)), MaxInFlight: 2},
		},
		audit: []api.AuditEntry{{At: at(-time.Hour), What: "account.add", Who: "admin", Detail: "work\x1b[1m"}},
		stats: api.Stats{
			TotalRequests: 1241, SuccessRate: 98, ActiveAccounts: 2, AvgResponseTime: 812, CostUSD: ptr(12.5),
			Opus: api.OpusStats{Requests: 40, SuccessRate: 97}, Unpriced: []string{"claude-next"},
			Tokens: api.Tokens{Input: 1000, Output: 2000, CacheRead: 30000, CacheWrite5m: 400, CacheWrite1h: 50},
			ByModel: map[string]api.Usage{
				"claude-opus-4-5":   {Requests: 40, Errors: 1, CostUSD: ptr(10.25)},
				"claude-sonnet-4-5": {Requests: 1201, Tokens: api.Tokens{Input: 5, Output: 6, CacheRead: 7, CacheWrite5m: 8, CacheWrite1h: 9}},
			},
			ByAccount: map[string]api.Usage{"b": {Requests: 1}, "a": {Requests: 1}},
		},
		explain: api.Explanation{
			Model: "claude-opus-4-5", Family: "opus", Chosen: ptr("work"),
			Candidates: []api.Candidate{
				{Account: "work", Eligible: true, Reason: "fewest tries", Score: ptr(0.25)},
				{Account: "名前 of home", Reason: "plan console does not allow the model"},
			},
		},
	}
}

func TestWhatCommandsPrintForPeople(t *testing.T) {
	t.Parallel()
	server := serve(t, samplePool())
	for name, args := range map[string]string{
		"list":         "list",
		"list-verbose": "list -v",
		"show":         "show work",
		"history":      "history",
		"stats":        "stats",
		"explain":      "explain --model claude-opus-4-5",
		"keys-list":    "keys list",
		"keys-show":    "keys show wall",
		"audit":        "audit",
		"export-csv":   "export",
		"export-jsonl": "export --format jsonl",
		"list-json":    "list --json",
		"help":         "help",
		"help-add":     "help add",
	} {
		stdout, stderr, err := person{server: server}.runs(t, strings.Fields(args)...)
		if err != nil || stderr != "" {
			t.Errorf("%s: %v %s", args, err, stderr)
		}
		if strings.ContainsAny(stdout, "\x1b\a\u202e") {
			t.Errorf("%s: steers the terminal: %q", args, stdout)
		}
		golden(t, name, stdout)
	}
}

func TestEmptyListsSayHowToGoOn(t *testing.T) {
	t.Parallel()
	server := serve(t, new(fakeBackend))
	for args, want := range map[string]string{
		"list":          "No accounts yet. Add one with \"caddy claude-balancer add <name>\".\n",
		"list -v":       "No accounts yet. Add one with \"caddy claude-balancer add <name>\".\n",
		"keys list":     "No keys yet. Add one with \"caddy claude-balancer keys add <name>\".\n",
		"history":       "No requests.\n",
		"audit":         "Nothing was changed yet.\n",
		"clear-history": "No request history to clear.\n",
		"explain":       "Chosen: none\n",
		"list --json":   "[]\n",
	} {
		if stdout, stderr, err := (person{server: server}).runs(t, strings.Fields(args)...); err != nil || stdout != want {
			t.Errorf("%s: %q %q %v", args, stdout, stderr, err)
		}
	}
}

func TestCommandsAskForWhatTheyWereTold(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		args  string
		asked any
		says  string
	}{
		{
			"set work --plan max --models a,,b --priority 0 --weight 2 --max-in-flight 5 --name new",
			api.AccountPatch{
				Name: field("new"), PlanType: field("max"), Models: field([]string{"a", "b"}),
				Priority: field(0), Weight: field(2), MaxInFlight: field(5),
			}, "Account \"work\" updated.\n",
		},
		{"set work --models default", api.AccountPatch{Models: api.Field[[]string]{Set: true}}, "Account \"work\" updated.\n"},
		{"pause work", api.AccountPatch{Paused: field(true)}, "Account \"work\" is paused.\n"},
		{"resume work", api.AccountPatch{Paused: field(false)}, "Account \"work\" is resumed.\n"},
		{"refresh work", "work", "Account \"work\" refreshed; token: expires in 3h.\n"},
		{"clear-limits ci", "ci", "Limits of account \"ci\" cleared; state: paused.\n"},
		{"remove work", "work", "Account \"work\" removed successfully.\n"},
		{"reset-stats", "reset", "Statistics reset for all accounts.\n"},
		{"clear-history", "cleared", "Cleared 2 requests from history.\n"},
		{"history -n 5 --account work --model m --outcome exhausted --client c", api.RequestQuery{Limit: 5, Account: "work", Model: "m", Outcome: "exhausted", Client: "c"}, ""},
		{"explain --model m --session s --key k", api.ExplainQuery{Model: "m", Session: "s", Key: "k"}, ""},
		{"stats --since 24h", testNow.Add(-24 * time.Hour), ""},
		{"keys add ci", api.NewKey{Name: "ci"}, "cb-secret-of-ci\n"},
		{
			"keys add ci --role viewer --models a --accounts b,c --expires 30d --rpm 1 --max-in-flight 2 --budget-usd 2.5 --budget-period week",
			api.NewKey{
				Name: "ci", Role: "viewer", Models: []string{"a"}, Accounts: []string{"b", "c"}, ExpiresAt: ptr(at(30 * 24 * time.Hour)),
				RPM: ptr(1), MaxInFlight: ptr(2), BudgetUSD: ptr(2.5), BudgetPeriod: "week",
			}, "cb-secret-of-ci\n",
		},
		{
			"keys set ci --expires never --budget-usd none --models all",
			api.KeyPatch{ExpiresAt: api.Field[int64]{Set: true}, BudgetUSD: api.Field[float64]{Set: true}, Models: api.Field[[]string]{Set: true}}, "Key \"ci\" updated.\n",
		},
		{"keys set ci --expires 2027-01-01T00:00:00Z", api.KeyPatch{ExpiresAt: field(int64(1798761600000))}, "Key \"ci\" updated.\n"},
		{"keys revoke ci", "ci", "Key \"ci\" revoked.\n"},
		{"keys rotate ci", rotated{"ci", 0}, "cb-new-secret\n"},
		{"keys rotate ci --grace 7d", rotated{"ci", 7 * 24 * time.Hour}, "cb-new-secret\n"},
	} {
		b := samplePool()
		stdout, stderr, err := person{server: serve(t, b)}.runs(t, strings.Fields(tt.args)...)
		if err != nil || !reflect.DeepEqual(b.asked(), tt.asked) {
			t.Errorf("%s: %v, asked for %+v, want %+v", tt.args, err, b.asked(), tt.asked)
		}
		if tt.says != "" && stdout != tt.says {
			t.Errorf("%s: says %q (%q), want %q", tt.args, stdout, stderr, tt.says)
		}
	}
}

func field[T any](v T) api.Field[T] { return api.Field[T]{Set: true, Value: &v} }

func TestFailuresAreOnePlainSentence(t *testing.T) {
	t.Parallel()
	server := serve(t, samplePool())
	for args, want := range map[string]string{
		"add work":                        `account "work" already exists`,
		"show nobody":                     `account "nobody" not found`,
		"login nobody":                    `account "nobody" not found`,
		"keys show nobody":                `key "nobody" not found`,
		"add":                             `the name is missing: use "caddy claude-balancer add <name>"`,
		"remove a b":                      `too many arguments: use "caddy claude-balancer remove <name>"`,
		"list x":                          `too many arguments: use "caddy claude-balancer list"`,
		"frob":                            `unknown command "frob": see "caddy claude-balancer --help"`,
		"keys frob":                       `unknown command "frob": see "caddy claude-balancer keys --help"`,
		"help frob":                       `unknown command "frob": see "caddy claude-balancer --help"`,
		"list --frob":                     `unknown flag: --frob`,
		"set work":                        `nothing to set: give at least one of --name, --plan, --models, --priority, --weight, --max-in-flight`,
		"keys set alice":                  `nothing to set: give at least one flag, such as --models or --budget-usd`,
		"keys set alice --expires soon":   `--expires "soon" is neither a duration such as 30d, nor a time (RFC 3339), nor never`,
		"keys set alice --expires -1h":    `--expires "-1h" is neither a duration such as 30d, nor a time (RFC 3339), nor never`,
		"keys set alice --budget-usd lot": `--budget-usd "lot" is neither an amount of US dollars nor none`,
		"keys set alice --budget-usd NaN": `--budget-usd "NaN" is neither an amount of US dollars nor none`,
		"keys set alice --models ,":       `--models is empty: give a comma-separated list, or "all"`,
		"keys set alice --rpm x":          `invalid argument "x" for "--rpm" flag: it must be a whole number, and not that large`,
		"set work --weight 1e9":           `invalid argument "1e9" for "--weight" flag: it must be a whole number, and not that large`,
		"set work --models ":              `--models is empty: give a comma-separated list, or "default"`,
		"keys rotate alice --grace x":     `--grace "x" is no duration: use for instance 1h or 7d`,
		"history --limit 0":               `limit must be a whole number from 1 to 1000`,
		"history --outcome bad":           `outcome must be one of ok, upstream_error, refused, exhausted, client_gone, truncated`,
		"export --format xml":             `unknown format "xml": use csv or jsonl`,
		"import a":                        `the credentials file is missing: give --file, for instance --file ~/.claude/.credentials.json`,
		"import a --file /nowhere":        `open /nowhere: no such file or directory`,
		"migrate-store":                   `both --from and --to are needed: sqlite:<path> or postgres:{env.NAME}`,
		"migrate-store --from sqlite:x --to postgres://u:hidden@h/d": `--to: give the URL as postgres:{env.NAME} or postgres:{file./path}, since it holds a password`,
		"migrate-store --from sqlite:x --to postgres:{env.NOT_SET}":  `--to: there is no URL in {env.NOT_SET}`,
		"migrate-store --from sqlite:x --to sqlite:y":                `one of the two stores must be SQLite, the other PostgreSQL`,
		"migrate-store --from mysql:x":                               `--from must begin with sqlite: and a path, or postgres: and {env.NAME} or {file./path}`,
		"show evil\x1b[2J\n":                                         `account "evil\x1b[2J\n" not found`,
	} {
		words := strings.Split(args, " ")
		if got := (person{server: server}).fails(t, words...); got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", args, got, want)
		}
	}
}

func TestWithoutAServerTheCommandSaysHowToStartOne(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free := ln.Addr().String()
	_ = ln.Close()
	for _, address := range []string{free, "unix/" + filepath.Join(t.TempDir(), "none.sock")} {
		got := person{address: address}.fails(t, "list")
		if !strings.HasPrefix(got, "no Caddy server answers at "+address) || !strings.Contains(got, `"caddy run"`) {
			t.Errorf("got %q", got)
		}
	}
}

func TestAnAddressThatIsNoneIsRefused(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"localhost:2019-2020", "http://localhost:2019", "localhost:notaport", "fd/3"} {
		if got := (person{address: address}).fails(t, "list"); !strings.Contains(got, "use host:port or unix//path") {
			t.Errorf("%s: %q", address, got)
		}
	}
}

func TestAServerWithoutThePluginIsToldApart(t *testing.T) {
	t.Parallel()
	for handler, want := range map[string]http.HandlerFunc{
		"is no admin endpoint of a Caddy with claude-balancer": http.NotFound,
		"answered with HTTP status 502":                        func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(502) },
		"is no admin endpoint of a Caddy":                      func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") },
		"is no admin endpoint of":                              func(http.ResponseWriter, *http.Request) {}, // as a site of Caddy does
		"the host is not allowed": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(403)
			_, _ = io.WriteString(w, `{"error":"the host is not allowed"}`)
		},
	} {
		server := httptest.NewServer(want)
		if got := (person{server: server}).fails(t, "list"); !strings.Contains(got, handler) {
			t.Errorf("got %q, want %q", got, handler)
		}
		server.Close()
	}
}

func TestRemoveAsksOnATerminalOnly(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		terminal bool
		stdin    string
		args     []string
		removed  bool
	}{
		{true, "y\n", nil, true},
		{true, "YES\n", nil, true},
		{true, "n\n", nil, false},
		{true, "\n", nil, false},
		{true, "", nil, false},
		{true, "", []string{"--yes"}, true},
		{false, "", nil, true},
	} {
		b := samplePool()
		p := person{server: serve(t, b), stdin: strings.NewReader(tt.stdin), atTerminal: tt.terminal}
		stdout, stderr, err := p.runs(t, append([]string{"remove", "work"}, tt.args...)...)
		if removed := strings.Contains(stdout, "removed successfully"); (err == nil) != tt.removed || removed != tt.removed {
			t.Errorf("%+v: %v, said %q", tt, err, stdout)
		}
		asks := strings.HasPrefix(stderr, `Remove account "work"? [y/N] `)
		if asks != (tt.terminal && tt.args == nil) {
			t.Errorf("%+v: printed %q", tt, stderr)
		}
	}
}

func TestRemoveAsksNothingAboutANameThatIsNotThere(t *testing.T) {
	t.Parallel()
	p := person{server: serve(t, samplePool()), stdin: strings.NewReader("y\n"), atTerminal: true}
	_, stderr, err := p.runs(t, "remove", "nobody")
	if err == nil || strings.Contains(stderr, "?") {
		t.Errorf("printed %q, %v", stderr, err)
	}
}

func TestWarningsOfTheServerGoToStandardError(t *testing.T) {
	t.Parallel()
	b := samplePool()
	b.accounts[0].Warning = "the token has no scope\x1b for files"
	_, stderr, err := person{server: serve(t, b)}.runs(t, "refresh", "work")
	if err != nil || stderr != "Warning: the token has no scope\\x1b for files\n" {
		t.Errorf("%v %q", err, stderr)
	}
}

func TestAccountsOfAKeyThatAreNotThereAreTold(t *testing.T) {
	t.Parallel()
	server := serve(t, samplePool())
	for args, want := range map[string]string{
		"keys add ci --accounts work,nobody": `Warning: there is no account "nobody".`,
		"keys add tv --accounts work":        "",
	} {
		_, stderr, err := person{server: server}.runs(t, strings.Fields(args)...)
		if _, warning, _ := strings.Cut(stderr, "ANTHROPIC_BASE_URL.\n"); err != nil || strings.TrimSpace(warning) != want {
			t.Errorf("%s: %v %q", args, err, stderr)
		}
	}
}

func TestTablesAreNoWiderThanTheTerminal(t *testing.T) {
	t.Parallel()
	server := serve(t, samplePool())
	for _, columns := range []int{80, 100, 140} {
		for _, args := range []string{"history", "keys list", "stats", "list"} {
			stdout, _, err := person{server: server, columns: columns}.runs(t, strings.Fields(args)...)
			for line := range strings.Lines(stdout) {
				if err != nil || width(strings.TrimSuffix(line, "\n")) > columns {
					t.Errorf("%s at %d columns: %v %s", args, columns, err, line)
				}
			}
		}
	}
}

func TestAKeyIsAloneOnStandardOutput(t *testing.T) {
	t.Parallel()
	server := serve(t, samplePool())
	for args, hint := range map[string]string{"keys add ci": "ANTHROPIC_AUTH_TOKEN", "keys add tv --role viewer": "as the password", "keys rotate ci": "ANTHROPIC_AUTH_TOKEN"} {
		stdout, stderr, err := person{server: server}.runs(t, strings.Fields(args)...)
		if err != nil || strings.Count(stdout, "\n") != 1 || !strings.HasPrefix(stdout, "cb-") || !strings.Contains(stderr, hint) {
			t.Errorf("%s: %v %q %q", args, err, stdout, stderr)
		}
	}
}

func TestJSONIsTheAnswerItself(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "{\"name\":\"a\\u001b\u009b\",\"later\":{\"b\":1.50},\"url\":\"x?a&b\"}\n")
	}))
	t.Cleanup(server.Close)
	for _, args := range []string{"show a --json", "--json pause a", "stats --json", "keys add a --json", "clear-history --json"} {
		stdout, _, err := person{server: server}.runs(t, strings.Fields(args)...)
		want := "{\n  \"name\": \"a\\u001b\\u009b\",\n  \"later\": {\n    \"b\": 1.50\n  },\n  \"url\": \"x?a&b\"\n}\n"
		if err != nil || stdout != want {
			t.Errorf("%s: %v %q", args, err, stdout)
		}
	}
}

func TestJSONOfEveryCommandIsJSON(t *testing.T) {
	t.Parallel()
	server := serve(t, samplePool())
	for _, args := range []string{
		"list", "show work", "set work --weight 2", "pause work", "resume work", "refresh work", "clear-limits work", "stats", "history",
		"explain", "export", "keys list", "keys show alice", "keys add x", "keys set x --rpm 1", "keys rotate x", "audit", "clear-history",
		"version", "remove work", "reset-stats", "keys revoke x", "add new", "import lap --file -", "login work",
	} {
		p := person{server: server, stdin: strings.NewReader("CODE#STATE\n")}
		if strings.HasPrefix(args, "import") {
			p.stdin = strings.NewReader(`{"claudeAiOauth":{"subscriptionType":"max"}}`)
		}
		stdout, stderr, err := p.runs(t, append(strings.Fields(args), "--json")...)
		if err != nil {
			t.Errorf("%s: %v %s", args, err, stderr)
		}
		dec := json.NewDecoder(strings.NewReader(stdout))
		for {
			var v any
			if err := dec.Decode(&v); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("%s: %v in %s", args, err, stdout)
			}
		}
	}
}

func TestAFullDiskIsNotASuccess(t *testing.T) {
	t.Parallel()
	p := &printer{w: writerFunc(func([]byte) (int, error) { return 0, errors.New("no space left") })}
	p.line("a")
	p.line("b")
	if p.err == nil {
		t.Error("the error is lost")
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func TestNamesAndWordsComplete(t *testing.T) {
	t.Parallel()
	server := serve(t, samplePool())
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"show", ""}, "work,名前 of home,ci"},
		{[]string{"remove", "w"}, "work"},
		{[]string{"remove", "work", ""}, ""},
		{[]string{"keys", "revoke", "a"}, "alice"},
		{[]string{"history", "--account", "c"}, "ci"},
		{[]string{"history", "--outcome", ""}, "ok,upstream_error,refused,exhausted,client_gone,truncated"},
		{[]string{"add", "--mode", ""}, "console,max"},
		{[]string{"explain", "--key", "wa"}, "wall"},
		{[]string{"pau"}, "pause\tStops choosing an account"},
	} {
		stdout, _, err := person{server: server}.runs(t, append([]string{cobra.ShellCompRequestCmd}, tt.args...)...)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(stdout), "\n")
		if got := strings.Join(lines[:len(lines)-1], ","); got != tt.want {
			t.Errorf("%q: %q, want %q", tt.args, got, tt.want)
		}
	}
	stdout, _, err := person{address: "unix//nowhere.sock"}.runs(t, cobra.ShellCompRequestCmd, "show", "")
	if err != nil || strings.TrimSpace(stdout) != ":4" {
		t.Errorf("without a server: %q %v", stdout, err)
	}
}

func TestTheClientSpeaksOverAUnixSocket(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "admin.sock")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Origin") != "" {
			t.Errorf("an Origin over a socket: %q", r.Header)
		}
		_, _ = io.WriteString(w, "[]")
	}))
	server.Listener = ln
	server.Start()
	t.Cleanup(server.Close)
	stdout, stderr, err := person{address: "unix/" + path + "|0200"}.runs(t, "list", "--json")
	if err != nil || stdout != "[]\n" {
		t.Errorf("%v %q %q", err, stdout, stderr)
	}
}

func TestVersionWorksWithoutAServer(t *testing.T) {
	t.Parallel()
	stdout, _, err := person{address: "unix//nowhere.sock"}.runs(t, "version")
	if err != nil || !strings.HasPrefix(stdout, "claude-balancer ") || strings.Contains(stdout, "server") {
		t.Errorf("%q %v", stdout, err)
	}
	stdout, _, err = person{server: serve(t, new(fakeBackend))}.runs(t, "version")
	if err != nil || !strings.Contains(stdout, "\nserver ") {
		t.Errorf("%q %v", stdout, err)
	}
}

func TestAddressMayComeFromTheConfiguration(t *testing.T) {
	t.Parallel()
	server := serve(t, new(fakeBackend))
	path := filepath.Join(t.TempDir(), "caddy.json")
	config := fmt.Sprintf(`{"admin":{"listen":%q}}`, server.Listener.Addr())
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	stdout, stderr, err := person{}.runs(t, "list", "--json", "--config", path)
	if err != nil || stdout != "[]\n" {
		t.Errorf("%v %q %q", err, stdout, stderr)
	}
}
