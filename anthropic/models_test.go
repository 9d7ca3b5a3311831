package anthropic

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestEveryModelBelongsToAFamily(t *testing.T) {
	t.Parallel()
	for model, want := range map[string]Family{
		"claude-opus-5-5": FamilyOpus, "claude-3-opus-20240229": FamilyOpus, "CLAUDE-OPUS-5": FamilyOpus,
		"claude-sonnet-4-5-20250929": FamilySonnet, "claude-3-5-haiku-20241022": FamilyHaiku,
		"claude-fable-5-2": FamilyFable, "claude-mythos-preview": FamilyMythos,
		"": FamilyOther, "claude-2.1": FamilyOther, "gpt-5": FamilyOther, "opu": FamilyOther,
	} {
		if got := FamilyOf(model); got != want {
			t.Errorf("%q: got %q, want %q", model, got, want)
		}
	}
	all := Families()
	all[0] = "changed"
	if Families()[0] != FamilyOpus || !slices.Contains(Families(), FamilyOther) || len(Families()) != 6 {
		t.Errorf("families: %q", Families())
	}
}

func TestMatchGlobMatchesTheWholeName(t *testing.T) {
	t.Parallel()
	cases := []struct {
		pattern, s string
		want       bool
	}{
		{"*opus*", "claude-opus-5-5", true},
		{"*OPUS*", "claude-Opus-5", true},
		{"claude-opus-5", "claude-opus-5-5", false},
		{"claude-opus-5", "CLAUDE-OPUS-5", true},
		{"claude-*-5", "claude-opus-5", true},
		{"claude-*-5", "claude-opus-5-6", false},
		{"*", "", true}, {"**", "x", true}, {"", "", true}, {"", "x", false}, {"*a", "", false},
		{"a*b*c", "aXbYbZc", true}, {"a*b*c", "aXcYb", false},
		{"?", "x", false}, {"[a]", "a", false}, {"é*", "éa", true},
	}
	for _, c := range cases {
		if got := MatchGlob(c.pattern, c.s); got != c.want {
			t.Errorf("MatchGlob(%q, %q) = %v", c.pattern, c.s, got)
		}
	}
}

func TestMatchGlobNeitherBlowsUpNorAllocates(t *testing.T) {
	pattern, s := strings.Repeat("*a", 50)+"b", strings.Repeat("a", 2000)
	if n := testing.AllocsPerRun(5, func() {
		if MatchGlob(pattern, s) {
			t.Error("matched")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func globAsRegexp(pattern string) *regexp.Regexp {
	parts := strings.Split(pattern, "*")
	for i, p := range parts {
		parts[i] = regexp.QuoteMeta(p)
	}
	return regexp.MustCompile(`(?s)\A` + strings.Join(parts, `.*`) + `\z`)
}

func TestMatchGlobAgreesWithARegularExpression(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		pattern := rapid.StringMatching(`[ab*-]{0,8}`).Draw(t, "pattern")
		s := rapid.StringMatching(`[ab-]{0,10}`).Draw(t, "s")
		if got, want := MatchGlob(pattern, s), globAsRegexp(pattern).MatchString(s); got != want {
			t.Fatalf("MatchGlob(%q, %q) = %v", pattern, s, got)
		}
	})
}

func FuzzMatchGlob(f *testing.F) {
	f.Add("*a*b", "xaxb")
	f.Add("**", "")
	f.Add("a*", "\xff")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		got := MatchGlob(pattern, s)
		if got != MatchGlob(asciiLower(pattern), asciiLower(s)) {
			t.Errorf("case matters for %q, %q", pattern, s)
		}
		if strings.Trim(pattern, "*") == "" && pattern != "" && !got {
			t.Errorf("%q does not match %q", pattern, s)
		}
	})
}

func asciiLower(s string) string {
	b := []byte(s)
	for i := range b {
		b[i] = lower(b[i])
	}
	return string(b)
}

func TestSeedDefaultsAreRecognizedInAnyOrder(t *testing.T) {
	t.Parallel()
	const console = "claude-3-5-sonnet-20241022,claude-3-haiku-20240307,claude-3-5-haiku-20241022"
	for list, want := range map[string]bool{
		"claude-3-5-sonnet-20241022,claude-3-haiku-20240307": true, // before it had plans
		console:                             true,
		console + ",claude-3-opus-20240229": true,
		"claude-3-opus-20240229," + console: true,
		"claude-3-opus-20240229, " + strings.ReplaceAll(console, ",", " , "):                true,
		console + ",claude-sonnet-4-20250514":                                               true,
		console + ",claude-3-opus-20240229,claude-sonnet-4-20250514,claude-opus-4-20250514": true,
		"":                           false,
		"claude-3-5-sonnet-20241022": false,
		console + ",claude-opus-5-5": false,
		"*opus*":                     false,
	} {
		if got := IsSeedDefault(list); got != want {
			t.Errorf("%q: got %v", list, got)
		}
	}
}
