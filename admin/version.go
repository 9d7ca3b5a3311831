package admin

// What was built, from the binary's own build information.

import (
	"net/http"
	"runtime/debug"

	"github.com/caddyserver/caddy/v2"

	"github.com/claude-balancer/claude-balancer/api"
)

const modulePath = "github.com/claude-balancer/claude-balancer"

// versions is the answer of GET /claude_balancer/version.
type versions struct {
	Version string `json:"version"` // of this plugin: "(devel)" if built from a working tree
	Caddy   string `json:"caddy"`
	Go      string `json:"go"`
}

func getVersion(_ api.Backend, w http.ResponseWriter, _ *http.Request) error {
	return reply(w, http.StatusOK, ownVersions(), nil)
}

func ownVersions() versions {
	v := versions{Version: "(devel)"}
	v.Caddy, _ = caddy.Version()
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v.Go = info.GoVersion
	for _, module := range append(info.Deps, &info.Main) {
		if module.Path == modulePath && module.Version != "" {
			v.Version = module.Version
		}
	}
	return v
}
