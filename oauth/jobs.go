package oauth

// Work on accounts that must not be done twice at once, and what starts it
// without being asked.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
)

// task is what a job does.
type task int

const (
	taskSave    task = iota // store what could not be stored
	taskEarly               // refresh ahead of time; not while the store takes no writes
	taskRefresh             // refresh now, since there is no other way to serve
)

// job is work on one account. An account has one at a time, which everybody
// joins who needs it; it belongs to no request.
type job struct {
	task   task
	done   chan struct{}
	err    error   // to be read when done is closed
	events []Event // told when it is done
}

// join returns the account's running job or starts one. The caller holds a.mu.
func (s *Source) join(a *account, t task) (*job, error) {
	if a.job != nil {
		return a.job, nil
	}
	s.jobs.Lock()
	defer s.jobs.Unlock()
	if s.jobs.closed {
		return nil, ErrClosed
	}
	j := &job{task: t, done: make(chan struct{})}
	a.job = j
	s.jobs.Go(func() { s.run(a, j) })
	return j, nil
}

func (s *Source) run(a *account, j *job) {
	if j.task == taskSave {
		j.err = s.catchUp(context.Background(), a, j)
	} else {
		j.err = s.refresh(a, j)
	}
	a.mu.Lock()
	a.job = nil
	a.mu.Unlock()
	close(j.done)
	for _, e := range j.events {
		s.onChange(a.id, e)
	}
}

func (j *job) tell(t EventType, reason string) { j.events = append(j.events, Event{t, reason}) }

// beat is how often the background looks around. One refresh a beat is begun,
// so that a pool that expires at once does not call at once.
const beat = time.Second

// Run refreshes tokens ahead of their end and stores what could not be stored,
// until ctx ends. Call it once.
func (s *Source) Run(ctx context.Context) {
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if !s.away.Load() {
				s.lookAround()
			}
		}
	}
}

// Away tells whether the vault can be reached. While it cannot, tokens are
// handed out as long as they are valid, and nothing is refreshed.
func (s *Source) Away(away bool) {
	if !away && s.away.Load() {
		s.isBack()
	}
	s.away.Store(away)
}

// settleTime is how long nothing is refreshed once the vault is back: a process
// that got a new pair meanwhile, and whose lease has ended, is to store it
// before another one sends the token that it replaces.
const settleTime = 5 * time.Second

// isBack lets everything be stored at once that could not be.
func (s *Source) isBack() {
	until := s.now().Add(settleTime)
	s.settled.Store(&until)
	for _, a := range s.all() {
		a.mu.Lock()
		a.save = backoff{}
		a.mu.Unlock()
	}
}

// settle waits until other processes have stored what they could not.
func (s *Source) settle() error {
	until := s.settled.Load()
	if until == nil || !s.now().Before(*until) {
		return nil
	}
	timer := time.NewTimer(until.Sub(s.now()))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-s.closing:
		return ErrClosed
	}
}

func (s *Source) lookAround() {
	now, before := s.now(), s.before()
	var next *account
	var nextEnds time.Time
	for _, a := range s.all() {
		a.mu.Lock()
		switch {
		case a.job != nil || a.gone || a.save.waiting(now):
		case a.ahead():
			_, _ = s.join(a, taskSave) // fails when closed: there is nothing to do then
		case a.refreshable() && a.state == "" && !a.retry.waiting(now) && !now.Before(a.earlyAt(before)):
			if next == nil || a.cred.ExpiresAt.Before(nextEnds) {
				next, nextEnds = a, a.cred.ExpiresAt
			}
		}
		a.mu.Unlock()
	}
	if next != nil {
		next.mu.Lock()
		_, _ = s.join(next, taskEarly)
		next.mu.Unlock()
	}
}

func (s *Source) all() []*account {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := make([]*account, 0, len(s.accounts))
	for _, a := range s.accounts {
		all = append(all, a)
	}
	return all
}

// Close waits, as long as ctx allows, until the refreshes that were sent have
// ended, which takes them up to 20 s, and stores what could not be stored. Its
// error names the accounts whose new token is lost with this process. Tokens
// that are still valid are handed out further.
func (s *Source) Close(ctx context.Context) error {
	s.jobs.Lock()
	if !s.jobs.closed {
		s.jobs.closed = true
		close(s.closing)
	}
	s.jobs.Unlock()
	done := make(chan struct{})
	go func() {
		s.jobs.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		return fmt.Errorf("wait for the refreshes that run: %w", ctx.Err())
	}
	var errs []error
	for _, a := range s.all() {
		if err := s.catchUp(ctx, a, &job{}); err != nil {
			errs = append(errs, fmt.Errorf("the new token of account %s is lost: %w", a.label(), err))
		}
	}
	return errors.Join(errs...)
}

func (s *Source) closed() bool {
	select {
	case <-s.closing:
		return true
	default:
		return false
	}
}

func (s *Source) accountLog(a *account) *zap.Logger {
	a.mu.Lock()
	defer a.mu.Unlock()
	return s.log.With(zap.String("account", a.label()))
}
