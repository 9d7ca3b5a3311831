package oauth

// Who is logged in, and on which plan.

import (
	"encoding/json"
	"errors"
	"strings"

	"github.com/claude-balancer/claude-balancer/api"
)

// Profile is what the provider tells about a login. Members that it does not
// tell are empty.
type Profile struct {
	Plan             string // hint: see PlanHint; "" = cannot be told
	Tier             string // rate-limit tier, such as default_claude_max_20x
	Subscription     string // the organization's type, such as claude_max
	AccountID        string
	Email            string
	OrganizationID   string
	OrganizationName string
}

func readProfile(body []byte) (Profile, error) {
	var answer struct {
		Account      json.RawMessage `json:"account"`
		Organization json.RawMessage `json:"organization"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return Profile{}, errors.New("the answer is not a JSON object")
	}
	account, organization := members(answer.Account), members(answer.Organization)
	p := Profile{
		Tier:         text(organization["rate_limit_tier"]),
		Subscription: text(organization["organization_type"]),
		AccountID:    text(account["uuid"]), Email: text(account["email"]),
		OrganizationID: text(organization["uuid"]), OrganizationName: text(organization["name"]),
	}
	p.Plan = PlanHint(p.Subscription, p.Tier)
	if p.Subscription == "" && string(account["has_claude_max"]) == "true" {
		p.Plan = api.PlanMax
	}
	return p, nil
}

// PlanHint names the plan that fits a subscription (max, pro, team, enterprise,
// with or without "claude_" before it) and a rate-limit tier. A seat of a team
// counts as max if its tier is; other seats of teams and enterprises are bound
// by rules that the provider does not tell here, so there is no hint: "".
func PlanHint(subscription, tier string) string {
	switch strings.TrimPrefix(subscription, "claude_") {
	case "max":
		return api.PlanMax
	case "team", "enterprise":
		if strings.Contains(tier, "_max") {
			return api.PlanMax
		}
		return ""
	}
	return api.PlanConsole
}
