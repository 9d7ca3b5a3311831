package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// output is a writer that hands over what is printed in one go.
type output chan string

func (o output) Write(b []byte) (int, error) {
	o <- string(b)
	return len(b), nil
}

func TestTheSimulatorSaysHowToUseItAndEndsWithItsContext(t *testing.T) {
	t.Parallel()
	for _, secure := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		ca := filepath.Join(t.TempDir(), "ca.pem")
		args := []string{"-addr", "127.0.0.1:0", "-accounts", "work:console:5,it's mine:max,key:api:50", "-ca", ca}
		if secure {
			args = append(args, "-tls")
		}
		printed, ended := make(output), make(chan error)
		go func() { ended <- run(ctx, args, printed) }()

		var text strings.Builder
		for !strings.Contains(text.String(), "Ctrl-C") {
			select {
			case part := <-printed:
				text.WriteString(part)
			case err := <-ended:
				t.Fatalf("ended with %v", err)
			}
		}
		for _, want := range []string{`"name":"work","plan_type":"console"`, `it'\''s mine`, `"api_key":"sk-ant-api03-`, "token_url http"} {
			if !strings.Contains(text.String(), want) {
				t.Errorf("%q is not in %s", want, text.String())
			}
		}
		url := regexp.MustCompile(`https?://[0-9.:]+/_simulator/accounts`).FindString(text.String())
		if body := get(t, url, ca); !strings.Contains(body, `"limit":5`) {
			t.Errorf("accounts: %s", body)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func get(t *testing.T, url, ca string) string {
	t.Helper()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	if pem, err := os.ReadFile(ca); err == nil {
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(pem)
		transport.TLSClientConfig = &tls.Config{RootCAs: roots}
	}
	resp, err := (&http.Client{Transport: transport}).Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestWrongAccountsAreRefusedWithTheReason(t *testing.T) {
	t.Parallel()
	for list, want := range map[string]string{
		":max": "has no name", "a:max,a:max": "twice", "a:gold": "not console, max or api", "a": "not console, max or api",
		"a:max:many": "not a number", "a:max:-1": "not a number",
	} {
		err := run(t.Context(), []string{"-accounts", list}, io.Discard)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", list, err)
		}
	}
	if err := run(t.Context(), []string{"extra"}, io.Discard); err == nil {
		t.Error("an extra argument was taken")
	}
}
