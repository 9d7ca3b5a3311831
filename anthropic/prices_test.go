package anthropic

import (
	"math"
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
)

var (
	autumn = time.Date(2026, time.September, 1, 0, 0, 0, 0, time.UTC)
	winter = time.Date(2026, time.December, 1, 0, 0, 0, 0, time.UTC)
)

func TestEachKindOfTokenHasItsPrice(t *testing.T) {
	t.Parallel()
	const million = 1_000_000
	cases := []struct {
		model                           string
		at                              time.Time
		in, out, write5m, write1h, read float64
	}{
		{"claude-fable-5-2", winter, 8, 40, 10, 16, 0.20},
		{"claude-mythos-5-1", winter, 10, 50, 12.5, 20, 0.25},
		{"claude-fable-5", winter, 10, 50, 12.5, 20, 1},
		{"claude-opus-5-5", winter, 4, 20, 5, 8, 0.20},
		{"claude-opus-5", winter, 5, 25, 6.25, 10, 0.50},
		{"claude-opus-4-5-20251101", winter, 5, 25, 6.25, 10, 0.50},
		{"claude-sonnet-5-5", winter, 2, 10, 2.5, 4, 0.10},
		{"claude-sonnet-5-5", autumn, 2, 10, 2.5, 4, 0.20},
		{"claude-sonnet-5", winter, 2, 10, 2.5, 4, 0.20},
		{"claude-sonnet-4-20250514", winter, 3, 15, 3.75, 6, 0.30},
		{"claude-3-5-sonnet-20241022", winter, 3, 15, 3.75, 6, 0.30},
		{"claude-haiku-5-5", winter, 0.50, 2.50, 0.625, 1, 0.05}, // a million tokens are a long prompt
		{"claude-haiku-4-5-20251001", winter, 1, 5, 1.25, 2, 0.10},
		{"claude-3-5-haiku-20241022", winter, 0.80, 4, 1, 1.6, 0.08},
		{"claude-opus-4-1", winter, 15, 75, 18.75, 30, 1.50},
		{"claude-opus-4-20250514", winter, 15, 75, 18.75, 30, 1.50},
	}
	prices := DefaultPrices()
	for _, c := range cases {
		for _, kind := range []struct {
			tokens api.Tokens
			want   float64
		}{
			{api.Tokens{Input: million}, c.in},
			{api.Tokens{Input: million, Output: million}, c.in + c.out},
			{api.Tokens{CacheWrite5m: million}, c.write5m},
			{api.Tokens{CacheWrite1h: million}, c.write1h},
			{api.Tokens{CacheRead: million}, c.read},
		} {
			got, ok := prices.Cost(c.model, Usage{Seen: true, Tokens: kind.tokens}, c.at)
			if !ok || math.Abs(got-kind.want) > 1e-9 {
				t.Errorf("%s %+v: %v, %v, want %v", c.model, kind.tokens, got, ok, kind.want)
			}
		}
	}
}

func TestThePromptsLengthDecidesTheWholeRequestsPrice(t *testing.T) {
	t.Parallel()
	prices := DefaultPrices()
	for _, c := range []struct {
		tokens api.Tokens
		want   float64
	}{
		{api.Tokens{Input: 50_000, CacheRead: 50_000, Output: 1000}, (50_000*0.10 + 50_000*0.01 + 1000*0.50) / 1e6},
		{api.Tokens{Input: 50_000, CacheRead: 50_001, Output: 1000}, (50_000*0.50 + 50_001*0.05 + 1000*2.50) / 1e6},
		{api.Tokens{Output: 200_000}, 200_000 * 0.50 / 1e6},
	} {
		got, ok := prices.Cost("claude-haiku-5-5", Usage{Seen: true, Tokens: c.tokens}, winter)
		if !ok || math.Abs(got-c.want) > 1e-12 {
			t.Errorf("%+v: %v, want %v", c.tokens, got, c.want)
		}
	}
}

func TestRegionAndWebSearchAddToTheCost(t *testing.T) {
	t.Parallel()
	u := Usage{Seen: true, Tokens: api.Tokens{Input: 1_000_000}, InferenceGeo: "us", WebSearches: 3}
	if got, ok := DefaultPrices().Cost("claude-opus-5-5", u, winter); !ok || math.Abs(got-(4*1.1+0.03)) > 1e-9 {
		t.Errorf("got %v, %v", got, ok)
	}
}

func TestAnUnknownPriceIsNotZero(t *testing.T) {
	t.Parallel()
	u := Usage{Seen: true, Tokens: api.Tokens{Input: 1}}
	prices := DefaultPrices()
	for _, model := range []string{"", "claude-opus-5-7", "claude-opus-6", "claude-mythos-preview", "claude-3-haiku-20240307", "claude-3-opus-20240229"} {
		if usd, ok := prices.Cost(model, u, winter); ok {
			t.Errorf("%q costs %v", model, usd)
		}
	}
	if _, ok := prices.Cost("claude-opus-5-5", Usage{}, winter); ok {
		t.Error("an answer without usage has a cost")
	}
	if _, ok := prices.Cost("claude-opus-5-5", Usage{Seen: true, Speed: "fast"}, winter); ok {
		t.Error("fast mode has the usual price")
	}
}

func TestAnOperatorsPriceGoesFirst(t *testing.T) {
	t.Parallel()
	prices := append(Prices{{Glob: "*opus*", Input: 1, From: winter, Until: winter.Add(time.Hour)}}, DefaultPrices()...)
	u := Usage{Seen: true, Tokens: api.Tokens{Input: 1_000_000}}
	for at, want := range map[time.Time]float64{winter: 1, winter.Add(-time.Nanosecond): 4, winter.Add(time.Hour): 4} {
		if got, _ := prices.Cost("claude-opus-5-5", u, at); got != want {
			t.Errorf("%v: got %v, want %v", at, got, want)
		}
	}
}
