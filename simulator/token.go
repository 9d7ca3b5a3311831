package simulator

// The token endpoint, revocation and the profile.

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"net/http"
)

// ClientID is the public OAuth client that the service knows.
const ClientID = "9d1c250a-e61b-44d9-88ed-5944d1962f5e"

// tokenRequest is any body that the token endpoint and revocation take.
type tokenRequest struct {
	GrantType    string `json:"grant_type"`
	ClientID     string `json:"client_id"`
	Code         string `json:"code"`
	State        string `json:"state"`
	RedirectURI  string `json:"redirect_uri"`
	CodeVerifier string `json:"code_verifier"`
	RefreshToken string `json:"refresh_token"`
	Scope        string `json:"scope"`
	Token        string `json:"token"`
}

type tokenAnswer struct {
	TokenType    string            `json:"token_type"`
	AccessToken  string            `json:"access_token"`
	ExpiresIn    int64             `json:"expires_in"` // seconds
	RefreshToken string            `json:"refresh_token"`
	Scope        string            `json:"scope"`
	Account      tokenAccount      `json:"account"`
	Organization tokenOrganization `json:"organization"`
}

type tokenAccount struct {
	UUID  string `json:"uuid"`
	Email string `json:"email_address"`
}

type tokenOrganization struct {
	UUID string `json:"uuid"`
	Name string `json:"name"`
}

// tokenError is an error in OAuth's own form.
type tokenError struct {
	Error       string `json:"error"`
	Description string `json:"error_description"`
	URI         string `json:"error_uri,omitempty"`
}

var (
	invalidRefresh = tokenError{Error: "invalid_grant", Description: "Refresh token not found or invalid"}
	invalidCode    = tokenError{Error: "invalid_grant", Description: "Invalid 'code' in request."}
	accountHeld    = tokenError{
		Error: "invalid_grant", Description: "The account is on hold",
		URI: "https://platform.claude.com/docs/errors/account_on_hold",
	}
)

// tokenOwner returns the account that a login call is about, or nil.
func (s *Simulator) tokenOwner(x *Exchange) *account {
	if x.Request.Method != http.MethodPost {
		return s.caller(x.Request)
	}
	body, err := x.ReadBody()
	if err != nil {
		return nil
	}
	var r tokenRequest
	if json.Unmarshal(body, &r) != nil {
		return nil
	}
	for _, raw := range []string{r.RefreshToken, r.Token} {
		if c := s.lookup(raw); c != nil {
			return c.account
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if code := s.codes[r.Code]; code != nil {
		return code.account
	}
	return nil
}

func serveToken(x *Exchange) {
	r, problem := x.tokenRequest()
	switch {
	case problem != nil:
		x.refuseToken(*problem)
	case r.ClientID != ClientID:
		x.refuseToken(tokenError{Error: "invalid_client", Description: "Client with id " + r.ClientID + " not found"})
	case r.GrantType == "authorization_code":
		x.exchangeCode(r)
	case r.GrantType == "refresh_token":
		x.refreshToken(r)
	default:
		x.refuseToken(tokenError{Error: "unsupported_grant_type", Description: "Unsupported grant_type: " + r.GrantType})
	}
}

func (x *Exchange) tokenRequest() (tokenRequest, *tokenError) {
	var r tokenRequest
	body, err := x.ReadBody()
	if err != nil || json.Unmarshal(body, &r) != nil {
		return r, &tokenError{Error: "invalid_request", Description: "Invalid request format"}
	}
	return r, nil
}

// exchangeCode gives tokens for a code, once.
func (x *Exchange) exchangeCode(r tokenRequest) {
	code := x.sim.takeCode(r.Code)
	sum := sha256.Sum256([]byte(r.CodeVerifier))
	challenge := base64.RawURLEncoding.EncodeToString(sum[:])
	switch {
	case code == nil, code.redirectURI != r.RedirectURI, code.state != r.State:
		x.refuseToken(invalidCode)
	case subtle.ConstantTimeCompare([]byte(challenge), []byte(code.challenge)) != 1:
		x.refuseToken(tokenError{Error: "invalid_grant", Description: "Invalid 'code_verifier' in request."})
	case code.account.held.Load():
		x.refuseToken(accountHeld)
	default:
		x.answerToken(code.account, x.sim.login(code.account), code.scope)
	}
}

// refreshToken rotates a refresh token: the one that was sent is spent.
func (x *Exchange) refreshToken(r tokenRequest) {
	c := x.sim.lookup(r.RefreshToken)
	switch {
	case c == nil || c.kind != refreshToken:
		x.refuseToken(invalidRefresh)
		return
	case c.account.held.Load():
		x.refuseToken(accountHeld)
		return
	}
	pair, ok := x.sim.rotate(c)
	if !ok {
		x.refuseToken(invalidRefresh)
		return
	}
	scope := r.Scope
	if scope == "" {
		scope = defaultScope
	}
	x.answerToken(c.account, pair, scope)
}

// login issues a pair for a new login.
func (s *Simulator) login(a *account) Credentials {
	a.mu.Lock()
	defer a.mu.Unlock()
	s.issue(a, &grant{})
	return a.credentials()
}

// rotate spends a refresh token for a new pair. It reports false if the token
// was spent before or its login is over.
func (s *Simulator) rotate(c *credential) (Credentials, bool) {
	a := c.account
	a.mu.Lock()
	defer a.mu.Unlock()
	if c.grant.refresh != c.value {
		a.reuses.Add(1)
		return Credentials{}, false
	}
	if c.grant.dead {
		return Credentials{}, false
	}
	a.refreshes.Add(1)
	s.issue(a, c.grant)
	return a.credentials(), true
}

func (x *Exchange) answerToken(a *account, pair Credentials, scope string) {
	x.Writer.Header().Set("Cache-Control", "no-store")
	x.json(http.StatusOK, tokenAnswer{
		TokenType: "Bearer", AccessToken: pair.Access.Reveal(), RefreshToken: pair.Refresh.Reveal(),
		ExpiresIn: int64(a.TokenLife.Seconds()), Scope: scope,
		Account:      tokenAccount{a.uuid, a.email()},
		Organization: tokenOrganization{a.organization, a.Name},
	})
}

// refuseToken answers in the form of RFC 6749.
func (x *Exchange) refuseToken(e tokenError) { x.json(http.StatusBadRequest, e) }

// serveRevoke ends what a token stands for: an access token alone, a refresh
// token with its whole login. Unknown tokens are no error (RFC 7009).
func serveRevoke(x *Exchange) {
	r, problem := x.tokenRequest()
	if problem != nil {
		x.refuseToken(*problem)
		return
	}
	if c := x.sim.lookup(r.Token); c != nil && c.grant != nil {
		x.sim.revoke(c)
	}
	x.json(http.StatusOK, struct{}{})
}

func (s *Simulator) revoke(c *credential) {
	c.revoked.Store(true)
	if c.kind != refreshToken {
		return
	}
	a := c.account
	a.mu.Lock()
	defer a.mu.Unlock()
	c.grant.dead = true
	for _, other := range a.access {
		if other.grant == c.grant {
			other.revoked.Store(true)
		}
	}
}

func (a *account) email() string { return a.Name + "@example.com" }

// serveProfile tells who is logged in and on which plan.
func serveProfile(x *Exchange) {
	a := x.account
	kind, tier := "claude_pro", "default_claude_pro"
	if a.Plan == PlanMax {
		kind, tier = "claude_max", "default_claude_max_20x"
	}
	x.json(http.StatusOK, map[string]any{
		"account": map[string]any{
			"uuid": a.uuid, "email": a.email(), "full_name": a.Name, "display_name": a.Name,
			"created_at": "2025-01-01T00:00:00Z", "has_claude_max": a.Plan == PlanMax, "has_claude_pro": a.Plan == PlanConsole,
		},
		"organization": map[string]any{
			"uuid": a.organization, "name": a.Name, "organization_type": kind, "rate_limit_tier": tier,
			"billing_type": "stripe_subscription", "seat_tier": nil, "has_extra_usage_enabled": a.ExtraUsage,
			"subscription_created_at": "2025-01-01T00:00:00Z",
		},
	})
}
