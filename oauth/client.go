package oauth

// The calls to the provider's OAuth service.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/claude-balancer/claude-balancer/anthropic"
	"github.com/claude-balancer/claude-balancer/secret"
)

const (
	callTimeout = 20 * time.Second
	maxAnswer   = 1 << 20 // bytes
)

// Client calls the provider's OAuth service. A call takes at most 20 s, reads
// at most 1 MiB and follows no redirect: a redirected credential would go to
// somebody else. Errors of its calls are *Error.
type Client struct {
	HTTP      http.RoundTripper // nil = http.DefaultTransport
	Endpoints Endpoints
	Now       func() time.Time // nil = time.Now
	Logger    *zap.Logger      // nil = silent
}

// AuthorizeURL is the page on which the operator lets us into an account of the
// plan. It is one line without spaces; a terminal that breaks it breaks the
// login.
func (c *Client) AuthorizeURL(plan, state, challenge string) string {
	e := c.Endpoints
	page := e.Authorize(plan)
	separator := "?"
	if strings.Contains(page, "?") {
		separator = "&"
	}
	// The order is the one that official clients use, so not url.Values.
	var b strings.Builder
	b.WriteString(page + separator + "code=true")
	for _, q := range [][2]string{
		{"client_id", e.ClientID},
		{"response_type", "code"},
		{"redirect_uri", e.RedirectURI},
		{"scope", strings.Join(e.Scopes, " ")},
		{"code_challenge", challenge},
		{"code_challenge_method", "S256"},
		{"state", state},
	} {
		b.WriteString("&" + q[0] + "=" + url.QueryEscape(q[1]))
	}
	return b.String()
}

// Exchange trades an authorization code for a grant. A code works once.
func (c *Client) Exchange(ctx context.Context, code secret.String, state, verifier string) (Grant, error) {
	return c.grant(ctx, "exchange the code", struct {
		GrantType    string `json:"grant_type"`
		Code         string `json:"code"`
		RedirectURI  string `json:"redirect_uri"`
		ClientID     string `json:"client_id"`
		CodeVerifier string `json:"code_verifier"`
		State        string `json:"state"`
	}{"authorization_code", code.Reveal(), c.Endpoints.RedirectURI, c.Endpoints.ClientID, verifier, state},
		code, secret.New(state), secret.New(verifier))
}

// Refresh trades a refresh token for a grant. After a good answer with a new
// refresh token the old one is spent. A login that was given fewer scopes than
// we ask for is refreshed with those that it has.
func (c *Client) Refresh(ctx context.Context, refresh secret.String) (Grant, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout) // for both attempts together
	defer cancel()
	scope := strings.Join(c.Endpoints.RefreshScopes, " ")
	g, err := c.refresh(ctx, refresh, scope)
	if refused, ok := errors.AsType[*Error](err); ok && refused.Code == "invalid_scope" && scope != "" {
		return c.refresh(ctx, refresh, "")
	}
	return g, err
}

func (c *Client) refresh(ctx context.Context, refresh secret.String, scope string) (Grant, error) {
	return c.grant(ctx, "refresh the token", struct {
		GrantType    string `json:"grant_type"`
		RefreshToken string `json:"refresh_token"`
		ClientID     string `json:"client_id"`
		Scope        string `json:"scope,omitempty"`
	}{"refresh_token", refresh.Reveal(), c.Endpoints.ClientID, scope}, refresh)
}

// Profile asks who the access token belongs to.
func (c *Client) Profile(ctx context.Context, access secret.String) (Profile, error) {
	const op = "read the profile"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.Endpoints.ProfileURL, nil)
	if err != nil {
		return Profile{}, &Error{Op: op, Err: err}
	}
	req.Header.Set("Authorization", "Bearer "+access.Reveal())
	body, err := c.call(op, req, access)
	if err != nil {
		return Profile{}, err
	}
	p, err := readProfile(body)
	if err != nil {
		return Profile{}, &Error{Op: op, Status: http.StatusOK, Err: err}
	}
	return p, nil
}

// grant posts a body to the token endpoint. The secrets are those in the body.
func (c *Client) grant(ctx context.Context, op string, body any, secrets ...secret.String) (Grant, error) {
	data, err := json.Marshal(body)
	if err != nil {
		return Grant{}, &Error{Op: op, Err: err}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.Endpoints.TokenURL, bytes.NewReader(data))
	if err != nil {
		return Grant{}, &Error{Op: op, Err: err}
	}
	req.Header.Set("Content-Type", "application/json")
	answer, err := c.call(op, req, secrets...)
	if err != nil {
		return Grant{}, err
	}
	g, err := readGrant(answer, c.now())
	if err != nil {
		return Grant{}, &Error{Op: op, Status: http.StatusOK, Err: err}
	}
	return g, nil
}

// call makes one round trip and returns the body of a 2xx answer.
func (c *Client) call(op string, req *http.Request, secrets ...secret.String) ([]byte, error) {
	ctx, cancel := context.WithTimeout(req.Context(), callTimeout)
	defer cancel()
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "claude-balancer")
	client := http.Client{
		Transport:     c.HTTP,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	start := c.now()
	resp, err := client.Do(req.WithContext(ctx))
	if err != nil {
		return nil, &Error{Op: op, Err: err}
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if c.Logger != nil {
		c.Logger.Debug("the OAuth service answered", zap.String("op", op), zap.Int("status", resp.StatusCode),
			zap.String("request_id", scrub(resp.Header.Get("Request-Id"), secrets...)), zap.Duration("duration", c.now().Sub(start)))
	}
	switch {
	case err != nil:
		return nil, &Error{Op: op, Status: resp.StatusCode, Err: fmt.Errorf("read the answer: %w", err)}
	case len(body) > maxAnswer:
		return nil, &Error{Op: op, Status: resp.StatusCode, Err: fmt.Errorf("the answer is longer than %d bytes", maxAnswer)}
	case resp.StatusCode/100 != 2:
		refused := refusal(op, resp.StatusCode, body, secrets...)
		refused.RetryAfter = anthropic.ParseLimits(resp.Header, c.now()).RetryAfter
		return nil, refused
	}
	return body, nil
}

func (c *Client) now() time.Time {
	if c.Now == nil {
		return time.Now()
	}
	return c.Now()
}
