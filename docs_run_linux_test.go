package claudebalancer

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/claude-balancer/claude-balancer/simulator"
)

// notRun are the commands that the lab leaves out, each with the reason and with
// what stands in for it, if later commands build on it.
var notRun = []struct {
	command        *regexp.Regexp
	reason, stands string
}{
	{regexp.MustCompile(`^(CLAUDE_BALANCER_LONG=1 |\.ci/postgres )?go test |^make (test|lint|check)|^\.ci/run`), "it is this suite; CI runs it", ""},
	{regexp.MustCompile(`^xcaddy build`), "it takes a published version; .ci/packaging runs the same build from the checkout", "cp /usr/local/bin/caddy caddy"},
	{regexp.MustCompile(`^packaging/xcaddy-build`), "it needs a module proxy; .ci/packaging runs it", "cp /usr/local/bin/caddy caddy"},
	{regexp.MustCompile(`^docker `), "it needs a Docker engine", ""},
	{regexp.MustCompile(`^(sudo )?systemctl `), "systemd does not run here; .ci/packaging verifies the unit", ""},
	{regexp.MustCompile(`^claude$`), "Claude Code is not installed here; e2e runs the SDKs with the same variables", ""},
	{regexp.MustCompile(`^npm `), ".ci/e2e runs it", ""},
	{regexp.MustCompile(`^go run \./bench`), "it is a measurement of minutes", ""},
}

// TestEveryCommandAndConfigurationInTheDocsRuns goes through the pages as a
// reader does who has accounts at the provider: it starts Caddy with each
// configuration and runs each command, exactly as written but for placeholders
// such as cb_…, and none may fail. The provider is the simulator. -v lists
// what was run and what was not.
func TestEveryCommandAndConfigurationInTheDocsRuns(t *testing.T) {
	if os.Getenv("CLAUDE_BALANCER_LONG") == "" {
		t.Skip("takes a minute, and Linux namespaces: set CLAUDE_BALANCER_LONG=1")
	}
	if os.Getenv(inLab) == "" {
		caddy := filepath.Join(t.TempDir(), "caddy")
		goCommand(t, "build", "-o", caddy, "./cmd/caddy")
		enterLab(t, caddy)
		return
	}
	pages := documents(t)
	buildLab(t)
	sim := simulator.New(simulator.Options{})
	authority, people := startProvider(t, sim), make(map[string]bool)
	for _, page := range pages {
		t.Run(page, func(t *testing.T) {
			newReader(t, sim, people, authority).read(page)
		})
	}
}

func (r *reader) read(page string) {
	blocks := pageBlocks(r.t, page)
	if page == "docs/upgrading.md" {
		r.mustRun("sqlite3 /srv/claude/claude-accounts.db <store/testdata/s3.sql")
	}
	if slices.ContainsFunc(blocks, onDatabase) {
		if !startDatabase(r.t, r.authority) {
			r.t.Skip("PostgreSQL is not installed, or may not be started")
		}
		r.mustRun("export PGHOST=" + databaseFolder + " PGUSER=postgres CLAUDE_BALANCER_KEY=" + strings.Repeat("ab", 32))
		// The page shows the configuration first, and then how its database is made.
		isOther := func(b docBlock) bool { return !onDatabase(b) }
		blocks = append(slices.DeleteFunc(slices.Clone(blocks), onDatabase), slices.DeleteFunc(slices.Clone(blocks), isOther)...)
	}
	for _, b := range blocks {
		switch {
		case b.lang == "caddyfile":
			r.configure(b)
		case b.lang == "json" && strings.Contains(b.text, `"apps"`):
			r.write("caddy.json", b.text)
			r.start("caddy run --config caddy.json")
			r.report("started", b, "")
		case b.lang == "json" && strings.Contains(b.text, `"api_key"`):
			r.write("account.json", strings.Replace(b.text, "sk-ant-api03-…", r.provider("ci", simulator.PlanAPI).APIKey.Reveal(), 1))
		case b.lang == "sh" || b.lang == "console":
			for _, command := range commandsOf(b) {
				r.do(b, command)
			}
		}
	}
}

// writeCaddyfile puts a configuration where the pages have it.
func (r *reader) writeCaddyfile(text string) {
	r.t.Helper()
	for _, path := range []string{"Caddyfile", "/etc/caddy/Caddyfile"} {
		r.write(path, ownCertificates(text))
	}
}

// ownCertificates is a configuration whose sites' certificates Caddy signs
// itself, since no other authority is in the lab.
func ownCertificates(config string) string {
	const here = "{\n\tlocal_certs\n\tskip_install_trust\n"
	if begin := strings.Index("\n"+config, "\n{\n"); begin >= 0 {
		return config[:begin] + here + config[begin+len("{\n"):]
	}
	return here + "}\n" + config
}

func onDatabase(b docBlock) bool {
	return b.lang == "caddyfile" && strings.Contains(b.text, "store postgres")
}

// configure starts Caddy with a block.
func (r *reader) configure(b docBlock) {
	r.writeCaddyfile(b.text)
	r.write("/etc/caddy/new.key", strings.Repeat("ab", 32))
	if _, err := os.Stat("/etc/caddy/claude.key"); err != nil {
		r.write("/etc/caddy/claude.key", strings.Repeat("cd", 32))
	}
	r.start("caddy run --config Caddyfile")
	r.report("started", b, "")
}

// do runs one command of a block.
func (r *reader) do(b docBlock, command string) {
	r.t.Helper()
	for _, left := range notRun {
		if left.command.MatchString(command) {
			r.report("not run", b, command+"  ("+left.reason+")")
			r.mustRun(left.stands)
			return
		}
	}
	if runsCaddy.MatchString(command) {
		r.start(command)
		r.report("ran", b, command)
		return
	}
	if r.running == nil && needsServer.MatchString(command) {
		r.start("caddy run --config Caddyfile")
	}
	r.prepare(command)
	switch {
	case strings.Contains(command, "DELETE FROM"):
		r.stop() // as the page says
	case strings.Contains(command, "migrate-store"):
		r.ensureAccount("work", nil)
		r.stop()
		r.mustRun("mkdir -p /var/lib/caddy && cp ~/.local/share/caddy/claude-accounts.db /var/lib/caddy/")
	}
	if err := r.run(r.filled(command)); err != nil {
		r.t.Errorf("%s: %s: %v\n%s", b, command, err, r.said)
		return
	}
	r.report("ran", b, command)
}

// report writes a line of the list of what was run.
func (r *reader) report(what string, b docBlock, command string) {
	fmt.Fprintln(r.t.Output(), strings.TrimSpace(fmt.Sprintf("%-8s %-26s %s", what, b, strings.Join(strings.Fields(command), " "))))
}

// commandsOf are the commands of a block: what bash takes for whole. In a
// console block they have a prompt.
func commandsOf(b docBlock) (commands []string) {
	open := ""
	for line := range strings.Lines(b.text) {
		if b.lang == "console" && open == "" {
			prompted, isCommand := strings.CutPrefix(line, "$ ")
			if !isCommand {
				continue
			}
			line = prompted
		}
		open += line
		if strings.HasSuffix(line, "\\\n") || exec.Command("bash", "-n", "-c", open).Run() != nil {
			continue
		}
		if command := strings.TrimSpace(open); command != "" && !strings.HasPrefix(command, "#") {
			commands = append(commands, command)
		}
		open = ""
	}
	if open != "" {
		commands = append(commands, open) // bash will say what is wrong with it
	}
	return commands
}
