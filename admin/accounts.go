package admin

// The routes of accounts and logins.

import (
	"net/http"

	"github.com/claude-balancer/claude-balancer/api"
)

func listAccounts(b api.Backend, w http.ResponseWriter, r *http.Request) error {
	accounts, err := b.Accounts(r.Context())
	return replyList(w, accounts, err)
}

func addAccount(b api.Backend, w http.ResponseWriter, r *http.Request) error {
	var body api.NewAccount
	if err := decodeBody(w, r, &body); err != nil {
		return err
	}
	account, err := b.AddAccount(r.Context(), body)
	return reply(w, http.StatusCreated, account, err)
}

func getAccount(b api.Backend, w http.ResponseWriter, r *http.Request) error {
	account, err := b.Account(r.Context(), r.PathValue("name"))
	return reply(w, http.StatusOK, account, err)
}

func updateAccount(b api.Backend, w http.ResponseWriter, r *http.Request) error {
	var body api.AccountPatch
	if err := decodeBody(w, r, &body); err != nil {
		return err
	}
	account, err := b.UpdateAccount(r.Context(), r.PathValue("name"), body)
	return reply(w, http.StatusOK, account, err)
}

func removeAccount(b api.Backend, w http.ResponseWriter, r *http.Request) error {
	if err := expectNoBody(w, r); err != nil {
		return err
	}
	return replyNoContent(w, b.RemoveAccount(r.Context(), r.PathValue("name")))
}

func refreshAccount(b api.Backend, w http.ResponseWriter, r *http.Request) error {
	if err := expectNoBody(w, r); err != nil {
		return err
	}
	account, err := b.RefreshAccount(r.Context(), r.PathValue("name"))
	return reply(w, http.StatusOK, account, err)
}

func clearLimits(b api.Backend, w http.ResponseWriter, r *http.Request) error {
	if err := expectNoBody(w, r); err != nil {
		return err
	}
	account, err := b.ClearLimits(r.Context(), r.PathValue("name"))
	return reply(w, http.StatusOK, account, err)
}

func startLogin(b api.Backend, w http.ResponseWriter, r *http.Request) error {
	var body api.LoginRequest
	if err := decodeBody(w, r, &body); err != nil {
		return err
	}
	login, err := b.StartLogin(r.Context(), body)
	return reply(w, http.StatusCreated, login, err)
}

func finishLogin(b api.Backend, w http.ResponseWriter, r *http.Request) error {
	var body api.LoginCode
	if err := decodeBody(w, r, &body); err != nil {
		return err
	}
	account, err := b.FinishLogin(r.Context(), r.PathValue("id"), body)
	return reply(w, http.StatusCreated, account, err)
}
