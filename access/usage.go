package access

// What a key's holder is shown of its spending, beside the headers of budget.go.

import (
	"math"
	"time"
)

// Spending is what a key has spent in the running calendar periods, in US
// dollars.
type Spending struct{ Day, Week, Month float64 }

// Usage is the answer of /api/oauth/usage. Amounts are cents, whatever their
// names say, and percentages whole. Source: Claude Code's gateway protocol,
// "usage".
type Usage struct {
	ExtraUsage ExtraUsage   `json:"extra_usage"`
	Limits     []SpendLimit `json:"limits"`
}

// ExtraUsage describes the key's budget, or what it spent if it has none.
type ExtraUsage struct {
	IsEnabled    bool    `json:"is_enabled"`
	MonthlyLimit *int64  `json:"monthly_limit"` // of the budget, whatever its period; null = none, where 0 would be a budget of $0
	UsedCredits  int64   `json:"used_credits"`
	Utilization  *int    `json:"utilization"`
	Currency     string  `json:"currency"`
	Daily        *Amount `json:"daily,omitempty"`
	Weekly       *Amount `json:"weekly,omitempty"`
}

// Amount is what was spent in a period without a budget.
type Amount struct {
	Limit       *int64 `json:"limit"`
	UsedCredits int64  `json:"used_credits"`
	Utilization *int   `json:"utilization"`
}

// SpendLimit is a budget. Claude Code pairs it with the headers by ResetsAt,
// which must be that of the header to the second.
type SpendLimit struct {
	Kind     string `json:"kind"`
	Group    string `json:"group"` // the period
	Percent  int    `json:"percent"`
	ResetsAt string `json:"resets_at"` // ISO 8601 in UTC
	Severity string `json:"severity"`
	IsActive bool   `json:"is_active"`
}

// HasBudget reports whether the key's spending is limited.
func (k *Key) HasBudget() bool { return k.budget > 0 }

// Usage tells the key's holder what it used: of its budget, or s for a key
// without one.
func (k *Key) Usage(s Spending) Usage {
	if !k.HasBudget() {
		return Usage{
			ExtraUsage: ExtraUsage{
				IsEnabled: true, UsedCredits: cents(s.Month), Currency: "USD",
				Daily: &Amount{UsedCredits: cents(s.Day)}, Weekly: &Amount{UsedCredits: cents(s.Week)},
			},
			Limits: []SpendLimit{},
		}
	}
	spent, reset := k.meter.spending(k.now())
	limit, percent := cents(k.budget), int(math.Floor(spent/k.budget*(1+slack)*100))
	return Usage{
		ExtraUsage: ExtraUsage{
			IsEnabled: true, MonthlyLimit: &limit, UsedCredits: cents(spent), Utilization: &percent, Currency: "USD",
		},
		Limits: []SpendLimit{{
			Kind: "spend", Group: periodWords[k.period], Percent: percent,
			ResetsAt: reset.UTC().Format("2006-01-02T15:04:05.000Z"), Severity: "normal", IsActive: true,
		}},
	}
}

// SpendingSince asks sum for what was spent since a time, for each period.
func SpendingSince(now time.Time, sum func(since time.Time) (float64, error)) (s Spending, err error) {
	for _, p := range []struct {
		period string
		to     *float64
	}{{PeriodDay, &s.Day}, {PeriodWeek, &s.Week}, {PeriodMonth, &s.Month}} {
		start, _ := Period(p.period, now)
		if *p.to, err = sum(start); err != nil {
			return Spending{}, err
		}
	}
	return s, nil
}

func cents(usd float64) int64 { return int64(math.Round(usd * 100)) }
