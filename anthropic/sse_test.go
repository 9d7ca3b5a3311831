package anthropic

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/claude-balancer/claude-balancer/api"
)

func event(name, data string) string { return "event: " + name + "\ndata: " + data + "\n\n" }

// stream is a whole answer as upstream sends it.
var stream = event("message_start", `{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"claude-opus-5-5","content":[],"usage":{"input_tokens":10,"cache_creation_input_tokens":100,"cache_read_input_tokens":1000,"cache_creation":{"ephemeral_5m_input_tokens":60,"ephemeral_1h_input_tokens":40},"output_tokens":1,"service_tier":"standard","inference_geo":"us"}}}`) +
	event("content_block_start", `{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}`) +
	event("ping", `{"type":"ping"}`) +
	event("content_block_delta", `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a \"message_stop\" in\\ntext"}}`) +
	event("content_block_stop", `{"type":"content_block_stop","index":0}`) +
	event("message_delta", `{"type":"message_delta","delta":{"stop_reason":"end_turn","container":{"id":"container_1"}},"usage":{"output_tokens":25,"input_tokens":null,"server_tool_use":{"web_search_requests":2}}}`) +
	event("message_stop", `{"type":"message_stop"}`)

// sight is all that a scanner can tell.
type sight struct {
	Boundary, Started, SawPing, Stopped bool
	First, Last                         string
	Usage                               Usage
	Container                           string
}

func sightOf(s *StreamScanner) sight {
	return sight{s.AtBoundary(), s.Started(), s.SawPing(), s.Stopped(), string(s.FirstError()), string(s.LastError()), s.Usage(), s.Container()}
}

func scan(chunks ...string) *StreamScanner {
	var s StreamScanner
	for _, c := range chunks {
		s.Feed([]byte(c))
	}
	return &s
}

func TestAWholeStreamIsUnderstoodWithAnyLineEnds(t *testing.T) {
	t.Parallel()
	want := sight{
		Boundary: true, Started: true, SawPing: true, Stopped: true, Container: "container_1",
		Usage: Usage{
			Tokens: api.Tokens{Input: 10, Output: 25, CacheRead: 1000, CacheWrite5m: 60, CacheWrite1h: 40},
			Seen:   true, Model: "claude-opus-5-5", WebSearches: 2, InferenceGeo: "us", ServiceTier: "standard",
		},
	}
	dataOnly := strings.Join(strings.Split(stream, "event: ")[1:], "")
	var kept []string
	for line := range strings.Lines(dataOnly) {
		if strings.HasPrefix(line, "data: ") || line == "\n" {
			kept = append(kept, line)
		}
	}
	var swapped strings.Builder
	for e := range strings.SplitSeq(strings.TrimSuffix(stream, "\n\n"), "\n\n") {
		name, data, _ := strings.Cut(e, "\n")
		swapped.WriteString(data + "\n" + name + "\n\n")
	}
	for name, s := range map[string]string{
		"LF": stream, "CRLF": strings.ReplaceAll(stream, "\n", "\r\n"), "CR": strings.ReplaceAll(stream, "\n", "\r"),
		"no space after the colon": strings.NewReplacer("event: ", "event:", "data: ", "data:").Replace(stream),
		"data only":                strings.Join(kept, ""),
		"with comments":            strings.ReplaceAll(stream, "event: ", ": comment\nid: 5\nretry: 10\nevent: "),
		"a name we do not know":    strings.ReplaceAll(stream, "event: message_start\n", "event: x\n"),
		"data before the name":     swapped.String(),
	} {
		if got := sightOf(scan(s)); !reflect.DeepEqual(got, want) {
			t.Errorf("%s\n got %+v\nwant %+v", name, got, want)
		}
	}
}

func TestAnEventMayBePutInOnlyBetweenEvents(t *testing.T) {
	t.Parallel()
	for fed, want := range map[string]bool{
		"":                               true,
		"\n":                             true,
		"e":                              false,
		"event: ping\n":                  false,
		"event: ping\ndata: {}\n":        false,
		"event: ping\ndata: {}\n\n":      true,
		"event: ping\ndata: {}\n\ne":     false,
		"data: {}\r\n":                   false,
		"data: {}\r\n\r":                 false, // half a CRLF
		"data: {}\r\n\r\n":               true,
		"data: {}\r\n\r\ne":              false,
		"data: {}\r":                     false,
		"data: {}\r\r":                   true,
		"data: {}\r\rdata":               false,
		"data: {}\r\r\r":                 true,
		"data: {}\n\r":                   false, // may be half a CRLF
		"data: {}\n\r\n":                 true,
		": comment\n":                    false,
		": comment\n\n":                  true,
		"data: {}\r\n\r\ndata: {}\r\n\r": false,
	} {
		if got := scan(fed).AtBoundary(); got != want {
			t.Errorf("%q: got %v", fed, got)
		}
		if got := scan(strings.Split(fed, "")...).AtBoundary(); got != want {
			t.Errorf("%q byte by byte: got %v", fed, got)
		}
	}
}

func TestTheFirstEventDecidesHowAStreamStarts(t *testing.T) {
	t.Parallel()
	const overloaded = `{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}`
	cases := []struct {
		name         string
		fed          string
		started      bool
		ping         bool
		first, last  string
		firstIsError bool
	}{
		{"nothing", "", false, false, "", "", false},
		{"comment", ": hello\n\n", false, false, "", "", false},
		{"retry and id only", "retry: 5\nid: 7\n\n", false, false, "", "", false},
		{"ping", event("ping", `{"type":"ping"}`), false, true, "", "", false},
		{"ping without a name", "data: {\"type\":\"ping\"}\n\n", false, true, "", "", false},
		{"half an event", "event: message_start\ndata: {\"type\":", false, false, "", "", false},
		{"no blank line yet", "event: error\ndata: " + overloaded + "\n", false, false, "", "", false},
		{"error", event("error", overloaded), true, false, overloaded, overloaded, true},
		{"error behind a ping", event("ping", "{}") + event("error", overloaded), true, true, overloaded, overloaded, true},
		{"error without a name", "data: " + overloaded + "\n\n", true, false, overloaded, overloaded, true},
		{"error under a name we do not know", event("message", overloaded), true, false, overloaded, overloaded, true},
		{"error whose name comes last", "data: " + overloaded + "\nevent: error\n\n", true, false, overloaded, overloaded, true},
		{"error on two lines", "event: error\ndata: {\"type\":\ndata: \"error\"}\n\n", true, false, "{\"type\":\n\"error\"}", "{\"type\":\n\"error\"}", true},
		{"error without data", "event: error\n\n", true, false, "", "", true},
		{"later error", event("message_start", `{}`) + event("error", overloaded), true, false, "", overloaded, false},
		{"an event that we do not know", event("future", `{"type":"future"}`), true, false, "", "", false},
		{"an event whose name is too long", event(strings.Repeat("ping", 20), "x"), true, false, "", "", false},
		{"a name that begins like one of ours", event("pings", "x"), true, false, "", "", false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := scan(c.fed)
			if s.Started() != c.started || s.SawPing() != c.ping {
				t.Errorf("started %v, ping %v", s.Started(), s.SawPing())
			}
			if string(s.FirstError()) != c.first || string(s.LastError()) != c.last || (s.FirstError() != nil) != c.firstIsError {
				t.Errorf("first %q, last %q", s.FirstError(), s.LastError())
			}
		})
	}
}

func TestOnlyMessageStopStopsAStream(t *testing.T) {
	t.Parallel()
	for fed, want := range map[string]bool{
		stream:                 true,
		stream[:len(stream)-1]: false,
		strings.TrimSuffix(stream, event("message_stop", `{"type":"message_stop"}`)): false,
		event("content_block_delta", `{"text":"event: message_stop\\n\\n"}`):         false,
	} {
		if got := scan(fed).Stopped(); got != want {
			t.Errorf("…%q: got %v", fed[max(0, len(fed)-40):], got)
		}
	}
}

func TestAStreamIsUnderstoodInAnyChunks(t *testing.T) {
	t.Parallel()
	line := rapid.SampledFrom(append(strings.SplitAfter(stream, "\n"), "\n", "\n", "\r\n", "\r", "event: error\n", "data: {\"type\":\"error\"}\n", ":c\n", "data\n", "event:ping\r\n"))
	rapid.Check(t, func(t *rapid.T) {
		whole := strings.Join(rapid.SliceOfN(line, 0, 20).Draw(t, "lines"), "")
		switch rapid.SampledFrom([]string{"as it is", "CRLF", "CR"}).Draw(t, "ends") {
		case "CRLF":
			whole = strings.ReplaceAll(whole, "\n", "\r\n")
		case "CR":
			whole = strings.ReplaceAll(whole, "\n", "\r")
		}
		want := sightOf(scan(whole))
		if got := sightOf(scan(cut(t, whole)...)); !reflect.DeepEqual(got, want) {
			t.Fatalf("\n got %+v\nwant %+v", got, want)
		}
	})
}

func cut(t *rapid.T, whole string) []string {
	var chunks []string
	for whole != "" {
		n := rapid.IntRange(1, len(whole)).Draw(t, "n")
		if rapid.Bool().Draw(t, "small") {
			n = min(n, 3)
		}
		chunks = append(chunks, whole[:n])
		whole = whole[n:]
	}
	return chunks
}

func TestAStreamScannerKeepsLittle(t *testing.T) {
	t.Parallel()
	var s StreamScanner
	big := bytes.Repeat([]byte("x"), 1<<20)
	s.Feed([]byte("event: error\ndata: "))
	s.Feed(big)
	if !s.Started() {
		t.Error("an event of 1 MiB is waited for")
	}
	s.Feed([]byte("\n\nevent: " + strings.Repeat("n", 1<<20) + "\n"))
	for range 3 {
		s.Feed([]byte("data: "))
		s.Feed(big)
		s.Feed([]byte("\n"))
	}
	s.Feed([]byte(strings.Repeat("f", 1<<20) + ": x\n\nevent: error\ndata: "))
	s.Feed(big)
	s.Feed([]byte("\n\n"))
	if kept := cap(s.data) + cap(s.firstError) + cap(s.lastError); kept > 64<<10 {
		t.Errorf("keeps %d bytes", kept)
	}
	if len(s.LastError()) != maxEventError || s.FirstError() != nil {
		t.Errorf("errors of %d and %d bytes", len(s.FirstError()), len(s.LastError()))
	}
}

func TestAStreamScannerAllocatesNothingPerEvent(t *testing.T) {
	var s StreamScanner
	s.Feed([]byte(stream))
	delta := []byte(event("content_block_delta", `{"type":"content_block_delta","delta":{"text":"words"}}`) + event("ping", `{"type":"ping"}`) + event("future", `{"type":"future"}`))
	if n := testing.AllocsPerRun(100, func() {
		s.Feed(delta[:50])
		s.Feed(delta[50:])
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzStreamScanner(f *testing.F) {
	f.Add([]byte(stream), 7)
	f.Add([]byte(strings.ReplaceAll(stream, "\n", "\r\n")), 1)
	f.Add([]byte("data: {\"type\":\"error\"}\r\rdata\n\n\xff"), 2)
	f.Fuzz(func(t *testing.T, b []byte, size int) {
		size = max(1, size%64)
		want := sightOf(scan(string(b)))
		var s StreamScanner
		for rest := b; len(rest) > 0; {
			n := min(size, len(rest))
			s.Feed(rest[:n])
			rest = rest[n:]
		}
		if got := sightOf(&s); !reflect.DeepEqual(got, want) {
			t.Errorf("in chunks of %d\n got %+v\nwant %+v", size, got, want)
		}
		// An event of our own, put in at a boundary, is seen as one and disturbs
		// nothing.
		if s.AtBoundary() && len(b) < maxEventData {
			s.Feed([]byte("event: ping\ndata: {}\n\n"))
			if want.SawPing = true; !reflect.DeepEqual(sightOf(&s), want) {
				t.Errorf("a ping disturbs %q:\n got %+v\nwant %+v", b, sightOf(&s), want)
			}
		}
	})
}

func ExampleStreamScanner() {
	var s StreamScanner
	s.Feed([]byte("event: message_delta\ndata: {\"usage\":{\"output"))
	s.Feed([]byte("_tokens\":25}}\n\n"))
	fmt.Println(s.AtBoundary(), s.Stopped(), s.Usage().Tokens.Output)
	// Output: true false 25
}
