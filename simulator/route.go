package simulator

// Which path is answered by what.

import (
	"net/http"
	"strings"
)

// OAuthTokenPath is where tokens are exchanged and refreshed.
const OAuthTokenPath = "/v1/oauth/token"

// A route answers one method and path; {id} in its pattern matches any segment.
type route struct {
	method  string
	pattern []string
	access  access
	serve   func(*Exchange)
}

// access says which checks come before a route's handler.
type access int

const (
	public  access = iota
	bearer         // an OAuth access token
	apiCall        // a credential, for OAuth the beta, and anthropic-version
)

func (s *Simulator) table() []route {
	at := func(method, pattern string, a access, serve func(*Exchange)) route {
		return route{method, segments(pattern), a, serve}
	}
	return []route{
		at("POST", "/v1/messages", apiCall, serveMessages),
		at("POST", "/v1/messages/count_tokens", apiCall, serveCountTokens),
		at("GET", "/v1/models", apiCall, serveModels),
		at("GET", "/v1/models/{id}", apiCall, serveModel),

		at("POST", "/v1/messages/batches", apiCall, createBatch),
		at("GET", "/v1/messages/batches", apiCall, listBatches),
		at("GET", "/v1/messages/batches/{id}", apiCall, getBatch),
		at("DELETE", "/v1/messages/batches/{id}", apiCall, deleteBatch),
		at("POST", "/v1/messages/batches/{id}/cancel", apiCall, cancelBatch),
		at("GET", "/v1/messages/batches/{id}/results", apiCall, batchResults),

		at("POST", "/v1/files", apiCall, createFile),
		at("GET", "/v1/files", apiCall, listFiles),
		at("GET", "/v1/files/{id}", apiCall, getFile),
		at("DELETE", "/v1/files/{id}", apiCall, deleteFile),
		at("GET", "/v1/files/{id}/content", apiCall, fileContent),

		at("POST", "/v1/skills", apiCall, createSkill),
		at("GET", "/v1/skills", apiCall, listSkills),
		at("GET", "/v1/skills/{id}", apiCall, getSkill),
		at("DELETE", "/v1/skills/{id}", apiCall, deleteSkill),
		at("GET", "/v1/skills/{id}/versions", apiCall, listSkillVersions),

		at("POST", OAuthTokenPath, public, serveToken),
		at("POST", OAuthTokenPath+"/revoke", public, serveRevoke),
		at("GET", "/oauth/authorize", public, serveAuthorize),
		at("GET", "/cai/oauth/authorize", public, serveAuthorize),
		at("GET", "/api/oauth/profile", bearer, serveProfile),
	}
}

// Next gives the answer that the service gives when nothing is scripted.
func (x *Exchange) Next() {
	r := x.sim.find(x)
	if r == nil {
		x.fail(apiError{status: http.StatusNotFound, kind: notFound, message: "Not Found"})
		return
	}
	if r.access != public {
		if problem := x.sim.admit(x.Request, r.access); problem != nil {
			x.fail(*problem)
			return
		}
	}
	r.serve(x)
}

// find returns the exchange's route, or nil, and notes the id in its path.
func (s *Simulator) find(x *Exchange) *route {
	method := x.Request.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	path := segments(x.Request.URL.Path)
	for i := range s.routes {
		r := &s.routes[i]
		if id, ok := r.match(method, path); ok {
			x.id = id
			return r
		}
	}
	return nil
}

func (r *route) match(method string, path []string) (id string, ok bool) {
	if r.method != method || len(r.pattern) != len(path) {
		return "", false
	}
	for i, want := range r.pattern {
		switch {
		case want == "{id}" && path[i] != "":
			id = path[i]
		case want != path[i]:
			return "", false
		}
	}
	return id, true
}

func segments(path string) []string { return strings.Split(strings.Trim(path, "/"), "/") }

// isOAuth reports whether a path belongs to logins, not to the API.
func isOAuth(path string) bool {
	for _, prefix := range []string{"/v1/oauth/", "/oauth/", "/cai/oauth/", "/api/oauth/"} {
		if strings.HasPrefix(path, prefix) {
			return true
		}
	}
	return false
}
