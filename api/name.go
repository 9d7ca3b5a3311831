package api

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxNameLength is the longest name of an account or key, in characters.
const MaxNameLength = 64

// ValidName returns the name of an account or key as it is kept: trimmed, 1 to
// MaxNameLength printable characters. Its error is for who gave the name (400).
func ValidName(s string) (string, error) {
	name := strings.TrimSpace(s)
	switch {
	case name == "":
		return "", BadRequest("name is empty: give 1 to %d printable characters", MaxNameLength)
	case utf8.RuneCountInString(name) > MaxNameLength:
		return "", BadRequest("name is longer than %d characters", MaxNameLength)
	case name == "." || name == "..":
		return "", BadRequest("name is %q, which no URL can hold: choose another", name)
	case !utf8.ValidString(name), strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }):
		return "", BadRequest("name has a control or invisible character: use printable ones only")
	}
	return name, nil
}
