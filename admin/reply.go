package admin

// The one writer of answers and the one place where errors get their status.

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2"

	"github.com/claude-balancer/claude-balancer/api"
)

// reply writes v with the status, or passes err on. It takes both, so that a
// handler is one call of the backend and one of reply.
func reply(w http.ResponseWriter, status int, v any, err error) error {
	if err != nil {
		return err
	}
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false) // a login's URL stays readable
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("encoding the answer: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(body.Bytes())
	return nil
}

// replyList is reply for lists, which are never null.
func replyList[T any](w http.ResponseWriter, list []T, err error) error {
	if list == nil {
		list = []T{}
	}
	return reply(w, http.StatusOK, list, err)
}

func replyNoContent(w http.ResponseWriter, err error) error {
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// asAPIError gives an error the form that Caddy answers with: an APIError by
// value, since Caddy looks through no wrapping. A refusal keeps its status and
// sentence; the rest is the balancer's own failure.
func asAPIError(err error) error {
	if err == nil {
		return nil
	}
	var refusal *api.Error
	if errors.As(err, &refusal) && refusal.Status >= 400 && refusal.Status < 600 {
		return caddy.APIError{HTTPStatus: refusal.Status, Err: err, Message: refusal.Message}
	}
	return caddy.APIError{
		HTTPStatus: http.StatusInternalServerError,
		Err:        err,
		Message:    "the balancer failed: " + err.Error(),
	}
}
