package claudebalancer

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// from returns the rig as clients of that address reach it.
func (r *rig) from(address string) *rig {
	r.t.Helper()
	server := r.srv.Config.Handler
	other := *r
	other.srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		req.RemoteAddr = address
		server.ServeHTTP(w, req)
	}))
	r.t.Cleanup(other.srv.Close)
	return &other
}

func basicAuth(password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte("anyone:"+password))
}

func gzipped(t testing.TB, text string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// readAll returns all files below a folder as one text.
func readAll(t testing.TB, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		all.Write(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// whoReachesWhat is the table of docs/security.md. A star marks an answer that
// a browser keeps from the page that asked for it.
const whoReachesWhat = `
| Who | Proxy | Dashboard | /api | /health | Admin endpoint |
| --- | --- | --- | --- | --- | --- |
| local | 200 | 200 | 200 | 200 | 200 |
| remote without key | 401 | 401 | 401 | 200 | no connection |
| remote, client key | 200 | 401 | 401 | 200 | no connection |
| remote, viewer key | 403 | 200 | 200 | 200 | no connection |
| remote, key limited to models: one of them | 200 | 401 | 401 | 200 | no connection |
| remote, key limited to models: another model | 400 | 401 | 401 | 200 | no connection |
| remote, key limited to accounts: served by one of them | 200 | 401 | 401 | 200 | no connection |
| remote, signed in by /login | 200 | 401 | 401 | 200 | no connection |
| local browser, page of another origin | 401 | 200* | 200* | 200* | 403 |
| local browser, DNS-rebound host | 401 | 401 | 401 | 200 | 403 |
`

// Everything here shares one Caddy: it is one test, and not parallel.
func TestAccessThroughARunningCaddy(t *testing.T) {
	far := outside(t)
	s := newServer(t)
	port, trusting, behind, secure := freePort(t), freePort(t), freePort(t), freePort(t)
	socket := filepath.Join(s.dir, "site.sock")
	site := "claude_balancer {\nupstream " + s.up.URL + "\npolicy priority\nsign_in on\n}\n"
	s.load(fmt.Sprintf(`{
	admin localhost:%s
	skip_install_trust
	auto_https disable_redirects
	storage file_system %s
	log {
		output discard
	}
	servers :%s {
		trusted_proxies static 127.0.0.0/8 ::1
		client_ip_headers X-Client-Address X-Forwarded-For
	}
	claude_balancer {
		store sqlite %s
		oauth {
			token_url %s/v1/oauth/token
		}
	}
}
http://:%s {
	%s
}
http://:%s {
	%s
}
http://:%s {
	reverse_proxy 127.0.0.1:%s
}
http://:80 {
	bind unix/%s
	%s
}
https://localhost:%s {
	tls internal
	%s
}`, s.admin, filepath.Join(s.dir, "caddy"), trusting, filepath.Join(s.dir, "accounts.db"), s.up.URL,
		port, site, trusting, site, behind, port, socket, site, secure, site))
	s.add("a", "max")
	s.add("b", "max")
	s.prefer("a")
	keys := s.keys()
	claude := &gatewayClient{t: t, base: "http://127.0.0.1:" + port, do: http.DefaultTransport.RoundTrip, wait: func(time.Duration) {}}
	claude.signIn(keys.client)

	message := func(network, address string, header ...string) visit {
		return visit{network: network, address: address, method: "POST", path: "/v1/messages", body: messageBody(sonnet, false), header: header}
	}
	status := func(v visit) string {
		t.Helper()
		got, err := v.send(t)
		if err != nil {
			return err.Error()
		}
		return fmt.Sprint(got.status)
	}

	t.Run("who reaches what", func(t *testing.T) {
		near := "127.0.0.1:" + port
		type who struct {
			name, address, admin string
			proxy, site          []string // headers
			model, host          string
			page                 bool
		}
		remote := func(name, key, model string) who {
			w := who{name: name, address: far + ":" + port, admin: far + ":" + s.admin, model: model}
			if key != "" {
				w.proxy, w.site = []string{"X-Api-Key", key}, []string{"Authorization", basicAuth(key)}
			}
			return w
		}
		evil := []string{"Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "cors"}
		table := "\n| Who | Proxy | Dashboard | /api | /health | Admin endpoint |\n| --- | --- | --- | --- | --- | --- |\n"
		for _, w := range []who{
			{name: "local", address: near, admin: "localhost:" + s.admin},
			remote("remote without key", "", ""),
			remote("remote, client key", keys.client, ""),
			remote("remote, viewer key", keys.viewer, ""),
			remote("remote, key limited to models: one of them", keys.models, haiku),
			remote("remote, key limited to models: another model", keys.models, opus),
			remote("remote, key limited to accounts: served by one of them", keys.accounts, ""),
			{name: "remote, signed in by /login", address: far + ":" + port, admin: far + ":" + s.admin, proxy: claude.bearer(), site: []string{"Authorization", basicAuth(claude.tokens.Access)}},
			{name: "local browser, page of another origin", address: near, admin: "localhost:" + s.admin, proxy: append(evil, "Content-Type", "text/plain"), site: evil, page: true},
			{name: "local browser, DNS-rebound host", address: near, admin: "localhost:" + s.admin, host: "evil.example:" + port},
		} {
			if w.model == "" {
				w.model = sonnet
			}
			proxy := visit{address: w.address, host: w.host, method: "POST", path: "/v1/messages", header: w.proxy, body: messageBody(w.model, false)}
			cells := []string{w.name}
			if got, err := proxy.send(t); err != nil {
				t.Fatal(err)
			} else {
				cells = append(cells, fmt.Sprint(got.status))
				if strings.Contains(w.name, "accounts") && got.header.Get("X-Proxy-Account") != "b" {
					t.Errorf("%s: served by %q", w.name, got.header.Get("X-Proxy-Account"))
				}
			}
			for _, path := range []string{"/dashboard", "/api/accounts", "/health"} {
				got, err := visit{address: w.address, host: w.host, path: path, header: w.site}.send(t)
				if err != nil {
					t.Fatal(err)
				}
				cell := fmt.Sprint(got.status)
				if w.page {
					if got.header.Get("Access-Control-Allow-Origin") != "" {
						t.Errorf("%s may read %s", w.name, path)
					}
					cell += "*"
				}
				cells = append(cells, cell)
			}
			admin := visit{address: w.admin, host: w.host, path: "/claude_balancer/accounts", header: w.site}
			cells = append(cells, status(admin))
			table += "| " + strings.Join(cells, " | ") + " |\n"
		}
		if table != whoReachesWhat {
			t.Errorf("got%s\nwant%s", table, whoReachesWhat)
		}
	})

	t.Run("loopback of either version", func(t *testing.T) {
		for _, address := range []string{"127.0.0.1:", "127.8.9.1:", "[::1]:"} {
			if got := status(message("", address+port)); got != "200" {
				t.Errorf("%s%s: %s", address, port, got)
			}
		}
	})

	t.Run("headers that claim to be local", func(t *testing.T) {
		for _, header := range [][2]string{
			{"X-Forwarded-For", "127.0.0.1"}, {"X-Forwarded-Host", "localhost"}, {"Forwarded", "for=127.0.0.1"}, {"X-Real-IP", "127.0.0.1"},
			{"Via", "1.1 localhost"}, {"CF-Connecting-IP", "127.0.0.1"}, {"True-Client-IP", "127.0.0.1"}, {"X-Client-Address", "127.0.0.1"},
		} {
			v := message("", far+":"+port, header[0], header[1])
			v.host = "localhost:" + port
			if got := status(v); got != "401" {
				t.Errorf("from outside with %s: %s", header[0], got)
			}
			want := "401"
			if header[0] == "X-Client-Address" { // nobody's header here
				want = "200"
			}
			if got := status(message("", "127.0.0.1:"+port, header[0], header[1])); got != want {
				t.Errorf("local with %s: %s, want %s", header[0], got, want)
			}
		}
	})

	t.Run("proxies", func(t *testing.T) {
		for _, tc := range []struct {
			name, address string
			header        []string
			want          string
		}{
			{"a proxy on this machine, as Caddy is", "127.0.0.1:" + behind, nil, "401"},
			{"the same from outside", far + ":" + behind, nil, "401"},
			{"the same with a key", far + ":" + behind, []string{"X-Api-Key", keys.client}, "200"},
			{"a trusted proxy tells a client outside", "127.0.0.1:" + trusting, []string{"X-Client-Address", "203.0.113.7"}, "401"},
			{"a trusted proxy tells a local client", "127.0.0.1:" + trusting, []string{"X-Forwarded-For", "127.0.0.1"}, "401"},
			{"no proxy before a site that trusts one", "127.0.0.1:" + trusting, nil, "200"},
			{"a stranger poses as the trusted proxy", far + ":" + trusting, []string{"X-Client-Address", "127.0.0.1"}, "401"},
		} {
			if got := status(message("", tc.address, tc.header...)); got != tc.want {
				t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
			}
		}
	})

	t.Run("a Unix socket is never local", func(t *testing.T) {
		v := message("unix", socket)
		v.host = "localhost"
		if got := status(v); got != "401" {
			t.Errorf("without a key: %s", got)
		}
		v.header = []string{"X-Api-Key", keys.client}
		if got := status(v); got != "200" {
			t.Errorf("with a key: %s", got)
		}
	})

	t.Run("each version of HTTP", func(t *testing.T) {
		s.eventually("the site has its certificate", func() bool {
			conn, err := tls.Dial("tcp", "127.0.0.1:"+secure, &tls.Config{InsecureSkipVerify: true, ServerName: "localhost"})
			if err != nil {
				return false
			}
			return conn.Close() == nil
		})
		for _, network := range []string{"https", "h2", "h3"} {
			local := message(network, "127.0.0.1:"+secure)
			local.host = "localhost:" + secure
			if got := status(local); got != "200" {
				t.Errorf("%s, local: %s", network, got)
			}
			page := local
			page.header = []string{"Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site", "Content-Type", "text/plain"}
			if got := status(page); got != "401" {
				t.Errorf("%s, a page of another origin: %s", network, got)
			}
			remote := message(network, far+":"+secure)
			remote.host = "localhost:" + secure
			if got := status(remote); got != "401" {
				t.Errorf("%s, from outside: %s", network, got)
			}
			remote.header = []string{"X-Api-Key", keys.client}
			if got := status(remote); got != "200" {
				t.Errorf("%s, from outside with a key: %s", network, got)
			}
		}
	})

	t.Run("names for this machine", func(t *testing.T) {
		for host, want := range map[string]string{
			"localhost": "200", "LOCALHOST:" + port: "200", "claude.localhost": "200", "127.0.0.1": "200", "[::1]": "200",
			"localhost.": "401", "127.0.0.1.": "401", "evil.example": "401", "evil.example.": "401", "localhost.evil.example": "401", "127.0.0.1.nip.io": "401", "0.0.0.0": "401", far: "401",
		} {
			v := message("", "127.0.0.1:"+port)
			v.host = host
			if got := status(v); got != want {
				t.Errorf("Host %s: %s, want %s", host, got, want)
			}
		}
	})
}

func TestEachModeAsksForAKeyWhereItSays(t *testing.T) {
	t.Parallel()
	for mode, want := range map[string]struct{ near, far, page, nearSite, farSite int }{
		"local": {200, 401, 401, 200, 401},
		"keys":  {401, 401, 401, 401, 401},
		"open":  {200, 200, 200, 200, 200},
	} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, rigOptions{directive: []string{"access " + mode}})
			r.add("a", "max")
			keys, stranger := r.keys(), r.from("203.0.113.7:40000")
			r.message(sonnet).mustBe(t, want.near)
			stranger.message(sonnet).mustBe(t, want.far)
			r.message(sonnet, "Origin", "https://evil.example").mustBe(t, want.page)
			for _, path := range []string{"/", "/dashboard", "/dashboard/app.js", "/api/stats", "/api/accounts", "/api/requests", "/api/no-such"} {
				missing := 0
				if path == "/api/no-such" {
					missing = 204 // found to be missing only by those who may look
				}
				for _, tc := range []struct {
					from   *rig
					header []string
					want   int
				}{
					{r, nil, want.nearSite}, {stranger, nil, want.farSite},
					{stranger, []string{"Authorization", basicAuth(keys.viewer)}, 200},
					{stranger, []string{"Authorization", basicAuth(keys.client)}, 401},
					{stranger, []string{"Authorization", "Bearer " + keys.client}, want.farSite},
				} {
					if tc.want == 200 {
						tc.want += missing
					}
					got := tc.from.send("GET", path, "", tc.header...)
					if got.status != tc.want {
						t.Errorf("GET %s with %v: %d, want %d", path, tc.header != nil, got.status, tc.want)
					}
					if challenge := got.header.Get("WWW-Authenticate"); (got.status == 401) != strings.HasPrefix(challenge, "Basic ") {
						t.Errorf("GET %s: status %d with challenge %q", path, got.status, challenge)
					}
				}
			}
			for _, path := range []string{"/health", "/health/ready"} {
				stranger.send("GET", path, "").mustBe(t, 200)
			}
			stranger.send("HEAD", "/", "").mustBe(t, 200)
			stranger.send("HEAD", "/api/hello", "").mustBe(t, 200)
			stranger.send("HEAD", "/api/stats", "").mustBe(t, want.farSite)
			stranger.send("OPTIONS", "/api/stats", "").mustBe(t, 204)
			stranger.send("OPTIONS", "/v1/messages", "").mustBe(t, 204)
			if got := stranger.message(sonnet, "Authorization", basicAuth(keys.client)); got.status != want.far {
				t.Errorf("Basic on /v1: %d", got.status)
			}
			mustRefuseKey(t, r.message(sonnet, "X-Api-Key", "cb_mistyped"))
		})
	}
}

func TestTheSitesAnswersCarrySecurityHeaders(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{directive: []string{"dashboard {", "cors https://ops.example.com", "}"}})
	viewer := r.keys().viewer
	stranger := r.from("203.0.113.7:40000")
	for _, path := range []string{"/dashboard", "/dashboard/app.js", "/api/stats", "/api/accounts", "/health"} {
		h := r.send("GET", path, "").mustBe(t, 200).header
		page := strings.HasPrefix(path, "/dashboard")
		if h.Get("X-Content-Type-Options") != "nosniff" || !page && h.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %v", path, h)
		}
		if page && (!strings.Contains(h.Get("Content-Security-Policy"), "default-src 'none'") || !strings.Contains(h.Get("Content-Security-Policy"), "frame-ancestors 'none'") || h.Get("Referrer-Policy") != "no-referrer") {
			t.Errorf("%s: %v", path, h)
		}
	}
	if h := stranger.send("GET", "/api/stats", "").mustBe(t, 401).header; h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Cache-Control") != "no-store" {
		t.Errorf("a refusal: %v", h)
	}
	for origin, want := range map[string]string{"https://ops.example.com": "https://ops.example.com", "https://evil.example": "", "null": ""} {
		preflight := stranger.send("OPTIONS", "/api/stats", "", "Origin", origin, "Access-Control-Request-Method", "GET", "Access-Control-Request-Headers", "authorization").mustBe(t, 204)
		read := stranger.send("GET", "/api/stats", "", "Origin", origin, "Authorization", basicAuth(viewer)).mustBe(t, 200)
		for _, h := range []http.Header{preflight.header, read.header} {
			if got := h.Get("Access-Control-Allow-Origin"); got != want || h.Get("Access-Control-Allow-Credentials") != "" {
				t.Errorf("origin %s: allowed %q", origin, got)
			}
		}
	}
}

// pathTricks are request targets that mean one path to one reader and another
// to the next.
var pathTricks = []string{
	"/v1/../api/accounts", "/v1/./messages", "/v1/messages/..", "/v1/messages/../../api/stats", "/../v1/messages", "/health/../api/stats", "/health/..;/api/stats",
	"//v1/messages", "/v1//messages", "//api/stats", "/api//stats", "//evil.example/api/stats", "/health//", "///",
	"/v1%2Fmessages", "/v1%2fmessages", "/api%2fstats", "/%2e%2e/api/stats", "/v1/%2e%2e/api/stats", "/health/%2e%2e/api/stats", "/v1/%252e%252e/api", "/health%2f..%2fapi/stats",
	`/v1\messages`, `/api\stats`, "/v1%5cmessages", "/%61pi/stats", "/v1/%6dessages", "/v1/%6fauth/token", "/v1/messages%00", "/api/stats%00.js",
	"/V1/messages", "/v1/Messages", "/API/stats", "/Api/stats", "/Health/../api/stats", "/v1/messages/", "/v1/messages;x=1", "/v1/messages.", "/v1/messages%20",
	"/v1/oauth/token", "/v1/OAuth/token", "/v1/organizations/me", "/v1/oauth", "/v1/", "/v1", "/api", "/api/", "/health/", "/dashboard/../api/stats",
	"/claude_balancer/accounts", "/config/", "/metrics", "*", "http://localhost/api/stats", "http://localhost/v1/../api/stats", "api/stats",
}

func TestPathTricksReachNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	r.add("a", "max")
	keys := r.keys()
	stranger := r.from("203.0.113.7:40000")
	r.sim.Reset()
	for _, target := range pathTricks {
		for _, method := range []string{"GET", "POST", "HEAD", "DELETE", "CONNECT"} {
			for _, host := range []string{"localhost", "localhost.", "evil.example"} {
				for _, key := range []string{"", keys.models} {
					got := rawRequest(t, stranger, method, target, host, key)
					refused := slices.Contains([]int{400, 401, 403, 404, 405, 418}, got.StatusCode)
					// Caddy's own answer where no site has the host.
					nobody := got.StatusCode == 200 && got.Header.Get("Content-Type") == "" && got.Header.Get("X-Content-Type-Options") == ""
					if !refused && !nobody {
						t.Errorf("%s %s at %s, with key %v: %s", method, target, host, key != "", got.Status)
					}
				}
			}
		}
	}
	if used := r.sim.Requests(); len(used) > 0 {
		t.Errorf("upstream was asked for %s %s", used[0].Method, used[0].Path)
	}
	// What never goes upstream does not for a local client either.
	for _, target := range []string{"/v1/oauth/token", "/v1/organizations/me", "/v1/%6fauth/token", "/v1/./oauth/token"} {
		if got := rawRequest(t, r, "POST", target, "localhost", ""); got.StatusCode != 404 && got.StatusCode != 400 {
			t.Errorf("POST %s from a local client: %s", target, got.Status)
		}
	}
	if used := r.sim.Requests(); len(used) > 0 {
		t.Errorf("upstream was asked for %s %s", used[0].Method, used[0].Path)
	}
}

// rawRequest sends a request line as it is, which no client library would.
func rawRequest(t testing.TB, r *rig, method, target, host, key string) *http.Response {
	t.Helper()
	conn, err := net.Dial("tcp", r.srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	extra := ""
	if key != "" {
		extra = "X-Api-Key: " + key + "\r\n"
	}
	if _, err := fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: %s\r\n%sAnthropic-Version: 2023-06-01\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", method, target, host, extra); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%s %q: %v", method, target, err)
	}
	_ = res.Body.Close()
	return res
}

// A stranger gets nothing from any path: no account, no upstream, no data.
func FuzzAStrangersPathReachesNothing(f *testing.F) {
	for _, target := range pathTricks {
		f.Add(target)
	}
	r := newRig(f, rigOptions{})
	r.add("a", "max")
	server := r.srv.Config.Handler
	r.sim.Reset()
	f.Fuzz(func(t *testing.T, target string) {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			return // no server hands this on
		}
		req := &http.Request{Method: "GET", URL: u, RequestURI: target, Host: "localhost", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			Header: http.Header{}, Body: http.NoBody, RemoteAddr: "203.0.113.7:40000"}
		w := httptest.NewRecorder()
		server.ServeHTTP(w, req.WithContext(t.Context()))
		switch path := u.Path; {
		case w.Code == 400, w.Code == 401, w.Code == 404, w.Code == 418:
		case w.Code == 200 && (path == "/health" || path == "/health/ready"):
		default:
			t.Errorf("%q: status %d: %s", target, w.Code, w.Body)
		}
		if len(r.sim.Requests()) > 0 {
			t.Fatalf("%q went upstream", target)
		}
	})
}
