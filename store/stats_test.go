package store

import (
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/claude-balancer/claude-balancer/api"
)

func TestStatsOfNothingAreZero(t *testing.T) { onEachEngine(t, testStatsOfNothingAreZero) }

func testStatsOfNothingAreZero(t *testing.T, db testDB) {
	stats := got(db.open(t).Stats(t.Context(), time.Time{}))(t)
	want := api.Stats{ByModel: map[string]api.Usage{}, ByAccount: map[string]api.Usage{}, ByPlan: map[string]api.Usage{},
		ByKey: map[string]api.Usage{}, Unpriced: []string{}}
	if !reflect.DeepEqual(stats, want) {
		t.Errorf("got %+v", stats)
	}
}

func TestStatsSayWhoAnsweredWhat(t *testing.T) { onEachEngine(t, testStatsSayWhoAnsweredWhat) }

func testStatsSayWhoAnsweredWhat(t *testing.T, db testDB) {
	s := db.open(t)
	a, paused, dead := account("a"), account("paused"), account("dead")
	paused.Paused, dead.State = true, api.StatusNeedsLogin
	for _, acc := range []Account{a, paused, dead} {
		must(t, s.AddAccount(t.Context(), acc))
	}
	opus := answered("1", start, a)
	opus.Model, opus.Family, opus.Client = new("claude-opus-4-8"), "opus", new("laptop")
	refused := row("2", start)
	refused.Model, refused.Family = new("claude-opus-4-8"), "opus"
	mystery := answered("3", start, a)
	mystery.Model, mystery.Family, mystery.CostUSD = new("mystery-1"), "other", nil
	failed := answered("4", start, a)
	failed.Outcome, failed.StatusCode, failed.ResponseTimeMS = api.OutcomeUpstreamError, 400, 100
	made := row("5", start) // any client may ask for any name
	made.Model, made.Family = new("<made up>"), "other"
	must(t, s.InsertRows(t.Context(), []Row{opus, refused, mystery, failed, made}))

	stats := got(s.Stats(t.Context(), time.Time{}))(t)
	if stats.TotalRequests != 5 || stats.SuccessRate != 40 || stats.ActiveAccounts != 1 || stats.AvgResponseTime != 100 {
		t.Errorf("got %+v", stats)
	}
	if models := slices.Sorted(maps.Keys(stats.ByModel)); !slices.Equal(models, []string{"claude-opus-4-8", "mystery-1"}) {
		t.Errorf("models that never answered are listed: %q", models)
	}
	if u := stats.ByModel["claude-opus-4-8"]; u.Requests != 2 || u.Errors != 1 || *u.CostUSD != 0.01 {
		t.Errorf("opus: %+v", u)
	}
	if u := stats.ByModel["mystery-1"]; u.CostUSD != nil || u.Tokens.Input != 100 {
		t.Errorf("a model without a price: %+v", u)
	}
	if stats.Opus != (api.OpusStats{Requests: 2, SuccessRate: 50}) || !slices.Equal(stats.Unpriced, []string{"mystery-1"}) {
		t.Errorf("opus %+v, unpriced %q", stats.Opus, stats.Unpriced)
	}
	if u := stats.ByAccount["a"]; u.Requests != 3 || u.Errors != 1 || stats.ByPlan["max"].Requests != 3 || stats.ByKey["laptop"].Requests != 1 {
		t.Errorf("by account %+v, plan %+v, key %+v", stats.ByAccount, stats.ByPlan, stats.ByKey)
	}
}

func TestStatsCountFromTheStartOfTheHour(t *testing.T) {
	onEachEngine(t, testStatsCountFromTheStartOfTheHour)
}

func testStatsCountFromTheStartOfTheHour(t *testing.T, db testDB) {
	s := db.open(t)
	hour := start.Truncate(time.Hour)
	must(t, s.InsertRows(t.Context(), []Row{row("before", hour.Add(-time.Millisecond)), row("at", hour), row("now", start)}))
	if n := got(s.Stats(t.Context(), start))(t).TotalRequests; n != 2 {
		t.Errorf("%d requests, want 2", n)
	}
}

// However rows come in, the sums are what the rows say.
func TestStatsEqualTheRows(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		var rows []Row
		for i := range rapid.IntRange(0, 40).Draw(rt, "rows") {
			a := account(rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "account"))
			r := answered(fmt.Sprint(i), start.Add(time.Duration(rapid.IntRange(-90, 90).Draw(rt, "minutes"))*time.Minute), a)
			if rapid.Bool().Draw(rt, "failed") {
				r.Outcome = api.OutcomeTruncated
			}
			r.InputTokens = new(rapid.Int64Range(0, 1000).Draw(rt, "tokens"))
			rows = append(rows, r)
		}
		sums := newSummary(new(modelNames))
		for i := range rows {
			sums.add(&rows[i])
		}
		for _, kind := range []string{byOutcome, byModel, byAccount, byPlan, byFamily} {
			var total tally
			for key, t := range sums.hours {
				if key.kind == kind {
					total.add(t)
				}
			}
			var want tally
			for i := range rows {
				t := tallyOf(&rows[i])
				want.add(&t)
			}
			if math.Abs(total.cost-want.cost) > 1e-9 {
				rt.Fatalf("%s: cost %v, want %v", kind, total.cost, want.cost)
			}
			total.cost, want.cost = 0, 0
			if total != want {
				rt.Fatalf("%s: %+v, want %+v", kind, total, want)
			}
		}
	})
}

func TestPercentRoundsHalfUp(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ part, whole, want int64 }{{0, 0, 0}, {1, 3, 33}, {2, 3, 67}, {1, 200, 1}, {199, 200, 100}, {1, 1000, 0}, {5, 5, 100}} {
		if have := percent(c.part, c.whole); int64(have) != c.want {
			t.Errorf("%d of %d is %d%%, want %d", c.part, c.whole, have, c.want)
		}
	}
}

func TestTheChartHasAPointForEveryHour(t *testing.T) {
	onEachEngine(t, testTheChartHasAPointForEveryHour)
}

func testTheChartHasAPointForEveryHour(t *testing.T, db testDB) {
	s := db.open(t)
	a := account("work")
	must(t, s.AddAccount(t.Context(), a))
	if points := got(s.Chart(t.Context(), time.Time{}))(t); len(points) != 0 {
		t.Errorf("%d points of nothing", len(points))
	}
	must(t, s.InsertRows(t.Context(), []Row{answered("1", start.Add(-2*time.Hour), a), answered("2", start, a), row("3", start)}))
	for _, u := range []float64{0.4, 0.9, -1, 0.2} {
		must(t, s.SaveWindows(t.Context(), []Window{{AccountID: a.ID, Name: fmt.Sprint(u), Utilization: u, SeenAt: start.Add(-time.Hour)}}))
	}
	points := got(s.Chart(t.Context(), time.Time{}))(t)
	hour := start.Truncate(time.Hour).UnixMilli()
	empty := func(at int64) api.ChartHour {
		return api.ChartHour{At: at, Outcomes: map[api.Outcome]int64{}, CostByModel: map[string]float64{}, Utilization: map[string]float64{}}
	}
	first, second, third := empty(hour-2*hourMillis), empty(hour-hourMillis), empty(hour)
	first.Outcomes[api.OutcomeOK], first.CostByModel["claude-sonnet-4-5"] = 1, 0.01
	first.Tokens = api.Tokens{Input: 100, Output: 10}
	second.Utilization["work"] = 0.9
	third.Outcomes[api.OutcomeOK], third.Outcomes[api.OutcomeRefused], third.CostByModel["claude-sonnet-4-5"] = 1, 1, 0.01
	third.Tokens = first.Tokens
	if want := []api.ChartHour{first, second, third}; !reflect.DeepEqual(points, want) {
		t.Errorf("got  %+v\nwant %+v", points, want)
	}
	if points := got(s.Chart(t.Context(), start.Add(-5*time.Hour)))(t); len(points) != 6 {
		t.Errorf("%d points since five hours ago, want 6", len(points))
	}
}
