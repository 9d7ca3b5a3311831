package simulator_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/claude-balancer/claude-balancer/simulator"
)

type message struct {
	ID         string
	Model      string
	Content    []struct{ Type, Text string }
	StopReason string `json:"stop_reason"`
	Usage      struct {
		Input      int `json:"input_tokens"`
		Output     int `json:"output_tokens"`
		CacheWrite int `json:"cache_creation_input_tokens"`
		CacheRead  int `json:"cache_read_input_tokens"`
		Split      struct {
			FiveMinutes int `json:"ephemeral_5m_input_tokens"`
			Hour        int `json:"ephemeral_1h_input_tokens"`
		} `json:"cache_creation"`
	}
	Container *struct{ ID string }
}

func TestAnAnswerIsTheSameAsJSONAndAsAStream(t *testing.T) {
	t.Parallel()
	f := start(t, simulator.Options{})
	for _, max := range []int{1, 7, 50_000} {
		body := `{"model":"claude-opus-5-5","max_tokens":%d,"stream":%t,"messages":[{"role":"user","content":"hi"}]}`
		f.Script("", simulator.Step{Header: http.Header{"X-Extra": {"1"}}})
		whole := f.call(f.work, "POST", "/v1/messages?beta=true", fmt.Sprintf(body, max, false))
		wantStatus(t, whole, 200)
		m := decode[message](t, whole)
		if m.Model != "claude-opus-5-5" || m.Content[0].Text == "" || m.Usage.Output > max || whole.header.Get("X-Extra") != "1" {
			t.Errorf("max_tokens %d: %s", max, whole.body)
		}
		if wantReason := map[bool]string{true: "end_turn", false: "max_tokens"}[max > 100]; m.StopReason != wantReason {
			t.Errorf("max_tokens %d: stop_reason %q", max, m.StopReason)
		}

		streamed := f.call(f.work, "POST", "/v1/messages", fmt.Sprintf(body, max, true))
		wantStatus(t, streamed, 200)
		list := events(t, streamed.body)
		all := names(list)
		if !strings.HasPrefix(all, "message_start content_block_start ping content_block_delta") ||
			!strings.HasSuffix(all, "content_block_delta content_block_stop message_delta message_stop") {
			t.Errorf("events: %s", all)
		}
		var text strings.Builder
		for _, e := range list {
			if e.name == "content_block_delta" {
				text.WriteString(e.data["delta"].(map[string]any)["text"].(string))
			}
		}
		usage := list[len(list)-2].data["usage"].(map[string]any)
		if n := len(strings.Fields(text.String())); n > max || float64(n) != usage["output_tokens"] {
			t.Errorf("%d words, usage %v, max_tokens %d", n, usage, max)
		}
	}
}

func TestCountTokensAndModelsAnswer(t *testing.T) {
	t.Parallel()
	f := start(t, simulator.Options{})
	count := f.call(f.work, "POST", "/v1/messages/count_tokens", `{"model":"claude-opus-5-5","messages":[{"role":"user","content":"hi"}]}`)
	wantStatus(t, count, 200)
	if n := decode[map[string]int](t, count)["input_tokens"]; n < 1 {
		t.Errorf("count_tokens: %s", count.body)
	}
	type list struct {
		Data []struct {
			ID   string
			Name string `json:"display_name"`
		}
		HasMore bool   `json:"has_more"`
		LastID  string `json:"last_id"`
	}
	first := decode[list](t, f.call(f.key, "GET", "/v1/models?limit=3", ""))
	next := decode[list](t, f.call(f.key, "GET", "/v1/models?limit=1000&after_id="+first.LastID, ""))
	if len(first.Data) != 3 || !first.HasMore || next.HasMore || next.Data[0].ID == first.LastID {
		t.Errorf("pages: %+v, %+v", first, next)
	}
	back := decode[list](t, f.call(f.key, "GET", "/v1/models?limit=2&before_id="+next.Data[0].ID, ""))
	if len(back.Data) != 2 || back.LastID != first.LastID || !back.HasMore {
		t.Errorf("the page before: %+v", back)
	}
	one := f.call(f.key, "GET", "/v1/models/claude-opus-4-5-20251101", "")
	if !strings.Contains(one.body, `"display_name":"Claude Opus 4.5"`) {
		t.Errorf("one model: %s", one.body)
	}
	wantStatus(t, f.call(f.key, "GET", "/v1/models/claude-unknown", ""), 404)
	wantStatus(t, f.call(f.key, "GET", "/v1/models?limit=0", ""), 400)
	wantStatus(t, f.call(f.key, "GET", "/v1/nothing", ""), 404)
}

func TestRetiredModelsAreStillAnswered(t *testing.T) {
	t.Parallel()
	f := start(t, simulator.Options{})
	for _, model := range []string{"claude-3-opus-20240229", "claude-3-5-sonnet-20241022", "claude-3-haiku-20240307", "claude-3-5-haiku-20241022"} {
		wantStatus(t, f.ask(f.work, model, false), 200)
	}
}

func TestABadRequestIsRefusedInTheServicesWords(t *testing.T) {
	t.Parallel()
	f := start(t, simulator.Options{})
	limited := f.AddAccount(simulator.Account{Name: "limited", Families: []string{"sonnet"}})
	tests := map[string]struct {
		body, kind, message string
		status              int
	}{
		"no JSON":       {"{", "invalid_request_error", "The request body is not valid JSON", 400},
		"no object":     {"null", "invalid_request_error", "The request body is not valid JSON", 400},
		"no model":      {`{"messages":[{}],"max_tokens":1}`, "invalid_request_error", "model: Field required", 400},
		"other case":    {`{"Model":"claude-sonnet-5-5","messages":[{}],"max_tokens":1}`, "invalid_request_error", "model: Field required", 400},
		"no messages":   {`{"model":"claude-sonnet-5-5","max_tokens":1}`, "invalid_request_error", "messages: Field required", 400},
		"no list":       {`{"model":"claude-sonnet-5-5","max_tokens":1,"messages":1}`, "invalid_request_error", "messages: Input should be a valid list", 400},
		"empty list":    {`{"model":"claude-sonnet-5-5","max_tokens":1,"messages":[]}`, "invalid_request_error", "messages: at least one message is required", 400},
		"no max_tokens": {`{"model":"claude-sonnet-5-5","messages":[{}]}`, "invalid_request_error", "max_tokens: Field required", 400},
		"max_tokens 0":  {`{"model":"claude-sonnet-5-5","messages":[{}],"max_tokens":0}`, "invalid_request_error", "max_tokens: Input should be greater than or equal to 1", 400},
		"stream 1":      {`{"model":"claude-sonnet-5-5","messages":[{}],"max_tokens":1,"stream":1}`, "invalid_request_error", "stream: Input has the wrong type", 400},
		"unknown model": {prompt("claude-opus-9", false), "not_found_error", "model: claude-opus-9", 404},
		"other family":  {prompt(fable, false), "permission_error", "Your organization does not have access to model: " + fable, 403},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			a := f.call(limited, "POST", "/v1/messages", test.body)
			wantStatus(t, a, test.status)
			if kind, message, _ := errorOf(t, a); kind != test.kind || message != test.message {
				t.Errorf("got %s: %s", kind, message)
			}
		})
	}
}

func TestABodyAbove32MiBIsTooLarge(t *testing.T) {
	t.Parallel()
	f := start(t, simulator.Options{})
	a := f.call(f.work, "POST", "/v1/messages", strings.Repeat(" ", 32<<20+1))
	wantStatus(t, a, 413)
	if kind, _, _ := errorOf(t, a); kind != "request_too_large" {
		t.Errorf("got %s", kind)
	}
}

func TestCredentialsAreEnforced(t *testing.T) {
	t.Parallel()
	f := start(t, simulator.Options{})
	expired := f.AddAccount(simulator.Account{Name: "expired"})
	revoked := f.AddAccount(simulator.Account{Name: "revoked"})
	held := f.AddAccount(simulator.Account{Name: "held"})
	f.ExpireAccess("expired")
	f.RevokeAccess("revoked")
	f.Hold("held")
	bearer := func(token string) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }
	withBeta := func(token string) http.Header {
		h := bearer(token)
		h.Add("Anthropic-Beta", "a, b")
		h.Add("Anthropic-Beta", "c, "+beta)
		return h
	}
	access, key := f.work.Access.Reveal(), f.key.APIKey.Reveal()
	both := withBeta(access)
	both.Set("X-Api-Key", key)

	tests := map[string]struct {
		header  http.Header
		status  int
		message string
	}{
		"access token with the beta":    {withBeta(access), 200, ""},
		"access token without the beta": {bearer(access), 401, "OAuth authentication is currently not supported."},
		"API key":                       {http.Header{"X-Api-Key": {key}}, 200, ""},
		"API key as a bearer":           {bearer(key), 200, ""},
		"nothing":                       {http.Header{}, 401, "x-api-key header is required"},
		"both":                          {both, 401, "Authorization and x-api-key must not be sent together"},
		"unknown token":                 {withBeta("sk-ant-oat01-x"), 401, "Invalid bearer token"},
		"unknown key":                   {http.Header{"X-Api-Key": {"sk-ant-api03-x"}}, 401, "invalid x-api-key"},
		"access token as a key":         {http.Header{"X-Api-Key": {access}}, 401, "invalid x-api-key"},
		"refresh token":                 {withBeta(f.work.Refresh.Reveal()), 401, "Invalid bearer token"},
		"expired":                       {withBeta(expired.Access.Reveal()), 401, "OAuth token has expired. Please obtain a new token or refresh your existing token."},
		"revoked":                       {withBeta(revoked.Access.Reveal()), 401, "OAuth access token has been revoked"},
		"on hold":                       {withBeta(held.Access.Reveal()), 403, "Your organization is on hold. Please contact support."},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := f.request(simulator.Credentials{}, "POST", "/v1/messages", prompt(sonnet, false))
			for h, values := range test.header {
				r.Header[h] = values
			}
			a := f.do(r)
			wantStatus(t, a, test.status)
			if test.status == 200 {
				return
			}
			if _, message, _ := errorOf(t, a); message != test.message {
				t.Errorf("message %q", message)
			}
		})
	}
	f.Release("held")
	wantStatus(t, f.ask(held, sonnet, false), 200)

	r := f.request(f.work, "POST", "/v1/messages", prompt(sonnet, false))
	r.Header.Del("Anthropic-Version")
	a := f.do(r)
	wantStatus(t, a, 400)
	if _, message, _ := errorOf(t, a); message != "anthropic-version: header is required" {
		t.Errorf("message %q", message)
	}
}

func TestAnswersHaveTheServicesHeaders(t *testing.T) {
	t.Parallel()
	f := start(t, simulator.Options{})
	h := f.ask(f.work, sonnet, false).header
	for _, name := range []string{
		"Request-Id", "Anthropic-Organization-Id", "Set-Cookie", "Cf-Ray", "Anthropic-Ratelimit-Unified-Status",
		"Anthropic-Ratelimit-Unified-Reset", "Anthropic-Ratelimit-Unified-5h-Utilization", "Anthropic-Ratelimit-Unified-7d-Reset",
	} {
		if h.Get(name) == "" {
			t.Errorf("no %s", name)
		}
	}
	if other := f.ask(f.other, sonnet, false).header; other.Get("Anthropic-Organization-Id") == h.Get("Anthropic-Organization-Id") {
		t.Error("two accounts share an organization")
	}
	if h := f.ask(f.key, sonnet, false).header; h.Get("Anthropic-Ratelimit-Requests-Remaining") == "" || h.Get("Anthropic-Ratelimit-Unified-Status") != "" {
		t.Errorf("an API key's limits: %v", h)
	}
}

func TestAnswersAreCompressedForWhoAsks(t *testing.T) {
	t.Parallel()
	f := start(t, simulator.Options{})
	for _, stream := range []bool{false, true} {
		plain := f.ask(f.work, sonnet, stream)
		if plain.header.Get("Content-Encoding") != "" {
			t.Error("encoded though identity was asked for")
		}
		r := f.request(f.work, "POST", "/v1/messages", prompt(sonnet, stream))
		r.Header.Set("Accept-Encoding", "br, gzip")
		a := f.do(r)
		if a.header.Get("Content-Encoding") != "gzip" {
			t.Fatalf("stream %t: not encoded", stream)
		}
		z, err := gzip.NewReader(strings.NewReader(a.body))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(z)
		if err != nil || len(b) != len(plain.body) {
			t.Errorf("stream %t: %d bytes decoded (%v), %d plain", stream, len(b), err, len(plain.body))
		}
	}
}

func TestRequestBodiesMayBeCompressed(t *testing.T) {
	t.Parallel()
	f := start(t, simulator.Options{})
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write([]byte(prompt(sonnet, false)))
	_ = z.Close()
	for encoding, want := range map[string]struct {
		body, code string
		status     int
	}{
		"gzip": {b.String(), "", 200}, "identity": {prompt(sonnet, false), "", 200},
		"br": {"x", "request_body_encoding_unsupported", 400},
	} {
		r := f.request(f.work, "POST", "/v1/messages", want.body)
		r.Header.Set("Content-Encoding", encoding)
		a := f.do(r)
		wantStatus(t, a, want.status)
		if want.code != "" {
			if _, _, code := errorOf(t, a); code != want.code {
				t.Errorf("%s: error_code %q", encoding, code)
			}
		}
	}
}

func TestTheNextTurnOfAConversationReadsThePromptCache(t *testing.T) {
	t.Parallel()
	f := start(t, simulator.Options{})
	turn := func(c simulator.Credentials, more, ttl string) message {
		body := `{"model":"claude-sonnet-5-5","max_tokens":9,"system":[{"type":"text","text":"` + strings.Repeat("long ", 400) +
			`","cache_control":{"type":"ephemeral"` + ttl + `}}],"messages":[{"role":"user","content":"hi"}` + more + `]}`
		a := f.call(c, "POST", "/v1/messages", body)
		wantStatus(t, a, 200)
		return decode[message](t, a)
	}
	next := `,{"role":"assistant","content":"yes"},{"role":"user","content":"go on with it"}`
	first := turn(f.work, "", "").Usage
	second := turn(f.work, next, "").Usage
	if first.CacheWrite == 0 || first.CacheRead != 0 || first.Split.FiveMinutes != first.CacheWrite {
		t.Errorf("first turn: %+v", first)
	}
	if second.CacheRead != first.CacheWrite || second.CacheWrite == 0 {
		t.Errorf("second turn: %+v after %+v", second, first)
	}
	if moved := turn(f.other, next, `,"ttl":"1h"`).Usage; moved.CacheRead != 0 || moved.Split.Hour != moved.CacheWrite {
		t.Errorf("on another account: %+v", moved)
	}
}
