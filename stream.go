package claudebalancer

import (
	"context"
	"errors"
	"io"
	"maps"
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
	eventBuffers = sync.Pool{New: func() any { b := make([]byte, 16<<10); return &b }}
	copyBuffers  = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}
)

// commit makes the try's answer the client's: from here on no other account can
// serve the request, and its body is not needed any more.
func (p *pass) commit(a *answer) *http.Response {
	p.answer = a
	if p.held != nil && p.held != a {
		p.held.discard()
	}
	p.letBodyGo()
	h := a.res.Header
	if *p.h.ExposeAccount {
		h["X-Proxy-Account"] = []string{a.ticket.Name}
	}
	h["X-Request-Id"] = []string{p.id}
	return a.res
}

// deliver gives the client the answer. One that breaks never looks complete: a
// stream of events ends with an error event, anything else by an abort.
func (p *pass) deliver(res *http.Response) {
	defer func() { _ = res.Body.Close() }()
	s := p.newStream(res)
	defer s.close()
	header := p.w.Header()
	anthropic.CopyAnswerHeader(header, res.Header)
	if p.who.Key != nil && p.target.Endpoint == anthropic.Messages && res.StatusCode < 300 {
		maps.Copy(header, p.who.Key.BudgetHeader()) // named as upstream's own, which stay here
	}
	p.w.WriteHeader(res.StatusCode)
	err := s.copy(res.Body)
	switch {
	case err == nil:
		s.addTrailer(res.Trailer)
	case p.r.Context().Err() == nil:
		panic(http.ErrAbortHandler)
	}
}

// stream is the answer on its way to the client. Beside the copy it counts
// usage, keeps silent streams alive with pings, and watches upstream's
// silence. A timer and the copy share it, so that a stream costs no goroutine.
type stream struct {
	pass *pass
	w    http.ResponseWriter

	mu       sync.Mutex // held over every write: the timer writes too
	control  *http.ResponseController
	events   bool // a stream of events that can be read
	scan     *anthropic.StreamScanner
	whole    *anthropic.JSONScanner // of an answer in one piece
	flushes  bool                   // the client gets each piece as soon as it is here
	left     int64                  // bytes of the answer still to come; negative = unknown
	timer    *time.Timer
	owned    bool // what the answer has made is remembered
	closed   bool
	lastPing time.Time
	lastRead atomic.Int64 // nanoseconds since the epoch
}

// newStream is called before the answer's first byte goes to the client.
func (p *pass) newStream(res *http.Response) *stream {
	now := time.Now()
	p.firstByte = p.now()
	p.endSearch()
	s := &stream{
		pass: p, w: p.w, control: http.NewResponseController(p.w),
		events: p.answer.stream, scan: &p.answer.scan, left: res.ContentLength,
	}
	if !s.events && p.countable(res) {
		s.whole = new(anthropic.JSONScanner)
	}
	s.flushes = s.events || s.left < 0 && s.whole == nil // half a JSON object is of no use
	s.lastRead.Store(now.UnixNano())
	s.timer = time.AfterFunc(s.nextLook(now), s.look)
	return s
}

// countable reports whether the answer in one piece tells what it used.
func (p *pass) countable(res *http.Response) bool {
	encoding := res.Header.Get("Content-Encoding")
	return res.StatusCode < 300 && (encoding == "" || encoding == "identity") &&
		strings.HasPrefix(res.Header.Get("Content-Type"), "application/json") &&
		(p.target.Endpoint == anthropic.Messages || p.target.Create)
}

// copy passes the answer on. It returns an error if the client must not take
// what it has got for the whole.
func (s *stream) copy(body io.Reader) error {
	if err := s.sendPeeked(); err != nil {
		return err
	}
	buffers := &copyBuffers
	if s.events {
		buffers = &eventBuffers
	}
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for {
		n, err := body.Read(*buf)
		if n > 0 {
			s.lastRead.Store(time.Now().UnixNano())
			if err := s.write((*buf)[:n]); err != nil {
				return err
			}
		}
		if err != nil {
			return s.end(err)
		}
	}
}

// sendPeeked gives the client what was read when the answer was judged. All of
// it at once: the scanner has seen it, and pings go between events only.
func (s *stream) sendPeeked() error {
	a := s.pass.answer
	if len(a.peeked) == 0 {
		if s.flushes {
			_ = s.control.Flush() // the body may be long in coming
		}
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	peeked := a.peeked
	a.peeked = nil
	return s.send(peeked)
}

// write gives the client the next bytes.
func (s *stream) write(b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.events:
		s.scan.Feed(b)
	case s.whole != nil:
		s.whole.Feed(b)
	}
	return s.send(b)
}

// send is called with the lock held, once what counts usage has seen the bytes.
func (s *stream) send(b []byte) error {
	s.left -= int64(len(b))
	if s.pass.settleKey != nil && (s.left == 0 || s.scan.Stopped()) {
		// Once the client has these bytes it may send its next request, and
		// the key's limits must know of this one by then. An answer of unknown
		// length ends for the client after the handler has returned.
		s.readUsage()
		s.pass.settleKey()
	}
	s.rememberOwner()
	if _, err := s.w.Write(b); err != nil {
		return err
	}
	if s.flushes {
		_ = s.control.Flush() // a failure shows at the next write
	}
	return nil
}

// end is called with what the last read said, once everything before it was
// written.
func (s *stream) end(err error) error {
	p := s.pass
	switch {
	case err == io.EOF && !s.cutShort(), s.events && s.scan.Stopped():
		p.complete = true
		return nil
	case p.keyRevoked():
		p.broken = "The client key was revoked."
	case p.ctx.Err() != nil:
		return p.ctx.Err()
	default:
		p.broken = whyBroken(p.answer, err)
	}
	if !s.events {
		return err
	}
	return s.write(streamError(p.broken, p.id))
}

// cutShort reports whether a cleanly ended answer is incomplete all the same. A
// stream that has ended with an error event says so itself.
func (s *stream) cutShort() bool {
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

// addTrailer passes on what followed the body. Only an answer that has begun to
// go out can have a trailer.
func (s *stream) addTrailer(trailer http.Header) {
	if len(trailer) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.control.Flush()
	for name, values := range trailer {
		s.w.Header()[http.TrailerPrefix+name] = values
	}
}

// readUsage takes over what the answer has told so far.
func (s *stream) readUsage() {
	switch {
	case s.events:
		s.pass.usage = s.scan.Usage()
	case s.whole != nil:
		s.pass.usage = s.whole.Usage()
	}
}

// nextLook is how long until something may have to be done.
func (s *stream) nextLook(now time.Time) time.Duration {
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
func (s *stream) look() {
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
			if _, err := s.w.Write(ownPing); err == nil {
				_ = s.control.Flush() // a failure shows at the next write
			}
		}
	}
	s.timer.Reset(s.nextLook(now))
}

var ownPing = []byte("event: ping\ndata: {\"type\": \"ping\"}\n\n")

// close ends the timer's part. No write happens after it.
func (s *stream) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.timer.Stop()
	// The end of the answer is written after the handler has returned; a
	// deadline that was set for a write long ago must not cut it off.
	_ = s.control.SetWriteDeadline(time.Time{})
	s.readUsage()
	if s.events && !s.scan.Stopped() && s.pass.broken == "" { // else it is our own
		s.pass.lateError = s.scan.LastError()
	}
}
