package dashboard

import (
	"net/http"
	"strings"
)

// allowOrigin lets pages of the site's own origin and of the listed ones read
// the answer. There is no wildcard and no credentials mode: a page elsewhere
// sends its viewer key in Authorization.
func (s *site) allowOrigin(h http.Header, r *http.Request) {
	h.Add("Vary", "Origin")
	origin := r.Header.Get("Origin")
	if origin == "" || !s.sameOrigin(r, origin) && !s.origins[normalOrigin(origin)] {
		return
	}
	h.Set("Access-Control-Allow-Origin", origin)
	if r.Method != http.MethodOptions {
		return
	}
	h.Set("Access-Control-Allow-Methods", allowedMethods)
	h.Set("Access-Control-Allow-Headers", "Authorization")
	h.Set("Access-Control-Max-Age", "600")
}

func (s *site) sameOrigin(r *http.Request, origin string) bool {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	return strings.EqualFold(origin, scheme+"://"+r.Host)
}

// normalOrigin makes origins comparable: schemes and hosts have no case.
func normalOrigin(origin string) string {
	return strings.ToLower(strings.TrimSuffix(origin, "/"))
}
