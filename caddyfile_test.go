package claudebalancer

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

var update = flag.Bool("update", false, "write what the Caddyfiles of testdata adapt to")

const goldenLine = "----------"

// TestCaddyfilesAdaptAsTheGoldenFilesSay reads testdata/*.caddyfiletest: a
// Caddyfile, a line of ten dashes, and the JSON it adapts to or a part of the
// error.
func TestCaddyfilesAdaptAsTheGoldenFilesSay(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.caddyfiletest")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".caddyfiletest"), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			input, want, ok := strings.Cut(string(text), "\n"+goldenLine+"\n")
			if !ok {
				t.Fatal("there is no line of ten dashes")
			}
			got := adapt(input)
			if *update {
				if err := os.WriteFile(file, []byte(input+"\n"+goldenLine+"\n"+got+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want = strings.TrimSpace(want)
			if strings.HasPrefix(want, "{") && got != want || !strings.Contains(got, want) {
				t.Errorf("adapts to\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// adapt returns the JSON, or the text of the error.
func adapt(caddyfile string) string {
	raw, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		return err.Error()
	}
	var out bytes.Buffer
	if err := json.Indent(&out, raw, "", "\t"); err != nil {
		return err.Error()
	}
	for _, w := range warnings {
		if !strings.Contains(w.Message, "not formatted") {
			out.WriteString("\nwarning: " + w.Message)
		}
	}
	return out.String()
}

// TestACaddyfileMistakeNamesLineValueAndWhatIsAllowed tries one mistake for
// each word of the grammar.
func TestACaddyfileMistakeNamesLineValueAndWhatIsAllowed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ global, site, want string }{
		{site: "nonsense on", want: "unrecognized option 'nonsense': allowed are upstream"},
		{site: "upstream ftp://x", want: `upstream is "ftp://x", but must be http:// or https:// and a host`},
		{site: "upstream", want: "wrong argument count"},
		{site: "policy fastest", want: "policy is 'fastest', but may be headroom, least_used, "},
		{site: "policy random 3", want: "wrong argument count"},
		{site: "session_affinity soon", want: "session_affinity is 'soon', but must be a duration"},
		{site: "session_affinity 8d", want: "may be 7d at most"},
		{site: "retries 0", want: "retries is '0', but must be a whole number from 1 to 1000"},
		{site: "retry_delay -1s", want: "retry_delay is '-1s', but must be a duration"},
		{site: "retry_backoff 0.5", want: "retry_backoff is '0.5', but must be a number from 1 to 100"},
		{site: "retry_backoff NaN", want: "retry_backoff is 'NaN', but must be a number"},
		{site: "max_tries many", want: "max_tries is 'many', but must be a whole number"},
		{site: "try_duration 0", want: "try_duration is '0', but must be a duration of at least 1ms"},
		{site: "first_event_timeout x", want: "first_event_timeout is 'x'"},
		{site: "answer_timeout x", want: "answer_timeout is 'x'"},
		{site: "idle_timeout x", want: "idle_timeout is 'x'"},
		{site: "max_body huge", want: "max_body is 'huge', but must be a size such as 512KiB"},
		{site: "max_buffered -1", want: "max_buffered is '-1', but must be a size"},
		{site: "spend_extra_usage yes", want: "spend_extra_usage is 'yes', but may be on or off"},
		{site: "access everyone", want: "access is 'everyone', but may be local, keys or open"},
		{site: "dashboard maybe", want: "dashboard is 'maybe', but may be on or off"},
		{site: "dashboard {\n colour red\n}", want: "unrecognized option 'colour' of dashboard: allowed is cors"},
		{site: "dashboard {\n cors *\n}", want: "cors: '*' is no origin"},
		{site: "expose_account 1", want: "expose_account is '1', but may be on or off"},
		{site: "telemetry on", want: "telemetry is 'on', but may be drop, or forward and a URL"},
		{site: "telemetry drop it", want: "wrong argument count"},
		{site: "telemetry forward", want: "wrong argument count"},
		{site: "telemetry forward otel:4318", want: "forward is 'otel:4318', but must be an http or https URL"},
		{site: "transport carrier_pigeon", want: "carrier_pigeon"},
		{site: "retries 3\nretries 4", want: "retries is already specified"},
		{global: "nonsense", want: "unrecognized option 'nonsense': allowed are store"},
		{global: "store mysql x", want: "unrecognized store 'mysql': allowed are sqlite and postgres"},
		{global: "store postgres", want: "store postgres needs the database's URL, as {env.NAME} or {file./path}"},
		{global: "store postgres postgres://u:hidden@host/db", want: "store postgres must be followed by {env.NAME} or {file./path}, not the URL itself"},
		{global: "store postgres host=h password=hidden", want: "store postgres needs the database's URL, as {env.NAME} or {file./path}"},
		{global: "encryption_key 0123456789abcdef", want: "encryption_key must be {env.NAME} or {file./path}, not the key itself"},
		{global: "history forever", want: "history is 'forever', but must be a duration"},
		{global: "history 30d none", want: "the number of rows is 'none', but must be a whole number"},
		{global: "plan team {\n}", want: "plan team needs a line with its models"},
		{global: "plan team {\n models a,b\n}", want: "plan team: 'a,b' is no glob"},
		{global: "plan team {\n model a\n}", want: "unrecognized option 'model' of plan team: allowed are models and except"},
		{global: "plan \"\" {\n models a\n}", want: `plan is "", but must be a name of 1 to 64 printable characters`},
		{global: "plan a {\n models x\n}\nplan a {\n models y\n}", want: "plan a is already specified"},
		{global: "oauth {\n preset new\n}", want: "preset is 'new', but may be current or legacy"},
		{global: "oauth {\n token_url here\n}", want: "token_url is 'here', but must be an http or https URL"},
		{global: "oauth {\n refresh_before 0s\n}", want: "refresh_before is '0s', but must be a duration"},
		{global: "oauth {\n secret x\n}", want: "unrecognized option 'secret' of oauth"},
		{global: "price *opus* 1 2 3 4", want: "price takes a glob and five prices"},
		{global: "price *opus* 1 2 3 4 free", want: "price *opus*: 'free' is no price"},
	} {
		got := adapt("{\n\tclaude_balancer {\n" + c.global + "\n\t}\n}\nlocalhost {\n\tclaude_balancer {\n" + c.site + "\n\t}\n}\n")
		if !strings.Contains(got, c.want) || strings.Contains(got, "hidden") || !strings.Contains(got, "Caddyfile:") {
			t.Errorf("%s%s\n got: %s\nwant: %s", c.global, c.site, got, c.want)
		}
	}
}

// FuzzCaddyfile reads the lines of a block as the directive's and as the global
// option's: what is taken must survive JSON, what is not must be an error.
func FuzzCaddyfile(f *testing.F) {
	files, err := filepath.Glob("testdata/*.caddyfiletest")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		for _, block := range strings.Split(string(text), "claude_balancer")[1:] {
			f.Add(block)
		}
	}
	f.Add("{\npolicy random\nsession_affinity off\n}")
	f.Add("{\nprice * 1 2 3 4 5\nplan max {\nmodels *\n}\n}")
	f.Fuzz(func(t *testing.T, block string) {
		tokens, err := caddyfile.Tokenize([]byte("claude_balancer "+block), "Caddyfile")
		if err != nil {
			return
		}
		for _, module := range []caddyfile.Unmarshaler{new(Handler), new(App)} {
			if module.UnmarshalCaddyfile(caddyfile.NewDispenser(slices.Clone(tokens))) != nil {
				continue
			}
			raw, err := json.Marshal(module)
			if err != nil {
				t.Fatalf("%q: %v", block, err)
			}
			again := reflect.New(reflect.TypeOf(module).Elem()).Interface()
			if err := json.Unmarshal(raw, again); err != nil {
				t.Fatalf("%q: %s: %v", block, raw, err)
			}
			if twice, err := json.Marshal(again); err != nil || !bytes.Equal(raw, twice) {
				t.Errorf("%q: %s became %s: %v", block, raw, twice, err)
			}
		}
	})
}
