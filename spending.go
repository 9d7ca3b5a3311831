package claudebalancer

import (
	"context"
	"maps"
	"time"

	"github.com/claude-balancer/claude-balancer/access"
	"github.com/claude-balancer/claude-balancer/store"
)

// spending reads what client keys with a budget have spent. The hours of a month
// times a thousand keys are too much to sum up every second: the sum of those
// that are closed is remembered for a while.
type spending struct {
	byPeriod map[string]*spentInPeriod
}

// spentInPeriod is what keys with budgets of one period have spent in it.
type spentInPeriod struct {
	ids    map[string]string // of the keys, by name
	start  time.Time         // of the period
	until  time.Time         // before which closed sums up
	readAt time.Time
	closed map[string]float64 // by name
}

// closedKept bounds how late spending is seen that is stored late, as after an
// outage of the database.
const closedKept = time.Minute

// keys makes these the keys to read for, and forgets what was read: another key
// may have an old one's name.
func (s *spending) keys(keys []store.Key) {
	s.byPeriod = make(map[string]*spentInPeriod)
	for _, k := range keys {
		if k.BudgetUSD == nil {
			continue
		}
		p := s.byPeriod[k.BudgetPeriod]
		if p == nil {
			p = &spentInPeriod{ids: make(map[string]string)}
			s.byPeriod[k.BudgetPeriod] = p
		}
		p.ids[k.Name] = k.ID
	}
}

// read sums up what each key has spent in its running period, by id.
func (s *spending) read(ctx context.Context, from *store.Store, now time.Time) (map[string]float64, error) {
	spent := make(map[string]float64)
	for period, p := range s.byPeriod {
		start, _ := access.Period(period, now)
		sums, err := p.read(ctx, from, start, now)
		if err != nil {
			return nil, err
		}
		for name, id := range p.ids {
			spent[id] = sums[name]
		}
	}
	return spent, nil
}

func (p *spentInPeriod) read(ctx context.Context, from *store.Store, start, now time.Time) (map[string]float64, error) {
	// The last hour may still get rows that have just ended.
	until := now.Truncate(time.Hour).Add(-time.Hour)
	if until.Before(start) {
		until = start
	}
	if p.closed == nil || !p.start.Equal(start) || !p.until.Equal(until) || now.Sub(p.readAt) >= closedKept {
		closed, err := from.KeySpendBetween(ctx, start, until)
		if err != nil {
			return nil, err
		}
		p.start, p.until, p.readAt, p.closed = start, until, now, closed
	}
	recent, err := from.KeySpend(ctx, until)
	if err != nil {
		return nil, err
	}
	sums := maps.Clone(p.closed)
	for name, usd := range recent {
		sums[name] += usd
	}
	return sums, nil
}
