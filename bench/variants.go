package main

import "fmt"

// someAccounts is the size of the usual pool.
const someAccounts = 3

// The programs that are compared.
var (
	plain = variant{name: "reverse_proxy", site: plainSite}
	// The same again: what it differs by is noise.
	control = variant{name: "reverse_proxy again", site: plainSite}
	ours    = balancer("claude_balancer", someAccounts)
	before  = balancer("claude_balancer of the other build", someAccounts)
	floor   = variant{name: "floor", site: floorSite}
	direct  = variant{name: "direct", direct: true}
	empty   = variant{name: "Caddy without the plugin", site: plainSite}
)

func plainSite(u *upstream, way string) string {
	return fmt.Sprintf("reverse_proxy %s {\n%s\n}", u.URLs[way], trust(u, way))
}

// balancer has everything on that is on by default: least_used, affinity,
// history, usage, metrics and the dashboard.
func balancer(name string, accounts int) variant {
	return variant{name: name, accounts: accounts, site: func(u *upstream, way string) string {
		return fmt.Sprintf("claude_balancer {\nupstream %s\n%s\n}", u.URLs[way], trust(u, way))
	}}
}

func floorSite(u *upstream, way string) string {
	return fmt.Sprintf("route {\nbench_floor %s %s\n}", u.URLs[way], u.caFile)
}

// trust makes the transport believe the simulator's certificate.
func trust(u *upstream, way string) string {
	if way != overTLS {
		return ""
	}
	return fmt.Sprintf("transport http {\ntls_trust_pool file %s\n}", u.caFile)
}
