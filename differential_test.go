package claudebalancer

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/claude-balancer/claude-balancer/simulator"
)

// shape is a request, and what upstream answers to it: nil is the usual.
type shape struct {
	method, target string // path and query as they stand in the request line
	header         http.Header
	body           []byte
	chunked        bool
	answer         *simulator.Step
}

// Headers that the balancer changes on purpose, or that each hop has for itself.
var (
	fromElsewhere     = []string{"Forwarded", "X-Forwarded-For", "X-Real-Ip", "Via", "Cf-Connecting-Ip"}
	dropped           = append([]string{"Cookie"}, fromElsewhere...)
	changedUpstream   = append([]string{"Authorization", "X-Api-Key", "Accept-Encoding"}, dropped...)
	changedDownstream = []string{
		"X-Proxy-Account", "X-Request-Id", "Server", "Date",
		"Set-Cookie", "Anthropic-Organization-Id", "Anthropic-Workspace-Id",
	}
)

// TestTwoHundredShapesPassByteForByte sends each request straight to the
// simulator, through the balancer over HTTP/1.1, and through it over HTTP/2.
func TestTwoHundredShapesPassByteForByte(t *testing.T) {
	t.Parallel()
	for seed, plan := range []string{simulator.PlanMax, simulator.PlanAPI} {
		t.Run(plan, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, rigOptions{directive: append([]string{"access open"}, quick...)})
			c := r.add("a", plan)
			secure := httptest.NewUnstartedServer(r.srv.Config.Handler)
			secure.EnableHTTP2 = true
			secure.StartTLS()
			t.Cleanup(secure.Close)
			g := generator{rand.New(rand.NewPCG(uint64(seed), 1))}
			for i := range 100 {
				s := g.shape(i)
				r.sim.Reset()
				straight := s.send(t, r.sim, http.DefaultTransport, r.up.URL, func(h http.Header) {
					signIn(h, plan, c)
					h.Set("Accept-Encoding", "identity")
				})
				through := []reply{
					s.send(t, r.sim, http.DefaultTransport, r.srv.URL, nil),
					s.send(t, r.sim, secure.Client().Transport, secure.URL, nil),
				}
				seen := slices.DeleteFunc(r.sim.Requests(), func(seen simulator.Seen) bool { return strings.Contains(seen.Path, "/oauth/") })
				if len(seen) != 1+len(through) {
					t.Fatalf("upstream saw %d requests of the %d: %v", len(seen), 1+len(through), s)
				}
				for k := range through {
					compareAnswers(t, straight, through[k])
					compareRequests(t, seen[0], seen[1+k])
				}
				if t.Failed() {
					t.Fatalf("shape %d: %v", i, s)
				}
			}
		})
	}
}

// signIn puts on a request what the balancer puts on it.
func signIn(h http.Header, plan string, c simulator.Credentials) {
	if plan == simulator.PlanAPI {
		h.Set("X-Api-Key", c.APIKey.Reveal())
		return
	}
	h.Set("Authorization", "Bearer "+c.Access.Reveal())
	betas := append(h.Values("Anthropic-Beta"), "oauth-2025-04-20")
	h.Set("Anthropic-Beta", strings.Join(betas, ","))
}

func (s shape) String() string {
	text := fmt.Sprintf("%s %s\n%v\nchunked %v, %d bytes: %.300q", s.method, s.target, s.header, s.chunked, len(s.body), s.body)
	if s.answer != nil {
		text += fmt.Sprintf("\nanswer %d %v %.300q", s.answer.Status, s.answer.Header, s.answer.Body)
	}
	return text
}

func (s shape) send(t *testing.T, sim *simulator.Simulator, over http.RoundTripper, base string, prepare func(http.Header)) reply {
	t.Helper()
	if s.answer != nil {
		sim.Script("", *s.answer)
	}
	var body io.Reader = bytes.NewReader(s.body)
	if s.chunked {
		body = io.MultiReader(body) // hides the length
	}
	req, err := http.NewRequest(s.method, base+s.target, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = s.header.Clone()
	if prepare != nil {
		prepare(req.Header)
	}
	res, err := over.RoundTrip(req)
	if err != nil {
		t.Fatalf("%v: %v", s, err)
	}
	defer res.Body.Close()
	if want := strings.HasPrefix(base, "https"); want != (res.ProtoMajor == 2) {
		t.Errorf("%s over %s", base, res.Proto)
	}
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Errorf("the answer broke off: %v", err)
	}
	return reply{status: res.StatusCode, header: res.Header, body: string(data)}
}

func compareRequests(t *testing.T, straight, through simulator.Seen) {
	t.Helper()
	if straight.Method != through.Method || straight.Path != through.Path || straight.RawQuery != through.RawQuery {
		t.Errorf("upstream got %s %s?%s, want %s %s?%s", through.Method, through.Path, through.RawQuery, straight.Method, straight.Path, straight.RawQuery)
	}
	if straight.BodySum != through.BodySum || straight.BodySize != through.BodySize {
		t.Errorf("upstream got %d bytes %.300q, want %d bytes", through.BodySize, through.Body, straight.BodySize)
	}
	for _, name := range dropped {
		if through.Header[name] != nil {
			t.Errorf("upstream got %s: %q", name, through.Header[name])
		}
	}
	if through.Header.Get("Accept-Encoding") != "identity" {
		t.Errorf("upstream got Accept-Encoding %q", through.Header["Accept-Encoding"])
	}
	changed := changedUpstream
	if straight.Header.Get("Content-Length") == "" {
		changed = append(slices.Clone(changed), "Content-Length") // a body in chunks is sent in one piece
	}
	compareHeaders(t, "upstream got", straight.Header, through.Header, changed)
}

func compareAnswers(t *testing.T, straight, through reply) {
	t.Helper()
	if straight.status != through.status {
		t.Errorf("status %d, want %d: %s", through.status, straight.status, through.body)
	}
	if a, b := straight.body, through.body; a != b && withoutIDs(a) != withoutIDs(b) {
		t.Errorf("the client got %d bytes %.300q, want %d bytes %.300q", len(b), b, len(a), a)
	}
	for name := range straight.header {
		if strings.HasPrefix(name, "Anthropic-Ratelimit-") {
			straight.header.Del(name)
		}
	}
	compareHeaders(t, "the client got", straight.header, through.header, changedDownstream)
}

func compareHeaders(t *testing.T, who string, straight, through http.Header, changed []string) {
	t.Helper()
	straight, through = straight.Clone(), through.Clone()
	for _, name := range changed {
		straight.Del(name)
		through.Del(name)
	}
	names := slices.Sorted(maps.Keys(straight))
	if got := slices.Sorted(maps.Keys(through)); !slices.Equal(names, got) {
		t.Errorf("%s the headers %q, want %q", who, got, names)
	}
	for _, name := range names {
		want, got := strings.Join(straight[name], "\n"), strings.Join(through[name], "\n")
		if withoutIDs(want) != withoutIDs(got) {
			t.Errorf("%s %s: %q, want %q", who, name, got, want)
		}
	}
}

// fresh matches what the simulator makes up anew for each answer.
var fresh = regexp.MustCompile(`(req|msg|msgbatch|file|skill|skillver|container)_[0-9a-f]{10,}|[0-9a-f]{16}-SIM|\d{4}-\d\d-\d\dT[0-9:.]+Z|"(latest_)?version":"\d+"`)

func withoutIDs(s string) string { return fresh.ReplaceAllString(s, "…") }

// generator makes up shapes; the same seed makes the same ones.
type generator struct{ *rand.Rand }

func (g generator) one(of ...string) string { return of[g.IntN(len(of))] }

func (g generator) some(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(g.Uint32())
	}
	return string(b)
}

func (g generator) shape(i int) shape {
	s := shape{method: "POST", header: g.header(), chunked: g.IntN(4) == 0}
	switch i % 5 {
	case 0:
		s.target, s.body = "/v1/messages"+g.query(), []byte(g.prompt("false"))
	case 1:
		s.target, s.body = "/v1/messages"+g.query(), []byte(g.prompt("true"))
		if g.IntN(2) == 0 {
			s.answer = &simulator.Step{Status: 200, Header: g.answerHeader("text/event-stream"), Body: g.events()}
		}
	case 2:
		s.target, s.body = g.one("/v1/messages", "/v1/messages/count_tokens", "/v1/messages/batches")+g.query(), []byte(g.prompt("false"))
		s.answer = g.scripted()
	case 3:
		s.method, s.target = g.one("GET", "HEAD", "DELETE", "PUT", "PATCH", "POST", "PROPFIND"), g.path()+g.query()
		s.answer = g.scripted()
		for _, name := range fromElsewhere { // only local clients may ask for these paths
			s.header.Del(name)
		}
		if s.method != "GET" && s.method != "HEAD" {
			s.body = []byte(g.some(g.IntN(5_000)))
		} else {
			s.chunked = false
		}
	default:
		s.method, s.target, s.chunked = "GET", g.one("/v1/models", "/v1/models/claude-opus-5-5", "/v1/models/none")+g.one("", "?limit=3", "?limit=1000&after_id=x"), false
	}
	if len(s.body) > 0 && g.IntN(6) == 0 {
		s.body = zipped(s.body)
		s.header.Set("Content-Encoding", "gzip")
	}
	return s
}

func zipped(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write(b) // into memory
	_ = w.Close()
	return out.Bytes()
}

func (g generator) header() http.Header {
	h := http.Header{"Anthropic-Version": {g.one("2023-06-01", "2026-10-21")}, "Content-Type": {g.one("application/json", "application/json; charset=utf-8", "text/plain")}}
	for name, values := range map[string][]string{
		"User-Agent":               {g.one("claude-cli/2.1.330 (external, cli)", "Anthropic/JS 1.12.0", "")},
		"Anthropic-Beta":           g.list("claude-code-20250219", "interleaved-thinking-2025-05-14,context-1m-2025-08-07", "unknown-beta-2030-01-01"),
		"X-Claude-Code-Session-Id": {hex.EncodeToString([]byte(g.some(16)))},
		"X-Stainless-Retry-Count":  {"1"},
		"X-Unknown":                g.list("one", "two, three", "", "  spaced  ", "ü\xff"),
		"Accept":                   {g.one("application/json", "text/event-stream", "*/*")},
		"Accept-Language":          {"*"},
		"X-App":                    {"cli"},
		"Traceparent":              {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
		"If-None-Match":            {`W/"abc"`},
		"Cookie":                   {"session=secret"},
		"Forwarded":                {"for=192.0.2.60"},
		"X-Forwarded-For":          {"192.0.2.60"},
		"X-Real-Ip":                {"192.0.2.60"},
		"Via":                      {"1.1 somewhere"},
		"Cf-Connecting-Ip":         {"192.0.2.60"},
	} {
		if g.IntN(2) == 0 {
			h[name] = values
		}
	}
	// It is always there, else the transport asks for gzip and unpacks it.
	h.Set("Accept-Encoding", g.one("identity", "gzip", "gzip, deflate, br, zstd", "*"))
	if h["User-Agent"] == nil {
		h["User-Agent"] = []string{""} // else the transport names itself
	}
	return h
}

// list returns some of the values, each on a line of its own.
func (g generator) list(of ...string) []string {
	g.Shuffle(len(of), func(i, j int) { of[i], of[j] = of[j], of[i] })
	return of[:1+g.IntN(len(of))]
}

func (g generator) query() string {
	return g.one("", "", "?beta=true", "?", "?a=b&a=c", "?a=%zz&b", "?x=1;y=2", "?q=%C3%BC+%20", "?q=a/../b//c", "?limit=01")
}

// path is one that the balancer knows nothing of.
func (g generator) path() string {
	return "/v1/" + g.one("agents", "sessions", "unknown", "vaults") + "/" +
		g.one("plain", "a%20b", "~tilde", "semi;colon=1", "co:lon", "caf%C3%A9", "plus+plus", "%25percent", "star*!'()", "@at,comma$", "lower%c3%a9")
}

// prompt is a Messages body with the oddities of writing that JSON allows.
func (g generator) prompt(stream string) string {
	text := g.one(`"Hello"`, `"\u00fc \ud83d\ude00 \/ \" \\"`, `"ü 😀  `+"\u2028"+`"`, `"`+strings.Repeat("long ", 50_000)+`"`, `[{"type":"text","text":"a"},{"type":"unknown_block","x":[1e400,-0.0,1E+2]}]`)
	space := g.one("", " ", "\n\t", "\r\n  ")
	members := []string{
		`"model"` + space + `:"` + g.one("claude-sonnet-5-5", "claude-opus-5-5", "claude-haiku-4-5-20251001", "claude-nobody-9") + `"`,
		`"max_tokens":` + space + g.one("1", "64", "4096"),
		`"messages":` + space + `[{"role":"user","content":` + text + `}]`,
		`"stream":` + stream,
		`"unknown_member":` + g.one("null", `{"a":{"b":[[]]}}`, "12345678901234567890.123456789"),
	}
	if g.IntN(3) == 0 {
		members = append(members, `"metadata":{"user_id":"user_1_account__session_2"}`, `"max_tokens":7`) // twice
	}
	g.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
	return g.one("", " ", "\n") + "{" + space + strings.Join(members, space+","+space) + space + "}" + g.one("", "\n")
}

// scripted is an answer that passes: a success, or the request's own fault.
func (g generator) scripted() *simulator.Step {
	bodies := []string{
		`{"type" :"error",` + "\n" + `"error":{"type":"invalid_request_error","message":"\u00fc ü"}}` + "\n",
		"not JSON at all", g.some(3), g.some(200_000), "{}", "[1,2", strings.Repeat(`{"a":1}`+"\n", 2_000),
	}
	status := []int{200, 200, 201, 202, 400, 404, 409, 413, 415, 418, 422}[g.IntN(11)]
	body := bodies[g.IntN(len(bodies))]
	h := g.answerHeader(g.one("application/json", "application/octet-stream", "application/x-jsonl", "text/html; charset=utf-8"))
	if g.IntN(4) == 0 {
		h.Set("Content-Encoding", g.one("gzip", "br", "zstd"))
	}
	return &simulator.Step{Status: status, Header: h, Body: body}
}

func (g generator) answerHeader(contentType string) http.Header {
	h := http.Header{"Content-Type": {contentType}}
	for name, values := range map[string][]string{
		"X-Unknown":                          g.list("one", "two, three", "ü"),
		"Anthropic-Fast":                     {"1"},
		"Anthropic-Ratelimit-Requests-Limit": {"50"},
		"Etag":                               {`"abc"`},
		"Cache-Control":                      {"no-cache"},
		"X-Envoy-Upstream-Service-Time":      {"12"},
		"X-Should-Retry":                     {"true"},
		"Strict-Transport-Security":          {"max-age=1"},
		"Location":                           {"https://api.anthropic.com/v1/elsewhere"},
		"Retry-After":                        {"7"},
		"Vary":                               {"Accept-Encoding", "Origin"},
		"Content-Disposition":                {`attachment; filename="ü.bin"`},
	} {
		if g.IntN(2) == 0 {
			h[name] = values
		}
	}
	return h
}

// events is a stream that is complete, with the oddities that SSE allows.
func (g generator) events() string {
	end := g.one("\n", "\r\n")
	var b strings.Builder
	b.WriteString(g.one("", ": a comment"+end+end, "retry: 10"+end+end, "event: ping"+end+"data: {\"type\": \"ping\"}"+end+end))
	write := func(lines ...string) {
		for _, line := range lines {
			b.WriteString(line + end)
		}
		b.WriteString(end)
	}
	write("event: message_start", `data: {"type":"message_start","message":{"id":"m","model":"claude-sonnet-5-5","usage":{"input_tokens":3}}}`)
	for range g.IntN(40) {
		switch g.IntN(6) {
		case 0:
			write("event: unknown_event", `data: {"type":"unknown_event"}`)
		case 1:
			write("event:content_block_delta", `data:{"type":"content_block_delta",`, `data:"delta":{"type":"text_delta","text":"two lines"}}`)
		case 2:
			write("id: 7", "event: content_block_delta", `data: {"type":"content_block_delta","delta":{"type":"text_delta","text":"`+strings.Repeat("x", g.IntN(100_000))+`"}}`)
		case 3:
			write(": comment")
		case 4:
			write("event: ping", `data: {"type":"ping"}`)
		default:
			write("event: content_block_delta", `data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"\u00fc ü"}}`)
		}
	}
	write("event: message_delta", `data: {"type":"message_delta","delta":{"stop_reason":null},"usage":{"output_tokens":9,"input_tokens":null}}`)
	write("event: message_stop", `data: {"type":"message_stop"}`)
	return b.String()
}
