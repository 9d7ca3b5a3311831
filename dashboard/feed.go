package dashboard

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/claude-balancer/claude-balancer/api"
)

const (
	maxFeeds      = 100                    // open at once; a page holds one
	heartbeat     = 15 * time.Second       // below the idle timeouts of Caddy and of common proxies
	closingPeriod = 250 * time.Millisecond // how long an open feed may outlive its configuration
	writeTimeout  = 2 * time.Second        // a subscriber that takes longer for an event is dropped
)

// events is the live feed: server-sent events `request` (a row of the history)
// and `accounts` (read them again). It ends when the client is gone, when the
// client stops reading, or when this configuration goes.
func (s *site) events(w http.ResponseWriter, r *http.Request) {
	if s.o.Feed == nil {
		writeError(w, http.StatusServiceUnavailable, "there is no live feed; poll the other endpoints")
		return
	}
	if s.feeds.Add(1) > maxFeeds {
		s.feeds.Add(-1)
		w.Header().Set("Retry-After", "10")
		writeError(w, http.StatusServiceUnavailable, "too many live feeds are open; poll the other endpoints")
		return
	}
	defer s.feeds.Add(-1)

	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // a proxy in front would hold events back
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return
	}

	events, cancel := s.o.Feed.Subscribe()
	defer cancel()
	out := stream{w, http.NewResponseController(w)}
	defer out.end()
	if err := s.copyEvents(r, out, events); err != nil {
		s.o.Logger.Debug("a live feed broke", zap.Error(err))
	}
}

// copyEvents writes events as they come. It returns nil when the feed ended in
// order, and an error when the client could not be written to.
func (s *site) copyEvents(r *http.Request, out stream, events <-chan api.Event) error {
	closing := time.NewTicker(closingPeriod)
	defer closing.Stop()
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()

	frame := []byte("retry: 2000\n\n")
	for {
		if err := out.send(frame); err != nil {
			return err
		}
		frame = nil
		for frame == nil {
			select {
			case <-r.Context().Done():
				return nil
			case <-closing.C:
				if s.o.Closing() {
					return nil
				}
			case <-beat.C:
				frame = []byte(": still here\n\n")
			case e, open := <-events:
				if !open {
					return nil
				}
				frame = eventFrame(e)
			}
		}
	}
}

// eventFrame returns the event in the wire format, or nil for one that the
// page has no use for. JSON has no raw line breaks, so one data line is enough.
func eventFrame(e api.Event) []byte {
	data := []byte("{}")
	switch {
	case e.Type == "request" && e.Request != nil:
		var err error
		if data, err = json.Marshal(e.Request); err != nil {
			return nil
		}
	case e.Type == "accounts":
	default:
		return nil
	}
	return fmt.Appendf(nil, "event: %s\ndata: %s\n\n", e.Type, data)
}

// stream writes frames under a deadline, so that a client that stopped reading
// cannot hold a handler, and with it an exit.
type stream struct {
	w  http.ResponseWriter
	rc *http.ResponseController
}

func (s stream) send(frame []byte) error {
	s.arm()
	if _, err := s.w.Write(frame); err != nil {
		return err
	}
	if err := s.rc.Flush(); err != nil {
		return err
	}
	// Over HTTP/2 a deadline resets the stream even when nothing is being written.
	_ = s.rc.SetWriteDeadline(time.Time{})
	return nil
}

// end bounds what the server still writes after the handler: the last chunk,
// for which the deadline of the last event may be over.
func (s stream) end() { s.arm() }

// arm uses the wall clock, as the connection does. A writer that knows no
// deadlines has no connection that could stall.
func (s stream) arm() { _ = s.rc.SetWriteDeadline(time.Now().Add(writeTimeout)) }
