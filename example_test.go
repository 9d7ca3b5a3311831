package claudebalancer

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

// example is Caddyfile.example, adapted.
func example(t *testing.T) (text string, config []byte) {
	t.Helper()
	raw, err := os.ReadFile("Caddyfile.example")
	if err != nil {
		t.Fatal(err)
	}
	config, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt(raw, map[string]any{"filename": "Caddyfile"})
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range warnings {
		t.Errorf("line %d: %s", w.Line, w.Message)
	}
	return string(raw), config
}

func TestTheExampleIsAValidConfiguration(t *testing.T) {
	t.Parallel()
	_, config := example(t)
	var cfg caddy.Config
	if err := json.Unmarshal(config, &cfg); err != nil {
		t.Fatal(err)
	}
	provisioning.Lock()
	defer provisioning.Unlock()
	if err := caddy.Validate(&cfg); err != nil {
		t.Fatal(err)
	}
}

func TestTheExampleStaysValidWithEveryRemarkSwitchedOn(t *testing.T) {
	t.Parallel()
	text, _ := example(t)
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte(strings.Repeat("a", 64)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"# email ops@example.com", "# trusted_proxies static 192.0.2.10", "# store sqlite /var/lib/caddy/claude-accounts.db",
		"# encryption_key {file./etc/caddy/claude-balancer.key}", "# expose_account off", "# dashboard off",
	} {
		if !strings.Contains(text, line) {
			t.Errorf("the example has no remark %q", line)
		}
		text = strings.Replace(text, line, strings.TrimPrefix(line, "# "), 1)
	}
	if _, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), nil); err != nil {
		t.Error(err)
	}
}

func TestTheExampleHidesKeysAndCodesInEveryLog(t *testing.T) {
	t.Parallel()
	_, raw := example(t)
	var config struct {
		Logging struct {
			Logs map[string]struct {
				Encoder struct {
					Format string `json:"format"`
					Fields map[string]struct {
						Filter string `json:"filter"`
					} `json:"fields"`
				} `json:"encoder"`
			} `json:"logs"`
		} `json:"logging"`
		Apps struct {
			Balancer struct {
				History json.RawMessage `json:"history"`
			} `json:"claude_balancer"`
			HTTP struct {
				GracePeriod int64 `json:"grace_period"`
			} `json:"http"`
		} `json:"apps"`
	}
	if err := json.Unmarshal(raw, &config); err != nil {
		t.Fatal(err)
	}
	if len(config.Logging.Logs) != 2 {
		t.Errorf("%d logs, want the default one and the access log", len(config.Logging.Logs))
	}
	for name, log := range config.Logging.Logs {
		fields := log.Encoder.Fields
		if log.Encoder.Format != "filter" || fields["request>headers>X-Api-Key"].Filter != "replace" || fields["request>uri"].Filter != "query" {
			t.Errorf("log %s does not hide them: %+v", name, log)
		}
	}
	if config.Apps.HTTP.GracePeriod == 0 || config.Apps.Balancer.History == nil {
		t.Errorf("the global options are not in force: %s", raw)
	}
}
