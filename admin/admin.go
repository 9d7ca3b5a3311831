// Package admin manages the balancer: the routes below /claude_balancer/ on
// Caddy's admin endpoint, and the command `caddy claude-balancer` that calls
// them. Both speak the types of package api.
package admin

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/claude-balancer/claude-balancer/api"
)

func init() {
	caddy.RegisterModule(adminAPI{})
}

// appName is the ID of the app module that owns the pool.
const appName = "claude_balancer"

// Provider is what the app module claude_balancer implements. The error says
// why the pool cannot be asked now, for instance because it is still starting.
type Provider interface {
	Backend() (api.Backend, error)
}

// adminAPI is the admin module. It keeps nothing of the configuration that it
// was made for: after a refused reload the admin endpoint belongs to the
// refused configuration, while the old pool goes on serving.
type adminAPI struct {
	backend func() (api.Backend, error)
	now     func() time.Time
}

// CaddyModule returns the Caddy module information.
func (adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.claude_balancer",
		New: func() caddy.Module { return &adminAPI{liveBackend, time.Now} },
	}
}

// liveBackend finds the pool of the configuration that is live now.
func liveBackend() (api.Backend, error) {
	app, err := caddy.ActiveContext().AppIfConfigured(appName)
	if errors.Is(err, caddy.ErrNotConfigured) {
		return nil, &api.Error{
			Status:  http.StatusServiceUnavailable,
			Message: "no claude_balancer is live: load a configuration that uses it",
		}
	}
	if err != nil {
		return nil, fmt.Errorf("looking up the %s app: %w", appName, err)
	}
	provider, ok := app.(Provider)
	if !ok {
		return nil, fmt.Errorf("the %s app is a %T, which cannot be managed", appName, app)
	}
	backend, err := provider.Backend()
	if refusal := (*api.Error)(nil); err != nil && !errors.As(err, &refusal) {
		return nil, &api.Error{Status: http.StatusServiceUnavailable, Message: err.Error()}
	}
	return backend, err
}

// Interface guards
var (
	_ caddy.Module      = (*adminAPI)(nil)
	_ caddy.AdminRouter = (*adminAPI)(nil)
)
