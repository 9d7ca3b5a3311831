package anthropic

// Watching a JSON answer that passes by.

import "bytes"

// maxMember bounds, in bytes, a member that a JSONScanner keeps.
const maxMember = 32 << 10

// usualMember has room for a usual answer's usage.
const usualMember = 512

// JSONScanner watches the bytes of a JSON answer, in chunks of any size, and
// reads a few members of the top-level object. It keeps at most 64 KiB however
// large the answer is. The zero value is ready.
type JSONScanner struct {
	depth    int
	begun    bool // a byte other than white space has come
	done     bool // the object was closed, or there is none
	inString bool
	escaped  bool // the string's bytes so far end with an odd number of backslashes
	inValue  bool // at depth 1: behind a name's colon

	want wanted
	kept []byte // a name or a wanted value at depth 1
	lost bool   // kept outgrew its bound

	tally     tally
	id        string
	container string
}

type wanted uint8

const (
	wantNothing wanted = iota
	wantName
	wantID
	wantModel
	wantUsage
	wantContainer
)

// Feed takes the next bytes of the answer.
func (s *JSONScanner) Feed(p []byte) {
	for len(p) > 0 && !s.done {
		var n int
		if s.inString {
			n = s.passString(p)
			s.keep(p[:n])
		} else {
			n = 1
			s.structure(p[0])
		}
		p = p[n:]
	}
}

// passString returns how many bytes of p belong to the string that is open.
func (s *JSONScanner) passString(p []byte) int {
	for i := 0; ; {
		n := indexQuote(p[i:])
		part := p[i:]
		if n >= 0 {
			part = p[i : i+n]
		}
		s.escaped = s.escapedAfter(part)
		if n < 0 {
			return len(p)
		}
		i += n + 1
		if !s.escaped {
			s.inString = false
			return i
		}
		s.escaped = false
	}
}

// escapedAfter reports whether what follows the next part of a string is
// escaped.
func (s *JSONScanner) escapedAfter(part []byte) bool {
	if len(part) == 0 || part[len(part)-1] != '\\' {
		return len(part) == 0 && s.escaped
	}
	slashes := len(part) - len(bytes.TrimRight(part, `\`))
	if slashes == len(part) && s.escaped {
		slashes++ // the run goes on from before
	}
	return slashes%2 == 1
}

// structure takes a byte outside strings.
func (s *JSONScanner) structure(c byte) {
	switch c {
	case ' ', '\t', '\n', '\r':
		return
	case '"':
		s.inString, s.escaped = true, false
		if s.depth == 1 && !s.inValue {
			s.begin(wantName)
		}
	case ':':
		if s.depth == 1 && !s.inValue {
			s.inValue = true
			s.begin(s.named())
			return
		}
	case ',':
		if s.depth == 1 {
			s.endMember()
			return
		}
	case '{', '[':
		s.depth++
		if s.depth == 1 {
			s.begun, s.done = true, c == '['
			return
		}
	case '}', ']':
		if s.depth == 1 {
			s.endMember()
			s.done = true
			return
		}
		s.depth--
	}
	if !s.begun {
		s.done = true // no object
		return
	}
	s.keep1(c)
}

func (s *JSONScanner) begin(w wanted) {
	if s.kept == nil {
		s.kept = make([]byte, 0, usualMember)
	}
	s.want, s.kept, s.lost = w, s.kept[:0], false
}

func (s *JSONScanner) keep(part []byte) {
	if s.want == wantNothing || s.lost {
		return
	}
	if len(s.kept)+len(part) > maxMember {
		s.lost = true
		return
	}
	s.kept = append(s.kept, part...)
}

func (s *JSONScanner) keep1(c byte) {
	if s.want != wantNothing {
		s.keep([]byte{c})
	}
}

// named returns what the name just read asks for.
func (s *JSONScanner) named() wanted {
	if s.lost {
		return wantNothing
	}
	switch string(s.kept) {
	case `"id"`:
		return wantID
	case `"model"`:
		return wantModel
	case `"usage"`:
		return wantUsage
	case `"container"`:
		return wantContainer
	}
	return wantNothing
}

func (s *JSONScanner) endMember() {
	if s.inValue && !s.lost {
		switch s.want {
		case wantID:
			s.id = text(s.kept, maxResourceID)
		case wantModel:
			s.tally.model(text(s.kept, maxModel))
		case wantUsage:
			s.tally.add(s.kept)
		case wantContainer:
			s.container = text(member(s.kept, "id"), maxResourceID)
		}
	}
	s.inValue = false
	s.begin(wantNothing)
}

// Usage returns what was used so far.
func (s *JSONScanner) Usage() Usage { return s.tally.total() }

// ID returns the answer's id, "" if it has none or it has not come yet.
func (s *JSONScanner) ID() string { return s.id }

// Container returns the id of the container that the answer used, "" if it used
// none.
func (s *JSONScanner) Container() string { return s.container }
