package claudebalancer

import "github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

// The part of the Caddyfile's grammar that is about Claude Code's sign-in.

func (h *Handler) parseTelemetry(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.ArgErr()
	}
	h.Telemetry = new(TelemetryConfig)
	switch d.Val() {
	case "drop":
		if d.NextArg() {
			return d.ArgErr()
		}
		return nil
	case "forward":
		return parseURL(d, &h.Telemetry.Forward)
	}
	return d.Errf("telemetry is '%s', but may be drop, or forward and a URL", d.Val())
}
