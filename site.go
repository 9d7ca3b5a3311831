package claudebalancer

import (
	"net/http"
	"strings"

	"github.com/claude-balancer/claude-balancer/access"
	"github.com/claude-balancer/claude-balancer/dashboard"
)

// site serves the dashboard, the read-only JSON and the health checks to those
// who may see them.
type site struct {
	h     *Handler
	pages http.Handler
}

func newSite(h *Handler) *site {
	o := dashboard.Options{
		Enabled: true, Backend: h.app.runtime, Feed: &h.app.runtime.feed, Closing: h.app.replaced, Logger: h.logger,
	}
	if h.Dashboard != nil {
		o.CORS = h.Dashboard.CORS
	}
	return &site{h: h, pages: dashboard.New(o)}
}

// ServeHTTP implements http.Handler.
func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rt := s.h.app.runtime
	if !rt.enter(r) {
		return
	}
	defer rt.release()
	if r.Method == http.MethodOptions || strings.HasPrefix(r.URL.Path, "/health") {
		s.pages.ServeHTTP(w, r)
		return
	}
	peer := peerOf(r)
	if who, refused := access.DecideDashboard(s.h.access, r, peer, rt.keys); refused != nil {
		refused = rt.guard.Refuse(peer.Client, refused)
		s.h.notLetIn(r, who, refused)
		asRefusal(refused).writePlain(w, r)
		return
	}
	s.pages.ServeHTTP(w, r)
}
