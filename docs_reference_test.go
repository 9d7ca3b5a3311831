package claudebalancer

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/claude-balancer/claude-balancer/admin"
	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/selection"
)

// The reference pages have everything that is there, and nothing else.

// docRow is a row of a table: its cells, and the first word of the first cell
// that is set as code.
type docRow struct {
	word  string
	cells []string
}

var firstCode = regexp.MustCompile("`([^` ]+)[^`]*`")

// docTable are the rows of the tables below a heading, up to the next one.
func docTable(t *testing.T, path, heading string) (rows []docRow) {
	t.Helper()
	_, section, found := strings.Cut(readText(t, path), "\n"+heading+"\n")
	if !found {
		t.Fatalf("%s has no heading %q", path, heading)
	}
	for line := range strings.SplitSeq(section, "\n") {
		if strings.HasPrefix(line, "#") {
			break
		}
		if !strings.HasPrefix(line, "|") {
			continue
		}
		const escapedPipe = "\x00"
		cells := strings.Split(strings.Trim(strings.ReplaceAll(line, `\|`, escapedPipe), "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(strings.ReplaceAll(cells[i], escapedPipe, "|"))
		}
		if match := firstCode.FindStringSubmatch(cells[0]); match != nil {
			rows = append(rows, docRow{match[1], cells})
		}
	}
	return rows
}

func docWords(t *testing.T, path, heading string) (words []string) {
	t.Helper()
	for _, row := range docTable(t, path, heading) {
		words = append(words, row.word)
	}
	return words
}

func sameWords(t *testing.T, what string, got, want []string) {
	t.Helper()
	slices.Sort(got)
	slices.Sort(want)
	want = slices.Compact(want)
	if !slices.Equal(got, want) {
		t.Errorf("%s\n   has %v\nshould %v", what, got, want)
	}
}

const caddyfilePage = "docs/caddyfile.md"

// TestTheCaddyfileReferenceHasEveryWordAndNoOther asks the parser itself: its
// error for an unknown word lists what is allowed.
func TestTheCaddyfileReferenceHasEveryWordAndNoOther(t *testing.T) {
	t.Parallel()
	const unknown = "unheard_of"
	allowed := regexp.MustCompile(`allowed (?:are|is) (.*?),? at Caddyfile:`)
	all := []string{"claude_balancer"}
	for heading, block := range map[string]string{
		"## Global options": "{\nclaude_balancer {\n" + unknown + "\n}\n}\n",
		"### plan":          "{\nclaude_balancer {\nplan x {\n" + unknown + " y\n}\n}\n}\n",
		"### oauth":         "{\nclaude_balancer {\noauth {\n" + unknown + "\n}\n}\n}\n",
		"## Directive":      "localhost {\nclaude_balancer {\n" + unknown + "\n}\n}\n",
		"### dashboard":     "localhost {\nclaude_balancer {\ndashboard {\n" + unknown + "\n}\n}\n}\n",
		"### sign_in":       "localhost {\nclaude_balancer {\nsign_in {\n" + unknown + "\n}\n}\n}\n",
		"### users":         "localhost {\nclaude_balancer {\nsign_in {\nusers {\n" + unknown + "\n}\n}\n}\n}\n",
	} {
		list := allowed.FindStringSubmatch(adapt(block))
		if list == nil {
			t.Fatalf("%s: the error lists nothing: %s", heading, adapt(block))
		}
		words := strings.Split(strings.ReplaceAll(list[1], " and ", ", "), ", ")
		all = append(all, words...)
		sameWords(t, caddyfilePage+" "+heading, docWords(t, caddyfilePage, heading), words)
	}

	// The syntax in the comments of the parsers has the same words.
	var commented []string
	for _, match := range regexp.MustCompile(`(?m)^//\t+([a-z_]+)`).FindAllStringSubmatch(readText(t, "caddyfile.go"), -1) {
		commented = append(commented, match[1])
	}
	slices.Sort(commented)
	sameWords(t, "the syntax in caddyfile.go", slices.Compact(commented), all)
}

// TestTheCaddyfileReferenceTellsTheDefaults writes each documented default out:
// it must change nothing.
func TestTheCaddyfileReferenceTellsTheDefaults(t *testing.T) {
	t.Parallel()
	untold := new(Handler)
	untold.setDefaults()
	for _, row := range docTable(t, caddyfilePage, "## Directive") {
		if row.word == "transport" || row.word == "telemetry" || row.word == "settings" {
			continue // the default is a module with settings of its own; there is none
		}
		value := strings.Trim(row.cells[1], "`")
		told := new(Handler)
		if err := told.UnmarshalCaddyfile(caddyfile.NewTestDispenser("claude_balancer {\n" + row.word + " " + value + "\n}")); err != nil {
			t.Errorf("%s: %v", row.word, err)
			continue
		}
		if row.word == "dashboard" && *told.Dashboard.Enabled {
			told.Dashboard = nil
		}
		told.setDefaults()
		if got, want := asJSON(t, told), asJSON(t, untold); got != want {
			t.Errorf("%s %s is not the default: %s, want %s", row.word, value, got, want)
		}
	}

	app := new(App)
	lines := "preset " + documentedDefault(t, "### oauth", "preset") + "\nrefresh_before " + documentedDefault(t, "### oauth", "refresh_before")
	block := "claude_balancer {\nhistory " + documentedDefault(t, "## Global options", "history") + "\noauth {\n" + lines + "\n}\n}"
	if err := app.UnmarshalCaddyfile(caddyfile.NewTestDispenser(block)); err != nil {
		t.Fatal(err)
	}
	if app.history() != new(App).history() || app.refreshBefore() != new(App).refreshBefore() {
		t.Errorf("these are not the defaults: %s", block)
	}
	got, err := app.OAuth.endpoints()
	want, _ := new(App).OAuth.endpoints()
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("the preset is not the default: %v", err)
	}

	plans := selection.Plans{}
	for _, row := range docTable(t, caddyfilePage, "### Default plans") {
		plans[row.word] = selection.Plan{Models: strings.Fields(strings.Trim(row.cells[1], "`"))}
	}
	if !reflect.DeepEqual(plans, selection.DefaultPlans()) {
		t.Errorf("the default plans are %v, documented are %v", selection.DefaultPlans(), plans)
	}
}

func documentedDefault(t *testing.T, heading, word string) string {
	t.Helper()
	for _, row := range docTable(t, caddyfilePage, heading) {
		if row.word == word {
			return strings.Trim(row.cells[1], "`")
		}
	}
	t.Fatalf("%s %s has no row for %s", caddyfilePage, heading, word)
	return ""
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	encoded, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(encoded)
}

// jsonNames are the names of a struct's JSON members.
func jsonNames(v reflect.Type) (names []string) {
	for field := range v.Fields() {
		if name, _, _ := strings.Cut(field.Tag.Get("json"), ","); name != "" {
			names = append(names, name)
		}
	}
	return names
}

func TestTheJSONReferenceHasEveryMemberAndNoOther(t *testing.T) {
	t.Parallel()
	for heading, v := range map[string]any{
		"## App claude_balancer": App{},
		"### store":              StoreConfig{},
		"### history":            HistoryConfig{},
		"### plan":               selection.Plan{},
		"### oauth":              OAuthConfig{},
		"### price":              PriceConfig{},
		"## Handler http.handlers.claude_balancer": Handler{},
		"### sign_in":   SignInConfig{},
		"### users":     SignInUsers{},
		"### settings":  ManagedSettingsConfig{},
		"### telemetry": TelemetryConfig{},
		"### dashboard": DashboardConfig{},
	} {
		sameWords(t, "docs/json.md "+heading, docWords(t, "docs/json.md", heading), jsonNames(reflect.TypeOf(v)))
	}
}

const openAPIFile = "docs/openapi.yaml"

var yamlKey = regexp.MustCompile(`^( *)([\w/{}$.-]+):( |$)`)

// yamlKeys are the paths of a YAML file's keys, their steps joined by spaces.
// It reads no more of YAML than block mappings; the file keeps to that.
func yamlKeys(text string) (keys []string) {
	var indents []int
	var path []string
	for line := range strings.SplitSeq(text, "\n") {
		match := yamlKey.FindStringSubmatch(line)
		if match == nil {
			continue
		}
		for len(indents) > 0 && indents[len(indents)-1] >= len(match[1]) {
			indents, path = indents[:len(indents)-1], path[:len(path)-1]
		}
		indents, path = append(indents, len(match[1])), append(path, match[2])
		keys = append(keys, strings.Join(path, " "))
	}
	return keys
}

// below are the keys one step below a path.
func below(keys []string, path string) (found []string) {
	for _, key := range keys {
		if rest, ok := strings.CutPrefix(key, path+" "); ok && !strings.Contains(rest, " ") {
			found = append(found, rest)
		}
	}
	return found
}

func TestTheAdminAPIIsDescribedRouteByRoute(t *testing.T) {
	t.Parallel()
	keys := yamlKeys(readText(t, openAPIFile))
	var described []string
	for _, path := range below(keys, "paths") {
		for _, method := range below(keys, "paths "+path) {
			if method != "parameters" {
				described = append(described, strings.ToUpper(method)+" "+path)
			}
		}
	}
	sameWords(t, openAPIFile, described, admin.Patterns())

	var listed []string
	for _, row := range docTable(t, "docs/admin-api.md", "## Routes") {
		listed = append(listed, row.word+" "+strings.Fields(row.cells[0])[1])
	}
	for i := range listed {
		listed[i] = strings.Trim(listed[i], "`")
	}
	sameWords(t, "docs/admin-api.md", listed, admin.Patterns())
}

func TestTheOpenAPISchemasHaveTheMembersOfTheTypes(t *testing.T) {
	t.Parallel()
	text := readText(t, openAPIFile)
	keys := yamlKeys(text)
	for _, v := range []any{
		api.Account{}, api.Window{}, api.Limit{}, api.Tokens{}, api.NewAccount{}, api.AccountPatch{}, api.LoginRequest{}, api.Login{}, api.LoginCode{},
		api.Request{}, api.Attempt{}, api.Stats{}, api.Usage{}, api.OpusStats{}, api.Explanation{}, api.Candidate{},
		api.Key{}, api.NewKey{}, api.KeyPatch{}, api.AuditEntry{},
	} {
		name := reflect.TypeOf(v).Name()
		sameWords(t, openAPIFile+" "+name, below(keys, "components schemas "+name+" properties"), jsonNames(reflect.TypeOf(v)))
	}
	for _, ref := range regexp.MustCompile(`\$ref: "#/([^"]+)"`).FindAllStringSubmatch(text, -1) {
		if !slices.Contains(keys, strings.ReplaceAll(ref[1], "/", " ")) {
			t.Errorf("%s refers to %s, which it does not have", openAPIFile, ref[1])
		}
	}
}

func TestTheMapOfTheHouseHasEveryRoom(t *testing.T) {
	t.Parallel()
	page := readText(t, "CONTRIBUTING.md")
	rooms, err := filepath.Glob("*/")
	if err != nil {
		t.Fatal(err)
	}
	for _, room := range rooms {
		sources, _ := filepath.Glob(room + "*.go")
		deeper, _ := filepath.Glob(room + "*/*.go")
		if len(sources)+len(deeper) > 0 && !strings.Contains(page, "| `"+room+"` |") {
			t.Errorf("CONTRIBUTING.md does not say what %s is for", room)
		}
	}
}

func TestTheRoutingPageTellsEveryCauseStateAndPolicy(t *testing.T) {
	t.Parallel()
	const page = "docs/routing.md"
	var causes []string
	for _, match := range regexp.MustCompile(`(?m)^\tCause\w+ +Cause = "(\w+)"`).FindAllStringSubmatch(readText(t, "anthropic/verdict.go"), -1) {
		causes = append(causes, match[1])
	}
	sameWords(t, page+" causes", docWords(t, page, "## What an answer means"), causes)

	var policies []string
	for _, m := range caddy.GetModules("claude_balancer.selection_policies") {
		policies = append(policies, m.ID.Name())
	}
	sameWords(t, page+" policies", docWords(t, page, "## Policies"), policies)

	var states []string
	for _, match := range regexp.MustCompile(`(?m)^\tStatus\w+ +Status = "(\w+)"`).FindAllStringSubmatch(readText(t, "api/account.go"), -1) {
		states = append(states, match[1])
	}
	sameWords(t, page+" states", docWords(t, page, "## States of an account"), states)
}

// TestTheDocsQuoteWhatTheProgramSays looks for every quoted message, up to its
// variable parts, in the source.
func TestTheDocsQuoteWhatTheProgramSays(t *testing.T) {
	t.Parallel()
	var source strings.Builder
	err := filepath.WalkDir(".", func(path string, entry os.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (entry.Name() == "e2e" || entry.Name() == ".git"):
			return filepath.SkipDir
		case strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go"):
			source.WriteString(readText(t, path))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	code := strings.ReplaceAll(source.String(), `\"`, `"`)
	for i, line := range strings.Split(readText(t, "docs/troubleshooting.md"), "\n") {
		quoted, ok := strings.CutPrefix(line, "> ")
		if !ok {
			continue
		}
		for part := range strings.SplitSeq(quoted, "…") {
			if part = strings.Trim(part, " `"); !strings.Contains(code, part) {
				t.Errorf("docs/troubleshooting.md:%d: nothing says %q", i+1, part)
			}
		}
		t.Logf("said: docs/troubleshooting.md:%d", i+1)
	}
}

// caddyVersion is the version of Caddy that go.mod names.
func caddyVersion(t *testing.T) string {
	t.Helper()
	match := regexp.MustCompile(`github.com/caddyserver/caddy/v2 (v\S+)`).FindStringSubmatch(readText(t, "go.mod"))
	if match == nil {
		t.Fatal("go.mod names no Caddy")
	}
	return match[1]
}

func TestPackagesAreBuiltWithTheCaddyOfTheModule(t *testing.T) {
	t.Parallel()
	version := caddyVersion(t)
	for path, line := range map[string]string{
		"packaging/xcaddy-build": "\ncaddy=" + version + "\n",
		"xcaddy.Dockerfile":      "\nFROM caddy:" + strings.TrimPrefix(version, "v") + "-alpine\n",
	} {
		if !strings.Contains(readText(t, path), line) {
			t.Errorf("%s has no line %q", path, strings.TrimSpace(line))
		}
	}
	if !strings.Contains(readText(t, "xcaddy.Dockerfile"), "\nRUN packaging/xcaddy-build /usr/bin/caddy\n") {
		t.Error("the image is not built by the script that CI runs")
	}
}
