package signin_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http/httptest"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/claude-balancer/claude-balancer/signin"
)

func managed(t testing.TB, file string) *signin.ManagedSettings {
	t.Helper()
	m, err := signin.NewManagedSettings([]byte(file))
	if err != nil {
		t.Fatalf("%v: %s", err, file)
	}
	return m
}

func get(m *signin.ManagedSettings, ifNoneMatch ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", signin.ManagedSettingsPath, nil)
	r.Header["If-None-Match"] = ifNoneMatch
	w := httptest.NewRecorder()
	m.ServeHTTP(w, r)
	return w
}

// sent is the text of the settings in an answer.
func sent(t testing.TB, body string) (settings, checksum, uuid string) {
	t.Helper()
	head, settings, ok := strings.Cut(body, `,"settings":`)
	settings, closed := strings.CutSuffix(settings, "}")
	var wrapper struct{ UUID, Checksum string }
	if err := json.Unmarshal([]byte(head+"}"), &wrapper); err != nil || !ok || !closed {
		t.Fatalf("%v: %s", err, body)
	}
	return settings, wrapper.Checksum, wrapper.UUID
}

func TestSettingsAreSentInCanonicalForm(t *testing.T) {
	t.Parallel()
	for file, want := range map[string]string{
		"{}": `{}`,
		`{"b": [ 1, "x" ],
			"a": {"d": null, "c": true}}`: `{"a":{"c":true,"d":null},"b":[1,"x"]}`,
		"\ufeff" + `{"bom":[]}`: `{"bom":[]}`,
		// RFC 8785, 3.2.2 and 3.2.3.
		`{"numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
			"string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/", "literals": [null, true, false]}`: `{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"string":"€$\u000f\nA'B\"\\\\\"/"}`,
		`{"\u20ac": "Euro Sign", "\r": "Carriage Return", "\ufb33": "Hebrew Letter Dalet With Dagesh", "1": "One", "\ud83d\ude00": "Emoji: Grinning Face", "\u0080": "Control", "\u00f6": "Latin Small Letter O With Diaeresis"}`: `{"\r":"Carriage Return","1":"One",` + "\"\u0080\":\"Control\",\"ö\":\"Latin Small Letter O With Diaeresis\",\"€\":\"Euro Sign\",\"😀\":\"Emoji: Grinning Face\",\"\ufb33\":\"Hebrew Letter Dalet With Dagesh\"}",
		// As JSON.stringify has them, and other encoders do not.
		`{"a": [-0, 1e21, 1e20, 123456789012345678901, 1e-6, 1e-7, 5e-324, 9007199254740993]}`: `{"a":[0,1e+21,100000000000000000000,123456789012345680000,0.000001,1e-7,5e-324,9007199254740992]}`,
		`{"a": "<&>\u2028\u007f\b\f\t\u001f"}`:                                                 `{"a":"<&>` + "\u2028\u007f" + `\b\f\t\u001f"}`,
	} {
		w := get(managed(t, file))
		settings, checksum, uuid := sent(t, w.Body.String())
		sum := sha256.Sum256([]byte(want))
		if settings != want || checksum != "sha256:"+hex.EncodeToString(sum[:]) || w.Header().Get("ETag") != `"`+checksum+`"` {
			t.Errorf("%s\n got %s\nwant %s (%s, %v)", file, settings, want, checksum, w.Header())
		}
		if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(uuid) {
			t.Errorf("uuid %s", uuid)
		}
	}
}

func TestTheFormOfSettingsDoesNotChangeThem(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		value := map[string]any{}
		for range rapid.IntRange(0, 5).Draw(t, "members") {
			value[rapid.String().Draw(t, "name")] = rapid.OneOf(
				rapid.Custom(func(t *rapid.T) any { return rapid.Float64().Draw(t, "number") }),
				rapid.Custom(func(t *rapid.T) any { return rapid.String().Draw(t, "string") }),
				rapid.Custom(func(t *rapid.T) any { return []any{rapid.String().Draw(t, "a"), rapid.Bool().Draw(t, "b"), nil} }),
				rapid.Custom(func(t *rapid.T) any { return map[string]any{rapid.String().Draw(t, "n"): rapid.Float64().Draw(t, "f")} }),
			).Draw(t, "value")
		}
		file, err := json.MarshalIndent(value, "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		m, err := signin.NewManagedSettings(file)
		if err != nil {
			t.Fatalf("%v: %s", err, file)
		}
		var answer struct{ Settings map[string]any }
		body := get(m).Body.Bytes()
		if err := json.Unmarshal(body, &answer); err != nil || !reflect.DeepEqual(answer.Settings, value) {
			t.Fatalf("%v\n%s\n%s", err, file, body)
		}
		again, err := signin.NewManagedSettings(body[strings.Index(string(body), `,"settings":`)+len(`,"settings":`) : len(body)-1])
		if err != nil || get(again).Body.String() != string(body) {
			t.Fatalf("not the same when read again (%v): %s", err, body)
		}
	})
}

func TestBrokenSettingsAreRefusedInWords(t *testing.T) {
	t.Parallel()
	for file, says := range map[string]string{
		"":                    "ends before",
		"{":                   "ends before",
		`{"a":`:               "ends before",
		`{"a":1,}`:            "no JSON",
		`{a:1}`:               "no JSON",
		"[]":                  "must be one JSON object",
		`"x"`:                 "must be one JSON object",
		"null":                "must be one JSON object",
		"{} {}":               "something follows",
		"{} x":                "something follows",
		`{"a":{"b":1,"b":2}}`: `"a.b" is there twice`,
		"{\"a\":\"\xff\"}":    "not UTF-8",
		`{"a":1e999}`:         "1e999",
		strings.Repeat(`{"a":`, 200) + "1" + strings.Repeat("}", 200): "nested too deeply",
		"{\n// a comment\n}": "no JSON",
	} {
		if _, err := signin.NewManagedSettings([]byte(file)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%.60q: %v", file, err)
		}
	}
}

func TestSettingsAreNotSentTwice(t *testing.T) {
	t.Parallel()
	m := managed(t, `{"a":1}`)
	etag := get(m).Header().Get("ETag")
	for _, known := range [][]string{{etag}, {"W/" + etag}, {`"other", ` + etag}, {`"other"`, etag}} {
		if w := get(m, known...); w.Code != 304 || w.Body.Len() != 0 || w.Header().Get("ETag") != etag {
			t.Errorf("%q: %d %v", known, w.Code, w.Header())
		}
	}
	// `*` asks whether there are any.
	for _, other := range [][]string{nil, {"*"}, {`"sha256:0"`}, {strings.Trim(etag, `"`)}} {
		w := get(m, other...)
		if w.Code != 200 || !strings.Contains(w.Body.String(), `"settings":{"a":1}`) || w.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%q: %d %s", other, w.Code, w.Body)
		}
		// This pair would change what 304 and 404 mean.
		if w.Header().Get("X-Cc-Gateway-Version") != "" || strings.Contains(w.Header().Get("Cache-Control"), "no-store") {
			t.Errorf("headers: %v", w.Header())
		}
	}
	if other := get(managed(t, `{"a":2}`)); other.Header().Get("ETag") == etag {
		t.Error("a change keeps the checksum")
	}
}

func FuzzManagedSettings(f *testing.F) {
	for _, seed := range []string{"{}", `{"a":[1,{"b":"\u2028"}]}`, `{"a":1,"a":2}`, `{"\ud800":1}`, "[", `{"a":1e400}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, file string) {
		m, err := signin.NewManagedSettings([]byte(file))
		if err != nil {
			return
		}
		settings, _, _ := sent(t, get(m).Body.String())
		var before, after any
		if json.Unmarshal([]byte(strings.TrimPrefix(file, "\ufeff")), &before) != nil || json.Unmarshal([]byte(settings), &after) != nil || !reflect.DeepEqual(before, after) {
			t.Fatalf("%q became %q", file, settings)
		}
		if again := managed(t, settings); get(again).Body.String() != get(m).Body.String() {
			t.Fatalf("%q: not canonical", settings)
		}
	})
}
