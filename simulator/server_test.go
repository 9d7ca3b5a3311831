package simulator_test

import (
	"crypto/sha256"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/simulator"
)

func TestRequestsAreRecordedAsTheyCame(t *testing.T) {
	t.Parallel()
	clock := newClock()
	f := start(t, simulator.Options{Now: clock.Now})
	big := strings.Replace(prompt(sonnet, false), "hi", strings.Repeat("x", 2<<20), 1)
	wantStatus(t, f.call(f.work, "POST", "/v1/messages?beta=true&x=%2F", big), 200)
	wantStatus(t, f.call(simulator.Credentials{}, "GET", "/v1/models/a%2Fb", ""), 404)
	seen := f.Requests()
	if len(seen) != 2 || f.Count("") != 1 || f.Count("work") != 1 {
		t.Fatalf("%d requests, %d counted", len(seen), f.Count(""))
	}
	s := seen[0]
	if s.Account != "work" || s.Method != "POST" || s.Path != "/v1/messages" || s.RawQuery != "beta=true&x=%2F" || s.Proto != "HTTP/1.1" ||
		!s.Time.Equal(clock.Now()) || s.Header.Get("Anthropic-Version") != "2023-06-01" || s.Host != strings.TrimPrefix(f.url, "http://") {
		t.Errorf("seen %s %s?%s of %q by %s at %s", s.Method, s.Path, s.RawQuery, s.Account, s.Proto, s.Time)
	}
	if s.BodySize != int64(len(big)) || s.BodySum != sha256.Sum256([]byte(big)) || len(s.Body) != 1<<20 || !strings.HasPrefix(big, string(s.Body)) {
		t.Errorf("body of %d bytes, %d kept", s.BodySize, len(s.Body))
	}
	if seen[1].Path != "/v1/models/a%2Fb" || seen[1].Account != "" {
		t.Errorf("seen %s of %q", seen[1].Path, seen[1].Account)
	}
	f.Reset()
	if len(f.Requests()) != 0 || f.Count("work") != 0 {
		t.Error("Reset forgot nothing")
	}
}

func TestTheRecordOfRequestsIsBounded(t *testing.T) {
	t.Parallel()
	f := start(t, simulator.Options{})
	big := strings.Repeat("x", 1<<20)
	for range 70 {
		f.call(simulator.Credentials{}, "POST", "/v1/messages/count_tokens", big)
	}
	if n := len(f.Requests()); n < 60 || n > 65 {
		t.Errorf("%d requests of 1 MiB are kept", n)
	}
}

func TestTLSServesHTTP2ToWhoTrustsIt(t *testing.T) {
	t.Parallel()
	s := simulator.New(simulator.Options{})
	srv := s.StartTLS()
	defer srv.Close()
	client := srv.Client()
	defer client.CloseIdleConnections()
	f := &fixture{Simulator: s, t: t, url: srv.URL, client: client, work: s.AddAccount(simulator.Account{Name: "work"})}
	wantStatus(t, f.ask(f.work, sonnet, true), 200)
	if seen := s.Requests()[0]; seen.Proto != "HTTP/2.0" {
		t.Errorf("came by %s", seen.Proto)
	}
	if !strings.HasPrefix(string(srv.CAPEM), "-----BEGIN CERTIFICATE-----") {
		t.Error("no PEM")
	}
	for name, do := range map[string]simulator.Behaviour{
		"reset": simulator.ResetBeforeHeaders, "reset after read": simulator.ResetAfterRead, "cut": simulator.CutStream(2),
	} {
		f.Script("work", simulator.Step{Do: do, Times: -1})
		if !f.broken(f.request(f.work, "POST", "/v1/messages", prompt(sonnet, true))) {
			t.Errorf("%s: the client noticed nothing", name)
		}
		f.Unscript("work")
	}
	f.Script("work", simulator.Step{Do: simulator.AnswerBeforeReading(401, true)})
	wantStatus(t, f.ask(f.work, sonnet, true), 401)
}

func TestAccountsAreServedAtTheSameTime(t *testing.T) {
	t.Parallel()
	f := start(t, simulator.Options{Control: true})
	f.Script("", simulator.Step{Do: simulator.Overloaded529, Times: 40})
	var all sync.WaitGroup
	for i := range 60 {
		c := []simulator.Credentials{f.work, f.other, f.key}[i%3]
		all.Go(func() {
			f.ask(c, fable, i%2 == 0)
			f.call(c, "GET", "/_simulator/requests", "")
			f.call(c, "GET", "/_simulator/accounts", "")
		})
	}
	all.Wait()
	if f.Count("") != 60 || f.InFlight() != 0 && f.Await(t.Context(), func() bool { return f.InFlight() == 0 }) != nil {
		t.Errorf("%d counted", f.Count(""))
	}
}

func TestFastAnswersAreWhatTheUsualOnesAre(t *testing.T) {
	t.Parallel()
	for _, pace := range []time.Duration{0, time.Microsecond} {
		f := start(t, simulator.Options{Fast: true, Pace: pace, Output: 20})
		whole := f.ask(f.work, sonnet, false)
		wantStatus(t, whole, 200)
		if m := decode[message](t, whole); m.Usage.Output != 20 || len(strings.Fields(m.Content[0].Text)) != 20 {
			t.Errorf("answer: %s", whole.body)
		}
		streamed := f.ask(f.work, sonnet, true)
		if all := names(events(t, streamed.body)); !strings.HasPrefix(all, "message_start") || !strings.HasSuffix(all, "message_stop") {
			t.Errorf("events: %s", all)
		}
		spaced := `{"messages":[{"content":"` + strings.Repeat("long ", 50_000) + `"}], "stream": true}`
		if a := f.call(f.work, "POST", "/v1/messages", spaced); a.header.Get("Content-Type") != streamed.header.Get("Content-Type") {
			t.Errorf("a stream asked for late in the body came as %s", a.header.Get("Content-Type"))
		}
		wantStatus(t, f.call(f.key, "POST", "/v1/messages/count_tokens", prompt(sonnet, false)), 200)
		wantStatus(t, f.ask(simulator.Credentials{}, sonnet, false), 401)
		wantStatus(t, f.call(f.key, "GET", "/v1/models", ""), 200)
		f.Script("work", simulator.Step{Do: simulator.Overloaded529})
		wantStatus(t, f.ask(f.work, sonnet, false), 529)
		wantStatus(t, f.ask(f.work, sonnet, false), 200)
		wantStatus(t, f.refresh(f.work), 200)
		if len(f.Requests()) != 0 || f.Count("work") != 5 {
			t.Errorf("%d recorded, %d counted", len(f.Requests()), f.Count("work"))
		}
	}
}

func TestTheControlEndpointDoesAllOfIt(t *testing.T) {
	t.Parallel()
	f := start(t, simulator.Options{Control: true})
	control := func(method, path, body string, status int) answer {
		t.Helper()
		a := f.call(simulator.Credentials{}, method, "/_simulator/"+path, body)
		wantStatus(t, a, status)
		return a
	}
	type account struct {
		Name, Plan string
		Access     string `json:"access_token"`
		Key        string `json:"api_key"`
		Requests   int
	}
	made := decode[account](t, control("POST", "accounts", `{"name":"new","plan":"max","token_life":"1h","windows":[{"name":"5h","limit":1}]}`, 200))
	if made.Access != f.Credentials("new").Access.Reveal() {
		t.Errorf("made: %+v", made)
	}
	control("POST", "accounts", `{"name":"new"}`, 400)
	control("POST", "accounts", `{"name":""}`, 400)
	control("POST", "accounts", `{"name":"x","unknown":1}`, 400)
	control("POST", "accounts", `{"name":"x","token_life":"soon"}`, 400)

	c := f.Credentials("new")
	wantStatus(t, f.ask(c, sonnet, false), 200)
	wantStatus(t, f.ask(c, sonnet, false), 429)
	list := decode[[]account](t, control("GET", "accounts", "", 200))
	if len(list) != 4 || list[3].Requests != 2 || list[2].Key != f.key.APIKey.Reveal() {
		t.Errorf("list: %+v", list)
	}

	control("POST", "accounts/work/expire_access", "", 200)
	wantStatus(t, f.ask(f.work, sonnet, false), 401)
	control("POST", "accounts/work/kill_refresh", "", 200)
	wantStatus(t, f.refresh(f.work), 400)
	control("POST", "accounts/nobody/hold", "", 400)
	control("POST", "accounts/work/explode", "", 400)

	control("POST", "script", `{"account":"other","do":"scoped_window","window":"7d_opus","reset_in":"2h","times":2}`, 200)
	if a := f.ask(f.other, sonnet, false); a.status != 429 || a.header.Get(unified+"7d_opus-Status") != "rejected" {
		t.Errorf("scripted: %d %v", a.status, a.header)
	}
	control("DELETE", "script?account=other", "", 200)
	wantStatus(t, f.ask(f.other, sonnet, false), 200)
	control("POST", "script", `{"status":418,"body":"{}","header":{"x-a":"b"},"delay":"1ms"}`, 200)
	if a := f.ask(f.other, sonnet, false); a.status != 418 || a.header.Get("X-A") != "b" {
		t.Errorf("scripted: %d %v", a.status, a.header)
	}
	control("POST", "script", `{"do":"nothing"}`, 400)
	control("POST", "script", `{"account":"nobody","do":"hang"}`, 400)

	ask, _ := json.Marshal(map[string]string{"url": authorizeURL(nil), "account": "work"})
	code := decode[map[string]string](t, control("POST", "approve", string(ask), 200))["code"]
	wantStatus(t, f.token(exchange(code, nil)), 200)
	control("POST", "approve", `{"url":"x","account":"work"}`, 400)

	if seen := control("GET", "requests", "", 200); !strings.Contains(seen.body, `"path":"/v1/oauth/token"`) || strings.Contains(seen.body, "_simulator") {
		t.Errorf("requests: %s", seen.body)
	}
	if n := decode[map[string]int](t, control("GET", "counters", "", 200)); n["requests"] != 6 || n["active_streams"] != 0 {
		t.Errorf("counters: %v", n)
	}
	control("DELETE", "requests", "", 200)
	if n := decode[map[string]int](t, control("GET", "counters", "", 200)); n["requests"] != 0 {
		t.Errorf("counters after the reset: %v", n)
	}
}

func TestWithoutControlThereIsNoControlEndpoint(t *testing.T) {
	t.Parallel()
	f := start(t, simulator.Options{})
	a := f.call(simulator.Credentials{}, "GET", "/_simulator/accounts", "")
	wantStatus(t, a, http.StatusNotFound)
	if strings.Contains(a.body, "sk-ant") {
		t.Error("credentials are shown")
	}
}

func TestAMistakeInATestPanics(t *testing.T) {
	t.Parallel()
	s := simulator.New(simulator.Options{})
	s.AddAccount(simulator.Account{Name: "work"})
	for name, mistake := range map[string]func(){
		"a name twice": func() { s.AddAccount(simulator.Account{Name: "work"}) },
		"unknown plan": func() { s.AddAccount(simulator.Account{Name: "x", Plan: "API"}) },
		"unknown name": func() { s.ExpireAccess("wrok") },
		"script":       func() { s.Script("wrok", simulator.Step{}) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			mistake()
		}()
	}
}

func TestTheSameSeedGivesTheSameCredentials(t *testing.T) {
	t.Parallel()
	first := func(seed uint64) simulator.Credentials {
		return simulator.New(simulator.Options{Seed: seed}).AddAccount(simulator.Account{Name: "work"})
	}
	if !first(1).Access.Equal(first(1).Access) || first(1).Access.Equal(first(2).Access) || first(1).AccountUUID == first(2).AccountUUID {
		t.Error("seeds do not decide")
	}
}
