package claudebalancer

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/claude-balancer/claude-balancer/access"
)

// What an operator should hear at start about who can reach the sites.

// warnOfExposure logs, once for the whole configuration, that strangers get in
// or that nobody does. The store is open by now, so the keys are known.
func (a *App) warnOfExposure() {
	a.mu.Lock()
	defer a.mu.Unlock()
	var open, locked []string
	for _, h := range a.handlers {
		switch {
		case h.access == access.ModeOpen:
			if !h.onLoopbackOnly() {
				open = append(open, h.listeners()...)
			}
		case !a.runtime.keys.Empty(), h.SignIn != nil && h.SignIn.Users != nil: // users get theirs by themselves
		case h.access == access.ModeKeys, !h.onLoopbackOnly() && !h.namedForLoopback():
			locked = append(locked, h.listeners()...)
		}
	}
	if len(open) > 0 {
		a.logger.Warn("`access open`: whoever reaches these listeners uses your accounts without a key; use `access keys`, or bind them to loopback",
			zap.Strings("listeners", compacted(open)))
	}
	if len(locked) > 0 {
		a.logger.Warn("clients of this site need a client key and there is none yet, so they get 401: add one with `caddy claude-balancer keys add <name>`",
			zap.Strings("listeners", compacted(locked)))
	}
}

func compacted(s []string) []string {
	slices.Sort(s)
	return slices.Compact(s)
}

func (h *Handler) listeners() []string {
	if h.server == nil {
		return nil
	}
	return h.server.Listen
}

// onLoopbackOnly reports whether nothing but this machine can connect.
func (h *Handler) onLoopbackOnly() bool {
	return len(h.listeners()) > 0 && !slices.ContainsFunc(h.listeners(), func(s string) bool { return !loopbackListener(s) })
}

// loopbackListener reports whether a listener address is loopback. A Unix
// socket is not: there is a proxy behind it, and who is behind that?
func loopbackListener(s string) bool {
	addr, err := caddy.ParseNetworkAddress(s)
	if err != nil || addr.IsUnixNetwork() || addr.IsFdNetwork() {
		return false
	}
	if ip, err := netip.ParseAddr(addr.Host); err == nil {
		return ip.IsLoopback()
	}
	return addr.Host == "localhost"
}

// namedForLoopback reports whether the site's addresses all mean this machine,
// as `localhost` does, although Caddy listens on all interfaces for it.
func (h *Handler) namedForLoopback() bool {
	return h.server != nil && h.namedIn(h.server.Routes, false) == ways{good: true}
}

// ways tells what kinds of ways lead through routes to a handler: those that
// only hosts which mean this machine can take, and others.
type ways struct{ good, bad bool }

func (h *Handler) namedIn(routes caddyhttp.RouteList, bound bool) (found ways) {
	for _, route := range routes {
		bound := bound || onlyLoopbackHosts(route.MatcherSets)
		for _, handler := range route.Handlers {
			switch v := handler.(type) {
			case *Handler:
				if v == h {
					found.good, found.bad = found.good || bound, found.bad || !bound
				}
			case *caddyhttp.Subroute:
				below := h.namedIn(v.Routes, bound)
				found.good, found.bad = found.good || below.good, found.bad || below.bad
			}
		}
	}
	return found
}

// onlyLoopbackHosts reports whether every set of matchers, of which one must
// fit, asks for hosts that mean this machine.
func onlyLoopbackHosts(sets caddyhttp.MatcherSets) bool {
	return len(sets) > 0 && !slices.ContainsFunc(sets, func(set caddyhttp.MatcherSet) bool {
		return !slices.ContainsFunc(set, func(matcher any) bool {
			hosts, ok := matcher.(*caddyhttp.MatchHost)
			return ok && !slices.ContainsFunc(*hosts, func(host string) bool {
				return !access.LoopbackHost(strings.TrimPrefix(host, "*."))
			})
		})
	})
}
