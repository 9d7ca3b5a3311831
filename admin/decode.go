package admin

// Strict reading of request bodies: what is misspelt, doubled or of the wrong
// type is refused with a sentence that says what and where. No sentence quotes
// a string's value, since it may be a credential.

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"reflect"
	"strings"
	"unicode/utf8"

	"github.com/claude-balancer/claude-balancer/api"
)

// maxBody bounds the body of an admin request, in bytes.
const maxBody = 1 << 20

// decodeBody reads the JSON object of a request into the struct at dst.
func decodeBody(w http.ResponseWriter, r *http.Request, dst any) error {
	if r.Header.Get("Content-Type") == "" {
		return errContentType
	}
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	if len(body) == 0 {
		return api.BadRequest("the body is empty: a JSON object is needed")
	}
	return decodeObject(body, dst)
}

// decodeOptionalBody is decodeBody for writes that need no body. Without one
// they need no content type either; another one than JSON is refused all the
// same, because that is what a form on a foreign web page would send.
func decodeOptionalBody(w http.ResponseWriter, r *http.Request, dst any) error {
	body, err := readBody(w, r)
	if err != nil || len(body) == 0 {
		return err
	}
	return decodeObject(body, dst)
}

// expectNoBody accepts no body, or an empty object.
func expectNoBody(w http.ResponseWriter, r *http.Request) error {
	return decodeOptionalBody(w, r, new(struct{}))
}

var errContentType = &api.Error{
	Status:  http.StatusUnsupportedMediaType,
	Message: "the content type must be application/json",
}

func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	contentType := r.Header.Get("Content-Type")
	if contentType != "" && !isJSON(contentType) {
		return nil, errContentType
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return nil, &api.Error{Status: http.StatusRequestEntityTooLarge, Message: "the body is larger than 1 MiB"}
	}
	if err != nil {
		return nil, api.BadRequest("the body could not be read: %v", err)
	}
	body = bytes.TrimSpace(body)
	if len(body) > 0 && contentType == "" {
		return nil, errContentType
	}
	return body, nil
}

func isJSON(contentType string) bool {
	mediaType, _, err := mime.ParseMediaType(contentType)
	return err == nil && (mediaType == "application/json" || strings.HasSuffix(mediaType, "+json"))
}

// decodeObject sets the members of the struct at dst. Unlike encoding/json it
// takes each member once and under its exact name only.
func decodeObject(body []byte, dst any) error {
	if !utf8.Valid(body) {
		return api.BadRequest("the body is not valid UTF-8")
	}
	// A pass over the whole finds what follows the object, too, and leaves no
	// syntax error to the second one.
	if err := json.Unmarshal(body, new(json.RawMessage)); err != nil {
		return invalidJSON(err)
	}
	if body[0] != '{' {
		return api.BadRequest("the body must be a JSON object, not %s", kindOf(body))
	}
	fields := fieldsByName(reflect.ValueOf(dst).Elem())
	seen := make(map[string]bool)
	dec := json.NewDecoder(bytes.NewReader(body))
	if _, err := dec.Token(); err != nil {
		return invalidJSON(err)
	}
	for dec.More() {
		var raw json.RawMessage
		token, err := dec.Token()
		if err == nil {
			err = dec.Decode(&raw)
		}
		if err != nil {
			return invalidJSON(err)
		}
		name := token.(string)
		field, known := fields[name]
		switch {
		case !known:
			return api.BadRequest("unknown member %q", shorten(name))
		case seen[name]:
			return api.BadRequest("member %q is given twice", name)
		}
		seen[name] = true
		if err := json.Unmarshal(raw, field.Addr().Interface()); err != nil {
			return wrongType(name, field.Type(), raw)
		}
	}
	return nil
}

func fieldsByName(v reflect.Value) map[string]reflect.Value {
	fields := make(map[string]reflect.Value)
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		fields[name] = v.Field(i)
	}
	return fields
}

func invalidJSON(err error) error {
	if syntax := (*json.SyntaxError)(nil); errors.As(err, &syntax) {
		return api.BadRequest("the body is not valid JSON: %v at byte %d", syntax, syntax.Offset)
	}
	return api.BadRequest("the body is not valid JSON")
}

func wrongType(name string, t reflect.Type, raw json.RawMessage) error {
	want, got := wanted(t), kindOf(raw)
	switch {
	case got == aNumber && (want == aNumber || want == wholeNumber):
		got = shorten(string(raw)) // out of range, or with a fraction
	case strings.HasPrefix(want, got):
		return api.BadRequest("member %q must be %s only", name, want)
	}
	return api.BadRequest("member %q must be %s, not %s", name, want, got)
}

const (
	aNumber     = "a number"
	wholeNumber = "a whole number"
)

// wanted names the JSON type that a field takes.
func wanted(t reflect.Type) string {
	if t.Kind() == reflect.Struct {
		if value, ok := t.FieldByName("Value"); ok { // an api.Field
			t = value.Type
		}
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64:
		return wholeNumber
	case reflect.Float64:
		return aNumber
	case reflect.Slice:
		return "a list of strings"
	default:
		return "a string"
	}
}

// kindOf names the JSON type of a valid value.
func kindOf(raw json.RawMessage) string {
	switch raw[0] {
	case '{':
		return "an object"
	case '[':
		return "a list"
	case '"':
		return "a string"
	case 't', 'f':
		return string(raw)
	case 'n':
		return "null"
	default:
		return aNumber
	}
}

// shorten bounds what is quoted back.
func shorten(s string) string {
	const limit = 40
	if r := []rune(s); len(r) > limit {
		return string(r[:limit]) + "…"
	}
	return s
}
