package claudebalancer

import (
	"encoding/json"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/claude-balancer/claude-balancer/anthropic"
	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/selection"
	"github.com/claude-balancer/claude-balancer/store"
)

// statusClientGone is what the history shows for a client that did not wait
// for its answer. Source: nginx.
const statusClientGone = 499

// finish records the request, whichever way it ended. Nothing in it can make
// the request fail.
func (p *pass) finish() {
	if p.answer != nil {
		p.judgeEnd()
		p.answer.ticket.Release()
		p.answer.cancel(nil)
	}
	p.settleOutcome()
	row := p.row()
	p.expose(&row)
	metricRequest(p, &row)
	p.rt.recorder.Record(row) // what it drops, it counts
}

// judgeEnd tells the pool of an answer that went wrong after it had begun.
func (p *pass) judgeEnd() {
	a := p.answer
	if a.res == nil {
		return
	}
	var v anthropic.Verdict
	switch {
	case p.lateError != nil:
		v = anthropic.StreamErrorVerdict(p.lateError, anthropic.Answer{
			Endpoint: p.target.Endpoint, Kind: a.ticket.Kind, Model: p.want.Model, Family: p.want.Family,
			Status: a.res.StatusCode, Header: a.res.Header, Now: p.now(),
		})
	case p.broken != "" && !p.keyRevoked():
		v = anthropic.Verdict{Cause: anthropic.CauseReset, Failure: true, Message: p.broken}
	default:
		return
	}
	a.ticket.Report(selection.Report{RequestID: p.id, Sent: a.sent, Verdict: v, SpendExtraUsage: p.h.SpendExtraUsage})
	if n := len(p.attempts); n > 0 {
		p.attempts[n-1].Cause = string(v.Cause)
	}
}

func (p *pass) settleOutcome() {
	switch {
	case p.outcome != "":
	case p.refused != nil:
		p.outcome = api.OutcomeRefused
	case p.answer == nil:
		p.outcome = api.OutcomeClientGone
	case p.lateError != nil || p.answer.res.StatusCode >= 400:
		p.outcome = api.OutcomeUpstreamError
	case p.broken != "":
		p.outcome = api.OutcomeTruncated
	case !p.complete:
		p.outcome = api.OutcomeClientGone
	default:
		p.outcome = api.OutcomeOK
	}
}

// row is the request as the history keeps it. Rows may have to wait: nothing of
// one points into the request, which would wait with it.
func (p *pass) row() store.Row {
	now := p.now()
	first := p.firstByte
	if first.IsZero() {
		first = now
	}
	row := store.Row{Request: api.Request{
		ID: p.id, Timestamp: now.UnixMilli(), Method: p.r.Method, Path: p.r.URL.Path,
		Model: optional(p.known.Model), Outcome: p.outcome, Success: truth(p.outcome == api.OutcomeOK),
		ResponseTimeMS: first.Sub(p.start).Milliseconds(), DurationMS: now.Sub(p.start).Milliseconds(),
		Stream: truth(p.known.Stream), Session: optional(p.hashed), Attempts: p.attempts,
		FailoverAttempts: len(p.results),
	}, Family: string(anthropic.FamilyOf(p.known.Model))}
	if row.Attempts == nil {
		row.Attempts = []api.Attempt{}
	}
	if p.who.Key != nil {
		row.Client = new(p.who.Key.Name)
	}
	switch a := p.answer; {
	case a != nil:
		row.AccountID, row.AccountUsed, row.PlanType = a.ticket.ID, new(a.ticket.Name), new(a.ticket.Plan)
		row.FailoverAttempts--
		row.StatusCode = a.res.StatusCode
		row.UpstreamRequestID = optional(a.res.Header.Get("Request-Id"))
		row.Stream = truth(p.known.Stream || a.stream)
	case p.refused != nil:
		row.StatusCode = p.refused.status
	default:
		row.StatusCode = statusClientGone
	}
	p.addUsage(&row)
	p.addError(&row)
	return row
}

func (p *pass) addUsage(row *store.Row) {
	if !p.usage.Seen {
		return
	}
	t := p.usage.Tokens
	row.InputTokens, row.OutputTokens, row.CacheReadTokens = &t.Input, &t.Output, &t.CacheRead
	row.CacheWrite5mTokens, row.CacheWrite1hTokens = &t.CacheWrite5m, &t.CacheWrite1h
	if usd, ok := p.price(); ok {
		row.CostUSD = &usd
	}
}

// price is what the answer cost, if its model has a price. The answering model
// counts, which may not be the requested one.
func (p *pass) price() (usd float64, ok bool) {
	model := p.usage.Model
	if model == "" {
		model = p.known.Model
	}
	return p.rt.prices.Load().Cost(model, p.usage, p.start)
}

// cost is what the request spends of its key's budget.
func (p *pass) cost() float64 {
	usd, _ := p.price()
	return usd
}

// addError says what went wrong: the accounts' errors for a request that no
// account answered, else one sentence.
func (p *pass) addError(row *store.Row) {
	switch {
	case p.outcome == api.OutcomeExhausted && p.refused != nil:
		if text, err := json.Marshal(p.refused.extra["attempts"]); err == nil && p.refused.extra["attempts"] != nil {
			row.ErrorMessage = optional(string(text))
			return
		}
		row.ErrorMessage = new(p.refused.message)
	case p.refused != nil:
		row.ErrorMessage = new(p.refused.message)
	case p.broken != "":
		row.ErrorMessage = new(p.broken)
	case p.outcome == api.OutcomeUpstreamError && len(p.results) > 0:
		row.ErrorMessage = optional(p.results[len(p.results)-1].message)
	}
}

// expose sets the placeholders and the access log's fields. Placeholders are
// looked up when something asks for them, and fields are set only where there
// is a log: few requests pay for what few sites use.
func (p *pass) expose(row *store.Row) {
	ctx := p.r.Context()
	values := p.exposed(row)
	if repl, ok := ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Map(func(key string) (any, bool) {
			name, ours := strings.CutPrefix(key, "http.claude_balancer.")
			if !ours {
				return nil, false
			}
			return values.value(name)
		})
	}
	if server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); !ok || server.Logs == nil {
		return
	}
	if extra, ok := ctx.Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
		for _, name := range exposedNames {
			value, _ := values.value(name)
			extra.Set(zap.Any("claude_"+name, value))
		}
	}
}

// exposed is what placeholders and the access log tell of a request.
type exposed struct {
	account, plan, model, session, outcome string
	attempts                               int
}

var exposedNames = [...]string{"account", "plan", "model", "session", "attempts", "outcome"}

func (p *pass) exposed(row *store.Row) exposed {
	return exposed{
		account: deref(row.AccountUsed), plan: deref(row.PlanType), model: deref(row.Model),
		session: p.hashed, outcome: string(p.outcome), attempts: len(p.attempts),
	}
}

func (e *exposed) value(name string) (any, bool) {
	switch name {
	case "account":
		return e.account, true
	case "plan":
		return e.plan, true
	case "model":
		return e.model, true
	case "session":
		return e.session, true
	case "attempts":
		return e.attempts, true
	case "outcome":
		return e.outcome, true
	}
	return nil, false
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// debugChosen tells why this account.
func (p *pass) debugChosen(t *selection.Ticket) {
	c := p.log.Check(zapcore.DebugLevel, "account chosen")
	if c == nil {
		return
	}
	var others []string
	for _, o := range p.rt.pool.Why(&p.want) {
		if !o.Eligible {
			others = append(others, o.Account+": "+o.Reason)
		}
	}
	c.Write(zap.String("id", p.id), zap.String("account", t.Name), zap.String("plan", t.Plan),
		zap.String("model", p.want.Model), zap.String("family", string(p.want.Family)),
		zap.Bool("keeps_session", t.Kept), zap.Int("round", p.round), zap.String("not_eligible", strings.Join(others, "; ")))
}

// debugTried tells what came of a try; a failover is a warning.
func (p *pass) debugTried(a *answer) {
	level := zapcore.DebugLevel
	if a.verdict.Cause != anthropic.CauseOK && a.verdict.Action != anthropic.Pass && p.rt.warnings.allow(p.now()) {
		level = zapcore.WarnLevel
	}
	if c := p.log.Check(level, "account tried"); c != nil {
		status := 0
		if a.res != nil {
			status = a.res.StatusCode
		}
		c.Write(zap.String("id", p.id), zap.String("account", a.ticket.Name), zap.String("model", p.want.Model),
			zap.Int("status", status), zap.String("cause", string(a.verdict.Cause)), zap.String("upstream_says", a.verdict.Message))
	}
}
