package dashboard

import (
	"bufio"
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
)

// feedWriter is a connection in memory: it keeps what was flushed and the
// deadlines, and fails writes once it is broken.
type feedWriter struct {
	mu        sync.Mutex
	header    http.Header
	body      strings.Builder
	deadlines []time.Time
	broken    bool
}

func newFeedWriter() *feedWriter              { return &feedWriter{header: http.Header{}} }
func (w *feedWriter) Header() http.Header     { return w.header }
func (w *feedWriter) WriteHeader(int)         {}
func (w *feedWriter) FlushError() error       { return nil }
func (w *feedWriter) text() string            { w.mu.Lock(); defer w.mu.Unlock(); return w.body.String() }
func (w *feedWriter) lastDeadline() time.Time { return w.deadlines[len(w.deadlines)-1] }
func (w *feedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.deadlines) == 0 || w.lastDeadline().IsZero() {
		panic("a write without a deadline can block for ever")
	}
	if w.broken {
		return 0, os.ErrDeadlineExceeded
	}
	return w.body.Write(p)
}

func (w *feedWriter) SetWriteDeadline(at time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.deadlines = append(w.deadlines, at)
	return nil
}

// openFeed starts a feed in the bubble; done is closed when its handler returns.
func openFeed(ctx context.Context, h http.Handler) (w *feedWriter, done chan struct{}) {
	w, done = newFeedWriter(), make(chan struct{})
	r := httptest.NewRequest(http.MethodGet, "/api/events", nil).WithContext(ctx)
	go func() {
		defer close(done)
		h.ServeHTTP(w, r)
	}()
	synctest.Wait()
	return w, done
}

func TestTheFeedTellsRequestsAndAccounts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		feed := newFakeFeed()
		ctx, leave := context.WithCancel(t.Context())
		w, done := openFeed(ctx, New(Options{Enabled: true, Backend: &fakeBackend{}, Feed: feed}))

		model := "line\nbreak</script>"
		feed.events <- api.Event{Type: "request", Request: &api.Request{ID: "r1", Model: &model, Attempts: []api.Attempt{}}}
		feed.events <- api.Event{Type: "accounts"}
		feed.events <- api.Event{Type: "something new"}
		feed.events <- api.Event{Type: "request"}
		synctest.Wait()
		leave()
		<-done

		frames := strings.Split(strings.TrimSuffix(w.text(), "\n\n"), "\n\n")
		if len(frames) != 3 {
			t.Fatalf("got %d frames: %q", len(frames), frames)
		}
		if frames[0] != "retry: 2000" {
			t.Errorf("first frame is %q", frames[0])
		}
		if !strings.HasPrefix(frames[1], "event: request\ndata: {\"id\":\"r1\"") || strings.Count(frames[1], "\n") != 1 {
			t.Errorf("request frame is %q", frames[1])
		}
		if frames[2] != "event: accounts\ndata: {}" {
			t.Errorf("accounts frame is %q", frames[2])
		}
		for name, want := range map[string]string{"Content-Type": "text/event-stream", "Cache-Control": "no-store"} {
			if w.header.Get(name) != want {
				t.Errorf("%s is %q", name, w.header.Get(name))
			}
		}
	})
}

func TestTheFeedEndsSoonAfterItsConfigurationCloses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		feed := newFakeFeed()
		var closing atomic.Bool
		_, done := openFeed(t.Context(), New(Options{Enabled: true, Backend: &fakeBackend{}, Feed: feed, Closing: closing.Load}))
		time.Sleep(time.Hour)
		select {
		case <-done:
			t.Fatal("an idle feed ended by itself")
		default:
		}

		closing.Store(true)
		start := time.Now()
		<-done
		<-feed.cancelled
		if took := time.Since(start); took > 250*time.Millisecond {
			t.Errorf("took %s", took)
		}
	})
}

func TestTheFeedEndsWhenItsSourceDoes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		feed := newFakeFeed()
		_, done := openFeed(t.Context(), New(Options{Enabled: true, Backend: &fakeBackend{}, Feed: feed}))
		close(feed.events)
		<-done
		<-feed.cancelled
	})
}

func TestASilentFeedSendsAHeartbeatEvery15Seconds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, leave := context.WithCancel(t.Context())
		w, done := openFeed(ctx, New(Options{Enabled: true, Backend: &fakeBackend{}, Feed: newFakeFeed()}))
		time.Sleep(time.Minute + time.Second)
		leave()
		<-done
		if beats := strings.Count(w.text(), ": still here\n\n"); beats != 4 {
			t.Errorf("%d heartbeats in a minute", beats)
		}
	})
}

func TestASubscriberThatStopsReadingIsDropped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		feed := newFakeFeed()
		w, done := openFeed(t.Context(), New(Options{Enabled: true, Backend: &fakeBackend{}, Feed: feed}))
		w.mu.Lock()
		w.broken = true
		w.mu.Unlock()
		feed.events <- api.Event{Type: "accounts"}
		<-done
		<-feed.cancelled
	})
}

// Over HTTP/2 a deadline that passes between two writes would reset the stream.
func TestNoWriteDeadlineStandsBetweenEvents(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, leave := context.WithCancel(t.Context())
		w, done := openFeed(ctx, New(Options{Enabled: true, Backend: &fakeBackend{}, Feed: newFakeFeed()}))
		if !w.lastDeadline().IsZero() {
			t.Errorf("between events the deadline is %s", w.lastDeadline())
		}
		leave()
		<-done
		if left := time.Until(w.lastDeadline()); left <= 0 || left > writeTimeout {
			t.Errorf("the server has %s for the last chunk", left)
		}
	})
}

func TestFeedsAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		site := New(Options{Enabled: true, Backend: &fakeBackend{}, Feed: newFakeFeed()})
		ctx, leave := context.WithCancel(t.Context())
		var open []chan struct{}
		for range maxFeeds {
			_, done := openFeed(ctx, site)
			open = append(open, done)
		}
		w := serve(site, http.MethodGet, "/api/events")
		if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
			t.Errorf("one too many: %d, Retry-After %q", w.Code, w.Header().Get("Retry-After"))
		}
		leave()
		for _, done := range open {
			<-done
		}

		ctx, leave = context.WithCancel(t.Context())
		again, done := openFeed(ctx, site)
		if again.text() != "retry: 2000\n\n" {
			t.Error("a place that was given back cannot be used")
		}
		leave()
		<-done
	})
}

func TestWithoutAFeedThePageIsToldToPoll(t *testing.T) {
	t.Parallel()
	w := serve(newSite(&fakeBackend{}), http.MethodGet, "/api/events")
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestHeadOfTheFeedDoesNotSubscribe(t *testing.T) {
	t.Parallel()
	feed := newFakeFeed()
	w := serve(New(Options{Enabled: true, Backend: &fakeBackend{}, Feed: feed}), http.MethodHead, "/api/events")
	if w.Code != http.StatusOK || w.Body.Len() != 0 {
		t.Errorf("%d %q", w.Code, w.Body)
	}
}

// The same over real connections of both protocols: events arrive at once, and
// a client that hangs up is noticed.
func TestEventsArriveAndAHangUpIsNoticed(t *testing.T) {
	t.Parallel()
	for _, http2 := range []bool{false, true} {
		feed := newFakeFeed()
		server := httptest.NewUnstartedServer(New(Options{Enabled: true, Backend: &fakeBackend{}, Feed: feed}))
		server.EnableHTTP2 = http2
		server.StartTLS()
		defer server.Close()

		ctx, hangUp := context.WithCancel(t.Context())
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/api/events", nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := server.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		feed.events <- api.Event{Type: "accounts"}
		for lines := bufio.NewScanner(answer.Body); lines.Scan() && lines.Text() != "event: accounts"; {
		}
		hangUp()
		<-feed.cancelled
		answer.Body.Close()
	}
}
