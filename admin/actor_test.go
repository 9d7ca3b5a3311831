package admin

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/claude-balancer/claude-balancer/api"
)

func TestTheAuditTrailGetsWhatTheAdminEndpointKnowsOfWhoAsks(t *testing.T) {
	t.Parallel()
	certificate := func(name string) *tls.ConnectionState {
		return &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{
			RawSubjectPublicKeyInfo: []byte("a public key"), Subject: pkix.Name{CommonName: name},
		}}}
	}
	for _, tc := range []struct {
		name, user string
		tls        *tls.ConnectionState
		want       string
	}{
		{"an HTTP client", "", nil, "admin"},
		{"the command", "alice", nil, "admin, command of alice"},
		{"a name that would spoil a list", "alice\x1b[2J", nil, "admin"},
		{"a name that is too long", strings.Repeat("a", 65), nil, "admin"},
		{"a remote client with a certificate", "root", certificate("ops laptop"), "remote admin, key sha256:0b7348fa038970c4 (ops laptop)"},
		{"a certificate without a name", "", certificate(""), "remote admin, key sha256:0b7348fa038970c4"},
	} {
		r := httptest.NewRequest(http.MethodPost, "/claude_balancer/keys", nil)
		r.TLS = tc.tls
		if tc.user != "" {
			r.Header.Set(userHeader, tc.user)
		}
		if got := actorOf(r); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
	if got := api.Actor(t.Context()); got != "admin" {
		t.Errorf("nobody said: %q", got)
	}
}

func TestTheCommandSaysWhoRunsIt(t *testing.T) {
	t.Parallel()
	c, err := newClient("localhost:2019")
	if err != nil {
		t.Fatal(err)
	}
	req, err := c.request(t.Context(), http.MethodGet, "/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := req.Header.Get(userHeader); got != localUser() {
		t.Errorf("says %q", got)
	}
}
