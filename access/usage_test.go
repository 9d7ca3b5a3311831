package access_test

import (
	"encoding/json"
	"strconv"
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/access"
	"github.com/claude-balancer/claude-balancer/store"
)

func TestUsageOfABudgetIsInCentsAndResetsWhenTheHeadersSay(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		period, group string
		spend         float64
		percent       int
	}{
		{access.PeriodDay, "daily", 0, 0},
		{access.PeriodWeek, "weekly", 50.1, 25},
		{access.PeriodMonth, "monthly", 199.99, 99},
		{access.PeriodMonth, "monthly", 300, 150},
	} {
		c := newClock()
		ring := access.NewKeyring(c.Now)
		budget := 200.0
		ring.Sync([]store.Key{{ID: "1", Name: "dev", BudgetUSD: &budget, BudgetPeriod: tc.period}}, nil, nil)
		key, _ := ring.Named("dev")
		key.Spend(tc.spend)

		usage := key.Usage(access.Spending{Month: 7})
		e := usage.ExtraUsage
		if !e.IsEnabled || *e.MonthlyLimit != 20000 || e.UsedCredits != int64(tc.spend*100+0.5) || *e.Utilization != tc.percent || e.Currency != "USD" || e.Daily != nil || e.Weekly != nil {
			t.Errorf("%+v: %+v", tc, e)
		}
		if len(usage.Limits) != 1 {
			t.Fatalf("%+v: %d limits", tc, len(usage.Limits))
		}
		l := usage.Limits[0]
		if l.Kind != "spend" || l.Group != tc.group || l.Percent != tc.percent || !l.IsActive {
			t.Errorf("%+v: %+v", tc, l)
		}
		resets, err := time.Parse("2006-01-02T15:04:05.000Z", l.ResetsAt)
		if err != nil {
			t.Fatal(err)
		}
		if got := key.BudgetHeader().Get("Anthropic-Ratelimit-Unified-Overage-Reset"); got != strconv.FormatInt(resets.Unix(), 10) {
			t.Errorf("%+v: the header resets at %s, the limit at %s", tc, got, l.ResetsAt)
		}
	}
}

func TestUsageWithoutABudgetHasAmountsAndNoLimit(t *testing.T) {
	t.Parallel()
	c := newClock()
	ring := access.NewKeyring(c.Now)
	ring.Sync([]store.Key{{ID: "1", Name: "dev"}}, nil, nil)
	key, _ := ring.Named("dev")
	got, err := json.Marshal(key.Usage(access.Spending{Day: 0.1, Week: 0.25, Month: 12.345}))
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"extra_usage":{"is_enabled":true,"monthly_limit":null,"used_credits":1235,"utilization":null,"currency":"USD",` +
		`"daily":{"limit":null,"used_credits":10,"utilization":null},"weekly":{"limit":null,"used_credits":25,"utilization":null}},"limits":[]}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestSpendingIsSummedFromTheStartOfEachPeriod(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 18, 9, 0, 0, 0, time.UTC) // a Wednesday
	got, err := access.SpendingSince(now, func(since time.Time) (float64, error) { return float64(since.Day()), nil })
	if err != nil || got != (access.Spending{Day: 18, Week: 16, Month: 1}) {
		t.Errorf("%+v %v", got, err)
	}
}
