package simulator

// Behaviours that go wrong on the way: connections, streams, time.

import (
	"bytes"
	"io"
	"maps"
	"net"
	"net/http"
	"time"
)

// AddHeader adds headers to the answer that the exchange will get; they replace
// the answer's own.
func (x *Exchange) AddHeader(h http.Header) {
	for name, values := range h {
		x.header[http.CanonicalHeaderKey(name)] = values
	}
}

// FirstEventError begins a stream with an error event of that type. Like the
// other stream faults it changes only answers that are streamed, if it does not
// say otherwise.
func FirstEventError(kind string) Behaviour { return LateEventError(kind, 0) }

// LateEventError sends an error event after some events and ends the stream.
func LateEventError(kind string, afterEvents int) Behaviour {
	return broken(fault{kind: faultError, error: kind, after: afterEvents})
}

// CutStream breaks the connection after some events; an answer that is not
// streamed is cut in its middle.
func CutStream(afterEvents int) Behaviour {
	return broken(fault{kind: faultCut, after: afterEvents})
}

// EndWithoutStop ends a stream cleanly after some events, without message_stop;
// an answer that is not streamed is cut in its middle.
func EndWithoutStop(afterEvents int) Behaviour {
	return broken(fault{kind: faultEnd, after: afterEvents})
}

// SilentStart sends a stream's headers and then nothing for d, 0 for ever.
func SilentStart(d time.Duration) Behaviour { return broken(fault{silentStart: orForever(d)}) }

// SilentStream sends two events of a stream and then nothing for d, 0 for ever.
func SilentStream(d time.Duration) Behaviour { return broken(fault{silent: orForever(d)}) }

// PingsBeforeFirstEvent begins a stream with n pings and waits after each.
func PingsBeforeFirstEvent(n int, gap time.Duration) Behaviour {
	return broken(fault{pings: n, gap: gap})
}

func broken(f fault) Behaviour {
	return func(x *Exchange) {
		x.fault = f
		x.Next()
	}
}

func orForever(d time.Duration) time.Duration {
	if d == 0 {
		return forever
	}
	return d
}

// ResetBeforeHeaders resets the connection without reading the body.
func ResetBeforeHeaders(x *Exchange) { x.reset() }

// ResetAfterRead reads the whole request and resets the connection.
func ResetAfterRead(x *Exchange) {
	_, _ = x.ReadBody() // the reset comes either way
	x.reset()
}

// Hang reads the request and answers nothing until the client goes away.
func Hang(x *Exchange) {
	_, _ = x.ReadBody() // the server notices a client's leaving only after that
	x.wait(forever)
}

// AnswerBeforeReading answers at once with a status and its usual error, without
// reading the request body. The connection is closed then, or with keepOpen left
// alone, unread, until the client or the Server closes it (HTTP/1.1; an HTTP/2
// stream always ends).
func AnswerBeforeReading(status int, keepOpen bool) Behaviour {
	return func(x *Exchange) {
		body := errorFor(status).envelope(x.requestID)
		conn, ok := x.hijack()
		if !ok {
			x.read = true
			x.cut = false
			x.send(status, "application/json", body)
			return
		}
		answer := &http.Response{
			StatusCode: status, ProtoMajor: 1, ProtoMinor: 1, Close: !keepOpen, ContentLength: int64(len(body)),
			Header: http.Header{"Content-Type": {"application/json"}, "Request-Id": {x.requestID}},
			Body:   io.NopCloser(bytes.NewReader(body)),
		}
		maps.Copy(answer.Header, x.header)
		if err := answer.Write(conn); err != nil || !keepOpen {
			closeGently(conn)
			return
		}
		x.sim.keep(conn)
	}
}

// closeGently closes a connection whose peer may still be sending: a plain close
// would reset it and could lose the answer on its way.
func closeGently(conn net.Conn) {
	if c, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite()
		_ = conn.SetReadDeadline(time.Now().Add(time.Second))
		_, _ = io.Copy(io.Discard, conn)
	}
	_ = conn.Close()
}

// SlowBody sends each part of the answer in eight pieces and waits after each
// piece, so that events and JSON arrive in fragments.
func SlowBody(gap time.Duration) Behaviour {
	return func(x *Exchange) {
		x.Writer = &slowWriter{ResponseWriter: x.Writer, exchange: x, gap: gap}
		x.Next()
	}
}

type slowWriter struct {
	http.ResponseWriter
	exchange *Exchange
	gap      time.Duration
}

func (w *slowWriter) Write(b []byte) (int, error) {
	size := max(len(b)/8, 1)
	written := 0
	for written < len(b) {
		n, err := w.ResponseWriter.Write(b[written:min(written+size, len(b))])
		written += n
		if err != nil {
			return written, err
		}
		w.exchange.flush()
		if !w.exchange.wait(w.gap) {
			return written, w.exchange.Request.Context().Err()
		}
	}
	return written, nil
}

// Unwrap is what http.ResponseController looks for.
func (w *slowWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// BeforeAnswer does everything that the request asks for, calls hook, and only
// then answers: a place to crash a client between a rotation and its answer.
func BeforeAnswer(hook func()) Behaviour {
	return func(x *Exchange) {
		out := x.Writer
		held := &heldAnswer{header: make(http.Header), status: http.StatusOK}
		x.Writer = held
		x.Next()
		hook()
		x.Writer = out
		maps.Copy(out.Header(), held.header)
		out.WriteHeader(held.status)
		x.writeLast(held.body.Bytes())
	}
}

// DropAnswer does everything that the request asks for and resets the connection
// instead of answering. A refresh has rotated the tokens then.
func DropAnswer(x *Exchange) {
	x.Writer = &heldAnswer{header: make(http.Header)}
	x.Next()
	x.reset()
}

// heldAnswer keeps an answer back.
type heldAnswer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (h *heldAnswer) Header() http.Header         { return h.header }
func (h *heldAnswer) WriteHeader(status int)      { h.status = status }
func (h *heldAnswer) Write(b []byte) (int, error) { return h.body.Write(b) }
