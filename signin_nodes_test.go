package claudebalancer

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/access"
	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/simulator"
)

// claude is a client of the process's site.
func (p *process) claude(client *http.Client) *gatewayClient {
	return &gatewayClient{t: p.t, base: strings.TrimSuffix(p.url("/"), "/"), do: client.Transport.RoundTrip, wait: func(time.Duration) {}}
}

// at is the same client when its next requests reach another node.
func (c *gatewayClient) at(other *gatewayClient) *gatewayClient {
	moved := *c
	moved.base, moved.endpoints = other.base, other.endpoints
	moved.device.URIComplete = strings.Replace(c.device.URIComplete, c.base, other.base, 1)
	return &moved
}

// Two Caddy processes on one store; each step is answered by the one that did
// not answer the step before.
func TestAnyNodeAnswersAnyStepOfASignIn(t *testing.T) {
	t.Parallel()
	for name, store := range map[string]func(*process) string{
		"SQLite":     func(p *process) string { return "store sqlite " + filepath.Join(p.dir, "shared.db") },
		"PostgreSQL": func(p *process) string { return onPostgres(p.t) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			one := newProcess(t, simulator.Options{})
			line := store(one)
			one.start(one.config(line, "sign_in on\naccess keys"))
			one.add("work", "max")
			var dev api.Key
			if err := json.Unmarshal(one.ask("POST", "/claude_balancer/keys", map[string]any{"name": "dev"}, 201), &dev); err != nil {
				t.Fatal(err)
			}
			two := one.beside()
			two.start(two.config(line, "sign_in on\naccess keys"))

			a, b := one.claude(one.client("1")), two.claude(two.client("2"))
			a.discover()
			b.discover()
			a.begin("")
			c := a.at(b)
			if e := c.ask(); e != "authorization_pending" {
				t.Errorf("before approval: %q", e)
			}
			c = c.at(a)
			person{gatewayClient: c}.approve(dev.Key)
			c = c.at(b)
			c.do = b.do
			if e := c.ask(); e != "" {
				t.Fatalf("after approval: %q", e)
			}
			tokens := c.tokens
			a.tokens, b.tokens = tokens, tokens
			a.message(opus).mustBe(t, 200) // at once, where it was not issued
			b.message(opus).mustBe(t, 200)
			if e := a.refresh(); e != "" {
				t.Fatalf("refresh: %q", e)
			}
			b.tokens = a.tokens
			b.message(opus).mustBe(t, 200)
			b.signOut()
			mustEnd(t, b.message(opus))
			begin := time.Now()
			one.waitFor("the other node knows of it", func() bool { return a.message(opus).status == 401 })
			if took := time.Since(begin); took > 2*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

// A token works over HTTP/1.1, 2 and 3, over a reload in every step, and for a
// user whom Caddy's own basic_auth has authenticated.
func TestASignInOverEveryHTTPVersionAndAReloadInEveryStep(t *testing.T) {
	t.Parallel()
	p := newProcess(t, simulator.Options{})
	// The password is "hiccup".
	site := strings.Replace(p.config("", "sign_in {\nusers\n}\naccess keys"), "bind 127.0.0.1",
		"bind 127.0.0.1\nbasic_auth /device {\nalice $2a$04$ETwLUNa16AnpUHoDcpxbiOQRPMqMgA8nOUuSbfqETjyxyjvh7r/F2\n}", 1)
	p.start(site)
	p.add("work", "max")
	reloads := 0
	reload := func() {
		reloads++
		p.reload(strings.Replace(site, "\tlog {", "\tgrace_period "+strings.Repeat("1", reloads)+"s\n\tlog {", 1), 200)
	}
	// A connection of its own for each request: a reload ends idle ones. Caddy
	// may reset one that arrives while its listener changes hands.
	over := func(version string) func(*http.Request) (*http.Response, error) {
		return func(r *http.Request) (*http.Response, error) {
			res, err := p.client(version).Transport.RoundTrip(r)
			for tries := 0; errors.Is(err, syscall.ECONNRESET) && tries < 3; tries++ {
				if r.GetBody != nil {
					r.Body, _ = r.GetBody()
				}
				res, err = p.client(version).Transport.RoundTrip(r)
			}
			return res, err
		}
	}
	c := p.claude(p.client("1"))
	c.do = over("1")
	c.discover()
	c.begin("")
	reload()
	c.ask()
	someone := person{gatewayClient: c}
	if got := someone.send("GET", c.device.URIComplete, ""); got.status != 401 {
		t.Fatalf("without a password: %d", got.status)
	}
	someone.header = []string{"Authorization", "Basic YWxpY2U6aGljY3Vw"}
	form := someone.open(c.device.URIComplete)
	reload()
	if got := someone.decide(form, "approve"); got.status != 200 || !strings.Contains(got.body, "<strong>alice</strong>") {
		t.Fatalf("%d %s", got.status, got.body)
	}
	reload()
	if e := c.ask(); e != "" {
		t.Fatalf("after approval: %q", e)
	}
	for _, version := range []string{"1", "2", "3"} {
		c.do = over(version)
		reload()
		c.message(opus).mustBe(t, 200)
		if version != "3" {
			if e := c.refresh(); e != "" {
				t.Fatalf("HTTP/%s: refresh: %q", version, e)
			}
		}
	}
}

func TestATokenThatCannotBeLookedUpIsNotTakenForABadOne(t *testing.T) {
	t.Parallel()
	r, _ := signInRig(t)
	token, err := access.KindAccess.New(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	send := func() reply { return r.message(opus, "Authorization", "Bearer "+token.Reveal()) }
	mustEnd(t, send())
	for range cap(r.app.runtime.lookups) { // others wait for a store that does not answer
		r.app.runtime.lookups <- struct{}{}
	}
	if got := send().mustBe(t, 503); got.errorType(t) != "overloaded_error" || got.header.Get("Retry-After") != "5" || got.header.Get("X-Should-Retry") != "" {
		t.Errorf("%v %s", got.header, got.body)
	}
}
