package signin

// The code that a person compares and types.

import (
	"fmt"
	"io"
	"strings"
)

// codeLetters are 20 letters without vowels, so that no code spells a word, nor
// does one letter pass for another. Source: RFC 8628, 6.1.
const codeLetters = "BCDFGHJKLMNPQRSTVWXZ"

// codeHalf is how many letters stand before the hyphen, and after it.
const codeHalf = 4

// newUserCode makes a code such as WDJB-MJHT. There are 20^8 of them.
func newUserCode(random io.Reader) (string, error) {
	code := make([]byte, 0, 2*codeHalf+1)
	var one [1]byte
	for len(code) < cap(code) {
		if len(code) == codeHalf {
			code = append(code, '-')
			continue
		}
		if _, err := io.ReadFull(random, one[:]); err != nil {
			return "", fmt.Errorf("reading randomness for a user code: %w", err)
		}
		const fair = 256 / len(codeLetters) * len(codeLetters) // above it some letters would come more often
		if n := int(one[0]); n < fair {
			code = append(code, codeLetters[n%len(codeLetters)])
		}
	}
	return string(code), nil
}

// readUserCode returns what was typed in the form of a user code: in any case,
// with or without what separates its halves. It is "" for anything else.
func readUserCode(typed string) string {
	code := make([]byte, 0, 2*codeHalf+1)
	for _, c := range typed {
		if 'a' <= c && c <= 'z' { // not ToUpper, which makes letters of others' alphabets ours
			c -= 'a' - 'A'
		}
		switch {
		case c == '-' || c == ' ':
			continue
		case !strings.ContainsRune(codeLetters, c) || len(code) == cap(code):
			return ""
		}
		if len(code) == codeHalf {
			code = append(code, '-')
		}
		code = append(code, byte(c))
	}
	if len(code) < cap(code) {
		return ""
	}
	return string(code)
}
