package oauth

// Making a new pair durable, now or as soon as the store lets us.

import (
	"context"
	"errors"

	"go.uber.org/zap"

	"github.com/claude-balancer/claude-balancer/secret"
	"github.com/claude-balancer/claude-balancer/store"
)

// commit stores a new pair and then serves it. If the store fails the pair is
// served nevertheless, since the old one is spent, and stored later.
func (s *Source) commit(ctx context.Context, a *account, j *job, next store.Credential, base secret.String) error {
	saved, err := s.compareAndSet(ctx, a.id, next, base)
	if errors.Is(err, store.ErrNotFound) {
		return s.drop(a)
	}
	a.mu.Lock()
	if err == nil && saved.Generation >= a.cred.Generation {
		a.install(saved)
	}
	if err != nil {
		a.keep(saved, base)
		a.saveFailed(s.now(), err)
	}
	a.mu.Unlock()

	j.tell(EventRefreshed, "")
	if err == nil {
		s.accountLog(a).Info("the token was refreshed", zap.Time("expires_at", saved.ExpiresAt))
		return nil
	}
	s.accountLog(a).Error("the new token could not be stored: it is kept in memory, and lost if the process ends before the store takes it", zap.Error(err))
	j.tell(EventSaveFailed, err.Error())
	return nil
}

// compareAndSet stores c in the row from which it was made, and returns what
// the row has then. A change of the row that left it the refresh token base,
// which is spent, is no reason to lose c; any other wins over c. If the store
// fails it returns c.
func (s *Source) compareAndSet(ctx context.Context, id string, c store.Credential, base secret.String) (store.Credential, error) {
	var err error
	for range maxSets {
		var generation int64
		if generation, err = s.vault.SaveCredential(ctx, id, c.Generation, c); err == nil {
			c.Generation = generation
			return c, nil
		}
		if !errors.Is(err, store.ErrStale) {
			return c, err
		}
		stored, readErr := s.vault.Credential(ctx, id)
		if readErr != nil {
			return c, readErr
		}
		// The second is our own, from an attempt that seemed to fail.
		if !stored.Refresh.Equal(base) || stored.Access.Equal(c.Access) {
			return stored, nil
		}
		c.Generation = stored.Generation
	}
	return c, err
}

// catchUp stores what could not be stored.
func (s *Source) catchUp(ctx context.Context, a *account, j *job) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	a.mu.Lock()
	unsaved, stateUnsaved := a.unsaved, a.stateUnsaved
	a.mu.Unlock()
	var err error
	switch {
	case unsaved:
		err = s.saveLate(ctx, a)
	case stateUnsaved:
		err = s.saveState(ctx, a)
	default:
		return nil
	}
	if errors.Is(err, store.ErrNotFound) {
		_ = s.drop(a)
		return nil
	}
	if err != nil {
		a.mu.Lock()
		a.saveFailed(s.now(), err)
		a.mu.Unlock()
		s.accountLog(a).Error("the account's new token or state still cannot be stored", zap.Error(err))
		j.tell(EventSaveFailed, err.Error())
		return err
	}
	s.accountLog(a).Info("the account's new token or state is stored after all")
	s.release(a)
	return nil
}

// saveLate stores a pair that could not be stored. It prolongs the lease first:
// until then the row has a spent token that no other process shall send.
func (s *Source) saveLate(ctx context.Context, a *account) error {
	a.mu.Lock()
	c, base := a.cred, a.base
	a.mu.Unlock()
	if _, err := s.vault.AcquireLease(ctx, a.id, s.owner, leaseTime); err != nil {
		return err
	}
	saved, err := s.compareAndSet(ctx, a.id, c, base)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if saved.Generation >= a.cred.Generation {
		a.install(saved)
	}
	return nil
}

// saveState stores a state that could not be stored.
func (s *Source) saveState(ctx context.Context, a *account) error {
	a.mu.Lock()
	generation, state, reason := a.cred.Generation, a.state, a.reason
	a.mu.Unlock()
	err := s.vault.SetState(ctx, a.id, generation, state, reason)
	if errors.Is(err, store.ErrStale) { // the row has a new credential, with a state of its own
		_, err = s.reread(ctx, a, secret.String{})
	}
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stateUnsaved, a.save = false, backoff{}
	return nil
}
