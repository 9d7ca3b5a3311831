package store

import (
	"encoding/json"
	"testing"

	"pgregory.net/rapid"

	"github.com/claude-balancer/claude-balancer/api"
)

func TestAttemptsAreKeptAsEncodingJSONWritesThem(t *testing.T) {
	t.Parallel()
	hostile := rapid.SampledFrom([]string{"", "work", "a b~!'`", `"`, `\\`, "<", ">", "&", "\x00", "\n", "\x7f", "\xff", "é", "\u2028", "😀"})
	text := rapid.OneOf(hostile, rapid.String(), rapid.StringMatching(`[ -~]*`))
	rapid.Check(t, func(rt *rapid.T) {
		attempts := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) api.Attempt {
			return api.Attempt{Account: text.Draw(rt, "account"), Status: rapid.Int().Draw(rt, "status"),
				Cause: text.Draw(rt, "cause"), MS: rapid.Int64().Draw(rt, "ms")}
		}), 1, 4).Draw(rt, "attempts")
		want, err := json.Marshal(attempts)
		if have := attemptsText(attempts); err != nil || *have != string(want) {
			rt.Fatalf("got  %s\nwant %s, %v", *have, want, err)
		}
	})
	if attemptsText(nil) != nil || attemptsText([]api.Attempt{}) != nil {
		t.Error("no attempts are text")
	}
}
