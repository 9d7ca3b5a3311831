package store

// The recorder: the history is written behind the requests, in batches.

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// Defaults of RecorderOptions.
const (
	DefaultBatch = 256
	DefaultEvery = 100 * time.Millisecond
	DefaultQueue = 4096
	// RemoteQueue is for a database that may be away for a while: some 20 MB.
	RemoteQueue = 16384
)

// recordPatience is how long Record waits for room in the queue.
const recordPatience = 100 * time.Millisecond

// How long the recorder waits before it repeats a failed write.
const (
	firstRetry = 50 * time.Millisecond
	lastRetry  = 2 * time.Second

	failureToldEvery = 10 * time.Second
)

// RecorderOptions say how rows are gathered. Zero members take the defaults.
type RecorderOptions struct {
	Batch int           // rows that are written at once
	Every time.Duration // how long a row waits for others
	Queue int           // rows that wait while the database cannot be written; 0 = DefaultQueue, or RemoteQueue

	// OnWritten is told rows that were committed or dropped, for the live feed.
	// It may be called by several goroutines at once and must not block.
	OnWritten func([]Row)

	Off    func() bool // true = store no rows: keep counters and sums only; nil = never
	Logger *zap.Logger // nil = silent
}

// Recorder writes finished requests to the history. While the database cannot
// be written it keeps rows and tries again; when its queue is full it drops
// them and counts that.
type Recorder struct {
	store *Store
	o     RecorderOptions
	id    string // of counted batches
	batch int64  // number of the last counted batch

	queue   chan *Row
	flushes chan chan struct{}
	dropped atomic.Uint64
	pending atomic.Int64 // rows taken from the queue and not yet written

	closing sync.RWMutex // held for reading while a row goes into the queue
	closed  bool
	stop    chan struct{} // closed by Close: write what is there and end
	giveUp  func()        // what cannot be written now is dropped
	ended   chan struct{} // closed when run has ended
}

// NewRecorder starts a recorder. Close it before the store.
func NewRecorder(s *Store, o RecorderOptions) *Recorder {
	if o.Batch <= 0 {
		o.Batch = DefaultBatch
	}
	if o.Every <= 0 {
		o.Every = DefaultEvery
	}
	if o.Queue <= 0 {
		if o.Queue = DefaultQueue; s.Remote() {
			o.Queue = RemoteQueue
		}
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.OnWritten == nil {
		o.OnWritten = func([]Row) {}
	}
	if o.Off == nil {
		o.Off = func() bool { return false }
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &Recorder{
		store: s, o: o, id: rand.Text(),
		queue: make(chan *Row, o.Queue), flushes: make(chan chan struct{}),
		stop: make(chan struct{}), giveUp: cancel, ended: make(chan struct{}),
	}
	go r.run(ctx)
	return r
}

// Record hands a row over. With a full queue it waits up to 100 ms for room; if
// there is none, or the recorder is closed, the row is dropped and counted.
func (r *Recorder) Record(row Row) bool {
	if r.enqueue(row) {
		return true
	}
	r.drop([]Row{row})
	return false
}

func (r *Recorder) enqueue(row Row) bool {
	r.closing.RLock()
	defer r.closing.RUnlock()
	if r.closed {
		return false
	}
	select {
	case r.queue <- &row:
		return true
	default:
	}
	timer := time.NewTimer(recordPatience)
	defer timer.Stop()
	select {
	case r.queue <- &row:
		return true
	case <-timer.C:
		return false
	}
}

func (r *Recorder) drop(rows []Row) {
	r.dropped.Add(uint64(len(rows)))
	r.o.OnWritten(rows)
}

// Dropped returns how many rows never reached the database.
func (r *Recorder) Dropped() uint64 { return r.dropped.Load() }

// Queued returns how many rows wait to be written.
func (r *Recorder) Queued() int { return len(r.queue) + int(r.pending.Load()) }

// Flush returns once every row recorded before is committed or given up.
func (r *Recorder) Flush(ctx context.Context) error {
	done := make(chan struct{})
	select {
	case r.flushes <- done:
	case <-r.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("flush the history: %w", ctx.Err())
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("flush the history: %w", ctx.Err())
	}
}

// Close writes what was recorded and stops. When ctx ends first, what is left
// is dropped and counted, and the error says how much that is.
func (r *Recorder) Close(ctx context.Context) error {
	r.closing.Lock()
	first := !r.closed
	r.closed = true
	r.closing.Unlock()
	if first {
		close(r.stop)
	}
	select {
	case <-r.ended:
		return nil
	case <-ctx.Done():
	}
	r.giveUp()
	return fmt.Errorf("%d rows of the history were not written: %w", r.Queued(), ctx.Err())
}

// run gathers rows into batches and writes them; ctx ends when it is to give up.
func (r *Recorder) run(ctx context.Context) {
	defer close(r.ended)
	defer r.giveUp()
	batch := make([]Row, 0, r.o.Batch)
	var due <-chan time.Time // when the oldest row of the batch has waited enough
	for {
		select {
		case row := <-r.queue:
			if batch = r.take(batch, *row); len(batch) == 1 {
				due = time.After(r.o.Every)
			}
			if len(batch) < r.o.Batch {
				continue
			}
			batch = r.write(ctx, batch)
		case <-due:
			batch = r.write(ctx, batch)
		case done := <-r.flushes:
			batch = r.drain(ctx, batch)
			close(done)
		case <-r.stop:
			r.drain(ctx, batch)
			return
		}
		due = nil
	}
}

func (r *Recorder) take(batch []Row, row Row) []Row {
	r.pending.Add(1)
	return append(batch, row)
}

// drain writes the batch and what is in the queue by now.
func (r *Recorder) drain(ctx context.Context, batch []Row) []Row {
	for n := len(r.queue); n > 0; n-- {
		if batch = r.take(batch, *<-r.queue); len(batch) == r.o.Batch {
			batch = r.write(ctx, batch)
		}
	}
	return r.write(ctx, batch)
}

// write commits the batch, however often it must try, and returns an empty one.
func (r *Recorder) write(ctx context.Context, batch []Row) []Row {
	if len(batch) == 0 {
		return batch
	}
	r.batch++
	defer r.pending.Add(-int64(len(batch)))
	off := r.o.Off() // once: a repeated batch must be known by the same mark
	var told time.Time
	for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
		err := r.tryWrite(ctx, batch, off)
		if err == nil {
			r.o.OnWritten(batch)
			break
		}
		if time.Since(told) >= failureToldEvery {
			told = time.Now()
			r.o.Logger.Error("the history cannot be written, trying again", zap.Error(err),
				zap.Int("queued", r.Queued()), zap.Uint64("dropped", r.Dropped()))
		}
		if !sleep(ctx, wait) {
			r.drop(batch)
			break
		}
	}
	return make([]Row, 0, r.o.Batch) // OnWritten may keep the old one
}

func (r *Recorder) tryWrite(ctx context.Context, batch []Row, off bool) error {
	if off {
		return r.store.countRows(ctx, r.id, r.batch, batch)
	}
	return r.store.InsertRows(ctx, batch)
}

// sleep reports false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
