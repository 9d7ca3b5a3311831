package simulator

// Prepared answers for benchmarks: as little work per request as a server can
// do, so that the proxy in front is what is measured.

import (
	"bytes"
	"io"
	"maps"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// fastAnswers are made once and shared by all requests.
type fastAnswers struct {
	whole, count, stream                []byte
	events                              [][]byte
	wholeHeader, countHeader, sseHeader http.Header
	pace                                time.Duration
}

// fastOutput is the length of a prepared answer in tokens, unless
// Options.Output says otherwise.
const fastOutput = 64

func newFastAnswers(o Options) *fastAnswers {
	if o.Output <= 0 {
		o.Output = fastOutput
	}
	m := message{
		id: "msg_01simulated", model: "claude-sonnet-5-5", stopReason: "end_turn",
		usage: usage{Input: 1000, Output: o.Output},
	}
	f := &fastAnswers{whole: m.whole(), count: []byte(`{"input_tokens":1000}`), pace: o.Pace}
	for e := range m.events() {
		f.events = append(f.events, e)
	}
	f.stream = bytes.Join(f.events, nil)

	reset := o.Now().Add(5 * time.Hour)
	common := unifiedHeader([]windowState{{"5h", allowed, 0.25, reset}, {"7d", allowed, 0.5, reset.Add(week)}})
	common.Set("Request-Id", "req_01simulated")
	common.Set("Anthropic-Organization-Id", "00000000-0000-4000-8000-000000000000")
	header := func(contentType string, body []byte) http.Header {
		h := common.Clone()
		h.Set("Content-Type", contentType)
		if body != nil {
			h.Set("Content-Length", strconv.Itoa(len(body)))
		}
		return h
	}
	f.wholeHeader = header("application/json", f.whole)
	f.countHeader = header("application/json", f.count)
	f.sseHeader = header("text/event-stream; charset=utf-8", nil)
	return f
}

// serveFast answers what was prepared for. It reports false, with nothing read
// or written, if the request needs the usual way.
func (s *Simulator) serveFast(w http.ResponseWriter, r *http.Request) bool {
	if r.Method != http.MethodPost {
		return false
	}
	counting := r.URL.Path == "/v1/messages/count_tokens"
	if !counting && r.URL.Path != "/v1/messages" {
		return false
	}
	c, problem := s.authenticate(r, apiCall)
	if problem != nil || c.account.held.Load() {
		return false
	}
	c.account.requests.Add(1)

	streamed, err := scanStream(r.Body)
	f := s.fast
	switch {
	case err != nil: // the client left
	case counting:
		fastSend(w, f.countHeader, f.count)
	case streamed:
		s.fastStream(w, r)
	default:
		fastSend(w, f.wholeHeader, f.whole)
	}
	return true
}

func fastSend(w http.ResponseWriter, h http.Header, body []byte) {
	maps.Copy(w.Header(), h)
	_, _ = w.Write(body) // the client may have left
}

func (s *Simulator) fastStream(w http.ResponseWriter, r *http.Request) {
	s.stats.streams.Add(1)
	defer s.stats.streams.Add(-1)
	f := s.fast
	if f.pace <= 0 {
		fastSend(w, f.sseHeader, f.stream)
		return
	}

	maps.Copy(w.Header(), f.sseHeader)
	flush := http.NewResponseController(w)
	tick := time.NewTicker(f.pace)
	defer tick.Stop()
	for i, e := range f.events {
		if i > 0 {
			select {
			case <-tick.C:
			case <-r.Context().Done():
				s.stats.cancelled.Add(1)
				return
			}
		}
		if _, err := w.Write(e); err != nil {
			s.stats.cancelled.Add(1)
			return
		}
		_ = flush.Flush() // the next write tells
	}
}

var scanBuffers = sync.Pool{New: func() any { return new([64 << 10]byte) }}

var (
	streamTight = []byte(`"stream":true`)
	streamWide  = []byte(`"stream": true`)
)

// scanStream reads a body to its end and reports whether it asks for a stream.
// It looks for the words alone, which is enough for a benchmark's own bodies.
func scanStream(body io.Reader) (bool, error) {
	buffer := scanBuffers.Get().(*[64 << 10]byte)
	defer scanBuffers.Put(buffer)
	found, kept := false, 0
	for {
		n, err := body.Read(buffer[kept:])
		if !found && n > 0 {
			seen := buffer[:kept+n]
			found = bytes.Contains(seen, streamTight) || bytes.Contains(seen, streamWide)
			kept = copy(buffer[:], seen[max(len(seen)-len(streamWide), 0):])
		}
		if err == io.EOF {
			return found, nil
		}
		if err != nil {
			return false, err
		}
	}
}
