package access

// Which paths are refused before anything reads them.

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"
)

// CleanPath refuses a path that two readers could take for two resources: dot
// segments, empty segments, backslashes, control characters, and escapes that
// hide a slash, a backslash, a dot or any other character that needs none.
// What it lets pass is routed alike by its decoded and by its raw form. The
// error is a sentence for the client (400).
func CleanPath(r *http.Request) error {
	escaped := r.URL.EscapedPath()
	for _, raw := range [...]string{escaped, cmp.Or(r.URL.RawPath, escaped)} {
		if err := cleanPath(raw); err != nil {
			return err
		}
		if decoded, err := url.PathUnescape(raw); err != nil || decoded != r.URL.Path {
			return errors.New("the path and its escaped form differ")
		}
	}
	if !utf8.ValidString(r.URL.Path) {
		return errors.New("the path is not valid UTF-8")
	}
	return cleanRequestURI(r.RequestURI)
}

// cleanRequestURI checks the path as it came over the wire, which a rewrite of
// the URL leaves alone. Requests that came over no wire have none.
func cleanRequestURI(uri string) error {
	if uri == "" {
		return nil
	}
	if !strings.HasPrefix(uri, "/") {
		u, err := url.ParseRequestURI(uri)
		if err != nil {
			return errors.New("the request target is not a valid URI")
		}
		return cleanPath(u.EscapedPath())
	}
	path, _, _ := strings.Cut(uri, "?")
	return cleanPath(path)
}

func cleanPath(raw string) error {
	if !strings.HasPrefix(raw, "/") {
		return errors.New("the path does not begin with a slash")
	}
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		if c == '%' {
			var ok bool
			if c, ok = unescape(raw[i:]); !ok {
				return errors.New("the path has a broken escape")
			}
			if !mayBeEscaped(c, raw[i+3:]) {
				return fmt.Errorf("the path has the escape %s, which is not allowed here", raw[i:i+3])
			}
			i += 2
		}
		switch {
		case c == '\\':
			return errors.New("the path has a backslash")
		case c < 0x20, c == 0x7f:
			return errors.New("the path has a control character")
		}
	}
	if strings.Contains(raw, "//") {
		return errors.New("the path has an empty segment (//)")
	}
	for segment := range strings.SplitSeq(raw, "/") {
		if segment == "." || segment == ".." {
			return errors.New("the path has a dot segment")
		}
	}
	return nil
}

// mayBeEscaped reports whether an escape may stand for c. No client escapes
// unreserved characters (RFC 3986, 2.3), and an escaped percent sign before two
// hex digits is an escape for whoever decodes twice.
func mayBeEscaped(c byte, rest string) bool {
	switch {
	case isAlphanumeric(c), strings.IndexByte("-._~/\\", c) >= 0:
		return false
	case c == '%':
		_, twice := unescape("%" + rest[:min(2, len(rest))])
		return !twice
	}
	return true
}

// unescape decodes the escape that s begins with.
func unescape(s string) (c byte, ok bool) {
	if len(s) < 3 {
		return 0, false
	}
	high, ok1 := unhex(s[1])
	low, ok2 := unhex(s[2])
	return high<<4 | low, ok1 && ok2
}

func unhex(c byte) (digit byte, ok bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}
