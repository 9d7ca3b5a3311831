package admin

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/claude-balancer/claude-balancer/api"
)

func TestBodiesAreRefusedWithASentenceThatSaysWhatAndWhere(t *testing.T) {
	t.Parallel()
	server := serve(t, new(fakeBackend))
	for _, tt := range []struct{ method, path, body, sentence string }{
		{"POST", "/accounts", `{"foo":1}`, `unknown member "foo"`},
		{"POST", "/accounts", `{"Name":"a"}`, `unknown member "Name"`},
		{"POST", "/accounts", `{"name":"a","name":"b"}`, `member "name" is given twice`},
		{"POST", "/accounts", `{"priority":"high"}`, `member "priority" must be a whole number, not a string`},
		{"POST", "/accounts", `{"priority":1.5}`, `member "priority" must be a whole number, not 1.5`},
		{"POST", "/accounts", `{"expires_at":99999999999999999999}`, `member "expires_at" must be a whole number, not 99999999999999999999`},
		{"POST", "/accounts", `{"name":{}}`, `member "name" must be a string, not an object`},
		{"POST", "/accounts", `{"name":["a"]}`, `member "name" must be a string, not a list`},
		{"POST", "/accounts", `{"api_key":12345}`, `member "api_key" must be a string, not a number`},
		{"POST", "/accounts", `{"models":"a,b"}`, `member "models" must be a list of strings, not a string`},
		{"POST", "/accounts", `{"models":["a",1]}`, `member "models" must be a list of strings only`},
		{"PATCH", "/accounts/a", `{"paused":"yes"}`, `member "paused" must be true or false, not a string`},
		{"PATCH", "/accounts/a", `{"weight":true}`, `member "weight" must be a whole number, not true`},
		{"PATCH", "/accounts/a", `{"models":[1]}`, `member "models" must be a list of strings only`},
		{"PATCH", "/keys/a", `{"budget_usd":"5"}`, `member "budget_usd" must be a number, not a string`},
		{"PATCH", "/keys/a", `{"budget_usd":1e999}`, `member "budget_usd" must be a number, not 1e999`},
		{"POST", "/accounts", `[]`, `the body must be a JSON object, not a list`},
		{"POST", "/accounts", `null`, `the body must be a JSON object, not null`},
		{"POST", "/accounts", `  `, `the body is empty: a JSON object is needed`},
		{"POST", "/accounts", `{"name":"a"} {}`, `the body is not valid JSON: invalid character '{' after top-level value at byte 14`},
		{"POST", "/accounts", `{"name":`, `the body is not valid JSON: unexpected end of JSON input at byte 8`},
		{"POST", "/accounts", "{\"name\":\"\xff\"}", `the body is not valid UTF-8`},
		{"POST", "/accounts/a/refresh", `{"force":true}`, `unknown member "force"`},
		{"POST", "/keys/a/rotate", `{"grace_seconds":-1}`, `member "grace_seconds" must be from 0 to 31536000`},
		{"POST", "/accounts", `{"` + strings.Repeat("x", 100) + `":1}`, `unknown member "` + strings.Repeat("x", 40) + `…"`},
	} {
		status, answer, _ := send(t, server, tt.method, prefix+tt.path, tt.body)
		var got struct{ Error string }
		if err := json.Unmarshal([]byte(answer), &got); err != nil {
			t.Fatalf("%s: %v", answer, err)
		}
		if status != 400 || got.Error != tt.sentence {
			t.Errorf("%s %s %s:\ngot  %d %s\nwant %s", tt.method, tt.path, tt.body, status, got.Error, tt.sentence)
		}
	}
}

func TestNoRefusalQuotesACredential(t *testing.T) {
	t.Parallel()
	server := serve(t, new(fakeBackend))
	for _, body := range []string{
		`{"api_key":["sk-hidden"]}`, `{"priority":"sk-hidden"}`, `{"access_token":{"x":"sk-hidden"}}`, `{"models":"sk-hidden"}`,
		`{"api_key":"sk-hidden","api_key":"sk-hidden"}`, `{"api_key":"sk-hidden"`, `"sk-hidden"`, `{"api_key":"sk-hidden"} sk-hidden`,
	} {
		status, answer, _ := send(t, server, "POST", prefix+"/accounts", body)
		if status != 400 || strings.Contains(answer, "hidden") {
			t.Errorf("%s: %d %s", body, status, answer)
		}
	}
}

func TestWritesNeedAJSONContentType(t *testing.T) {
	t.Parallel()
	server := serve(t, &fakeBackend{accounts: []api.Account{newAccount("a", api.PlanMax)}})
	for _, tt := range []struct {
		path, contentType, body string
		status                  int
	}{
		{"/keys", "application/json", `{}`, 201},
		{"/keys", "application/json; charset=utf-8", `{}`, 201},
		{"/keys", "application/merge-patch+json", `{}`, 201},
		{"/keys", "", `{}`, 415},
		{"/keys", "", ``, 415},
		{"/keys", "text/plain", `{}`, 415},
		{"/keys", "application/x-www-form-urlencoded", `{}`, 415},
		{"/keys", "application/json, text/plain", `{}`, 415},
		{"/keys", "application/json", ``, 400},
		{"/accounts/a/refresh", "", ``, 200},
		{"/accounts/a/refresh", "application/json", `{}`, 200},
		{"/accounts/a/refresh", "", `{}`, 415},
		{"/accounts/a/refresh", "application/x-www-form-urlencoded", ``, 415},
	} {
		req, err := http.NewRequestWithContext(t.Context(), "POST", server.URL+prefix+tt.path, strings.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		if tt.contentType != "" {
			req.Header.Set("Content-Type", tt.contentType)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != tt.status {
			t.Errorf("POST %s %q %q: got %d, want %d", tt.path, tt.contentType, tt.body, resp.StatusCode, tt.status)
		}
	}
}

func TestABodyOverOneMebibyteIsRefused(t *testing.T) {
	t.Parallel()
	server := serve(t, new(fakeBackend))
	for size, want := range map[int]int{maxBody: 201, maxBody + 1: 413} {
		body := `{"name":"ci"` + strings.Repeat(" ", size-len(`{"name":"ci"}`)) + `}`
		if status, answer, _ := send(t, server, "POST", prefix+"/keys", body); status != want {
			t.Errorf("%d bytes: %d %s", size, status, answer)
		}
	}
}

func FuzzDecodingRefusesInSentencesAndNeverPanics(f *testing.F) {
	f.Add(`{"name":"a","models":["x"],"priority":1}`)
	f.Add(`{"name":1e5,"credentials":{"a":[]}}`)
	f.Add(`[{}]`)
	f.Add(``)
	f.Fuzz(func(t *testing.T, body string) {
		if body = strings.TrimSpace(body); body == "" {
			return
		}
		for _, dst := range []any{new(api.NewAccount), new(api.AccountPatch), new(api.KeyPatch)} {
			if err := decodeObject([]byte(body), dst); err != nil && strings.Contains(err.Error(), "json:") {
				t.Errorf("%q: %v", body, err)
			}
		}
	})
}
