package admin

// Which route goes where. Every pattern names its method and lies below one
// prefix: a pattern that conflicts with another module's would be a panic when
// a configuration is loaded.

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/claude-balancer/claude-balancer/api"
)

// prefix is the path below which all routes lie.
const prefix = "/claude_balancer"

// handler answers one route. A returned error becomes the answer.
type handler func(b api.Backend, w http.ResponseWriter, r *http.Request) error

type route struct {
	method, path string
	handle       handler
}

func (a *adminAPI) routes() []route {
	return []route{
		{http.MethodGet, "/accounts", listAccounts},
		{http.MethodPost, "/accounts", addAccount},
		{http.MethodGet, "/accounts/{name}", getAccount},
		{http.MethodPatch, "/accounts/{name}", updateAccount},
		{http.MethodDelete, "/accounts/{name}", removeAccount},
		{http.MethodPost, "/accounts/{name}/refresh", refreshAccount},
		{http.MethodPost, "/accounts/{name}/clear_limits", clearLimits},
		{http.MethodPost, "/login", startLogin},
		{http.MethodPost, "/login/{id}", finishLogin},
		{http.MethodGet, "/requests", listRequests},
		{http.MethodDelete, "/requests", clearRequests},
		{http.MethodGet, "/stats", a.getStats},
		{http.MethodPost, "/stats/reset", resetStats},
		{http.MethodGet, "/explain", explain},
		{http.MethodGet, "/keys", listKeys},
		{http.MethodPost, "/keys", addKey},
		{http.MethodPatch, "/keys/{name}", updateKey},
		{http.MethodDelete, "/keys/{name}", revokeKey},
		{http.MethodPost, "/keys/{name}/rotate", rotateKey},
		{http.MethodGet, "/audit", listAudit},
		{http.MethodGet, "/version", getVersion},
	}
}

// methods are those that get a JSON answer on every path. HEAD comes with GET.
var methods = []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}

// Routes implements caddy.AdminRouter.
func (a *adminAPI) Routes() []caddy.AdminRoute {
	var all []caddy.AdminRoute
	add := func(method, path string, h caddy.AdminHandlerFunc) {
		all = append(all, caddy.AdminRoute{Pattern: method + " " + prefix + path, Handler: h})
	}
	allowed := make(map[string][]string)
	for _, r := range a.routes() {
		add(r.method, r.path, a.serve(r.handle))
		allowed[r.path] = append(allowed[r.path], r.method)
	}
	for _, method := range methods {
		for path, has := range allowed {
			if !slices.Contains(has, method) {
				add(method, path, refuseMethod(has))
			}
		}
		add(method, "/", refusePath)
	}
	return all
}

// Patterns lists all routes as "METHOD /path", for who describes them.
func Patterns() []string {
	var patterns []string
	for _, r := range new(adminAPI).routes() {
		patterns = append(patterns, r.method+" "+prefix+r.path)
	}
	return patterns
}

// serve looks the pool up for each request, see adminAPI.
func (a *adminAPI) serve(h handler) caddy.AdminHandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		b, err := a.backend()
		if err == nil {
			err = h(b, w, r.WithContext(api.WithActor(r.Context(), actorOf(r))))
		}
		return asAPIError(err)
	}
}

func refuseMethod(allowed []string) caddy.AdminHandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		return caddy.APIError{
			HTTPStatus: http.StatusMethodNotAllowed,
			Err:        fmt.Errorf("method %s is not allowed here: use %s", r.Method, strings.Join(allowed, " or ")),
		}
	}
}

func refusePath(http.ResponseWriter, *http.Request) error {
	return caddy.APIError{HTTPStatus: http.StatusNotFound, Err: fmt.Errorf("no such path below %s/", prefix)}
}
