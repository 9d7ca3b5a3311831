package claudebalancer

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/claude-balancer/claude-balancer/admin"
	"github.com/claude-balancer/claude-balancer/dashboard"
)

// Every block of the documentation that somebody may copy is tried here:
// configurations, JSON, command lines, quoted code, links. Use -v for the list.

// documents are the paths of all pages.
func documents(t *testing.T) []string {
	t.Helper()
	pages, err := filepath.Glob("docs/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("no pages: %v", err)
	}
	return append([]string{"README.md", "CONTRIBUTING.md", "CHANGELOG.md"}, pages...)
}

func readText(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// docBlock is a fenced block of a page.
type docBlock struct {
	path, lang, text string
	line             int // of its first line
}

func (b docBlock) String() string { return fmt.Sprintf("%s:%d", b.path, b.line) }

// docBlocks are the blocks of one language in all pages, in order.
func docBlocks(t *testing.T, lang string) (found []docBlock) {
	t.Helper()
	for _, path := range documents(t) {
		for _, b := range pageBlocks(t, path) {
			if b.lang == lang {
				found = append(found, b)
			}
		}
	}
	return found
}

// pageBlocks are the blocks of a page, in order. Blocks of a list item are
// indented as it is.
func pageBlocks(t *testing.T, path string) (found []docBlock) {
	t.Helper()
	var open *docBlock
	indent := 0
	for i, line := range strings.Split(readText(t, path), "\n") {
		fence, isFence := strings.CutPrefix(strings.TrimLeft(line, " "), "```")
		switch {
		case isFence && open == nil:
			indent = strings.Index(line, "`")
			open = &docBlock{path: path, lang: strings.TrimSpace(fence), line: i + 2}
		case isFence:
			found = append(found, *open)
			open = nil
		case open != nil:
			open.text += line[min(indent, len(line)-len(strings.TrimLeft(line, " "))):] + "\n"
		}
	}
	if open != nil {
		t.Errorf("%s: the block is not closed", open)
	}
	return found
}

// TestEveryConfigurationInTheDocsIsValid does what `caddy validate` does. A
// block is a whole Caddyfile.
func TestEveryConfigurationInTheDocsIsValid(t *testing.T) {
	t.Parallel()
	blocks := append(docBlocks(t, "caddyfile"), docBlock{path: "Caddyfile.example", line: 1, text: readText(t, "Caddyfile.example")})
	for _, b := range blocks {
		raw, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(b.text), map[string]any{"filename": "Caddyfile"})
		if err != nil {
			t.Errorf("%s: %v", b, err)
			continue
		}
		for _, w := range warnings {
			t.Errorf("%s: %s", b, w)
		}
		if err := validate(raw); err != nil {
			t.Errorf("%s: %v", b, err)
		}
		t.Logf("valid: %s", b)
	}
}

func validate(raw []byte) error {
	var cfg caddy.Config
	if err := json.Unmarshal(raw, &cfg); err != nil {
		return err
	}
	provisioning.Lock()
	defer provisioning.Unlock()
	return caddy.Validate(&cfg)
}

// TestEveryJSONInTheDocsParses provisions those that are whole configurations,
// too.
func TestEveryJSONInTheDocsParses(t *testing.T) {
	t.Parallel()
	for _, b := range docBlocks(t, "json") {
		var members map[string]json.RawMessage
		if err := json.Unmarshal([]byte(b.text), &members); err != nil {
			t.Errorf("%s: %v", b, err)
			continue
		}
		if members["apps"] == nil {
			t.Logf("parses: %s", b)
			continue
		}
		if err := validate([]byte(b.text)); err != nil {
			t.Errorf("%s: %v", b, err)
		}
		t.Logf("valid: %s", b)
	}
}

// TestEveryCommandInTheDocsExists reads the sh blocks as a shell would. What it
// knows of must be right: sub-commands and flags of caddy, Go packages and
// tests, scripts, make targets, and the URLs that curl asks for.
func TestEveryCommandInTheDocsExists(t *testing.T) {
	t.Parallel()
	for _, b := range docBlocks(t, "sh") {
		for _, words := range shellCommands(b.text) {
			known, err := checkCommand(t, words)
			if err != nil {
				t.Errorf("%s: %s: %v", b, strings.Join(words, " "), err)
			} else if known {
				t.Logf("exists: %s: %s", b, strings.Join(words, " "))
			}
		}
	}
}

var shellToken = regexp.MustCompile(`'[^']*'|"[^"]*"|<[\w-]+>|[|&;<>]+|(?:[^\s'"|&;<>]|'[^']*'|"[^"]*")+`)

// shellCommands splits a script into simple commands without redirections and
// assignments. It knows as much of a shell as the documentation uses.
func shellCommands(script string) (commands [][]string) {
	for line := range strings.SplitSeq(strings.ReplaceAll(script, "\\\n", " "), "\n") {
		var words []string
		end := func() {
			if len(words) > 0 {
				commands = append(commands, words)
			}
			words = nil
		}
		redirected := false
		for _, w := range shellToken.FindAllString(line, -1) {
			if strings.HasPrefix(w, "#") {
				break
			}
			switch {
			case w == ">" || w == "<" || w == ">>":
				redirected = true
			case redirected:
				redirected = false
			case strings.Trim(w, "|&;") == "":
				end()
			case len(words) == 0 && (w == "sudo" || assignment.MatchString(w)):
			default:
				words = append(words, strings.NewReplacer("'", "", `"`, "").Replace(w))
			}
		}
		end()
	}
	return commands
}

var assignment = regexp.MustCompile(`^[A-Z_]+=`)

// checkCommand reports whether it knows the command, and what is wrong with it.
func checkCommand(t *testing.T, words []string) (known bool, err error) {
	t.Helper()
	for i, w := range words[:len(words)-1] { // also behind docker exec and the like
		if c, ok := caddycmd.Commands()[words[i+1]]; ok && filepath.Base(w) == "caddy" {
			return true, checkCaddy(c, words[i+2:])
		}
	}
	switch name := words[0]; {
	case name == "caddy" || name == "./caddy":
		return true, fmt.Errorf("caddy has no such command")
	case name == "go":
		return true, checkGo(words[1:])
	case name == "xcaddy":
		return true, checkXcaddy(t, words[1:])
	case name == "make":
		if !strings.Contains(readText(t, "Makefile"), "\n"+words[1]+":") {
			return true, fmt.Errorf("there is no such target")
		}
		return true, nil
	case name == "curl":
		return true, checkCurl(words[1:])
	case strings.HasPrefix(name, ".ci/"), strings.HasPrefix(name, "packaging/"), strings.HasPrefix(name, "./"):
		info, err := os.Stat(name)
		if err == nil && info.Mode()&0o100 == 0 {
			err = fmt.Errorf("it cannot be executed")
		}
		return true, err
	}
	return false, nil
}

// checkCaddy lets the real command read its arguments, without running it.
func checkCaddy(c caddycmd.Command, args []string) error {
	cmd := &cobra.Command{Use: c.Name}
	switch {
	case c.CobraFunc != nil:
		c.CobraFunc(cmd)
	case c.Flags != nil:
		c.Flags.VisitAll(func(f *flag.Flag) { cmd.Flags().AddGoFlag(f) })
	}
	sub, rest, err := cmd.Find(args)
	if err != nil {
		return err
	}
	if err := sub.ParseFlags(rest); err != nil {
		return err
	}
	if sub.HasSubCommands() && sub.Flags().NArg() > 0 {
		return fmt.Errorf("%s has no sub-command %s", sub.CommandPath(), sub.Flags().Arg(0))
	}
	if err := sub.ValidateFlagGroups(); err != nil {
		return err
	}
	return sub.ValidateArgs(sub.Flags().Args())
}

func checkGo(args []string) error {
	if !slices.Contains([]string{"run", "build", "test", "vet", "tool"}, args[0]) {
		return fmt.Errorf("go %s is not checked", args[0])
	}
	run := ""
	for i, arg := range args[1:] {
		if args[i] == "-run" {
			run = strings.Trim(arg, "^$")
		}
		dir, isDir := strings.CutPrefix(arg, "./")
		if !isDir && arg != "." {
			continue
		}
		dir = filepath.Join(".", strings.TrimSuffix(dir, "..."))
		sources, _ := filepath.Glob(filepath.Join(dir, "*.go"))
		if len(sources) == 0 {
			return fmt.Errorf("%s holds no Go package", arg)
		}
		if run != "" && !hasTest(sources, run) {
			return fmt.Errorf("%s has no test %s", arg, run)
		}
	}
	return nil
}

func hasTest(sources []string, run string) bool {
	name, _, _ := strings.Cut(run, "/")
	return slices.ContainsFunc(sources, func(source string) bool {
		text, _ := os.ReadFile(source)
		return regexp.MustCompile(`(?m)^func \w*` + name).Match(text)
	})
}

func checkXcaddy(t *testing.T, args []string) error {
	t.Helper()
	want := []string{"build", caddyVersion(t), "--with", "github.com/claude-balancer/claude-balancer"}
	if len(args) < len(want) || !slices.Equal(args[:len(want)], want) {
		return fmt.Errorf("want: xcaddy %s", strings.Join(want, " "))
	}
	return nil
}

// checkCurl finds out whether somebody answers the URL: the admin endpoint or
// the site.
func checkCurl(args []string) error {
	mux := http.NewServeMux()
	for _, pattern := range append(admin.Patterns(), "GET /metrics") {
		mux.HandleFunc(pattern, func(http.ResponseWriter, *http.Request) {})
	}
	method, target := http.MethodGet, ""
	for i, arg := range args {
		switch {
		case arg == "-X":
			method = args[i+1]
		case arg == "-d" || arg == "--json" || strings.HasPrefix(arg, "--data"):
			if method == http.MethodGet {
				method = http.MethodPost
			}
		case strings.Contains(arg, "://"):
			target = arg
		}
	}
	if target == "" {
		return fmt.Errorf("it has no URL")
	}
	r := httptest.NewRequest(method, target, nil)
	_, pattern := mux.Handler(r)
	if r.URL.Port() == "2019" && pattern == "" || r.URL.Port() != "2019" && !dashboard.Owns(r.URL.Path) && !strings.HasPrefix(r.URL.Path, "/v1/") {
		return fmt.Errorf("nobody answers %s %s", method, r.URL.Path)
	}
	return nil
}

// TestTheCheckOfCommandsFindsMistakes makes sure that the test above can fail.
func TestTheCheckOfCommandsFindsMistakes(t *testing.T) {
	t.Parallel()
	for _, wrong := range []string{
		"caddy claude-balancer enlist",
		"caddy claude-balancer list --verbosely",
		"caddy claude-balancer show",
		"caddy claude-balancer show work spare",
		"caddy claude-balancer keys issue alice",
		"caddy claude-balancer set work --weight heavy",
		"caddy claude-balancer add ci --api-key-file a --token-file b",
		"docker exec -it box caddy claude-balancer enlist",
		"caddy fly",
		"caddy validate --configuration Caddyfile",
		"go run ./cmd/nothing",
		"go test -run TestNothingOfTheKind ./api",
		"xcaddy build v2.11.5 --with github.com/claude-balancer/claude-balancer",
		"make coffee",
		".ci/nothing",
		"curl http://localhost:2019/claude_balancer/nothing",
		"curl -X PUT http://localhost:2019/claude_balancer/accounts",
		"curl http://localhost:8080/nothing",
		"A=b caddy claude-balancer list | grep x && caddy fly # not a comment's fault",
	} {
		found := false
		for _, words := range shellCommands(wrong) {
			_, err := checkCommand(t, words)
			found = found || err != nil
		}
		if !found {
			t.Errorf("nothing is found wrong with: %s", wrong)
		}
	}
}

// TestEveryGoBlockInTheDocsIsInTheSource: a block names its file in its first
// line and quotes it.
func TestEveryGoBlockInTheDocsIsInTheSource(t *testing.T) {
	t.Parallel()
	for _, b := range docBlocks(t, "go") {
		head, quoted, _ := strings.Cut(b.text, "\n")
		path, ok := strings.CutPrefix(head, "// ")
		if !ok || !strings.HasSuffix(path, ".go") {
			t.Errorf("%s: the block does not name its file", b)
			continue
		}
		if !strings.Contains(unindented(readText(t, path)), unindented(quoted)) {
			t.Errorf("%s: %s does not hold this", b, path)
		}
		t.Logf("quoted: %s from %s", b, path)
	}
}

func unindented(code string) string {
	lines := strings.Split(strings.TrimSpace(code), "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.Join(lines, "\n")
}

var (
	docLink     = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	docFence    = regexp.MustCompile("(?ms)^ *```.*?^ *```")
	docCode     = regexp.MustCompile("`[^`\n]*`")
	docHeading  = regexp.MustCompile(`(?m)^#+ (.*)$`)
	notInAnchor = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

func TestEveryLinkInTheDocsLeadsSomewhere(t *testing.T) {
	t.Parallel()
	count := 0
	for _, path := range documents(t) {
		prose := docCode.ReplaceAllString(docFence.ReplaceAllString(readText(t, path), ""), "")
		for _, match := range docLink.FindAllStringSubmatch(prose, -1) {
			target, anchor, _ := strings.Cut(match[1], "#")
			if strings.Contains(target, ":") {
				continue // somebody else's page
			}
			count++
			file := path
			if target != "" {
				file = filepath.Join(filepath.Dir(path), target)
			}
			if _, err := os.Stat(file); err != nil {
				t.Errorf("%s: %v", path, err)
			} else if anchor != "" && !slices.Contains(anchors(readText(t, file)), anchor) {
				t.Errorf("%s: %s has no heading #%s", path, file, anchor)
			}
		}
	}
	t.Logf("%d links lead somewhere", count)
}

// anchors are those that GitHub gives to the headings of a page.
func anchors(page string) (found []string) {
	for _, heading := range docHeading.FindAllStringSubmatch(docFence.ReplaceAllString(page, ""), -1) {
		text := notInAnchor.ReplaceAllString(strings.ToLower(heading[1]), "")
		found = append(found, strings.ReplaceAll(text, " ", "-"))
	}
	return found
}
