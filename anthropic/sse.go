package anthropic

// Watching a stream of server-sent events that passes by.

import "bytes"

// Bounds, in bytes, of what a StreamScanner keeps: one event's data, and each
// of two errors.
const (
	maxEventData  = 32 << 10
	maxEventError = 8 << 10
)

// StreamScanner watches the bytes of a Messages stream, in chunks of any size,
// and notes what the balancer must know: where events end, what was used, how
// the stream begins and ends. It keeps at most 64 KiB however large an event
// is. Lines end with LF, CRLF or CR. The zero value is ready.
//
// An event counts when its blank line has come. An event that has neither a
// name nor data, such as a comment, is none.
type StreamScanner struct {
	// The line that is being read.
	state    lineState
	field    [8]byte // the field's name, as far as it may be one of ours
	fieldLen int
	name     [32]byte // value of an event line
	nameLen  int

	// The event that is being read.
	kind    eventKind
	named   bool
	hasData bool
	data    []byte // if it may be needed

	// Line ends.
	open    bool // the last byte did not end an event
	afterCR bool // the last byte was a CR: an LF now belongs to it
	bareCR  bool // the line before ended with a CR alone
	blankCR bool // the CR of a CRLF that ends an event has come, its LF has not

	tally      tally
	container  string
	started    bool
	sawPing    bool
	stopped    bool
	firstError []byte
	lastError  []byte
}

type lineState uint8

const (
	inField         lineState = iota
	beforeEventName           // behind the colon: one space is no part of the value
	inEventName
	beforeData
	inData
	inOther
)

type eventKind uint8

const (
	eventUnknown eventKind = iota // no name, or none that we know: its data decides
	eventPing
	eventError
	eventStart // message_start
	eventDelta // message_delta
	eventStop  // message_stop
	eventBlock // content_block_*
)

// kindOf names the events. Source: API reference, Streaming.
func kindOf(name []byte) eventKind {
	switch string(name) {
	case "content_block_delta", "content_block_start", "content_block_stop":
		return eventBlock
	case "ping":
		return eventPing
	case "message_start":
		return eventStart
	case "message_delta":
		return eventDelta
	case "message_stop":
		return eventStop
	case "error":
		return eventError
	}
	return eventUnknown
}

// Feed takes the next bytes of the stream.
func (s *StreamScanner) Feed(p []byte) {
	lf, cr := -1, -1 // where the next ones are; searched for once, not once a line
	for i := 0; i < len(p); {
		if s.afterCR {
			s.afterCR = false
			if p[i] == '\n' {
				s.open = s.open && !s.blankCR
				s.blankCR = false
				i++
				continue
			}
			s.bareCR = true
		}
		if lf < i {
			lf = indexFrom(p, i, '\n')
		}
		if cr < i {
			cr = indexFrom(p, i, '\r')
		}
		end := min(lf, cr)
		s.line(p[i:end])
		if end == len(p) {
			return
		}
		s.endLine(end == cr)
		i = end + 1
	}
}

func indexFrom(p []byte, i int, c byte) int {
	n := bytes.IndexByte(p[i:], c)
	if n < 0 {
		return len(p)
	}
	return i + n
}

// line takes a part of a line.
func (s *StreamScanner) line(part []byte) {
	if len(part) == 0 {
		return
	}
	s.open, s.blankCR = true, false
	if s.state == inField {
		part = s.readField(part)
	}
	if len(part) == 0 {
		return
	}
	if s.state == beforeEventName || s.state == beforeData {
		s.state++ // to inEventName or inData
		if part[0] == ' ' {
			part = part[1:]
		}
	}
	switch s.state {
	case inEventName:
		// A name that is too long keeps a length that no name of ours has.
		s.nameLen += copy(s.name[s.nameLen:], part)
	case inData:
		s.keep(part)
	}
}

// readField reads a field's name up to its colon and returns what follows.
func (s *StreamScanner) readField(part []byte) []byte {
	for i, c := range part {
		if c == ':' {
			s.beginValue()
			return part[i+1:]
		}
		if s.fieldLen < len(s.field) {
			s.field[s.fieldLen] = c
			s.fieldLen++
		}
	}
	return nil
}

func (s *StreamScanner) beginValue() {
	switch string(s.field[:s.fieldLen]) {
	case "event":
		s.state, s.nameLen = beforeEventName, 0
	case "data":
		if s.hasData {
			s.keep([]byte{'\n'})
		}
		s.state, s.hasData = beforeData, true
	default:
		s.state = inOther
	}
}

// keep keeps data of events that are read, or whose kind is not known yet.
func (s *StreamScanner) keep(part []byte) {
	switch s.kind {
	case eventBlock, eventPing, eventStop:
		return
	}
	if room := maxEventData - len(s.data); len(part) > room {
		part = part[:room]
		s.started = true // neither a ping nor an error is that large
	}
	s.data = append(s.data, part...)
}

// endLine takes the LF or CR that ends a line.
func (s *StreamScanner) endLine(cr bool) {
	blank := s.state == inField && s.fieldLen == 0
	if blank {
		s.endEvent()
		// A CR may be the first half of a CRLF, unless the line before ended with
		// a CR alone.
		s.blankCR = cr && !s.bareCR
		s.open = s.blankCR
	} else {
		s.open = true
		if s.state == inField {
			s.beginValue() // a field without a colon has an empty value
		}
		if s.state == inEventName || s.state == beforeEventName {
			s.kind, s.named = kindOf(s.name[:s.nameLen]), s.nameLen > 0
		}
	}
	s.state, s.fieldLen = inField, 0
	s.afterCR = cr
	s.bareCR = false
}

func (s *StreamScanner) endEvent() {
	if !s.named && !s.hasData {
		return
	}
	kind := s.kind
	if kind == eventUnknown && s.hasData {
		if name, ok := content(member(s.data, "type")); ok {
			kind = kindOf(name)
		}
	}
	switch kind {
	case eventPing:
		s.sawPing = true
	case eventError:
		s.noteError()
	case eventStart:
		s.noteStart()
	case eventDelta:
		s.noteDelta()
	case eventStop:
		s.stopped = true
	}
	s.started = s.started || kind != eventPing
	s.kind, s.named, s.hasData = eventUnknown, false, false
	s.data = s.data[:0]
}

func (s *StreamScanner) noteError() {
	s.lastError = append([]byte{}, s.data[:min(len(s.data), maxEventError)]...) // not nil, even without data
	if !s.started {
		s.firstError = s.lastError
	}
}

func (s *StreamScanner) noteStart() {
	message := member(s.data, "message")
	s.tally.model(text(member(message, "model"), maxModel))
	s.tally.add(member(message, "usage"))
	s.noteContainer(member(message, "container"))
}

func (s *StreamScanner) noteDelta() {
	s.tally.add(member(s.data, "usage"))
	s.noteContainer(member(member(s.data, "delta"), "container"))
}

func (s *StreamScanner) noteContainer(container []byte) {
	if id := text(member(container, "id"), maxResourceID); id != "" {
		s.container = id
	}
}

// AtBoundary reports whether an event of our own may be put in here: the last
// byte ended an event, or there was none yet.
func (s *StreamScanner) AtBoundary() bool { return !s.open }

// Started reports whether an event other than a ping has come, whole, or has
// grown too large to be an error.
func (s *StreamScanner) Started() bool { return s.started }

// SawPing reports whether a ping has come.
func (s *StreamScanner) SawPing() bool { return s.sawPing }

// FirstError returns the data of the first event other than a ping if that is
// an error, else nil. It is cut at 8 KiB.
func (s *StreamScanner) FirstError() []byte { return s.firstError }

// LastError returns the data of the latest error event, nil if there was none.
// It is cut at 8 KiB.
func (s *StreamScanner) LastError() []byte { return s.lastError }

// Stopped reports whether message_stop has come: without it the stream is
// broken, even if the connection ended cleanly.
func (s *StreamScanner) Stopped() bool { return s.stopped }

// Usage returns what was used so far.
func (s *StreamScanner) Usage() Usage { return s.tally.total() }

// Container returns the id of the container that the answer uses, "" if none
// was told.
func (s *StreamScanner) Container() string { return s.container }
