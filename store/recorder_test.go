package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
)

// newRecorder starts a recorder whose written rows arrive on a channel.
func newRecorder(t *testing.T, s *Store, o RecorderOptions) (*Recorder, <-chan []Row) {
	t.Helper()
	written := make(chan []Row, 1000)
	o.OnWritten = func(rows []Row) { written <- rows }
	r := NewRecorder(s, o)
	t.Cleanup(func() { _ = r.Close(context.Background()) })
	return r, written
}

// jam makes every write fail as on a full disk until the returned function is
// called.
func jam(t *testing.T, s *Store) (free func()) {
	t.Helper()
	limit := func(pages int64) {
		if _, err := inSQLite(s).pragma(t.Context(), fmt.Sprintf("max_page_count = %d", pages)); err != nil {
			t.Fatal(err)
		}
	}
	limit(1) // SQLite takes the present size
	if _, err := s.exec(t.Context(), 0, `INSERT INTO audit (at, what, who, detail) VALUES (0, '', '', ?)`,
		strings.Repeat("x", 1<<20)); err == nil {
		t.Fatal("the file still grows")
	}
	return func() { limit(1 << 30) }
}

func TestAFullBatchIsWrittenAtOnce(t *testing.T) { onEachEngine(t, testAFullBatchIsWrittenAtOnce) }

func testAFullBatchIsWrittenAtOnce(t *testing.T, db testDB) {
	s := db.open(t)
	r, written := newRecorder(t, s, RecorderOptions{Batch: 3, Every: time.Hour})
	for i := range 7 {
		if !r.Record(row(fmt.Sprint(i), start)) {
			t.Fatal("a row was dropped")
		}
	}
	if a, b := <-written, <-written; len(a) != 3 || len(b) != 3 {
		t.Errorf("batches of %d and %d rows", len(a), len(b))
	}
	must(t, r.Flush(t.Context()))
	if last := <-written; len(last) != 1 || last[0].ID != "6" || r.Queued() != 0 || rowCounter(t, s) != 7 {
		t.Errorf("flushed %+v, %d queued, %d stored", last, r.Queued(), rowCounter(t, s))
	}
}

func TestAFewRowsAreWrittenSoon(t *testing.T) { onEachEngine(t, testAFewRowsAreWrittenSoon) }

func testAFewRowsAreWrittenSoon(t *testing.T, db testDB) {
	s := db.open(t)
	r, written := newRecorder(t, s, RecorderOptions{Every: time.Millisecond})
	for i := range 3 {
		r.Record(row(fmt.Sprint(i), start))
		<-written
	}
	if rowCounter(t, s) != 3 {
		t.Errorf("%d rows are stored", rowCounter(t, s))
	}
}

func TestRowsOfManyRequestsAreAllWritten(t *testing.T) {
	onEachEngine(t, testRowsOfManyRequestsAreAllWritten)
}

func testRowsOfManyRequestsAreAllWritten(t *testing.T, db testDB) {
	s := db.open(t)
	r := NewRecorder(s, RecorderOptions{})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 250 {
				r.Record(row(fmt.Sprintf("%d-%d", g, i), start))
			}
		})
	}
	wg.Wait()
	must(t, r.Close(t.Context()))
	if n := rowCounter(t, s); n+int64(r.Dropped()) != 2000 || r.Queued() != 0 {
		t.Errorf("%d stored, %d dropped, %d queued", n, r.Dropped(), r.Queued())
	}
	must(t, r.Close(t.Context()))
	must(t, r.Flush(t.Context()))
	if r.Record(row("late", start)) {
		t.Error("a closed recorder takes rows")
	}
}

func TestAFullDiskKeepsRowsUntilThereIsRoom(t *testing.T) {
	t.Parallel()
	s := openNew(t)
	a := account("work")
	must(t, s.AddAccount(t.Context(), a))
	r, written := newRecorder(t, s, RecorderOptions{Batch: 200, Every: time.Millisecond, Queue: 300})
	free := jam(t, s)
	// A row of this size needs a page of its own.
	for i := range 100 {
		big := answered(fmt.Sprint(i), start, a)
		big.ErrorMessage = new(strings.Repeat("e", 5000))
		if !r.Record(big) {
			t.Fatal("dropped with room in the queue")
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := r.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("flushing on a full disk: %v", err)
	}
	free()
	must(t, r.Flush(t.Context()))
	total := 0
	for total < 100 {
		total += len(<-written)
	}
	if now := one(t, s, a.ID); rowCounter(t, s) != 100 || now.RequestCount != 100 || r.Dropped() != 0 {
		t.Errorf("%d stored, %d counted, %d dropped", rowCounter(t, s), now.RequestCount, r.Dropped())
	}
}

func TestALockedStoreDropsRowsOnlyWhenTheQueueIsFull(t *testing.T) {
	onEachEngine(t, testALockedStoreDropsRowsOnlyWhenTheQueueIsFull)
}

func testALockedStoreDropsRowsOnlyWhenTheQueueIsFull(t *testing.T, db testDB) {
	s := db.open(t)
	r, written := newRecorder(t, s, RecorderOptions{Batch: 2, Every: time.Hour, Queue: 3})
	release := holdWriters(t, s)
	accepted := 0
	for r.Record(row(fmt.Sprint(accepted), start)) {
		accepted++
	}
	if first := <-written; r.Dropped() != 1 || len(first) != 1 {
		t.Errorf("%d dropped, told of %d", r.Dropped(), len(first))
	}
	release()
	must(t, r.Flush(t.Context()))
	if n := rowCounter(t, s); n != int64(accepted) || accepted < 3 {
		t.Errorf("%d stored of %d accepted", n, accepted)
	}
}

func TestClosingGivesUpInTime(t *testing.T) { onEachEngine(t, testClosingGivesUpInTime) }

func testClosingGivesUpInTime(t *testing.T, db testDB) {
	s := db.open(t)
	r, written := newRecorder(t, s, RecorderOptions{Every: time.Millisecond})
	defer holdWriters(t, s)()
	for i := range 3 {
		r.Record(row(fmt.Sprint(i), start))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Close(ctx); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "rows of the history were not written") {
		t.Errorf("got %v", err)
	}
	for told := 0; told < 3; {
		told += len(<-written)
	}
	if r.Dropped() != 3 {
		t.Errorf("%d dropped", r.Dropped())
	}
}

func TestWithHistoryOffCountersAreKept(t *testing.T) {
	onEachEngine(t, testWithHistoryOffCountersAreKept)
}

func testWithHistoryOffCountersAreKept(t *testing.T, db testDB) {
	s := db.open(t)
	a := account("work")
	must(t, s.AddAccount(t.Context(), a))
	for range 2 { // a restart begins a new series of batches
		r, _ := newRecorder(t, s, RecorderOptions{Off: func() bool { return true }, Batch: 2})
		for i := range 5 {
			r.Record(answered(fmt.Sprint(i), start, a))
		}
		must(t, r.Close(t.Context()))
	}
	if rows := got(s.Requests(t.Context(), api.RequestQuery{}))(t); len(rows) != 0 || rowCounter(t, s) != 0 {
		t.Errorf("%d rows are stored", len(rows))
	}
	if now, stats := one(t, s, a.ID), got(s.Stats(t.Context(), time.Time{}))(t); now.RequestCount != 10 || stats.TotalRequests != 10 {
		t.Errorf("%d and %d are counted", now.RequestCount, stats.TotalRequests)
	}
}

func TestACountedBatchIsCountedOnce(t *testing.T) { onEachEngine(t, testACountedBatchIsCountedOnce) }

func testACountedBatchIsCountedOnce(t *testing.T, db testDB) {
	s := db.open(t)
	for _, batch := range []int64{1, 1, 2, 1} {
		must(t, s.countRows(t.Context(), "r", batch, []Row{row("x", start)}))
	}
	if n := got(s.Stats(t.Context(), time.Time{}))(t).TotalRequests; n != 2 {
		t.Errorf("counted %d", n)
	}
}

func TestHistoryOutlivesARestart(t *testing.T) { onEachEngine(t, testHistoryOutlivesARestart) }

func testHistoryOutlivesARestart(t *testing.T, db testDB) {
	s := db.open(t)
	r := NewRecorder(s, RecorderOptions{})
	r.Record(row("1", start))
	must(t, r.Close(t.Context()))
	must(t, s.Close())
	s = db.open(t)
	if rows := got(s.Requests(t.Context(), api.RequestQuery{}))(t); len(rows) != 1 {
		t.Errorf("%d rows are left", len(rows))
	}
}
