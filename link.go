package claudebalancer

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/claude-balancer/claude-balancer/store"
)

// link is the connection to a store on another machine, which can be away while
// this process goes on.
type link struct {
	mu    sync.Mutex
	since time.Time // away since then; zero = it answers
	told  time.Time // when the log was told last
}

const (
	storeLookEvery = 500 * time.Millisecond
	storeLookTime  = 3 * time.Second // after it without an answer, the store is away
	awayToldEvery  = 30 * time.Second
)

// away reports whether the store does not answer.
func (l *link) away() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.since.IsZero()
}

// answered notes whether the store answers, and returns what to log, if anything.
func (l *link) answered(err error, now time.Time) (was, is bool, log func(*zap.Logger)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	was = !l.since.IsZero()
	switch {
	case err == nil && !was:
		return was, false, nil
	case err == nil:
		out := now.Sub(l.since)
		l.since = time.Time{}
		return was, false, func(log *zap.Logger) { log.Info("the database is back", zap.Duration("was_away", out)) }
	case !was:
		l.since = now
	case now.Sub(l.told) < awayToldEvery:
		return was, true, nil
	}
	l.told = now
	out := now.Sub(l.since)
	return was, true, func(log *zap.Logger) {
		log.Error("the database is away: requests go on with what is in memory, and the history waits",
			zap.Duration("away", out), zap.Error(err))
	}
}

// watchStore asks the store again and again what others have changed, and so
// knows whether it answers.
func (rt *runtime) watchStore(ctx context.Context) {
	ticker := time.NewTicker(storeLookEvery)
	defer ticker.Stop()
	var changes store.Changes
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-rt.store.Notified():
		}
		more, err := rt.lookAtStore(ctx)
		if ctx.Err() != nil {
			return
		}
		rt.linkAnswered(err)
		if changes |= more; changes == 0 {
			continue
		}
		select {
		case rt.exchange.changes <- changes:
			changes = 0
		default: // earlier ones are being taken over
		}
	}
}

func (rt *runtime) lookAtStore(ctx context.Context) (store.Changes, error) {
	ctx, cancel := context.WithTimeout(ctx, storeLookTime)
	defer cancel()
	return rt.store.Changed(ctx)
}

func (rt *runtime) linkAnswered(err error) {
	if !rt.store.Remote() {
		if err != nil {
			rt.logger().Error("reading what another process changed", zap.Error(err))
		}
		return
	}
	was, is, log := rt.link.answered(err, time.Now())
	if was != is {
		rt.tokens.Away(is)
	}
	if log != nil {
		log(rt.logger())
	}
}
