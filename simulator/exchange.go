package simulator

// One request on its way to an answer.

import (
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// An Exchange is a request that is being answered. A Behaviour gets it.
type Exchange struct {
	Request *http.Request
	Writer  http.ResponseWriter
	Account string // whose credential was sent, "" if nobody's

	sim       *Simulator
	account   *account
	requestID string
	id        string // the resource in the path
	raw       http.ResponseWriter
	gzip      *gzipWriter
	record    *record
	header    http.Header // scripted headers: they win over the answer's own
	fault     fault       // of a stream
	cut       bool        // the connection was ended on purpose
	complete  bool        // the last byte was handed over while the client was there

	body    []byte
	bodyErr error
	read    bool
}

// How much of a body the service takes, in bytes.
const (
	maxMessageBody = 32 << 20
	maxBatchBody   = 256 << 20
	maxFileBody    = 500 << 20
)

var errTooLarge = errors.New("request body too large")

func (s *Simulator) newExchange(w http.ResponseWriter, r *http.Request) *Exchange {
	x := &Exchange{Request: r, Writer: w, raw: w, sim: s, requestID: s.newID("req_"), header: make(http.Header)}
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") && s.fast == nil {
		x.gzip = &gzipWriter{ResponseWriter: w}
		x.Writer = x.gzip
	}
	s.stats.inFlight.Add(1)
	if isOAuth(r.URL.Path) {
		x.account = s.tokenOwner(x)
	} else {
		x.account = s.caller(r)
	}
	if x.account != nil {
		x.Account = x.account.Name
		if !isOAuth(r.URL.Path) {
			x.account.requests.Add(1)
		}
	}
	if s.fast == nil {
		x.record = s.journal.open(x, s.now())
		x.record.setBody(x.body)
		s.changed.fire()
	}
	return x
}

// finish completes an answer that was not cut.
func (x *Exchange) finish() {
	if x.gzip != nil && !x.cut {
		x.gzip.close()
	}
}

// end books the exchange as over, however it ended.
func (x *Exchange) end() {
	if !x.complete && !x.cut && x.gone() {
		x.sim.stats.cancelled.Add(1)
	}
	x.sim.stats.inFlight.Add(-1)
	x.sim.changed.fire()
}

// ReadBody returns the whole request body, reading it on the first call.
func (x *Exchange) ReadBody() ([]byte, error) {
	if x.read {
		return x.body, x.bodyErr
	}
	x.read = true
	limit := maxBody(x.Request.URL.Path)
	x.body, x.bodyErr = io.ReadAll(io.LimitReader(x.Request.Body, limit+1))
	if x.bodyErr == nil && int64(len(x.body)) > limit {
		x.bodyErr = errTooLarge
	}
	if x.record != nil {
		x.record.setBody(x.body)
	}
	return x.body, x.bodyErr
}

func maxBody(path string) int64 {
	switch {
	case strings.HasPrefix(path, "/v1/messages/batches"):
		return maxBatchBody
	case strings.HasPrefix(path, "/v1/files"), strings.HasPrefix(path, "/v1/skills"):
		return maxFileBody
	}
	return maxMessageBody
}

// decoded returns the body without its content encoding, or the answer to one
// that cannot be read.
func (x *Exchange) decoded() ([]byte, *apiError) {
	body, err := x.ReadBody()
	switch {
	case errors.Is(err, errTooLarge):
		return nil, &apiError{status: http.StatusRequestEntityTooLarge, kind: "request_too_large", message: "Request exceeds the maximum size"}
	case err != nil:
		return nil, badRequest("could not read the request body")
	}
	switch x.Request.Header.Get("Content-Encoding") {
	case "", "identity":
		return body, nil
	case "gzip":
		plain, err := gunzip(body)
		if err != nil {
			e := badRequest("The request body could not be decoded")
			e.code = "request_body_encoding_invalid"
			return nil, e
		}
		return plain, nil
	}
	e := badRequest("Unsupported content encoding")
	e.code = "request_body_encoding_unsupported"
	return nil, e
}

func gunzip(b []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(r, maxMessageBody))
}

// begin writes the status and the headers that every answer has.
func (x *Exchange) begin(status int, contentType string) {
	h := x.Writer.Header()
	h.Set("Content-Type", contentType)
	h.Set("Request-Id", x.requestID)
	if !isOAuth(x.Request.URL.Path) {
		h.Set("Cf-Ray", x.requestID[len(x.requestID)-16:]+"-SIM")
		h.Set("Set-Cookie", "__cf_bm="+x.requestID+"; path=/; HttpOnly; Secure")
		h.Set("X-Robots-Tag", "none")
		if x.account != nil {
			h.Set("Anthropic-Organization-Id", x.account.organization)
		}
	}
	maps.Copy(h, x.header)
	x.Writer.WriteHeader(status)
}

// send answers with a whole body. A scripted cut ends it in the middle.
func (x *Exchange) send(status int, contentType string, body []byte) {
	if _, err := x.ReadBody(); err != nil && !errors.Is(err, errTooLarge) {
		return
	}
	if x.gzip == nil {
		x.Writer.Header().Set("Content-Length", strconv.Itoa(len(body)))
	}
	x.begin(status, contentType)
	if x.fault.kind == faultCut || x.fault.kind == faultEnd {
		_, _ = x.Writer.Write(body[:len(body)/2])
		x.abort()
	}
	x.writeLast(body)
}

// writeLast writes the end of an answer. A client that leaves once it has all
// of it has not cancelled anything.
func (x *Exchange) writeLast(b []byte) {
	x.complete = !x.gone()
	if _, err := x.Writer.Write(b); err != nil {
		x.complete = false
	}
}

// gone reports whether the client went away.
func (x *Exchange) gone() bool { return x.Request.Context().Err() != nil }

// json answers with v as JSON.
func (x *Exchange) json(status int, v any) {
	x.send(status, "application/json", mustMarshal(v))
}

// flush sends what was written so far to the client.
func (x *Exchange) flush() { _ = http.NewResponseController(x.Writer).Flush() }

// wait lets d pass. It reports false if the client went away meanwhile.
func (x *Exchange) wait(d time.Duration) bool {
	if d <= 0 {
		return !x.gone()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-x.Request.Context().Done():
		return false
	}
}

// abort ends the connection, on HTTP/2 the stream, after what was written.
func (x *Exchange) abort() {
	x.flush()
	x.cut = true
	panic(http.ErrAbortHandler)
}

// reset resets the TCP connection, on HTTP/2 the stream, and loses what was not
// flushed.
func (x *Exchange) reset() {
	conn, ok := x.hijack()
	if !ok {
		panic(http.ErrAbortHandler)
	}
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	if t, ok := conn.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = conn.Close()
}

// hijack takes over the connection of an HTTP/1.1 request.
func (x *Exchange) hijack() (net.Conn, bool) {
	x.cut = true
	conn, _, err := http.NewResponseController(x.raw).Hijack()
	return conn, err == nil
}

// gzipWriter compresses an answer, event by event if it is flushed.
type gzipWriter struct {
	http.ResponseWriter
	zip *gzip.Writer
}

func (w *gzipWriter) WriteHeader(status int) {
	if status != http.StatusNoContent && status != http.StatusFound && w.zip == nil {
		w.Header().Set("Content-Encoding", "gzip")
		w.Header().Del("Content-Length")
		w.zip = gzip.NewWriter(w.ResponseWriter)
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *gzipWriter) Write(b []byte) (int, error) {
	if w.zip == nil {
		w.WriteHeader(http.StatusOK)
	}
	return w.zip.Write(b)
}

// FlushError is what http.ResponseController looks for.
func (w *gzipWriter) FlushError() error {
	if w.zip != nil {
		if err := w.zip.Flush(); err != nil {
			return err
		}
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

func (w *gzipWriter) close() {
	if w.zip != nil {
		_ = w.zip.Close()
	}
}
