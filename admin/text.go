package admin

// Text for terminals: what comes from a server must not steer the terminal,
// and columns stay aligned whatever script a name is written in.

import (
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf16"
)

// printer writes lines for people. It keeps the first error, so that a full
// disk behind a redirection is told once, at the end.
type printer struct {
	w   io.Writer
	err error
}

// line writes one line. Strings among the arguments are made safe.
func (p *printer) line(format string, args ...any) {
	for i, arg := range args {
		if s, ok := arg.(string); ok {
			args[i] = safe(s)
		}
	}
	p.print(fmt.Sprintf(format, args...) + "\n")
}

// print writes text that is safe already.
func (p *printer) print(text string) {
	if p.err == nil {
		_, p.err = io.WriteString(p.w, text)
	}
}

// safe replaces everything that a terminal may act upon, or that turns the
// order of writing, by a visible escape. Foreign letters and marks stay.
func safe(s string) string {
	if !strings.ContainsFunc(s, unsafeRune) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if unsafeRune(r) {
			b.WriteString(escapeRune(r))
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// safeJSON does the same inside JSON text, which stays the same JSON: such
// runes occur in its strings only, where an escape means the same.
func safeJSON(data []byte) string {
	var b strings.Builder
	for _, r := range string(data) {
		switch {
		case r == '\n' || !unsafeRune(r):
			b.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

// unsafeRune is true for controls, format characters (bidirectional overrides
// among them), unassigned code points, and the mark of invalid UTF-8.
func unsafeRune(r rune) bool {
	return r == unicode.ReplacementChar || !unicode.IsPrint(r) && !unicode.Is(unicode.Zs, r)
}

func escapeRune(r rune) string {
	switch {
	case r == '\n':
		return `\n`
	case r == '\t':
		return `\t`
	case r < 0x100:
		return fmt.Sprintf(`\x%02x`, r)
	case r > 0xffff:
		return fmt.Sprintf(`\U%08x`, r)
	default:
		return fmt.Sprintf(`\u%04x`, r)
	}
}

// width is the number of terminal cells that safe text takes.
func width(s string) int {
	n := 0
	for _, r := range s {
		switch {
		case unicode.In(r, unicode.Mn, unicode.Me):
		case isWide(r):
			n += 2
		default:
			n++
		}
	}
	return n
}

// isWide tells the characters that take two cells: the scripts of East Asia,
// full-width forms and emoji.
func isWide(r rune) bool {
	return unicode.In(r, unicode.Han, unicode.Hangul, unicode.Hiragana, unicode.Katakana) ||
		r >= 0x3000 && r <= 0x303e || // CJK punctuation
		r >= 0xff01 && r <= 0xff60 || // full-width forms
		r >= 0x1f300 && r <= 0x1faff // emoji
}
