// Command seed gives a database a past, for the pictures of the dashboard: a
// month of requests, tokens, costs, failovers and usage windows for the accounts
// that are in it. Nothing may have the database open meanwhile.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"math"
	"math/rand/v2"
	"time"

	"github.com/claude-balancer/claude-balancer/anthropic"
	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/store"
)

func main() {
	log.SetFlags(0)
	path := flag.String("db", "", "the database `file`")
	days := flag.Int("days", 30, "how many days the past is long")
	zone := flag.Int("utc-offset", 0, "`hours` between UTC and the place where people work by day")
	flag.Parse()
	if err := run(context.Background(), *path, *days, *zone); err != nil {
		log.Fatal("seed: ", err)
	}
}

func run(ctx context.Context, path string, days, zone int) error {
	s, err := store.Open(ctx, store.Options{Path: path})
	if err != nil {
		return err
	}
	defer s.Close()
	accounts, err := s.Accounts(ctx)
	if err != nil {
		return err
	}
	if len(accounts) < 2 {
		return fmt.Errorf("%s has %d accounts, but failovers take two", path, len(accounts))
	}
	now := time.Now()
	p := past{
		accounts: accounts, now: now, start: now.AddDate(0, 0, -days),
		zone: time.FixedZone("", zone*3600), rand: rand.New(rand.NewPCG(7, 11)), prices: anthropic.DefaultPrices(),
	}
	if err := s.InsertRows(ctx, p.requests()); err != nil {
		return err
	}
	return s.SaveWindows(ctx, p.windows())
}

// past makes up what happened. The same database at the same hour has the same.
type past struct {
	accounts   []store.Account
	start, now time.Time
	zone       *time.Location
	rand       *rand.Rand
	prices     anthropic.Prices
	made       int
}

// pace is how busy a moment is, from 0 to 1: days have a noon, weeks an end.
func (p *past) pace(at time.Time) float64 {
	at = at.In(p.zone)
	hour := float64(at.Hour()) + float64(at.Minute())/60
	busy := 0.03 + math.Exp(-math.Pow((hour-11)/2.2, 2)) + 0.9*math.Exp(-math.Pow((hour-15.5)/2.6, 2))
	if day := at.Weekday(); day == time.Saturday || day == time.Sunday {
		busy *= 0.3
	}
	return min(busy, 1)
}

func (p *past) requests() (rows []store.Row) {
	for at := p.start; ; {
		wait := time.Duration(p.rand.ExpFloat64() / (0.02 + p.pace(at)) * float64(75*time.Second))
		at = at.Add(wait)
		if at.After(p.now) {
			return rows
		}
		rows = append(rows, p.request(at))
	}
}

var models = []string{"claude-sonnet-5-5", "claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5", "claude-opus-5-5", "claude-fable-5-2", "claude-sonnet-5-5"}

// clients are the names of client keys; "" came without one.
var clients = []string{"alice", "alice", "bob", "ci", ""}

func (p *past) request(at time.Time) store.Row {
	p.made++
	model, client := models[p.rand.IntN(len(models))], clients[p.rand.IntN(len(clients))]
	r := store.Row{Family: string(anthropic.FamilyOf(model)), Request: api.Request{
		ID: fmt.Sprintf("%08x-7d2a-7c41-9b3e-%012x", at.Unix(), p.rand.Int64N(1<<48)), Timestamp: at.UnixMilli(),
		Method: "POST", Path: "/v1/messages", Model: &model, Stream: 1, Session: new(fmt.Sprintf("%016x", p.rand.Uint64())),
		ResponseTimeMS: 280 + int64(p.rand.ExpFloat64()*420), Attempts: []api.Attempt{},
	}}
	r.DurationMS = r.ResponseTimeMS + 1500 + int64(p.rand.ExpFloat64()*9000)
	if client != "" {
		r.Client = &client
	}
	switch k := p.rand.IntN(100); {
	case k == 0:
		p.refuse(&r)
	case k == 1:
		p.fail(&r)
	default:
		if k < 10 {
			p.failOver(&r, k)
		}
		p.answer(&r, at)
		if k == 99 {
			r.Outcome, r.Success, r.StatusCode = api.OutcomeClientGone, 0, 200
		}
	}
	return r
}

// serving returns one of the accounts that may serve the model, the first ones
// more often.
func (p *past) serving(model string) store.Account {
	for {
		a := p.accounts[min(p.rand.IntN(len(p.accounts)), p.rand.IntN(len(p.accounts)))]
		family := anthropic.FamilyOf(model)
		if a.Plan != api.PlanConsole || family == anthropic.FamilySonnet || family == anthropic.FamilyHaiku {
			return a
		}
	}
}

func (p *past) answer(r *store.Row, at time.Time) {
	a := p.serving(*r.Model)
	r.AccountID, r.AccountUsed, r.PlanType = a.ID, &a.Name, &a.Plan
	r.StatusCode, r.Success, r.Outcome = 200, 1, api.OutcomeOK
	r.UpstreamRequestID = new(fmt.Sprintf("req_011C%016x", p.rand.Uint64()))
	r.Attempts = append(r.Attempts, api.Attempt{Account: a.Name, Status: 200, Cause: "ok", MS: r.ResponseTimeMS})

	r.InputTokens, r.OutputTokens = p.tokens(900), p.tokens(1400)
	r.CacheReadTokens, r.CacheWrite5mTokens, r.CacheWrite1hTokens = p.tokens(52_000), p.tokens(3_600), p.tokens(900)
	usage := anthropic.Usage{Seen: true, Tokens: api.Tokens{
		Input: *r.InputTokens, Output: *r.OutputTokens, CacheRead: *r.CacheReadTokens,
		CacheWrite5m: *r.CacheWrite5mTokens, CacheWrite1h: *r.CacheWrite1hTokens,
	}}
	if usd, ok := p.prices.Cost(*r.Model, usage, at); ok {
		r.CostUSD = &usd
	}
}

func (p *past) tokens(mean float64) *int64 {
	return new(int64(mean * (0.3 + 0.7*p.rand.ExpFloat64())))
}

// failOver has another account fail before the one that answers.
func (p *past) failOver(r *store.Row, k int) {
	tries := []api.Attempt{
		{Status: 429, Cause: string(anthropic.CauseWindow), MS: 190},
		{Status: 529, Cause: string(anthropic.CauseOverloaded), MS: 1240},
		{Status: 429, Cause: string(anthropic.CauseBurst), MS: 160},
		{Status: 500, Cause: string(anthropic.CauseServerError), MS: 830},
	}
	try := tries[k%len(tries)]
	try.Account = p.serving(*r.Model).Name
	r.FailoverAttempts, r.Attempts = 1, append(r.Attempts, try)
	r.ResponseTimeMS += try.MS
	r.DurationMS += try.MS
}

func (p *past) refuse(r *store.Row) {
	r.StatusCode, r.Outcome, r.ResponseTimeMS, r.DurationMS = 400, api.OutcomeUpstreamError, 140, 140
	a := p.serving(*r.Model)
	r.AccountID, r.AccountUsed, r.PlanType = a.ID, &a.Name, &a.Plan
	r.ErrorMessage = new("max_tokens: Field required")
	r.Attempts = append(r.Attempts, api.Attempt{Account: a.Name, Status: 400, Cause: string(anthropic.CauseClientError), MS: 140})
}

func (p *past) fail(r *store.Row) {
	r.StatusCode, r.Outcome = 503, api.OutcomeExhausted
	r.ErrorMessage = new("All accounts failed to proxy request")
	for _, a := range p.accounts[:2] {
		r.Attempts = append(r.Attempts, api.Attempt{Account: a.Name, Status: 529, Cause: string(anthropic.CauseOverloaded), MS: 900})
	}
	r.FailoverAttempts, r.ResponseTimeMS, r.DurationMS = 2, 1820, 1820
}

// windows fill with the work of the day and of the week, each account at its
// own speed; accounts with an API key have none.
func (p *past) windows() (all []store.Window) {
	for i, a := range p.accounts {
		if a.Plan == api.PlanAPI {
			continue
		}
		speed := 0.55 + 0.3*float64((i*2+1)%3)/2
		five, week := 0.0, 0.1*float64(i)
		for at := p.start; !at.After(p.now); at = at.Add(time.Hour) {
			left := int(p.now.Sub(at).Hours())
			if left%5 == (2+2*i)%5 {
				five = 0
			}
			if left%168 == 40+40*i {
				week = 0
			}
			five = min(0.97, five+speed*p.pace(at)*0.36)
			week = min(0.93, week+speed*p.pace(at)*0.016)
			all = append(all,
				store.Window{AccountID: a.ID, Name: "5h", Utilization: five, Status: "allowed", SeenAt: at, ResetsAt: p.now.Add(time.Duration(73+41*i) * time.Minute)},
				store.Window{AccountID: a.ID, Name: "7d", Utilization: week, Status: "allowed", SeenAt: at, ResetsAt: p.now.Add(time.Duration(31+22*i) * time.Hour)})
		}
	}
	return all
}
