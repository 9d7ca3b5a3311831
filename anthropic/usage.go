package anthropic

// Counting what an answer has used.

import (
	"strconv"

	"github.com/claude-balancer/claude-balancer/api"
)

// Usage is what an answer has used, as far as it has told.
type Usage struct {
	Tokens       api.Tokens
	Seen         bool   // any token counter was told
	Model        string // the model that answered, which may not be the requested one
	WebSearches  int64
	InferenceGeo string // "us" costs more
	ServiceTier  string // standard, priority, batch
	Speed        string // standard, fast
}

// tally adds up the usage objects of one answer: a counter that is told again
// replaces what was told before, since message_delta is cumulative.
type tally struct {
	usage       Usage
	write       int64 // cache writes of either kind
	writeTold   bool
	fiveMinutes int64
	oneHour     int64
}

// add takes over a usage object: of a JSON answer, of message_start, or of
// message_delta, where any counter may be null or absent. A member of a wrong
// type counts as not told, an object that is not whole as none. Source: API
// reference, Messages and Streaming.
func (t *tally) add(raw []byte) {
	next := *t
	u := &next.usage
	o := readObject(raw)
	for {
		name, value, ok := o.next()
		if !ok {
			break
		}
		switch string(name) {
		case "input_tokens":
			next.count(&u.Tokens.Input, value)
		case "output_tokens":
			next.count(&u.Tokens.Output, value)
		case "cache_read_input_tokens":
			next.count(&u.Tokens.CacheRead, value)
		case "cache_creation_input_tokens":
			next.writeTold = next.count(&next.write, value) || next.writeTold
		case "cache_creation":
			next.count(&next.fiveMinutes, member(value, "ephemeral_5m_input_tokens"))
			next.count(&next.oneHour, member(value, "ephemeral_1h_input_tokens"))
		case "server_tool_use":
			takeCount(&u.WebSearches, member(value, "web_search_requests"))
		case "inference_geo":
			takeWord(&u.InferenceGeo, value)
		case "service_tier":
			takeWord(&u.ServiceTier, value)
		case "speed":
			takeWord(&u.Speed, value)
		case "iterations":
			next.iterations(value)
		}
	}
	if o.closed {
		*t = next
	}
}

// count takes over a token counter, and tells whether it was one.
func (t *tally) count(to *int64, value []byte) bool {
	told := takeCount(to, value)
	t.usage.Seen = t.usage.Seen || told
	return told
}

func (t *tally) iterations(list []byte) {
	for it := range elements(list) {
		if text(member(it, "type"), maxWord) == "message" { // not a compaction, nor an advisor's
			t.model(text(member(it, "model"), maxModel))
		}
	}
}

func (t *tally) model(name string) {
	if name != "" && len(name) <= maxModel {
		t.usage.Model = name
	}
}

// total returns the usage so far. The split of cache writes by lifetime is told
// once, at the start; what exceeds it, or all if it is not told, counts as
// 5-minute writes.
func (t *tally) total() Usage {
	u := t.usage
	u.Tokens.CacheWrite5m, u.Tokens.CacheWrite1h = t.fiveMinutes, t.oneHour
	if t.writeTold {
		u.Tokens.CacheWrite1h = min(t.oneHour, t.write)
		u.Tokens.CacheWrite5m = t.write - u.Tokens.CacheWrite1h
	}
	return u
}

// takeCount takes over a counter, unless value is no whole number from 0 up.
func takeCount(to *int64, value []byte) bool {
	n, err := strconv.ParseUint(string(value), 10, 63)
	if err != nil {
		return false
	}
	*to = int64(n)
	return true
}

// takeWord takes over a string, unless value is none.
func takeWord(to *string, value []byte) {
	if len(value) > 0 && value[0] == '"' {
		*to = word(text(value, maxWord))
	}
}
