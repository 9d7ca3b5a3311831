package simulator

// What the simulator saw.

import (
	"bytes"
	"context"
	"crypto/sha256"
	"net/http"
	"sync"
	"time"
)

// Seen is a request as it arrived.
type Seen struct {
	Time     time.Time
	Account  string // whose credential it carried, "" if nobody's
	Method   string
	Host     string
	Path     string // escaped, as sent
	RawQuery string
	Proto    string // "HTTP/1.1", "HTTP/2.0"
	Header   http.Header
	Body     []byte            // at most the first MiB of what was read
	BodySize int64             // of what was read, in bytes
	BodySum  [sha256.Size]byte // SHA-256 of what was read
}

const (
	maxSeenBody  = 1 << 20
	maxJournal   = 64 << 20 // bytes; then the oldest requests are forgotten
	recordWeight = 2 << 10  // bytes that a request without a body counts as
)

// journal is the bounded list of requests.
type journal struct {
	mu      sync.Mutex
	records []*record
	size    int
}

type record struct {
	journal *journal
	seen    Seen
	dropped bool
}

func (j *journal) open(x *Exchange, now time.Time) *record {
	r := x.Request
	rec := &record{journal: j, seen: Seen{
		Time: now, Account: x.Account, Method: r.Method, Host: r.Host, Path: r.URL.EscapedPath(),
		RawQuery: r.URL.RawQuery, Proto: r.Proto, Header: r.Header.Clone(),
	}}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.records = append(j.records, rec)
	j.size += recordWeight
	for j.size > maxJournal && len(j.records) > 1 {
		j.drop(1)
	}
	return rec
}

// drop forgets the n oldest requests. j.mu is held.
func (j *journal) drop(n int) {
	for i, rec := range j.records[:n] {
		j.size -= recordWeight + len(rec.seen.Body)
		rec.dropped = true
		j.records[i] = nil
	}
	j.records = j.records[n:]
}

func (rec *record) setBody(body []byte) {
	sum := sha256.Sum256(body)
	kept := bytes.Clone(body[:min(len(body), maxSeenBody)])
	rec.journal.mu.Lock()
	defer rec.journal.mu.Unlock()
	if !rec.dropped {
		rec.journal.size += len(kept) - len(rec.seen.Body)
	}
	rec.seen.Body, rec.seen.BodySize, rec.seen.BodySum = kept, int64(len(body)), sum
}

// Requests returns the requests since the last Reset, oldest first; of very
// many only the newest.
func (s *Simulator) Requests() []Seen {
	s.journal.mu.Lock()
	defer s.journal.mu.Unlock()
	list := make([]Seen, len(s.journal.records))
	for i, rec := range s.journal.records {
		list[i] = rec.seen
	}
	return list
}

// Count returns how many API requests, logins and refreshes not among them,
// came with a credential of the account; for "", of all accounts together.
func (s *Simulator) Count(account string) int {
	if account != "" {
		return int(s.mustFind(account).requests.Load())
	}
	n := 0
	for _, a := range s.all() {
		n += int(a.requests.Load())
	}
	return n
}

// Reset forgets recorded requests and sets the counters to zero. Scripts,
// windows and credentials stay.
func (s *Simulator) Reset() {
	s.journal.mu.Lock()
	s.journal.drop(len(s.journal.records))
	s.journal.mu.Unlock()
	s.stats.cancelled.Store(0)
	for _, a := range s.all() {
		a.requests.Store(0)
		a.refreshes.Store(0)
		a.reuses.Store(0)
	}
}

// Await returns nil as soon as a condition on the simulator holds, for example
// that ActiveStreams is 1; it looks again whenever a request arrives, proceeds
// to a stream or ends. It returns the context's error if that ends first.
func (s *Simulator) Await(ctx context.Context, condition func() bool) error {
	for {
		changed := s.changed.next()
		if condition() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// signal wakes everyone who waits for a change.
type signal struct {
	mu sync.Mutex
	ch chan struct{}
}

// next returns a channel that the next fire closes.
func (g *signal) next() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ch == nil {
		g.ch = make(chan struct{})
	}
	return g.ch
}

func (g *signal) fire() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ch != nil {
		close(g.ch)
		g.ch = nil
	}
}
