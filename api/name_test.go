package api_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/claude-balancer/claude-balancer/api"
)

func TestNamesAreTrimmedAndPrintable(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{
		"work":                   "work",
		" work account\n":        "work account",
		"büro 日本 🦀":              "büro 日本 🦀",
		"a/b?c#d%":               "a/b?c#d%",
		"...":                    "...",
		strings.Repeat("ü", 64):  strings.Repeat("ü", 64),
		strings.Repeat(" ", 99):  "",
		strings.Repeat("ü", 65):  "",
		"":                       "",
		".":                      "",
		" .. ":                   "",
		"two\nlines":             "",
		"tab\tbed":               "",
		"nul\x00":                "",
		"del\x7f":                "",
		"c1\u0085x":              "",
		"zero\u200bwidth":        "",
		"turned \u202eround":     "",
		"wide\u00a0space":        "",
		"not \xff UTF-8":         "",
		"lone \xed\xa0\x80 half": "",
	} {
		got, err := api.ValidName(given)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %q, %v", given, got, err)
		}
		var refused *api.Error
		if err != nil && (!errors.As(err, &refused) || refused.Status != 400) {
			t.Errorf("%q: %v is not the asker's fault", given, err)
		}
	}
}

func TestListsAreBounded(t *testing.T) {
	t.Parallel()
	for name, words := range map[string][]string{
		"models has 101 entries, but may have 100":              make([]string, 101),
		"models[1] is empty: leave the list empty to allow all": {"a", " "},
		"models[0] is longer than 200 characters":               {strings.Repeat("ü", 201)},
		"models[2] has a control character":                     {"a", "b", "c\x1b[2J"},
		"models[0] has a control character":                     {"not \xff UTF-8"},
		"":                                                      {strings.Repeat("ü", 200), "*sonnet*", "日本"},
	} {
		err := api.ValidList("models", words)
		if (err == nil) != (name == "") || err != nil && err.Error() != name {
			t.Errorf("got %v, want %q", err, name)
		}
	}
}
