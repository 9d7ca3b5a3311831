package oauth

// Where the provider's OAuth endpoints are.

import (
	"fmt"
	"maps"
	"slices"

	"github.com/claude-balancer/claude-balancer/api"
)

// Endpoints are the URLs and constants of the provider's OAuth service. All of
// them are public; the client has no secret.
type Endpoints struct {
	AuthorizeURL  map[string]string // by plan; "" is for every plan that is not listed
	TokenURL      string
	ProfileURL    string
	RedirectURI   string
	ClientID      string
	Scopes        []string // asked for at login
	RefreshScopes []string // asked for at refresh; none = the member scope is not sent

	// StateIsVerifier makes the state of a login its PKCE verifier, as it was
	// in 2025, instead of a value of its own.
	StateIsVerifier bool
}

// clientID is the provider's public client for Claude Code.
const clientID = "9d1c250a-e61b-44d9-88ed-5944d1962f5e"

// presets were read in public clients; the current ones in Claude Code 2.1.330.
var presets = map[string]Endpoints{
	"current": {
		AuthorizeURL: map[string]string{
			"":          "https://platform.claude.com/oauth/authorize",
			api.PlanMax: "https://claude.com/cai/oauth/authorize",
		},
		TokenURL:    "https://platform.claude.com/v1/oauth/token",
		ProfileURL:  "https://api.anthropic.com/api/oauth/profile",
		RedirectURI: "https://platform.claude.com/oauth/code/callback",
		ClientID:    clientID,
		Scopes: []string{
			"org:create_api_key", "user:profile", "user:inference", "user:sessions:claude_code",
			"user:mcp_servers", "user:file_upload", "user:plugins", "user:privacy_consents:write",
		},
		RefreshScopes: []string{
			"user:profile", "user:inference", "user:sessions:claude_code",
			"user:mcp_servers", "user:file_upload", "user:plugins",
		},
	},
	"legacy": {
		AuthorizeURL: map[string]string{
			"":          "https://console.anthropic.com/oauth/authorize",
			api.PlanMax: "https://claude.ai/oauth/authorize",
		},
		TokenURL:        "https://console.anthropic.com/v1/oauth/token",
		ProfileURL:      "https://api.anthropic.com/api/oauth/profile",
		RedirectURI:     "https://console.anthropic.com/oauth/code/callback",
		ClientID:        clientID,
		Scopes:          []string{"org:create_api_key", "user:profile", "user:inference"},
		StateIsVerifier: true,
	},
}

// Preset returns a copy of the endpoints "current" or "legacy" (of 2025).
func Preset(name string) (Endpoints, error) {
	e, ok := presets[name]
	if !ok {
		return Endpoints{}, fmt.Errorf("there is no preset %q: use current or legacy", name)
	}
	e.AuthorizeURL = maps.Clone(e.AuthorizeURL)
	e.Scopes = slices.Clone(e.Scopes)
	e.RefreshScopes = slices.Clone(e.RefreshScopes)
	return e, nil
}

// Authorize returns the URL of the page where an account of the plan is logged
// in.
func (e Endpoints) Authorize(plan string) string {
	if u, ok := e.AuthorizeURL[plan]; ok {
		return u
	}
	return e.AuthorizeURL[""]
}
