package access

// Who counts as a client on this machine.

import (
	"net/http"
	"net/netip"
	"strings"
)

// Peer is where a request came from, as the server knows it.
type Peer struct {
	Remote netip.Addr // the TCP or QUIC peer; invalid = unknown
	Client netip.Addr // the client address the server holds after its trusted proxies; invalid = unknown
	Unix   bool       // it came over a Unix socket
}

// crossOrigin has no trusted origins: a page of another origin never acts as a
// local client. Safe methods pass it; that a page cannot read their answers
// through a name of its own (DNS rebinding) is what the Host rule is for.
var crossOrigin = http.NewCrossOriginProtection()

// Local reports whether r comes from a client on this machine; if not, reason
// says why not, in words for a log. It does not see a proxy or tunnel on the
// same machine that adds no header.
func Local(r *http.Request, p Peer) (ok bool, reason string) {
	switch {
	case p.Unix:
		return false, "it came over a Unix socket"
	case !p.Remote.IsLoopback():
		return false, "its peer is not loopback"
	case !p.Client.IsLoopback():
		return false, "its client address is not loopback"
	case !LoopbackHost(r.Host):
		return false, "its Host is neither localhost nor a loopback address"
	}
	if name, ok := proxyHeader(r.Header); ok {
		return false, "it was proxied: it has the header " + name
	}
	if err := crossOrigin.Check(r); err != nil {
		return false, err.Error()
	}
	return true, ""
}

// proxyHeader finds a header that only proxies set. Its mere presence counts,
// whatever the value.
func proxyHeader(h http.Header) (name string, found bool) {
	for name := range h {
		if isProxyHeader(name) {
			return name, true
		}
	}
	return "", false
}

const forwardedPrefix = "X-Forwarded-"

// isProxyHeader ignores case itself, since not every way into a Header
// canonicalizes its keys.
func isProxyHeader(name string) bool {
	for _, n := range [...]string{"Forwarded", "X-Real-Ip", "Via", "Cf-Connecting-Ip", "True-Client-Ip"} {
		if strings.EqualFold(name, n) {
			return true
		}
	}
	return len(name) >= len(forwardedPrefix) && strings.EqualFold(name[:len(forwardedPrefix)], forwardedPrefix)
}

// LoopbackHost reports whether a Host header names this machine: localhost,
// *.localhost or a loopback literal, with or without a port. Only the proper
// forms do. What a resolver might also lead here ("localhost.", "127.1", a
// public name for 127.0.0.1) does not.
func LoopbackHost(host string) bool {
	if bracketed, ok := strings.CutPrefix(host, "["); ok {
		literal, port, ok := strings.Cut(bracketed, "]")
		if !ok || port != "" && !isPort(port) {
			return false
		}
		addr, err := netip.ParseAddr(literal)
		return err == nil && addr.Is6() && addr.Zone() == "" && addr.IsLoopback()
	}
	name := host
	if i := strings.IndexByte(host, ':'); i >= 0 {
		if !isPort(host[i:]) {
			return false
		}
		name = host[:i]
	}
	if addr, err := netip.ParseAddr(name); err == nil {
		return addr.IsLoopback()
	}
	return localhostName(name)
}

// isPort reports whether s is a colon and a port number.
func isPort(s string) bool {
	if len(s) < 2 || len(s) > 6 || s[0] != ':' {
		return false
	}
	for _, c := range []byte(s[1:]) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// localhostName reports whether name is localhost or ends in .localhost (RFC
// 6761). Labels are ASCII: EqualFold alone would take "localhoſt" for it.
func localhostName(name string) bool {
	if len(name) > 253 {
		return false
	}
	label := 0
	for _, c := range []byte(name) {
		switch {
		case c == '.':
			if label == 0 {
				return false
			}
			label = 0
		case isAlphanumeric(c), c == '-', c == '_':
			label++
		default:
			return false
		}
	}
	const last = "localhost"
	if len(name) == len(last) {
		return strings.EqualFold(name, last)
	}
	return len(name) > len(last)+1 && strings.EqualFold(name[len(name)-len(last)-1:], "."+last)
}

func isAlphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}
