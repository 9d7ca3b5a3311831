package signin

// What becomes of the clients' telemetry.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// IsTelemetry reports whether clients send OpenTelemetry data (OTLP over HTTP)
// to path.
func IsTelemetry(path string) bool {
	switch path {
	case "/v1/metrics", "/v1/logs", "/v1/traces":
		return true
	}
	return false
}

// Bounds of the telemetry that is on its way. What comes beyond them is
// dropped: no client waits for a collector.
const (
	telemetryBody    = 4 << 20
	telemetrySending = 64 // at a time
	telemetryBytes   = 32 << 20
	telemetryTimeout = 10 * time.Second
)

// Telemetry takes the clients' telemetry and drops or forwards it. It is safe
// for concurrent use.
type Telemetry struct {
	collector *url.URL // nil = drop
	transport http.RoundTripper
	logger    *zap.Logger

	sending atomic.Int64
	bytes   atomic.Int64
	warned  atomic.Int64 // when the last failure was logged, in seconds since the epoch
}

// NewTelemetry returns one that forwards to the OTLP endpoint collector, to
// whose path /v1/metrics and so on are added; "" drops everything.
func NewTelemetry(collector string, transport http.RoundTripper, logger *zap.Logger) (*Telemetry, error) {
	t := &Telemetry{transport: transport, logger: logger}
	if collector == "" {
		return t, nil
	}
	u, err := url.Parse(collector)
	if err != nil {
		return nil, fmt.Errorf("telemetry: %w", err)
	}
	if u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("telemetry is forwarded to %q, but that must be an http or https URL without a query", collector)
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	t.collector = u
	return t, nil
}

// ServeHTTP takes telemetry from a client that was let in. It answers 200
// whatever becomes of it: clients log an error at every flush otherwise.
func (t *Telemetry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if t.collector != nil {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, telemetryBody))
		if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
			http.Error(w, "too much telemetry at once", http.StatusRequestEntityTooLarge)
			return
		}
		if err != nil {
			http.Error(w, "the telemetry could not be read to its end", http.StatusBadRequest)
			return
		}
		t.forward(r, body)
	}
	// An answer of OTLP that reports nothing: no bytes in protobuf.
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, "{}")
		return
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
	w.WriteHeader(http.StatusOK)
}

// forward sends body on in the background if there is room.
func (t *Telemetry) forward(r *http.Request, body []byte) {
	size := int64(len(body))
	leave := func() {
		t.sending.Add(-1)
		t.bytes.Add(-size)
	}
	if n, b := t.sending.Add(1), t.bytes.Add(size); n > telemetrySending || b > telemetryBytes {
		leave()
		t.warn("telemetry was dropped: the collector is slower than the clients", nil)
		return
	}
	out := &http.Request{
		Method: http.MethodPost, URL: t.collector.JoinPath(r.URL.Path), Host: t.collector.Host,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: make(http.Header), Body: io.NopCloser(bytes.NewReader(body)), ContentLength: size,
	}
	// Nothing else of the client's: the collector must not get its credential.
	for _, name := range [...]string{"Content-Type", "Content-Encoding", "User-Agent"} {
		if values := r.Header.Values(name); len(values) > 0 {
			out.Header[name] = values
		}
	}
	go func() {
		defer leave()
		t.send(out)
	}()
}

func (t *Telemetry) send(out *http.Request) {
	ctx, cancel := context.WithTimeout(context.Background(), telemetryTimeout)
	defer cancel()
	res, err := t.transport.RoundTrip(out.WithContext(ctx))
	if err == nil {
		if res.StatusCode >= 300 {
			err = fmt.Errorf("the collector answered %s", res.Status)
		}
		_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10)) // so that its connection can be used again
		_ = res.Body.Close()
	}
	if err != nil {
		t.warn("forwarding telemetry", err)
	}
}

// warn logs at most once a minute.
func (t *Telemetry) warn(message string, err error) {
	now, last := time.Now().Unix(), t.warned.Load()
	if now-last < 60 || !t.warned.CompareAndSwap(last, now) {
		return
	}
	t.logger.Warn(message, zap.String("collector", t.collector.Redacted()), zap.Error(err))
}
