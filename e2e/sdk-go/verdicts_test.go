package sdkgo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"
)

// verdict is a line of ../verdicts/cases.json.
type verdict struct {
	Name    string
	Step    map[string]any
	Times   int
	Pool    []string
	Model   string
	Key     string
	Issue   map[string]any // a client key to use, with these limits
	Before  int            // requests with that key beforehand
	Act     []string       // on the accounts, at the provider
	Down    bool           // there is no upstream
	Padding int
	Stream  bool
	Count   bool
	One     *outcome
	All     *outcome
}

// outcome is what a client's user is to see.
type outcome struct {
	Status   int
	Type     string
	Message  string
	Requests int
}

// report is what was seen, for the table.
type report struct {
	Name       string `json:"name"`
	From       string `json:"from"`
	Thrown     string `json:"thrown,omitempty"`
	Status     int    `json:"status,omitempty"`
	Type       string `json:"type,omitempty"`
	Message    string `json:"message,omitempty"`
	Requests   int    `json:"requests"`
	RetryAfter string `json:"retryAfter,omitempty"`
	requestID  string
}

func TestEachVerdictAsTheSDKReportsIt(t *testing.T) {
	raw, err := os.ReadFile("../verdicts/cases.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []verdict
	if err := json.Unmarshal(raw, &cases); err != nil {
		t.Fatal(err)
	}
	var reports []report
	for _, c := range cases {
		for _, from := range []string{"one", "all"} {
			want := map[string]*outcome{"one": c.One, "all": c.All}[from]
			if want == nil {
				continue
			}
			t.Run(c.Name+" from "+from, func(t *testing.T) {
				got := c.ask(t, from)
				reports = append(reports, got)
				check(t, got, want)
			})
		}
	}
	if err := os.MkdirAll("../test-results", 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(reports)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("../test-results/verdicts-go.json", out, 0o644); err != nil {
		t.Fatal(err)
	}
}

func check(t *testing.T, got report, want *outcome) {
	t.Helper()
	if requests := max(want.Requests, 1); got.Requests != requests {
		t.Errorf("%d requests, want %d: %s", got.Requests, requests, got.Message)
	}
	if got.Status != want.Status || got.Type != want.Type {
		t.Errorf("%d %s, want %d %s: %s", got.Status, got.Type, want.Status, want.Type, got.Message)
	}
	if !regexp.MustCompile(want.Message).MatchString(got.Message) {
		t.Errorf("message %q, want %q", got.Message, want.Message)
	}
	if want.Status >= 400 && got.requestID == "" {
		t.Error("the error has no request id")
	}
}

// ask makes the case's request and reports what its user sees.
func (c verdict) ask(t *testing.T, from string) report {
	t.Helper()
	plans := c.Pool
	if plans == nil {
		plans = []string{"max", "max"}
	}
	names := freshPool(t, plans...)
	if c.Step != nil {
		step, account := map[string]any{"times": -1}, names[0]
		for name, value := range c.Step {
			step[name] = value
		}
		if from == "all" {
			account = ""
			if c.Times > 0 {
				step["times"] = c.Times
			}
		}
		script(t, account, step)
	}

	for i, name := range names {
		for _, action := range c.Act {
			if i == 0 || from == "all" {
				call(t, "POST", stage.simulator+"/_simulator/accounts/"+name+"/"+action, nil, nil)
			}
		}
	}

	r := report{Name: c.Name, From: from}
	opts := []option.RequestOption{option.WithMiddleware(r.watch)}
	if c.Issue != nil {
		c.Key = c.issued(t)
	}
	if c.Key != "" {
		opts = append(opts, option.WithAPIKey(c.Key))
	}
	if c.Down {
		opts = append(opts, option.WithHeader("X-Upstream", "down"))
	}
	err := c.send(client(opts...))
	var failed *anthropic.Error
	switch {
	case errors.As(err, &failed):
		r.Thrown, r.Status, r.Type, r.requestID = "*anthropic.Error", failed.StatusCode, string(failed.Type()), failed.RequestID
		var body struct{ Error struct{ Message string } }
		_ = json.Unmarshal([]byte(failed.RawJSON()), &body) // no JSON: no message
		r.Message = body.Error.Message
	case err != nil:
		r.Thrown, r.Message = "error", err.Error()
	}
	return r
}

// issued is a client key with the limits of the case, after some requests.
func (c verdict) issued(t *testing.T) string {
	t.Helper()
	body := map[string]any{"name": fmt.Sprintf("go-%d", pools)}
	for name, value := range c.Issue {
		body[name] = value
	}
	var issued struct{ Key string }
	call(t, "POST", stage.admin+"/keys", body, &issued)
	for range c.Before {
		if _, err := client(option.WithAPIKey(issued.Key)).Messages.New(t.Context(), hello(sonnet)); err != nil {
			t.Fatal(err)
		}
	}
	return issued.Key
}

// watch counts requests. Where the answer asks for a wait, it makes it a short
// one: whether the SDK asks again is what counts.
func (r *report) watch(req *http.Request, next option.MiddlewareNext) (*http.Response, error) {
	r.Requests++
	res, err := next(req)
	if err == nil && res.StatusCode >= 400 {
		r.RetryAfter = res.Header.Get("Retry-After")
		res.Header.Set("Retry-After-Ms", "1")
	}
	return res, err
}

func (c verdict) send(client *anthropic.Client) error {
	ctx := context.Background()
	model := c.Model
	if model == "" {
		model = sonnet
	}
	params := hello(model)
	if c.Padding > 0 {
		params.Messages = []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock(strings.Repeat("!", c.Padding)))}
	}
	switch {
	case c.Count:
		_, err := client.Messages.CountTokens(ctx, anthropic.MessageCountTokensParams{Model: params.Model, Messages: params.Messages})
		return err
	case c.Stream:
		stream := client.Messages.NewStreaming(ctx, params)
		defer stream.Close()
		for stream.Next() {
		}
		return stream.Err()
	default:
		_, err := client.Messages.New(ctx, params)
		return err
	}
}
