package api

import (
	"errors"
	"net/http"
	"net/url"
	"testing"
	"time"
)

func TestParseRequestQueryReadsEveryFilter(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		query string
		want  RequestQuery
	}{
		{"", RequestQuery{Limit: 50}},
		{"limit=1", RequestQuery{Limit: 1}},
		{"limit=1000&before=r1", RequestQuery{Limit: 1000, Before: "r1"}},
		{"account=a+b&model=m&outcome=ok&client=ci", RequestQuery{Limit: 50, Account: "a b", Model: "m", Outcome: OutcomeOK, Client: "ci"}},
		{"account=&model=&outcome=", RequestQuery{Limit: 50}},
		{"outcome=truncated&unknown=1", RequestQuery{Limit: 50, Outcome: OutcomeTruncated}},
	} {
		v, err := url.ParseQuery(tt.query)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseRequestQuery(v)
		if err != nil || got != tt.want {
			t.Errorf("%q: got %+v, %v; want %+v", tt.query, got, err, tt.want)
		}
	}
}

func TestParseRequestQueryRefusesWhatItCannotHonour(t *testing.T) {
	t.Parallel()
	for _, query := range []string{"limit=0", "limit=-1", "limit=1001", "limit=", "limit=ten", "limit=1.5", "limit=99999999999999999999", "outcome=OK", "outcome=failed"} {
		v, _ := url.ParseQuery(query)
		_, err := ParseRequestQuery(v)
		assertBadRequest(t, query, err)
	}
}

func TestParseSinceUnderstandsFourForms(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	for in, want := range map[string]time.Time{
		"":                          {},
		"24h":                       now.Add(-24 * time.Hour),
		"90m":                       now.Add(-90 * time.Minute),
		"7d":                        now.AddDate(0, 0, -7),
		"0s":                        now,
		"2026-01-02T03:04:05Z":      time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		"2026-01-02T03:04:05+02:00": time.Date(2026, 1, 2, 1, 4, 5, 0, time.UTC),
		"1767323045000":             time.UnixMilli(1767323045000),
		"0":                         time.UnixMilli(0),
	} {
		got, err := ParseSince(in, now)
		if err != nil || !got.Equal(want) {
			t.Errorf("%q: got %v, %v; want %v", in, got, err, want)
		}
	}
}

func TestParseSinceRefusesEverythingElse(t *testing.T) {
	t.Parallel()
	for _, in := range []string{"yesterday", "-1h", "-5", "d", "1.5d", "36501d", "2026-01-02", " 24h", "9999999999999999999999"} {
		_, err := ParseSince(in, time.Now())
		assertBadRequest(t, in, err)
	}
}

func assertBadRequest(t *testing.T, input string, err error) {
	t.Helper()
	var refusal *Error
	if !errors.As(err, &refusal) || refusal.Status != http.StatusBadRequest {
		t.Errorf("%q: got %v, want a refusal with status 400", input, err)
	}
}
