package admin

// Accounts in words: a line of the list, and everything.

import (
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
)

func accountTable(accounts []api.Account, now time.Time) *table {
	t := newTable("NAME", "PLAN", "OPUS", "STATE", ">REQUESTS", "LAST USED", "TOKEN")
	for _, a := range accounts {
		t.row(a.Name, a.PlanType, yesNo(hasOpus(a)), stateWords(a, now), number(a.RequestCount), ago(a.LastUsed, now), tokenWords(a, now))
	}
	return t
}

// describeAccount tells all about an account.
func describeAccount(out *printer, a api.Account, now time.Time) {
	out.line("%s", a.Name)
	field := func(label, value string) { out.line("  %-13s %s", label+":", value) }

	field("ID", a.ID)
	field("Plan", planWords(a))
	if a.Tier != "" {
		field("Tier", a.Tier)
	}
	field("Credential", credentialWords(a.Kind))
	field("Token", tokenWords(a, now))
	field("State", stateWords(a, now))
	if a.StatusReason != "" {
		field("Reason", a.StatusReason)
	}
	if a.AvailableAt != nil {
		field("Available", clock(*a.AvailableAt, now)+" (in "+until(*a.AvailableAt, now)+")")
	}
	field("Created", clock(a.CreatedAt, now))
	field("Last used", ago(a.LastUsed, now))
	field("Requests", number(a.RequestCount))
	field("In flight", inFlightWords(a))
	field("Priority", strconv.Itoa(a.Priority))
	field("Weight", strconv.Itoa(a.Weight))
	field("Tokens", tokensWords(a.Tokens))
	field("Cost", dollars(a.CostUSD))
	describeModels(out, a)
	describeWindows(out, a.Windows, now)
	describeLimits(out, a.Limits, now)
}

func describeModels(out *printer, a api.Account) {
	models := splitList(a.SupportedModels)
	out.line("  Models:       %d supported", len(models))
	for _, model := range models {
		mark := ""
		if allowsOpus(model) {
			mark = " (Opus)"
		}
		out.line("    %s%s", model, mark)
	}
}

func describeWindows(out *printer, windows []api.Window, now time.Time) {
	if len(windows) == 0 {
		return
	}
	out.line("  Windows:")
	for _, w := range windows {
		text := "    " + w.Name + ": "
		if w.Utilization != nil {
			text += percent(w.Utilization) + " used"
		} else {
			text += "use unknown"
		}
		if w.Status != "" {
			text += ", " + w.Status
		}
		if w.ResetsAt != nil {
			text += ", resets " + clock(*w.ResetsAt, now) + " (in " + until(*w.ResetsAt, now) + ")"
		}
		out.line("%s", text)
	}
}

func describeLimits(out *printer, limits []api.Limit, now time.Time) {
	if len(limits) == 0 {
		return
	}
	out.line("  Limits:")
	for _, l := range limits {
		text := "    " + limited(l) + " until " + clock(l.Until, now) + " (in " + until(l.Until, now) + "): " + l.Cause
		if l.Header != nil {
			text += ", by " + *l.Header
		}
		out.line("%s, since %s", text, clock(l.Since, now))
	}
}

// limited names what a limit keeps from being used.
func limited(l api.Limit) string {
	if l.Scope == api.ScopeAccount || l.Family == nil {
		return "the whole account"
	}
	return *l.Family
}

// stateWords tells an account's state and until when it lasts; of an account
// that serves, also the families and models that it does not serve.
func stateWords(a api.Account, now time.Time) string {
	switch a.Status {
	case api.StatusLimited:
		if a.AvailableAt == nil {
			return "limited"
		}
		return "limited " + until(*a.AvailableAt, now)
	case api.StatusNeedsLogin:
		return "needs login"
	case api.StatusAvailable, api.StatusBusy:
		text := string(a.Status)
		if a.Status == api.StatusBusy {
			text += ", " + inFlightWords(a) + " in flight"
		}
		for _, l := range a.Limits {
			if l.Family != nil {
				text += ", no " + *l.Family + " for " + until(l.Until, now)
			}
		}
		return text
	default:
		return string(a.Status)
	}
}

// tokenWords tells whether an account's credential works, and for how long if
// that is within a day.
func tokenWords(a api.Account, now time.Time) string {
	expired := a.ExpiresAt != nil && *a.ExpiresAt <= now.UnixMilli()
	switch {
	case a.TokenValid == 0 && (expired || a.ExpiresAt == nil && a.Kind == api.KindOAuth):
		return "expired"
	case a.TokenValid == 0:
		return "invalid"
	case a.ExpiresAt == nil || *a.ExpiresAt > now.Add(24*time.Hour).UnixMilli():
		return "valid"
	default:
		return "expires in " + until(*a.ExpiresAt, now)
	}
}

func planWords(a api.Account) string {
	if hasOpus(a) {
		return a.PlanType + " (Opus enabled)"
	}
	return a.PlanType
}

func credentialWords(kind api.Kind) string {
	switch kind {
	case api.KindOAuth:
		return "login (refreshed by itself)"
	case api.KindToken:
		return "access token (cannot be refreshed)"
	case api.KindAPIKey:
		return "API key"
	default:
		return string(kind)
	}
}

func inFlightWords(a api.Account) string {
	if a.MaxInFlight == 0 {
		return strconv.Itoa(a.InFlight)
	}
	return strconv.Itoa(a.InFlight) + " of at most " + strconv.Itoa(a.MaxInFlight)
}

func tokensWords(t api.Tokens) string {
	return number(t.Input) + " in, " + number(t.Output) + " out, " +
		number(t.CacheRead) + " read from cache, " + number(t.CacheWrite5m+t.CacheWrite1h) + " written to cache"
}

// hasOpus reports whether an account's models include one of the opus family.
func hasOpus(a api.Account) bool {
	for _, model := range splitList(a.SupportedModels) {
		if allowsOpus(model) {
			return true
		}
	}
	return false
}

// allowsOpus reports whether a model or pattern is or may mean an Opus.
func allowsOpus(pattern string) bool {
	matches, err := path.Match(pattern, "claude-opus-4")
	return err == nil && matches || strings.Contains(pattern, "opus")
}
