package dashboard

import (
	"io/fs"
	"net/http"
	"path"
	"regexp"
	"strings"
	"testing"
)

func TestThePageIsTitledAndServedAtItsPaths(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/", "/dashboard", "/dashboard/"} {
		answer, body := ask(t, newSite(&fakeBackend{}), http.MethodGet, path)
		if answer.StatusCode != http.StatusOK || answer.Header.Get("Content-Type") != "text/html; charset=utf-8" {
			t.Errorf("%s = %d %s", path, answer.StatusCode, answer.Header.Get("Content-Type"))
		}
		for _, want := range []string{"<title>Claude Load Balancer Dashboard</title>", "<h1>Claude Load Balancer Dashboard</h1>"} {
			if !strings.Contains(body, want) {
				t.Errorf("%s has no %s", path, want)
			}
		}
	}
}

func TestThePageMayLoadOnlyWhatTheSiteServes(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/", "/dashboard", "/dashboard/index.html", "/dashboard/favicon.svg"} {
		h := serve(newSite(&fakeBackend{}), http.MethodGet, path).Header()
		for _, want := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self' data:", "connect-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"} {
			if !strings.Contains(h.Get("Content-Security-Policy"), want) {
				t.Errorf("%s: policy lacks %s: %s", path, want, h.Get("Content-Security-Policy"))
			}
		}
		if strings.Contains(h.Get("Content-Security-Policy"), "unsafe") {
			t.Errorf("%s: unsafe policy", path)
		}
		if h.Get("Referrer-Policy") != "no-referrer" || h.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %v", path, h)
		}
	}
}

func TestThePageHasNoInlineScriptOrStyleAndNoForeignAddress(t *testing.T) {
	t.Parallel()
	page := string(assets()[indexName].body)
	for _, pattern := range []string{`<style`, ` style=`, ` on[a-z]+=`, `<script>`, `<script[^>]*>[^<]`, `(src|href)="(https?:)?//`} {
		if found := regexp.MustCompile(pattern).FindString(page); found != "" {
			t.Errorf("the page has %q", found)
		}
	}
}

// What a script turns into markup could come from outside; ours makes none.
func TestNoScriptOfOursParsesMarkup(t *testing.T) {
	t.Parallel()
	sinks := regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|setHTMLUnsafe|\beval\(|new Function|https?://`)
	for name, a := range assets() {
		if strings.HasPrefix(name, "vendor/") || path.Ext(name) != ".js" {
			continue
		}
		if found := sinks.Find(a.body); found != nil {
			t.Errorf("%s has %s", name, found)
		}
	}
}

func TestEveryReferenceOfThePageAndItsScriptsIsServed(t *testing.T) {
	t.Parallel()
	site := newSite(&fakeBackend{})
	serves := func(from, url string) {
		if w := serve(site, http.MethodGet, url); w.Code != http.StatusOK {
			t.Errorf("%s needs %s: %d", from, url, w.Code)
		}
	}
	for _, m := range regexp.MustCompile(`(?:src|href)="(/dashboard/[^"]+)"`).FindAllStringSubmatch(string(assets()[indexName].body), -1) {
		serves(indexName, m[1])
	}
	imports := regexp.MustCompile(`from "(\./[^"]+)"`)
	for name, a := range assets() {
		if path.Ext(name) != ".js" {
			continue
		}
		for _, m := range imports.FindAllStringSubmatch(string(a.body), -1) {
			serves(name, path.Join("/dashboard", path.Dir(name), m[1]))
		}
	}
}

func TestEveryEmbeddedFileIsServedWithItsType(t *testing.T) {
	t.Parallel()
	site := newSite(&fakeBackend{})
	types := map[string]string{".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg+xml", "": "text/plain"}
	err := fs.WalkDir(embedded, "assets", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		w := serve(site, http.MethodGet, "/dashboard/"+strings.TrimPrefix(name, "assets/"))
		if got := w.Header().Get("Content-Type"); w.Code != http.StatusOK || !strings.HasPrefix(got, types[path.Ext(name)]) {
			t.Errorf("%s = %d %s", name, w.Code, got)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestAnUnchangedAssetIsNotSentAgain(t *testing.T) {
	t.Parallel()
	site := newSite(&fakeBackend{})
	first := serve(site, http.MethodGet, "/dashboard/app.js")
	tag := first.Header().Get("ETag")
	if tag == "" || first.Header().Get("Cache-Control") != "private, no-cache" {
		t.Fatalf("%v", first.Header())
	}
	if again := serve(site, http.MethodGet, "/dashboard/app.js", "If-None-Match", tag); again.Code != http.StatusNotModified || again.Body.Len() != 0 {
		t.Errorf("with the tag: %d, %d bytes", again.Code, again.Body.Len())
	}
	if other := serve(site, http.MethodGet, "/dashboard/dom.js", "If-None-Match", tag); other.Code != http.StatusOK {
		t.Errorf("another asset with this tag: %d", other.Code)
	}
}

func TestTheVendoredLibraryCarriesItsLicence(t *testing.T) {
	t.Parallel()
	if w := serve(newSite(&fakeBackend{}), http.MethodGet, "/dashboard/vendor/uplot/LICENSE"); !strings.Contains(w.Body.String(), "Leon Sorokin") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
