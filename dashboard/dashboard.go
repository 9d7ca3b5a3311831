// Package dashboard answers what the site itself has to say: the dashboard with
// its assets, the health checks and the read-only JSON below /api/. It decides
// nothing about who may ask; that has happened before a request comes here.
package dashboard

import (
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/claude-balancer/claude-balancer/api"
)

// Options is what the site needs. Backend is required.
type Options struct {
	// Enabled serves the page and /api/*. Without it only the health checks
	// and the probes of clients (HEAD /, HEAD /api/hello, OPTIONS) are answered.
	Enabled bool

	Backend api.Backend

	// Feed is the source of /api/events; without it the page polls.
	Feed api.Feed

	// Closing reports that this configuration is being replaced or that the
	// process exits. Open feeds ask it four times a second and end when it is
	// true, so that they never delay either. Nil means never.
	Closing func() bool

	// CORS lists the origins ("https://ops.example.com"), besides the site's
	// own, whose pages may read the answers.
	CORS []string

	Now    func() time.Time // default: time.Now
	Logger *zap.Logger      // gets failures of the Backend; default: none
}

// Owns reports whether the path belongs to the site rather than to the proxy
// or to the next handler.
func Owns(path string) bool {
	switch path {
	case "/", "/dashboard", "/health", "/health/ready":
		return true
	}
	return strings.HasPrefix(path, "/dashboard/") || strings.HasPrefix(path, "/api/")
}

// site is the handler that New makes.
type site struct {
	o       Options
	routes  map[string]http.HandlerFunc
	origins map[string]bool
	feeds   atomic.Int64 // open right now
}

// New returns the handler for the paths that Owns reports.
func New(o Options) http.Handler {
	if o.Closing == nil {
		o.Closing = func() bool { return false }
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	s := &site{o: o, origins: make(map[string]bool, len(o.CORS))}
	for _, origin := range o.CORS {
		s.origins[normalOrigin(origin)] = true
	}
	s.routes = map[string]http.HandlerFunc{
		"/health":       s.health,
		"/health/ready": s.ready,
	}
	if !o.Enabled {
		return s
	}
	s.routes["/"] = s.page
	s.routes["/dashboard"] = s.page
	s.routes["/dashboard/"] = s.page
	s.routes["/api/stats"] = s.stats
	s.routes["/api/accounts"] = s.accounts
	s.routes["/api/requests"] = s.requests
	s.routes["/api/chart"] = s.chart
	s.routes["/api/explain"] = s.explain
	s.routes["/api/events"] = s.events
	return s
}

const allowedMethods = "GET, HEAD, OPTIONS"

// ServeHTTP implements http.Handler.
func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	s.allowOrigin(w.Header(), r)

	switch r.Method {
	case http.MethodOptions:
		w.Header().Set("Allow", allowedMethods)
		w.WriteHeader(http.StatusNoContent)
		return
	case http.MethodHead:
		// Clients probe these two before they have a key.
		if r.URL.Path == "/" || r.URL.Path == "/api/hello" {
			w.WriteHeader(http.StatusOK)
			return
		}
	case http.MethodGet:
	default:
		w.Header().Set("Allow", allowedMethods)
		writeError(w, http.StatusMethodNotAllowed, r.Method+" is not allowed here; use GET")
		return
	}

	if route := s.routes[r.URL.Path]; route != nil {
		route(w, r)
		return
	}
	if name, ok := strings.CutPrefix(r.URL.Path, "/dashboard/"); ok && s.o.Enabled {
		s.asset(w, r, name)
		return
	}
	writeError(w, http.StatusNotFound, "there is nothing at this path")
}
