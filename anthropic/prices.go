package anthropic

// What tokens cost.

import "time"

// Price is what tokens of some models cost, in USD per million.
type Price struct {
	Glob    string // of model names, as for MatchGlob
	Input   float64
	Output  float64
	Write5m float64 // written to the cache for 5 minutes
	Write1h float64 // written to the cache for an hour
	Read    float64 // read from the cache
	// OverPrompt limits the price to requests whose prompt (input and cache
	// together) has more tokens than that; 0 = all.
	OverPrompt int64
	From       time.Time // zero = always
	Until      time.Time // exclusive; zero = for ever
}

// Prices is a price list. The first entry that fits decides, so an operator's
// own entries go in front.
type Prices []Price

const (
	usGeoFactor  = 1.1   // on tokens, for inference_geo us
	webSearchUSD = 0.010 // each
)

// DefaultPrices returns the list as of November 2026. A model that is not on it
// has no known price. Source: Anthropic's price list; Claude Code 2.1.330 fed
// with one kind of token at a time, which agrees with it.
func DefaultPrices() Prices {
	sonnet55 := time.Date(2026, time.October, 7, 0, 0, 0, 0, time.UTC)
	var list Prices
	add := func(p Price, models ...string) {
		for _, m := range models {
			// The bare name and its dated form, but not a successor's name.
			for _, glob := range []string{m, m + "-20*"} {
				p.Glob = glob
				list = append(list, p)
			}
		}
	}
	add(Price{Input: 8, Output: 40, Write5m: 10, Write1h: 16, Read: 0.20}, "claude-fable-5-2", "claude-mythos-5-2")
	add(Price{Input: 10, Output: 50, Write5m: 12.5, Write1h: 20, Read: 0.25}, "claude-fable-5-1", "claude-mythos-5-1")
	add(Price{Input: 10, Output: 50, Write5m: 12.5, Write1h: 20, Read: 1}, "claude-fable-5", "claude-mythos-5")
	add(Price{Input: 4, Output: 20, Write5m: 5, Write1h: 8, Read: 0.20}, "claude-opus-5-5")
	add(Price{Input: 5, Output: 25, Write5m: 6.25, Write1h: 10, Read: 0.50},
		"claude-opus-5", "claude-opus-4-8", "claude-opus-4-7", "claude-opus-4-6", "claude-opus-4-5")
	add(Price{Input: 2, Output: 10, Write5m: 2.5, Write1h: 4, Read: 0.10, From: sonnet55}, "claude-sonnet-5-5")
	add(Price{Input: 2, Output: 10, Write5m: 2.5, Write1h: 4, Read: 0.20, Until: sonnet55}, "claude-sonnet-5-5")
	add(Price{Input: 2, Output: 10, Write5m: 2.5, Write1h: 4, Read: 0.20}, "claude-sonnet-5")
	add(Price{Input: 3, Output: 15, Write5m: 3.75, Write1h: 6, Read: 0.30},
		"claude-sonnet-4-6", "claude-sonnet-4-5", "claude-sonnet-4", "claude-sonnet-4-0",
		"claude-3-7-sonnet", "claude-3-7-sonnet-latest", "claude-3-5-sonnet", "claude-3-5-sonnet-latest")
	add(Price{Input: 0.50, Output: 2.50, Write5m: 0.625, Write1h: 1, Read: 0.05, OverPrompt: 100_000}, "claude-haiku-5-5")
	add(Price{Input: 0.10, Output: 0.50, Write5m: 0.125, Write1h: 0.20, Read: 0.01}, "claude-haiku-5-5")
	add(Price{Input: 1, Output: 5, Write5m: 1.25, Write1h: 2, Read: 0.10}, "claude-haiku-4-5")
	add(Price{Input: 0.80, Output: 4, Write5m: 1, Write1h: 1.6, Read: 0.08}, "claude-3-5-haiku", "claude-3-5-haiku-latest")
	add(Price{Input: 15, Output: 75, Write5m: 18.75, Write1h: 30, Read: 1.50},
		"claude-opus-4-1", "claude-opus-4", "claude-opus-4-0")
	return list
}

// Cost returns the price in USD of what a model has used. ok is false if the
// price is unknown: a model that is not on the list, an answer that told no
// usage, or the fast mode, which has prices of its own.
func (p Prices) Cost(model string, u Usage, at time.Time) (usd float64, ok bool) {
	if !u.Seen || u.Speed == "fast" {
		return 0, false
	}
	t := u.Tokens
	prompt := t.Input + t.CacheRead + t.CacheWrite5m + t.CacheWrite1h
	for i := range p {
		e := &p[i]
		if !e.fits(model, prompt, at) {
			continue
		}
		usd = (float64(t.Input)*e.Input + float64(t.Output)*e.Output +
			float64(t.CacheWrite5m)*e.Write5m + float64(t.CacheWrite1h)*e.Write1h +
			float64(t.CacheRead)*e.Read) / 1e6
		if u.InferenceGeo == "us" {
			usd *= usGeoFactor
		}
		return usd + float64(u.WebSearches)*webSearchUSD, true
	}
	return 0, false
}

func (p *Price) fits(model string, prompt int64, at time.Time) bool {
	return (p.OverPrompt == 0 || prompt > p.OverPrompt) &&
		(p.From.IsZero() || !at.Before(p.From)) &&
		(p.Until.IsZero() || at.Before(p.Until)) &&
		MatchGlob(p.Glob, model)
}
