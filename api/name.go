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

// Bounds of a list of models or account names: each is looked at in requests,
// and shown in answers.
const (
	MaxListLength = 100
	MaxWordLength = 200
)

// ValidList checks the words of a list. Its error is for who gave them (400).
func ValidList(member string, words []string) error {
	if len(words) > MaxListLength {
		return BadRequest("%s has %d entries, but may have %d", member, len(words), MaxListLength)
	}
	for i, word := range words {
		switch {
		case strings.TrimSpace(word) == "":
			return BadRequest("%s[%d] is empty: leave the list empty to allow all", member, i)
		case utf8.RuneCountInString(word) > MaxWordLength:
			return BadRequest("%s[%d] is longer than %d characters", member, i, MaxWordLength)
		case !utf8.ValidString(word), strings.ContainsFunc(word, unicode.IsControl):
			return BadRequest("%s[%d] has a control character", member, i)
		}
	}
	return nil
}
