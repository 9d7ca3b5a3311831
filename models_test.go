package claudebalancer

import (
	"strings"
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/simulator"
)

// models are the ids in a list.
func (rp reply) models(t testing.TB) (ids []string) {
	t.Helper()
	for _, m := range rp.json(t)["data"].([]any) {
		ids = append(ids, m.(map[string]any)["id"].(string))
		if m.(map[string]any)["display_name"] == "" {
			t.Errorf("without a name: %v", m)
		}
	}
	return ids
}

func TestTheListOfModelsHasWhatTheKeyMayUse(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	r.add("a", "max")
	all := r.send("GET", "/v1/models?limit=1000", "").mustBe(t, 200)
	key := r.asKey(api.NewKey{Name: "some", Models: []string{"*haiku*", "claude-sonnet-5*"}})
	some := r.send("GET", "/v1/models?limit=1000", "", key...).mustBe(t, 200)
	if got := strings.Join(some.models(t), " "); got != "claude-sonnet-5-5 claude-haiku-5-5 claude-sonnet-5 claude-haiku-4-5-20251001" || len(all.models(t)) < 15 {
		t.Errorf("got %s of %v", got, all.models(t))
	}
	if whole := r.send("GET", "/v1/models?limit=1000", "", r.asKey(api.NewKey{Name: "all"})...).mustBe(t, 200); whole.body != all.body {
		t.Errorf("a key without that limit gets %s", whole.body)
	}

	// Page by page it is the same.
	var paged []string
	query := "?limit=2"
	for pages := 0; ; pages++ {
		page := r.send("GET", "/v1/models"+query, "", key...).mustBe(t, 200)
		paged = append(paged, page.models(t)...)
		if page.json(t)["has_more"] != true || pages > 20 {
			break
		}
		query = "?limit=2&after_id=" + page.json(t)["last_id"].(string)
	}
	if strings.Join(paged, " ") != strings.Join(some.models(t), " ") {
		t.Errorf("page by page: %v", paged)
	}

	r.send("GET", "/v1/models/"+haiku, "", key...).mustBe(t, 200)
	if got := r.send("GET", "/v1/models/"+opus, "", key...).mustBe(t, 400); !strings.Contains(got.errorMessage(t), opus) {
		t.Errorf("one that it may not use: %s", got.body)
	}
	r.sim.Script("", simulator.Step{Status: 200, Body: "<html>", Times: 1})
	r.send("GET", "/v1/models", "", key...).mustBe(t, 502)
}

func TestTheListOfModelsNeedsLessThanThreeSecondsWithEveryAccountDown(t *testing.T) {
	t.Parallel()
	for name, do := range map[string]simulator.Behaviour{
		"hangs": simulator.Hang, "fails": simulator.ServerError(500), "is overloaded": simulator.Overloaded529, "resets": simulator.ResetAfterRead, "is limited": simulator.Burst(time.Minute),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, rigOptions{directive: []string{"retry_delay 2s"}})
			r.add("a", "max")
			r.add("b", "max")
			r.sim.Script("", simulator.Step{Do: do, Times: 1000})
			begin := time.Now()
			got := r.send("GET", "/v1/models?limit=1000", "")
			if took := time.Since(begin); took >= 3*time.Second || got.status < 429 || got.errorType(t) == "" {
				t.Errorf("%d after %s: %s", got.status, took, got.body)
			}
		})
	}
	t.Run("is refreshed and the token endpoint hangs", func(t *testing.T) {
		t.Parallel()
		c := newClock()
		r := newRig(t, rigOptions{sim: simulator.Options{Now: c.now}})
		r.add("a", "max")
		r.sim.Script("", simulator.Step{Path: simulator.OAuthTokenPath, Do: simulator.Hang})
		c.pass(100 * 24 * time.Hour)
		begin := time.Now()
		got := r.send("GET", "/v1/models", "")
		if took := time.Since(begin); took >= 3*time.Second || got.status != 504 {
			t.Errorf("%d after %s: %s", got.status, took, got.body)
		}
		r.up.Close() // else the rig waits for the refresh
	})
	t.Run("is none", func(t *testing.T) {
		t.Parallel()
		newRig(t, rigOptions{}).send("GET", "/v1/models", "").mustBe(t, 503)
	})
}
