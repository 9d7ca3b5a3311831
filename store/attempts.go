package store

// How a row keeps its attempts: as JSON.

import (
	"encoding/json"
	"strconv"

	"github.com/claude-balancer/claude-balancer/api"
)

// attemptsText returns what json.Marshal makes of attempts, nil if there are
// none. Every row has them, and nearly all are of plain text.
func attemptsText(attempts []api.Attempt) *string {
	if len(attempts) == 0 {
		return nil
	}
	b := append(make([]byte, 0, 128), '[')
	for i, a := range attempts {
		if !isPlain(a.Account) || !isPlain(a.Cause) {
			text, _ := json.Marshal(attempts) // strings and numbers always can be
			return new(string(text))
		}
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(b, `{"account":"`...), a.Account...)
		b = strconv.AppendInt(append(b, `","status":`...), int64(a.Status), 10)
		b = append(append(b, `,"cause":"`...), a.Cause...)
		b = strconv.AppendInt(append(b, `","ms":`...), a.MS, 10)
		b = append(b, '}')
	}
	return new(string(append(b, ']')))
}

// isPlain reports whether JSON needs to escape nothing of s.
func isPlain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			return false
		}
	}
	return true
}
