package simulator_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/simulator"
)

func TestEachRefusalHasTheServicesStatusTypeAndHeaders(t *testing.T) {
	t.Parallel()
	clock := newClock()
	f := start(t, simulator.Options{Now: clock.Now})
	reset := clock.Now().Add(2 * time.Hour).Truncate(time.Second)
	const unified = "Anthropic-Ratelimit-Unified-"
	tests := map[string]struct {
		do      simulator.Behaviour
		status  int
		kind    string
		message string // part of it
		code    string
		header  map[string]string // "-": must be absent
	}{
		"Window5h": {simulator.Window5h(reset), 429, "rate_limit_error", "rate limit", "", map[string]string{
			"Retry-After": "7200", "X-Should-Retry": "true", unified + "Status": "rejected", unified + "Reset": "1790007200",
			unified + "Representative-Claim": "five_hour", unified + "5h-Status": "rejected", unified + "5h-Utilization": "1.01",
			unified + "5h-Surpassed-Threshold": "1.0", unified + "5h-Reset": "1790007200", unified + "7d-Status": "allowed",
			unified + "7d-Utilization": "0.69", unified + "Overage-Status": "rejected",
			unified + "Overage-Disabled-Reason": "org_level_disabled", unified + "Fallback-Percentage": "0.5",
		}},
		"Weekly": {simulator.Weekly(reset), 429, "rate_limit_error", "", "", map[string]string{
			unified + "7d-Status": "rejected", unified + "5h-Status": "allowed", unified + "Representative-Claim": "seven_day",
		}},
		"ScopedWindow": {simulator.ScopedWindow("7d_oi", reset), 429, "rate_limit_error", "", "", map[string]string{
			unified + "7d_oi-Status": "rejected", unified + "7d_oi-Utilization": "1.0", unified + "7d-Status": "allowed_warning",
			unified + "7d-Surpassed-Threshold": "0.75", unified + "5h-Status": "allowed", unified + "5h-Utilization": "0.0",
			unified + "Representative-Claim": "seven_day_overage_included", unified + "Status": "rejected", "Retry-After": "7200",
		}},
		"WindowsOnly": {simulator.WindowsOnly(reset), 429, "rate_limit_error", "", "", map[string]string{
			unified + "5h-Status": "rejected", unified + "Status": "-", "Retry-After": "-",
		}},
		"Unified429": {simulator.Unified429, 429, "rate_limit_error", "", "", map[string]string{
			unified + "Status": "rejected", unified + "5h-Status": "-", "Retry-After": "300",
		}},
		"OutOfCredits": {simulator.OutOfCredits, 429, "rate_limit_error", "", "", map[string]string{
			unified + "Overage-Disabled-Reason": "out_of_credits", unified + "Status": "-", unified + "Reset": "-", "Retry-After": "-",
		}},
		"CreditsRequired": {simulator.CreditsRequired, 429, "rate_limit_error", "", "credits_required", nil},
		"SpendLimit":      {simulator.SpendLimit, 429, "rate_limit_error", "", "enforced_spend_limit_reached", map[string]string{"Retry-After": "-"}},
		"Burst": {simulator.Burst(1500 * time.Millisecond), 429, "rate_limit_error", "", "", map[string]string{
			"Retry-After": "2", unified + "Status": "allowed",
		}},
		"Burst without a wait": {simulator.Burst(0), 429, "rate_limit_error", "", "", map[string]string{"Retry-After": "-", unified + "Status": "allowed"}},
		"Bare429": {simulator.Bare429, 429, "rate_limit_error", "", "", map[string]string{
			"Retry-After": "-", unified + "Status": "-", "X-Should-Retry": "true",
		}},
		"Overloaded529":     {simulator.Overloaded529, 529, "overloaded_error", "Overloaded", "", nil},
		"ServerError":       {simulator.ServerError(503), 503, "api_error", "Internal server error", "", nil},
		"ServerError 504":   {simulator.ServerError(504), 504, "timeout_error", "", "", nil},
		"Unauthorized":      {simulator.Unauthorized, 401, "authentication_error", "Invalid bearer token", "", nil},
		"TokenRevoked403":   {simulator.TokenRevoked403, 403, "permission_error", "OAuth token has been revoked", "", nil},
		"OAuthNotAllowed":   {simulator.OAuthNotAllowed, 403, "permission_error", "currently not allowed for this organization", "", nil},
		"OrgDisabled":       {simulator.OrgDisabled, 403, "permission_error", "organization has been disabled", "", nil},
		"OnHold":            {simulator.OnHold, 403, "permission_error", "on hold", "organization_on_hold", nil},
		"ModelForbidden":    {simulator.ModelForbidden, 403, "permission_error", "model: " + sonnet, "", nil},
		"Billing402":        {simulator.Billing402, 402, "billing_error", "credit balance is too low", "", nil},
		"APISpend400":       {simulator.APISpend400, 400, "invalid_request_error", "You have reached your specified API usage limits", "", nil},
		"ExtraUsage400":     {simulator.ExtraUsage400, 400, "invalid_request_error", "Third-party apps now draw from your extra usage", "", nil},
		"BadRequest400":     {simulator.BadRequest400, 400, "invalid_request_error", "Invalid `signature`", "", nil},
		"BeforeAnswer":      {simulator.BeforeAnswer(func() {}), 200, "", "", "", nil},
		"ExtraUsage200":     {simulator.ExtraUsage200, 200, "", "", "", map[string]string{unified + "Status": "rejected", unified + "Overage-Status": "allowed", unified + "Overage-In-Use": "true", unified + "5h-Status": "rejected", unified + "Overage-Disabled-Reason": "-"}},
		"behaviour of mine": {func(x *simulator.Exchange) { x.AddHeader(http.Header{"X-Mine": {x.Account}}); x.Next() }, 200, "", "", "", map[string]string{"X-Mine": "work"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			f.Script("work", simulator.Step{Do: test.do})
			a := f.ask(f.work, sonnet, false)
			wantStatus(t, a, test.status)
			if test.kind != "" {
				kind, message, code := errorOf(t, a)
				if kind != test.kind || code != test.code || !strings.Contains(message, test.message) {
					t.Errorf("got %s %q: %s", kind, code, message)
				}
			}
			for h, want := range test.header {
				if got := a.header.Values(h); want == "-" && got != nil || want != "-" && (len(got) != 1 || got[0] != want) {
					t.Errorf("%s: %q, want %q", h, got, want)
				}
			}
		})
	}
	f.Script("key", simulator.Step{Do: simulator.Unauthorized}, simulator.Step{Do: simulator.Burst(time.Second)})
	if _, message, _ := errorOf(t, f.ask(f.key, sonnet, false)); message != "invalid x-api-key" {
		t.Errorf("an API key's 401: %q", message)
	}
	if h := f.ask(f.key, sonnet, false).header; h.Get("Anthropic-Ratelimit-Requests-Remaining") != "0" {
		t.Errorf("an API key's burst: %v", h)
	}
}

func TestStreamFaultsComeAfterTheEventsTheyName(t *testing.T) {
	t.Parallel()
	f := start(t, simulator.Options{})
	const opening = "message_start content_block_start ping"
	tests := map[string]struct {
		do     simulator.Behaviour
		events string // the beginning
		last   string
		broken bool
	}{
		"FirstEventError":       {simulator.FirstEventError("overloaded_error"), "error", "error", false},
		"LateEventError":        {simulator.LateEventError("api_error", 2), "message_start content_block_start error", "error", false},
		"CutStream":             {simulator.CutStream(3), opening, "ping", true},
		"CutStream at once":     {simulator.CutStream(0), "", "", true},
		"CutStream late":        {simulator.CutStream(1 << 20), opening, "message_delta", true},
		"EndWithoutStop":        {simulator.EndWithoutStop(2), "message_start content_block_start", "content_block_start", false},
		"EndWithoutStop late":   {simulator.EndWithoutStop(1 << 20), opening, "message_delta", false},
		"SilentStart":           {simulator.SilentStart(time.Millisecond), opening, "message_stop", false},
		"SilentStream":          {simulator.SilentStream(time.Millisecond), opening, "message_stop", false},
		"PingsBeforeFirstEvent": {simulator.PingsBeforeFirstEvent(3, time.Millisecond), "ping ping ping " + opening, "message_stop", false},
		"SlowBody":              {simulator.SlowBody(time.Microsecond), opening, "message_stop", false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			f.Script("work", simulator.Step{Do: test.do})
			a := f.ask(f.work, sonnet, true)
			if a.status != 200 || (a.err != nil) != test.broken {
				t.Fatalf("status %d, read error %v", a.status, a.err)
			}
			list := events(t, a.body)
			if !strings.HasPrefix(names(list), test.events) {
				t.Errorf("events: %s", names(list))
			}
			if len(list) > 0 && list[len(list)-1].name != test.last {
				t.Errorf("the last event is %s", list[len(list)-1].name)
			}
		})
	}
}

func TestAnErrorEventHasTheEnvelope(t *testing.T) {
	t.Parallel()
	f := start(t, simulator.Options{})
	f.Script("work", simulator.Step{Do: simulator.FirstEventError("rate_limit_error")})
	a := f.ask(f.work, sonnet, true)
	data, _ := strings.CutPrefix(strings.TrimSpace(a.body), "event: error\ndata: ")
	kind, message, _ := errorOf(t, answer{header: a.header, body: data})
	if kind != "rate_limit_error" || message == "" {
		t.Errorf("%s", a.body)
	}
}

func TestConnectionFaultsBreakTheConnection(t *testing.T) {
	t.Parallel()
	f := start(t, simulator.Options{})
	for name, do := range map[string]simulator.Behaviour{
		"reset before headers": simulator.ResetBeforeHeaders,
		"reset after read":     simulator.ResetAfterRead,
		"cut JSON":             simulator.CutStream(0),
		"drop the answer":      simulator.DropAnswer,
	} {
		t.Run(name, func(t *testing.T) {
			f.Script("work", simulator.Step{Do: do, Times: -1})
			if !f.broken(f.request(f.work, "POST", "/v1/messages", prompt(sonnet, false))) {
				t.Error("the client noticed nothing")
			}
			f.Unscript("work")
		})
	}
}

func TestSlowBodySendsAllOfTheAnswer(t *testing.T) {
	t.Parallel()
	f := start(t, simulator.Options{})
	f.Script("work", simulator.Step{Do: simulator.SlowBody(time.Microsecond)})
	if m := decode[message](t, f.ask(f.work, sonnet, false)); m.StopReason != "end_turn" {
		t.Errorf("got %+v", m)
	}
}

func TestAnAnswerCanComeBeforeTheRequestWasRead(t *testing.T) {
	t.Parallel()
	for _, keepOpen := range []bool{false, true} {
		f := start(t, simulator.Options{})
		f.Script("work", simulator.Step{Do: simulator.AnswerBeforeReading(429, keepOpen)})
		end := make(chan struct{})
		r := f.request(f.work, "POST", "/v1/messages", "")
		r.Body = io.NopCloser(&slowReader{bytes.NewReader(bytes.Repeat([]byte("x"), 100)), end})
		r.ContentLength = 1 << 20
		a := f.do(r)
		close(end)
		wantStatus(t, a, 429)
		if seen := f.Requests()[0]; seen.BodySize != 0 {
			t.Errorf("keepOpen %t: %d bytes were read", keepOpen, seen.BodySize)
		}
	}
}

func TestAHangEndsWhenTheClientGoes(t *testing.T) {
	t.Parallel()
	f := start(t, simulator.Options{})
	for name, do := range map[string]simulator.Behaviour{
		"hang": simulator.Hang, "silent start": simulator.SilentStart(0), "silent stream": simulator.SilentStream(0),
	} {
		t.Run(name, func(t *testing.T) {
			before := f.Cancelled()
			f.Script("work", simulator.Step{Do: do})
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				_ = f.Await(ctx, func() bool { return f.InFlight() == 1 && (name == "hang" || f.ActiveStreams() == 1) })
				cancel()
			}()
			if !f.broken(f.request(f.work, "POST", "/v1/messages", prompt(sonnet, true)).WithContext(ctx)) {
				t.Error("there was an answer")
			}
			err := f.Await(t.Context(), func() bool {
				return f.Cancelled() == before+1 && f.InFlight() == 0 && f.ActiveStreams() == 0
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestStepsAreTakenInOrderByTheRequestsTheyMatch(t *testing.T) {
	t.Parallel()
	f := start(t, simulator.Options{})
	f.Script("",
		simulator.Step{Status: 503, Times: 2},
		simulator.Step{Path: "/v1/models", Status: 418, Body: "teapot"})
	f.Script("work", simulator.Step{Status: 500}, simulator.Step{Path: "/v1/messages/count", Status: 501, Times: -1})
	get := func(c simulator.Credentials, path string, want int) {
		t.Helper()
		wantStatus(t, f.call(c, "GET", path, ""), want)
	}
	get(f.work, "/v1/models", 500)  // its own first
	get(f.work, "/v1/models", 503)  // then everyone's
	get(f.other, "/v1/models", 503) // the second of two
	if a := f.call(f.key, "GET", "/v1/models", ""); a.status != 418 || a.body != "teapot" {
		t.Errorf("got %d %s", a.status, a.body)
	}
	get(f.key, "/v1/models", 200)
	for range 3 {
		wantStatus(t, f.call(f.work, "POST", "/v1/messages/count_tokens", prompt(sonnet, false)), 501)
	}
	f.Unscript("work")
	wantStatus(t, f.call(f.work, "POST", "/v1/messages/count_tokens", prompt(sonnet, false)), 200)
}

func TestAStepWithoutAPathLeavesRefreshesAlone(t *testing.T) {
	t.Parallel()
	f := start(t, simulator.Options{})
	f.Script("work", simulator.Step{Do: simulator.Unauthorized, Times: -1})
	wantStatus(t, f.ask(f.work, sonnet, false), 401)
	wantStatus(t, f.refresh(f.work), 200)
}

func TestADelayEndsEarlyWhenTheClientGoes(t *testing.T) {
	t.Parallel()
	f := start(t, simulator.Options{})
	f.Script("work", simulator.Step{Delay: time.Hour, Path: "/v1/models"}, simulator.Step{Delay: time.Millisecond})
	wantStatus(t, f.ask(f.work, sonnet, false), 200)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		_ = f.Await(ctx, func() bool { return f.InFlight() == 1 })
		cancel()
	}()
	if !f.broken(f.request(f.work, "GET", "/v1/models", "").WithContext(ctx)) {
		t.Error("there was an answer")
	}
	if err := f.Await(t.Context(), func() bool { return f.InFlight() == 0 }); err != nil {
		t.Fatal(err)
	}
}

func TestPacedStreamsPingInTheGaps(t *testing.T) {
	t.Parallel()
	f := start(t, simulator.Options{Pace: 20 * time.Millisecond, Ping: 5 * time.Millisecond, Output: 1})
	all := names(events(t, f.ask(f.work, sonnet, true).body))
	if !strings.HasPrefix(all, "message_start ping ping ping content_block_start ping") || !strings.HasSuffix(all, "ping message_stop") {
		t.Errorf("events: %s", all)
	}
}
