package simulator

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// chunked reads at most n bytes at a time.
type chunked struct {
	io.Reader
	n int
}

func (c chunked) Read(b []byte) (int, error) { return c.Reader.Read(b[:min(c.n, len(b))]) }

func TestTheFastModeFindsTheStreamFlagWhereverABodyIsSplit(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		flag := rapid.SampledFrom([]string{`"stream":true`, `"stream": true`, `"stream":false`, `"stream" `, ``}).Draw(t, "flag")
		before := strings.Repeat("x", rapid.IntRange(0, 70_000).Draw(t, "before"))
		after := strings.Repeat("y", rapid.IntRange(0, 200).Draw(t, "after"))
		size := rapid.SampledFrom([]int{1, 2, 7, 13, 14, 15, 1000, 1 << 20}).Draw(t, "chunk")
		found, err := scanStream(chunked{strings.NewReader(before + flag + after), size})
		if want := strings.HasSuffix(flag, "true"); err != nil || found != want {
			t.Fatalf("found %t, %v; want %t", found, err, want)
		}
	})
}

// discard is an http.ResponseWriter that keeps nothing.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}

// What the fake itself costs per request, without net/http around it.
func BenchmarkFast(b *testing.B) {
	for name, body := range map[string]string{
		"json":   `{"model":"claude-sonnet-5-5","messages":[]}`,
		"stream": `{"model":"claude-sonnet-5-5","messages":[],"stream":true}`,
		"200kB":  `{"messages":"` + strings.Repeat("x", 200_000) + `"}`,
	} {
		b.Run(name, func(b *testing.B) {
			s := New(Options{Fast: true})
			key := s.AddAccount(Account{Name: "key", Plan: PlanAPI}).APIKey.Reveal()
			content := strings.NewReader(body)
			r := httptest.NewRequest(http.MethodPost, "/v1/messages", content)
			r.Header.Set("X-Api-Key", key)
			w := discard{make(http.Header)}
			b.ReportAllocs()
			for b.Loop() {
				content.Reset(body)
				s.ServeHTTP(w, r)
			}
		})
	}
}
