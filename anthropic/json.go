package anthropic

// Reading a few members of a large JSON text without decoding the rest. For
// valid JSON the reading is exact; invalid JSON is noticed where it matters to
// the walk and otherwise passed over, since upstream refuses it anyway.

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"iter"
	"math/bits"
)

// object walks over the members of a JSON object that is held in memory.
type object struct {
	b      []byte
	i      int
	begun  bool // a member was read: the next one needs a comma
	broken bool
	closed bool // its closing brace was reached; i is behind it
	file   int  // where the first string "file_id" inside a value is; 0 = nowhere
}

// readObject starts at the first byte of b that is not white space.
func readObject(b []byte) object {
	i := skipSpace(b, 0)
	if i == len(b) || b[i] != '{' {
		return object{b: b, i: i, broken: true}
	}
	return object{b: b, i: i + 1}
}

// next returns the next member: its name as spelled between the quotes and its
// value's bytes. Both are parts of the object's text.
func (o *object) next() (name, value []byte, ok bool) {
	if o.broken || o.closed {
		return nil, nil, false
	}
	name, value, ok = o.member()
	o.broken = !ok && !o.closed
	return name, value, ok
}

func (o *object) member() (name, value []byte, ok bool) {
	b := o.b
	i := skipSpace(b, o.i)
	if i < len(b) && b[i] == '}' {
		o.i, o.closed = i+1, true
		return nil, nil, false
	}
	if o.begun {
		if i == len(b) || b[i] != ',' {
			return nil, nil, false
		}
		i = skipSpace(b, i+1)
	}
	if i == len(b) || b[i] != '"' {
		return nil, nil, false
	}
	end := skipString(b, i)
	if end < 0 {
		return nil, nil, false
	}
	name = b[i+1 : end-1]
	i = skipSpace(b, end)
	if i == len(b) || b[i] != ':' {
		return nil, nil, false
	}
	i = skipSpace(b, i+1)
	var file int
	end, file = skipValueNoting(b, i)
	if end < 0 {
		return nil, nil, false
	}
	if o.file == 0 {
		o.file = file
	}
	o.i, o.begun = end, true
	return name, b[i:end], true
}

// member returns the value of the last member of that name, nil if b is no
// object or has none.
func member(b []byte, name string) []byte {
	var found []byte
	o := readObject(b)
	for {
		n, v, ok := o.next()
		if !ok {
			return found
		}
		if bytes.IndexByte(n, '\\') >= 0 {
			n = unescapedName(n)
		}
		if string(n) == name {
			found = v
		}
	}
}

// elements yields the elements of a JSON array; of anything else, nothing.
func elements(array []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		i := skipSpace(array, 0)
		if i == len(array) || array[i] != '[' {
			return
		}
		for {
			i = skipSpace(array, i+1)
			end := skipValue(array, i)
			if end < 0 || !yield(array[i:end]) {
				return
			}
			i = skipSpace(array, end)
			if i == len(array) || array[i] != ',' {
				return
			}
		}
	}
}

// firstElement returns the first element of a JSON array, nil if there is none.
func firstElement(array []byte) []byte {
	for e := range elements(array) {
		return e
	}
	return nil
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t') {
		i++
	}
	return i
}

// skipValue returns the index behind the value that starts at i, -1 if there
// is none or it does not end.
func skipValue(b []byte, i int) int {
	end, _ := skipValueNoting(b, i)
	return end
}

// skipValueNoting also returns where the first string "file_id" inside the
// value is, 0 if nowhere: a large body is walked over once.
func skipValueNoting(b []byte, i int) (end, file int) {
	if i >= len(b) {
		return -1, 0
	}
	switch b[i] {
	case '"':
		return skipString(b, i), 0
	case '{', '[':
		return skipNested(b, i)
	}
	start := i
	for i < len(b) && !endsScalar(b[i]) {
		i++
	}
	if i == start {
		return -1, 0
	}
	return i, 0
}

func endsScalar(c byte) bool {
	switch c {
	case ',', '}', ']', ':', '"', '{', '[', ' ', '\n', '\r', '\t':
		return true
	}
	return false
}

// skipNested passes over the object or array that opens at i. It counts, it
// does not recurse: depth costs nothing.
func skipNested(b []byte, i int) (end, file int) {
	depth := 0
	for i < len(b) {
		switch b[i] {
		case '"':
			end := skipString(b, i)
			if end < 0 {
				return -1, file
			}
			if file == 0 && isFileIDName(b[i:end]) {
				file = i
			}
			i = end
			continue
		case '{', '[':
			depth++
		case '}', ']':
			depth--
			if depth == 0 {
				return i + 1, file
			}
		}
		i++
	}
	return -1, file
}

// skipString returns the index behind the string whose opening quote is at i,
// -1 if it does not end. It jumps from quote to quote; a quote is escaped if an
// odd number of backslashes stands before it.
func skipString(b []byte, i int) int {
	start := i + 1
	for i = start; ; {
		n := indexQuote(b[i:])
		if n < 0 {
			return -1
		}
		i += n + 1
		if b[i-2] != '\\' || b[i-3] == '\\' && !escapedAt(b[start:i-1]) {
			return i
		}
	}
}

// indexQuote is bytes.IndexByte(b, '"'), quicker where the quote is near: most
// strings, and most stretches between escaped quotes, are short.
func indexQuote(b []byte) int {
	const (
		ones   = 0x0101010101010101
		highs  = 0x8080808080808080
		quotes = ones * '"'
	)
	if len(b) < 8 {
		return bytes.IndexByte(b, '"')
	}
	x := binary.LittleEndian.Uint64(b) ^ quotes // a zero byte where a quote is
	if m := (x - ones) &^ x & highs; m != 0 {
		return bits.TrailingZeros64(m) / 8
	}
	n := bytes.IndexByte(b[8:], '"')
	if n < 0 {
		return -1
	}
	return n + 8
}

// escapedAt reports whether what follows b is escaped.
func escapedAt(b []byte) bool {
	return (len(b)-len(bytes.TrimRight(b, `\`)))%2 == 1
}

var (
	backslash    = []byte(`\`)
	quote        = []byte(`"`)
	escapedQuote = []byte(`\"`)
)

// content returns what a JSON string says; ok is false if value is no string.
// The result is a part of value where nothing is escaped.
func content(value []byte) (text []byte, ok bool) {
	if len(value) < 2 || value[0] != '"' || value[len(value)-1] != '"' {
		return nil, false
	}
	raw := value[1 : len(value)-1]
	switch n := bytes.Count(raw, backslash); n {
	case 0:
		return raw, true
	case bytes.Count(raw, escapedQuote):
		// JSON inside a string, as in metadata.user_id: no decoder needed.
		return bytes.ReplaceAll(raw, escapedQuote, quote), true
	}
	var s string
	if json.Unmarshal(value, &s) != nil {
		return nil, false
	}
	return []byte(s), true
}

// text is content as a string that is at most limit bytes long; longer ones,
// and values that are no string, are "".
func text(value []byte, limit int) string {
	// An escape takes six bytes at most for each byte of content.
	if len(value) > 6*limit+2 {
		return ""
	}
	s, ok := content(value)
	if !ok || len(s) > limit {
		return ""
	}
	return string(s)
}
