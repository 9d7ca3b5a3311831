package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/secret"
)

func TestAddPrintsTheURLAloneOnOneLineAndPostsTheCode(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ args, plan string }{
		{"add new", "console"},
		{"add new --mode max", "max"},
		{"add --mode max new", "max"},
		{"--mode max add new", "max"},
	} {
		b := samplePool()
		p := person{server: serve(t, b), stdin: strings.NewReader("  CODE#STATE \n")}
		stdout, stderr, err := p.runs(t, strings.Fields(tt.args)...)
		if err != nil {
			t.Fatal(err, stderr)
		}
		golden(t, "add-"+tt.plan, stdout+"----\n"+stderr)
		if want := (api.LoginCode{Code: secret.New("CODE#STATE")}); !reflect.DeepEqual(b.asked(), want) {
			t.Errorf("posted %+v", b.asked())
		}
		if first, _, _ := strings.Cut(stdout, "\n"); first != testURL {
			t.Errorf("the first line is %q", first)
		}
	}
}

func TestLoginKeepsThePlanAnAccountHas(t *testing.T) {
	t.Parallel()
	for args, plan := range map[string]string{
		"login work": "", "login work --mode console": "console", "add work --replace": "", "add work --replace --mode max": "max",
	} {
		b := samplePool()
		var started api.LoginRequest
		server := serve(t, loginSpy{b, &started})
		_, stderr, err := person{server: server, stdin: strings.NewReader("CODE#STATE")}.runs(t, strings.Fields(args)...)
		if want := (api.LoginRequest{Name: "work", PlanType: plan, Replace: true}); err != nil || started != want {
			t.Errorf("%s: %v %s, started %+v", args, err, stderr, started)
		}
	}
}

type loginSpy struct {
	*fakeBackend
	started *api.LoginRequest
}

func (s loginSpy) StartLogin(ctx context.Context, r api.LoginRequest) (api.Login, error) {
	*s.started = r
	return s.fakeBackend.StartLogin(ctx, r)
}

func TestALoginWithoutOrWithAWrongCodeAddsNothing(t *testing.T) {
	t.Parallel()
	for stdin, want := range map[string]string{
		"":        "no authorization code was given: nothing was added",
		"\n":      "no authorization code was given: nothing was added",
		"wrong\n": "the state of the code does not belong to this login",
	} {
		p := person{server: serve(t, samplePool()), stdin: strings.NewReader(stdin)}
		_, stderr, err := p.runs(t, "add", "new")
		if err == nil || err.Error() != want || !strings.HasSuffix(stderr, "Error: "+want+"\n") {
			t.Errorf("%q: %v, %q", stdin, err, stderr)
		}
	}
}

func TestAnInterruptedPromptEndsTheCommand(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	typing, never := io.Pipe()
	defer func() { _ = never.Close() }()
	interrupting := readerFunc(func(b []byte) (int, error) { cancel(); return typing.Read(b) })
	b := samplePool()
	_, _, err := person{server: serve(t, b), stdin: interrupting, ctx: ctx}.runs(t, "add", "new")
	if err == nil || err.Error() != "interrupted" {
		t.Errorf("got %v", err)
	}
	if _, posted := b.asked().(api.LoginCode); posted {
		t.Error("a code was posted")
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

func TestSecretsComeFromAFileOrStandardInput(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "key.txt")
	if err := os.WriteFile(path, []byte("\xef\xbb\xbfsk-ant-1\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args []string
		want api.NewAccount
	}{
		{[]string{"--api-key-file", path}, api.NewAccount{Name: "n", PlanType: "api", APIKey: secret.New("sk-ant-1")}},
		{[]string{"--api-key-file", "-"}, api.NewAccount{Name: "n", PlanType: "api", APIKey: secret.New("sk-ant-2")}},
		{[]string{"--token-file", path}, api.NewAccount{Name: "n", PlanType: "console", AccessToken: secret.New("sk-ant-1")}},
		{[]string{"--token-file", "-", "--mode", "max"}, api.NewAccount{Name: "n", PlanType: "max", AccessToken: secret.New("sk-ant-2")}},
	} {
		b := samplePool()
		p := person{server: serve(t, b), stdin: strings.NewReader("sk-ant-2\n")}
		stdout, stderr, err := p.runs(t, append([]string{"add", "n"}, tt.args...)...)
		if err != nil || !reflect.DeepEqual(b.asked(), tt.want) || strings.Contains(stdout+stderr, "sk-ant") {
			t.Errorf("%v: %v %s%s", tt.args, err, stdout, stderr)
		}
	}
}

func TestASecretThatIsMissingOrNotAloneIsRefused(t *testing.T) {
	t.Parallel()
	for stdin, want := range map[string]string{
		" \n":                               "standard input is empty",
		"one two":                           "standard input holds more than one word: it must hold the secret alone",
		"one\ntwo":                          "standard input holds more than one word: it must hold the secret alone",
		strings.Repeat("x", maxInput) + "y": "standard input is larger than 1 MiB",
	} {
		p := person{server: serve(t, samplePool()), stdin: strings.NewReader(stdin)}
		if got := p.fails(t, "add", "n", "--api-key-file", "-"); got != want {
			t.Errorf("%.20q: %q", stdin, got)
		}
	}
	if got := (person{}).fails(t, "add", "n", "--api-key-file", "a", "--token-file", "b"); !strings.Contains(got, "none of the others can be") {
		t.Errorf("got %q", got)
	}
}

func TestImportTakesThePlanFromTheSubscription(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ subscription, mode, plan, sentence string }{
		{`"max"`, "", "max", ""},
		{`"pro"`, "", "console", ""},
		{`"Max"`, "", "max", ""},
		{`"pro"`, "max", "max", ""},
		{`"team"`, "max", "max", ""},
		{`"team"`, "", "", `standard input belongs to a subscription "team": give --mode console or --mode max`},
		{`null`, "", "", `standard input does not say which subscription it belongs to: give --mode console or --mode max`},
		{`7`, "", "", `standard input is not a credentials file of Claude Code: it has no JSON object claudeAiOauth`},
	} {
		content := fmt.Sprintf(`{"claudeAiOauth":{"accessToken":"a","refreshToken":"r","subscriptionType":%s}}`, tt.subscription)
		b := samplePool()
		p := person{server: serve(t, b), stdin: strings.NewReader(content + "\n")}
		args := []string{"import", "laptop", "--file", "-"}
		if tt.mode != "" {
			args = append(args, "--mode", tt.mode)
		}
		if tt.sentence != "" {
			if got := p.fails(t, args...); got != tt.sentence {
				t.Errorf("%s: %q", tt.subscription, got)
			}
			continue
		}
		stdout, stderr, err := p.runs(t, args...)
		want := api.NewAccount{Name: "laptop", PlanType: tt.plan, Credentials: json.RawMessage(content)}
		if err != nil || !reflect.DeepEqual(b.asked(), want) {
			t.Errorf("%s: %v, asked for %+v", tt.subscription, err, b.asked())
		}
		if !strings.HasPrefix(stdout, "Account \"laptop\" added successfully.\n") || !strings.Contains(stderr, "Claude Code must stop using this login") {
			t.Errorf("printed %q, %q", stdout, stderr)
		}
	}
}

func TestAFileThatIsNoCredentialsFileIsNotQuoted(t *testing.T) {
	t.Parallel()
	for _, content := range []string{"", "sk-hidden", `{"a":"sk-hidden"}`, `"sk-hidden"`, `{"claudeAiOauth":"sk-hidden"}`} {
		p := person{server: serve(t, samplePool()), stdin: strings.NewReader(content)}
		if got := p.fails(t, "import", "a", "-f", "-"); strings.Contains(got, "hidden") || !strings.Contains(got, "not a credentials file") {
			t.Errorf("%s: %q", content, got)
		}
	}
}
