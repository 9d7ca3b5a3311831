package admin

// The routes that look back (history, sums, audit) or ahead (explain).

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/claude-balancer/claude-balancer/api"
)

// deleted is the answer of a clearing of the history.
type deleted struct {
	Deleted int64 `json:"deleted"`
}

func listRequests(b api.Backend, w http.ResponseWriter, r *http.Request) error {
	values, err := queryOf(r, "limit", "before", "account", "model", "outcome", "client")
	if err != nil {
		return err
	}
	query, err := api.ParseRequestQuery(values)
	if err != nil {
		return err
	}
	requests, err := b.Requests(r.Context(), query)
	return replyList(w, requests, err)
}

func clearRequests(b api.Backend, w http.ResponseWriter, r *http.Request) error {
	// Whoever sends a filter does not mean the whole history.
	if r.URL.RawQuery != "" {
		return api.BadRequest("DELETE clears the whole history and takes no filter")
	}
	if err := expectNoBody(w, r); err != nil {
		return err
	}
	n, err := b.ClearRequests(r.Context())
	return reply(w, http.StatusOK, deleted{n}, err)
}

func (a *adminAPI) getStats(b api.Backend, w http.ResponseWriter, r *http.Request) error {
	values, err := queryOf(r, "since")
	if err != nil {
		return err
	}
	since, err := api.ParseSince(values.Get("since"), a.now())
	if err != nil {
		return err
	}
	stats, err := b.Stats(r.Context(), since)
	return reply(w, http.StatusOK, stats, err)
}

func resetStats(b api.Backend, w http.ResponseWriter, r *http.Request) error {
	if err := expectNoBody(w, r); err != nil {
		return err
	}
	return replyNoContent(w, b.ResetStats(r.Context()))
}

func explain(b api.Backend, w http.ResponseWriter, r *http.Request) error {
	values, err := queryOf(r, "model", "session", "key")
	if err != nil {
		return err
	}
	explanation, err := b.Explain(r.Context(), api.ExplainQuery{
		Model:   values.Get("model"),
		Session: values.Get("session"),
		Key:     values.Get("key"),
	})
	return reply(w, http.StatusOK, explanation, err)
}

func listAudit(b api.Backend, w http.ResponseWriter, r *http.Request) error {
	entries, err := b.Audit(r.Context())
	return replyList(w, entries, err)
}

// queryOf reads the query strictly: a parameter that is misspelt or given twice
// would be a filter that does nothing.
func queryOf(r *http.Request, known ...string) (url.Values, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, api.BadRequest("the query is malformed: %v", err)
	}
	for name, given := range values {
		if !slices.Contains(known, name) {
			return nil, api.BadRequest("unknown parameter %q: known are %s", name, strings.Join(known, ", "))
		}
		if len(given) > 1 {
			return nil, api.BadRequest("parameter %q is given twice", name)
		}
	}
	return values, nil
}
