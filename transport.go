package claudebalancer

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy" // the http transport
)

// transportDefaults are what the http transport gets where the configuration
// says nothing. HTTP/1.1: pooled connections of it cost less CPU than HTTP/2,
// and no connection can stall many streams. Idle connections are kept for as
// many requests as a team runs at once. Bytes pass as they are, so compression
// is never asked for.
var transportDefaults = map[string]json.RawMessage{
	"versions":    json.RawMessage(`["1.1"]`),
	"compression": json.RawMessage(`false`),
	"keep_alive":  json.RawMessage(`{"max_idle_conns_per_host":256}`),
}

// loadTransport loads the guest transport in owner's field TransportRaw, to
// which raw points.
func loadTransport(ctx caddy.Context, owner any, raw *json.RawMessage) (http.RoundTripper, error) {
	settings := map[string]json.RawMessage{"protocol": json.RawMessage(`"http"`)}
	if *raw != nil {
		if err := json.Unmarshal(*raw, &settings); err != nil {
			return nil, fmt.Errorf("transport: %w", err)
		}
	}
	if string(settings["protocol"]) == `"http"` {
		for name, value := range transportDefaults {
			if _, set := settings[name]; !set {
				settings[name] = value
			}
		}
	}
	merged, err := json.Marshal(settings)
	if err != nil {
		return nil, fmt.Errorf("transport: %w", err)
	}
	*raw = merged
	module, err := ctx.LoadModule(owner, "TransportRaw")
	if err != nil {
		return nil, fmt.Errorf("loading the transport: %w", err)
	}
	transport, ok := module.(http.RoundTripper)
	if !ok {
		return nil, fmt.Errorf("the transport module %T makes no round trips", module)
	}
	return transport, nil
}
