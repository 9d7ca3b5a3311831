package anthropic

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
)

// sources is code as coding clients send it: this package's own.
func sources(tb testing.TB) []string {
	tb.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		tb.Fatal(err)
	}
	var all []string
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		b, err := os.ReadFile(f)
		if err != nil {
			tb.Fatal(err)
		}
		all = append(all, string(b))
	}
	return all
}

// realisticBody is a conversation as a coding client sends it: system, tools,
// tool calls and their results full of code, metadata at the end.
func realisticBody(tb testing.TB, size int) []byte {
	tb.Helper()
	type m = map[string]any
	code := sources(tb)
	var tools []any
	for i := range min(20, size/8000) {
		tools = append(tools, m{
			"name": fmt.Sprintf("tool_%d", i), "description": strings.Repeat("Reads a file and returns its lines. ", 20),
			"input_schema": m{"type": "object", "required": []string{"file_path"}, "properties": m{
				"file_path": m{"type": "string", "description": "the absolute path"},
				"limit":     m{"type": "integer", "description": "how many lines"},
			}},
		})
	}
	var messages []any
	total := 1300 * len(tools)
	for i := 0; total < size; i++ {
		text := code[i%len(code)]
		text = text[:min(len(text), max(200, size-total))]
		total += len(text) + len(text)/12 + 300 // escapes, and what is around it
		messages = append(messages,
			m{"role": "assistant", "content": []any{m{"type": "tool_use", "id": fmt.Sprintf("toolu_%024d", i), "name": "Read", "input": m{"file_path": "/src/a.go"}}}},
			m{"role": "user", "content": []any{m{"type": "tool_result", "tool_use_id": fmt.Sprintf("toolu_%024d", i), "content": text}}})
	}
	body := struct {
		Model     string `json:"model"`
		Messages  []any  `json:"messages"`
		System    []any  `json:"system"`
		Tools     []any  `json:"tools"`
		Metadata  m      `json:"metadata"`
		MaxTokens int    `json:"max_tokens"`
		Stream    bool   `json:"stream"`
	}{
		"claude-opus-5-5", messages, []any{m{"type": "text", "text": strings.Repeat("You are careful. ", 50)}}, tools,
		m{"user_id": `{"device_id":"` + strings.Repeat("ab", 32) + `","account_uuid":"","session_id":"0b5c8b1e-7a43-4f0e-9d2c-6f2f3c1d8e55"}`},
		128000, true,
	}
	b, err := json.Marshal(body)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func benchBodies(b *testing.B, f func([]byte)) {
	for _, size := range []int{2 << 10, 200 << 10, 5 << 20} {
		body := realisticBody(b, size)
		b.Run(fmt.Sprintf("%dkB", size>>10), func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				f(body)
			}
		})
	}
}

func BenchmarkReadBody(b *testing.B) { benchBodies(b, func(body []byte) { ReadBody(body) }) }

func BenchmarkContentKey(b *testing.B) { benchBodies(b, func(body []byte) { ContentKey(body) }) }

func BenchmarkStreamScannerPerEvent(b *testing.B) {
	event := []byte("event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"some words of an answer\"}}\n\n")
	var s StreamScanner
	b.ReportAllocs()
	for b.Loop() {
		s.Feed(event)
	}
}

func BenchmarkJSONScanner(b *testing.B) {
	answer := []byte(`{"id":"msg_1","type":"message","model":"claude-opus-5-5","content":[{"type":"text","text":"` +
		strings.Repeat(`words \"and\" quotes `, 500) + `"}],"usage":{"input_tokens":10,"output_tokens":20}}`)
	b.SetBytes(int64(len(answer)))
	b.ReportAllocs()
	for b.Loop() {
		var s JSONScanner
		s.Feed(answer)
	}
}

func okHeader() http.Header {
	return header(
		"content-type", "application/json", "date", "Fri, 31 Jul 2026 10:00:00 GMT", "request-id", "req_011", "server", "cloudflare",
		"cf-ray", "1", "x-envoy-upstream-service-time", "12", "strict-transport-security", "max-age=1",
		"anthropic-organization-id", "org", "anthropic-ratelimit-unified-status", "allowed",
		"anthropic-ratelimit-unified-reset", "1785518400", "anthropic-ratelimit-unified-representative-claim", "five_hour",
		"anthropic-ratelimit-unified-5h-status", "allowed", "anthropic-ratelimit-unified-5h-utilization", "0.41",
		"anthropic-ratelimit-unified-5h-reset", "1785518400", "anthropic-ratelimit-unified-7d-status", "allowed",
		"anthropic-ratelimit-unified-7d-utilization", "0.69", "anthropic-ratelimit-unified-7d-reset", "1786006800",
		"anthropic-ratelimit-unified-overage-status", "rejected", "anthropic-ratelimit-unified-overage-disabled-reason", "org_level_disabled",
	)
}

func BenchmarkParseLimits(b *testing.B) {
	for name, h := range map[string]http.Header{"told": okHeader(), "untold": header("content-type", "a", "date", "b", "request-id", "c", "server", "d")} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				ParseLimits(h, captured)
			}
		})
	}
}

func BenchmarkJudge(b *testing.B) {
	answers := map[string]Answer{
		"200": {Status: 200, Header: okHeader()},
		"429": {Status: 429, Header: captureA(), Body: []byte(`{"type":"error","error":{"type":"rate_limit_error","message":"This request would exceed your account's rate limit."}}`)},
		"529": {Status: 529, Header: http.Header{}, Body: []byte(`{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}`)},
	}
	for name, a := range answers {
		a.Now, a.Kind, a.Endpoint, a.Model, a.Family = captured, api.KindOAuth, Messages, "claude-opus-5-5", FamilyOpus
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Judge(a)
			}
		})
	}
}

func BenchmarkUpstreamHeader(b *testing.B) {
	h := header("anthropic-version", "2023-06-01", "anthropic-beta", "a,b", "content-type", "application/json", "user-agent", "claude-cli",
		"x-app", "cli", "authorization", "Bearer x", "accept", "*/*", "accept-encoding", "gzip", "content-length", "9", "x-stainless-lang", "js")
	b.ReportAllocs()
	for b.Loop() {
		UpstreamHeader(h)
	}
}

func BenchmarkCost(b *testing.B) {
	p := DefaultPrices()
	u := Usage{Seen: true, Tokens: api.Tokens{Input: 10}}
	b.ReportAllocs()
	for b.Loop() {
		p.Cost("claude-opus-4-1", u, captured)
	}
}

// captured is a point in time at which the captured answers' resets are ahead.
var captured = time.Unix(1785518400-7835, 0)

// header builds a header from names and values in turn.
func header(pairs ...string) http.Header {
	h := make(http.Header, len(pairs)/2)
	for i := 0; i < len(pairs); i += 2 {
		h.Add(pairs[i], pairs[i+1])
	}
	return h
}

func captureA() http.Header {
	return header("retry-after", "7835", "x-should-retry", "true",
		"anthropic-ratelimit-unified-status", "rejected", "anthropic-ratelimit-unified-reset", "1785518400",
		"anthropic-ratelimit-unified-representative-claim", "five_hour",
		"anthropic-ratelimit-unified-5h-status", "rejected", "anthropic-ratelimit-unified-5h-utilization", "1.01",
		"anthropic-ratelimit-unified-5h-surpassed-threshold", "1.0", "anthropic-ratelimit-unified-5h-reset", "1785518400",
		"anthropic-ratelimit-unified-7d-status", "allowed", "anthropic-ratelimit-unified-7d-utilization", "0.69",
		"anthropic-ratelimit-unified-7d-reset", "1786006800", "anthropic-ratelimit-unified-fallback-percentage", "0.5",
		"anthropic-ratelimit-unified-overage-status", "rejected", "anthropic-ratelimit-unified-overage-disabled-reason", "org_level_disabled")
}
