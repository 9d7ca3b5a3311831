package anthropic

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/claude-balancer/claude-balancer/api"
)

const startUsage = `{"input_tokens":10,"cache_creation_input_tokens":100,"cache_read_input_tokens":1000,"cache_creation":{"ephemeral_5m_input_tokens":60,"ephemeral_1h_input_tokens":40},"output_tokens":1}`

func TestUsageIsCountedInEveryShape(t *testing.T) {
	t.Parallel()
	start := api.Tokens{Input: 10, Output: 1, CacheRead: 1000, CacheWrite5m: 60, CacheWrite1h: 40}
	with := func(change func(*api.Tokens)) Usage {
		u := Usage{Tokens: start, Seen: true}
		change(&u.Tokens)
		return u
	}
	told := func(t api.Tokens) Usage { return Usage{Tokens: t, Seen: true} }
	cases := []struct {
		name   string
		usages []string // message_start's, then message_delta's
		want   Usage
	}{
		{"none", nil, Usage{}},
		{"start only, as of a stream that broke", []string{startUsage}, told(start)},
		{"delta tells output only", []string{startUsage, `{"output_tokens":25}`}, with(func(t *api.Tokens) { t.Output = 25 })},
		{"delta tells all, cumulative", []string{startUsage, `{"output_tokens":25,"input_tokens":12,"cache_read_input_tokens":2000,"cache_creation_input_tokens":100}`},
			with(func(t *api.Tokens) { t.Input, t.Output, t.CacheRead = 12, 25, 2000 })},
		{"delta with nulls", []string{startUsage, `{"output_tokens":25,"input_tokens":null,"cache_read_input_tokens":null,"cache_creation_input_tokens":null,"server_tool_use":null}`},
			with(func(t *api.Tokens) { t.Output = 25 })},
		{"delta with zeroes", []string{startUsage, `{"output_tokens":25,"input_tokens":0,"cache_read_input_tokens":0}`},
			with(func(t *api.Tokens) { t.Input, t.Output, t.CacheRead = 0, 25, 0 })},
		{"several deltas", []string{startUsage, `{"output_tokens":25}`, `{"output_tokens":70}`}, with(func(t *api.Tokens) { t.Output = 70 })},
		{"delta adds cache writes: they are short-lived", []string{startUsage, `{"cache_creation_input_tokens":130}`}, with(func(t *api.Tokens) { t.CacheWrite5m = 90 })},
		{"delta takes cache writes back", []string{startUsage, `{"cache_creation_input_tokens":0}`}, with(func(t *api.Tokens) { t.CacheWrite5m, t.CacheWrite1h = 0, 0 })},
		{"no split: all short-lived", []string{`{"input_tokens":1,"cache_creation_input_tokens":100,"output_tokens":2}`}, told(api.Tokens{Input: 1, Output: 2, CacheWrite5m: 100})},
		{"split is null", []string{`{"cache_creation_input_tokens":100,"cache_creation":null}`}, told(api.Tokens{CacheWrite5m: 100})},
		{"split of long-lived writes alone", []string{`{"cache_creation_input_tokens":100,"cache_creation":{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":100}}`}, told(api.Tokens{CacheWrite1h: 100})},
		{"split without a sum", []string{`{"cache_creation":{"ephemeral_5m_input_tokens":7,"ephemeral_1h_input_tokens":8}}`}, told(api.Tokens{CacheWrite5m: 7, CacheWrite1h: 8})},
		{"delta without a start", []string{`{}`, `{"output_tokens":5}`}, told(api.Tokens{Output: 5})},
		{"unknown members", []string{`{"input_tokens":3,"output_tokens_details":{"thinking_tokens":9},"future":[{}],"output_tokens":4}`}, told(api.Tokens{Input: 3, Output: 4})},
		{"members of wrong types count as not told", []string{`{"input_tokens":"3","output_tokens":4.5,"cache_read_input_tokens":6,"cache_creation":"x"}`}, told(api.Tokens{CacheRead: 6})},
		{"negative counts as not told", []string{`{"input_tokens":-3,"output_tokens":4}`}, told(api.Tokens{Output: 4})},
		{"overflow counts as not told", []string{`{"input_tokens":99999999999999999999,"output_tokens":4}`}, told(api.Tokens{Output: 4})},
		{"empty", []string{`{}`}, Usage{}},
		{"null", []string{`null`}, Usage{}},
		{"no object", []string{`"x"`}, Usage{}},
		{"what costs need", []string{`{"input_tokens":1,"service_tier":"priority","inference_geo":"us","speed":"fast","server_tool_use":{"web_search_requests":3,"web_fetch_requests":9}}`, `{"service_tier":null}`},
			Usage{Tokens: api.Tokens{Input: 1}, Seen: true, WebSearches: 3, InferenceGeo: "us", ServiceTier: "priority", Speed: "fast"}},
		{"another model has answered", []string{`{"input_tokens":1}`, `{"output_tokens":2,"iterations":[{"type":"message","model":"claude-fable-5"},{"type":"message","model":"claude-opus-5"},{"type":"advisor_message","model":"claude-mythos-5"},{"type":"compaction"}]}`},
			Usage{Tokens: api.Tokens{Input: 1, Output: 2}, Seen: true, Model: "claude-opus-5"}},
	}
	if len(cases) < 20 {
		t.Fatal("too few shapes")
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var s StreamScanner
			for i, u := range c.usages {
				if i == 0 {
					s.Feed([]byte(event("message_start", `{"type":"message_start","message":{"usage":`+u+`}}`)))
				} else {
					s.Feed([]byte(event("message_delta", `{"type":"message_delta","usage":`+u+`}`)))
				}
			}
			if got := s.Usage(); got != c.want {
				t.Errorf("stream\n got %+v\nwant %+v", got, c.want)
			}
			if len(c.usages) != 1 {
				return
			}
			var j JSONScanner
			j.Feed([]byte(`{"usage":` + c.usages[0] + `}`))
			if got := j.Usage(); got != c.want {
				t.Errorf("JSON\n got %+v\nwant %+v", got, c.want)
			}
		})
	}
}

type jsonSight struct {
	Usage         Usage
	ID, Container string
}

func scanJSON(chunks ...string) jsonSight {
	var s JSONScanner
	for _, c := range chunks {
		s.Feed([]byte(c))
	}
	return jsonSight{s.Usage(), s.ID(), s.Container()}
}

func TestAJSONAnswerIsReadAtItsTopLevelOnly(t *testing.T) {
	t.Parallel()
	used := Usage{Tokens: api.Tokens{Input: 5, Output: 6}, Seen: true}
	const usage = `{"input_tokens":5,"output_tokens":6}`
	modeled := used
	modeled.Model = "claude-opus-5"
	for body, want := range map[string]jsonSight{
		`{"id":"msg_1","type":"message","model":"claude-opus-5","content":[{"id":"x","usage":{"input_tokens":9},"text":"\"usage\":{}\\"}],"usage":` + usage + `,"container":{"id":"c_1","skills":[]}}`: {modeled, "msg_1", "c_1"},
		" {\n \"usage\" : { \"input_tokens\" : 5 ,\n \"output_tokens\" : 6 } , \"container\" : null } ":                                                                                                {used, "", ""},
		`{"usage":` + usage + `}{"usage":{"input_tokens":9}}`: {used, "", ""}, // what follows the answer is no part of it
		`{"id":"a","id":"b"}`:                                                 {Usage{}, "b", ""},
		`{"input_tokens":2095}`:                                               {}, // count_tokens
		`{"id":5,"model":null,"usage":null}`:                                  {},
		`{"id":"` + strings.Repeat("x", 300) + `"}`:                           {},
		`{"usage":{"pad":"` + strings.Repeat("x", maxMember) + `"},"id":"a"}`: {Usage{}, "a", ""},
		`{"` + strings.Repeat("n", maxMember) + `":1,"id":"a"}`:               {Usage{}, "a", ""},
		`{"usage":` + usage:                                                   {}, // cut short
		`[{"id":"a"}]`:                                                        {},
		`"id"`:                                                                {},
		`null`:                                                                {},
		``:                                                                    {},
		`}{"id":"a"}`:                                                         {},
		`{"a":{}},"id":"a"}`:                                                  {},
	} {
		if got := scanJSON(body); got != want {
			t.Errorf("%.80s\n got %+v\nwant %+v", body, got, want)
		}
	}
}

func TestAJSONAnswerIsUnderstoodInAnyChunks(t *testing.T) {
	t.Parallel()
	value := rapid.SampledFrom([]string{startUsage, `{"id":"c_1"}`, `"claude-opus-5"`, `"a\\\\\"b"`, `"\\"`, `""`, `[{"id":"x"},"]"]`, `1.5e3`, `null`, "{ }"})
	name := rapid.SampledFrom([]string{"usage", "id", "model", "container", "content", `us\"age`})
	rapid.Check(t, func(t *rapid.T) {
		whole := "{"
		for i := range rapid.IntRange(0, 6).Draw(t, "members") {
			if i > 0 {
				whole += " , "
			}
			whole += `"` + name.Draw(t, "name") + `" :` + value.Draw(t, "value")
		}
		whole += rapid.SampledFrom([]string{"}", "", "]", `,"id`}).Draw(t, "end")
		want := scanJSON(whole)
		if got := scanJSON(cut(t, whole)...); !reflect.DeepEqual(got, want) {
			t.Fatalf("%s\n got %+v\nwant %+v", whole, got, want)
		}
	})
}

func TestAJSONScannerAgreesWithReadingTheWhole(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		body := jsonObject().Draw(t, "body")
		body = append(bytes.TrimSuffix(body, []byte("}")), `,"id":"msg_1"}`...)
		body = bytes.Replace(body, []byte("{,"), []byte("{"), 1)
		if got, want := scanJSON(cut(t, string(body))...).ID, CreatedID(body); got != want || want != "msg_1" {
			t.Fatalf("%s: got %q, want %q", body, got, want)
		}
	})
}

func TestAJSONScannerKeepsLittle(t *testing.T) {
	t.Parallel()
	var s JSONScanner
	s.Feed([]byte(`{"content":"`))
	for range 64 {
		s.Feed(bytes.Repeat([]byte("x"), 16<<10))
	}
	s.Feed([]byte(`","usage":{"x":"`))
	for range 64 {
		s.Feed(bytes.Repeat([]byte("x"), 1<<10))
	}
	if cap(s.kept) > 64<<10 {
		t.Errorf("keeps %d bytes", cap(s.kept))
	}
}

func FuzzJSONScanner(f *testing.F) {
	f.Add([]byte(`{"id":"a","usage":{"input_tokens":1},"x":"\\\""}`), 3)
	f.Add([]byte(`{"a":[{}],"model":"b"`), 1)
	f.Fuzz(func(t *testing.T, b []byte, size int) {
		size = max(1, size%64)
		var chunks []string
		for rest := string(b); rest != ""; {
			n := min(size, len(rest))
			chunks = append(chunks, rest[:n])
			rest = rest[n:]
		}
		if got, want := scanJSON(chunks...), scanJSON(string(b)); got != want {
			t.Errorf("in chunks of %d\n got %+v\nwant %+v", size, got, want)
		}
	})
}
