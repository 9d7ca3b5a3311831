package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
)

// client is a stand-in for developers' tools: mixed models, streams and single
// answers, a few conversations.
type client struct{ url string }

var models = []string{
	"claude-sonnet-4-5", "claude-opus-4-5", "claude-haiku-4-5", "claude-sonnet-4-5", "claude-fable-5", "claude-haiku-4-5", "claude-opus-5-5",
}

func (c client) header() {
	fmt.Printf("%-18s %-10s %-15s %8s %13s %9s  %s\n", "MODEL", "ACCOUNT", "OUTCOME", "FIRST", "TOKENS", "COST", "WAY")
}

// send makes request i and prints the way it went.
func (c client) send(ctx context.Context, i int) error {
	model := models[i%len(models)]
	body := fmt.Sprintf(`{"model":%q,"max_tokens":64,"stream":%v,"system":"You help.","messages":[{"role":"user","content":"Question %d: why is the sky blue?"}]}`,
		model, i%3 != 0, i)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url+"/v1/messages", strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Anthropic-Version", "2023-06-01")
	if i%2 == 0 {
		req.Header.Set("X-Claude-Code-Session-Id", fmt.Sprintf("conversation-%d", i%4))
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return err
	}
	row, err := c.row(ctx, res.Header.Get("X-Request-Id"))
	if err != nil {
		return err
	}
	c.print(row)
	return nil
}

// row asks the site for the history's row of the request.
func (c client) row(ctx context.Context, id string) (api.Request, error) {
	for range 40 {
		var rows []api.Request
		if err := c.get("/api/requests?limit=5", &rows); err != nil {
			return api.Request{}, err
		}
		for _, r := range rows {
			if r.ID == id {
				return r, nil
			}
		}
		select {
		case <-ctx.Done():
			return api.Request{}, ctx.Err()
		case <-time.After(25 * time.Millisecond): // the row is written behind the answer
		}
	}
	return api.Request{}, fmt.Errorf("request %s is not in the history", id)
}

func (c client) get(path string, v any) error {
	res, err := http.Get(c.url + path)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", path, res.Status)
	}
	return json.NewDecoder(res.Body).Decode(v)
}

func (c client) print(r api.Request) {
	account, tokens, cost := "-", "-", "-"
	if r.AccountUsed != nil {
		account = *r.AccountUsed
	}
	if r.InputTokens != nil {
		tokens = fmt.Sprintf("%d in, %d out", *r.InputTokens, *r.OutputTokens)
	}
	if r.CostUSD != nil {
		cost = fmt.Sprintf("$%.5f", *r.CostUSD)
	}
	way := make([]string, 0, len(r.Attempts))
	for _, a := range r.Attempts {
		step := a.Account
		if a.Cause != "ok" {
			step += " (" + strings.ReplaceAll(a.Cause, "_", " ") + ")"
		}
		way = append(way, step)
	}
	fmt.Printf("%-18s %-10s %-15s %6dms %13s %9s  %s\n", *r.Model, account, fmt.Sprintf("%d %s", r.StatusCode, r.Outcome),
		r.ResponseTimeMS, tokens, cost, strings.Join(way, " → "))
}

// summary prints what the dashboard would show.
func (c client) summary() error {
	var stats api.Stats
	if err := c.get("/api/stats", &stats); err != nil {
		return err
	}
	cost := 0.0
	if stats.CostUSD != nil {
		cost = *stats.CostUSD
	}
	fmt.Printf("\n%d requests, %d %% answered, %d accounts, first byte after %d ms on average, $%.4f\n",
		stats.TotalRequests, stats.SuccessRate, stats.ActiveAccounts, stats.AvgResponseTime, cost)
	return nil
}
