package anthropic

import (
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/claude-balancer/claude-balancer/api"
)

func envelope(kind, message string) []byte {
	return []byte(`{"type":"error","error":{"type":"` + kind + `","message":"` + message + `"},"request_id":"req_1"}`)
}

func envelopeWithCode(kind, code string) []byte {
	return []byte(`{"type":"error","error":{"type":"` + kind + `","message":"m","details":{"error_code":"` + code + `"}},"request_id":"req_1"}`)
}

// outcome is a verdict without its evidence.
type outcome struct {
	cause  Cause
	action Action
	scope  Scope
	family Family
	model  string
	bench  time.Duration // from now; 0 = no end told
	jitter bool
	header string
	marks  string // penalty, failure, disable
	flag   string
}

func outcomeOf(v Verdict, now time.Time) outcome {
	o := outcome{cause: v.Cause, action: v.Action, scope: v.Scope, family: v.Family, model: v.Model, jitter: v.Jitter, header: v.Header, flag: v.Flag}
	if !v.Until.IsZero() {
		o.bench = v.Until.Sub(now)
	}
	if v.Penalty {
		o.marks += "penalty"
	}
	if v.Failure {
		o.marks += "failure"
	}
	if v.Disable {
		o.marks += "disable"
	}
	return o
}

func TestEachRowOfTheVerdictTable(t *testing.T) {
	t.Parallel()
	now := captured
	in := func(d time.Duration) string { return now.Add(d).UTC().Format(time.RFC3339) }
	with := func(h http.Header, pairs ...string) http.Header {
		for i := 0; i < len(pairs); i += 2 {
			h.Set(pairs[i], pairs[i+1])
		}
		return h
	}
	paid := func(pairs ...string) http.Header {
		return with(header(unified+"status", "rejected", unified+"overage-status", "allowed"), pairs...)
	}
	rejected := func(pairs ...string) http.Header { return with(header(unified+"status", "rejected"), pairs...) }
	const second, minute, hour, day = time.Second, time.Minute, time.Hour, 24 * time.Hour

	cases := []struct {
		row  string
		a    Answer
		want outcome
	}{
		// 2xx
		{"2xx: fine", Answer{Status: 200, Header: okHeader()}, outcome{cause: CauseOK, action: Done}},
		{"2xx: fine although a window says rejected", Answer{Status: 200, Header: captureD()}, outcome{cause: CauseOK, action: Done}},
		{"2xx: rejected without overage is no extra usage", Answer{Status: 200, Header: captureA()}, outcome{cause: CauseOK, action: Done}},
		{"2xx: on extra usage until the window's reset", Answer{Status: 200, Header: paid(unified+"5h-status", "rejected", unified+"5h-reset", in(2*hour), unified+"7d-status", "allowed", unified+"7d-reset", in(3*day))},
			outcome{cause: CauseExtraUsage, action: Done, scope: ScopeAccount, bench: 2 * hour, jitter: true, header: unified + "5h-status"}},
		{"2xx: on extra usage with a warning, the summary names the window", Answer{Status: 200, Header: paid(unified+"overage-status", "allowed_warning", unified+"reset", in(3*day), unified+"representative-claim", "seven_day")},
			outcome{cause: CauseExtraUsage, action: Done, scope: ScopeAccount, bench: 3 * day, jitter: true, header: unified + "status"}},
		{"2xx: one family on extra usage", Answer{Status: 200, Family: FamilyFable, Header: paid(unified+"7d_oi-status", "rejected", unified+"7d_oi-reset", in(3*day))},
			outcome{cause: CauseExtraUsage, action: Done, scope: ScopeFamily, family: FamilyFable, bench: 3 * day, header: unified + "7d_oi-status"}},
		{"2xx: count_tokens spends nothing", Answer{Endpoint: CountTokens, Status: 200, Header: paid(unified+"5h-status", "rejected")}, outcome{cause: CauseOK, action: Done}},
		{"3xx: passed", Answer{Status: 302}, outcome{cause: CauseOK, action: Pass}},

		// 2xx whose first event is an error
		{"first event overloaded: as 529", Answer{Status: 200, EventError: envelope("overloaded_error", "Overloaded")}, outcome{cause: CauseOverloaded, action: Next, marks: "penalty"}},
		{"first event rate_limit: as burst", Answer{Status: 200, EventError: envelope("rate_limit_error", "slow down")}, outcome{cause: CauseBurst, action: WaitOrNext, scope: ScopeFamily, family: FamilyOpus}},
		{"first event api_error: as 5xx", Answer{Status: 200, EventError: envelope("api_error", "Internal server error")}, outcome{cause: CauseServerError, action: Next, marks: "failure"}},
		{"first event another error: passed", Answer{Status: 200, EventError: envelope("invalid_request_error", "no")}, outcome{cause: CauseClientError, action: Pass}},
		{"first event an error without data: passed", Answer{Status: 200, EventError: []byte{}}, outcome{cause: CauseClientError, action: Pass}},

		// 429, account-wide window
		{"capture A: 5-hour window spent", Answer{Status: 429, Header: captureA()},
			outcome{cause: CauseWindow, action: Next, scope: ScopeAccount, bench: 7835 * second, jitter: true, header: unified + "5h-status"}},
		{"capture D: windows only, no summary", Answer{Status: 429, Header: captureD()},
			outcome{cause: CauseWindow, action: Next, scope: ScopeAccount, bench: 7835 * second, jitter: true, header: unified + "5h-status"}},
		{"5-hour window: never longer than 6 h", Answer{Status: 429, Header: rejected(unified+"5h-status", "rejected", unified+"5h-reset", in(20*hour))},
			outcome{cause: CauseWindow, action: Next, scope: ScopeAccount, bench: 6 * hour, jitter: true, header: unified + "5h-status"}},
		{"weekly window: never longer than 8 days", Answer{Status: 429, Header: rejected(unified+"7d-status", "rejected", unified+"7d-reset", in(30*day))},
			outcome{cause: CauseWindow, action: Next, scope: ScopeAccount, bench: 8 * day, jitter: true, header: unified + "7d-status"}},
		{"both windows: the later of the rejected", Answer{Status: 429, Header: rejected(unified+"5h-status", "rejected", unified+"5h-reset", in(hour), unified+"7d-status", "rejected", unified+"7d-reset", in(2*day))},
			outcome{cause: CauseWindow, action: Next, scope: ScopeAccount, bench: 2 * day, jitter: true, header: unified + "7d-status"}},
		{"account and family windows: the account's decides", Answer{Status: 429, Family: FamilyFable, Header: rejected(unified+"5h-status", "rejected", unified+"5h-reset", in(hour), unified+"7d_oi-status", "rejected", unified+"7d_oi-reset", in(5*day))},
			outcome{cause: CauseWindow, action: Next, scope: ScopeAccount, bench: hour, jitter: true, header: unified + "5h-status"}},
		{"window without reset: Retry-After", Answer{Status: 429, Header: rejected(unified+"5h-status", "rejected", "retry-after", "600")},
			outcome{cause: CauseWindow, action: Next, scope: ScopeAccount, bench: 10 * minute, jitter: true, header: unified + "5h-status"}},
		{"window whose reset is past: Retry-After", Answer{Status: 429, Header: rejected(unified+"5h-status", "rejected", unified+"5h-reset", in(-hour), "retry-after", "600")},
			outcome{cause: CauseWindow, action: Next, scope: ScopeAccount, bench: 10 * minute, jitter: true, header: unified + "5h-status"}},
		{"window without any time: a minute", Answer{Status: 429, Header: rejected(unified+"5h-status", "rejected")},
			outcome{cause: CauseWindow, action: Next, scope: ScopeAccount, bench: minute, jitter: true, header: unified + "5h-status"}},
		{"summary rejected, no window says which", Answer{Status: 429, Header: rejected(unified+"reset", in(2*hour), unified+"5h-status", "allowed", unified+"5h-reset", in(4*hour))},
			outcome{cause: CauseWindow, action: Next, scope: ScopeAccount, bench: 2 * hour, jitter: true, header: unified + "status"}},
		{"summary rejected, names the 5-hour window", Answer{Status: 429, Header: rejected(unified+"reset", in(20*hour), unified+"representative-claim", "five_hour")},
			outcome{cause: CauseWindow, action: Next, scope: ScopeAccount, bench: 6 * hour, jitter: true, header: unified + "status"}},
		{"summary rejected, only Retry-After", Answer{Status: 429, Header: rejected("retry-after", "90")},
			outcome{cause: CauseWindow, action: Next, scope: ScopeAccount, bench: 90 * second, jitter: true, header: unified + "status"}},

		// 429, scoped window
		{"capture B: Fable's bucket only", Answer{Status: 429, Family: FamilyFable, Header: captureB(), Now: time.Unix(1785736800-51811, 0)},
			outcome{cause: CauseScopedWindow, action: Next, scope: ScopeFamily, family: FamilyFable, bench: 51811 * second, header: unified + "7d_oi-status"}},
		{"scoped window of an older parser", Answer{Status: 429, Header: rejected(unified+"7d_opus-status", "rejected", unified+"7d_opus-reset", in(day), unified+"5h-status", "allowed")},
			outcome{cause: CauseScopedWindow, action: Next, scope: ScopeFamily, family: FamilyOpus, bench: day, header: unified + "7d_opus-status"}},
		{"scoped window of unknown meaning: the requested family", Answer{Status: 429, Header: rejected(unified+"7d_xx-status", "rejected", unified+"7d_xx-reset", in(day))},
			outcome{cause: CauseScopedWindow, action: Next, scope: ScopeFamily, family: FamilyOpus, bench: day, header: unified + "7d_xx-status"}},
		{"scoped window of another family: that one", Answer{Status: 429, Header: rejected(unified+"7d_oi-status", "rejected", unified+"7d_oi-reset", in(day))},
			outcome{cause: CauseScopedWindow, action: Next, scope: ScopeFamily, family: FamilyFable, bench: day, header: unified + "7d_oi-status"}},
		{"scoped window named by the summary alone", Answer{Status: 429, Header: rejected(unified+"reset", in(day), unified+"representative-claim", "seven_day_sonnet"), Family: FamilySonnet},
			outcome{cause: CauseScopedWindow, action: Next, scope: ScopeFamily, family: FamilySonnet, bench: day, header: unified + "status"}},
		{"Fable's bucket named by the summary alone", Answer{Status: 429, Header: rejected(unified+"reset", in(day), unified+"representative-claim", "seven_day_overage_included"), Family: FamilyFable},
			outcome{cause: CauseScopedWindow, action: Next, scope: ScopeFamily, family: FamilyFable, bench: day, header: unified + "status"}},

		// 429, money
		{"capture E: out of credits", Answer{Status: 429, Header: captureE()},
			outcome{cause: CauseNoCredit, action: Next, scope: ScopeFamily, family: FamilyOpus, bench: 5 * minute, header: unified + "overage-disabled-reason"}},
		{"out of credits, summary rejected without reset", Answer{Status: 429, Header: rejected(unified+"overage-disabled-reason", "out_of_credits", unified+"5h-status", "allowed", unified+"5h-reset", in(hour))},
			outcome{cause: CauseNoCredit, action: Next, scope: ScopeFamily, family: FamilyOpus, bench: 5 * minute, header: unified + "overage-disabled-reason"}},
		{"out of credits, but a window is spent: the window", Answer{Status: 429, Header: with(captureA(), unified+"overage-disabled-reason", "out_of_credits")},
			outcome{cause: CauseWindow, action: Next, scope: ScopeAccount, bench: 7835 * second, jitter: true, header: unified + "5h-status"}},
		{"credits required", Answer{Status: 429, Header: header("retry-after", "5"), Body: envelopeWithCode("rate_limit_error", "credits_required")},
			outcome{cause: CauseNoCredit, action: Next, scope: ScopeFamily, family: FamilyOpus, bench: 5 * minute}},
		{"enforced spend limit", Answer{Status: 429, Body: envelopeWithCode("rate_limit_error", "enforced_spend_limit_reached")},
			outcome{cause: CauseSpendLimit, action: Next, scope: ScopeAccount, bench: hour, flag: "spend_limit"}},
		{"contract spend limit", Answer{Status: 429, Header: header("retry-after", "5"), Body: envelopeWithCode("rate_limit_error", "contract_spend_limit_reached")},
			outcome{cause: CauseSpendLimit, action: Next, scope: ScopeAccount, bench: hour, flag: "spend_limit"}},

		// 429, burst
		{"burst with Retry-After", Answer{Status: 429, Header: header("retry-after", "7")},
			outcome{cause: CauseBurst, action: WaitOrNext, scope: ScopeFamily, family: FamilyOpus, bench: 7 * second, header: "retry-after"}},
		{"burst: never longer than a minute", Answer{Status: 429, Header: header("retry-after", "3600", unified+"status", "allowed")},
			outcome{cause: CauseBurst, action: WaitOrNext, scope: ScopeFamily, family: FamilyOpus, bench: minute, header: "retry-after"}},
		{"burst with rate headers and no time", Answer{Status: 429, Header: okHeader()},
			outcome{cause: CauseBurst, action: WaitOrNext, scope: ScopeFamily, family: FamilyOpus}},
		{"burst: an API key's empty bucket", Answer{Status: 429, Kind: api.KindAPIKey, Header: header("anthropic-ratelimit-requests-limit", "50", "anthropic-ratelimit-requests-remaining", "0", "anthropic-ratelimit-requests-reset", in(20*second))},
			outcome{cause: CauseBurst, action: WaitOrNext, scope: ScopeFamily, family: FamilyOpus, bench: 20 * second, header: "anthropic-ratelimit-requests-remaining"}},
		{"burst on files: says nothing about messages", Answer{Endpoint: Files, Status: 429, Header: header("retry-after", "7")},
			outcome{cause: CauseBurst, action: NextOrPass}},
		{"capture C: bare", Answer{Status: 429, Header: captureC()}, outcome{cause: CauseBare429, action: NextOrPass}},

		// 429 on count_tokens
		{"count_tokens with Retry-After", Answer{Endpoint: CountTokens, Status: 429, Header: header("retry-after", "7")}, outcome{cause: CauseCountTokens429, action: NextOrPass}},
		{"count_tokens with a spent window", Answer{Endpoint: CountTokens, Status: 429, Header: captureA()}, outcome{cause: CauseCountTokens429, action: NextOrPass}},
		{"count_tokens, bare", Answer{Endpoint: CountTokens, Status: 429}, outcome{cause: CauseCountTokens429, action: NextOrPass}},

		// 5xx
		{"529", Answer{Status: 529, Body: envelope("overloaded_error", "Overloaded")}, outcome{cause: CauseOverloaded, action: Next, marks: "penalty"}},
		{"500", Answer{Status: 500, Body: envelope("api_error", "Internal server error")}, outcome{cause: CauseServerError, action: Next, marks: "failure"}},
		{"502", Answer{Status: 502, Body: []byte("<html>")}, outcome{cause: CauseServerError, action: Next, marks: "failure"}},
		{"503", Answer{Status: 503}, outcome{cause: CauseServerError, action: Next, marks: "failure"}},
		{"504", Answer{Status: 504}, outcome{cause: CauseServerError, action: Next, marks: "failure"}},
		{"520, of the network before upstream", Answer{Status: 520}, outcome{cause: CauseServerError, action: Next, marks: "failure"}},
		{"501: passed", Answer{Status: 501}, outcome{cause: CauseClientError, action: Pass}},

		// Login
		{"401: refresh", Answer{Status: 401, Body: envelope("authentication_error", "OAuth token has expired")}, outcome{cause: CauseUnauthorized, action: Refresh}},
		{"401, revoked", Answer{Status: 401, Body: envelope("authentication_error", "OAuth access token has been revoked")}, outcome{cause: CauseUnauthorized, action: Refresh}},
		{"401, not supported", Answer{Status: 401, Body: envelope("authentication_error", "OAuth authentication is currently not supported")}, outcome{cause: CauseUnauthorized, action: Refresh}},
		{"401 without a body", Answer{Status: 401}, outcome{cause: CauseUnauthorized, action: Refresh}},
		{"403, token revoked", Answer{Status: 403, Body: envelope("permission_error", "OAuth token has been revoked. Please obtain a new token.")}, outcome{cause: CauseUnauthorized, action: Refresh}},
		{"401 of an API key", Answer{Kind: api.KindAPIKey, Status: 401, Body: envelope("authentication_error", "invalid x-api-key")}, outcome{cause: CauseUnauthorized, action: Next}},
		{"401 of a token that cannot be refreshed", Answer{Kind: api.KindToken, Status: 401}, outcome{cause: CauseUnauthorized, action: Next}},
		{"403, token revoked, that cannot be refreshed", Answer{Kind: api.KindToken, Status: 403, Body: envelope("permission_error", "OAuth token has been revoked")}, outcome{cause: CauseUnauthorized, action: Next}},

		// Organization
		{"403, OAuth not allowed", Answer{Status: 403, Body: envelope("permission_error", "OAuth authentication is currently not allowed for this organization.")}, outcome{cause: CauseOrgDisabled, action: Next, marks: "disable", flag: "org_disabled"}},
		{"401, OAuth not allowed", Answer{Status: 401, Body: envelope("authentication_error", "OAuth authentication is currently not allowed for this organization")}, outcome{cause: CauseOrgDisabled, action: Next, marks: "disable", flag: "org_disabled"}},
		{"403, organization disabled", Answer{Status: 403, Body: envelope("permission_error", "This organization has been disabled.")}, outcome{cause: CauseOrgDisabled, action: Next, marks: "disable", flag: "org_disabled"}},
		{"400, organization disabled", Answer{Status: 400, Body: envelope("invalid_request_error", "This organization has been disabled.")}, outcome{cause: CauseOrgDisabled, action: Next, marks: "disable", flag: "org_disabled"}},
		{"403, on hold by code", Answer{Status: 403, Body: envelopeWithCode("permission_error", "organization_on_hold")}, outcome{cause: CauseOrgDisabled, action: Next, marks: "disable", flag: "org_disabled"}},
		{"400, on hold by code", Answer{Status: 400, Body: envelopeWithCode("invalid_request_error", "organization_on_hold")}, outcome{cause: CauseOrgDisabled, action: Next, marks: "disable", flag: "org_disabled"}},

		// Model
		{"403 with model:", Answer{Status: 403, Body: envelope("permission_error", "You do not have access to model: claude-opus-5-5")},
			outcome{cause: CauseModelForbidden, action: Next, scope: ScopeModel, model: "claude-opus-5-5", bench: hour}},

		// Money
		{"402", Answer{Status: 402, Body: envelope("billing_error", "pay")}, outcome{cause: CauseBilling, action: Next, scope: ScopeAccount, bench: hour, flag: "billing"}},
		{"400, credit balance", Answer{Status: 400, Kind: api.KindAPIKey, Body: envelope("invalid_request_error", "Your credit balance is too low to access the Anthropic API.")}, outcome{cause: CauseBilling, action: Next, scope: ScopeAccount, bench: hour, flag: "billing"}},
		{"400, own API spend limit", Answer{Status: 400, Kind: api.KindAPIKey, Body: envelope("invalid_request_error", "You have reached your specified API usage limits. You will regain access on 2026-12-01.")},
			outcome{cause: CauseAPISpend, action: Next, scope: ScopeAccount, bench: hour, flag: "api_spend_limit"}},
		{"400, third-party", Answer{Status: 400, Body: envelope("invalid_request_error", "Third-party apps now draw from your extra usage, not your plan limits.")}, outcome{cause: CauseThirdParty, action: Pass, flag: "third_party"}},
		{"400, out of extra usage", Answer{Status: 400, Body: envelope("invalid_request_error", "You're out of extra usage")}, outcome{cause: CauseThirdParty, action: Pass, flag: "third_party"}},

		// Other 4xx
		{"400", Answer{Status: 400, Body: envelope("invalid_request_error", "messages: at least one message is required")}, outcome{cause: CauseClientError, action: Pass}},
		{"403, another", Answer{Status: 403, Body: envelope("permission_error", "no")}, outcome{cause: CauseClientError, action: Pass}},
		{"404, model", Answer{Status: 404, Body: envelope("not_found_error", "model: x")}, outcome{cause: CauseClientError, action: Pass}},
		{"413", Answer{Status: 413}, outcome{cause: CauseClientError, action: Pass}},
		{"422", Answer{Status: 422}, outcome{cause: CauseClientError, action: Pass}},
	}
	for _, c := range cases {
		t.Run(c.row, func(t *testing.T) {
			t.Parallel()
			a := c.a
			if a.Endpoint == Other {
				a.Endpoint = Messages
			}
			if a.Kind == "" {
				a.Kind = api.KindOAuth
			}
			if a.Family == "" {
				a.Family = FamilyOpus
			}
			if a.Now.IsZero() {
				a.Now = now
			}
			a.Model = "claude-opus-5-5"
			if got := outcomeOf(Judge(a), a.Now); got != c.want {
				t.Errorf("\n got %+v\nwant %+v", got, c.want)
			}
		})
	}
}

func TestALaterErrorEventMarksTheAccountButCannotFailOver(t *testing.T) {
	t.Parallel()
	a := Answer{Endpoint: Messages, Status: 200, Family: FamilyOpus, Kind: api.KindOAuth, Now: captured}
	for kind, want := range map[string]outcome{
		"overloaded_error":      {cause: CauseOverloaded, action: Pass, marks: "penalty"},
		"rate_limit_error":      {cause: CauseBurst, action: Pass, scope: ScopeFamily, family: FamilyOpus},
		"api_error":             {cause: CauseServerError, action: Pass, marks: "failure"},
		"invalid_request_error": {cause: CauseClientError, action: Pass},
	} {
		v := StreamErrorVerdict(envelope(kind, "words"), a)
		if got := outcomeOf(v, captured); got != want || v.Message != "words" {
			t.Errorf("%s: %q\n got %+v\nwant %+v", kind, v.Message, got, want)
		}
	}
}

func TestVerdictsQuoteUpstreamSafely(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		string(envelope("api_error", `line\none\u0000two`)): "line one two",
		`{"error":"plain words"}`:                           "plain words",
		"<html>\r\n<h1>502</h1>":                            "<html>  <h1>502</h1>",
		"\xff\xfe":                                          "\uFFFD",
		"":                                                  "",
		`{"error":{"type":"api_error","message":"cut sh`: `{"error":{"type":"api_error","message":"cut sh`,
		`{"error":{"type":5,"message":null}}`:            `{"error":{"type":5,"message":null}}`,
		strings.Repeat("é", 400):                         strings.Repeat("é", 250),
		"x" + strings.Repeat("é", 400):                   "x" + strings.Repeat("é", 249),
	} {
		v := Judge(Answer{Status: 500, Body: []byte(body), Now: captured})
		if v.Message != want || len(v.Message) > maxMessage || !utf8.ValidString(v.Message) {
			t.Errorf("%q: got %q, want %q", body, v.Message, want)
		}
	}
}

func TestJudgeNeverBenchesWithoutABound(t *testing.T) {
	t.Parallel()
	for _, status := range []int{200, 400, 401, 402, 403, 404, 429, 500, 529} {
		for _, reset := range []string{"9999999999", "9999999999999", "2999-01-01T00:00:00Z", "-5", "x"} {
			h := header(unified+"status", "rejected", unified+"reset", reset, unified+"5h-status", "rejected", unified+"5h-reset", reset,
				unified+"7d_oi-status", "rejected", unified+"7d_oi-reset", reset, unified+"overage-status", "allowed", "retry-after", "99999999")
			v := Judge(Answer{Endpoint: Messages, Status: status, Header: h, Now: captured})
			if v.Until.After(captured.Add(maxReset)) || v.Scope != ScopeNone && !v.Until.After(captured) {
				t.Errorf("%d, reset %q: until %v", status, reset, v.Until)
			}
		}
	}
}
