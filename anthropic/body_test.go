package anthropic

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestReadBodyReadsTopLevelMembersOnly(t *testing.T) {
	t.Parallel()
	const uuid = "0b5c8b1e-7a43-4f0e-9d2c-6f2f3c1d8e55"
	long := strings.Repeat("m", maxModel+1)
	cases := []struct {
		name string
		body string
		want Body
	}{
		{"plain", `{"model":"claude-opus-5-5","stream":true}`, Body{Model: "claude-opus-5-5", Stream: true, Object: true}},
		{"spaces", " \r\n\t{ \"model\" : \"a\" , \"stream\" : false } \n", Body{Model: "a", Object: true}},
		{"empty object", `{}`, Body{Object: true}},
		{"model last", `{"messages":[{"role":"user","content":"\"model\":\"x\"}"}],"model":"a"}`, Body{Model: "a", Object: true}},
		{"nested model", `{"tools":[{"model":"x"}],"metadata":{"model":"y"},"model":"a"}`, Body{Model: "a", Object: true}},
		{"no model", `{"messages":[]}`, Body{Object: true}},
		{"model is a number", `{"model":5}`, Body{Object: true}},
		{"model is null", `{"model":null}`, Body{Object: true}},
		{"model is an object", `{"model":{"model":"x"}}`, Body{Object: true}},
		{"escaped value", `{"model":"claude-\u006fpus"}`, Body{Model: "claude-opus", Object: true}},
		{"escaped quote in the value", `{"model":"a\"b"}`, Body{Model: `a"b`, Object: true}},
		{"backslashes before the end", `{"system":"\\\\","model":"a"}`, Body{Model: "a", Object: true}},
		{"twice", `{"model":"a","model":"b"}`, Body{Model: "b", Ambiguous: true, Object: true}},
		{"case-variant", `{"model":"a","Model":"b"}`, Body{Model: "a", Ambiguous: true, Object: true}},
		{"only a case-variant", `{"MODEL":"b"}`, Body{Ambiguous: true, Object: true}},
		{"escaped name", `{"mod\u0065l":"b"}`, Body{Model: "b", Ambiguous: true, Object: true}},
		{"fully escaped name", `{"\u006d\u006f\u0064\u0065\u006c":"b"}`, Body{Model: "b", Ambiguous: true, Object: true}},
		{"escaped case-variant", `{"model":"a","\u004dodel":"b"}`, Body{Model: "a", Ambiguous: true, Object: true}},
		{"too long for a model", `{"model":"` + long + `"}`, Body{Ambiguous: true, Object: true}},
		{"empty model", `{"model":""}`, Body{Object: true}},
		{"session in JSON", `{"metadata":{"user_id":"{\"device_id\":\"ab\",\"account_uuid\":\"\",\"session_id\":\"` + uuid + `\"}"}}`, Body{MetadataSession: uuid, Object: true}},
		{"session in JSON with other escapes", `{"metadata":{"user_id":"{\"device_id\":\"a\\\\b\",\"session_id\":\"` + uuid + `\"}"}}`, Body{MetadataSession: uuid, Object: true}},
		{"session in the old form", `{"metadata":{"user_id":"user_abc_account_1-2_session_` + uuid + `"}}`, Body{MetadataSession: uuid, Object: true}},
		{"another user id", `{"metadata":{"user_id":"alice_session_x"}}`, Body{Object: true}},
		{"user id too long to hold a session", `{"metadata":{"user_id":"user_a_session_` + strings.Repeat("s", maxSession+1) + `"}}`, Body{Object: true}},
		{"metadata is null", `{"metadata":null}`, Body{Object: true}},
		{"array", `[{"model":"a"}]`, Body{}},
		{"string", `"model"`, Body{}},
		{"nothing", ``, Body{}},
		{"two objects", `{"model":"a"}{"model":"b"}`, Body{Model: "a"}},
		{"trailing comma", `{"model":"a",}`, Body{Model: "a"}},
		{"missing comma", `{"model":"a" "model":"b"}`, Body{Model: "a"}},
		{"cut in a string", `{"model":"a","system":"abc`, Body{Model: "a"}},
		{"cut in an array", `{"model":"a","messages":[{"role":"user"}`, Body{Model: "a"}},
		{"cut behind an escape", `{"model":"a","system":"\`, Body{Model: "a"}},
		{"name without value", `{"model"}`, Body{}},
		{"value missing", `{"model":}`, Body{}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got, _ := ReadBody([]byte(c.body)); got != c.want {
				t.Errorf("ReadBody(%s)\n got %+v\nwant %+v", c.body, got, c.want)
			}
		})
	}
}

func TestReadBodyAllocatesLittle(t *testing.T) {
	body := realisticBody(t, 200<<10)
	if n := testing.AllocsPerRun(20, func() { ReadBody(body) }); n > 4 {
		t.Errorf("%v allocations, want at most 4", n)
	}
	if b, _ := ReadBody(body); b.Model != "claude-opus-5-5" || !b.Stream || b.MetadataSession == "" || b.Ambiguous || !b.Object {
		t.Errorf("read %+v", b)
	}
}

// FuzzReadBody compares with encoding/json: what is valid must be read exactly,
// what is not must do no harm.
func FuzzReadBody(f *testing.F) {
	for _, s := range []string{
		`{"model":"a","stream":true,"metadata":{"user_id":"user_a_session_b"}}`, `{"a":"\\\"","model":"b"}`, `{"model":"a","model":1}`,
		`{"Model":"a"}`, `{"mod\u0065l":"a"}`, ` {"a":[{"b":"]"}],"model":"x"} `, `{"a":-1.5e3,"b":null}`, `[`, `{"a`, "\xff", `{"model":"\ud800"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) { compareWithDecoder(t, b) })
}

type reporter interface {
	Errorf(format string, args ...any)
}

func compareWithDecoder(t reporter, b []byte) {
	got, _ := ReadBody(b)
	_, _ = ContentKey(b)
	_ = CreatedID(b)
	_ = ContainerID(b)
	if !json.Valid(b) || !utf8.Valid(b) {
		return
	}
	names, values, isObject := decodeMembers(b)
	if got.Object != isObject {
		t.Errorf("%s: object %v, want %v", b, got.Object, isObject)
	}
	var model string
	same, near := 0, 0
	for i, name := range names {
		switch {
		case name == "model":
			same++
			model = ""
			_ = json.Unmarshal(values[i], &model)
			if len(model) > maxModel {
				model = ""
			}
		case strings.EqualFold(name, "model"):
			near++
		}
	}
	if got.Model != model {
		t.Errorf("%s: model %q, want %q", b, got.Model, model)
	}
	if (same > 1 || near > 0) && !got.Ambiguous {
		t.Errorf("%s: not ambiguous", b)
	}
}

func decodeMembers(b []byte) (names []string, values []json.RawMessage, ok bool) {
	d := json.NewDecoder(bytes.NewReader(b))
	first, err := d.Token()
	if err != nil || first != json.Delim('{') {
		return nil, nil, false
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, nil, false
		}
		var v json.RawMessage
		if d.Decode(&v) != nil {
			return nil, nil, false
		}
		names, values = append(names, name.(string)), append(values, v)
	}
	return names, values, true
}

func TestReadBodyAgreesWithEncodingJSON(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) { compareWithDecoder(t, jsonObject().Draw(t, "body")) })
}

// jsonObject generates objects whose members have telling names and values
// full of what could lead a walk astray.
func jsonObject() *rapid.Generator[[]byte] {
	piece := rapid.SampledFrom([]string{`\\`, `\"`, `"`, `{`, `}`, `[`, `]`, `,`, `:`, `model`, "\n", "é", "a", "\u2028", "😀"})
	str := rapid.Custom(func(t *rapid.T) string { return strings.Join(rapid.SliceOfN(piece, 0, 12).Draw(t, "pieces"), "") })
	value := rapid.Deferred(func() *rapid.Generator[any] {
		return rapid.OneOf(
			rapid.Map(str, func(s string) any { return s }),
			rapid.Map(rapid.Float64(), func(f float64) any { return f }),
			rapid.Map(rapid.Bool(), func(b bool) any { return b }),
			rapid.Just[any](nil),
			rapid.Map(rapid.SliceOfN(str, 0, 3), func(s []string) any { return s }),
			rapid.Map(rapid.MapOfN(str, str, 0, 3), func(m map[string]string) any { return []any{m, m} }),
		)
	})
	name := rapid.OneOf(str, rapid.SampledFrom([]string{"model", "Model", "stream", "metadata", "messages", "system"}))
	return rapid.Custom(func(t *rapid.T) []byte {
		out := []byte("{")
		for i, n := range rapid.SliceOfN(name, 0, 6).Draw(t, "names") {
			if i > 0 {
				out = append(out, " ,\n"...)
			}
			k, _ := json.Marshal(n)
			v, err := json.Marshal(value.Draw(t, "value"))
			if err != nil {
				t.Fatal(err)
			}
			out = append(append(append(out, k...), " : "...), v...)
		}
		return append(out, '}')
	})
}

func TestTheSessionHeaderWinsOverTheBody(t *testing.T) {
	t.Parallel()
	body := Body{MetadataSession: "from-body"}
	for _, c := range []struct{ header, want string }{
		{"from-header", "from-header"},
		{"", "from-body"},
		{strings.Repeat("x", maxSession), strings.Repeat("x", maxSession)},
		{strings.Repeat("x", maxSession+1), "from-body"},
	} {
		h := http.Header{}
		if c.header != "" {
			h.Set("x-claude-code-session-id", c.header)
		}
		if got := Session(h, body); got != c.want {
			t.Errorf("header %q: got %q, want %q", c.header, got, c.want)
		}
	}
}

func TestContentKeyStaysTheSameAsAConversationGrows(t *testing.T) {
	t.Parallel()
	key := func(body string) [32]byte {
		k, ok := ContentKey([]byte(body))
		if !ok {
			t.Errorf("no key for %s", body)
		}
		return k
	}
	first := key(`{"model":"a","system":"s","messages":[{"role":"user","content":"hi"}]}`)
	if key(`{"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"ho"}],"model":"b","system":"s"}`) != first {
		t.Error("a later turn has another key")
	}
	for _, other := range []string{
		`{"system":"t","messages":[{"role":"user","content":"hi"}]}`,
		`{"messages":[{"role":"user","content":"hi"}]}`,
		`{"system":"s","messages":[{"role":"user","content":"hello"}]}`,
	} {
		if key(other) == first {
			t.Errorf("same key for %s", other)
		}
	}
	long := strings.Repeat("x", maxContentPart)
	if key(`{"messages":["`+long+`a"]}`) == key(`{"messages":["`+long+`aa"]}`) {
		t.Error("the length behind the cap does not count")
	}
	for _, none := range []string{``, `{}`, `{"messages":[]}`, `{"messages":"x"}`, `{"messages":null}`, `[]`} {
		if _, ok := ContentKey([]byte(none)); ok {
			t.Errorf("a key for %q", none)
		}
	}
}

func resources(body []byte) []string {
	_, ids := ReadBody(body)
	return ids
}

func TestReadBodyFindsIdsThatBelongToAnAccount(t *testing.T) {
	t.Parallel()
	cases := []struct {
		body string
		want []string
	}{
		{`{"model":"a","messages":[{"role":"user","content":"about files"}]}`, nil},
		{`{"messages":[{"content":[{"type":"document","source":{"type":"file","file_id":"file_011C"}}]}]}`, []string{"file_011C"}},
		{`{"messages":[{"content":[{"file_id" : "file_1"},{"file_id":"file_2"},{"file_id":"file_1"}]}]}`, []string{"file_1", "file_2"}},
		{`{"container":"container_01"}`, []string{"container_01"}},
		{`{"container":{"id":"container_01","skills":[{"type":"custom","skill_id":"skill_01"},{"type":"anthropic","skill_id":"pptx"}]},"messages":[{"file_id":"file_1"}]}`,
			[]string{"file_1", "container_01", "skill_01"}},
		{`{"container":null}`, nil},
		{`{"messages":[{"container":"nested"}]}`, nil},
		{`{"messages":[{"content":"{\"file_id\":\"file_1\"}"}]}`, nil}, // a text about it
		{`{"tools":[{"required":["file_id"],"properties":{"file_id":{"type":"string"}}}]}`, nil},
		{`{"messages":[{"file_id":"other_1"},{"file_id":5},{"file_id":"file_"}]}`, nil},
		{`{"messages":[{"file_id":"file_1`, nil},
		{`{"file_id"`, nil},
		{`{"messages":[{"file\u005fid":"file_1"},{"\u0066\u0069\u006c\u0065\u005f\u0069\u0064":"file_2"},{"file_id":"\u0066ile_3"}]}`,
			[]string{"file_1", "file_2", "file_3"}},
		{`{"messages":[{"file_id":"file_1"},{"file_\u0069d":"file_2"},{"fil\u0065-id":"file_3"},{"text \"file_id":"file_4"}]}`,
			[]string{"file_1", "file_2"}},
		{`{"con\u0074ainer":{"\u0069d":"container_01","skills":[{"skill\u005fid":"skill_01"}]}}`, []string{"container_01", "skill_01"}},
		{`"`, nil},
	}
	for _, c := range cases {
		if got := resources([]byte(c.body)); !slices.Equal(got, c.want) {
			t.Errorf("%s\n got %q\nwant %q", c.body, got, c.want)
		}
	}
	many := strings.Repeat(`{"file_id":"file_`+strings.Repeat("x", maxResourceID)+`"},`, 3)
	for i := range 2 * MaxResources {
		many += fmt.Sprintf(`{"file_id":"file_%d"},`, i)
	}
	if n := len(resources([]byte(`{"messages":[` + many + `1]}`))); n != MaxResources+1 {
		t.Errorf("%d ids of a body with too many, want %d", n, MaxResources+1)
	}
}

func TestReadBodyLeavesTheBodyAlone(t *testing.T) {
	t.Parallel()
	body := []byte(`{"container":{"id":"c","skills":[{"skill_id":"skill_1"} , {"skill_id":"skill_2"}]},"messages":[{"file_id":"file_1"}]}`)
	before := bytes.Clone(body)
	if got, want := resources(body), []string{"file_1", "c", "skill_1", "skill_2"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if !bytes.Equal(body, before) {
		t.Error("the body was changed")
	}
}

func TestIdsAreReadFromAnswers(t *testing.T) {
	t.Parallel()
	answer := []byte(`{"type":"message","content":[{"id":"toolu_1"}],"id":"msgbatch_01","container":{"id":"container_1","expires_at":"x"}}`)
	if got := CreatedID(answer); got != "msgbatch_01" {
		t.Errorf("created %q", got)
	}
	if got := ContainerID(answer); got != "container_1" {
		t.Errorf("container %q", got)
	}
	for _, b := range []string{``, `{}`, `{"id":5,"container":null}`, `[{"id":"x"}]`} {
		if CreatedID([]byte(b)) != "" || ContainerID([]byte(b)) != "" {
			t.Errorf("an id in %q", b)
		}
	}
}
