package signin_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/claude-balancer/claude-balancer/signin"
)

// roundTrips is a transport made of a function.
type roundTrips func(*http.Request) (*http.Response, error)

func (f roundTrips) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func post(h http.Handler, path, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", path, strings.NewReader(body))
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestTelemetryIsForwardedWithoutTheClientsCredential(t *testing.T) {
	t.Parallel()
	sent := make(chan *http.Request, 1)
	telemetry, err := signin.NewTelemetry("https://otel.example/otlp/", roundTrips(func(r *http.Request) (*http.Response, error) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		sent <- r
		return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
	}), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	w := post(telemetry, "/v1/metrics", "\x0a\x00", "Content-Type", "application/x-protobuf", "Content-Encoding", "gzip",
		"Authorization", "Bearer cb_x", "X-Api-Key", "cb_x", "Cookie", "a=b")
	if w.Code != 200 || w.Body.Len() != 0 || w.Header().Get("Content-Type") != "application/x-protobuf" {
		t.Errorf("answer: %d %v", w.Code, w.Header())
	}
	r := <-sent
	body, _ := io.ReadAll(r.Body)
	if r.URL.String() != "https://otel.example/otlp/v1/metrics" || string(body) != "\x0a\x00" || r.Header.Get("Content-Encoding") != "gzip" || len(r.Header) != 2 {
		t.Errorf("sent on: %s %q %v", r.URL, body, r.Header)
	}
}

func TestASlowCollectorHoldsUpNobody(t *testing.T) {
	t.Parallel()
	hold, begun := make(chan struct{}), make(chan struct{}, 1000)
	telemetry, err := signin.NewTelemetry("http://otel.example", roundTrips(func(*http.Request) (*http.Response, error) {
		begun <- struct{}{}
		<-hold
		return &http.Response{StatusCode: 500, Status: "500", Body: http.NoBody}, nil
	}), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	for range 500 {
		if w := post(telemetry, "/v1/logs", "{}", "Content-Type", "application/json"); w.Code != 200 || w.Body.String() != "{}" {
			t.Fatalf("answer: %d %s", w.Code, w.Body)
		}
	}
	for range 64 {
		<-begun
	}
	close(hold)
	if n := len(begun); n != 0 {
		t.Errorf("%d more than 64 were on their way", n)
	}
}

func TestTelemetryThatIsDroppedIsNotRead(t *testing.T) {
	t.Parallel()
	telemetry, err := signin.NewTelemetry("", nil, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	if w := post(telemetry, "/v1/traces", "x"); w.Code != 200 {
		t.Errorf("answer: %d", w.Code)
	}
}

func TestTooMuchTelemetryAtOnceIsRefused(t *testing.T) {
	t.Parallel()
	telemetry, err := signin.NewTelemetry("https://otel.example", nil, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	if w := post(telemetry, "/v1/traces", strings.Repeat("x", 4<<20+1)); w.Code != 413 {
		t.Errorf("answer: %d", w.Code)
	}
}
