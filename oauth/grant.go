package oauth

// The token endpoint's good answer.

import (
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/secret"
	"github.com/claude-balancer/claude-balancer/store"
)

const (
	// defaultLifetime is assumed when an answer does not say how long its
	// token lives: what the provider's tokens have. If it is less, the first
	// 401 brings the refresh forward.
	defaultLifetime = 8 * time.Hour
	maxLifetime     = 10 * 365 * 24 * time.Hour
)

// Grant is what a login or a refresh yields.
type Grant struct {
	Access    secret.String
	Refresh   secret.String // zero: none was given; after a refresh the old one stays good
	IssuedAt  time.Time     // when the answer came
	ExpiresIn time.Duration // from IssuedAt; 8 h if the provider does not say

	// Whose login it is, as far as the provider says.
	AccountID, Email                 string
	OrganizationID, OrganizationName string
}

// Credential is the grant as an account stores it. Without a refresh token it
// is of kind token.
func (g Grant) Credential() store.Credential {
	kind := api.KindOAuth
	if g.Refresh.IsZero() {
		kind = api.KindToken
	}
	return store.Credential{
		Kind: kind, Access: g.Access, Refresh: g.Refresh,
		IssuedAt: g.IssuedAt, ExpiresAt: g.IssuedAt.Add(g.ExpiresIn),
	}
}

// readGrant is lenient with everything but the tokens: a member that changed
// its type must not cost a pair that has replaced the old one.
func readGrant(body []byte, now time.Time) (Grant, error) {
	var answer struct {
		Access       json.RawMessage `json:"access_token"`
		Refresh      json.RawMessage `json:"refresh_token"`
		ExpiresIn    json.RawMessage `json:"expires_in"`
		Account      json.RawMessage `json:"account"`
		Organization json.RawMessage `json:"organization"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return Grant{}, errors.New("the answer is not a JSON object") // err would show a part of it
	}
	g := Grant{
		Access: secret.New(text(answer.Access)), Refresh: secret.New(text(answer.Refresh)),
		IssuedAt: now, ExpiresIn: lifetime(answer.ExpiresIn),
	}
	if g.Access.IsZero() {
		return Grant{}, errors.New("the answer has no access_token")
	}
	account, organization := members(answer.Account), members(answer.Organization)
	g.AccountID, g.Email = text(account["uuid"]), text(account["email_address"])
	g.OrganizationID, g.OrganizationName = text(organization["uuid"]), text(organization["name"])
	return g, nil
}

// lifetime reads expires_in: seconds, as a number or a string.
func lifetime(raw json.RawMessage) time.Duration {
	seconds, err := strconv.ParseFloat(strings.Trim(string(raw), `"`), 64)
	switch {
	case err != nil || !(seconds > 0): // not a number included
		return defaultLifetime
	case seconds > maxLifetime.Seconds():
		return maxLifetime
	}
	return time.Duration(seconds * float64(time.Second))
}

func members(raw json.RawMessage) map[string]json.RawMessage {
	var m map[string]json.RawMessage
	_ = json.Unmarshal(raw, &m)
	return m
}
