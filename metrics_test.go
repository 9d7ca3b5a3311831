package claudebalancer

import (
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/claude-balancer/claude-balancer/simulator"
)

// scrape returns the balancer's series and their values.
func (p *process) scrape() map[string]string {
	p.t.Helper()
	res, err := http.Get("http://" + p.admin + "/metrics")
	if err != nil {
		p.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	series := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && strings.HasPrefix(name, "caddy_claude_balancer_") {
			series[strings.TrimPrefix(name, "caddy_claude_balancer_")] = value
		}
	}
	return series
}

func TestMetricsTellWhatHappenedAndSurviveReloads(t *testing.T) {
	t.Parallel()
	p := newProcess(t, simulator.Options{Output: 10})
	config := p.config("", "policy priority\nretry_delay 1ms\nsession_affinity off")
	p.start(config)
	p.add("work", "max")
	p.add("home", "max")
	p.sim.Script("", simulator.Step{Do: simulator.Overloaded529})
	for range 3 {
		if status, _, err := p.message(t.Context(), p.client("2"), false); status != 200 || err != nil {
			t.Fatal(status, err)
		}
	}
	p.reload(p.config("", ""), 200)
	p.reload(config, 200)
	got := p.scrape()
	for name, want := range map[string]string{
		`requests_total{family="sonnet",outcome="ok",plan="max"}`: "3",
		`failovers_total{cause="overloaded"}`:                     "1",
		`first_byte_seconds_count`:                                "3",
		`overhead_seconds_count`:                                  "3",
		`in_flight{account="work"}`:                               "0",
		`account_available{account="home"}`:                       "1",
		`history_dropped_total`:                                   "0",
		`requests_running`:                                        "0",
	} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
	for _, prefix := range []string{`tries_total{account="work",cause="`, `tokens_total{account="`, `cost_usd_total{account="`, `window_utilization{account="`, "history_queue"} {
		if !slices.ContainsFunc(keysOf(got), func(name string) bool { return strings.HasPrefix(name, prefix) }) {
			t.Errorf("there is no series %s…", prefix)
		}
	}
}

func keysOf(m map[string]string) (keys []string) {
	for k := range m {
		keys = append(keys, k)
	}
	return keys
}

// TestTheDocumentedSeriesExist holds the dashboard and the alert rules to the
// collectors.
func TestTheDocumentedSeriesExist(t *testing.T) {
	t.Parallel()
	code, err := os.ReadFile("metrics.go")
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile(`caddy_claude_balancer_([a-z_]+)`)
	for _, file := range []string{"docs/grafana-dashboard.json", "docs/prometheus-alerts.yml", "docs/metrics.md"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		found := name.FindAllStringSubmatch(string(text), -1)
		if len(found) == 0 {
			t.Errorf("%s names no series", file)
		}
		for _, m := range found {
			base := m[1]
			for _, suffix := range []string{"_bucket", "_count", "_sum"} {
				base = strings.TrimSuffix(base, suffix)
			}
			if !strings.Contains(string(code), `"`+base+`"`) {
				t.Errorf("%s names %s, which is not collected", file, m[0])
			}
		}
	}
}

func TestTheMetricsPageHasEverySeriesWithItsLabels(t *testing.T) {
	t.Parallel()
	code := readText(t, "metrics.go")
	words := func(text string) string {
		return strings.Join(regexp.MustCompile(`[a-z][a-z0-9_]*`).FindAllString(text, -1), " ")
	}
	var collected, documented []string
	for _, m := range regexp.MustCompile(`new(?:Counter|Desc)\("([a-z_]+)", "[^"]*"((?:, "[a-z_]+")*)\)|Name: "([a-z_]+)"`).FindAllStringSubmatch(code, -1) {
		collected = append(collected, words(m[1]+m[3]+m[2]))
	}
	for line := range strings.Lines(readText(t, "docs/metrics.md")) {
		if rest, isRow := strings.CutPrefix(line, "| `caddy_claude_balancer_"); isRow {
			cells := strings.Split(rest, "|")
			documented = append(documented, words(cells[0]+cells[1]))
		}
	}
	sameWords(t, "docs/metrics.md", documented, collected)
}
