package oauth

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/secret"
)

// counter is a login's surroundings: a provider, a clock, and the query of the
// authorize URL.
type counter struct {
	*Logins
	p   *provider
	now time.Time
}

func newCounter(preset string) *counter {
	c := &counter{p: newProvider(), now: time.Now()}
	e, _ := Preset(preset)
	c.Logins = NewLogins(func() *Client { return &Client{HTTP: c.p, Endpoints: e} }, func() time.Time { return c.now })
	c.p.codes["CODE"] = "x"
	return c
}

func stateOf(t *testing.T, p Pending) string {
	t.Helper()
	u, err := url.Parse(p.URL)
	if err != nil {
		t.Fatal(err)
	}
	return u.Query().Get("state")
}

func assertStatus(t *testing.T, err error, status int, words string) {
	t.Helper()
	if refused, ok := errors.AsType[*api.Error](err); !ok || refused.Status != status || !strings.Contains(refused.Message, words) {
		t.Errorf("got %v, want a refusal with status %d and %q", err, status, words)
	}
}

func TestALoginTakesEachFormOfTheCodeOnce(t *testing.T) {
	t.Parallel()
	for name, form := range map[string]string{
		"code and state":   "CODE#STATE",
		"with white space": "  CODE#STATE\r\n",
		"bare code":        "CODE",
		"empty state":      "CODE#",
		"URL":              "https://platform.claude.com/oauth/code/callback?code=CODE&state=STATE",
		"URL, other order": "https://platform.claude.com/oauth/code/callback?state=STATE&code=CODE",
		"no scheme":        "platform.claude.com/oauth/code/callback?code=CODE&state=STATE",
		"fragment":         "https://platform.claude.com/oauth/code/callback?code=CODE#STATE",
		"loopback":         "http://localhost:54545/callback?code=CODE",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCounter("current")
			started := c.Start("work", "max", "id-7")
			pasted := secret.New(strings.ReplaceAll(form, "STATE", stateOf(t, started)))
			done, err := c.Finish(t.Context(), started.ID, pasted)
			if err != nil || done.Name != "work" || done.Plan != "max" || done.ReplaceID != "id-7" || done.Grant.Refresh.Reveal() != refresh(1) {
				t.Fatalf("got %+v, %v", done, err)
			}
			if got := c.p.calls[0].body; got["state"] != stateOf(t, started) || got["code"] != "CODE" {
				t.Errorf("sent %v", got)
			}
			_, err = c.Finish(t.Context(), started.ID, pasted)
			assertStatus(t, err, http.StatusNotFound, "start a new one")
		})
	}
}

func TestLoginsHaveChallengesAndStatesOfTheirOwn(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	c := newCounter("current")
	for range 50 {
		p := c.Start("work", "console", "")
		u, _ := url.Parse(p.URL)
		for _, v := range []string{p.ID, u.Query().Get("state"), u.Query().Get("code_challenge")} {
			if len(v) != 43 || seen[v] {
				t.Fatalf("%q is short or used twice", v)
			}
			seen[v] = true
		}
	}
}

func TestALegacyLoginHasItsVerifierAsState(t *testing.T) {
	t.Parallel()
	c := newCounter("legacy")
	started := c.Start("work", "max", "")
	if _, err := c.Finish(t.Context(), started.ID, secret.New("CODE#"+stateOf(t, started))); err != nil {
		t.Fatal(err)
	}
	if got := c.p.calls[0].body; got["state"] != got["code_verifier"] || got["state"] != stateOf(t, started) {
		t.Errorf("sent %v", got)
	}
}

func TestWhatNeverReachedTheProviderDoesNotEndALogin(t *testing.T) {
	t.Parallel()
	c := newCounter("current")
	started := c.Start("work", "max", "")
	for pasted, words := range map[string]string{
		"":                                    "the code is empty",
		" \n":                                 "the code is empty",
		"CODE#wrong":                          "state does not match",
		"two words":                           "a space",
		"c\x00de":                             "a space",
		"çode":                                "a space",
		"#STATE":                              "missing",
		"CODE#a#b":                            "more than one #",
		access(1):                             "not a code",
		"https://x.y/z":                       "no code",
		"https://x.y/?a":                      "no code",
		"https://x.y/z?code=%zz&state=a":      "cannot be read",
		"https://x.y/z?code=a%20b":            "no code",
		"https://x.y/z?code=CODE&state=wrong": "state does not match",
		"https://x.y/z?error=access_denied&error_description=No+way": "access_denied: No way",
		"https://x.y/z?error=access_denied":                          "the provider refused the login: access_denied; start",
		started.URL:                                                  "the URL to open",
		strings.Repeat("x", maxPasted+1):                             "longer",
	} {
		_, err := c.Finish(t.Context(), started.ID, secret.New(pasted))
		assertStatus(t, err, http.StatusBadRequest, words)
	}
	if c.p.count() != 0 {
		t.Fatal("the provider was asked")
	}
	if _, err := c.Finish(t.Context(), started.ID, secret.New("CODE")); err != nil {
		t.Error(err)
	}
}

func TestARefusedCodeEndsTheLoginAndSaysWhy(t *testing.T) {
	t.Parallel()
	c := newCounter("current")
	started := c.Start("work", "max", "")
	_, err := c.Finish(t.Context(), started.ID, secret.New("OTHER"))
	assertStatus(t, err, http.StatusBadRequest, "the provider refused the login: invalid_grant: Invalid 'code' in request; start a new one")
	_, err = c.Finish(t.Context(), started.ID, secret.New("CODE"))
	assertStatus(t, err, http.StatusNotFound, "unknown, used or expired")
}

func TestAFailureOnTheWayIsNotTheAskersFault(t *testing.T) {
	t.Parallel()
	c := newCounter("current")
	c.p.refuse = refuseAll(503, "")
	_, err := c.Finish(t.Context(), c.Start("work", "max", "").ID, secret.New("CODE"))
	if _, refused := errors.AsType[*api.Error](err); err == nil || refused || !strings.Contains(err.Error(), "status 503") {
		t.Errorf("got %v", err)
	}
}

func TestALoginEndsAfterTenMinutes(t *testing.T) {
	t.Parallel()
	c := newCounter("current")
	started := c.Start("work", "max", "")
	if started.ExpiresAt != c.now.Add(10*time.Minute) {
		t.Errorf("expires %v", started.ExpiresAt)
	}
	c.now = c.now.Add(10 * time.Minute)
	_, err := c.Finish(t.Context(), started.ID, secret.New("CODE"))
	assertStatus(t, err, http.StatusNotFound, "expired")
	_, err = c.Finish(t.Context(), "no such id", secret.New("CODE"))
	assertStatus(t, err, http.StatusNotFound, "unknown")
}

func TestTheOldestOfTooManyLoginsEnds(t *testing.T) {
	t.Parallel()
	c := newCounter("current")
	var all []Pending
	for range maxLogins + 1 {
		all = append(all, c.Start("work", "max", ""))
	}
	_, err := c.Finish(t.Context(), all[0].ID, secret.New("CODE"))
	assertStatus(t, err, http.StatusNotFound, "unknown")
	if _, err := c.Finish(t.Context(), all[1].ID, secret.New("CODE")); err != nil {
		t.Error(err)
	}
	if len(c.waiting) != maxLogins-1 {
		t.Errorf("%d logins wait", len(c.waiting))
	}
}

func TestALoginEndsAtTheEndpointsItBeganWith(t *testing.T) {
	t.Parallel()
	c := newCounter("current")
	started := c.Start("work", "max", "")
	e, _ := Preset("legacy")
	c.client = func() *Client { return &Client{HTTP: c.p, Endpoints: e} } // a reload
	if _, err := c.Finish(t.Context(), started.ID, secret.New("CODE")); err != nil {
		t.Fatal(err)
	}
	if got := c.p.calls[0].body["redirect_uri"]; got != "https://platform.claude.com/oauth/code/callback" {
		t.Errorf("sent %s", got)
	}
}

func FuzzParsePasted(f *testing.F) {
	for _, s := range []string{"CODE#STATE", "CODE", "", "#", "https://x/y?code=C&state=S", "x?code=C#S", "?", "%?%#%", "code=a", "sk-ant-x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		code, state, err := parsePasted(secret.New(s))
		if err != nil {
			if refused, ok := errors.AsType[*api.Error](err); !ok || refused.Status != http.StatusBadRequest {
				t.Fatalf("%q: %v", s, err)
			}
			if len(err.Error()) > 2*maxText+200 {
				t.Fatalf("%q: the error is %d bytes long", s, len(err.Error()))
			}
			return
		}
		raw := code.Reveal()
		if raw == "" || strings.ContainsAny(raw, " #\n\x00") && !strings.Contains(s, "?") || len(raw) > maxPasted {
			t.Fatalf("%q: code %q, state %q", s, raw, state)
		}
		again, sameState, err := parsePasted(secret.New(raw + "#" + state))
		if !strings.ContainsAny(raw, "?#:") && !strings.HasPrefix(raw, "sk-ant-") && !strings.ContainsFunc(state, notInCodes) && !strings.Contains(state, "#") {
			if err != nil || !again.Equal(code) || sameState != state {
				t.Fatalf("%q: code %q, state %q, then %q, %q, %v", s, raw, state, again.Reveal(), sameState, err)
			}
		}
	})
}
