package api

import (
	"net/url"
	"strconv"
	"strings"
	"time"
)

// ParseRequestQuery reads the history's filters from a query string, the same
// for the site and the admin endpoint. A limit outside 1–1000 or an unknown
// outcome is a BadRequest; an empty filter does not filter.
func ParseRequestQuery(v url.Values) (RequestQuery, error) {
	q := RequestQuery{
		Limit:   DefaultRequestLimit,
		Before:  v.Get("before"),
		Account: v.Get("account"),
		Model:   v.Get("model"),
		Outcome: Outcome(v.Get("outcome")),
		Client:  v.Get("client"),
	}
	if v.Has("limit") {
		n, err := strconv.Atoi(v.Get("limit"))
		if err != nil || n < 1 || n > MaxRequestLimit {
			return RequestQuery{}, BadRequest("limit must be a whole number from 1 to %d", MaxRequestLimit)
		}
		q.Limit = n
	}
	switch q.Outcome {
	case "", OutcomeOK, OutcomeUpstreamError, OutcomeRefused, OutcomeExhausted, OutcomeClientGone, OutcomeTruncated:
		return q, nil
	}
	return RequestQuery{}, BadRequest("outcome must be one of ok, upstream_error, refused, exhausted, client_gone, truncated")
}

// ParseSince reads where a sum begins: a duration before now ("24h", or whole
// days: "7d"), an RFC 3339 time, or milliseconds since the epoch. The empty
// string is the zero time: everything. Anything else is a BadRequest.
func ParseSince(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if ms, err := strconv.ParseUint(s, 10, 63); err == nil {
		return time.UnixMilli(int64(ms)), nil
	}
	if d, ok := parseDuration(s); ok {
		return now.Add(-d), nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	return time.Time{}, BadRequest("since must be a duration such as 24h or 7d, an RFC 3339 time, or milliseconds since 1970")
}

// parseDuration reads a duration of Go's form or whole days; never below zero.
func parseDuration(s string) (time.Duration, bool) {
	const maxDays = 36500
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 31)
		return time.Duration(n) * 24 * time.Hour, err == nil && n <= maxDays
	}
	d, err := time.ParseDuration(s)
	return d, err == nil && d >= 0
}
