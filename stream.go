package claudebalancer

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/claude-balancer/claude-balancer/anthropic"
)

// pingAfter is how long an event stream may be silent before the client gets a
// ping: well below the minutes after which clients give up.
const pingAfter = 20 * time.Second

// errSilent is the cause of an answer's end when upstream says nothing more.
var errSilent = errors.New("upstream was silent for too long")

// Buffers that answers are copied through. A stream of events holds one for as
// long as it runs; smaller ones cost a write for each when upstream is quick.
var (
	eventBuffers = bytesPool{sync.Pool{New: func() any { b := make([]byte, 16<<10); return &b }}}
	copyBuffers  = bytesPool{sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}}
)

type bytesPool struct{ sync.Pool }

// Get implements httputil.BufferPool.
func (p *bytesPool) Get() []byte { return *p.Pool.Get().(*[]byte) }

// Put implements httputil.BufferPool.
func (p *bytesPool) Put(b []byte) { p.Pool.Put(&b) }

// commit makes the try's answer the client's: from here on no other account can
// serve the request, and its body is not needed any more.
func (p *pass) commit(a *answer) *http.Response {
	p.answer = a
	if p.held != nil && p.held != a {
		p.held.discard()
	}
	p.letBodyGo()
	h := a.res.Header
	anthropic.CleanAnswer(h)
	if *p.h.ExposeAccount {
		h["X-Proxy-Account"] = []string{a.ticket.Name}
	}
	h["X-Request-Id"] = []string{p.id}
	if p.who.Key != nil && p.target.Endpoint == anthropic.Messages && a.res.StatusCode < 300 {
		for name, values := range p.who.Key.BudgetHeader() {
			h[name] = values
		}
	}
	a.res.Body = a.body()
	a.peeked = nil // its reader has it, and lets it go
	return a.res
}

// streamWriter is what the answer is written to. Beside the copy it counts
// usage, keeps silent streams alive with pings, and watches upstream's
// silence. A timer and the copy share it, so that a stream costs no goroutine.
type streamWriter struct {
	http.ResponseWriter
	pass *pass

	mu       sync.Mutex // held over every write: the timer writes too
	control  *http.ResponseController
	copied   *bytesPool // what the answer is copied through
	events   bool       // a stream of events that can be read
	scan     anthropic.StreamScanner
	whole    *anthropic.JSONScanner // of an answer in one piece
	left     int64                  // bytes of the answer still to come; negative = unknown
	timer    *time.Timer
	owned    bool // what the answer has made is remembered
	closed   bool
	lastPing time.Time
	lastRead atomic.Int64 // nanoseconds since the epoch
}

// Get implements httputil.BufferPool.
func (s *streamWriter) Get() []byte { return s.copied.Get() }

// Put implements httputil.BufferPool.
func (s *streamWriter) Put(b []byte) { s.copied.Put(b) }

// begin is called with the answer before its first byte goes to the client.
func (s *streamWriter) begin(res *http.Response) {
	p := s.pass
	now := time.Now()
	p.firstByte = p.now()
	p.endSearch()
	s.control = http.NewResponseController(s.ResponseWriter)
	s.lastRead.Store(now.UnixNano())
	s.events = p.answer.stream
	s.left = res.ContentLength
	if !s.events && p.countable(res) {
		s.whole = new(anthropic.JSONScanner)
	}
	res.Body = &answerBody{src: res.Body, stream: s}
	if s.events {
		s.copied = &eventBuffers
	}
	s.timer = time.AfterFunc(s.nextLook(now), s.look)
}

// countable reports whether the answer in one piece tells what it used.
func (p *pass) countable(res *http.Response) bool {
	encoding := res.Header.Get("Content-Encoding")
	return res.StatusCode < 300 && (encoding == "" || encoding == "identity") &&
		strings.HasPrefix(res.Header.Get("Content-Type"), "application/json") &&
		(p.target.Endpoint == anthropic.Messages || p.target.Create)
}

// Write implements http.ResponseWriter.
func (s *streamWriter) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.events:
		s.scan.Feed(b)
	case s.whole != nil:
		s.whole.Feed(b)
	}
	s.left -= int64(len(b))
	if s.pass.settleKey != nil && (s.left == 0 || s.scan.Stopped()) {
		// Once the client has these bytes it may send its next request, and
		// the key's limits must know of this one by then. An answer of unknown
		// length ends for the client after the handler has returned.
		s.readUsage()
		s.pass.settleKey()
	}
	s.rememberOwner()
	return s.ResponseWriter.Write(b)
}

// readUsage takes over what the answer has told so far.
func (s *streamWriter) readUsage() {
	switch {
	case s.events:
		s.pass.usage = s.scan.Usage()
	case s.whole != nil:
		s.pass.usage = s.whole.Usage()
	}
}

// FlushError is what http.ResponseController calls.
func (s *streamWriter) FlushError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.control.Flush()
}

// nextLook is how long until something may have to be done.
func (s *streamWriter) nextLook(now time.Time) time.Duration {
	read := time.Unix(0, s.lastRead.Load())
	next := read.Add(time.Duration(s.pass.h.IdleTimeout))
	if s.events {
		quiet := read
		if s.lastPing.After(quiet) {
			quiet = s.lastPing
		}
		if ping := quiet.Add(pingAfter); ping.Before(next) {
			next = ping
		}
	}
	return max(next.Sub(now), time.Millisecond)
}

// look runs when the stream may have been silent for too long.
func (s *streamWriter) look() {
	if !s.mu.TryLock() { // a write is under way, maybe to a slow client
		s.timer.Reset(time.Second)
		return
	}
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	now := time.Now()
	silent := now.Sub(time.Unix(0, s.lastRead.Load()))
	if silent >= time.Duration(s.pass.h.IdleTimeout) {
		s.pass.answer.cancel(errSilent)
		return
	}
	if s.events && silent >= pingAfter && now.Sub(s.lastPing) >= pingAfter {
		s.lastPing = now
		if s.scan.AtBoundary() && !s.scan.Stopped() {
			if _, err := s.ResponseWriter.Write(ownPing); err == nil {
				_ = s.control.Flush() // a failure shows at the next write
			}
		}
	}
	s.timer.Reset(s.nextLook(now))
}

var ownPing = []byte("event: ping\ndata: {\"type\": \"ping\"}\n\n")

// close ends the timer's part. No write happens after it.
func (s *streamWriter) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.timer == nil {
		return
	}
	s.timer.Stop()
	// The end of the answer is written after the handler has returned; a
	// deadline that was set for a write long ago must not cut it off.
	_ = s.control.SetWriteDeadline(time.Time{})
	s.readUsage()
	if s.events && !s.scan.Stopped() && s.pass.broken == "" { // else it is our own
		s.pass.lateError = s.scan.LastError()
	}
}

// answerBody is upstream's answer as it is copied to the client: it notices
// how it ends, and ends a broken stream with an error event.
type answerBody struct {
	src    io.ReadCloser
	stream *streamWriter
	tail   []byte // what is left of the error event
	ended  bool
}

// Read implements io.Reader.
func (b *answerBody) Read(buf []byte) (int, error) {
	if b.ended {
		return b.readTail(buf)
	}
	n, err := b.src.Read(buf)
	if n > 0 {
		b.stream.lastRead.Store(time.Now().UnixNano())
		return n, nil // an error comes again with the next call
	}
	if err == nil {
		return 0, nil
	}
	b.ended = true
	return b.end(err, buf)
}

func (b *answerBody) readTail(buf []byte) (int, error) {
	n := copy(buf, b.tail)
	b.tail = b.tail[n:]
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// end is called once, with what the last read said. Everything before it has
// been written.
func (b *answerBody) end(err error, buf []byte) (int, error) {
	s, p := b.stream, b.stream.pass
	switch {
	case err == io.EOF && !s.cutShort(), s.events && s.scan.Stopped():
		p.complete = true
		return 0, io.EOF
	case p.keyRevoked():
		p.broken = "The client key was revoked."
	case p.ctx.Err() != nil:
		return 0, p.ctx.Err()
	default:
		p.broken = whyBroken(p.answer, err)
	}
	if !s.events {
		return 0, err
	}
	b.tail = streamError(p.broken, p.id)
	return b.readTail(buf)
}

// cutShort reports whether a cleanly ended answer is incomplete all the same. A
// stream that has ended with an error event says so itself.
func (s *streamWriter) cutShort() bool {
	return s.events && s.pass.target.Endpoint == anthropic.Messages && s.pass.answer.res.StatusCode < 300 &&
		!s.scan.Stopped() && s.scan.LastError() == nil
}

func whyBroken(a *answer, err error) string {
	switch {
	case errors.Is(context.Cause(a.ctx), errSilent):
		return "The upstream connection was silent for too long."
	case err == io.EOF:
		return "The upstream answer ended before it was complete."
	default:
		return "The upstream connection broke before the answer was complete."
	}
}

// Close implements io.Closer.
func (b *answerBody) Close() error { return b.src.Close() }
