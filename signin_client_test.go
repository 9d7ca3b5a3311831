package claudebalancer

import (
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"
)

// gatewayClient signs in as RFC 8628 and Claude Code's gateway protocol have
// it: it takes its endpoints from discovery, follows no redirect, sends no
// authentication, keeps the interval it is told, adds 5 s to it when it is told
// to slow down, and stops at any other error.
type gatewayClient struct {
	t    testing.TB
	base string // what the user gave to /login
	do   func(*http.Request) (*http.Response, error)
	wait func(time.Duration) // passes the time

	endpoints struct {
		Issuer string   `json:"issuer"`
		Device string   `json:"device_authorization_endpoint"`
		Token  string   `json:"token_endpoint"`
		Revoke string   `json:"revocation_endpoint"`
		Grants []string `json:"grant_types_supported"`
	}
	device   deviceGrant
	interval time.Duration
	tokens   tokenGrant
}

type deviceGrant struct {
	DeviceCode  string `json:"device_code"`
	UserCode    string `json:"user_code"`
	URI         string `json:"verification_uri"`
	URIComplete string `json:"verification_uri_complete"`
	ExpiresIn   int    `json:"expires_in"`
	Interval    int    `json:"interval"`
	Notice      string `json:"login_notice"`
}

type tokenGrant struct {
	Access    string `json:"access_token"`
	Type      string `json:"token_type"`
	ExpiresIn int    `json:"expires_in"`
	Refresh   string `json:"refresh_token"`
	Email     string `json:"email"`
}

// claude is a client of the rig's site. Its waits pass on the rig's clock.
func (r *rig) claude(c *clock) *gatewayClient {
	return &gatewayClient{t: r.t, base: r.srv.URL, do: http.DefaultTransport.RoundTrip, wait: c.pass}
}

// send makes a request without authentication and reads the whole answer.
func (c *gatewayClient) send(method, url, form string, header ...string) reply {
	c.t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(form))
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("User-Agent", "claude-code/2.1.330")
	if method == "POST" {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := c.do(req)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, url, err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	return reply{res.StatusCode, res.Header, string(body), err}
}

func (c *gatewayClient) read(got reply, to any) {
	c.t.Helper()
	if got.header.Get("Cache-Control") != "no-store" || !strings.HasPrefix(got.header.Get("Content-Type"), "application/json") {
		c.t.Errorf("headers: %v", got.header)
	}
	if err := json.Unmarshal([]byte(got.body), to); err != nil {
		c.t.Fatalf("%v: %s", err, got.body)
	}
}

// discover takes an endpoint from the metadata only if it is on the origin of
// the base URL; else it uses the default path, and no revocation.
func (c *gatewayClient) discover() {
	c.t.Helper()
	c.read(c.send("GET", c.base+"/.well-known/oauth-authorization-server", "").mustBe(c.t, 200), &c.endpoints)
	origin := regexp.MustCompile(`^https?://[^/]+`).FindString(c.base)
	for _, e := range []struct {
		endpoint *string
		path     string
	}{{&c.endpoints.Device, "/oauth/device_authorization"}, {&c.endpoints.Token, "/oauth/token"}, {&c.endpoints.Revoke, ""}} {
		if !strings.HasPrefix(*e.endpoint, origin+"/") {
			*e.endpoint = ""
			if e.path != "" {
				*e.endpoint = c.base + e.path
			}
		}
	}
}

func (c *gatewayClient) begin(form string) {
	c.t.Helper()
	c.device = deviceGrant{}
	c.read(c.send("POST", c.endpoints.Device, form).mustBe(c.t, 200), &c.device)
	c.interval = time.Duration(c.device.Interval) * time.Second
	if len(c.device.DeviceCode) < 43 || !regexp.MustCompile(`^[BCDFGHJKLMNPQRSTVWXZ]{4}-[BCDFGHJKLMNPQRSTVWXZ]{4}$`).MatchString(c.device.UserCode) ||
		c.device.ExpiresIn != 600 || c.interval != 5*time.Second || c.device.URIComplete != c.device.URI+"?user_code="+c.device.UserCode {
		c.t.Errorf("began with %+v", c.device)
	}
}

// poll waits for the interval and asks once. It returns the error it was told,
// "" for tokens.
func (c *gatewayClient) poll() string {
	c.t.Helper()
	c.wait(c.interval)
	return c.ask()
}

func (c *gatewayClient) ask() string {
	c.t.Helper()
	return c.token(url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "device_code": {c.device.DeviceCode}})
}

func (c *gatewayClient) token(form url.Values) string {
	c.t.Helper()
	got := c.send("POST", c.endpoints.Token, form.Encode())
	var answer struct {
		tokenGrant
		Error string `json:"error"`
	}
	c.read(got, &answer)
	switch {
	case got.status == 200 && answer.Error == "":
		c.tokens = answer.tokenGrant
		if c.tokens.Type != "Bearer" || c.tokens.ExpiresIn < 1 || !strings.HasPrefix(c.tokens.Access, "cba_") || !strings.HasPrefix(c.tokens.Refresh, "cbr_") {
			c.t.Errorf("tokens: %s", got.body)
		}
	case answer.Error == "slow_down":
		c.interval += 5 * time.Second
	case got.status != 400 && got.status != 401 || answer.Error == "":
		c.t.Errorf("status %d: %s", got.status, got.body)
	}
	return answer.Error
}

func (c *gatewayClient) refresh() string {
	c.t.Helper()
	return c.token(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {c.tokens.Refresh}})
}

// signOut revokes both tokens, as Claude Code does.
func (c *gatewayClient) signOut() {
	c.t.Helper()
	c.send("POST", c.endpoints.Revoke, url.Values{"token": {c.tokens.Access}}.Encode()).mustBe(c.t, 200)
	c.send("POST", c.endpoints.Revoke, url.Values{"token": {c.tokens.Refresh}, "token_type_hint": {"refresh_token"}}.Encode()).mustBe(c.t, 200)
}

// bearer is the header of everything else.
func (c *gatewayClient) bearer() []string {
	return []string{"Authorization", "Bearer " + c.tokens.Access}
}

// message works with the token.
func (c *gatewayClient) message(model string) reply {
	c.t.Helper()
	return c.send("POST", c.base+"/v1/messages?beta=true", messageBody(model, false),
		append(c.bearer(), "Content-Type", "application/json", "Anthropic-Version", "2023-06-01")...)
}

// person approves in a browser: it opens the page, fills in its form and sends
// it as the page says.
type person struct {
	*gatewayClient
	header []string // what a browser would send along by itself
}

var inputs = regexp.MustCompile(`<input [^>]*name="([a-z_]+)"[^>]*>`)

// open returns the fields of the page's form with their values.
func (p person) open(page string) url.Values {
	p.t.Helper()
	got := p.send("GET", page, "", p.header...).mustBe(p.t, 200)
	if !strings.Contains(got.body, `<form class="panel" method="post" action="device">`) || strings.Contains(got.body, "<script") {
		p.t.Fatalf("the page: %s", got.body)
	}
	form := make(url.Values)
	for _, input := range inputs.FindAllStringSubmatch(got.body, -1) {
		value := ""
		if v := regexp.MustCompile(`value="([^"]*)"`).FindStringSubmatch(input[0]); v != nil {
			value = html.UnescapeString(v[1])
		}
		form.Set(input[1], value)
	}
	return form
}

// decide sends the form.
func (p person) decide(form url.Values, decision string, header ...string) reply {
	p.t.Helper()
	form.Set("decision", decision)
	header = append(append([]string{"Origin", p.base, "Sec-Fetch-Site", "same-origin"}, p.header...), header...)
	return p.send("POST", p.base+"/device", form.Encode(), header...)
}

// approve goes the whole way with a client key.
func (p person) approve(key string) reply {
	p.t.Helper()
	form := p.open(p.device.URIComplete)
	if form.Get("user_code") != p.device.UserCode {
		p.t.Fatalf("the page shows the code %q", form.Get("user_code"))
	}
	form.Set("key", key)
	return p.decide(form, "approve").mustBe(p.t, 200)
}

// signIn goes the whole way.
func (c *gatewayClient) signIn(key string) {
	c.t.Helper()
	c.discover()
	c.begin("surface=claude_code")
	person{gatewayClient: c}.approve(key)
	if e := c.poll(); e != "" {
		c.t.Fatalf("signing in: %s", e)
	}
}

// mustEnd is the answer to a token that counts no more: it prompts for /login at
// once.
func mustEnd(t testing.TB, got reply) {
	t.Helper()
	got.mustBe(t, 401)
	if got.errorType(t) != "authentication_error" || got.header.Get("X-Should-Retry") != "false" || !strings.Contains(got.errorMessage(t), "/login") {
		t.Errorf("answer: %v %s", got.header, got.body)
	}
}

func (g tokenGrant) String() string { return fmt.Sprintf("%.8s…, %.8s…", g.Access, g.Refresh) }
