package anthropic

// Counting what an answer has used.

import (
	"encoding/json"
	"errors"

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

// wireUsage is a usage object: of a JSON answer, of message_start, or of
// message_delta, where any counter may be null or absent. Source: API
// reference, Messages and Streaming.
type wireUsage struct {
	Input        *int64 `json:"input_tokens"`
	Output       *int64 `json:"output_tokens"`
	CacheRead    *int64 `json:"cache_read_input_tokens"`
	CacheWrite   *int64 `json:"cache_creation_input_tokens"`
	CacheWriteBy struct {
		FiveMinutes *int64 `json:"ephemeral_5m_input_tokens"`
		OneHour     *int64 `json:"ephemeral_1h_input_tokens"`
	} `json:"cache_creation"`
	ServerTools struct {
		WebSearches *int64 `json:"web_search_requests"`
	} `json:"server_tool_use"`
	InferenceGeo *string `json:"inference_geo"`
	ServiceTier  *string `json:"service_tier"`
	Speed        *string `json:"speed"`
	Iterations   []struct {
		Type  string `json:"type"`
		Model string `json:"model"`
	} `json:"iterations"`
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

// add takes over a usage object. A member of a wrong type counts as not told.
func (t *tally) add(raw []byte) {
	var w wireUsage
	if err := json.Unmarshal(raw, &w); err != nil {
		if _, mistyped := errors.AsType[*json.UnmarshalTypeError](err); !mistyped {
			return
		}
	}
	u := &t.usage
	told := take(&u.Tokens.Input, w.Input)
	told = take(&u.Tokens.Output, w.Output) || told
	told = take(&u.Tokens.CacheRead, w.CacheRead) || told
	if take(&t.write, w.CacheWrite) {
		t.writeTold, told = true, true
	}
	told = take(&t.fiveMinutes, w.CacheWriteBy.FiveMinutes) || told
	told = take(&t.oneHour, w.CacheWriteBy.OneHour) || told
	u.Seen = u.Seen || told
	take(&u.WebSearches, w.ServerTools.WebSearches)
	takeWord(&u.InferenceGeo, w.InferenceGeo)
	takeWord(&u.ServiceTier, w.ServiceTier)
	takeWord(&u.Speed, w.Speed)
	for _, it := range w.Iterations {
		if it.Type == "message" { // not a compaction, nor an advisor's
			t.model(it.Model)
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

func take(to *int64, n *int64) bool {
	if n == nil || *n < 0 {
		return false
	}
	*to = *n
	return true
}

func takeWord(to *string, s *string) {
	if s != nil {
		*to = word(*s)
	}
}
