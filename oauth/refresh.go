package oauth

// One refresh: lease, re-read, ask, commit.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/secret"
	"github.com/claude-balancer/claude-balancer/store"
)

const (
	// leaseTime is for how long other processes leave the account alone. A
	// refresh is over before (leaseWork), so that it never acts on a lease
	// that has ended.
	leaseTime = time.Minute
	leaseWork = 50 * time.Second
	// leaseWait outlasts the lease of a process that died with it.
	leaseWait = leaseTime + 5*time.Second
	leasePoll = 250 * time.Millisecond

	storeTimeout = 10 * time.Second
	maxAsks      = 2 // in one refresh; both fit into leaseWork
	maxSets      = 3 // attempts of a compare-and-set
)

// refresh replaces the account's token or takes over one that another process
// has got. It runs detached from every request.
func (s *Source) refresh(a *account, j *job) error {
	a.mu.Lock()
	old := a.cred.Access
	a.mu.Unlock()
	if err := s.settle(); err != nil {
		return err
	}

	leased, renewed, err := s.lease(a, j, old)
	if leased {
		defer s.release(a)
	}
	if err != nil || renewed {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), leaseWork)
	defer cancel()
	for range maxAsks {
		// Whoever had the lease before may have rotated the token.
		renewed, err := s.reread(ctx, a, old)
		if err != nil {
			return s.unreadable(a, j, err)
		}
		if renewed {
			return nil
		}
		if s.closed() {
			return ErrClosed
		}
		if again, err := s.ask(ctx, a, j); !again {
			return err
		}
	}
	return s.failed(a, j, errors.New("the credential changes all the time"))
}

// lease makes this process the only one that refreshes the account. While
// another one is, it waits for what that one stores: renewed.
//
// A store that takes no writes, such as one on a full disk, has no lease to
// give. Then the refresh goes on without one if the account could not serve
// otherwise, unless NeedsLease; ahead of time it does not, since the new pair
// could not be stored.
func (s *Source) lease(a *account, j *job, old secret.String) (leased, renewed bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), leaseWait)
	defer cancel()
	taken := false
	for {
		leased, err := s.vault.AcquireLease(ctx, a.id, s.owner, leaseTime)
		switch {
		case leased:
			return true, false, nil
		case errors.Is(err, store.ErrNotFound):
			return false, false, s.drop(a)
		case err != nil && !taken && (j.task == taskEarly || s.strict):
			return false, false, s.unreadable(a, j, err)
		case err != nil && !taken:
			s.accountLog(a).Error("no lease can be stored; refreshing without one", zap.Error(err))
			return false, false, nil
		}
		taken = true
		if renewed, err := s.reread(ctx, a, old); err == nil && renewed || errors.Is(err, store.ErrNotFound) {
			return false, renewed, err
		}
		select {
		case <-s.closing:
			return false, false, ErrClosed
		case <-ctx.Done():
			return false, false, s.failed(a, j, errors.New("another process is refreshing the account and does not end"))
		case <-time.After(leasePoll):
		}
	}
}

// release gives the lease back, except while the row still has a refresh token
// that is spent: no other process shall send that one.
func (s *Source) release(a *account) {
	a.mu.Lock()
	keep := a.unsaved || a.gone
	a.mu.Unlock()
	if keep {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	if err := s.vault.ReleaseLease(ctx, a.id, s.owner); err != nil {
		s.accountLog(a).Warn("the lease stays until it ends by itself", zap.Error(err))
	}
}

// reread takes over what is stored, and reports whether the account has a good
// token other than old.
func (s *Source) reread(ctx context.Context, a *account, old secret.String) (renewed bool, err error) {
	stored, err := s.vault.Credential(ctx, a.id)
	if errors.Is(err, store.ErrNotFound) {
		return false, s.drop(a)
	}
	if err != nil {
		return false, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.take(stored)
	return !a.cred.Access.Equal(old) && !a.due(s.now()), nil
}

// ask makes the call and deals with its answer. again means that the stored
// credential is not the one any more that was sent.
func (s *Source) ask(ctx context.Context, a *account, j *job) (again bool, err error) {
	a.mu.Lock()
	sent, base := a.cred, a.stored()
	a.mu.Unlock()

	grant, err := s.client().Refresh(ctx, sent.Refresh)
	if err == nil {
		next := grant.Credential()
		next.Kind, next.Generation = api.KindOAuth, sent.Generation
		if next.Refresh.IsZero() {
			next.Refresh = sent.Refresh
		}
		return false, s.commit(ctx, a, j, next, base)
	}
	refused, ok := errors.AsType[*Error](err)
	switch {
	case ok && refused.Dead():
		return s.condemned(ctx, a, j, sent.Refresh, refused)
	case ok && refused.OnHold():
		again, err := s.setState(ctx, a, j, sent.Refresh, api.StatusDisabled, refused.reason())
		if again || err != nil {
			return again, err
		}
	}
	return false, s.failed(a, j, err)
}

// condemned deals with a refresh token that the provider calls dead: it may be
// so because another process has rotated it.
func (s *Source) condemned(ctx context.Context, a *account, j *job, sent secret.String, refused *Error) (again bool, err error) {
	if _, err := s.reread(ctx, a, secret.String{}); err != nil {
		return false, s.unreadable(a, j, errors.Join(refused, err))
	}
	again, err = s.setState(ctx, a, j, sent, api.StatusNeedsLogin, refused.reason())
	if again || err != nil {
		return again, err
	}
	return false, &NeedsLoginError{Reason: refused.reason()}
}

// setState puts the account into a state of the operator's concern because of
// the answer to the refresh token sent. again means that the account has another
// one by now, which the answer says nothing about.
func (s *Source) setState(ctx context.Context, a *account, j *job, sent secret.String, state api.Status, reason string) (again bool, err error) {
	a.mu.Lock()
	again = !a.cred.Refresh.Equal(sent)
	if !again {
		a.condemn(state, reason)
	}
	generation := a.cred.Generation
	a.mu.Unlock()
	if again {
		return true, nil
	}

	err = s.vault.SetState(ctx, a.id, generation, state, reason)
	switch {
	case errors.Is(err, store.ErrStale):
		return true, nil
	case errors.Is(err, store.ErrNotFound):
		return false, s.drop(a)
	case err != nil:
		a.mu.Lock()
		a.stateUnsaved = true
		a.saveFailed(s.now(), err)
		a.mu.Unlock()
		s.accountLog(a).Error("the account's state could not be stored", zap.Error(err))
	}
	s.accountLog(a).Error("the account is out of service", zap.String("state", string(state)), zap.String("reason", reason))
	j.tell(stateEvents[state], reason)
	return false, nil
}

var stateEvents = map[api.Status]EventType{api.StatusNeedsLogin: EventNeedsLogin, api.StatusDisabled: EventDisabled}

// failed begins the back-off.
func (s *Source) failed(a *account, j *job, err error) error {
	var wish time.Duration
	if refused, ok := errors.AsType[*Error](err); ok {
		wish = refused.RetryAfter
	}
	a.mu.Lock()
	a.refreshFailed(s.now(), err, wish)
	until := a.retry.until
	a.mu.Unlock()
	s.accountLog(a).Warn("the token could not be refreshed", zap.Time("next_try", until), zap.Error(err))
	j.tell(EventRefreshFailed, err.Error())
	return &BackoffError{Until: until, Err: err}
}

// unreadable deals with a store that fails before anything was asked. Ahead of
// time that only puts the refresh off.
func (s *Source) unreadable(a *account, j *job, err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return err
	}
	if j.task != taskEarly {
		return s.failed(a, j, err)
	}
	a.mu.Lock()
	a.saveFailed(s.now(), err)
	a.mu.Unlock()
	s.accountLog(a).Error("the store fails; the refresh is put off", zap.Error(err))
	return fmt.Errorf("refresh ahead of time: %w", err)
}
