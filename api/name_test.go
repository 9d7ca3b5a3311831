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
