package claudebalancer

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/claude-balancer/claude-balancer/anthropic"
	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/selection"
)

// Waits that clients are told when nothing better is known.
const (
	unknownWait  = time.Minute
	overloadWait = 5 * time.Second
	maxErrorText = 500 // bytes of an account's error in an answer
)

// refuseNobody says why no account may ever serve the request as it is.
func (p *pass) refuseNobody(r selection.Refusal) *refusal {
	p.outcome = api.OutcomeRefused
	if r.Accounts == 0 {
		return refuseNoAccounts
	}
	if p.want.Owner != "" {
		return p.refuseOwnerGone()
	}
	if key := p.who.Key; key != nil && len(p.rt.pool.Allowed(p.want.Model)) > 0 {
		status, typ := p.deniedModel()
		return &refusal{status: status, typ: typ, noRetry: true, message: fmt.Sprintf(
			"The client key %q may not use any account that supports %s. Ask the operator.", key.Name, p.modelName())}
	}
	message := "No accounts support the requested model: " + p.want.Model + "."
	if p.want.Family == anthropic.FamilyOpus {
		message += " Opus requires Max plan accounts."
	}
	available := []map[string]string{}
	for i, l := range p.rt.pool.Snapshot() {
		if p.want.Allowed != nil && !p.want.Allowed(l.Name) {
			continue
		}
		available = append(available, map[string]string{"name": p.shownName(l.Name, i), "plan": l.Plan, "models": l.ModelList})
	}
	status, typ := p.deniedModel()
	return &refusal{
		status: status, typ: typ, message: message,
		extra: map[string]any{"requestedModel": p.want.Model, "availableAccounts": available},
	}
}

// deniedModel is the form in which a model is denied: to a client that has
// signed in as a gateway does it, to others as Anthropic does.
func (p *pass) deniedModel() (status int, typ string) {
	if p.who.SignedIn {
		return http.StatusBadRequest, typeInvalidRequest
	}
	return http.StatusForbidden, typePermission
}

func (p *pass) modelName() string {
	if p.want.Model == "" {
		return "this request"
	}
	return p.want.Model
}

// shownName is what a client may know an account by.
func (p *pass) shownName(name string, i int) string {
	if *p.h.ExposeAccount {
		return name
	}
	return "account " + strconv.Itoa(i+1)
}

// accountError is an entry of the 503's attempts: what one account did, or why
// it could not be asked.
type accountError struct {
	Account string  `json:"account"`
	Status  int     `json:"status"`
	Cause   string  `json:"cause"`
	Error   string  `json:"error"`
	Retries int     `json:"retries"`
	Model   *string `json:"model"`
}

// refuseExhausted says what every account did, and when it is worth coming back.
func (p *pass) refuseExhausted() *refusal {
	if p.onlyLogins() {
		p.outcome = api.OutcomeUpstreamError
		return &refusal{status: http.StatusBadGateway, typ: typeAPI, noRetry: true,
			message: "The login of the account for this request was refused. The operator can see which one with `caddy claude-balancer list`.",
			extra:   map[string]any{"requestId": p.id}}
	}
	p.outcome = api.OutcomeExhausted
	p.rt.poolExhausted(p)
	entries := p.accountErrors()
	var reasons []string
	for _, e := range entries {
		reasons = append(reasons, e.Account+" ("+firstNonEmpty(e.Error, e.Cause)+")")
	}
	message := "All accounts failed to proxy request"
	if len(reasons) > 0 {
		message += ": " + strings.Join(reasons, "; ")
	}
	comeBack := p.comeBack()
	if slices.ContainsFunc(p.results, func(r *result) bool { return r.storeAway }) {
		comeBack = overloadWait
	}
	return &refusal{
		status: http.StatusServiceUnavailable, typ: typeOverloaded, message: message, retryAfter: comeBack,
		extra: map[string]any{"attempts": entries, "requestId": p.id},
	}
}

func firstNonEmpty(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// onlyLogins reports whether logins are all that failed, and not because the
// store is away.
func (p *pass) onlyLogins() bool {
	for _, r := range p.results {
		if r.storeAway || r.cause != anthropic.CauseUnauthorized && r.cause != anthropic.CauseLogin {
			return false
		}
	}
	return len(p.results) > 0
}

// accountErrors lists the accounts that were tried, and those that could not be.
func (p *pass) accountErrors() []accountError {
	model := optional(p.want.Model)
	entries := []accountError{}
	tried := make(map[string]bool)
	for _, r := range p.results {
		tried[r.id] = true
		text := r.message
		if r.status != 0 {
			text = fmt.Sprintf("HTTP %d: %s", r.status, text)
		}
		entries = append(entries, accountError{p.shownName(r.name, len(entries)), r.status, string(r.cause), cutText(text), r.tries, model})
	}
	for _, o := range p.rt.pool.Why(&p.want) {
		if !tried[o.ID] && !o.Eligible {
			entries = append(entries, accountError{p.shownName(o.Account, len(entries)), 0, "unavailable", cutText(o.Reason), 0, model})
		}
	}
	return entries
}

// cutText cuts at a character's border.
func cutText(s string) string {
	if len(s) <= maxErrorText {
		return s
	}
	return strings.ToValidUTF8(s[:maxErrorText], "")
}

// comeBack is when the first account returns, as far as that is known.
func (p *pass) comeBack() time.Duration {
	refusal := p.rt.pool.Peek(&p.want)
	wait := unknownWait
	overloaded := p.anyCause(anthropic.CauseOverloaded)
	switch {
	case refusal.Open == 0 && refusal.Busy == 0 && !refusal.FreeAt.IsZero():
		wait = max(refusal.FreeAt.Sub(p.now()), time.Second)
	case refusal.Busy > 0, overloaded:
		wait = overloadWait
	case !refusal.FreeAt.IsZero():
		wait = min(wait, max(refusal.FreeAt.Sub(p.now()), time.Second))
	}
	if overloaded {
		wait = max(wait, overloadWait)
	}
	return wait
}

// refuseTimeout: upstream has the request and may still answer it, so nobody
// may send it again on the client's behalf.
func (p *pass) refuseTimeout() *refusal {
	p.outcome = api.OutcomeUpstreamError
	return &refusal{
		status: http.StatusGatewayTimeout, typ: typeTimeout, noRetry: p.r.Method != http.MethodGet,
		message: "Upstream got the request and did not answer in time.",
		extra:   map[string]any{"requestId": p.id},
	}
}

// refuseLostAnswer: the connection broke after upstream had got the request,
// and sending it again could do or bill the work twice.
func (p *pass) refuseLostAnswer() *refusal {
	p.outcome = api.OutcomeUpstreamError
	return &refusal{
		status: http.StatusBadGateway, typ: typeAPI, noRetry: p.r.Method != http.MethodGet,
		message: "Upstream may have got the request, but no answer to it arrived, and it is not safe to send it again.",
		extra:   map[string]any{"attempts": p.accountErrors(), "requestId": p.id},
	}
}

// refuseOwnerGone: only one account has the resource, and it cannot serve.
func (p *pass) refuseOwnerGone() *refusal {
	p.outcome = api.OutcomeExhausted
	name, reason := "unknown", "it was removed"
	for _, o := range p.rt.pool.Why(&p.want) {
		if o.ID == p.want.Owner {
			name, reason = p.shownName(o.Account, 0), o.Reason
		}
	}
	return &refusal{
		status: http.StatusServiceUnavailable, typ: typeOverloaded, retryAfter: p.comeBack(),
		message: fmt.Sprintf("The account that owns this resource cannot serve now: %s (%s).", name, reason),
		extra:   map[string]any{"requestId": p.id},
	}
}
