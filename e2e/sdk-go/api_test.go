package sdkgo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"
)

func TestAMessageIsAnsweredOverHTTP2(t *testing.T) {
	names := freshPool(t, "max", "max")
	var res *http.Response
	message, err := client().Messages.New(t.Context(), hello(sonnet), option.WithResponseInto(&res))
	if err != nil {
		t.Fatal(err)
	}
	if message.Type != "message" || len(message.Content[0].Text) == 0 {
		t.Errorf("message %+v", message)
	}
	if res.ProtoMajor != 2 || res.Header.Get("X-Proxy-Account") != names[0] || res.Header.Get("Request-Id") == "" {
		t.Errorf("%s %v", res.Proto, res.Header)
	}
}

func TestAStreamAddsUpToAMessage(t *testing.T) {
	freshPool(t, "max")
	stream := client().Messages.NewStreaming(t.Context(), hello(sonnet))
	var whole anthropic.Message
	var last string
	for stream.Next() {
		event := stream.Current()
		last = event.Type
		if err := whole.Accumulate(event); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	if last != "message_stop" || whole.StopReason != "end_turn" || whole.Usage.OutputTokens == 0 || whole.Content[0].Text == "" {
		t.Errorf("last event %s, message %+v", last, whole)
	}
}

func TestToolsPassInTheRequestAndInTheAnswer(t *testing.T) {
	freshPool(t, "max")
	call(t, "DELETE", stage.simulator+"/_simulator/requests", nil, nil)
	script(t, "", map[string]any{"status": 200, "body": `{"id":"msg_1","type":"message","role":"assistant","model":"claude-sonnet-5-5",
		"content":[{"type":"tool_use","id":"toolu_01","name":"weather","input":{"city":"Zürich – \u2028"}}],
		"stop_reason":"tool_use","usage":{"input_tokens":1,"output_tokens":1}}`})
	params := hello(sonnet)
	params.Tools = []anthropic.ToolUnionParam{{OfTool: &anthropic.ToolParam{
		Name: "weather", InputSchema: anthropic.ToolInputSchemaParam{Properties: map[string]any{"city": map[string]any{"type": "string"}}},
	}}}
	message, err := client().Messages.New(t.Context(), params)
	if err != nil {
		t.Fatal(err)
	}
	if use := message.Content[0].AsToolUse(); use.Name != "weather" || !strings.Contains(string(use.Input), `"Zürich – \u2028"`) {
		t.Errorf("content %+v", use)
	}
	want, err := json.Marshal(params)
	if err != nil {
		t.Fatal(err)
	}
	var seen []struct{ Body string }
	call(t, "GET", stage.simulator+"/_simulator/requests", nil, &seen)
	if len(seen) != 1 || seen[0].Body != string(want) {
		t.Errorf("upstream got %+v, want %s", seen, want)
	}
}

func TestTokensAreCounted(t *testing.T) {
	freshPool(t, "max")
	params := anthropic.MessageCountTokensParams{Model: sonnet, Messages: hello(sonnet).Messages}
	if count, err := client().Messages.CountTokens(t.Context(), params); err != nil || count.InputTokens == 0 {
		t.Errorf("%+v, %v", count, err)
	}
}

// The SDK's transport asks for gzip by itself.
func TestAnAnswerThatMayBeCompressedComesAsItIs(t *testing.T) {
	freshPool(t, "max")
	call(t, "DELETE", stage.simulator+"/_simulator/requests", nil, nil)
	var res *http.Response
	if _, err := client().Messages.New(t.Context(), hello(sonnet), option.WithResponseInto(&res)); err != nil {
		t.Fatal(err)
	}
	if res.Uncompressed || res.Header.Get("Content-Encoding") != "" {
		t.Errorf("headers %v", res.Header)
	}
	var seen []struct{ Header http.Header }
	call(t, "GET", stage.simulator+"/_simulator/requests", nil, &seen)
	if len(seen) != 1 || seen[0].Header.Get("Accept-Encoding") != "identity" {
		t.Errorf("upstream got %+v", seen)
	}
}

func TestModelsAreListedOverPages(t *testing.T) {
	freshPool(t, "max")
	pages := client().Models.ListAutoPaging(t.Context(), anthropic.ModelListParams{Limit: anthropic.Int(2)})
	n := 0
	for pages.Next() {
		n++
	}
	if err := pages.Err(); err != nil || n < 3 {
		t.Errorf("%d models, %v", n, err)
	}
}

func TestABatchIsServedByTheAccountThatMadeIt(t *testing.T) {
	names := freshPool(t, "max", "max")
	batches := client().Messages.Batches
	made, err := batches.New(t.Context(), anthropic.MessageBatchNewParams{Requests: []anthropic.MessageBatchNewParamsRequest{{
		CustomID: "one", Params: anthropic.MessageBatchNewParamsRequestParams{
			Model: sonnet, MaxTokens: 128, Messages: hello(sonnet).Messages,
		},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	call(t, "PATCH", stage.admin+"/accounts/"+names[0], map[string]any{"priority": 9}, nil)
	if b, err := batches.Get(t.Context(), made.ID, anthropic.MessageBatchGetParams{}); err != nil || b.ID != made.ID {
		t.Errorf("batch %+v, %v", b, err)
	}
	results := batches.ResultsStreaming(t.Context(), made.ID, anthropic.MessageBatchResultsParams{})
	defer results.Close()
	if !results.Next() || results.Current().CustomID != "one" {
		t.Errorf("result %+v, %v", results.Current(), results.Err())
	}
}

func TestAFileIsServedByTheAccountThatHasIt(t *testing.T) {
	names := freshPool(t, "max", "max")
	files := client().Files
	content := bytes.Repeat([]byte{0, 1, 2, 0xff, '\r', '\n'}, 10_000)
	made, err := files.Upload(t.Context(), anthropic.FileUploadParams{File: anthropic.File(bytes.NewReader(content), "notes.bin", "application/octet-stream")})
	if err != nil {
		t.Fatal(err)
	}
	call(t, "PATCH", stage.admin+"/accounts/"+names[0], map[string]any{"priority": 9}, nil)
	res, err := files.Download(t.Context(), made.ID, anthropic.FileDownloadParams{})
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got, err := io.ReadAll(res.Body); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes came back, want %d: %v", len(got), len(content), err)
	}
	if _, err := files.Delete(t.Context(), made.ID, anthropic.FileDeleteParams{}); err != nil {
		t.Error(err)
	}
}

func TestACancelledRequestEndsUpstream(t *testing.T) {
	hanging(t)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := client().Messages.New(ctx, hello(sonnet)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	endsUpstream(t)
}

func TestTheSDKsOwnTimeoutEndsTheRequestUpstream(t *testing.T) {
	hanging(t)
	_, err := client(option.WithRequestTimeout(200*time.Millisecond), option.WithMaxRetries(0)).Messages.New(t.Context(), hello(sonnet))
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	endsUpstream(t)
}

// hanging has an upstream that never answers.
func hanging(t *testing.T) {
	t.Helper()
	freshPool(t, "max", "max")
	call(t, "DELETE", stage.simulator+"/_simulator/requests", nil, nil)
	script(t, "", map[string]any{"do": "hang", "times": -1})
}

func endsUpstream(t *testing.T) {
	t.Helper()
	var seen struct{ Cancelled int }
	for deadline := time.Now().Add(10 * time.Second); seen.Cancelled != 1; time.Sleep(10 * time.Millisecond) {
		call(t, "GET", stage.simulator+"/_simulator/counters", nil, &seen)
		if time.Now().After(deadline) {
			t.Fatalf("%d requests were cancelled upstream, want 1", seen.Cancelled)
		}
	}
}
