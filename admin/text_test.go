package admin

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/claude-balancer/claude-balancer/api"
)

func TestSafeTextKeepsWritingAndShowsControls(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"plain name":        "plain name",
		"Zoë 名前 🎯 a\u00a0b": "Zoë 名前 🎯 a\u00a0b",
		"a\x1b[2Jb":         `a\x1b[2Jb`,
		"a\nb\tc\r":         `a\nb\tc\x0d`,
		"\u009b31m":         `\x9b31m`,
		"a\u202eb":          `a\u202eb`,
		"a\u200bb":          `a\u200bb`,
		"\u2028":            `\u2028`,
		"\U000e0001":        `\U000e0001`,
		"bad\xff":           `bad\ufffd`,
		"\x7f":              `\x7f`,
	} {
		if got := safe(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestSafeTextHoldsNothingATerminalActsUpon(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		text := safe(string(rapid.SliceOf(rapid.Byte()).Draw(rt, "bytes")))
		if strings.ContainsFunc(text, unsafeRune) || !utf8.ValidString(text) {
			rt.Fatalf("unsafe: %q", text)
		}
		if safe(text) != text {
			rt.Fatalf("not stable: %q", text)
		}
	})
}

func TestSafeJSONIsTheSameJSON(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		want := rapid.String().Draw(rt, "text")
		encoded, err := json.Marshal(want)
		if err != nil {
			rt.Fatal(err)
		}
		text := safeJSON(encoded)
		var got string
		if err := json.Unmarshal([]byte(text), &got); err != nil || got != want {
			rt.Fatalf("%q became %q (%v)", want, got, err)
		}
		if strings.ContainsFunc(text, unsafeRune) {
			rt.Fatalf("unsafe: %q", text)
		}
	})
}

func TestWidthCountsTerminalCells(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]int{
		"": 0, "abc": 3, "Zoë": 3, "e\u0301": 1, "名前": 4, "한글": 4, "カナ": 4, "ＡＢ": 4, "🎯": 2, "…": 1,
	} {
		if got := width(in); got != want {
			t.Errorf("%q: got %d, want %d", in, got, want)
		}
	}
}

func TestTablesAlignWhateverScriptACellIsWrittenIn(t *testing.T) {
	t.Parallel()
	table := newTable("NAME", ">N", "NOTE")
	table.row("a", "1", "x")
	table.row("名前", "1000", "")
	table.row("evil\nname", "22", "y")
	want := "" +
		"NAME           N  NOTE\n" +
		"a              1  x\n" +
		"名前        1000\n" +
		"evil\\nname    22  y\n"
	if got := table.String(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestSpansAreToldInTheirTwoLargestUnits(t *testing.T) {
	t.Parallel()
	for in, want := range map[time.Duration]string{
		-time.Hour:                            "0s",
		0:                                     "0s",
		400 * time.Millisecond:                "0s",
		45 * time.Second:                      "45s",
		time.Minute:                           "1m",
		90 * time.Second:                      "1m 30s",
		2*time.Hour + 13*time.Minute + 9e9:    "2h 13m",
		2 * time.Hour:                         "2h",
		time.Hour + 59*time.Second:            "1h",
		time.Hour - time.Millisecond:          "1h",
		50 * time.Hour:                        "2d 2h",
		400 * 24 * time.Hour:                  "400d",
		24*time.Hour + 59*time.Minute + 59e9:  "1d",
		time.Duration(1<<63 - 1).Truncate(60): "106751d 23h",
	} {
		if got := span(in); got != want {
			t.Errorf("%v: got %q, want %q", in, got, want)
		}
	}
}

func TestNumbersInWords(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ got, want string }{
		{latency(0), "0ms"},
		{latency(999), "999ms"},
		{latency(1234), "1.23s"},
		{dollars(nil), "-"},
		{dollars(ptr(0.0)), "$0.00"},
		{dollars(ptr(0.01234)), "$0.0123"},
		{dollars(ptr(12.345)), "$12.35"},
		{percent(nil), "-"},
		{percent(ptr(0.425)), "43%"},
		{percent(ptr(1.2)), "120%"},
		{ago(nil, testNow), "never"},
		{ago(ptr(at(-90*time.Second)), testNow), "1m 30s ago"},
		{ago(ptr(at(time.Hour)), testNow), "just now"},
		{bound(0), "-"},
		{bound(7), "7"},
	} {
		if tt.got != tt.want {
			t.Errorf("got %q, want %q", tt.got, tt.want)
		}
	}
}

func TestTokensInWords(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		valid   int
		kind    api.Kind
		expires *int64
		want    string
	}{
		{1, api.KindAPIKey, nil, "valid"},
		{0, api.KindAPIKey, nil, "invalid"},
		{1, api.KindOAuth, ptr(at(3 * time.Hour)), "expires in 3h"},
		{1, api.KindToken, ptr(at(240 * time.Hour)), "valid"},
		{0, api.KindOAuth, ptr(at(-time.Second)), "expired"},
		{0, api.KindOAuth, nil, "expired"},
		{0, api.KindOAuth, ptr(at(time.Hour)), "invalid"},
	} {
		a := api.Account{TokenValid: tt.valid, Kind: tt.kind, ExpiresAt: tt.expires}
		if got := tokenWords(a, testNow); got != tt.want {
			t.Errorf("%+v: got %q", tt, got)
		}
	}
}

func TestStatesInWords(t *testing.T) {
	t.Parallel()
	opus := []api.Limit{{Scope: api.ScopeFamily, Family: ptr("opus"), Until: at(time.Hour)}}
	for _, tt := range []struct {
		account api.Account
		want    string
	}{
		{api.Account{Status: api.StatusAvailable}, "available"},
		{api.Account{Status: api.StatusAvailable, Limits: opus}, "available, no opus for 1h"},
		{api.Account{Status: api.StatusBusy, InFlight: 3, MaxInFlight: 3}, "busy, 3 of at most 3 in flight"},
		{api.Account{Status: api.StatusLimited, AvailableAt: ptr(at(133 * time.Minute)), Limits: opus}, "limited 2h 13m"},
		{api.Account{Status: api.StatusLimited}, "limited"},
		{api.Account{Status: api.StatusPaused}, "paused"},
		{api.Account{Status: api.StatusNeedsLogin}, "needs login"},
		{api.Account{Status: api.StatusDisabled}, "disabled"},
	} {
		if got := stateWords(tt.account, testNow); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}

func TestOpusIsMarkedWhereAPatternAllowsIt(t *testing.T) {
	t.Parallel()
	for models, want := range map[string]bool{
		"*opus*,*sonnet*": true, "*": true, "claude-*": true, "claude-3-opus-20240229": true,
		"*sonnet*,*haiku*": false, "claude-sonnet-*": false, "": false, "[": false,
	} {
		if got := hasOpus(api.Account{SupportedModels: models}); got != want {
			t.Errorf("%q: got %v", models, got)
		}
	}
}

func TestATableLeavesOutColumnsUntilItFits(t *testing.T) {
	t.Parallel()
	make := func() *table {
		t := newTable("NAME", ">ONE", ">TWO", "LAST")
		t.row("名前", "1", "22222", "x")
		return t
	}
	for columns, want := range map[int]string{
		0:  "NAME  ONE    TWO  LAST\n名前    1  22222  x\n",
		22: "NAME  ONE    TWO  LAST\n名前    1  22222  x\n",
		21: "NAME  ONE  LAST\n名前    1  x\n",
		14: "NAME  LAST\n名前  x\n",
		1:  "NAME  LAST\n名前  x\n",
	} {
		if got := make().fit(columns, "TWO", "ONE").String(); got != want {
			t.Errorf("%d columns:\n%s\nwant\n%s", columns, got, want)
		}
	}
}
