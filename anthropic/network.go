package anthropic

// What it means that no answer came.

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"strings"
)

// JudgeNetwork judges a round trip that ended without an answer. written says
// that a byte of the request may have left; if not, any request may be
// repeated. After a timeout of a written request nothing is repeated: it may
// still be at work, and be billed.
//
// A cancelled context counts as a client that is gone. A caller that cancels
// for reasons of its own must look at those first.
func JudgeNetwork(err error, written bool) Verdict {
	v := Verdict{Action: Next, Failure: true, Unprocessed: !written, Message: printable(err.Error())}
	switch {
	case isDial(err):
		v.Cause, v.Unprocessed = CauseDial, true
	case errors.Is(err, context.Canceled):
		return Verdict{Cause: CauseClientGone, Action: Stop, Unprocessed: !written, Message: v.Message}
	case isHandshake(err, written):
		v.Cause, v.Unprocessed = CauseTLS, true
	case isUnprocessed(err):
		v.Cause, v.Unprocessed = CauseReset, true
	case isTimeout(err):
		v.Cause = CauseTimeout
		if written {
			v.Action = Stop
		}
	default:
		v.Cause = CauseReset
	}
	return v
}

// isDial recognizes a failed connection attempt, also by its text: Caddy's
// transport wraps it in an error that does not unwrap.
func isDial(err error) bool {
	if errors.Is(err, context.Canceled) {
		return false
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && (op.Op == "dial" || op.Op == "proxyconnect" || op.Op == "socks connect") {
		return true
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return true
	}
	return strings.HasPrefix(err.Error(), "dial ")
}

// isHandshake recognizes a failed TLS handshake. A TLS alert after the request
// was written is a broken connection, not a failed handshake.
func isHandshake(err error, written bool) bool {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return true
	}
	if strings.Contains(err.Error(), "TLS handshake timeout") {
		return true
	}
	if written {
		return false
	}
	_, alert := errors.AsType[tls.AlertError](err)
	return alert || strings.Contains(err.Error(), "tls: ")
}

// isUnprocessed recognizes HTTP/2's promises that the server has not worked on
// the request. Source: the error texts of net/http, which keeps their types to
// itself; RFC 9113, 6.8 and 8.7.
func isUnprocessed(err error) bool {
	s := err.Error()
	return strings.Contains(s, "http2: Transport received") && strings.Contains(s, "GOAWAY") ||
		strings.Contains(s, "REFUSED_STREAM")
}

func isTimeout(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return true
	}
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}
