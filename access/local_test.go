package access_test

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/claude-balancer/claude-balancer/access"
)

var loopback = peer("127.0.0.1")

func peer(addr string) access.Peer {
	a := netip.MustParseAddr(addr)
	return access.Peer{Remote: a, Client: a}
}

// localRequest is one that counts as local from a loopback peer.
func localRequest(method string, header ...string) *http.Request {
	r := httptest.NewRequest(method, "/v1/messages", strings.NewReader("{}"))
	r.Host = "localhost:8080"
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return r
}

func TestOnlyALoopbackPeerIsLocal(t *testing.T) {
	t.Parallel()
	far := netip.MustParseAddr("203.0.113.7")
	near := netip.MustParseAddr("127.0.0.1")
	for name, tc := range map[string]struct {
		peer access.Peer
		want bool
	}{
		"IPv4":                     {peer("127.0.0.1"), true},
		"the rest of 127/8":        {peer("127.8.9.10"), true},
		"IPv6":                     {peer("::1"), true},
		"IPv4 mapped into IPv6":    {peer("::ffff:127.0.0.1"), true},
		"peer v4, client v6":       {access.Peer{Remote: near, Client: netip.MustParseAddr("::1")}, true},
		"a public address":         {peer("203.0.113.7"), false},
		"a private address":        {peer("10.0.0.1"), false},
		"link-local":               {peer("fe80::1%eth0"), false},
		"a mapped public address":  {peer("::ffff:203.0.113.7"), false},
		"unspecified":              {peer("0.0.0.0"), false},
		"a client behind a proxy":  {access.Peer{Remote: near, Client: far}, false},
		"a far peer's say-so":      {access.Peer{Remote: far, Client: near}, false},
		"peer unknown":             {access.Peer{Client: near}, false},
		"client unknown":           {access.Peer{Remote: near}, false},
		"nothing known":            {access.Peer{}, false},
		"Unix socket":              {access.Peer{Unix: true}, false},
		"Unix socket with address": {access.Peer{Remote: near, Client: near, Unix: true}, false},
	} {
		ok, reason := access.Local(localRequest("POST"), tc.peer)
		if ok != tc.want || ok != (reason == "") {
			t.Errorf("%s: local = %v (%q), want %v", name, ok, reason, tc.want)
		}
	}
}

func TestOnlyALoopbackHostIsLocal(t *testing.T) {
	t.Parallel()
	good := []string{
		"localhost", "LocalHost", "localhost:8080", "localhost:1", "claude.localhost", "a.b.LOCALHOST:443", "my_app.localhost",
		"xn--bcher-kva.localhost", "localhost.localhost",
		"127.0.0.1", "127.0.0.1:65535", "127.255.1.2", "[::1]", "[::1]:8443", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]:80", "[::FFFF:7f00:1]",
	}
	bad := []string{
		"", ":", ":80", "localhost:", "localhost:http", "localhost:080808", "localhost:8080:1", "localhost:+80", "localhost:80 ",
		"localhost.", "127.0.0.1.", "claude.localhost.", "localhost..", ".localhost", "..localhost", "a..localhost",
		"evil.example", "localhost.evil.example", "evil-localhost", "xlocalhost", "localhost.local", "127.0.0.1.nip.io", "localtest.me",
		"localhoſt", "ｌocalhost", "bücher.localhost", "localhost\u0000", " localhost", "local host", "a/b.localhost", "user@localhost", "evil.example#.localhost", "evil.example\\.localhost",
		"127.1", "127", "2130706433", "0177.0.0.1", "0x7f.0.0.1", "127.0.0.01", "127.000.000.001", "128.0.0.1", "0.0.0.0", "10.0.0.1",
		"::1", "::1:80", "[::1", "::1]", "[::1]x", "[::1]:", "[::1%25lo]", "[::1%lo]", "[::2]", "[127.0.0.1]", "[localhost]", "[]", "[::ffff:10.0.0.1]",
		strings.Repeat("a.", 130) + "localhost",
	}
	check := func(hosts []string, want bool) {
		for _, host := range hosts {
			r := localRequest("GET")
			r.Host = host
			if ok, reason := access.Local(r, loopback); ok != want {
				t.Errorf("Host %q: local = %v (%q), want %v", host, ok, reason, want)
			}
		}
	}
	check(good, true)
	check(bad, false)
}

func TestAProxiedRequestIsNotLocal(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-", "X-Forwarded-Something-New",
		"X-Real-IP", "Via", "CF-Connecting-IP", "True-Client-IP",
	} {
		for _, form := range []string{http.CanonicalHeaderKey(name), strings.ToLower(name), strings.ToUpper(name)} {
			for _, values := range [][]string{{"127.0.0.1"}, {""}, {}} {
				r := localRequest("GET")
				r.Header[form] = values
				if ok, reason := access.Local(r, loopback); ok || !strings.Contains(reason, form) {
					t.Errorf("%s: %q: local = %v (%q)", form, values, ok, reason)
				}
			}
		}
	}
	r := localRequest("GET", "X-Forwarded", "1", "Vias", "1", "X-Real", "1", "Accept", "*/*", "Authorization", "Bearer x")
	if ok, reason := access.Local(r, loopback); !ok {
		t.Errorf("headers that only resemble a proxy's: %s", reason)
	}
}

func TestAPageOfAnotherOriginIsNotLocal(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		r    *http.Request
		want bool
	}{
		"no browser":                    {localRequest("POST"), true},
		"the dashboard itself":          {localRequest("POST", "Sec-Fetch-Site", "same-origin", "Origin", "http://localhost:8080"), true},
		"typed into the address bar":    {localRequest("POST", "Sec-Fetch-Site", "none"), true},
		"a form of another site":        {localRequest("POST", "Sec-Fetch-Site", "cross-site", "Content-Type", "text/plain"), false},
		"another port of this machine":  {localRequest("POST", "Sec-Fetch-Site", "same-site", "Origin", "http://localhost:3000"), false},
		"an old browser, another site":  {localRequest("POST", "Origin", "https://evil.example", "Content-Type", "text/plain"), false},
		"an old browser, another port":  {localRequest("POST", "Origin", "http://localhost:3000"), false},
		"an old browser, same origin":   {localRequest("POST", "Origin", "http://localhost:8080"), true},
		"a sandboxed frame":             {localRequest("POST", "Origin", "null"), false},
		"a page that deletes":           {localRequest("DELETE", "Sec-Fetch-Site", "cross-site"), false},
		"a link, whose answer is blind": {localRequest("GET", "Sec-Fetch-Site", "cross-site"), true},
	} {
		if ok, reason := access.Local(tc.r, loopback); ok != tc.want {
			t.Errorf("%s: local = %v (%q), want %v", name, ok, reason, tc.want)
		}
	}

	rebound := localRequest("POST", "Origin", "http://evil.example:8080", "Sec-Fetch-Site", "same-origin")
	rebound.Host = "evil.example:8080"
	if ok, _ := access.Local(rebound, loopback); ok {
		t.Error("a name that was rebound to loopback counts as local")
	}
}

func TestTheProtocolMakesNoDifferenceToLocality(t *testing.T) {
	t.Parallel()
	for _, proto := range []string{"HTTP/1.0", "HTTP/1.1", "HTTP/2.0", "HTTP/3.0"} {
		r := localRequest("POST")
		r.Proto = proto
		r.ProtoMajor, r.ProtoMinor, _ = http.ParseHTTPVersion(proto)
		if ok, reason := access.Local(r, peer("::1")); !ok {
			t.Errorf("%s: %s", proto, reason)
		}
	}
}

func FuzzHostRule(f *testing.F) {
	for _, host := range []string{"localhost", "a.localhost:1", "127.0.0.1:80", "[::1]:443", "127.1", "localhost.", "[::1%25lo]"} {
		f.Add(host)
	}
	f.Fuzz(func(t *testing.T, host string) {
		r := localRequest("GET")
		r.Host = host
		if ok, _ := access.Local(r, loopback); !ok {
			return
		}
		// Who is let in is this machine for every other reader, too.
		u, err := r.URL.Parse("http://" + host + "/")
		if err != nil {
			t.Fatalf("Host %q is local, but no URL can hold it: %v", host, err)
		}
		name := strings.ToLower(u.Hostname())
		addr, err := netip.ParseAddr(name)
		isAddr := err == nil && addr.IsLoopback()
		if !isAddr && name != "localhost" && !strings.HasSuffix(name, ".localhost") {
			t.Fatalf("Host %q is local, but URLs read it as %q", host, name)
		}
		if u.User != nil || u.Path != "/" || u.RawQuery != "" || u.Fragment != "" {
			t.Fatalf("Host %q is local, but URLs read more than a host from it", host)
		}
	})
}
