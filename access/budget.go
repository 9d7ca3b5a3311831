package access

// Budgets: their periods, and how clients are told of them.

import (
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"
)

// Periods of a key's budget. They are calendar periods in UTC; a week begins
// on Monday.
const (
	PeriodDay   = "day"
	PeriodWeek  = "week"
	PeriodMonth = "month"
)

// periodWords are what clients call the periods.
var periodWords = map[string]string{PeriodDay: "daily", PeriodWeek: "weekly", PeriodMonth: "monthly"}

// Period returns the start and the end of the budget period that t is in.
// Anything but day and week means month.
func Period(period string, t time.Time) (start, end time.Time) {
	t = t.UTC()
	year, month, day := t.Date()
	date := func(month time.Month, day int) time.Time {
		return time.Date(year, month, day, 0, 0, 0, 0, time.UTC)
	}
	switch period {
	case PeriodDay:
		return date(month, day), date(month, day+1)
	case PeriodWeek:
		monday := day - (int(t.Weekday())+6)%7
		return date(month, monday), date(month, monday+7)
	default:
		return date(month, 1), date(month+1, 1)
	}
}

// slack is the relative error that a sum of binary fractions may have: ten
// times ten cents are a dollar.
const slack = 1e-9

func exhausted(spent, budget float64) bool { return spent >= budget*(1-slack) }

// The headers by which a gateway tells Claude Code of a user's own cap. They
// are the upstream's, whose own values never reach a client. Source: Claude
// Code's gateway protocol, "spend caps".
const (
	unifiedPrefix      = "Anthropic-Ratelimit-Unified-"
	unifiedStatus      = unifiedPrefix + "Status"
	unifiedClaim       = unifiedPrefix + "Representative-Claim"
	unifiedReset       = unifiedPrefix + "Reset"
	overageStatus      = unifiedPrefix + "Overage-Status"
	overageUtilization = unifiedPrefix + "Overage-Utilization"
	overageThreshold   = unifiedPrefix + "Overage-Surpassed-Threshold"
	overageReset       = unifiedPrefix + "Overage-Reset"
	overagePeriod      = unifiedPrefix + "Overage-Period"
	overageDisabled    = unifiedPrefix + "Overage-Disabled-Reason"
)

// budgetHeader describes a budget that still allows requests.
func budgetHeader(spent, budget float64, reset time.Time) http.Header {
	used := spent / budget * (1 + slack)
	threshold := ""
	switch {
	case used >= 0.95:
		threshold = "0.95"
	case used >= 0.75:
		threshold = "0.75"
	}
	status := "allowed"
	if threshold != "" {
		status = "allowed_warning"
	}
	// 1 would mean refused; the request that used up the budget was not.
	shown := min(math.Floor(used*100)/100, 0.99)
	unix := strconv.FormatInt(reset.Unix(), 10)
	h := http.Header{
		unifiedStatus:      {status},
		unifiedClaim:       {"overage"},
		unifiedReset:       {unix},
		overageStatus:      {status},
		overageUtilization: {strconv.FormatFloat(shown, 'f', 2, 64)},
		overageReset:       {unix},
	}
	if threshold != "" {
		h.Set(overageThreshold, threshold)
	}
	return h
}

// refuseBudget answers for a spent budget. It leaves out the claim and the
// overage status: with them the client hides our message and writes its own.
func refuseBudget(name string, budget float64, period string, now, reset time.Time) *Refusal {
	r := refuseFor(reset.Sub(now), typeBilling, fmt.Sprintf(
		"Client key %q has spent its budget of $%s for this %s: wait until it resets at %s, or ask the operator to raise it.",
		name, strconv.FormatFloat(budget, 'f', -1, 64), period, reset.Format("2006-01-02 15:04 UTC")))
	r.Header.Set(shouldRetry, "false")

	unix := strconv.FormatInt(reset.Unix(), 10)
	r.Header.Set(unifiedStatus, "rejected")
	r.Header.Set(unifiedReset, unix)
	r.Header.Set(overageReset, unix)
	r.Header.Set(overageUtilization, "1")
	r.Header.Set(overageThreshold, "1")
	r.Header.Set(overagePeriod, periodWords[period])
	r.Header.Set(overageDisabled, "org_spend_cap_reached")
	return r
}
