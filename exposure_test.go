package claudebalancer

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/claude-balancer/claude-balancer/api"
)

// warnings starts a configuration and returns its warnings.
func warnings(t *testing.T, database, sites string) []string {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir()}
	log := filepath.Join(r.dir, "log")
	r.start(fmt.Sprintf(`{
	admin off
	log {
		output file %s
		format json
		level WARN
	}
	claude_balancer {
		store sqlite %s
	}
}
%s`, log, database, sites))
	text, err := os.ReadFile(log)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, `"claude_balancer"`) {
			found = append(found, line)
		}
	}
	return found
}

const (
	saysLocked = "clients of this site need a client key and there is none yet"
	saysOpen   = "`access open`: whoever reaches these listeners uses your accounts without a key"
)

func TestAStartWarnsOnceOfStrangersAndOfLockedDoors(t *testing.T) {
	t.Parallel()
	const local, keys, open = "{\nclaude_balancer\n}\n", "{\nclaude_balancer {\naccess keys\n}\n}\n", "{\nclaude_balancer {\naccess open\n}\n}\n"
	for _, tc := range []struct{ name, sites, want string }{
		{"localhost", "localhost " + local, ""},
		{"a name below localhost", "http://claude.localhost:8080 " + local, ""},
		{"a loopback literal", "http://127.0.0.1:8080 " + local, ""},
		{"any host, for users who get their keys by themselves", "http://:8080 {\nclaude_balancer {\nsign_in {\nusers\n}\n}\n}\n", ""},
		{"any host, bound to loopback", "http://:8080 {\nbind 127.0.0.1 ::1\nclaude_balancer\n}", ""},
		{"any host", "http://:8080 " + local, saysLocked},
		{"a public name", "claude.example.com " + local, saysLocked},
		{"a public name among local ones", "localhost, claude.example.com " + local, saysLocked},
		{"two public sites", "a.example.com " + local + "b.example.com " + local, saysLocked},
		{"a Unix socket", "http://:80 {\nbind unix//run/x.sock\nclaude_balancer\n}", saysLocked},
		{"inside other blocks", "claude.example.com {\nhandle /v1/* {\nroute {\nclaude_balancer\n}\n}\n}", saysLocked},
		{"inside other blocks on localhost", "localhost {\nhandle /v1/* {\nroute {\nclaude_balancer\n}\n}\n}", ""},
		{"keys on localhost", "localhost " + keys, saysLocked},
		{"open on loopback only", "http://:8080 {\nbind 127.0.0.1 ::1 localhost\nclaude_balancer {\naccess open\n}\n}", ""},
		{"open on localhost, which listens everywhere", "localhost " + open, saysOpen},
		{"open to the world", "claude.example.com " + open, saysOpen},
		{"open on a Unix socket", "http://:80 {\nbind unix//run/x.sock\nclaude_balancer {\naccess open\n}\n}", saysOpen},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got := warnings(t, filepath.Join(t.TempDir(), "accounts.db"), tc.sites)
			switch {
			case tc.want == "" && len(got) > 0:
				t.Errorf("warns without need: %s", got)
			case tc.want != "" && (len(got) != 1 || !strings.Contains(got[0], tc.want)):
				t.Errorf("got %q, want one that says %q", got, tc.want)
			}
		})
	}
}

func TestAPublicSiteWithAKeyDoesNotWarn(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	if _, err := r.app.runtime.AddKey(context.Background(), api.NewKey{Name: "ci"}); err != nil {
		t.Fatal(err)
	}
	if got := warnings(t, filepath.Join(r.dir, "data", "accounts.db"), "claude.example.com {\nclaude_balancer\n}"); len(got) > 0 {
		t.Errorf("%s", got)
	}
}
