package claudebalancer

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/simulator"
)

func TestBodyAndQueryReachUpstreamByteForByte(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	c := r.add("work", "max")
	body := "{ \"metadata\" : {\"x\":1.0e0},\n\"model\":\"claude-\\u0073onnet-4-5\", \"max_tokens\":16,\"messages\":[{\"role\":\"user\",\"content\":\"h\\u00e9 \\ud83d\\ude00\"}] ,\"unknown\":[null] }\n"
	r.send("POST", "/v1/messages?beta=true&x=%zz&;y", body,
		"Authorization", "Bearer client-secret", "X-Api-Key", "client-key", "Cookie", "a=b", "X-Forwarded-For", "",
		"Anthropic-Beta", "one,two", "X-Odd", "kept", "Accept-Encoding", "gzip", "Te", "trailers", "Connection", "X-Hop", "X-Hop", "1",
	).mustBe(t, 200)
	seen := r.sim.Requests()[0]
	if string(seen.Body) != body {
		t.Errorf("body %q", seen.Body)
	}
	if seen.RawQuery != "beta=true&x=%zz&;y" {
		t.Errorf("query %q", seen.RawQuery)
	}
	for name, want := range map[string]string{
		"Authorization": "Bearer " + c.Access.Reveal(), "Anthropic-Beta": "one,two,oauth-2025-04-20", "X-Odd": "kept",
		"Accept-Encoding": "identity", "Anthropic-Version": "2023-06-01", "User-Agent": "Go-http-client/1.1",
		"X-Api-Key": "", "Cookie": "", "X-Hop": "", "Te": "", "X-Forwarded-For": "", "Via": "",
	} {
		if got := strings.Join(seen.Header.Values(name), ","); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	row := r.last()
	if *row.Model != sonnet || row.Path != "/v1/messages" {
		t.Errorf("row %+v", row)
	}
}

func TestTheAnswerHidesTheAccountsQuotaAndNamesTheAccount(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	r.add("work", "max")
	got := r.message(sonnet).mustBe(t, 200)
	for name := range got.header {
		low := strings.ToLower(name)
		if strings.HasPrefix(low, "anthropic-") || low == "set-cookie" {
			t.Errorf("%s passes: %v", name, got.header[name])
		}
	}
	if got.header.Get("X-Proxy-Account") != "work" || got.header.Get("Request-Id") == "" || len(got.header.Get("X-Request-Id")) != 36 {
		t.Errorf("header %v", got.header)
	}
	if row := r.last(); *row.UpstreamRequestID != got.header.Get("Request-Id") {
		t.Errorf("row %+v", row)
	}
}

func TestExposeAccountOffHidesNames(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{directive: append([]string{"expose_account off"}, quick...)})
	r.add("secret-name", "console")
	if got := r.message(sonnet).mustBe(t, 200); got.header.Get("X-Proxy-Account") != "" {
		t.Error("X-Proxy-Account is there")
	}
	refused := r.message(opus).mustBe(t, 403)
	r.sim.Script("", simulator.Step{Times: -1, Do: simulator.ServerError(500)})
	for _, got := range []reply{refused, r.message(sonnet).mustBe(t, 503)} {
		if strings.Contains(got.body, "secret-name") {
			t.Errorf("the name is told: %s", got.body)
		}
	}
}

func TestAModelThatNoPlanAllowsIsA403InBothForms(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	r.add("pro", "console")
	for _, state := range []bool{false, true} { // whatever the account's state
		if state {
			r.patch("pro", api.AccountPatch{Paused: setField(true)})
		}
		got := r.message(opus).mustBe(t, 403)
		body := got.json(t)
		const message = "No accounts support the requested model: claude-opus-4-5. Opus requires Max plan accounts."
		if got.errorType(t) != "permission_error" || got.errorMessage(t) != message || body["type"] != "error" || body["requestedModel"] != opus {
			t.Errorf("envelope %s", got.body)
		}
		available, _ := json.Marshal(body["availableAccounts"])
		if string(available) != `[{"models":"*sonnet*,*haiku*","name":"pro","plan":"console"}]` {
			t.Errorf("availableAccounts %s", available)
		}
		plain := r.message(opus, "Anthropic-Version", "").mustBe(t, 403).json(t)
		if plain["error"] != message || plain["requestedModel"] != opus || plain["type"] != nil || plain["request_id"] != nil {
			t.Errorf("plain %v", plain)
		}
		row := r.row(got.header.Get("X-Request-Id"))
		if row.Outcome != api.OutcomeRefused || row.StatusCode != 403 || row.Success != 0 || row.AccountUsed != nil {
			t.Errorf("row %+v", row)
		}
	}
	if got := r.message(fable).mustBe(t, 403); strings.Contains(got.body, "Opus") {
		t.Errorf("%s", got.body)
	}
	if n := len(r.used()); n != 0 {
		t.Errorf("upstream was asked %d times", n)
	}
}

func (r *rig) patch(name string, p api.AccountPatch) {
	r.t.Helper()
	if _, err := r.app.runtime.UpdateAccount(context.Background(), name, p); err != nil {
		r.t.Fatal(err)
	}
}

func TestWithoutAccountsItSaysHowToAddOne(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	got := r.message(sonnet).mustBe(t, 503)
	if got.errorMessage(t) != "No accounts available. Please add accounts using the CLI." || got.errorType(t) != "api_error" {
		t.Errorf("%s", got.body)
	}
	if hint, _ := got.json(t)["hint"].(string); !strings.Contains(hint, "caddy claude-balancer add") {
		t.Errorf("hint %q", hint)
	}
}

func TestUnknownAndAbsentModelsMayUseEveryAccount(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	r.add("pro", "console")
	r.add("max", "max")
	used := map[string]int{}
	for i := range 8 {
		body := fmt.Sprintf(`{"model":"gpt-oss","n":%d,"messages":[{"role":"user","content":"%d"}]}`, i, i)
		if i%2 == 0 {
			body = "not json at all"
		}
		got := r.send("POST", "/v1/messages", body)
		used[got.header.Get("X-Proxy-Account")]++
		if got.status != 404 && got.status != 400 {
			t.Errorf("not upstream's own error: %d %s", got.status, got.body)
		}
	}
	if used["pro"] != 4 || used["max"] != 4 {
		t.Errorf("shares %v", used)
	}
}

func TestAnAccountsOwnListGoesBeforeItsPlan(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	r.add("pro", "console")
	r.add("max", "max")
	r.patch("pro", api.AccountPatch{Models: setField([]string{"*opus*"})})
	r.patch("max", api.AccountPatch{Models: setField([]string{haiku})})
	if got := r.message(opus).mustBe(t, 200); got.header.Get("X-Proxy-Account") != "pro" {
		t.Errorf("opus went to %s", got.header.Get("X-Proxy-Account"))
	}
	if got := r.message(haiku).mustBe(t, 200); got.header.Get("X-Proxy-Account") != "max" {
		t.Errorf("haiku went to %s", got.header.Get("X-Proxy-Account"))
	}
	r.message(sonnet).mustBe(t, 403)
	if a := r.account("max"); a.SupportedModels != haiku {
		t.Errorf("supported_models %q", a.SupportedModels)
	}
}

func TestAnAPIKeyAccountSendsItsKey(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	c := r.add("key", "api")
	r.message(opus).mustBe(t, 200)
	seen := r.sim.Requests()[0]
	if seen.Header.Get("X-Api-Key") != c.APIKey.Reveal() || seen.Header.Get("Authorization") != "" || seen.Header.Get("Anthropic-Beta") != "" {
		t.Errorf("header %v", seen.Header)
	}
}

func TestUsageOfStreamsAndSingleAnswersIsCounted(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{sim: simulator.Options{Output: 20}})
	r.add("work", "max")
	for _, stream := range []bool{false, true} {
		got := r.send("POST", "/v1/messages", messageBody(opus, stream)).mustBe(t, 200)
		row := r.row(got.header.Get("X-Request-Id"))
		if row.InputTokens == nil || *row.InputTokens == 0 || *row.OutputTokens != 20 || row.CostUSD == nil || *row.CostUSD <= 0 || row.Stream != truth(stream) {
			t.Errorf("stream %v: %+v", stream, row)
		}
		if stream && !strings.Contains(got.body, "event: message_stop") {
			t.Errorf("stream %s", got.body)
		}
	}
	a := r.account("work")
	if a.Tokens.Output != 40 || a.RequestCount != 2 || a.LastUsed == nil || a.CostUSD == nil {
		t.Errorf("account %+v", a)
	}
}

func TestACutStreamEndsWithOneErrorEvent(t *testing.T) {
	t.Parallel()
	for name, step := range map[string]simulator.Behaviour{"cut": simulator.CutStream(4), "clean end": simulator.EndWithoutStop(4)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := preferring(t, "a", "b")
			r.sim.Script("a", simulator.Step{Do: step})
			got := r.stream(sonnet).mustBe(t, 200)
			if got.err != nil || strings.Count(got.body, "event: error\n") != 1 || strings.Contains(got.body, "message_stop") {
				t.Fatalf("%v\n%s", got.err, got.body)
			}
			if !strings.HasSuffix(got.body, "\n\n") || !strings.Contains(got.body, `"type":"api_error"`) {
				t.Errorf("stream %s", got.body)
			}
			row := r.last()
			if row.Outcome != api.OutcomeTruncated || *row.AccountUsed != "a" || len(row.Attempts) != 1 || row.InputTokens == nil {
				t.Errorf("row %+v", row)
			}
		})
	}
}

func TestACutJSONAnswerAbortsTheConnection(t *testing.T) {
	t.Parallel()
	r := preferring(t, "a")
	r.sim.Script("a", simulator.Step{Do: simulator.CutStream(1)})
	res, err := http.DefaultTransport.RoundTrip(r.request("POST", "/v1/messages", messageBody(sonnet, false)))
	if err == nil {
		_, err = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
	}
	if err == nil {
		t.Error("a cut answer ended cleanly")
	}
	if row := r.last(); row.Outcome != api.OutcomeTruncated {
		t.Errorf("row %+v", row)
	}
}

func TestAClientThatLeavesEndsTheUpstreamRequest(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		step simulator.Behaviour
	}{
		{"before the answer", simulator.Hang},
		{"in the stream", simulator.SilentStream(0)},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := preferring(t, "a", "b")
			r.sim.Script("", simulator.Step{Times: -1, Do: c.step})
			ctx, cancel := context.WithCancel(t.Context())
			req := r.request("POST", "/v1/messages", messageBody(sonnet, true)).WithContext(ctx)
			done := make(chan struct{})
			go func() {
				defer close(done)
				if res, err := http.DefaultTransport.RoundTrip(req); err == nil {
					_, _ = io.Copy(io.Discard, res.Body)
					_ = res.Body.Close()
				}
			}()
			r.eventually("upstream has the request", func() bool { return r.sim.InFlight() == 1 })
			if c.name == "in the stream" {
				r.eventually("the stream runs", func() bool { return r.sim.ActiveStreams() == 1 })
			}
			cancel()
			<-done
			r.eventually("upstream notices", func() bool { return r.sim.Cancelled() == 1 })
			row := r.last()
			if row.Outcome != api.OutcomeClientGone || len(r.used()) != 1 {
				t.Errorf("row %+v, asked %v", row, r.used())
			}
			r.eventually("the place is free again", func() bool { return r.account("a").InFlight == 0 })
		})
	}
}

func TestBodiesAboveTheBoundAreRefusedOrStreamed(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{directive: []string{"max_body 64KiB"}})
	r.add("work", "max")
	large := `{"model":"` + sonnet + `","messages":[{"role":"user","content":"` + strings.Repeat("x", 100<<10) + `"}]}`
	for _, path := range []string{"/v1/messages", "/v1/messages/batches", "/v1/messages/count_tokens"} {
		if got := r.send("POST", path, large).mustBe(t, 413); got.errorType(t) != "request_too_large" {
			t.Errorf("%s: %s", path, got.body)
		}
	}
	chunked := r.request("POST", "/v1/messages", "")
	chunked.Body, chunked.ContentLength = io.NopCloser(strings.NewReader(large)), -1
	r.do(chunked).mustBe(t, 413)
	if n := len(r.used()); n != 0 {
		t.Errorf("upstream was asked %d times", n)
	}
	for _, known := range []bool{true, false} {
		upload := r.request("POST", "/v1/files", "")
		upload.Header.Set("Content-Type", "multipart/form-data; boundary=b")
		text := "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\n\r\n" + strings.Repeat("y", 300<<10) + "\r\n--b--\r\n"
		upload.Body, upload.ContentLength = io.NopCloser(strings.NewReader(text)), -1
		if known {
			upload.ContentLength = int64(len(text))
		}
		r.do(upload).mustBe(t, 200)
	}
	seen := r.sim.Requests()
	if len(seen) != 2 || seen[0].BodySize < 300<<10 || seen[1].BodySize != seen[0].BodySize {
		t.Errorf("uploads %d", len(seen))
	}
	if held := r.handler().buffered.Load(); held != 0 {
		t.Errorf("%d bytes are still accounted for", held)
	}
}

func (r *rig) handler() *Handler { return r.app.handlers[0] }

func TestTooManyBufferedBodiesAreA503(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{directive: []string{"max_body 64KiB", "max_buffered 64KiB"}})
	r.add("work", "max")
	r.handler().buffered.Add(40 << 10)
	got := r.send("POST", "/v1/messages", `{"model":"`+sonnet+`","messages":[{"role":"user","content":"`+strings.Repeat("x", 40<<10)+`"}]}`).mustBe(t, 503)
	if got.errorType(t) != "overloaded_error" || got.header.Get("Retry-After") == "" {
		t.Errorf("%v %s", got.header, got.body)
	}
	r.message(sonnet).mustBe(t, 200)
}

func TestAStalledUploadIsA408(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{servers: "servers {\n timeouts {\n read_body 300ms\n}\n}"})
	r.add("work", "max")
	conn, err := net.Dial("tcp", r.srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nAnthropic-Version: 2023-06-01\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
	answer, err := io.ReadAll(conn)
	if !bytes.HasPrefix(answer, []byte("HTTP/1.1 408 ")) || !bytes.Contains(answer, []byte("timeout_error")) {
		t.Errorf("%v %s", err, answer)
	}
}

func TestACompressedBodyIsReadOnACopy(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	r.add("pro", "console")
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, _ = io.WriteString(z, messageBody(opus, false))
	_ = z.Close()
	r.send("POST", "/v1/messages", packed.String(), "Content-Encoding", "gzip").mustBe(t, 403)
	r.add("max", "max")
	r.send("POST", "/v1/messages", packed.String(), "Content-Encoding", "gzip")
	if seen := r.sim.Requests(); len(seen) != 1 || seen[0].Account != "max" || !bytes.Equal(seen[0].Body, packed.Bytes()) {
		t.Errorf("upstream saw %d requests", len(seen))
	}
}

// TestABodyIsKeptUntilTheTransportHasClosedIt uses an upstream that answers
// before it reads: the transport is still sending when the answer is there.
func TestABodyIsKeptUntilTheTransportHasClosedIt(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	r.add("work", "max")
	text := strings.Repeat("abcdefgh", 512<<10)
	body := `{"model":"` + sonnet + `","messages":[{"role":"user","content":"` + text + `"}]}`
	for range 10 {
		r.sim.Script("work", simulator.Step{Do: simulator.AnswerBeforeReading(400, false)})
		got := r.send("POST", "/v1/messages", body)
		if got.status != 400 {
			t.Errorf("status %d: %s", got.status, got.body)
		}
		r.message(sonnet).mustBe(t, 200) // takes a buffer of its own while the other may still be sent
	}
	r.eventually("all bodies are let go", func() bool { return r.handler().buffered.Load() == 0 })
	for _, seen := range r.sim.Requests() {
		if seen.BodySize > 1<<10 && len(seen.Body) > 0 && !strings.HasPrefix(body, string(seen.Body[:min(len(seen.Body), len(body))])) {
			t.Fatal("upstream saw bytes of another request")
		}
	}
}

func TestPathTricksAndUpgradesAreRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	r.add("work", "max")
	for _, path := range []string{"/v1/../api/stats", "//v1/messages", "/v1//messages", "/v1/%2e%2e/api", "/v1%2fmessages", "/v1/messages%5c", "/v1/./messages", `/v1\messages`} {
		conn, err := net.Dial("tcp", r.srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", path)
		answer, _ := io.ReadAll(conn)
		_ = conn.Close()
		if !bytes.HasPrefix(answer, []byte("HTTP/1.1 400 ")) {
			t.Errorf("%s: %.60s", path, answer)
		}
	}
	r.send("GET", "/v1/models", "", "Upgrade", "websocket", "Connection", "Upgrade").mustBe(t, 400)
	r.send("POST", "/v1/oauth/token", "{}").mustBe(t, 404)
	r.send("GET", "/v1/organizations/x", "").mustBe(t, 404)
	r.send("GET", "/elsewhere", "").mustBe(t, 418)
	r.send("OPTIONS", "/v1/messages", "").mustBe(t, 204)
	for _, path := range []string{"/", "/api/hello"} {
		r.send("HEAD", path, "", "X-Forwarded-For", "203.0.113.9").mustBe(t, 200)
	}
	if used := r.used(); len(used) != 0 {
		t.Errorf("upstream was asked: %v", used)
	}
}

func TestAccessIsLocalUnlessSaidOtherwise(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	r.add("work", "max")
	r.message(sonnet).mustBe(t, 200)
	for _, header := range [][]string{{"X-Forwarded-For", "127.0.0.1"}, {"Forwarded", "for=1"}, {"Via", "1.1 x"}, {"Origin", "https://evil.example"}} {
		got := r.message(sonnet, header...)
		if got.status != 401 || got.header.Get("X-Should-Retry") != "false" || got.errorType(t) != "authentication_error" {
			t.Errorf("%v: %d %s", header, got.status, got.body)
		}
	}
	rebound := r.request("GET", "/api/stats", "")
	rebound.Host = "evil.example"
	r.do(rebound).mustBe(t, 401)

	open := newRig(t, rigOptions{directive: []string{"access open"}})
	open.add("work", "max")
	open.message(sonnet, "X-Forwarded-For", "203.0.113.9").mustBe(t, 200)
}

func TestTheSiteAnswersAsTheDesignSays(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	health := func(status int, want string, accounts, available float64) {
		t.Helper()
		for path, code := range map[string]int{"/health": 200, "/health/ready": status} {
			got := r.send("GET", path, "", "X-Forwarded-For", "203.0.113.9").mustBe(t, code).json(t)
			if got["status"] != want || got["accounts"] != accounts || got["available"] != available || got["timestamp"] == "" {
				t.Errorf("%s: %v", path, got)
			}
		}
	}
	health(503, "no_accounts", 0, 0)
	r.add("work", "console")
	health(200, "ok", 1, 1)
	r.message(sonnet).mustBe(t, 200)
	r.message(opus).mustBe(t, 403)
	r.last()
	stats := r.send("GET", "/api/stats?since=24h", "").mustBe(t, 200).json(t)
	if stats["totalRequests"] != 2.0 || stats["successRate"] != 50.0 || stats["activeAccounts"] != 1.0 {
		t.Errorf("stats %v", stats)
	}
	if byPlan := stats["by_plan"].(map[string]any); byPlan["console"].(map[string]any)["requests"] != 1.0 {
		t.Errorf("by_plan %v", byPlan)
	}
	if o := stats["opus"].(map[string]any); o["requests"] != 1.0 || o["successRate"] != 0.0 {
		t.Errorf("opus %v", o)
	}
	var accounts []map[string]any
	if err := json.Unmarshal([]byte(r.send("GET", "/api/accounts", "").mustBe(t, 200).body), &accounts); err != nil || len(accounts) != 1 {
		t.Fatalf("accounts %v %v", accounts, err)
	}
	var names []string
	for name := range accounts[0] {
		names = append(names, name)
	}
	slices.Sort(names)
	if got, want := strings.Join(names, " "), "available_at cost_usd created_at expires_at id in_flight kind last_used limits max_in_flight name plan_type priority request_count status status_reason supported_models token_valid tokens weight windows"; got != want {
		t.Errorf("members of an account:\n%s\nwant\n%s", got, want)
	}
	for _, limit := range []string{"0", "1001", "x", "-1"} {
		r.send("GET", "/api/requests?limit="+limit, "").mustBe(t, 400)
	}
	r.patch("work", api.AccountPatch{Paused: setField(true)})
	health(503, "limited", 1, 0)
	r.message(sonnet).mustBe(t, 503)
}

func TestTwentyLongStreamsEndWhole(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{tls: true, sim: simulator.Options{Output: 400}})
	r.add("a", "max")
	r.add("b", "console")
	errs := make(chan error, 20)
	for range 20 {
		go func() {
			got := r.stream(sonnet)
			if got.err != nil || !strings.HasSuffix(strings.TrimSpace(got.body), `{"type":"message_stop"}`) {
				errs <- fmt.Errorf("%d %v: …%s", got.status, got.err, got.body[max(0, len(got.body)-80):])
				return
			}
			errs <- nil
		}()
	}
	for range 20 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}
