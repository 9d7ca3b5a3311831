// Package sdkgo shows the official Go SDK at work against the balancer.
//
// It runs on a stage: node stage/with.js go test ./sdk-go
package sdkgo

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"
)

// stage is what stage/with.js has built up.
var stage = struct{ url, admin, simulator string }{os.Getenv("E2E_URL"), os.Getenv("E2E_ADMIN"), os.Getenv("E2E_SIMULATOR")}

// trusting speaks TLS as a user does who trusts Caddy's certificate authority.
var trusting *http.Client

func TestMain(m *testing.M) {
	if stage.url == "" {
		log.Fatal("no stage: run this with `node stage/with.js go test ./sdk-go`")
	}
	ca, err := os.ReadFile(os.Getenv("E2E_CA"))
	if err != nil {
		log.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{RootCAs: pool}
	trusting = &http.Client{Transport: transport}
	os.Exit(m.Run())
}

// client is the SDK as a user sets it up. The key is one that no account has.
func client(opts ...option.RequestOption) *anthropic.Client {
	c := anthropic.NewClient(append([]option.RequestOption{
		option.WithBaseURL(stage.url), option.WithAPIKey("sk-ant-api03-of-the-user"), option.WithHTTPClient(trusting),
	}, opts...)...)
	return &c
}

// call sends JSON to the admin endpoint or the simulator and reads JSON.
func call(t *testing.T, method, url string, body, into any) {
	t.Helper()
	var payload []byte
	if body != nil {
		payload, _ = json.Marshal(body) // maps of plain values
	}
	req, err := http.NewRequest(method, url, bytes.NewReader(payload))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode >= 300 {
		t.Fatalf("%s %s: %s %s %v", method, url, res.Status, text, err)
	}
	if into != nil {
		if err := json.Unmarshal(text, into); err != nil {
			t.Fatal(err)
		}
	}
}

var pools int

// freshPool replaces the pool with new accounts, one for each plan; the first is
// asked first.
func freshPool(t *testing.T, plans ...string) (names []string) {
	t.Helper()
	call(t, "DELETE", stage.simulator+"/_simulator/script", nil, nil)
	var old []struct{ Name string }
	call(t, "GET", stage.admin+"/accounts", nil, &old)
	for _, a := range old {
		call(t, "DELETE", stage.admin+"/accounts/"+a.Name, nil, nil)
	}
	pools++
	for i, plan := range plans {
		name := fmt.Sprintf("%s-%d-%d", plan, pools, i)
		var c struct {
			AccessToken  string `json:"access_token"`
			RefreshToken string `json:"refresh_token"`
			ExpiresAt    int64  `json:"expires_at"`
			APIKey       string `json:"api_key"`
		}
		call(t, "POST", stage.simulator+"/_simulator/accounts", map[string]any{"name": name, "plan": plan}, &c)
		account := map[string]any{"name": name, "plan_type": plan, "priority": i}
		if plan == "api" {
			account["api_key"] = c.APIKey
		} else {
			account["access_token"], account["refresh_token"], account["expires_at"] = c.AccessToken, c.RefreshToken, c.ExpiresAt
		}
		call(t, "POST", stage.admin+"/accounts", account, nil)
		names = append(names, name)
	}
	return names
}

// script tells the simulator how to answer an account's requests; "" is every
// account's.
func script(t *testing.T, account string, step map[string]any) {
	t.Helper()
	step["account"] = account
	call(t, "POST", stage.simulator+"/_simulator/script", step, nil)
}

// hello is the shortest conversation.
func hello(model string) anthropic.MessageNewParams {
	return anthropic.MessageNewParams{
		Model: anthropic.Model(model), MaxTokens: 128,
		Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock("Hello"))},
	}
}

const sonnet = "claude-sonnet-5-5"
