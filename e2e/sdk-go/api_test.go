package sdkgo

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
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
	freshPool(t, "max", "max")
	call(t, "DELETE", stage.simulator+"/_simulator/requests", nil, nil)
	script(t, "", map[string]any{"do": "hang", "times": -1})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := client().Messages.New(ctx, hello(sonnet)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	var seen struct{ Cancelled int }
	for deadline := time.Now().Add(10 * time.Second); seen.Cancelled != 1; time.Sleep(10 * time.Millisecond) {
		call(t, "GET", stage.simulator+"/_simulator/counters", nil, &seen)
		if time.Now().After(deadline) {
			t.Fatalf("%d requests were cancelled upstream, want 1", seen.Cancelled)
		}
	}
}
