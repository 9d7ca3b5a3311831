package anthropic

// What an answer means for the account and for the request. The rules are
// those of the verdict table; each row is one branch here, in its order.

import (
	"net/http"
	"strings"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
)

// Cause says in one word why a try ended as it did. It is shown to operators,
// kept with limits and used as a metric label.
type Cause string

// The causes.
const (
	CauseOK             Cause = "ok"               // answered
	CauseExtraUsage     Cause = "extra_usage"      // answered, on paid extra usage
	CauseWindow         Cause = "window"           // 429: a usage window of the account is spent
	CauseScopedWindow   Cause = "scoped_window"    // 429: a usage window of one model family is spent
	CauseNoCredit       Cause = "no_credit"        // 429: no credit for this model
	CauseSpendLimit     Cause = "spend_limit"      // 429: the organization's spend limit is reached
	CauseBurst          Cause = "burst"            // 429: too many requests at once
	CauseBare429        Cause = "bare_429"         // 429 that says nothing
	CauseCountTokens429 Cause = "count_tokens_429" // 429 on count_tokens, which has limits of its own
	CauseOverloaded     Cause = "overloaded"       // 529: upstream is full, whatever the account
	CauseServerError    Cause = "server_error"     // other 5xx
	CauseDial           Cause = "dial"             // no connection
	CauseTLS            Cause = "tls"              // no TLS session
	CauseReset          Cause = "reset"            // the connection broke
	CauseTimeout        Cause = "timeout"          // no answer in time
	CauseUnauthorized   Cause = "unauthorized"     // the access token or API key was refused
	CauseOrgDisabled    Cause = "org_disabled"     // the organization is disabled, on hold, or allows no OAuth
	CauseModelForbidden Cause = "model_forbidden"  // the account may not use this model
	CauseBilling        Cause = "billing"          // the account has not paid
	CauseAPISpend       Cause = "api_spend_limit"  // the API spend limit that the organization has set itself
	CauseThirdParty     Cause = "third_party"      // refused as third-party traffic or for lack of extra usage
	CauseClientError    Cause = "client_error"     // any other 4xx: the request's own fault
	CauseClientGone     Cause = "client_gone"      // the client did not wait
	CauseLogin          Cause = "login"            // the account's token could not be refreshed
)

// Action says what becomes of the request.
type Action uint8

// The actions.
const (
	Done       Action = iota // use this answer
	Next                     // try another candidate
	Pass                     // hand this answer to the client verbatim
	WaitOrNext               // wait for this account if that is short, else try another
	Refresh                  // refresh the token and try this account once more
	NextOrPass               // try another candidate; if none is left, pass this answer
	Stop                     // no further try; there is no answer to pass
)

// Scope says what a verdict benches.
type Scope uint8

// The scopes.
const (
	ScopeNone Scope = iota
	ScopeAccount
	ScopeFamily // Verdict.Family of the account
	ScopeModel  // Verdict.Model of the account
)

// Bench times.
const (
	maxFiveHours   = 6 * time.Hour // if only the 5-hour window is spent
	unknownReset   = time.Minute   // spent, until nobody says when
	noCreditBench  = 5 * time.Minute
	attentionBench = time.Hour // an operator has to act
	maxBurst       = time.Minute
)

// Answer is what upstream said to one try.
type Answer struct {
	Endpoint Endpoint
	Kind     api.Kind // of the account's credential
	Model    string   // as requested
	Family   Family
	Status   int
	Header   http.Header
	Body     []byte // the start of an error's body, not encoded, up to 64 KiB
	// EventError is the data of a 2xx stream's first event if that is an error,
	// else nil.
	EventError []byte
	Now        time.Time
}

// Verdict is what it means.
type Verdict struct {
	Cause  Cause
	Action Action

	Scope  Scope
	Family Family // for ScopeFamily
	Model  string // for ScopeModel
	// Until is the end of the bench. Zero with a scope and CauseBurst: upstream
	// told no time.
	Until  time.Time
	Jitter bool   // spread the end by 1–30 s
	Header string // the header that decided, lower-case; "" if none did

	Penalty bool   // ranks lower for a short while, without a bench
	Failure bool   // counts towards the account's outlier ejection
	Disable bool   // out of the pool until an operator acts
	Flag    string // what the operator should see; "" if nothing
	// Unprocessed says that upstream has provably not worked on the request:
	// any request may be repeated. Network failures only.
	Unprocessed bool

	Limits  RateLimits
	Message string // upstream's words: one line, at most 500 bytes
}

// Judge reads an answer. The first row that fits decides.
func Judge(a Answer) Verdict {
	v := Verdict{Limits: ParseLimits(a.Header, a.Now)}
	if a.Status < 400 {
		v.success(a)
		return v
	}
	e := readError(a.Body)
	v.Message = printable(e.message)
	switch {
	case a.Status == http.StatusTooManyRequests:
		v.tooManyRequests(a, e)
	case a.Status == statusOverloaded:
		v.overloaded()
	case a.Status == http.StatusNotImplemented || a.Status == http.StatusHTTPVersionNotSupported:
		v.Cause, v.Action = CauseClientError, Pass
	case a.Status >= 500:
		v.serverError()
	default:
		v.refused(a, e)
	}
	return v
}

// statusOverloaded is Anthropic's own status. Source: API reference, Errors.
const statusOverloaded = 529

func (v *Verdict) success(a Answer) {
	switch {
	case a.EventError != nil:
		v.event(a, a.EventError)
	case a.Status >= 300:
		v.Cause, v.Action = CauseOK, Pass
	case a.Endpoint == Messages && v.Limits.Paid():
		v.spent(a, v.Limits.rejected())
		v.Cause, v.Action = CauseExtraUsage, Done
	default:
		v.Cause, v.Action = CauseOK, Done
	}
}

// event judges an error event of a stream by its type.
func (v *Verdict) event(a Answer, data []byte) {
	e := readError(data)
	v.Message = printable(e.message)
	switch e.kind {
	case "overloaded_error":
		v.overloaded()
	case "rate_limit_error":
		v.burst(a)
	case "api_error":
		v.serverError()
	default:
		v.Cause, v.Action = CauseClientError, Pass
	}
}

// StreamErrorVerdict judges an error event that came after the stream's first
// event: it marks the account as its row says, but the answer has begun, so the
// action is always Pass. Of the answer it needs all but the body and EventError.
func StreamErrorVerdict(event []byte, a Answer) Verdict {
	v := Verdict{Limits: ParseLimits(a.Header, a.Now)}
	v.event(a, event)
	v.Action = Pass
	return v
}

func (v *Verdict) overloaded() {
	v.Cause, v.Action, v.Penalty = CauseOverloaded, Next, true
}

func (v *Verdict) serverError() {
	v.Cause, v.Action, v.Failure = CauseServerError, Next, true
}

func (v *Verdict) tooManyRequests(a Answer, e errorBody) {
	l := &v.Limits
	spent := l.rejected()
	noCredit := l.Overage.DisabledReason == reasonOutOfCredits || e.code == "credits_required"
	switch {
	case a.Endpoint == CountTokens:
		// Limits of its own, and Claude Code fires dozens at once: it says nothing
		// about messages, whatever the headers say.
		v.Cause, v.Action = CauseCountTokens429, NextOrPass
	case len(spent) > 0 && !(noCredit && l.onlySummary()):
		v.spent(a, spent)
		v.Action = Next
	case noCredit:
		v.Cause, v.Action = CauseNoCredit, Next
		v.benchFamily(a, a.Now.Add(noCreditBench))
		if l.Overage.DisabledReason == reasonOutOfCredits {
			v.Header = ratePrefix + unifiedPrefix + "overage-disabled-reason"
		}
	case e.code == "enforced_spend_limit_reached" || e.code == "contract_spend_limit_reached":
		v.attention(a, CauseSpendLimit)
	case l.HasAny:
		v.burst(a)
	default:
		v.Cause, v.Action = CauseBare429, NextOrPass
	}
}

// rejected returns the windows that turned the request down. If the summary
// says rejected and no window does, the window that the summary names, or one
// without a name.
func (l *RateLimits) rejected() []Window {
	var spent []Window
	for _, w := range l.Windows {
		if w.Status == statusRejected {
			spent = append(spent, w)
		}
	}
	if len(spent) == 0 && l.Status == statusRejected {
		spent = []Window{{Name: claimWindow(l.Claim), ResetsAt: l.Reset, Header: ratePrefix + unifiedPrefix + "status"}}
	}
	return spent
}

// onlySummary reports whether nothing but the summary says rejected, and that
// without telling until when.
func (l *RateLimits) onlySummary() bool {
	for _, w := range l.Windows {
		if w.Status == statusRejected {
			return false
		}
	}
	return l.Reset.IsZero()
}

// claimWindow turns a representative claim into a window's name: five_hour into
// 5h, seven_day_opus into 7d_opus.
func claimWindow(claim string) string {
	if claim == "seven_day_overage_included" {
		return "7d_oi"
	}
	if scope, ok := strings.CutPrefix(claim, "five_hour"); ok {
		return "5h" + scope
	}
	if scope, ok := strings.CutPrefix(claim, "seven_day"); ok {
		return "7d" + scope
	}
	return ""
}

// spent benches for spent windows: the account if one of them is account-wide,
// else the family they are for.
func (v *Verdict) spent(a Answer, windows []Window) {
	var wide, scoped []Window
	for _, w := range windows {
		if _, ok := WindowFamily(w.Name); ok {
			scoped = append(scoped, w)
		} else {
			wide = append(wide, w)
		}
	}
	if len(wide) == 0 {
		v.Cause, v.Scope = CauseScopedWindow, ScopeFamily
		v.Family = spentFamily(scoped, a.Family)
		v.benchUntilReset(a, scoped, maxReset)
		return
	}
	bound := maxReset
	if len(wide) == 1 && wide[0].Name == "5h" {
		bound = maxFiveHours
	}
	v.Cause, v.Scope, v.Jitter = CauseWindow, ScopeAccount, true
	v.benchUntilReset(a, wide, bound)
}

// spentFamily returns the family to bench: the requested one if one of the
// windows is for it or is of unknown meaning, else the one they are for.
func spentFamily(scoped []Window, requested Family) Family {
	var other Family
	for _, w := range scoped {
		f, _ := WindowFamily(w.Name)
		if f == requested || f == FamilyOther {
			return requested
		}
		other = f
	}
	return other
}

func (v *Verdict) benchUntilReset(a Answer, windows []Window, bound time.Duration) {
	v.Header = windows[0].Header
	for _, w := range windows {
		if w.ResetsAt.After(v.Until) {
			v.Until, v.Header = w.ResetsAt, w.Header
		}
	}
	if v.Until.IsZero() {
		wait := unknownReset
		if v.Limits.RetryAfter > 0 {
			wait = v.Limits.RetryAfter
		}
		v.Until = a.Now.Add(wait)
	}
	if limit := a.Now.Add(bound); v.Until.After(limit) {
		v.Until = limit
	}
}

// benchFamily benches the requested family. Limits of messages say nothing
// about batches, files and models, nor the other way round.
func (v *Verdict) benchFamily(a Answer, until time.Time) {
	if a.Endpoint == Messages {
		v.Scope, v.Family, v.Until = ScopeFamily, a.Family, until
	}
}

// burst is a 429 while no window is spent: wait a little.
func (v *Verdict) burst(a Answer) {
	v.Cause, v.Action = CauseBurst, WaitOrNext
	if a.Endpoint != Messages {
		v.Action = NextOrPass
		return
	}
	v.benchFamily(a, time.Time{})
	if wait := v.Limits.RetryAfter; wait > 0 {
		v.Until, v.Header = a.Now.Add(min(wait, maxBurst)), "retry-after"
		return
	}
	for _, w := range v.Limits.Windows {
		if w.Limit > 0 && w.Remaining == 0 && w.ResetsAt.After(v.Until) { // an API key's empty bucket
			v.Until, v.Header = w.ResetsAt, w.Header
		}
	}
	if limit := a.Now.Add(maxBurst); v.Until.After(limit) {
		v.Until = limit
	}
}

// attention takes the account out for a while and shows it to the operator.
func (v *Verdict) attention(a Answer, c Cause) {
	v.Cause, v.Action = c, Next
	v.Scope, v.Until = ScopeAccount, a.Now.Add(attentionBench)
	v.Flag = string(c)
}

// refused judges the 4xx other than 429. Source: API reference, Errors; Claude
// Code's error reference for the wordings that come with a 400.
func (v *Verdict) refused(a Answer, e errorBody) {
	switch {
	case e.orgDisabled(a.Status):
		v.Cause, v.Action, v.Disable, v.Flag = CauseOrgDisabled, Next, true, string(CauseOrgDisabled)
	case a.Status == http.StatusUnauthorized, a.Status == http.StatusForbidden && e.says("oauth token has been revoked"):
		v.Cause, v.Action = CauseUnauthorized, Next
		if a.Kind == api.KindOAuth {
			v.Action = Refresh
		}
	case a.Status == http.StatusForbidden && e.says("model:"):
		v.Cause, v.Action = CauseModelForbidden, Next
		if a.Model != "" {
			v.Scope, v.Model, v.Until = ScopeModel, a.Model, a.Now.Add(attentionBench)
		}
	case a.Status == http.StatusPaymentRequired,
		a.Status == http.StatusBadRequest && e.says("credit balance is too low"):
		v.attention(a, CauseBilling)
	case a.Status == http.StatusBadRequest && e.says("you have reached your specified api usage limits"):
		v.attention(a, CauseAPISpend)
	case a.Status == http.StatusBadRequest && e.says("extra usage", "third-party app"):
		v.Cause, v.Action, v.Flag = CauseThirdParty, Pass, string(CauseThirdParty)
	default:
		v.Cause, v.Action = CauseClientError, Pass
	}
}

// orgDisabled reports whether the answer is about the organization and not
// about the request. Source: official SDKs (error_code); Claude Code (wording;
// the 400 is how a disabled organization is reported on messages).
func (e errorBody) orgDisabled(status int) bool {
	if e.code == "organization_on_hold" {
		return true
	}
	switch status {
	case http.StatusBadRequest:
		return e.says("this organization has been disabled")
	case http.StatusUnauthorized, http.StatusForbidden:
		return e.says("oauth authentication is currently not allowed for this organization",
			"organization has been disabled", "organization is disabled",
			"organization is on hold", "account is on hold")
	}
	return false
}
