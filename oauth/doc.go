// Package oauth logs accounts in and keeps their tokens fresh: the login with
// PKCE (Logins), the calls to the provider's token endpoint (Client), and the
// Source, which hands out a valid token for every account and loses none.
package oauth
