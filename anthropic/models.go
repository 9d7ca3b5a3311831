package anthropic

// Model families and the patterns that name models.

import (
	"slices"
	"strings"
)

// Family is a line of models that shares limits.
type Family string

// The families. Every model belongs to one.
const (
	FamilyOpus   Family = "opus"
	FamilySonnet Family = "sonnet"
	FamilyHaiku  Family = "haiku"
	FamilyFable  Family = "fable"
	FamilyMythos Family = "mythos"
	FamilyOther  Family = "other"
)

var families = []Family{FamilyOpus, FamilySonnet, FamilyHaiku, FamilyFable, FamilyMythos, FamilyOther}

// Families returns all families, FamilyOther last.
func Families() []Family { return slices.Clone(families) }

// FamilyOf returns the family that a model's name speaks of, FamilyOther for
// an unknown or absent model.
func FamilyOf(model string) Family {
	for i := range model {
		for _, f := range families[:len(families)-1] {
			if hasPrefixFold(model[i:], string(f)) {
				return f
			}
		}
	}
	return FamilyOther
}

// MatchGlob reports whether all of s matches the pattern, in which '*' stands
// for any run of bytes. ASCII letters match in either case. It takes at most
// len(pattern)·len(s) steps and allocates nothing.
func MatchGlob(pattern, s string) bool {
	p, i := 0, 0
	star, resume := -1, 0 // the last '*', and where what follows it was tried last
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, resume = p, i
			p++
		case p < len(pattern) && lower(pattern[p]) == lower(s[i]):
			p++
			i++
		case star >= 0:
			// Only the last '*' needs to be widened: what stands before it has
			// matched as early as it can.
			resume++
			p, i = star+1, resume
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + ('a' - 'A')
	}
	return c
}

// hasPrefixFold is strings.HasPrefix in either case of ASCII letters; prefix is
// lower-case.
func hasPrefixFold(s, prefix string) bool {
	if len(s) < len(prefix) {
		return false
	}
	for i := range len(prefix) {
		if lower(s[i]) != prefix[i] {
			return false
		}
	}
	return true
}

// cutPrefixFold is strings.CutPrefix in either case of ASCII letters; prefix is
// lower-case.
func cutPrefixFold(s, prefix string) (rest string, ok bool) {
	if !hasPrefixFold(s, prefix) {
		return s, false
	}
	return s[len(prefix):], true
}

// The model lists that the system of 2025 wrote into every account's row when
// it was added. Its models are all retired, so such a list is no wish of the
// operator's: it says "what the plan allows".
var seedDefaults = [][]string{
	sorted("claude-3-5-sonnet-20241022", "claude-3-haiku-20240307"),
	sorted("claude-3-5-sonnet-20241022", "claude-3-haiku-20240307", "claude-3-5-haiku-20241022"),
	sorted("claude-3-5-sonnet-20241022", "claude-3-haiku-20240307", "claude-3-5-haiku-20241022", "claude-3-opus-20240229"),
	// Its last version knew the first models of generation 4 too.
	sorted("claude-3-5-sonnet-20241022", "claude-3-haiku-20240307", "claude-3-5-haiku-20241022", "claude-sonnet-4-20250514"),
	sorted("claude-3-5-sonnet-20241022", "claude-3-haiku-20240307", "claude-3-5-haiku-20241022", "claude-3-opus-20240229",
		"claude-sonnet-4-20250514", "claude-opus-4-20250514"),
}

func sorted(list ...string) []string {
	slices.Sort(list)
	return list
}

// IsSeedDefault reports whether a comma-separated list of models is one that
// the system of 2025 set by itself, in whatever order.
func IsSeedDefault(list string) bool {
	models := strings.Split(list, ",")
	for i, m := range models {
		models[i] = strings.TrimSpace(m)
	}
	slices.Sort(models)
	return slices.ContainsFunc(seedDefaults, func(d []string) bool { return slices.Equal(d, models) })
}
