package claudebalancer

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/simulator"
)

// TestEachRowOfTheVerdictTable sends one request to a pool of two accounts, the
// first of which answers as the row says. Rows that need more have a test of
// their own below.
func TestEachRowOfTheVerdictTable(t *testing.T) {
	t.Parallel()
	reset := time.Now().Add(2 * time.Hour).Truncate(time.Second)
	for _, row := range []struct {
		name    string
		step    simulator.Behaviour
		model   string
		stream  bool
		path    string
		status  int        // what the client gets
		used    string     // accounts asked, in order
		cause   string     // of the first try
		state   api.Status // of the first account afterwards
		scope   string     // of its limit; "" = none
		limited string     // the limit's family or model
		least   time.Duration
		most    time.Duration
	}{
		{name: "2xx", status: 200, used: "a", cause: "ok", state: api.StatusAvailable},
		{name: "2xx on paid extra usage, others can serve", step: simulator.ExtraUsage200, status: 200, used: "a", cause: "extra_usage",
			state: api.StatusLimited, scope: "account", least: time.Minute, most: 8 * 24 * time.Hour},
		{name: "first event overloaded", step: simulator.FirstEventError("overloaded_error"), stream: true, status: 200, used: "a b", cause: "overloaded", state: api.StatusAvailable},
		{name: "first event rate limit", step: simulator.FirstEventError("rate_limit_error"), stream: true, status: 200, used: "a b", cause: "burst",
			state: api.StatusAvailable, scope: "family", limited: "sonnet", most: 3 * time.Second},
		{name: "first event api error", step: simulator.FirstEventError("api_error"), stream: true, status: 200, used: "a b", cause: "server_error", state: api.StatusAvailable},
		{name: "first event of another type passes", step: simulator.FirstEventError("invalid_request_error"), stream: true, status: 200, used: "a", cause: "client_error", state: api.StatusAvailable},
		{name: "429, 5h window rejected", step: simulator.Window5h(reset), status: 200, used: "a b", cause: "window",
			state: api.StatusLimited, scope: "account", least: 2*time.Hour - 10*time.Minute, most: 2*time.Hour + time.Minute},
		{name: "429, 7d window rejected", step: simulator.Weekly(reset.Add(48 * time.Hour)), status: 200, used: "a b", cause: "window",
			state: api.StatusLimited, scope: "account", least: 49 * time.Hour, most: 51 * time.Hour},
		{name: "429, unified rejected without a window", step: simulator.Unified429, status: 200, used: "a b", cause: "window",
			state: api.StatusLimited, scope: "account", most: 8 * 24 * time.Hour},
		{name: "429, only a scoped window", step: simulator.ScopedWindow("7d_oi", reset), model: fable, status: 200, used: "a b", cause: "scoped_window",
			state: api.StatusAvailable, scope: "family", limited: "fable", least: 2*time.Hour - 10*time.Minute, most: 2*time.Hour + time.Minute},
		{name: "429, out of credits", step: simulator.OutOfCredits, status: 200, used: "a b", cause: "no_credit",
			state: api.StatusAvailable, scope: "family", limited: "sonnet", least: 4 * time.Minute, most: 5 * time.Minute},
		{name: "429, spend limit", step: simulator.SpendLimit, status: 200, used: "a b", cause: "spend_limit",
			state: api.StatusLimited, scope: "account", least: 59 * time.Minute, most: time.Hour},
		{name: "429, burst with a long wait", step: simulator.Burst(40 * time.Second), status: 200, used: "a b", cause: "burst",
			state: api.StatusAvailable, scope: "family", limited: "sonnet", least: 30 * time.Second, most: 40 * time.Second},
		{name: "429, bare", step: simulator.Bare429, status: 200, used: "a b", cause: "bare_429", state: api.StatusAvailable},
		{name: "429 on count_tokens", step: simulator.Window5h(reset), path: "/v1/messages/count_tokens", status: 200, used: "a b", cause: "count_tokens_429", state: api.StatusAvailable},
		{name: "529", step: simulator.Overloaded529, status: 200, used: "a b", cause: "overloaded", state: api.StatusAvailable},
		{name: "500", step: simulator.ServerError(500), status: 200, used: "a b", cause: "server_error", state: api.StatusAvailable},
		{name: "502", step: simulator.ServerError(502), status: 200, used: "a b", cause: "server_error", state: api.StatusAvailable},
		{name: "503", step: simulator.ServerError(503), status: 200, used: "a b", cause: "server_error", state: api.StatusAvailable},
		{name: "504", step: simulator.ServerError(504), status: 200, used: "a b", cause: "server_error", state: api.StatusAvailable},
		{name: "reset before the answer", step: simulator.ResetAfterRead, status: 200, used: "a b", cause: "reset", state: api.StatusAvailable},
		{name: "organization does not allow OAuth", step: simulator.OAuthNotAllowed, status: 200, used: "a b", cause: "org_disabled", state: api.StatusDisabled},
		{name: "organization disabled", step: simulator.OrgDisabled, status: 200, used: "a b", cause: "org_disabled", state: api.StatusDisabled},
		{name: "organization on hold", step: simulator.OnHold, status: 200, used: "a b", cause: "org_disabled", state: api.StatusDisabled},
		{name: "403 for the model", step: simulator.ModelForbidden, status: 200, used: "a b", cause: "model_forbidden",
			state: api.StatusAvailable, scope: "model", limited: sonnet, least: 59 * time.Minute, most: time.Hour},
		{name: "402", step: simulator.Billing402, status: 200, used: "a b", cause: "billing",
			state: api.StatusLimited, scope: "account", least: 59 * time.Minute, most: time.Hour},
		{name: "400, own API spend limit", step: simulator.APISpend400, status: 200, used: "a b", cause: "api_spend_limit",
			state: api.StatusLimited, scope: "account", least: 59 * time.Minute, most: time.Hour},
		{name: "400, extra usage wording passes", step: simulator.ExtraUsage400, status: 400, used: "a", cause: "third_party", state: api.StatusAvailable},
		{name: "400 passes", step: simulator.BadRequest400, status: 400, used: "a", cause: "client_error", state: api.StatusAvailable},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, rigOptions{directive: append([]string{"policy priority"}, quick...)})
			r.add("a", "max")
			r.add("b", "max")
			r.prefer("a")
			if row.step != nil {
				r.sim.Script("a", simulator.Step{Do: row.step})
			}
			model, path := row.model, row.path
			if model == "" {
				model = sonnet
			}
			if path == "" {
				path = "/v1/messages"
			}
			got := r.send("POST", path, messageBody(model, row.stream)).mustBe(t, row.status)
			if used := strings.Join(r.used(), " "); used != row.used {
				t.Errorf("asked the accounts %q, want %q", used, row.used)
			}
			rec := r.last()
			if rec.Attempts[0].Cause != row.cause {
				t.Errorf("cause %q, want %q", rec.Attempts[0].Cause, row.cause)
			}
			if want := strings.Count(row.used, " "); rec.FailoverAttempts != want {
				t.Errorf("failover_attempts %d, want %d", rec.FailoverAttempts, want)
			}
			if id := got.header.Get("X-Request-Id"); id != rec.ID {
				t.Errorf("X-Request-Id %q, row %q", id, rec.ID)
			}
			a := r.account("a")
			if a.Status != row.state {
				t.Errorf("status %s (%s), want %s", a.Status, a.StatusReason, row.state)
			}
			checkLimit(t, a, row.scope, row.limited, row.least, row.most)
		})
	}
}

func checkLimit(t *testing.T, a api.Account, scope, name string, least, most time.Duration) {
	t.Helper()
	if scope == "" {
		if len(a.Limits) > 0 {
			t.Errorf("limits %+v, want none", a.Limits)
		}
		return
	}
	if len(a.Limits) != 1 || a.Limits[0].Scope != scope || deref(a.Limits[0].Family) != name {
		t.Fatalf("limits %+v, want one of scope %s for %q", a.Limits, scope, name)
	}
	if d := time.Until(time.UnixMilli(a.Limits[0].Until)); d < least || d > most {
		t.Errorf("benched for %s, want %s to %s", d, least, most)
	}
}

// prefer makes one account the first choice of the policy `priority`.
func (r *rig) prefer(name string) {
	r.t.Helper()
	minus := -1
	if _, err := r.app.runtime.UpdateAccount(r.t.Context(), name, api.AccountPatch{Priority: api.Field[int]{Set: true, Value: &minus}}); err != nil {
		r.t.Fatal(err)
	}
}

func preferring(t *testing.T, names ...string) *rig {
	t.Helper()
	r := newRig(t, rigOptions{directive: append([]string{"policy priority"}, quick...)})
	for _, name := range names {
		r.add(name, "max")
	}
	r.prefer(names[0])
	return r
}

func TestA400PassesByteForByte(t *testing.T) {
	t.Parallel()
	r := preferring(t, "a", "b")
	r.sim.Script("a", simulator.Step{Status: 400, Body: "{\"type\" :\"error\",  \"error\":{\"type\":\"invalid_request_error\",\"message\":\"bound to a \\u0064ifferent conversation\"}}\n", Header: http.Header{"X-Odd": {"kept"}}})
	got := r.message(sonnet).mustBe(t, 400)
	if !strings.HasPrefix(got.body, "{\"type\" :\"error\",  ") || !strings.HasSuffix(got.body, "}}\n") || got.header.Get("X-Odd") != "kept" {
		t.Errorf("the answer was changed: %q %v", got.body, got.header)
	}
}

func TestABare429FromEveryAccountIsPassedOnAfterOneRound(t *testing.T) {
	t.Parallel()
	r := preferring(t, "a", "b", "c")
	r.sim.Script("", simulator.Step{Times: -1, Do: simulator.Bare429})
	got := r.message(sonnet).mustBe(t, 429)
	if n := len(r.used()); n != 3 {
		t.Errorf("%d tries, want one for each account", n)
	}
	if got.errorType(t) != "rate_limit_error" || got.header.Get("X-Proxy-Account") == "" {
		t.Errorf("not upstream's answer: %v %s", got.header, got.body)
	}
	for _, name := range []string{"a", "b", "c"} {
		if a := r.account(name); a.Status != api.StatusAvailable || len(a.Limits) > 0 {
			t.Errorf("%s was benched: %+v", name, a)
		}
	}
}

func TestCountTokens429IsPassedOnWhenAllSaySo(t *testing.T) {
	t.Parallel()
	r := preferring(t, "a", "b")
	r.sim.Script("", simulator.Step{Times: -1, Do: simulator.Burst(30 * time.Second)})
	r.send("POST", "/v1/messages/count_tokens", messageBody(sonnet, false)).mustBe(t, 429)
	r.sim.Unscript("")
	r.message(sonnet).mustBe(t, 200)
}

func TestAnOverloadOfEveryAccountGetsOneRoundOnly(t *testing.T) {
	t.Parallel()
	r := preferring(t, "a", "b")
	r.sim.Script("", simulator.Step{Times: -1, Do: simulator.Overloaded529})
	got := r.message(sonnet).mustBe(t, 503)
	if n := len(r.used()); n != 2 {
		t.Errorf("%d tries, want 2", n)
	}
	if after := got.header.Get("Retry-After"); after != "5" {
		t.Errorf("Retry-After %q, want 5", after)
	}
	if a := r.account("a"); len(a.Limits) > 0 {
		t.Errorf("an overload benched the account: %+v", a.Limits)
	}
}

func TestAFaultIsTriedAgainInRounds(t *testing.T) {
	t.Parallel()
	r := preferring(t, "a")
	r.sim.Script("a", simulator.Step{Times: 2, Do: simulator.ServerError(500)})
	r.message(sonnet).mustBe(t, 200)
	row := r.last()
	if len(row.Attempts) != 3 || row.FailoverAttempts != 0 {
		t.Errorf("attempts %+v, failovers %d", row.Attempts, row.FailoverAttempts)
	}
}

func TestEveryAccountFailingGivesThe503(t *testing.T) {
	t.Parallel()
	r := preferring(t, "a", "b")
	r.sim.Script("", simulator.Step{Times: -1, Do: simulator.ServerError(500)})
	got := r.message(sonnet).mustBe(t, 503)
	if n := len(r.used()); n != 6 {
		t.Errorf("%d tries, want three for each account", n)
	}
	body := got.json(t)
	if got.errorType(t) != "overloaded_error" || !strings.HasPrefix(got.errorMessage(t), "All accounts failed to proxy request: a (") {
		t.Errorf("error %s", got.body)
	}
	row := r.row(got.header.Get("X-Request-Id"))
	if body["requestId"] != row.ID || body["request_id"] != row.ID {
		t.Errorf("ids differ: %s, row %s", got.body, row.ID)
	}
	attempts := body["attempts"].([]any)
	first := attempts[0].(map[string]any)
	if len(attempts) != 2 || first["account"] != "a" || first["status"] != 500.0 || first["cause"] != "server_error" || first["retries"] != 3.0 || first["model"] != sonnet {
		t.Errorf("attempts %v", attempts)
	}
	if row.Outcome != api.OutcomeExhausted || row.StatusCode != 503 || row.FailoverAttempts != 2 || len(row.Attempts) != 6 || row.AccountUsed != nil {
		t.Errorf("row %+v", row)
	}
	plain := r.message(sonnet, "Anthropic-Version", "").mustBe(t, 503).json(t)
	if s, _ := plain["error"].(string); !strings.HasPrefix(s, "All accounts failed to proxy request") || plain["type"] != nil {
		t.Errorf("plain form %v", plain)
	}
}

func TestAPoolOfSpentAccountsSaysUntilWhen(t *testing.T) {
	t.Parallel()
	r := preferring(t, "a", "b")
	reset := time.Now().Add(3 * time.Hour)
	r.sim.Script("a", simulator.Step{Do: simulator.Window5h(reset)})
	r.sim.Script("b", simulator.Step{Do: simulator.Window5h(reset.Add(time.Hour))})
	r.message(sonnet).mustBe(t, 503)
	got := r.message(sonnet).mustBe(t, 503)
	if n := len(r.used()); n != 2 {
		t.Errorf("%d tries: spent accounts were asked again", n)
	}
	if got.header.Get("X-Should-Retry") != "false" {
		t.Error("a long wait must not be retried by itself")
	}
	after, err := time.ParseDuration(got.header.Get("Retry-After") + "s")
	if err != nil || after < 3*time.Hour-time.Minute || after > 3*time.Hour+time.Minute {
		t.Errorf("Retry-After %s", after)
	}
	if n := len(got.json(t)["attempts"].([]any)); n != 2 {
		t.Errorf("the answer tells of %d accounts", n)
	}
}

func TestARefused401IsRefreshedAndTriedOnce(t *testing.T) {
	t.Parallel()
	r := preferring(t, "a", "b")
	r.sim.RevokeAccess("a")
	r.message(sonnet).mustBe(t, 200)
	if used := r.last(); *used.AccountUsed != "a" || r.sim.Refreshes("a") != 1 {
		t.Errorf("answered by %s after %d refreshes", *used.AccountUsed, r.sim.Refreshes("a"))
	}
}

func TestA401AfterAGoodRefreshRestsTheAccount(t *testing.T) {
	t.Parallel()
	r := preferring(t, "a", "b")
	r.sim.Script("a", simulator.Step{Times: -1, Do: simulator.Unauthorized})
	r.message(sonnet).mustBe(t, 200)
	if used := strings.Join(r.used(), " "); used != "a a b" || r.sim.Refreshes("a") != 1 {
		t.Errorf("asked %q with %d refreshes", used, r.sim.Refreshes("a"))
	}
	a := r.account("a")
	checkLimit(t, a, "account", "", 4*time.Minute, 5*time.Minute)
	r.message(sonnet).mustBe(t, 200)
	if r.sim.Refreshes("a") != 1 {
		t.Error("a resting account was refreshed again")
	}
}

func TestOnly401sAreA502AndNeverA401(t *testing.T) {
	t.Parallel()
	r := preferring(t, "a", "b")
	r.sim.Script("", simulator.Step{Times: -1, Do: simulator.Unauthorized})
	got := r.message(sonnet).mustBe(t, 502)
	if got.errorType(t) != "api_error" || got.header.Get("X-Should-Retry") != "false" {
		t.Errorf("%v %s", got.header, got.body)
	}
}

func TestADeadRefreshTokenNeedsANewLogin(t *testing.T) {
	t.Parallel()
	r := preferring(t, "a", "b")
	r.sim.RevokeAccess("a")
	r.sim.KillRefresh("a")
	r.message(sonnet).mustBe(t, 200)
	r.eventually("the account needs a login", func() bool { return r.account("a").Status == api.StatusNeedsLogin })
	r.message(sonnet).mustBe(t, 200)
	if used := strings.Join(r.used(), " "); used != "a b b" {
		t.Errorf("asked %q", used)
	}
	if a := r.account("a"); a.TokenValid != 0 {
		t.Error("its token counts as valid")
	}
}

func TestAnAPIKeyNeedsALoginAfterTwoRefusedRequests(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{directive: append([]string{"policy priority"}, quick...)})
	r.add("key", "api")
	r.add("b", "max")
	r.prefer("key")
	r.sim.Script("key", simulator.Step{Times: -1, Do: simulator.Unauthorized})
	r.message(sonnet).mustBe(t, 200)
	if a := r.account("key"); a.Status != api.StatusAvailable || a.TokenValid != 1 {
		t.Fatalf("after one refusal: %+v", a)
	}
	r.message(sonnet).mustBe(t, 200)
	if a := r.account("key"); a.Status != api.StatusNeedsLogin || a.TokenValid != 0 {
		t.Errorf("after two refusals: %+v", a)
	}
}

func TestThreeFaultyRequestsBenchTheAccountThatFailsAlone(t *testing.T) {
	t.Parallel()
	r := preferring(t, "a", "b")
	r.sim.Script("a", simulator.Step{Times: -1, Do: simulator.ServerError(500)})
	for range 3 {
		r.message(sonnet).mustBe(t, 200)
	}
	a := r.account("a")
	checkLimit(t, a, "account", "", 5*time.Second, 10*time.Second)
	if a.Status != api.StatusLimited || a.Limits[0].Cause != "server_error" {
		t.Errorf("%+v", a)
	}
	r.message(sonnet).mustBe(t, 200)
	if n := r.sim.Count("a"); n != 3 {
		t.Errorf("a benched account was asked: %d", n)
	}
}

func TestFaultsOfEveryAccountNeverEmptyThePool(t *testing.T) {
	t.Parallel()
	r := preferring(t, "a", "b", "c")
	r.sim.Script("", simulator.Step{Times: -1, Do: simulator.ServerError(503)})
	for range 5 {
		r.message(sonnet).mustBe(t, 503)
	}
	r.sim.Unscript("")
	r.message(sonnet).mustBe(t, 200)
}

func TestAResetIsRepeatedOnceAndOnlyWhereThatIsSafe(t *testing.T) {
	t.Parallel()
	r := preferring(t, "a", "b", "c")
	r.sim.Script("", simulator.Step{Times: -1, Do: simulator.ResetAfterRead})
	got := r.message(sonnet)
	if n := len(r.used()); n != 2 || got.status != 502 || got.header.Get("X-Should-Retry") != "false" {
		t.Errorf("a message: %d tries, status %d", n, got.status)
	}
	r.sim.Reset()
	r.send("POST", "/v1/messages/batches", `{"requests":[]}`).mustBe(t, 502)
	if n := len(r.used()); n != 1 {
		t.Errorf("a batch was created %d times", n)
	}
}

func TestAnUpstreamThatCannotBeReachedIsTriedInRounds(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{upstream: "http://127.0.0.1:1", directive: quick})
	r.add("a", "max")
	r.message(sonnet).mustBe(t, 503)
	row := r.last()
	if len(row.Attempts) != 3 || row.Attempts[0].Cause != "dial" || row.Attempts[0].Status != 0 {
		t.Errorf("attempts %+v", row.Attempts)
	}
}

func TestNoAnswerInTimeIsA504AndIsNotRepeated(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{directive: append([]string{"answer_timeout 50ms", "first_event_timeout 50ms"}, quick...)})
	r.add("a", "max")
	r.add("b", "max")
	r.sim.Script("", simulator.Step{Times: -1, Do: simulator.Hang})
	for _, stream := range []bool{false, true} {
		r.sim.Reset()
		got := r.send("POST", "/v1/messages", messageBody(sonnet, stream)).mustBe(t, 504)
		if got.errorType(t) != "timeout_error" || got.header.Get("X-Should-Retry") != "false" {
			t.Errorf("%v %s", got.header, got.body)
		}
		if n := len(r.used()); n != 1 {
			t.Errorf("%d tries", n)
		}
	}
}

func TestABurstKeepsTheSessionWaitingForItsAccount(t *testing.T) {
	t.Parallel()
	r := preferring(t, "a", "b")
	session := []string{"X-Claude-Code-Session-Id", "s1"}
	r.message(sonnet, session...).mustBe(t, 200)
	r.sim.Script("a", simulator.Step{Do: simulator.Burst(time.Second)})
	got := r.message(sonnet, session...).mustBe(t, 200)
	if got.header.Get("X-Proxy-Account") != "a" {
		t.Errorf("the session moved to %s", got.header.Get("X-Proxy-Account"))
	}
	if used := r.used(); !slices.Equal(used, []string{"a", "a", "a"}) {
		t.Errorf("asked %v", used)
	}
}

func TestALateErrorEventCountsAsItsRow(t *testing.T) {
	t.Parallel()
	r := preferring(t, "a", "b")
	r.sim.Script("a", simulator.Step{Do: simulator.LateEventError("overloaded_error", 3)})
	got := r.stream(sonnet).mustBe(t, 200)
	if n := strings.Count(got.body, "event: error"); n != 1 || got.err != nil {
		t.Errorf("%d error events, %v", n, got.err)
	}
	row := r.last()
	if row.Outcome != api.OutcomeUpstreamError || row.Attempts[0].Cause != "overloaded" {
		t.Errorf("row %+v", row)
	}
	if got := r.stream(sonnet); got.header.Get("X-Proxy-Account") != "b" {
		t.Errorf("an overloaded account is still the first choice: %s", got.header.Get("X-Proxy-Account"))
	}
}
