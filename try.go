package claudebalancer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/claude-balancer/claude-balancer/anthropic"
	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/oauth"
	"github.com/claude-balancer/claude-balancer/selection"
)

// Bounds of what is looked at before an answer is judged.
const (
	errorPeek  = 64 << 10         // bytes of an error's body
	eventPeek  = 64 << 10         // bytes of a stream until its first event
	pingHold   = 15 * time.Second // how long a stream that only pings is held back
	drainBytes = 64 << 10         // read of a discarded answer, so that its connection can be used again
)

// answer is the outcome of one try.
type answer struct {
	ticket  *selection.Ticket
	res     *http.Response // nil if none came
	peeked  []byte         // what was read of its body
	verdict anthropic.Verdict
	sent    time.Time
	written bool // upstream may have got the request
	ctx     context.Context
	cancel  context.CancelCauseFunc
	stream  bool                    // an event stream that can be read
	scan    anthropic.StreamScanner // has seen what was peeked of it
}

// errNoAnswer is the cause of a try's end when upstream took too long.
var errNoAnswer = errors.New("no answer in time")

// errNoFinalStatus: upstream changes the protocol, or speaks none that we know.
var errNoFinalStatus = errors.New("not the status of an answer")

// try makes one upstream round trip and judges its outcome.
func (p *pass) try(ticket *selection.Ticket, token oauth.Token) *answer {
	begin := p.now()
	ctx, cancel := context.WithCancelCause(p.ctx)
	a := &answer{ticket: ticket, sent: begin, ctx: ctx, cancel: cancel}

	timeout := time.Duration(p.h.AnswerTimeout)
	if p.known.Stream {
		timeout = time.Duration(p.h.FirstEventTimeout)
	}
	timer := time.AfterFunc(timeout, func() { cancel(errNoAnswer) })
	defer timer.Stop()

	var written atomic.Bool
	req := p.request(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		// From here on bytes may reach upstream.
		WroteHeaders: func() { written.Store(true) },
	}), token)
	res, err := p.h.transport.RoundTrip(req)
	a.res = res
	if err == nil {
		err = p.peek(ctx, a)
	}
	a.written = written.Load() || a.res != nil
	if err != nil {
		a.verdict = judgeFailure(ctx, err, a.written)
		if a.res != nil {
			_ = a.res.Body.Close()
			a.res = nil
		}
		cancel(err)
	} else {
		a.verdict = p.judge(a)
		p.foundNowhere(a)
	}
	p.lastTry = p.now().Sub(begin)
	p.note(a, p.lastTry)
	return a
}

// request builds what goes upstream for one try.
func (p *pass) request(ctx context.Context, token oauth.Token) *http.Request {
	up := p.h.upstream
	u := &url.URL{Scheme: up.Scheme, Host: up.Host, Path: up.Path + p.url.Path, RawQuery: p.url.RawQuery, ForceQuery: p.url.ForceQuery}
	if raw := p.url.RawPath; raw != "" {
		u.RawPath = up.EscapedPath() + raw
	}
	header := anthropic.UpstreamHeader(p.r.Header)
	anthropic.SetCredential(header, token.Kind, token.Value)
	req := &http.Request{
		Method: p.r.Method, URL: u, Host: up.Host, Header: header,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		ContentLength: p.body.length,
		Body:          p.body.open(),
	}
	if p.body.repeatable() && p.body.length > 0 {
		req.GetBody = func() (io.ReadCloser, error) { return p.body.open(), nil }
	}
	return req.WithContext(ctx)
}

// peek reads as much of the answer as judging it takes: an error's body, or a
// stream up to its first event.
func (p *pass) peek(ctx context.Context, a *answer) error {
	res := a.res
	if res.StatusCode < 200 {
		return errNoFinalStatus
	}
	if res.StatusCode >= 400 {
		peeked, err := io.ReadAll(io.LimitReader(res.Body, errorPeek))
		a.peeked = peeked
		if err != nil && len(peeked) == 0 && ctx.Err() != nil {
			return err
		}
		return nil
	}
	if !isEventStream(res.Header) {
		return nil
	}
	a.stream = true
	first, body, err := firstEvent(ctx, res.Body, &a.scan, pingHold)
	a.peeked, res.Body = first, body
	if err == io.EOF {
		// Nothing but an error or an empty stream ends before its first event.
		if len(first) == 0 && p.target.Endpoint == anthropic.Messages {
			return io.ErrUnexpectedEOF
		}
		return nil
	}
	return err
}

// isEventStream reports whether the answer is a stream of events that can be
// read as it passes. Encoded ones pass unread.
func isEventStream(h http.Header) bool {
	if encoding := h.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		return false
	}
	const plain = "text/event-stream"
	media := h.Get("Content-Type")
	if len(media) < len(plain) || !strings.EqualFold(media[:len(plain)], plain) {
		return false
	}
	rest := strings.TrimLeft(media[len(plain):], " \t")
	return rest == "" || rest[0] == ';'
}

func (p *pass) judge(a *answer) anthropic.Verdict {
	in := anthropic.Answer{
		Endpoint: p.target.Endpoint, Kind: a.ticket.Kind, Model: p.want.Model, Family: p.want.Family,
		Status: a.res.StatusCode, Header: a.res.Header, Now: p.now(),
	}
	switch {
	case a.res.StatusCode >= 400:
		in.Body = a.peeked
	case a.stream:
		in.EventError = a.scan.FirstError()
	}
	v := anthropic.Judge(in)
	if v.Cause == anthropic.CauseServerError && !p.target.Repeatable() {
		// It may have done what it was asked before it failed.
		v.Action = anthropic.Pass
	}
	return v
}

// judgeFailure judges a try without an answer.
func judgeFailure(ctx context.Context, err error, written bool) anthropic.Verdict {
	switch {
	case errors.Is(context.Cause(ctx), errNoAnswer):
		err = context.DeadlineExceeded
	case ctx.Err() != nil:
		err = context.Canceled
	}
	return anthropic.JudgeNetwork(err, written)
}

// note adds the try to what the request's row and its errors tell.
func (p *pass) note(a *answer, took time.Duration) {
	status := 0
	if a.res != nil {
		status = a.res.StatusCode
	}
	r := p.result(a.ticket)
	r.tries++
	r.status, r.cause, r.message = status, a.verdict.Cause, a.verdict.Message
	r.passable = a.verdict.Action == anthropic.NextOrPass
	p.attempts = append(p.attempts, api.Attempt{
		Account: a.ticket.Name, Status: status, Cause: string(a.verdict.Cause), MS: took.Milliseconds(),
	})
	metricTry(a.ticket.Name, a.verdict.Cause)
}

// discard ends an answer that nobody gets. A short rest is read, so that the
// connection can be used again.
func (a *answer) discard() {
	if a.res != nil {
		if len(a.peeked) < drainBytes {
			_, _ = io.CopyN(io.Discard, a.res.Body, drainBytes)
		}
		_ = a.res.Body.Close()
	}
	a.cancel(nil)
}

// firstEvent reads a stream until its first event that is neither a ping nor a
// comment, but no longer than hold after the first ping. It returns what it
// read and what remains; io.EOF says that the stream ended before that.
func firstEvent(ctx context.Context, body io.ReadCloser, scanner *anthropic.StreamScanner, hold time.Duration) ([]byte, io.ReadCloser, error) {
	buf := make([]byte, 0, 4<<10)
	for !scanner.SawPing() {
		var err error
		buf, err = readMore(body, buf, scanner)
		if scanner.Started() || len(buf) >= eventPeek {
			return buf, endedBody(body, err), nil
		}
		if err != nil {
			return buf, body, err
		}
	}

	// It pings: from here on a read must not keep the client waiting.
	ahead := &readAhead{body: body, chunks: make(chan chunk, 1), stop: make(chan struct{})}
	go ahead.run()
	timer := time.NewTimer(hold)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			_ = ahead.Close()
			return buf, ahead, ctx.Err()
		case <-timer.C:
			return buf, ahead, nil
		case c := <-ahead.chunks:
			scanner.Feed(c.data)
			buf = append(buf, c.data...)
			ahead.err = c.err
			if scanner.Started() || len(buf) >= eventPeek {
				return buf, ahead, nil
			}
			if c.err != nil {
				return buf, ahead, c.err
			}
		}
	}
}

// endedBody is a body whose end came together with its last bytes.
func endedBody(body io.ReadCloser, err error) io.ReadCloser {
	if err == nil {
		return body
	}
	return &readAhead{body: body, err: err, stop: make(chan struct{})}
}

func readMore(body io.Reader, buf []byte, scanner *anthropic.StreamScanner) ([]byte, error) {
	if len(buf) == cap(buf) {
		buf = append(buf, 0)[:len(buf)]
	}
	n, err := body.Read(buf[len(buf):cap(buf)])
	scanner.Feed(buf[len(buf) : len(buf)+n])
	return buf[:len(buf)+n], err
}

// readAhead reads a body in a goroutine of its own, a chunk at a time, so that
// its reader can stop waiting without losing bytes.
type readAhead struct {
	body   io.ReadCloser
	chunks chan chunk
	stop   chan struct{}
	closed atomic.Bool
	rest   []byte
	err    error
}

type chunk struct {
	data []byte
	err  error
}

func (a *readAhead) run() {
	for {
		buf := make([]byte, 2<<10)
		n, err := a.body.Read(buf)
		select {
		case a.chunks <- chunk{buf[:n], err}:
		case <-a.stop:
			return
		}
		if err != nil {
			return
		}
	}
}

func (a *readAhead) Read(p []byte) (int, error) {
	if len(a.rest) == 0 {
		if a.err != nil {
			return 0, a.err
		}
		c := <-a.chunks
		a.rest, a.err = c.data, c.err
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	if n == 0 {
		return 0, a.err
	}
	return n, nil
}

func (a *readAhead) Close() error {
	if a.closed.CompareAndSwap(false, true) {
		close(a.stop)
	}
	return a.body.Close()
}

// body takes the answer's body, from its beginning, to read it in one piece.
func (a *answer) body() io.Reader {
	peeked := a.peeked
	a.peeked, a.stream = nil, false
	return io.MultiReader(bytes.NewReader(peeked), a.res.Body)
}
