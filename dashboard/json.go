package dashboard

import (
	"cmp"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/claude-balancer/claude-balancer/api"
)

// defaultChartSpan is how far back /api/chart looks without since.
const defaultChartSpan = 24 * time.Hour

func (s *site) health(w http.ResponseWriter, r *http.Request) {
	h, err := s.o.Backend.Health(r.Context())
	s.answer(w, r, http.StatusOK, h, err)
}

// ready is health for load balancers and orchestrators: 503 while no account
// can take a request.
func (s *site) ready(w http.ResponseWriter, r *http.Request) {
	h, err := s.o.Backend.Health(r.Context())
	status := http.StatusOK
	if h.Available == 0 {
		status = http.StatusServiceUnavailable
	}
	s.answer(w, r, status, h, err)
}

func (s *site) stats(w http.ResponseWriter, r *http.Request) {
	since, err := api.ParseSince(r.URL.Query().Get("since"), s.o.Now())
	if err != nil {
		s.fail(w, r, err)
		return
	}
	stats, err := s.o.Backend.Stats(r.Context(), since)
	s.answer(w, r, http.StatusOK, stats, err)
}

func (s *site) accounts(w http.ResponseWriter, r *http.Request) {
	accounts, err := s.o.Backend.Accounts(r.Context())
	accounts = slices.Clone(accounts)
	slices.SortStableFunc(accounts, func(a, b api.Account) int {
		return cmp.Compare(b.RequestCount, a.RequestCount)
	})
	s.answer(w, r, http.StatusOK, list(accounts), err)
}

func (s *site) requests(w http.ResponseWriter, r *http.Request) {
	q, err := api.ParseRequestQuery(r.URL.Query())
	if err != nil {
		s.fail(w, r, err)
		return
	}
	requests, err := s.o.Backend.Requests(r.Context(), q)
	s.answer(w, r, http.StatusOK, list(requests), err)
}

func (s *site) chart(w http.ResponseWriter, r *http.Request) {
	now := s.o.Now()
	since, err := api.ParseSince(r.URL.Query().Get("since"), now)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if since.IsZero() {
		since = now.Add(-defaultChartSpan)
	}
	hours, err := s.o.Backend.Chart(r.Context(), since)
	s.answer(w, r, http.StatusOK, list(hours), err)
}

func (s *site) explain(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	explanation, err := s.o.Backend.Explain(r.Context(), api.ExplainQuery{
		Model:   q.Get("model"),
		Session: q.Get("session"),
		Key:     q.Get("key"),
	})
	s.answer(w, r, http.StatusOK, explanation, err)
}

// answer writes what the Backend said: v with the status, or its error.
func (s *site) answer(w http.ResponseWriter, r *http.Request, status int, v any, err error) {
	if err != nil {
		s.fail(w, r, err)
		return
	}
	body, err := json.Marshal(v)
	if err != nil { // a number that JSON does not have
		s.fail(w, r, err)
		return
	}
	writeJSON(w, status, body)
}

// fail shows an *api.Error as it is, since it was written for the asker.
// Anything else may hold internals: it goes to the log only.
func (s *site) fail(w http.ResponseWriter, r *http.Request, err error) {
	if refusal, ok := errors.AsType[*api.Error](err); ok {
		writeError(w, refusal.Status, refusal.Message)
		return
	}
	if r.Context().Err() == nil {
		s.o.Logger.Error("answering a dashboard request", zap.String("path", r.URL.Path), zap.Error(err))
	}
	writeError(w, http.StatusInternalServerError, "internal error")
}

func writeError(w http.ResponseWriter, status int, message string) {
	body, _ := json.Marshal(map[string]string{"error": message}) // strings always can be
	writeJSON(w, status, body)
}

func writeJSON(w http.ResponseWriter, status int, body []byte) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client is gone: nobody is left to tell
}

// list makes an empty slice of nil, so that clients always get a JSON array.
func list[T any](items []T) []T {
	if items == nil {
		return []T{}
	}
	return items
}
