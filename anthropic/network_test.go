package anthropic

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"syscall"
	"testing"
)

// dialError wraps without unwrapping, as Caddy's transport does.
type dialError struct{ error }

type timeoutError struct{}

func (timeoutError) Error() string   { return "net/http: timeout awaiting response headers" }
func (timeoutError) Timeout() bool   { return true }
func (timeoutError) Temporary() bool { return true }

func TestEachWayToGetNoAnswer(t *testing.T) {
	t.Parallel()
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	reset := &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}
	const written, unsent = true, false
	cases := []struct {
		name        string
		err         error
		written     bool
		cause       Cause
		action      Action
		failure     bool
		unprocessed bool
	}{
		{"dial refused", refused, unsent, CauseDial, Next, true, true},
		{"dial refused, wrapped", fmt.Errorf("round trip: %w", refused), unsent, CauseDial, Next, true, true},
		{"dial refused, wrapped by Caddy", dialError{refused}, unsent, CauseDial, Next, true, true},
		{"dial refused, of a proxy", &net.OpError{Op: "proxyconnect", Err: reset}, unsent, CauseDial, Next, true, true},
		{"dial timeout", &net.OpError{Op: "dial", Err: timeoutError{}}, unsent, CauseDial, Next, true, true},
		{"name not found", &net.DNSError{Err: "no such host", Name: "x"}, unsent, CauseDial, Next, true, true},
		{"certificate", &tls.CertificateVerificationError{Err: errors.New("expired")}, unsent, CauseTLS, Next, true, true},
		{"no TLS there", tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}, unsent, CauseTLS, Next, true, true},
		{"TLS alert", &net.OpError{Op: "remote error", Err: tls.AlertError(40)}, unsent, CauseTLS, Next, true, true},
		{"TLS handshake timeout", errors.New("net/http: TLS handshake timeout"), unsent, CauseTLS, Next, true, true},
		{"TLS alert after the request", &net.OpError{Op: "remote error", Err: tls.AlertError(20)}, written, CauseReset, Next, true, false},
		{"reset, unsent", reset, unsent, CauseReset, Next, true, true},
		{"reset, written", reset, written, CauseReset, Next, true, false},
		{"EOF", io.EOF, written, CauseReset, Next, true, false},
		{"unexpected EOF", &url.Error{Op: "Post", Err: io.ErrUnexpectedEOF}, written, CauseReset, Next, true, false},
		{"GOAWAY, unprocessed", errors.New("http2: Transport received Server's graceful shutdown GOAWAY"), written, CauseReset, Next, true, true},
		{"GOAWAY, unprocessed but not replayable", errors.New("http2: Transport: cannot retry err [http2: Transport received Server's graceful shutdown GOAWAY] after Request.Body was written; define Request.GetBody to avoid this error"), written, CauseReset, Next, true, true},
		{"GOAWAY, perhaps processed", errors.New(`http2: server sent GOAWAY and closed the connection; LastStreamID=1, ErrCode=NO_ERROR, debug=""`), written, CauseReset, Next, true, false},
		{"stream refused", errors.New("stream error: stream ID 3; REFUSED_STREAM; received from peer"), written, CauseReset, Next, true, true},
		{"stream error", errors.New("stream error: stream ID 3; INTERNAL_ERROR; received from peer"), written, CauseReset, Next, true, false},
		{"timeout, unsent", context.DeadlineExceeded, unsent, CauseTimeout, Next, true, true},
		{"timeout, written", context.DeadlineExceeded, written, CauseTimeout, Stop, true, false},
		{"header timeout, written", timeoutError{}, written, CauseTimeout, Stop, true, false},
		{"read deadline, written", os.ErrDeadlineExceeded, written, CauseTimeout, Stop, true, false},
		{"client gone", context.Canceled, written, CauseClientGone, Stop, false, false},
		{"client gone while dialling", &net.OpError{Op: "dial", Err: context.Canceled}, unsent, CauseClientGone, Stop, false, true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			v := JudgeNetwork(c.err, c.written)
			if v.Cause != c.cause || v.Action != c.action || v.Failure != c.failure || v.Unprocessed != c.unprocessed {
				t.Errorf("got %s, %d, failure %v, unprocessed %v", v.Cause, v.Action, v.Failure, v.Unprocessed)
			}
			if v.Scope != ScopeNone || v.Message == "" {
				t.Errorf("scope %d, message %q", v.Scope, v.Message)
			}
		})
	}
}

func TestRealFailuresAreRecognized(t *testing.T) {
	t.Parallel()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	failure := func(url string) error {
		req, err := http.NewRequest(http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := transport.RoundTrip(req)
		if err == nil {
			_ = res.Body.Close()
			t.Fatalf("%s answered", url)
		}
		return err
	}

	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	if v := JudgeNetwork(failure("http://"+closed.Addr().String()), false); v.Cause != CauseDial {
		t.Errorf("closed port: %s, %s", v.Cause, v.Message)
	}

	untrusted := httptest.NewUnstartedServer(http.NotFoundHandler())
	untrusted.Config.ErrorLog = log.New(io.Discard, "", 0) // it complains of our refusal
	untrusted.StartTLS()
	t.Cleanup(untrusted.Close)
	if v := JudgeNetwork(failure(untrusted.URL), false); v.Cause != CauseTLS {
		t.Errorf("untrusted certificate: %s, %s", v.Cause, v.Message)
	}

	hangup := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	t.Cleanup(hangup.Close)
	if v := JudgeNetwork(failure(hangup.URL), true); v.Cause != CauseReset || v.Unprocessed {
		t.Errorf("hung up: %s, %s", v.Cause, v.Message)
	}
}
