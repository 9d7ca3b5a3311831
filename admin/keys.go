package admin

// The routes of client keys.

import (
	"net/http"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
)

// maxGrace bounds how long a rotated key's old credential may go on working.
const maxGrace = 365 * 24 * time.Hour

// rotation is the optional body of a rotation.
type rotation struct {
	GraceSeconds int64 `json:"grace_seconds"`
}

func listKeys(b api.Backend, w http.ResponseWriter, r *http.Request) error {
	keys, err := b.Keys(r.Context())
	return replyList(w, keys, err)
}

func addKey(b api.Backend, w http.ResponseWriter, r *http.Request) error {
	var body api.NewKey
	if err := decodeBody(w, r, &body); err != nil {
		return err
	}
	key, err := b.AddKey(r.Context(), body)
	return reply(w, http.StatusCreated, key, err)
}

func updateKey(b api.Backend, w http.ResponseWriter, r *http.Request) error {
	var body api.KeyPatch
	if err := decodeBody(w, r, &body); err != nil {
		return err
	}
	key, err := b.UpdateKey(r.Context(), r.PathValue("name"), body)
	return reply(w, http.StatusOK, key, err)
}

func revokeKey(b api.Backend, w http.ResponseWriter, r *http.Request) error {
	if err := expectNoBody(w, r); err != nil {
		return err
	}
	return replyNoContent(w, b.RevokeKey(r.Context(), r.PathValue("name")))
}

func rotateKey(b api.Backend, w http.ResponseWriter, r *http.Request) error {
	var body rotation
	if err := decodeOptionalBody(w, r, &body); err != nil {
		return err
	}
	maxSeconds := int64(maxGrace / time.Second)
	if body.GraceSeconds < 0 || body.GraceSeconds > maxSeconds {
		return api.BadRequest(`member "grace_seconds" must be from 0 to %d`, maxSeconds)
	}
	key, err := b.RotateKey(r.Context(), r.PathValue("name"), time.Duration(body.GraceSeconds)*time.Second)
	return reply(w, http.StatusOK, key, err)
}
