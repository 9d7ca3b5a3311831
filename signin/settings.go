package signin

// Managed settings: what an organization sets for Claude Code on its people's
// machines.

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// ManagedSettingsPath is where clients ask for them.
const ManagedSettingsPath = "/managed/settings"

// ManagedSettings is one edition of settings, ready to be sent.
type ManagedSettings struct {
	body []byte
	etag string
}

// NewManagedSettings reads settings as Claude Code's managed-settings.json has
// them: one JSON object.
func NewManagedSettings(file []byte) (*ManagedSettings, error) {
	settings, err := canonicalObject(file)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(settings)
	checksum := "sha256:" + hex.EncodeToString(sum[:])
	body, err := json.Marshal(struct {
		UUID     string `json:"uuid"`
		Checksum string `json:"checksum"`
	}{editionID(sum), checksum})
	if err != nil {
		return nil, err
	}
	// Appended as they are: a second encoder would escape them in its own way.
	body = append(body[:len(body)-1], `,"settings":`...)
	body = append(append(body, settings...), '}')
	return &ManagedSettings{body: body, etag: `"` + checksum + `"`}, nil
}

// editionID names an edition by its content, so that every node gives it the
// same UUID (version 8, RFC 9562).
func editionID(sum [sha256.Size]byte) string {
	sum[6] = sum[6]&0x0f | 0x80
	sum[8] = sum[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}

// ServeHTTP answers a client that may have them. Cache-Control is not no-store:
// with another header, that has a meaning of its own here.
func (m *ManagedSettings) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("ETag", m.etag)
	h.Set("Cache-Control", "private, no-cache")
	h.Set("X-Content-Type-Options", "nosniff")
	if m.isKnownBy(r.Header) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(m.body)))
	if r.Method != http.MethodHead {
		_, _ = w.Write(m.body) // the client may be gone
	}
}

// isKnownBy reads If-None-Match. `*` asks whether there are any settings at
// all, so it is answered as if it were not there.
func (m *ManagedSettings) isKnownBy(h http.Header) bool {
	for _, line := range h.Values("If-None-Match") {
		for tag := range strings.SplitSeq(line, ",") { // ours holds no comma
			if strings.TrimPrefix(strings.TrimSpace(tag), "W/") == m.etag {
				return true
			}
		}
	}
	return false
}

// canonicalObject rewrites a JSON object with sorted keys and without white
// space. Numbers and strings are written as JavaScript's JSON.stringify writes
// them, which is how a client can compute the checksum. Source: RFC 8785.
func canonicalObject(text []byte) ([]byte, error) {
	if !utf8.Valid(text) {
		return nil, errors.New("it is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(bytes.TrimPrefix(text, []byte("\ufeff"))))
	if first, err := d.Token(); err != nil {
		return nil, explainJSON(err)
	} else if first != json.Delim('{') {
		return nil, errors.New("it must be one JSON object")
	}
	out, err := canonicalMembers(nil, d, "")
	if err != nil {
		return nil, explainJSON(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the JSON object")
	}
	return out, nil
}

func explainJSON(err error) error {
	if syntax := (*json.SyntaxError)(nil); errors.As(err, &syntax) {
		return fmt.Errorf("it is no JSON, at byte %d: %w", syntax.Offset, err)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("it ends before the JSON object does")
	}
	return err
}

// maxDepth bounds the nesting of objects and arrays.
const maxDepth = 100

type member struct {
	name  string
	value []byte
}

// canonicalMembers appends an object whose { is read already. path says where
// it is.
func canonicalMembers(out []byte, d *json.Decoder, path string) ([]byte, error) {
	var members []member
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return nil, err
		}
		name, ok := token.(string)
		if !ok {
			return nil, fmt.Errorf("%s: a member's name must be a string", path)
		}
		if slices.ContainsFunc(members, func(m member) bool { return m.name == name }) {
			return nil, fmt.Errorf("%q is there twice", path+name)
		}
		value, err := canonicalValue(nil, d, path+name+".")
		if err != nil {
			return nil, err
		}
		members = append(members, member{name, value})
	}
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	slices.SortFunc(members, func(a, b member) int {
		return slices.Compare(utf16.Encode([]rune(a.name)), utf16.Encode([]rune(b.name)))
	})
	out = append(out, '{')
	for i, m := range members {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(append(appendString(out, m.name), ':'), m.value...)
	}
	return append(out, '}'), nil
}

func canonicalValue(out []byte, d *json.Decoder, path string) ([]byte, error) {
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch v := token.(type) {
	case json.Delim:
		if strings.Count(path, ".") > maxDepth {
			return nil, fmt.Errorf("%s: nested too deeply", path[:40])
		}
		if v == '{' {
			return canonicalMembers(out, d, path)
		}
		out = append(out, '[')
		for i := 0; d.More(); i++ {
			if i > 0 {
				out = append(out, ',')
			}
			if out, err = canonicalValue(out, d, path+strconv.Itoa(i)+"."); err != nil {
				return nil, err
			}
		}
		_, err := d.Token()
		return append(out, ']'), err
	case string:
		return appendString(out, v), nil
	case float64:
		return appendNumber(out, v), nil
	case bool:
		return strconv.AppendBool(out, v), nil
	default:
		return append(out, "null"...), nil
	}
}

// appendNumber writes a number as JavaScript does: plain between 1e-6 and 1e21,
// else with an exponent without leading zeros.
func appendNumber(out []byte, f float64) []byte {
	if f == 0 {
		return append(out, '0') // -0, too
	}
	format := byte('f')
	if abs := math.Abs(f); abs < 1e-6 || abs >= 1e21 {
		format = 'e'
	}
	text := strconv.FormatFloat(f, format, -1, 64)
	text = strings.Replace(text, "e-0", "e-", 1)
	return append(out, text...)
}

// appendString escapes what must be escaped, and nothing else.
func appendString(out []byte, s string) []byte {
	out = append(out, '"')
	for _, c := range []byte(s) {
		switch {
		case c == '"' || c == '\\':
			out = append(out, '\\', c)
		case c == '\b':
			out = append(out, `\b`...)
		case c == '\f':
			out = append(out, `\f`...)
		case c == '\n':
			out = append(out, `\n`...)
		case c == '\r':
			out = append(out, `\r`...)
		case c == '\t':
			out = append(out, `\t`...)
		case c < 0x20:
			out = fmt.Appendf(out, `\u%04x`, c)
		default:
			out = append(out, c)
		}
	}
	return append(out, '"')
}
