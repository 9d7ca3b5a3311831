// Package access decides who may reach what: clients on this machine without a
// key, others with a client key that the balancer has issued. It knows nothing
// of the server; what the server holds to be the peer and the client address
// comes in as a value.
package access

import (
	"fmt"
	"net/http"

	"github.com/claude-balancer/claude-balancer/anthropic"
	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/secret"
)

// Mode says who needs a key.
type Mode uint8

// The modes, by their words in the configuration.
const (
	ModeLocal Mode = iota // local: everyone but clients on this machine
	ModeKeys              // keys: everyone
	ModeOpen              // open: no one
)

// ParseMode reads a mode's word.
func ParseMode(word string) (Mode, error) {
	for m := ModeLocal; m <= ModeOpen; m++ {
		if word == m.String() {
			return m, nil
		}
	}
	return 0, fmt.Errorf("access is %q, but may be local, keys or open", word)
}

// String returns the mode's word.
func (m Mode) String() string {
	switch m {
	case ModeLocal:
		return "local"
	case ModeKeys:
		return "keys"
	default:
		return "open"
	}
}

// Who is the client that a request comes from.
type Who struct {
	Local  bool   // a client on this machine; never in mode keys, which trusts no such look
	Reason string // why it is not local, in words for a log
	Key    *Key   // the key it presented; nil = none

	// SignedIn is set if what it presented is the access token of a sign-in,
	// which acts as its key.
	SignedIn bool
}

// Decide lets a request to /v1 in or refuses it; who is set in both cases. A
// key counts wherever it comes from: a client that presents one acts as that
// key even where it needs none, and a bad one is refused in every mode. HTTP
// Basic is not looked at.
func Decide(mode Mode, r *http.Request, p Peer, ring *Keyring) (who Who, refusal *Refusal) {
	who = identify(mode, r, p)
	presented := FromRequest(r.Header)
	who.Key, who.SignedIn = findAny(ring, presented)
	switch {
	case who.Key != nil:
		return who, refuseViewer(who.Key)
	case len(presented) > 0:
		return who, refuseBad(presented)
	case mode == ModeOpen || who.Local:
		return who, nil
	}
	return who, refuse(http.StatusUnauthorized, typeAuthentication,
		"A client key is needed: send one as x-api-key or as Authorization: Bearer. The operator issues it with `caddy claude-balancer keys`.")
}

// DecideDashboard lets a request to the dashboard or /api in or refuses it. A
// key is presented as the password of HTTP Basic, with any user name, and must
// have the role viewer.
func DecideDashboard(mode Mode, r *http.Request, p Peer, ring *Keyring) (who Who, refusal *Refusal) {
	who = identify(mode, r, p)
	if _, password, ok := r.BasicAuth(); ok && LooksLikeKey(password) {
		key, ok := ring.Find(secret.New(password))
		if !ok {
			return who, challenge(RefuseBadKey())
		}
		who.Key = key
		if key.Role != api.RoleViewer {
			// Not 403: a browser would go on sending this key.
			return who, challenge(refuse(http.StatusUnauthorized, typeAuthentication, fmt.Sprintf(
				"Client key %q may not read the dashboard: use a key with the role viewer.", key.Name)))
		}
		return who, nil
	}
	if mode == ModeOpen || who.Local {
		return who, nil
	}
	return who, challenge(refuse(http.StatusUnauthorized, typeAuthentication,
		"A client key with the role viewer is needed: send it as the password of HTTP Basic, with any user name. The operator issues it with `caddy claude-balancer keys`."))
}

func identify(mode Mode, r *http.Request, p Peer) (who Who) {
	if mode == ModeKeys {
		who.Reason = "everyone needs a key here"
		return who
	}
	who.Local, who.Reason = Local(r, p)
	return who
}

// findAny returns the key of the first good credential of those presented.
func findAny(ring *Keyring, presented []secret.String) (key *Key, signedIn bool) {
	for _, credential := range presented {
		if key, ok := ring.Find(credential); ok {
			return key, false
		}
		if key, ok := ring.FindToken(credential); ok {
			return key, true
		}
	}
	return nil, false
}

// refuseViewer refuses /v1 to keys that may only read the dashboard.
func refuseViewer(key *Key) *Refusal {
	if key.Role == api.RoleClient {
		return nil
	}
	return refuse(http.StatusForbidden, typePermission, fmt.Sprintf(
		"Client key %q may only read the dashboard: use a key with the role client.", key.Name))
}

// RefuseBadKey says the same to unknown, mistyped, expired and revoked keys.
func RefuseBadKey() *Refusal {
	r := refuse(http.StatusUnauthorized, typeAuthentication,
		"This client key is not good: it is unknown, expired, revoked or not copied whole. Ask the operator for a new one.")
	r.BadKey = true
	return r
}

// RefuseEnded says to a client what its next request will hear, after its key
// ended under it.
func RefuseEnded(w Who) *Refusal {
	if w.SignedIn {
		return refuseBadToken()
	}
	return RefuseBadKey()
}

func refuseBadToken() *Refusal {
	r := refuse(http.StatusUnauthorized, typeAuthentication,
		"This sign-in has ended: it expired, or it was revoked. Sign in again with /login.")
	r.BadKey = true
	return r
}

// refuseBad answers by what was presented, not by what it once was.
func refuseBad(presented []secret.String) *Refusal {
	for _, credential := range presented {
		if LooksLikeKey(credential.Reveal()) {
			return RefuseBadKey()
		}
	}
	return refuseBadToken()
}

// challenge makes a browser ask for a user name and password.
func challenge(r *Refusal) *Refusal {
	r.Header.Set("WWW-Authenticate", `Basic realm="claude-balancer", charset="UTF-8"`)
	return r
}

// MayProxy reports whether a client that Decide has let in may use an endpoint.
func MayProxy(w Who, e anthropic.Endpoint) bool { return RefuseEndpoint(w, e) == nil }

// RefuseEndpoint returns the answer to a client that Decide has let in but that
// may not use an endpoint, nil if it may. Endpoints that are never proxied do
// not exist for anyone. A client that has signed in takes this for a gateway and
// is told in a gateway's words that it does not offer something.
func RefuseEndpoint(w Who, e anthropic.Endpoint) *Refusal {
	if w.SignedIn && (e == anthropic.Denied || e == anthropic.Other) {
		return refuse(http.StatusNotImplemented, typeNotSupported,
			"This gateway offers messages, count_tokens, models, batches, files and skills, and not this endpoint.")
	}
	if e == anthropic.Denied {
		return refuse(http.StatusNotFound, typeNotFound, "This endpoint is not proxied.")
	}
	if w.Key != nil {
		return refuseKeyEndpoint(w.Key, e)
	}
	if e == anthropic.Other && !w.Local {
		return refuseOther()
	}
	return nil
}

func refuseKeyEndpoint(key *Key, e anthropic.Endpoint) *Refusal {
	if refusal := refuseViewer(key); refusal != nil {
		return refusal
	}
	switch {
	case e == anthropic.Other:
		return refuseOther()
	case e == anthropic.Batches && key.Restricted():
		// A batch names a model in each of its requests, too many to read.
		return refuse(http.StatusForbidden, typePermission, fmt.Sprintf(
			"Client key %q is limited to some models and may not use batches: send single messages, or ask the operator for a key without that limit.",
			key.Name))
	}
	return nil
}

func refuseOther() *Refusal {
	return refuse(http.StatusForbidden, typePermission,
		"This endpoint is for clients on the balancer's own machine that send no client key; others may use messages, count_tokens, models, batches, files and skills.")
}
