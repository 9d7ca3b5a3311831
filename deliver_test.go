package claudebalancer

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

// An answer of unknown length comes piece by piece, its header first, and what
// belongs to upstream's connection stays there.
func TestAnAnswerOfUnknownLengthIsNotHeldBack(t *testing.T) {
	t.Parallel()
	next := make(chan struct{})
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Connection", "X-Hop")
		w.Header().Set("X-Hop", "1")
		w.Header().Set("Keep-Alive", "timeout=5")
		w.Header().Set("Trailer", "X-Sum")
		for _, piece := range []string{"", "one", "two"} {
			_, _ = io.WriteString(w, piece)
			w.(http.Flusher).Flush()
			select {
			case <-next:
			case <-req.Context().Done():
				return
			}
		}
		w.Header().Set("X-Sum", "3")
	}))
	t.Cleanup(upstream.Close)
	r := newRig(t, rigOptions{upstream: upstream.URL})
	r.add("a", "api")
	res, _ := r.begin(r.request("GET", "/v1/files/file_1/content", ""))
	if h := res.Header; res.StatusCode != 200 || h["X-Hop"] != nil || h["Keep-Alive"] != nil || h["Connection"] != nil || h.Get("Content-Type") != "application/octet-stream" {
		t.Errorf("status %d, header %v", res.StatusCode, h)
	}
	for _, want := range []string{"one", "two"} {
		next <- struct{}{}
		piece := make([]byte, len(want))
		if _, err := io.ReadFull(res.Body, piece); err != nil || string(piece) != want {
			t.Fatalf("%q, want %q (%v)", piece, want, err)
		}
	}
	next <- struct{}{}
	if rest, err := io.ReadAll(res.Body); err != nil || len(rest) > 0 || res.Trailer.Get("X-Sum") != "3" {
		t.Errorf("rest %q, trailer %v (%v)", rest, res.Trailer, err)
	}
}

// A status that no answer can have must not reach the client's connection.
func TestAnAnswerThatChangesTheProtocolIsNone(t *testing.T) {
	t.Parallel()
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
			_ = conn.Close()
		}
	}))
	t.Cleanup(upstream.Close)
	r := newRig(t, rigOptions{upstream: upstream.URL, directive: quick})
	r.add("a", "max")
	if got := r.message(sonnet); got.status != http.StatusBadGateway {
		t.Errorf("status %d: %s", got.status, got.body)
	}
	r.rows(1)
}
