package claudebalancer

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/claude-balancer/claude-balancer/access"
)

// What Claude Code asks a gateway for beside the API. Source: Claude Code's
// gateway protocol.

// usagePath is where Claude Code asks what its user has used.
const usagePath = "/api/oauth/usage"

// authenticate lets in who presents a good client key. Where a client needs
// none, who.Key may be nil.
func (h *Handler) authenticate(w http.ResponseWriter, r *http.Request, rt *runtime) (who access.Who, ok bool) {
	who, refused := h.decide(r, rt)
	if refused == nil {
		return who, true
	}
	refused = rt.guard.Refuse(peerOf(r).Client, refused)
	countRefused(refused)
	asRefusal(refused).write(w, r, newID())
	return who, false
}

// decide lets a client in or refuses it. An access token that another process
// has issued a moment ago may not be known here yet, so that one is looked up.
func (h *Handler) decide(r *http.Request, rt *runtime) (who access.Who, refused *access.Refusal) {
	peer := peerOf(r)
	who, refused = access.Decide(h.access, r, peer, rt.keys)
	if refused == nil || !refused.BadKey {
		return who, refused
	}
	if _, blocked := rt.guard.Blocked(peer.Client); blocked {
		return who, refused
	}
	switch found, err := rt.learnToken(r); {
	case err != nil:
		rt.logger().Error("looking up an access token", zap.Error(err))
		return who, refuseUnlooked
	case !found:
		return who, refused
	}
	return access.Decide(h.access, r, peer, rt.keys)
}

// refuseUnlooked answers for a token that may be good: a 401 would have its
// user sign in again because of a failing store.
var refuseUnlooked = &access.Refusal{
	Status: http.StatusServiceUnavailable, Type: typeOverloaded, RetryAfter: 5 * time.Second, Header: http.Header{"Retry-After": {"5"}},
	Message: "This sign-in could not be looked up. Try again in a few seconds.",
}

// Bounds of looking up tokens: who presents many bad ones is blocked, and the
// others wait for each other rather than for the store.
const (
	maxLookups    = 4
	lookupTimeout = 2 * time.Second
)

// learnToken takes over an access token that is stored, but not known here. It
// reports whether it found one.
func (rt *runtime) learnToken(r *http.Request) (found bool, err error) {
	ctx, cancel := context.WithTimeout(r.Context(), lookupTimeout)
	defer cancel()
	for _, credential := range access.FromRequest(r.Header) {
		if !access.KindAccess.Fits(credential) {
			continue
		}
		select {
		case rt.lookups <- struct{}{}:
		case <-ctx.Done():
			return false, ctx.Err()
		}
		found, err = rt.store.HasToken(ctx, access.Hash(credential))
		if err == nil && found {
			err = rt.reloadKeys(ctx)
		}
		<-rt.lookups
		return found, err
	}
	return false, nil
}

// serveKnown serves what clients that may use the API read about themselves.
func (h *Handler) serveKnown(w http.ResponseWriter, r *http.Request, serve func(rt *runtime, who access.Who)) {
	rt := h.app.runtime
	if !rt.enter(r) {
		return
	}
	defer rt.release()
	if !allowMethods(w, r, http.MethodGet, http.MethodHead) {
		return
	}
	if who, ok := h.authenticate(w, r, rt); ok {
		serve(rt, who)
	}
}

// serveUsage tells the holder of a client key what it has used.
func (h *Handler) serveUsage(w http.ResponseWriter, r *http.Request, rt *runtime, who access.Who) {
	if who.Key == nil {
		refuseUsage.write(w, r, newID())
		return
	}
	usage, err := rt.usageOf(r, who.Key)
	if err != nil {
		h.logger.Error("reading what a client key spent", zap.String("key", who.Key.Name), zap.Error(err))
		refuseNoUsage.write(w, r, newID())
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(usage) // the client may be gone
}

func (rt *runtime) usageOf(r *http.Request, key *access.Key) (access.Usage, error) {
	if key.HasBudget() {
		return key.Usage(access.Spending{}), nil
	}
	spent, err := access.SpendingSince(rt.now(), func(since time.Time) (float64, error) {
		sums, err := rt.store.KeySpend(r.Context(), since)
		return sums[key.Name], err
	})
	return key.Usage(spent), err
}

// serveTelemetry takes the telemetry of clients that may use the API.
func (h *Handler) serveTelemetry(w http.ResponseWriter, r *http.Request) {
	rt := h.app.runtime
	if !rt.enter(r) {
		return
	}
	defer rt.release()
	if _, ok := h.authenticate(w, r, rt); ok {
		h.telemetry.ServeHTTP(w, r)
	}
}

// allowMethods refuses other methods.
func allowMethods(w http.ResponseWriter, r *http.Request, methods ...string) bool {
	for _, m := range methods {
		if r.Method == m {
			return true
		}
	}
	w.Header()["Allow"] = methods
	refuseMethod.write(w, r, newID())
	return false
}

var (
	refuseUsage = &refusal{status: http.StatusNotFound, typ: typeNotFound, noRetry: true,
		message: "Usage is counted for client keys. Send one to see what it has used."}
	refuseNoUsage = &refusal{status: http.StatusInternalServerError, typ: typeAPI, noRetry: true,
		message: "What this client key has used could not be read. The balancer's log says why."}
	refuseMethod = &refusal{status: http.StatusMethodNotAllowed, typ: typeInvalidRequest, noRetry: true,
		message: "This endpoint does not have that method."}
)
