package claudebalancer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/claude-balancer/claude-balancer/access"
	"github.com/claude-balancer/claude-balancer/selection"
	"github.com/claude-balancer/claude-balancer/store"
)

// The exchange is what this process tells others that share its store, and takes
// over from them. It runs behind the requests, which work on what is in memory;
// what is found out here is stored at once, and what others have stored is here
// within a second: half of one passes at most until it is told, and half until
// it is heard.

// exchange has two goroutines: one tells and one hears. A node that is lost can
// leave rows locked for a while; who waits for them still hears.
type exchange struct {
	node     string      // this process
	company  atomic.Bool // another process runs
	lost     atomic.Bool // there was one when others were told last, and is none
	failures limiter

	// Of the one that tells.
	beats  int
	told   []byte // what others were told last
	toldAt int    // the beat of that

	// Of the one that hears.
	changes  chan store.Changes // of others
	pending  store.Changes      // that are not taken over yet
	sessions int64              // revision of the last session that was taken over
}

const (
	beatEvery      = 500 * time.Millisecond
	beatsASecond   = int(time.Second / beatEvery)
	heartbeatEvery = 3 * beatsASecond  // in company
	helloEvery     = 60 * beatsASecond // alone
	saveAloneEvery = 10 * beatsASecond // sessions and windows

	exchangeTimeout = 10 * time.Second

	// For how long counts that a process told last are believed: those of
	// running requests end with it.
	runningCount = 10 * time.Second
	minuteCounts = time.Minute
	triesCount   = 5 * time.Hour

	// clocksDiffer is how much the clocks of machines may.
	clocksDiffer = 10 * time.Minute

	windowsEveryAlone     = 10 * time.Second
	windowsEveryInCompany = beatEvery

	// sessionsAtOnce bounds what is read of others' sessions in one go.
	sessionsAtOnce = 2000
)

// restore reads everything the pool starts with.
func (rt *runtime) restore(ctx context.Context) error {
	x := &rt.exchange
	x.changes = make(chan store.Changes, 1)
	x.pending = store.AllChanges &^ store.ChangedSessions
	if err := rt.takeOver(ctx); err != nil {
		return err
	}
	sessions, revision, err := rt.store.Sessions(ctx, rt.now().Add(-selection.SessionsKept), selection.MaxSessions)
	if err != nil {
		return err
	}
	slices.Reverse(sessions) // the newest last
	rt.pool.TakeOverSessions(sessionsFromStore(sessions))
	x.sessions = revision
	return errors.Join(rt.hearLoad(ctx), rt.tellLoad(ctx))
}

// tell tells others what was found out here. While the store is away, it rests.
func (rt *runtime) tell(ctx context.Context) {
	ticker := time.NewTicker(beatEvery)
	defer ticker.Stop()
	for {
		work := rt.beat
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-rt.pool.Changed():
			work = rt.saveFindings
		}
		rt.tellNotices()
		rt.exchangeStep(ctx, work)
	}
}

// beat is what is told twice a second.
func (rt *runtime) beat(ctx context.Context) error {
	x := &rt.exchange
	x.beats++
	err := rt.saveFindings(ctx)
	if x.company.Load() || x.beats%saveAloneEvery == 0 {
		err = errors.Join(err, rt.saveSessions(ctx))
	}
	if x.beats%saveAloneEvery == 0 {
		err = errors.Join(err, rt.saveUse(ctx))
	}
	return errors.Join(err, rt.tellLoad(ctx))
}

// hear takes over what others have told.
func (rt *runtime) hear(ctx context.Context) {
	ticker := time.NewTicker(beatEvery)
	defer ticker.Stop()
	for {
		work := rt.takeOver
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			work = rt.hearBeat
		case changes := <-rt.exchange.changes:
			rt.exchange.pending |= changes
		}
		rt.exchangeStep(ctx, work)
	}
}

// hearBeat is what is heard twice a second.
func (rt *runtime) hearBeat(ctx context.Context) error {
	err := errors.Join(rt.takeOver(ctx), rt.hearLoad(ctx))
	if rt.exchange.company.Load() {
		err = errors.Join(err, rt.reloadSpending(ctx))
	}
	return err
}

func (rt *runtime) exchangeStep(ctx context.Context, work func(context.Context) error) {
	if rt.link.away() {
		return
	}
	limited, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	if err := work(limited); err != nil && ctx.Err() == nil && rt.exchange.failures.allow(time.Now()) {
		rt.logger().Error("exchanging with the store", zap.Error(err))
	}
}

// saveFindings stores limits, states and windows that were found out here, and
// owners of resources that could not be stored.
func (rt *runtime) saveFindings(ctx context.Context) error {
	every := windowsEveryAlone
	if rt.exchange.company.Load() {
		every = windowsEveryInCompany
	}
	failed := rt.saveOwners(ctx)
	dirty := rt.pool.TakeDirty(every)
	var windows []store.Window
	for _, d := range dirty {
		windows = append(windows, windowsToStore(d.AccountID, d.Windows)...)
	}
	windowsErr := rt.store.SaveWindows(ctx, windows)
	for _, d := range dirty {
		err := rt.saveFinding(ctx, d)
		if len(d.Windows) > 0 {
			err = errors.Join(err, windowsErr)
		}
		if err != nil {
			rt.pool.NotSaved(d)
			failed = errors.Join(failed, err)
			continue
		}
		rt.pool.Saved(d)
	}
	return failed
}

func (rt *runtime) saveFinding(ctx context.Context, d selection.Dirty) error {
	var err error
	if len(d.Limits) > 0 {
		err = rt.store.ChangeLimits(ctx, d.AccountID, changesToStore(d.Limits))
	}
	if err == nil && d.HasState {
		generation := int64(-1)
		if token, ok := rt.tokens.Current(d.AccountID); ok {
			generation = token.Generation // a login that came between wins
		}
		err = rt.store.SetState(ctx, d.AccountID, generation, d.State, d.Reason)
	}
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrStale) { // gone, or logged in anew
		return nil
	}
	return err
}

func (rt *runtime) saveSessions(ctx context.Context) error {
	changed := rt.pool.TakeChangedSessions()
	err := rt.store.SaveSessions(ctx, sessionsToStore(changed))
	if err != nil {
		rt.pool.SessionsNotSaved(changed)
	}
	return err
}

// saveUse stores when keys were used last.
func (rt *runtime) saveUse(ctx context.Context) error { return rt.store.TouchKeys(ctx, rt.keys.Used()) }

// takeOver takes over what others have changed: accounts first, since the rest is
// about accounts.
func (rt *runtime) takeOver(ctx context.Context) error {
	x := &rt.exchange
	var failed error
	for _, t := range []struct {
		kinds store.Changes
		take  func(context.Context) error
	}{
		{store.ChangedAccounts, rt.reloadAccounts},
		{store.ChangedKeys, rt.reloadKeys},
		{store.ChangedLimits, rt.takeOverLimits},
		{store.ChangedWindows, rt.takeOverWindows},
		{store.ChangedSessions, rt.takeOverSessions},
	} {
		if x.pending&t.kinds == 0 {
			continue
		}
		if err := t.take(ctx); err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		x.pending &^= t.kinds
	}
	x.pending &^= store.ChangedUsage // which is read as it is needed
	return failed
}

func (rt *runtime) takeOverLimits(ctx context.Context) error {
	rt.loading.Lock()
	defer rt.loading.Unlock()
	limits, err := rt.store.Limits(ctx)
	if err == nil {
		rt.pool.TakeOverLimits(limitsByAccount(limits))
	}
	return err
}

// clearLimits ends an account's limits here and in the store.
func (rt *runtime) clearLimits(ctx context.Context, id string) error {
	rt.loading.Lock() // what was read before must be taken over before
	defer rt.loading.Unlock()
	rt.pool.ClearLimits(id)
	return rt.store.ClearLimits(ctx, id)
}

func (rt *runtime) takeOverWindows(ctx context.Context) error {
	windows, err := rt.store.Windows(ctx)
	if err == nil {
		rt.pool.TakeOverWindows(windowsByAccount(windows))
	}
	return err
}

// takeOverSessions reads on from the last session that was taken over, some at a
// time.
func (rt *runtime) takeOverSessions(ctx context.Context) error {
	for {
		sessions, revision, err := rt.store.SessionsAfter(ctx, rt.exchange.sessions, sessionsAtOnce)
		if err != nil {
			return err
		}
		rt.pool.TakeOverSessions(sessionsFromStore(sessions))
		rt.exchange.sessions = revision
		if len(sessions) < sessionsAtOnce {
			return nil
		}
	}
}

// load is what a process tells the others: what it uses, and what it knows.
type load struct {
	Accounts map[string]selection.Load `json:"accounts,omitempty"`
	Keys     map[string]access.Load    `json:"keys,omitempty"`
	Models   []string                  `json:"models,omitempty"` // that upstream has answered
}

// tellLoad tells others what this process uses: at once if that changed and there
// is somebody, else now and then. If there is nobody any more, the database may
// have crashed and forgotten all processes, this one, too.
func (rt *runtime) tellLoad(ctx context.Context) error {
	x := &rt.exchange
	text, err := json.Marshal(rt.load())
	if err != nil {
		return err
	}
	silence, changed := x.beats-x.toldAt, !bytes.Equal(text, x.told)
	if x.company.Load() && (changed || silence >= heartbeatEvery) || x.told == nil || x.lost.Load() || changed && silence >= helloEvery {
		err = rt.store.TellNode(ctx, x.node, text)
		if err == nil {
			x.told, x.toldAt = text, x.beats
			x.lost.Store(false)
		}
	}
	return err
}

// load is what this process uses. Alone it does not tell what runs: nobody needs
// to know, and if it dies, the next one would have to wait for that to be over.
func (rt *runtime) load() load {
	l := load{Accounts: rt.pool.Load(), Keys: rt.keys.Load(), Models: rt.store.Models()}
	if rt.exchange.company.Load() {
		return l
	}
	for id, a := range l.Accounts {
		a.InFlight = 0
		l.Accounts[id] = a
	}
	for id, k := range l.Keys {
		k.InFlight = 0
		l.Keys[id] = k
	}
	return l
}

// hearLoad counts what other processes told, as long as it can be true.
func (rt *runtime) hearLoad(ctx context.Context) error {
	nodes, failed := rt.store.OtherNodes(ctx, rt.exchange.node, triesCount)
	if failed != nil {
		return failed
	}
	company := false
	var accounts []map[string]selection.Load
	var keys []map[string]access.Load
	for _, n := range nodes {
		var l load
		if err := json.Unmarshal(n.Load, &l); err != nil {
			failed = errors.Join(failed, fmt.Errorf("what the process %s tells: %w", n.ID, err))
			continue
		}
		rt.store.LearnModels(l.Models)
		running := n.Age < runningCount
		for id, a := range l.Accounts {
			if !running {
				a.InFlight = 0
			}
			l.Accounts[id] = a
		}
		for id, k := range l.Keys {
			if !running {
				k.InFlight = 0
			}
			if n.Age >= minuteCounts {
				k.Minute = nil
			}
			l.Keys[id] = k
		}
		company = company || running
		accounts, keys = append(accounts, l.Accounts), append(keys, l.Keys)
	}
	rt.pool.SetOthers(accounts)
	rt.keys.SetOthers(keys)
	if rt.exchange.company.Swap(company) && !company {
		rt.exchange.lost.Store(true)
	}
	return failed
}

// reloadSpending takes over what keys spent elsewhere.
func (rt *runtime) reloadSpending(ctx context.Context) error {
	rt.loading.Lock()
	defer rt.loading.Unlock()
	spent, err := rt.spending.read(ctx, rt.store, rt.now())
	if err == nil {
		rt.keys.SetSpent(spent)
	}
	return err
}

// leaveFleet stores what is left to store and takes back what runs.
func (rt *runtime) leaveFleet(ctx context.Context) error {
	x := &rt.exchange
	x.company.Store(false)
	text, err := json.Marshal(rt.load())
	return errors.Join(err, rt.saveFindings(ctx), rt.saveSessions(ctx), rt.saveUse(ctx), rt.store.TellNode(ctx, x.node, text))
}
