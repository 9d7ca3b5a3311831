package simulator

// The authorization page, where a person lets a client in.

import (
	"encoding/base64"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	defaultScope = "org:create_api_key user:profile user:inference"
	codeLife     = 10 * time.Minute
)

var knownScopes = map[string]bool{
	"org:create_api_key": true, "user:profile": true, "user:inference": true, "user:sessions:claude_code": true,
	"user:mcp_servers": true, "user:file_upload": true, "user:plugins": true, "user:privacy_consents:write": true,
}

// authorization is an approved login that waits for its code to be exchanged.
type authorization struct {
	account                              *account
	challenge, redirectURI, state, scope string
	ends                                 time.Time
}

// Approve does what a person does in the browser: it opens an authorize URL,
// lets the client into an account and returns the code that the page shows,
// CODE#STATE. The error says what is wrong with the URL.
func (s *Simulator) Approve(authorizeURL, account string) (string, error) {
	u, err := url.Parse(authorizeURL)
	if err != nil {
		return "", fmt.Errorf("read the authorize URL: %w", err)
	}
	if u.Path != "/oauth/authorize" && u.Path != "/cai/oauth/authorize" {
		return "", fmt.Errorf("no authorization page at %q", u.Path)
	}
	code, state, err := s.approve(u.Query(), account)
	if err != nil {
		return "", err
	}
	return code + "#" + state, nil
}

func (s *Simulator) approve(query url.Values, name string) (code, state string, err error) {
	if err := checkAuthorize(query); err != nil {
		return "", "", err
	}
	a := s.account(name)
	if a == nil || a.Plan == PlanAPI {
		return "", "", fmt.Errorf("%q is no account that can log in", name)
	}
	code = s.newID("") + strings.TrimPrefix(s.newID(""), "01")
	state = query.Get("state")
	s.mu.Lock()
	defer s.mu.Unlock()
	s.codes[code] = &authorization{
		account: a, challenge: query.Get("code_challenge"), redirectURI: query.Get("redirect_uri"), state: state,
		scope: query.Get("scope"), ends: s.now().Add(codeLife),
	}
	return code, state, nil
}

// takeCode returns the authorization of a code that is still good, once.
func (s *Simulator) takeCode(code string) *authorization {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.codes[code]
	delete(s.codes, code)
	if a == nil || !s.now().Before(a.ends) {
		return nil
	}
	return a
}

func checkAuthorize(query url.Values) error {
	want := map[string]string{"code": "true", "client_id": ClientID, "response_type": "code", "code_challenge_method": "S256"}
	for name, value := range want {
		if query.Get(name) != value {
			return fmt.Errorf("invalid %s %q: want %q", name, query.Get(name), value)
		}
	}
	if sum, err := base64.RawURLEncoding.DecodeString(query.Get("code_challenge")); err != nil || len(sum) != 32 {
		return fmt.Errorf("invalid code_challenge %q: want 32 bytes in base64url", query.Get("code_challenge"))
	}
	if query.Get("state") == "" {
		return fmt.Errorf("missing state")
	}
	redirect, err := url.Parse(query.Get("redirect_uri"))
	if err != nil || !redirect.IsAbs() || !strings.HasSuffix(redirect.Path, "/callback") {
		return fmt.Errorf("invalid redirect_uri %q", query.Get("redirect_uri"))
	}
	scopes := strings.Fields(query.Get("scope"))
	if len(scopes) == 0 {
		return fmt.Errorf("missing scope")
	}
	for _, scope := range scopes {
		if !knownScopes[scope] {
			return fmt.Errorf("unknown scope: %s", scope)
		}
	}
	return nil
}

var loginPage = template.Must(template.New("login").Parse(`<!doctype html>
<meta charset="utf-8"><title>Simulated login</title>
{{if .Error}}<h1>Invalid request</h1><p>{{.Error}}</p>
{{else if .Code}}<h1>Authentication code</h1><p>Paste this into the program that asked for it:</p><p><code id="code">{{.Code}}</code></p>
{{else}}<h1>Which account may be used?</h1><ul>{{range .Choices}}<li><a href="{{.Link}}">{{.Name}}</a></li>{{end}}</ul>{{end}}
`))

// choice is an account that can be picked on the page.
type choice struct{ Name, Link string }

// serveAuthorize lets a person pick an account; there is no password. A client
// on this machine gets the code by redirect, others see it on the page.
func serveAuthorize(x *Exchange) {
	query := x.Request.URL.Query()
	name := query.Get("account")
	if name == "" {
		x.showLogin(checkAuthorize(query), "", x.choices(query))
		return
	}
	code, state, err := x.sim.approve(query, name)
	redirect, _ := url.Parse(query.Get("redirect_uri"))
	if err != nil || redirect.Hostname() != "localhost" {
		x.showLogin(err, code+"#"+state, nil)
		return
	}
	redirect.RawQuery = url.Values{"code": {code}, "state": {state}}.Encode()
	x.Writer.Header().Set("Location", redirect.String())
	x.begin(http.StatusFound, "text/html")
}

func (x *Exchange) choices(query url.Values) []choice {
	var list []choice
	for _, a := range x.sim.all() {
		if a.Plan != PlanAPI {
			query.Set("account", a.Name)
			list = append(list, choice{a.Name, "?" + query.Encode()})
		}
	}
	return list
}

func (x *Exchange) showLogin(problem error, code string, choices []choice) {
	var page strings.Builder
	status := http.StatusOK
	view := map[string]any{"Code": code, "Choices": choices}
	if problem != nil {
		status = http.StatusBadRequest
		view["Error"] = problem.Error()
	}
	if err := loginPage.Execute(&page, view); err != nil {
		panic("simulator: " + err.Error()) // the page is our own
	}
	x.send(status, "text/html; charset=utf-8", []byte(page.String()))
}
