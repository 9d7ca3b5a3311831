package claudebalancer

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/store"
)

// feedBuffer is how many events a subscriber may lag behind before it loses
// some.
const feedBuffer = 256

// loadEvery is how long the page may show an old number of running requests.
const loadEvery = time.Second

// feed tells subscribers what changed. It never waits for one.
type feed struct {
	mu          sync.Mutex
	subscribers map[chan api.Event]struct{}
}

// Subscribe implements api.Feed.
func (f *feed) Subscribe() (<-chan api.Event, func()) {
	ch := make(chan api.Event, feedBuffer)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.subscribers == nil {
		f.subscribers = make(map[chan api.Event]struct{})
	}
	f.subscribers[ch] = struct{}{}
	return ch, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.subscribers, ch)
	}
}

func (f *feed) send(events ...api.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for ch := range f.subscribers {
		for _, e := range events {
			select {
			case ch <- e:
			default:
			}
		}
	}
}

func (f *feed) idle() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.subscribers) == 0
}

// rowsWritten tells of finished requests, and that their accounts' counters
// rose.
func (f *feed) rowsWritten(rows []store.Row) {
	if f.idle() {
		return
	}
	events := make([]api.Event, 0, len(rows)+1)
	for i := range rows {
		events = append(events, api.Event{Type: "request", Request: &rows[i].Request})
	}
	f.send(append(events, api.Event{Type: "accounts"})...)
}

func (f *feed) accountsChanged() { f.send(api.Event{Type: "accounts"}) }

// watchLoad tells subscribers of requests that have begun or ended on an account
// since it last looked; a finished request's row says so only at its end.
func (rt *runtime) watchLoad(ctx context.Context) {
	var last []int
	rt.every(ctx, loadEvery, "watching the load", func(context.Context) error {
		if rt.feed.idle() {
			return nil
		}
		load := make([]int, 0, len(last))
		for _, l := range rt.pool.Snapshot() {
			load = append(load, l.InFlight)
		}
		if !slices.Equal(load, last) {
			rt.feed.accountsChanged()
		}
		last = load
		return nil
	})
}

// Interface guard
var _ api.Feed = (*feed)(nil)
