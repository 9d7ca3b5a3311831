package simulator

// An answer of the Messages API, whole and as a stream of events.

import (
	"encoding/json"
	"iter"
	"math"
	"net/http"
	"strings"
	"time"
)

// message is an answer before it is written in one form or the other.
type message struct {
	id, model  string
	start      int // first word in the vocabulary
	usage      usage
	hourCache  bool // cache writes live an hour
	stopReason string
	container  *container
}

type container struct {
	ID        string `json:"id"`
	ExpiresAt string `json:"expires_at"`
}

type textBlock struct {
	Type string `json:"type"`
	Text string `json:"text"`
}

type messageBody struct {
	ID           string      `json:"id"`
	Type         string      `json:"type"`
	Role         string      `json:"role"`
	Model        string      `json:"model"`
	Content      []textBlock `json:"content"`
	StopReason   *string     `json:"stop_reason"`
	StopSequence *string     `json:"stop_sequence"`
	Usage        fullUsage   `json:"usage"`
	Container    *container  `json:"container"`
}

// fullUsage is the usage with what only the first event or a JSON body has.
type fullUsage struct {
	usage
	CacheCreation struct {
		Ephemeral5m int `json:"ephemeral_5m_input_tokens"`
		Ephemeral1h int `json:"ephemeral_1h_input_tokens"`
	} `json:"cache_creation"`
	ServiceTier  string `json:"service_tier"`
	InferenceGeo string `json:"inference_geo"`
}

func (m message) body() messageBody {
	b := messageBody{
		ID: m.id, Type: "message", Role: "assistant", Model: m.model, Content: []textBlock{}, Container: m.container,
		Usage: fullUsage{usage: m.usage, ServiceTier: "standard", InferenceGeo: "not_available"},
	}
	if m.hourCache {
		b.Usage.CacheCreation.Ephemeral1h = m.usage.CacheWrite
	} else {
		b.Usage.CacheCreation.Ephemeral5m = m.usage.CacheWrite
	}
	return b
}

// whole returns the answer as JSON.
func (m message) whole() []byte {
	var text strings.Builder
	for delta := range m.deltas() {
		text.WriteString(delta)
	}
	b := m.body()
	b.Content = append(b.Content, textBlock{"text", text.String()})
	b.StopReason = &m.stopReason
	return mustMarshal(b)
}

// deltas cuts the answer's text into pieces of one to four words.
func (m message) deltas() iter.Seq[string] {
	return func(yield func(string) bool) {
		for done := 0; done < m.usage.Output; {
			n := min(1+(m.start+done)%4, m.usage.Output-done)
			var piece strings.Builder
			for i := range n {
				if done+i > 0 {
					piece.WriteByte(' ')
				}
				piece.WriteString(vocabulary[(m.start+done+i)%len(vocabulary)])
			}
			done += n
			if !yield(piece.String()) {
				return
			}
		}
	}
}

// events returns the answer as stream events, complete with their framing. They
// are made one by one: a stream may be long.
func (m message) events() iter.Seq[[]byte] {
	type object map[string]any
	return func(yield func([]byte) bool) {
		start := m.body()
		start.Usage.Output = 1
		ok := yield(event("message_start", object{"type": "message_start", "message": start})) &&
			yield(event("content_block_start", object{"type": "content_block_start", "index": 0, "content_block": textBlock{Type: "text"}})) &&
			yield(pingEvent)
		if !ok {
			return
		}
		for text := range m.deltas() {
			delta := textBlock{"text_delta", text}
			if !yield(event("content_block_delta", object{"type": "content_block_delta", "index": 0, "delta": delta})) {
				return
			}
		}
		_ = yield(event("content_block_stop", object{"type": "content_block_stop", "index": 0})) &&
			yield(event("message_delta", object{
				"type": "message_delta", "usage": m.usage,
				"delta": object{"stop_reason": m.stopReason, "stop_sequence": nil, "container": m.container},
			})) &&
			yield(stopEvent)
	}
}

var (
	pingEvent = []byte("event: ping\ndata: {\"type\": \"ping\"}\n\n")
	stopEvent = []byte("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n")
)

func event(name string, data any) []byte {
	return frame(name, mustMarshal(data))
}

func frame(name string, data []byte) []byte {
	b := make([]byte, 0, len(name)+len(data)+16)
	b = append(b, "event: "...)
	b = append(b, name...)
	b = append(b, "\ndata: "...)
	b = append(b, data...)
	return append(b, "\n\n"...)
}

// mustMarshal encodes the fake's own types, which cannot fail.
func mustMarshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("simulator: " + err.Error())
	}
	return b
}

// fault is what goes wrong in a stream.
type fault struct {
	silentStart time.Duration // before the first event
	pings       int           // before the first event
	gap         time.Duration // after each of them
	silent      time.Duration // after the second event

	kind  faultKind
	after int    // events before the fault; message_stop is never reached
	error string // error type, for faultError
}

type faultKind int

const (
	faultNone  faultKind = iota
	faultError           // an error event, then the end
	faultCut             // the connection breaks
	faultEnd             // a clean end
)

// forever is as long as the client stays.
const forever = time.Duration(math.MaxInt64)

// stream answers with events.
func (x *Exchange) stream(m message) {
	if _, err := x.ReadBody(); err != nil {
		return
	}
	x.Writer.Header().Set("Cache-Control", "no-cache")
	x.begin(http.StatusOK, "text/event-stream; charset=utf-8")
	x.flush()
	x.sim.stats.streams.Add(1)
	x.sim.changed.fire()
	defer x.sim.stats.streams.Add(-1)

	if !x.prelude() {
		return
	}
	sent := 0
	for e := range m.events() {
		last := &e[0] == &stopEvent[0]
		if x.fault.kind != faultNone && (sent >= x.fault.after || last) {
			x.breakStream()
			return
		}
		if !x.pause(sent) {
			return
		}
		if last {
			x.writeLast(e)
		} else if _, err := x.Writer.Write(e); err != nil {
			return
		}
		x.flush()
		sent++
	}
}

// prelude spends the time before the first event. It reports false if the
// client went away.
func (x *Exchange) prelude() bool {
	for range x.fault.pings {
		if _, err := x.Writer.Write(pingEvent); err != nil {
			return false
		}
		x.flush()
		if !x.wait(x.fault.gap) {
			return false
		}
	}
	return x.wait(x.fault.silentStart)
}

// pause spends the time before an event, with pings if they are wanted.
func (x *Exchange) pause(sent int) bool {
	if sent == 2 && !x.wait(x.fault.silent) {
		return false
	}
	if sent == 0 {
		return true
	}
	left, ping := x.sim.opts.Pace, x.sim.opts.Ping
	for ping > 0 && left > ping {
		if !x.wait(ping) {
			return false
		}
		if _, err := x.Writer.Write(pingEvent); err != nil {
			return false
		}
		x.flush()
		left -= ping
	}
	return x.wait(left)
}

func (x *Exchange) breakStream() {
	switch x.fault.kind {
	case faultError:
		e := apiError{kind: x.fault.error, message: texts[x.fault.error]}
		x.writeLast(frame("error", e.envelope(x.requestID)))
	case faultCut:
		x.abort()
	}
}
