package dashboard

import (
	"net/http"
	"testing"

	"github.com/claude-balancer/claude-balancer/api"
)

func TestTheSiteOwnsItsPathsAndNoOthers(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]bool{
		"/":                   true,
		"/dashboard":          true,
		"/dashboard/":         true,
		"/dashboard/app.js":   true,
		"/health":             true,
		"/health/ready":       true,
		"/api/":               true,
		"/api/stats":          true,
		"/api/no-such":        true,
		"":                    false,
		"/api":                false,
		"/apis":               false,
		"/dashboards":         false,
		"/health/":            false,
		"/health/live":        false,
		"/healthy":            false,
		"/v1/messages":        false,
		"/v1/api/stats":       false,
		"/favicon.ico":        false,
		"/Dashboard":          false,
		"//dashboard":         false,
		"/x/dashboard/app.js": false,
	} {
		if got := Owns(path); got != want {
			t.Errorf("Owns(%q) = %t", path, got)
		}
	}
}

func TestProbesOfClientsGetAnEmpty200(t *testing.T) {
	t.Parallel()
	for _, enabled := range []bool{true, false} {
		for _, path := range []string{"/", "/api/hello"} {
			answer, body := ask(t, New(Options{Enabled: enabled, Backend: &fakeBackend{}}), http.MethodHead, path)
			if answer.StatusCode != http.StatusOK || body != "" {
				t.Errorf("HEAD %s (enabled %t) = %d %q", path, enabled, answer.StatusCode, body)
			}
		}
	}
}

func TestHeadAnswersLikeGetWithoutABody(t *testing.T) {
	t.Parallel()
	site := newSite(&fakeBackend{health: api.Health{Available: 1}})
	for _, path := range []string{"/dashboard", "/dashboard/app.js", "/health", "/health/ready", "/api/stats", "/api/accounts", "/api/requests"} {
		got, _ := ask(t, site, http.MethodGet, path)
		head, body := ask(t, site, http.MethodHead, path)
		if head.StatusCode != got.StatusCode || body != "" || head.ContentLength != got.ContentLength {
			t.Errorf("HEAD %s = %d, length %d; GET = %d, length %d", path, head.StatusCode, head.ContentLength, got.StatusCode, got.ContentLength)
		}
	}
}

func TestWritingMethodsAreRefused(t *testing.T) {
	t.Parallel()
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		for _, path := range []string{"/", "/dashboard", "/health", "/api/stats", "/api/requests", "/api/no-such"} {
			answer, body := ask(t, newSite(&fakeBackend{}), method, path)
			if answer.StatusCode != http.StatusMethodNotAllowed || answer.Header.Get("Allow") != "GET, HEAD, OPTIONS" {
				t.Errorf("%s %s = %d, Allow %q", method, path, answer.StatusCode, answer.Header.Get("Allow"))
			}
			if want := `{"error":"` + method + ` is not allowed here; use GET"}`; body != want {
				t.Errorf("%s %s said %s", method, path, body)
			}
		}
	}
}

func TestUnknownPathsGetThePlainErrorForm(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/api/", "/api/hello", "/api/config", "/api/stats/", "/dashboard/no-such.js", "/dashboard/../dashboard.go", "/dashboard/vendor/"} {
		answer, body := ask(t, newSite(&fakeBackend{}), http.MethodGet, path)
		if answer.StatusCode != http.StatusNotFound || body != `{"error":"there is nothing at this path"}` {
			t.Errorf("GET %s = %d %s", path, answer.StatusCode, body)
		}
	}
}

func TestASwitchedOffDashboardStillAnswersHealthChecks(t *testing.T) {
	t.Parallel()
	site := New(Options{Backend: &fakeBackend{health: api.Health{Status: "ok", Available: 1}}})
	for path, want := range map[string]int{
		"/":                 http.StatusNotFound,
		"/dashboard":        http.StatusNotFound,
		"/dashboard/app.js": http.StatusNotFound,
		"/api/stats":        http.StatusNotFound,
		"/api/events":       http.StatusNotFound,
		"/health":           http.StatusOK,
		"/health/ready":     http.StatusOK,
	} {
		if answer, _ := ask(t, site, http.MethodGet, path); answer.StatusCode != want {
			t.Errorf("GET %s = %d, want %d", path, answer.StatusCode, want)
		}
	}
}

func TestOnlyListedOriginsAndTheSitesOwnMayReadAnswers(t *testing.T) {
	t.Parallel()
	site := New(Options{Enabled: true, Backend: &fakeBackend{}, CORS: []string{"https://ops.example.com", "https://Other.example.com/"}})
	for origin, want := range map[string]bool{
		"https://ops.example.com":          true,
		"HTTPS://OPS.EXAMPLE.COM":          true,
		"https://other.example.com":        true,
		"http://ops.example.com":           false,
		"https://ops.example.com:8443":     false,
		"https://ops.example.com.evil.com": false,
		"https://evil.com":                 false,
		"null":                             false,
		"*":                                false,
	} {
		answer, _ := ask(t, site, http.MethodGet, "/api/stats", "Origin", origin)
		wantHeader := ""
		if want {
			wantHeader = origin
		}
		if got := answer.Header.Get("Access-Control-Allow-Origin"); got != wantHeader {
			t.Errorf("origin %s: allowed %q", origin, got)
		}
		if answer.Header.Get("Vary") != "Origin" {
			t.Errorf("origin %s: Vary is %q", origin, answer.Header.Get("Vary"))
		}
		if answer.Header.Get("Access-Control-Allow-Credentials") != "" {
			t.Errorf("origin %s: credentials allowed", origin)
		}
	}
}

func TestTheSitesOwnOriginIsTheHostItWasAskedAt(t *testing.T) {
	t.Parallel()
	for origin, want := range map[string]string{
		"http://balancer.example": "http://balancer.example",
		"https://elsewhere.test":  "",
		// The connection has no TLS: another scheme is another origin.
		"https://balancer.example": "",
	} {
		answer := serve(newSite(&fakeBackend{}), http.MethodGet, "http://balancer.example/api/stats", "Origin", origin)
		if got := answer.Header().Get("Access-Control-Allow-Origin"); got != want {
			t.Errorf("origin %s: allowed %q", origin, got)
		}
	}
}

func TestPreflightsGet204AndHeadersOnlyForAllowedOrigins(t *testing.T) {
	t.Parallel()
	site := New(Options{Enabled: true, Backend: &fakeBackend{}, CORS: []string{"https://ops.example.com"}})
	for origin, want := range map[string]string{"https://ops.example.com": "Authorization", "https://evil.com": "", "": ""} {
		answer, body := ask(t, site, http.MethodOptions, "/api/stats", "Origin", origin, "Access-Control-Request-Method", "GET")
		if answer.StatusCode != http.StatusNoContent || body != "" {
			t.Errorf("origin %q: OPTIONS = %d %q", origin, answer.StatusCode, body)
		}
		if got := answer.Header.Get("Access-Control-Allow-Headers"); got != want {
			t.Errorf("origin %q: allowed headers %q", origin, got)
		}
	}
}
