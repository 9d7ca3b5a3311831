package admin

// Who acts, for the audit trail.

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"os/user"

	"github.com/claude-balancer/claude-balancer/api"
)

// userHeader carries the name of the operating system's user who runs the
// command. Nothing proves it: the local admin endpoint has no authentication,
// and who reaches it may do everything. It tells colleagues apart, not thieves.
const userHeader = "Claude-Balancer-User"

// actorOf says as much as the admin endpoint knows: the certificate that a
// remote client has proved to own, else what the command says of its user.
func actorOf(r *http.Request) string {
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		cert := r.TLS.PeerCertificates[0]
		sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
		who := "remote admin, key sha256:" + hex.EncodeToString(sum[:8])
		if name, err := api.ValidName(cert.Subject.CommonName); err == nil {
			who += " (" + name + ")"
		}
		return who
	}
	if name, err := api.ValidName(r.Header.Get(userHeader)); err == nil {
		return "admin, command of " + name
	}
	return "admin"
}

// localUser is "" if the system does not tell.
func localUser() string {
	u, err := user.Current()
	if err != nil {
		return ""
	}
	name, err := api.ValidName(u.Username)
	if err != nil {
		return ""
	}
	return name
}
