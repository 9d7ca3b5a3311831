package access_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"strings"
	"testing"

	"github.com/claude-balancer/claude-balancer/access"
)

func TestAmbiguousPathsAreRefused(t *testing.T) {
	t.Parallel()
	for _, target := range []string{
		"/.", "/..", "/v1/.", "/v1/..", "/v1/./messages", "/v1/../admin", "/../v1/messages", "/v1/messages/..", "/v1/messages/../oauth/token",
		"//", "//v1/messages", "/v1//messages", "/v1/messages//",
		`/v1\messages`, `/\evil`, "/v1%5Cmessages", "/v1%5cmessages",
		"/v1%2Fmessages", "/v1%2fmessages", "/v1/%2e%2e/admin", "/v1/%2E./admin", "/v1/.%2e/x", "/v1/a%2Eb",
		"/v1%00", "/v1/%0a", "/v1/%0D%0AX:y", "/v1/%7f", "/v1/%1F",
		"/v1/%6fauth/token", "/%76%31/messages", "/v1/count%5Ftokens", "/v1/a%2Db", "/v1/%7Euser",
		"/v1/%252e%252e/x", "/v1%252Fmessages", "/v1/%25%32%65", "/v1/%25252f",
		"/v1/%c0%af", "/v1/%c0%ae%c0%ae/x", "/v1/%ff",
		"http://localhost/v1/../x", "http://localhost//v1", "http://localhost",
	} {
		r, err := parse(target)
		if err != nil {
			continue // the server refuses it itself
		}
		if err := access.CleanPath(r); err == nil {
			t.Errorf("%q passes as %q", target, r.URL.Path)
		}
	}
}

func TestOrdinaryPathsPass(t *testing.T) {
	t.Parallel()
	for _, target := range []string{
		"/", "/v1/messages", "/v1/messages/", "/v1/messages?beta=true", "/v1/messages?path=../..//%2f%5c", "/v1/messages/count_tokens",
		"/v1/messages/batches/msgbatch_01HkcTjaV5uDC8jWR4ZsDV8d/results", "/v1/models/claude-opus-4-5@20251101", "/v1/models/a:b",
		"/v1/files/file_011CNha8iCJcU1wXNR6q4V8w/content", "/.well-known/oauth-authorization-server", "/app.css", "/a..b/...", "/v1/...",
		"/a%20b", "/100%25", "/100%25%20", "/b%C3%BCcher", "/bücher", "/a%3Fb", "/a%23b", "/a;b=c", "/a%3Bb", "/~user", "/a+b",
		"http://localhost/v1/messages?beta=true",
	} {
		r, err := parse(target)
		if err != nil {
			t.Fatalf("%q: %v", target, err)
		}
		if err := access.CleanPath(r); err != nil {
			t.Errorf("%q: %v", target, err)
		}
	}
}

func TestARewriteCannotHideAPath(t *testing.T) {
	t.Parallel()
	r := httptest.NewRequest("GET", "/v1/x", nil)
	r.RequestURI = "/v1/../x"
	if access.CleanPath(r) == nil {
		t.Error("a dot segment on the wire passes once the URL is rewritten")
	}
	for _, u := range []*url.URL{
		{Path: "/v1/messages", RawPath: "/v1/oauth"},
		{Path: "/v1/messages", RawPath: "/v1/messages%"},
		{Path: "/v1/../messages"},
		{Path: ""},
		{Path: "*"},
		{Path: "v1/messages"},
	} {
		r := httptest.NewRequest("GET", "/v1/messages", nil)
		r.URL = u
		if access.CleanPath(r) == nil {
			t.Errorf("%#v passes", u)
		}
	}
	r = httptest.NewRequest("GET", "/v1/messages", nil)
	r.RequestURI = ""
	if err := access.CleanPath(r); err != nil {
		t.Errorf("without a request line: %v", err)
	}
}

// parse reads a request target as a server does.
func parse(target string) (*http.Request, error) {
	u, err := url.ParseRequestURI(target)
	if err != nil {
		return nil, err
	}
	return &http.Request{Method: "GET", URL: u, RequestURI: target, Header: http.Header{}}, nil
}

var routes = []string{"/dashboard", "/health", "/api/", "/v1/", "/v1/messages", "/v1/messages/count_tokens", "/v1/messages/batches", "/v1/oauth/", "/v1/organizations/", "/v1/files", "/v1/models", "/v1/skills"}

func FuzzCleanPath(f *testing.F) {
	for _, target := range []string{"/v1/messages", "/v1/%2e%2e/x", "/v1/%6fauth/", "/v1%252fx", "/a%20b?c", "http://h/v1/./x", "/%25%32%66", "/v1/oauth%3f"} {
		f.Add(target)
	}
	f.Fuzz(func(t *testing.T, target string) {
		r, err := parse(target)
		if err != nil || access.CleanPath(r) != nil {
			return
		}
		raw := r.URL.EscapedPath()
		for _, form := range []string{r.URL.Path, raw} {
			if clean := path.Clean(form); clean != form && clean+"/" != form {
				t.Fatalf("%q passes, but %q cleans to %q", target, form, clean)
			}
			if strings.ContainsAny(form, "\\\x00\r\n\x7f") {
				t.Fatalf("%q passes, but holds what it must not", target)
			}
		}
		for _, route := range routes {
			if strings.HasPrefix(r.URL.Path, route) != strings.HasPrefix(raw, route) || (r.URL.Path == route) != (raw == route) {
				t.Fatalf("%q passes, but %q and %q are not routed alike to %s", target, r.URL.Path, raw, route)
			}
		}
		if twice, err := url.PathUnescape(r.URL.Path); err == nil && twice != r.URL.Path {
			t.Fatalf("%q passes, but can be decoded twice", target)
		}
	})
}
