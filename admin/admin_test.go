package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/secret"
)

func TestEveryRouteAsksTheBackendForWhatItNames(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		method, path, body string
		status             int
		asked              any
	}{
		{"GET", "/accounts/work", "", 200, "work"},
		{
			"POST", "/accounts", `{"name":"new","plan_type":"api","api_key":"sk-1","models":["a","b"],"priority":-1,"weight":2,"max_in_flight":3}`, 201,
			api.NewAccount{Name: "new", PlanType: "api", APIKey: secret.New("sk-1"), Models: []string{"a", "b"}, Priority: ptr(-1), Weight: ptr(2), MaxInFlight: ptr(3)},
		},
		{
			"POST", "/accounts", `{"name":"new","plan_type":"max","credentials":{"claudeAiOauth":{}}}`, 201,
			api.NewAccount{Name: "new", PlanType: "max", Credentials: json.RawMessage(`{"claudeAiOauth":{}}`)},
		},
		{
			"POST", "/accounts", `{"name":"new","plan_type":"max","refresh_token":"r","access_token":"a","expires_at":5}`, 201,
			api.NewAccount{Name: "new", PlanType: "max", RefreshToken: secret.New("r"), AccessToken: secret.New("a"), ExpiresAt: ptr[int64](5)},
		},
		{
			"PATCH", "/accounts/work", `{"paused":true,"models":null,"weight":4}`, 200,
			api.AccountPatch{Paused: api.Field[bool]{Set: true, Value: ptr(true)}, Models: api.Field[[]string]{Set: true}, Weight: api.Field[int]{Set: true, Value: ptr(4)}},
		},
		{"DELETE", "/accounts/work", "", 204, "work"},
		{"POST", "/accounts/work/refresh", "", 200, "work"},
		{"POST", "/accounts/work/clear_limits", "{}", 200, "work"},
		{"POST", "/login", `{"name":"new","plan_type":"max"}`, 201, api.LoginRequest{Name: "new", PlanType: "max"}},
		{"POST", "/login/login%2Fnew%2Fmax", `{"code":"CODE#STATE"}`, 201, api.LoginCode{Code: secret.New("CODE#STATE")}},
		{"GET", "/requests?limit=7&before=r1&outcome=ok&account=a%20b&model=m&client=c", "", 200, api.RequestQuery{Limit: 7, Before: "r1", Outcome: "ok", Account: "a b", Model: "m", Client: "c"}},
		{"DELETE", "/requests", "", 200, "cleared"},
		{"GET", "/stats", "", 200, time.Time{}},
		{"GET", "/stats?since=24h", "", 200, testNow.Add(-24 * time.Hour)},
		{"POST", "/stats/reset", "", 204, "reset"},
		{"GET", "/explain?model=claude-opus-4&session=s&key=k", "", 200, api.ExplainQuery{Model: "claude-opus-4", Session: "s", Key: "k"}},
		{"POST", "/keys", `{"name":"ci","role":"viewer","budget_usd":2.5}`, 201, api.NewKey{Name: "ci", Role: "viewer", BudgetUSD: ptr(2.5)}},
		{"PATCH", "/keys/ci", `{"expires_at":null,"rpm":5}`, 200, api.KeyPatch{ExpiresAt: api.Field[int64]{Set: true}, RPM: api.Field[int]{Set: true, Value: ptr(5)}}},
		{"DELETE", "/keys/ci", "", 204, "ci"},
		{"POST", "/keys/ci/rotate", "", 200, rotated{"ci", 0}},
		{"POST", "/keys/ci/rotate", `{"grace_seconds":3600}`, 200, rotated{"ci", time.Hour}},
	} {
		b := &fakeBackend{accounts: []api.Account{newAccount("work", api.PlanMax)}}
		status, answer, _ := send(t, serve(t, b), tt.method, prefix+tt.path, tt.body)
		if status != tt.status || !reflect.DeepEqual(b.asked(), tt.asked) {
			t.Errorf("%s %s: status %d %s, asked for %+v; want %d, %+v", tt.method, tt.path, status, answer, b.asked(), tt.status, tt.asked)
		}
		if status == http.StatusNoContent && answer != "" {
			t.Errorf("%s %s: 204 with a body %q", tt.method, tt.path, answer)
		}
	}
}

func TestListsAreNeverNullAndAnswersAreNotCached(t *testing.T) {
	t.Parallel()
	server := serve(t, new(fakeBackend))
	for _, path := range []string{"/accounts", "/requests", "/keys", "/audit"} {
		status, answer, header := send(t, server, "GET", prefix+path, "")
		if status != 200 || answer != "[]\n" {
			t.Errorf("%s: %d %q", path, status, answer)
		}
		if header.Get("Content-Type") != "application/json" || header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: headers %v", path, header)
		}
	}
}

func TestAnAccountMayHaveAnyNameInItsPath(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"a b", "a/b", "a/refresh", "/a", "a/", "..", ".", "a%2Fb", "a?b#c", "ü", "名前", "🎯", "a+b", "a;b", "refresh", `"`, "a\\b"} {
		b := &fakeBackend{accounts: []api.Account{newAccount(name, api.PlanMax)}}
		server := serve(t, b)
		for _, path := range []string{pathOf("accounts", name), pathOf("accounts", name, "refresh")} {
			method := "GET"
			if strings.HasSuffix(path, "/refresh") && path != pathOf("accounts", "refresh") {
				method = "POST"
			}
			status, answer, _ := send(t, server, method, path, "")
			if status != 200 || b.asked() != name {
				t.Errorf("%s %s: %d %s, asked for %v", method, path, status, answer, b.asked())
			}
		}
	}
}

func TestAnyNameButALoneSlashSurvivesThePath(t *testing.T) {
	t.Parallel()
	b := new(fakeBackend)
	server := serve(t, b)
	rapid.Check(t, func(rt *rapid.T) {
		name := rapid.StringN(1, 64, -1).Filter(func(s string) bool { return s != "/" }).Draw(rt, "name")
		send(t, server, "GET", pathOf("accounts", name), "")
		if b.asked() != name {
			rt.Fatalf("%q arrived as %q", name, b.asked())
		}
	})
}

func TestAWrongMethodIsRefusedInJSONWithWhatIsAllowed(t *testing.T) {
	t.Parallel()
	server := serve(t, new(fakeBackend))
	for _, tt := range []struct{ method, path, allow string }{
		{"PUT", "/accounts", "GET, POST"},
		{"DELETE", "/accounts", "GET, POST"},
		{"GET", "/accounts/a/refresh", "POST"},
		{"GET", "/login", "POST"},
		{"POST", "/requests", "GET, DELETE"},
		{"PATCH", "/version", "GET"},
	} {
		status, answer, header := send(t, server, tt.method, prefix+tt.path, "")
		if status != http.StatusMethodNotAllowed || header.Get("Allow") != tt.allow || !strings.HasPrefix(answer, `{"error":"method `+tt.method) {
			t.Errorf("%s %s: %d %s, Allow: %s", tt.method, tt.path, status, answer, header.Get("Allow"))
		}
	}
}

func TestAnUnknownPathIsRefusedInJSON(t *testing.T) {
	t.Parallel()
	server := serve(t, new(fakeBackend))
	for _, path := range []string{"/", "/nothing", "/accounts/a/b/c", "/accounts/", "/keys/a"} {
		status, answer, _ := send(t, server, "GET", prefix+path, "")
		if status != 404 && status != 405 || !strings.HasPrefix(answer, `{"error":"`) {
			t.Errorf("%s: %d %s", path, status, answer)
		}
	}
}

func TestRoutesConflictWithNothingElseOnTheAdminEndpoint(t *testing.T) {
	t.Parallel()
	mux := http.NewServeMux()
	for _, pattern := range []string{"/", "GET /{$}", "/config/", "/id/", "/load", "/pki/"} {
		mux.Handle(pattern, http.NotFoundHandler())
	}
	for _, route := range new(adminAPI).Routes() {
		mux.Handle(route.Pattern, http.NotFoundHandler())
	}
}

func TestErrorsKeepTheirStatusAndSentence(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err    error
		status int
		answer string
	}{
		{api.NotFound("no such thing"), 404, "no such thing"},
		{fmt.Errorf("adding: %w", api.Conflict("taken")), 409, "taken"},
		{&api.Error{Status: 502, Message: "upstream refused"}, 502, "upstream refused"},
		{&api.Error{Status: 200, Message: "odd"}, 500, "the balancer failed: odd"},
		{errors.New("disk full"), 500, "the balancer failed: disk full"},
	} {
		status, answer, _ := send(t, serve(t, &fakeBackend{err: tt.err}), "GET", prefix+"/accounts", "")
		want, _ := json.Marshal(map[string]string{"error": tt.answer})
		if status != tt.status || strings.TrimSpace(answer) != string(want) {
			t.Errorf("%v: got %d %s, want %d %s", tt.err, status, answer, tt.status, want)
		}
	}
}

func TestWithoutALivePoolEveryRouteIsUnavailable(t *testing.T) {
	t.Parallel()
	server := mount(t, &adminAPI{backend: func() (api.Backend, error) {
		return nil, &api.Error{Status: 503, Message: "not yet"}
	}})
	for _, route := range new(adminAPI).routes() {
		path := strings.NewReplacer("{name}", "x", "{id}", "x").Replace(route.path)
		if status, answer, _ := send(t, server, route.method, prefix+path, ""); status != 503 || answer != "{\"error\":\"not yet\"}\n" {
			t.Errorf("%s %s: %d %s", route.method, path, status, answer)
		}
	}
}

func TestAFilteredDeleteDoesNotClearTheHistory(t *testing.T) {
	t.Parallel()
	b := new(fakeBackend)
	status, answer, _ := send(t, serve(t, b), "DELETE", prefix+"/requests?account=work", "")
	if status != 400 || b.asked() != nil {
		t.Errorf("got %d %s, asked %v", status, answer, b.asked())
	}
}

func TestQueriesThatCannotBeReadAreRefused(t *testing.T) {
	t.Parallel()
	server := serve(t, new(fakeBackend))
	for _, path := range []string{"/requests?limit=0", "/requests?limit=1001", "/requests?outcome=bad", "/requests?a=%zz", "/stats?since=later", "/stats?sinse=1h", "/requests?limit=5&limit=6", "/requests?acount=a", "/explain?plan=max", "/explain?a=b;c"} {
		if status, answer, _ := send(t, server, "GET", prefix+path, ""); status != 400 {
			t.Errorf("%s: %d %s", path, status, answer)
		}
	}
}

func TestALoginURLIsReadableInTheRawAnswer(t *testing.T) {
	t.Parallel()
	_, answer, _ := send(t, serve(t, new(fakeBackend)), "POST", prefix+"/login", `{"name":"a","plan_type":"max"}`)
	if !strings.Contains(answer, testURL) {
		t.Errorf("the URL is escaped: %s", answer)
	}
	if _, err := url.Parse(testURL); err != nil {
		t.Fatal(err)
	}
}
