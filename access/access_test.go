package access_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/claude-balancer/claude-balancer/access"
	"github.com/claude-balancer/claude-balancer/anthropic"
	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/secret"
	"github.com/claude-balancer/claude-balancer/store"
)

func TestModesHaveTheirWords(t *testing.T) {
	t.Parallel()
	for _, word := range []string{"local", "keys", "open"} {
		if m, err := access.ParseMode(word); err != nil || m.String() != word {
			t.Errorf("%s: got %s, %v", word, m, err)
		}
	}
	for _, word := range []string{"", "Local", "off"} {
		if _, err := access.ParseMode(word); err == nil || !strings.Contains(err.Error(), "local, keys or open") {
			t.Errorf("%q: %v", word, err)
		}
	}
}

// house is a ring with one key of each kind, and a bad credential of each kind.
type house struct {
	ring                    *access.Keyring
	client, viewer          secret.String
	expired, revoked, wrong secret.String
}

func newHouse(t *testing.T) house {
	c := newClock()
	client, clientCredential := stored(t, "client")
	viewer, viewerCredential := stored(t, "viewer", func(k *store.Key) { k.Role = api.RoleViewer })
	expired, expiredCredential := stored(t, "expired", func(k *store.Key) { k.ExpiresAt = noon })
	revoked, revokedCredential := stored(t, "revoked")
	ring := access.NewKeyring(c.Now)
	ring.Sync([]store.Key{client, viewer, expired, revoked}, nil, nil)
	ring.Sync([]store.Key{client, viewer, expired}, nil, nil)
	return house{ring, clientCredential, viewerCredential, expiredCredential, revokedCredential, newCredential(t)}
}

var far = peer("203.0.113.7")

func TestWhoGetsInToTheAPI(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	const own = "sk-ant-oat01-x"
	type caller struct {
		peer          access.Peer
		apiKey        string
		authorization string
	}
	callers := map[string]caller{
		"local, nothing":            {loopback, "", ""},
		"local, own token":          {loopback, "", "Bearer " + own},
		"local, key":                {loopback, h.client.Reveal(), ""},
		"local, bad key":            {loopback, h.wrong.Reveal(), ""},
		"local, mistyped key":       {loopback, "cb_x", ""},
		"local, viewer":             {loopback, h.viewer.Reveal(), ""},
		"far, nothing":              {far, "", ""},
		"far, own token":            {far, "", "Bearer " + own},
		"far, key":                  {far, h.client.Reveal(), ""},
		"far, bearer key":           {far, "", "Bearer " + h.client.Reveal()},
		"far, own token and key":    {far, own, "Bearer " + h.client.Reveal()},
		"far, bad and good key":     {far, h.revoked.Reveal(), "Bearer " + h.client.Reveal()},
		"far, revoked key":          {far, h.revoked.Reveal(), ""},
		"far, expired key":          {far, "", "Bearer " + h.expired.Reveal()},
		"far, viewer":               {far, h.viewer.Reveal(), ""},
		"far, key as Basic":         {far, "", basic(h.client)},
		"Unix socket, nothing":      {access.Peer{Unix: true}, "", ""},
		"Unix socket, key":          {access.Peer{Unix: true}, h.client.Reveal(), ""},
		"address unknown, nothing":  {access.Peer{}, "", ""},
		"local, bad key as Basic":   {loopback, "", basic(h.wrong)},
		"local, key beside a token": {loopback, own, "Bearer " + h.client.Reveal()},
	}
	want := map[string][3]int{ // status in the modes local, keys, open; 0 = let in
		"local, nothing":            {0, 401, 0},
		"local, own token":          {0, 401, 0},
		"local, key":                {0, 0, 0},
		"local, bad key":            {401, 401, 401},
		"local, mistyped key":       {401, 401, 401},
		"local, viewer":             {403, 403, 403},
		"far, nothing":              {401, 401, 0},
		"far, own token":            {401, 401, 0},
		"far, key":                  {0, 0, 0},
		"far, bearer key":           {0, 0, 0},
		"far, own token and key":    {0, 0, 0},
		"far, bad and good key":     {0, 0, 0},
		"far, revoked key":          {401, 401, 401},
		"far, expired key":          {401, 401, 401},
		"far, viewer":               {403, 403, 403},
		"far, key as Basic":         {401, 401, 0},
		"Unix socket, nothing":      {401, 401, 0},
		"Unix socket, key":          {0, 0, 0},
		"address unknown, nothing":  {401, 401, 0},
		"local, bad key as Basic":   {0, 401, 0},
		"local, key beside a token": {0, 0, 0},
	}
	for name, c := range callers {
		for mode, status := range want[name] {
			r := localRequest("POST")
			setIf(r, "X-Api-Key", c.apiKey)
			setIf(r, "Authorization", c.authorization)
			who, refusal := access.Decide(access.Mode(mode), r, c.peer, h.ring)
			if got := statusOf(refusal); got != status {
				t.Errorf("%s, mode %s: status %d, want %d", name, access.Mode(mode), got, status)
			}
			if refusal != nil {
				checkRefusal(t, name, refusal)
				if refusal.Header.Get("WWW-Authenticate") != "" {
					t.Errorf("%s: asks for Basic, which is never accepted", name)
				}
			}
			if wantLocal := c.peer == loopback && access.Mode(mode) != access.ModeKeys; who.Local != wantLocal || who.Local != (who.Reason == "") {
				t.Errorf("%s, mode %s: local = %v (%q)", name, access.Mode(mode), who.Local, who.Reason)
			}
			if hasKey := strings.Contains(c.apiKey+c.authorization, h.client.Reveal()); hasKey != (who.Key != nil && who.Key.Name == "client") {
				t.Errorf("%s, mode %s: key %v", name, access.Mode(mode), who.Key)
			}
		}
	}
}

func setIf(r *http.Request, name, value string) {
	if value != "" {
		r.Header.Set(name, value)
	}
}

func basic(password secret.String) string {
	r := httptest.NewRequest("GET", "/", nil)
	r.SetBasicAuth("anyone", password.Reveal())
	return r.Header.Get("Authorization")
}

func statusOf(r *access.Refusal) int {
	if r == nil {
		return 0
	}
	return r.Status
}

func checkRefusal(t *testing.T, name string, r *access.Refusal) {
	t.Helper()
	if r.Header.Get("X-Should-Retry") != "false" || !strings.HasSuffix(r.Message, ".") || strings.Contains(r.Message, "cb_") {
		t.Errorf("%s: %+v", name, r)
	}
	if want := map[int]string{401: "authentication_error", 403: "permission_error", 404: "not_found_error"}[r.Status]; r.Type != want {
		t.Errorf("%s: type %s, want %s", name, r.Type, want)
	}
}

func TestAllBadKeysGetTheSameAnswer(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for _, s := range []secret.String{h.expired, h.revoked, h.wrong, secret.New("cb_x")} {
		r := localRequest("POST", "X-Api-Key", s.Reveal())
		_, refusal := access.Decide(access.ModeLocal, r, far, h.ring)
		if refusal == nil || !refusal.BadKey || refusal.Message != "This client key is not good: it is unknown, expired, revoked or not copied whole. Ask the operator for a new one." {
			t.Errorf("got %+v", refusal)
		}
	}
	if _, refusal := access.Decide(access.ModeLocal, localRequest("POST"), far, h.ring); refusal == nil || refusal.BadKey || !strings.Contains(refusal.Message, "x-api-key") {
		t.Errorf("without a key: %+v", refusal)
	}
}

func TestWhoGetsInToTheDashboard(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for name, tc := range map[string]struct {
		peer   access.Peer
		header [2]string
		want   [3]int
	}{
		"local":                {loopback, [2]string{}, [3]int{0, 401, 0}},
		"local, viewer":        {loopback, [2]string{"Authorization", basic(h.viewer)}, [3]int{0, 0, 0}},
		"local, bad key":       {loopback, [2]string{"Authorization", basic(h.wrong)}, [3]int{401, 401, 401}},
		"local, other Basic":   {loopback, [2]string{"Authorization", basic(secret.New("hunter2"))}, [3]int{0, 401, 0}},
		"far":                  {far, [2]string{}, [3]int{401, 401, 0}},
		"far, viewer":          {far, [2]string{"Authorization", basic(h.viewer)}, [3]int{0, 0, 0}},
		"far, client":          {far, [2]string{"Authorization", basic(h.client)}, [3]int{401, 401, 401}},
		"far, revoked":         {far, [2]string{"Authorization", basic(h.revoked)}, [3]int{401, 401, 401}},
		"far, other Basic":     {far, [2]string{"Authorization", basic(secret.New("hunter2"))}, [3]int{401, 401, 0}},
		"far, viewer's bearer": {far, [2]string{"Authorization", "Bearer " + h.viewer.Reveal()}, [3]int{401, 401, 0}},
		"far, viewer's header": {far, [2]string{"X-Api-Key", h.viewer.Reveal()}, [3]int{401, 401, 0}},
		"Unix socket":          {access.Peer{Unix: true}, [2]string{}, [3]int{401, 401, 0}},
	} {
		for mode, status := range tc.want {
			r := localRequest("GET")
			setIf(r, tc.header[0], tc.header[1])
			_, refusal := access.DecideDashboard(access.Mode(mode), r, tc.peer, h.ring)
			if got := statusOf(refusal); got != status {
				t.Errorf("%s, mode %s: status %d, want %d", name, access.Mode(mode), got, status)
			}
			if refusal != nil {
				checkRefusal(t, name, refusal)
				if !strings.HasPrefix(refusal.Header.Get("WWW-Authenticate"), "Basic realm=") {
					t.Errorf("%s: a browser would not ask for a key", name)
				}
			}
		}
	}
}

func TestWhichEndpointsAClientMayUse(t *testing.T) {
	t.Parallel()
	_, client, _ := oneKey(t, newClock())
	_, restricted, _ := oneKey(t, newClock(), func(k *store.Key) { k.Models = []string{"*haiku*"} })
	_, viewer, _ := oneKey(t, newClock(), func(k *store.Key) { k.Role = api.RoleViewer })
	for e := anthropic.Other; e <= anthropic.Denied; e++ {
		if access.MayProxy(access.Who{Local: true, Key: viewer}, e) {
			t.Errorf("a viewer may use endpoint %v", e)
		}
	}
	ordinary := []anthropic.Endpoint{anthropic.Messages, anthropic.CountTokens, anthropic.Models, anthropic.Files, anthropic.Skills}
	for name, tc := range map[string]struct {
		who            access.Who
		batches, other int
	}{
		"local":             {access.Who{Local: true}, 0, 0},
		"local with a key":  {access.Who{Local: true, Key: client}, 0, 403},
		"far with a key":    {access.Who{Key: client}, 0, 403},
		"a restricted key":  {access.Who{Key: restricted}, 403, 403},
		"far, in mode open": {access.Who{}, 0, 403},
	} {
		want := map[anthropic.Endpoint]int{anthropic.Batches: tc.batches, anthropic.Other: tc.other, anthropic.Denied: 404}
		for _, e := range append([]anthropic.Endpoint{anthropic.Batches, anthropic.Other, anthropic.Denied}, ordinary...) {
			refusal := access.RefuseEndpoint(tc.who, e)
			if got := statusOf(refusal); got != want[e] || access.MayProxy(tc.who, e) != (got == 0) {
				t.Errorf("%s, endpoint %v: status %d, want %d", name, e, got, want[e])
			}
			if refusal != nil {
				checkRefusal(t, name, refusal)
			}
		}
	}
}

func TestARefusedModelIsNamedWithWhatTheKeyMayUse(t *testing.T) {
	t.Parallel()
	_, key, _ := oneKey(t, newClock(), func(k *store.Key) { k.Models = []string{"*haiku*", "*sonnet*"} })
	r := key.RefuseModel("claude-opus-4-5")
	if r.Status != 400 || r.Type != "invalid_request_error" || r.Header.Get("X-Should-Retry") != "false" {
		t.Errorf("got %+v", r)
	}
	for _, part := range []string{`"claude-opus-4-5"`, "*haiku*, *sonnet*", `"ci"`} {
		if !strings.Contains(r.Message, part) {
			t.Errorf("%q does not name %s", r.Message, part)
		}
	}
	if r := key.RefuseModel(strings.Repeat("x", 1<<20)); len(r.Message) > 500 {
		t.Errorf("a long model makes a message of %d bytes", len(r.Message))
	}
}
