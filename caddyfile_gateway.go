package claudebalancer

import (
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// The part of the Caddyfile's grammar that is about Claude Code's sign-in.

func (h *Handler) parseTelemetry(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.ArgErr()
	}
	h.Telemetry = new(TelemetryConfig)
	switch d.Val() {
	case "drop":
		if d.NextArg() {
			return d.ArgErr()
		}
		return nil
	case "forward":
		return parseURL(d, &h.Telemetry.Forward)
	}
	return d.Errf("telemetry is '%s', but may be drop, or forward and a URL", d.Val())
}

func (h *Handler) parseSignIn(d *caddyfile.Dispenser) error {
	if d.CountRemainingArgs() > 0 {
		var on bool
		if err := parseSwitch(d, &on); err != nil {
			return err
		}
		if on {
			h.SignIn = new(SignInConfig)
		}
		return nil
	}
	c := new(SignInConfig)
	h.SignIn = c
	return block(d, nil, func(word string) error {
		switch word {
		case "access_lifetime":
			return parseDurationArg(d, &c.AccessLifetime, time.Minute)
		case "refresh_lifetime":
			return parseDurationArg(d, &c.RefreshLifetime, time.Minute)
		case "login_notice":
			return parseWord(d, &c.LoginNotice)
		case "users":
			return c.parseUsers(d)
		}
		return d.Errf("unrecognized option '%s' of sign_in: allowed are access_lifetime, refresh_lifetime, login_notice and users", word)
	})
}

func (c *SignInConfig) parseUsers(d *caddyfile.Dispenser) error {
	u := new(SignInUsers)
	c.Users = u
	if d.NextArg() {
		u.ID = d.Val()
	}
	if d.NextArg() {
		return d.ArgErr()
	}
	return block(d, nil, func(word string) error {
		switch word {
		case "models":
			return parseWords(d, &u.Models)
		case "accounts":
			return parseWords(d, &u.Accounts)
		case "rpm":
			return parseCount(d, &u.RPM)
		case "max_in_flight":
			return parseCount(d, &u.MaxInFlight)
		case "budget_usd":
			return u.parseBudget(d)
		case "budget_period":
			if err := parseWord(d, &u.BudgetPeriod); err != nil {
				return err
			}
			switch u.BudgetPeriod {
			case "day", "week", "month":
				return nil
			}
			return d.Errf("budget_period is '%s', but may be day, week or month", u.BudgetPeriod)
		}
		return d.Errf("unrecognized option '%s' of users: allowed are models, accounts, rpm, max_in_flight, budget_usd and budget_period", word)
	})
}

func (u *SignInUsers) parseBudget(d *caddyfile.Dispenser) error {
	var text string
	if err := parseWord(d, &text); err != nil {
		return err
	}
	usd, err := strconv.ParseFloat(text, 64)
	if err != nil || !(usd > 0 && usd < 1e9) {
		return d.Errf("budget_usd is '%s', but must be a number of US dollars, more than 0", text)
	}
	u.BudgetUSD = &usd
	return nil
}

// parseSettings parses one of several lines.
func (h *Handler) parseSettings(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) == 0 {
		return d.ArgErr()
	}
	h.Settings = append(h.Settings, ManagedSettingsConfig{File: args[0], Keys: args[1:]})
	return nil
}

func parseWords(d *caddyfile.Dispenser, to *[]string) error {
	if *to = d.RemainingArgs(); len(*to) == 0 {
		return d.ArgErr()
	}
	return nil
}
