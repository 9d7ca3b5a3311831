// Command caddy is Caddy with its standard modules and claude-balancer, for
// development; releases are built with xcaddy.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/claude-balancer/claude-balancer"
)

func main() { caddycmd.Main() }
