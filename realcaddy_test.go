package claudebalancer

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/quic-go/quic-go/http3"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/simulator"
)

// server is Caddy as it really runs: with its listeners, TLS, HTTP/3 and admin
// endpoint. There is one in a process, so tests that use it are not parallel.
type server struct {
	*rig
	admin string
}

// load replaces the running configuration.
func (s *server) load(caddyfile string) {
	s.t.Helper()
	raw, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), nil)
	if err != nil {
		s.t.Fatalf("%v\n%s", err, caddyfile)
	}
	provisioning.Lock()
	defer provisioning.Unlock()
	if err := caddy.Load(raw, true); err != nil {
		s.t.Fatalf("%v\n%s", err, caddyfile)
	}
	app, err := caddy.ActiveContext().App("claude_balancer")
	if err != nil {
		s.t.Fatal(err)
	}
	s.app = app.(*App)
}

// newServer starts the simulator; load starts Caddy.
func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{rig: &rig{t: t, sim: simulator.New(simulator.Options{}), dir: t.TempDir()}, admin: freePort(t)}
	s.up = s.sim.Start()
	t.Cleanup(s.up.Close)
	autosave := caddy.ConfigAutosavePath
	caddy.ConfigAutosavePath = filepath.Join(s.dir, "config", "autosave.json")
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
		caddy.ConfigAutosavePath = autosave
	})
	return s
}

// outside returns an address of this machine that is not loopback. A connection
// to it comes from it, as from any other machine.
func outside(t *testing.T) string {
	t.Helper()
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() && !n.IP.IsLinkLocalUnicast() {
			return n.IP.String()
		}
	}
	t.Skip("this machine has no address but loopback, so nothing can come from outside")
	return ""
}

// visit is a request to a Caddy that really listens.
type visit struct {
	network, address string // to connect to; network h2 and h3 are HTTPS
	method, path     string
	host             string
	header           []string
	body             string
}

var errNoConnection = errors.New("no connection")

// send makes the request over a connection of its own.
func (v visit) send(t *testing.T) (reply, error) {
	t.Helper()
	scheme, transport := v.transport()
	host := v.host
	if host == "" {
		host = v.address
	}
	method := v.method
	if method == "" {
		method = http.MethodGet
	}
	req, err := http.NewRequest(method, scheme+"://"+urlHost(v)+v.path, strings.NewReader(v.body))
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	req.Header.Set("Anthropic-Version", "2023-06-01")
	if v.body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(v.header); i += 2 {
		req.Header.Set(v.header[i], v.header[i+1])
	}
	res, err := transport.RoundTrip(req)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return reply{}, errNoConnection
	}
	if err != nil {
		t.Fatalf("%+v: %v", v, err)
	}
	defer func() { _ = res.Body.Close() }()
	if v.network == "h3" && res.ProtoMajor != 3 || v.network == "h2" && res.ProtoMajor != 2 {
		t.Fatalf("%s was spoken as %s", v.network, res.Proto)
	}
	body, err := io.ReadAll(res.Body)
	return reply{res.StatusCode, res.Header, string(body), err}, nil
}

func urlHost(v visit) string {
	if v.network == "unix" {
		return "localhost"
	}
	return v.address
}

func (v visit) transport() (scheme string, rt http.RoundTripper) {
	tlsConfig := &tls.Config{InsecureSkipVerify: true, ServerName: "localhost"}
	switch v.network {
	case "h3":
		return "https", &http3.Transport{TLSClientConfig: tlsConfig}
	case "h2":
		return "https", &http.Transport{TLSClientConfig: tlsConfig, ForceAttemptHTTP2: true, DisableKeepAlives: true}
	case "https":
		return "https", &http.Transport{TLSClientConfig: tlsConfig, TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}, DisableKeepAlives: true}
	case "unix":
		return "http", &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", v.address)
		}}
	}
	return "http", &http.Transport{DisableKeepAlives: true}
}

// caddyKeys are client keys of each kind.
type caddyKeys struct{ client, viewer, models, accounts string }

func (r *rig) keys() caddyKeys {
	return caddyKeys{
		client:   r.key(api.NewKey{Name: "client"}),
		viewer:   r.key(api.NewKey{Name: "viewer", Role: api.RoleViewer}),
		models:   r.key(api.NewKey{Name: "models", Models: []string{"*haiku*"}}),
		accounts: r.key(api.NewKey{Name: "accounts", Accounts: []string{"b"}}),
	}
}
