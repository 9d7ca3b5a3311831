// Package simulator is a faithful fake of api.anthropic.com and its OAuth
// endpoints, on one host, for tests, the demo and the benchmark. Accounts have
// credentials that are enforced and usage windows that fill and reset with the
// clock; any answer or fault of the real service can be scripted; every request
// is recorded.
//
// It shares no code with the packages under test, so that a misreading of the
// wire in one of them cannot hide here.
package simulator

import (
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Options of a Simulator. The zero value is a good choice for tests.
type Options struct {
	// Now is the clock that tokens, windows, login codes and batches go by.
	// Waits (Pace, Ping, delays) use real time. Default time.Now.
	Now func() time.Time

	// Seed varies tokens, ids and texts. The same seed and account name give the
	// same first credentials.
	Seed uint64

	// Fast answers POST /v1/messages and count_tokens from prepared bytes: no
	// recording, no windows, no gzip, no model check. While a script is pending
	// and for all other paths it behaves as usual, still without recording.
	Fast bool

	// Pace is the time between two events of a stream. Without it a fast
	// simulator sends a stream in one write.
	Pace time.Duration

	// Ping is the longest silence of a stream while it waits for Pace; a ping
	// event ends it. 0: only the one ping after the first content block began.
	Ping time.Duration

	// Output is the length of an answer in tokens, where max_tokens allows it.
	// 0: between 24 and 87, depending on the request.
	Output int

	// BatchTime is how long a batch is in progress.
	BatchTime time.Duration

	// Control serves /_simulator/, which shows credentials and changes anything.
	Control bool
}

// A Simulator serves the whole of the fake service. Make one with New.
type Simulator struct {
	opts    Options
	routes  []route
	control http.Handler
	fast    *fastAnswers

	credentials sync.Map // raw credential → *credential
	ids         atomic.Uint64
	stats       counters
	changed     signal
	journal     journal

	mu       sync.Mutex
	accounts []*account
	scripts  []*scripted
	codes    map[string]*authorization
	kept     []net.Conn // connections that were left open unread
	pending  atomic.Int64
}

// counters of what happened at the HTTP level.
type counters struct {
	inFlight, streams, cancelled atomic.Int64
}

// New returns a simulator without accounts.
func New(o Options) *Simulator {
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Simulator{opts: o, codes: make(map[string]*authorization)}
	s.routes = s.table()
	if o.Control {
		s.control = s.controlHandler()
	}
	if o.Fast {
		s.fast = newFastAnswers(o)
	}
	return s
}

// ServeHTTP implements http.Handler for every endpoint.
func (s *Simulator) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.control != nil && strings.HasPrefix(r.URL.Path, controlPrefix) {
		s.control.ServeHTTP(w, r)
		return
	}
	if s.fast != nil && s.pending.Load() == 0 && s.serveFast(w, r) {
		return
	}

	x := s.newExchange(w, r)
	defer x.end()
	if step := s.nextStep(x); step != nil {
		step.run(x)
	} else {
		x.Next()
	}
	x.finish()
}

// ActiveStreams returns how many streamed answers are under way.
func (s *Simulator) ActiveStreams() int { return int(s.stats.streams.Load()) }

// InFlight returns how many requests are being answered. Without Options.Fast
// it counts all of them, else those that were not answered from prepared bytes.
func (s *Simulator) InFlight() int { return int(s.stats.inFlight.Load()) }

// Cancelled returns how many requests lost their client before the answer's end.
func (s *Simulator) Cancelled() int { return int(s.stats.cancelled.Load()) }

// all returns the accounts, oldest first.
func (s *Simulator) all() []*account {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.accounts)
}

// now returns the simulated time.
func (s *Simulator) now() time.Time { return s.opts.Now() }
