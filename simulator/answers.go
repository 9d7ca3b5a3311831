package simulator

// Behaviours that refuse a request in the words of the service.

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"
)

// week is how far away the reset of a week's window is that is not spent.
const week = 5 * 24 * time.Hour

// Window5h says that the 5-hour window is spent: 429 with every header.
func Window5h(reset time.Time) Behaviour {
	return spent(
		windowState{"5h", rejected, 1.01, reset},
		windowState{"7d", allowed, 0.69, reset.Add(week)})
}

// Weekly says that the week's window is spent.
func Weekly(reset time.Time) Behaviour {
	return spent(
		windowState{"5h", allowed, 0.3, reset.Add(-time.Minute)},
		windowState{"7d", rejected, 1, reset})
}

// ScopedWindow says that a window for one family is spent, such as 7d_oi or
// 7d_opus, while the account has room for the rest.
func ScopedWindow(name string, reset time.Time) Behaviour {
	return spent(
		windowState{"5h", allowed, 0, reset.Add(-time.Minute)},
		windowState{"7d", warning, 0.94, reset},
		windowState{name, rejected, 1, reset})
}

// WindowsOnly says that the 5-hour window is spent by that window's headers
// alone, without the summary and without Retry-After.
func WindowsOnly(reset time.Time) Behaviour {
	h := make(http.Header)
	setWindow(h, windowState{"5h", rejected, 1.01, reset})
	return refuse(apiError{status: http.StatusTooManyRequests, kind: rateLimit, message: accountLimit, header: h})
}

func spent(states ...windowState) Behaviour {
	return func(x *Exchange) { x.fail(*unifiedRefusal(x.sim.now(), states)) }
}

// refuse answers with an error.
func refuse(e apiError) Behaviour { return func(x *Exchange) { x.fail(e) } }

// Unified429 says that a limit is reached and resets in 5 minutes, but not which
// window it is.
func Unified429(x *Exchange) {
	h := http.Header{"Retry-After": {"300"}, "X-Should-Retry": {"true"}}
	setUnified(h, "status", rejected)
	setUnified(h, "reset", unix(x.sim.now().Add(5*time.Minute)))
	x.fail(apiError{status: http.StatusTooManyRequests, kind: rateLimit, message: accountLimit, header: h})
}

// OutOfCredits is a 429 for want of credits, with no reset.
func OutOfCredits(x *Exchange) {
	h := make(http.Header)
	setUnified(h, "overage-status", rejected)
	setUnified(h, "overage-disabled-reason", "out_of_credits")
	x.fail(apiError{status: http.StatusTooManyRequests, kind: rateLimit, message: "You're out of extra usage.", header: h})
}

// CreditsRequired is a 429 whose error code says that credits are required.
func CreditsRequired(x *Exchange) {
	x.fail(apiError{
		status: http.StatusTooManyRequests, kind: rateLimit, code: "credits_required",
		message: "Usage credits are required for this request.",
	})
}

// SpendLimit is a 429 because the organization spent what it may.
func SpendLimit(x *Exchange) {
	x.fail(apiError{
		status: http.StatusTooManyRequests, kind: rateLimit, code: "enforced_spend_limit_reached",
		message: "Your organization has reached its spend limit.",
	})
}

// Burst is a 429 that asks for a short wait while no window is spent. Without
// retryAfter it has rate-limit headers only.
func Burst(retryAfter time.Duration) Behaviour {
	return func(x *Exchange) {
		h := make(http.Header)
		if x.account != nil && x.account.Plan == PlanAPI {
			h.Set("Anthropic-Ratelimit-Requests-Limit", "50")
			h.Set("Anthropic-Ratelimit-Requests-Remaining", "0")
		} else {
			setUnified(h, "status", allowed)
		}
		if retryAfter > 0 {
			h.Set("Retry-After", seconds(retryAfter))
		}
		x.fail(apiError{status: http.StatusTooManyRequests, kind: rateLimit, message: accountLimit, header: h})
	}
}

// Bare429 is a 429 with neither rate-limit headers nor Retry-After.
func Bare429(x *Exchange) {
	x.fail(apiError{
		status: http.StatusTooManyRequests, kind: rateLimit, message: accountLimit,
		header: http.Header{"X-Should-Retry": {"true"}, "X-Robots-Tag": {"none"}},
	})
}

// Overloaded529 says that the service is full.
func Overloaded529(x *Exchange) {
	e := errorFor(529)
	e.header = http.Header{"X-Should-Retry": {"true"}}
	x.fail(e)
}

// ServerError is a 500, 502, 503 or 504.
func ServerError(status int) Behaviour { return refuse(errorFor(status)) }

// Unauthorized is the 401 for a credential that is unknown.
func Unauthorized(x *Exchange) {
	if x.account != nil && x.account.Plan == PlanAPI {
		x.fail(*unauthorized("invalid x-api-key"))
		return
	}
	x.fail(*unauthorized("Invalid bearer token"))
}

// TokenRevoked403 is the 403 for a revoked access token.
func TokenRevoked403(x *Exchange) {
	x.fail(apiError{status: http.StatusForbidden, kind: permissionError, message: "OAuth token has been revoked"})
}

// OAuthNotAllowed says that the organization allows no OAuth logins.
func OAuthNotAllowed(x *Exchange) {
	x.fail(apiError{
		status: http.StatusForbidden, kind: permissionError,
		message: "OAuth authentication is currently not allowed for this organization.",
	})
}

// OrgDisabled says that the organization is disabled.
func OrgDisabled(x *Exchange) {
	x.fail(apiError{status: http.StatusForbidden, kind: permissionError, message: "This organization has been disabled."})
}

// OnHold says that the organization is on hold.
func OnHold(x *Exchange) { x.fail(onHold) }

// ModelForbidden says that the account may not use the model.
func ModelForbidden(x *Exchange) {
	body, _ := x.ReadBody() // without a body there is no model to name
	var p struct {
		Model string `json:"model"`
	}
	_ = json.Unmarshal(body, &p)
	x.fail(modelForbidden(p.Model))
}

func modelForbidden(model string) apiError {
	return apiError{
		status: http.StatusForbidden, kind: permissionError,
		message: "Your organization does not have access to model: " + model,
	}
}

// Billing402 says that the balance is too low.
func Billing402(x *Exchange) {
	x.fail(apiError{
		status: http.StatusPaymentRequired, kind: billingError,
		message: "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade or purchase credits.",
	})
}

// APISpend400 says that the limit which the organization set itself is reached.
func APISpend400(x *Exchange) {
	x.fail(*badRequest("You have reached your specified API usage limits. You will regain access on 2026-12-01 at 00:00 UTC."))
}

// ExtraUsage400 says that this traffic is not covered by the plan.
func ExtraUsage400(x *Exchange) {
	x.fail(*badRequest("Third-party apps now draw from your extra usage, not your plan limits. Add more at claude.ai/settings/usage and keep going."))
}

// BadRequest400 is a client's mistake. Its body is not as an encoder would write
// it, so that a proxy which does more than copy it is found out.
func BadRequest400(x *Exchange) {
	const body = "{\"type\" :\"error\",\n \"error\":{\"message\":\"messages.1.content.0: Invalid `signature` in `thinking` block \\u2013 \u201cabc\u201d\"," +
		"\"type\":\"invalid_request_error\",\"details\":null}, \"request_id\":\"ID\" }\n"
	x.send(http.StatusBadRequest, "application/json", []byte(strings.Replace(body, "ID", x.requestID, 1)))
}

// ExtraUsage200 answers although the 5-hour window is spent, on paid extra
// usage. The window resets in 2 hours.
func ExtraUsage200(x *Exchange) {
	reset := x.sim.now().Add(2 * time.Hour)
	h := unifiedHeader([]windowState{
		{"5h", rejected, 1.02, reset},
		{"7d", warning, 0.8, reset.Add(week)},
	})
	setOverage(h, true)
	h[unifiedPrefix+"Overage-Disabled-Reason"] = nil // takes the usual answer's away
	x.AddHeader(h)
	x.Next()
}
