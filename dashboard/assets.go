package dashboard

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"
)

//go:embed assets
var embedded embed.FS

// indexName is the page itself; the other assets are served under their names.
const indexName = "index.html"

// contentPolicy lets the page load what the site itself serves and nothing
// else. Trusted Types make the browser refuse any text that would be parsed as
// markup, so names of accounts, models and paths cannot become elements.
var contentPolicy = strings.Join([]string{
	"default-src 'none'",
	"script-src 'self'",
	"style-src 'self'",
	"img-src 'self' data:",
	"connect-src 'self'",
	"base-uri 'none'",
	"form-action 'none'",
	"frame-ancestors 'none'",
	"require-trusted-types-for 'script'",
	"trusted-types 'none'",
}, "; ")

// contentTypes is fixed because the system's own table differs from host to host.
var contentTypes = map[string]string{
	".css":  "text/css; charset=utf-8",
	".html": "text/html; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
	"":      "text/plain; charset=utf-8", // LICENSE
}

type asset struct {
	body        []byte
	contentType string
	etag        string
}

// assets returns the embedded files by their path below assets/.
var assets = sync.OnceValue(func() map[string]asset {
	all := make(map[string]asset)
	err := fs.WalkDir(embedded, "assets", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		body, err := embedded.ReadFile(name)
		if err != nil {
			return err
		}
		contentType, ok := contentTypes[path.Ext(name)]
		if !ok {
			return fmt.Errorf("no content type for asset %s", name)
		}
		sum := sha256.Sum256(body)
		all[strings.TrimPrefix(name, "assets/")] = asset{body, contentType, `"` + hex.EncodeToString(sum[:12]) + `"`}
		return nil
	})
	if err != nil {
		panic(err) // the files are part of the binary: only a wrong build gets here
	}
	return all
})

// Style is the style sheet of colours, type and elements, for other pages of
// the site.
func Style() string { return string(assets()["base.css"].body) }

func (s *site) page(w http.ResponseWriter, r *http.Request) { s.asset(w, r, indexName) }

// asset serves one embedded file. Caches keep it but ask each time whether it
// is still the same, so that a new binary never meets scripts of the old one.
func (s *site) asset(w http.ResponseWriter, r *http.Request, name string) {
	a, ok := assets()[name]
	if !ok {
		writeError(w, http.StatusNotFound, "there is nothing at this path")
		return
	}
	h := w.Header()
	h.Set("Content-Type", a.contentType)
	h.Set("Cache-Control", "private, no-cache")
	h.Set("ETag", a.etag)
	h.Set("Content-Security-Policy", contentPolicy)
	h.Set("Referrer-Policy", "no-referrer")
	http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(a.body))
}
