package signin

// The endpoints that clients talk to: discovery, device authorization, token
// and revocation. None needs authentication.

import (
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/claude-balancer/claude-balancer/secret"
	"github.com/claude-balancer/claude-balancer/store"
)

// Paths below the base URL. Clients use the two they do not find in the
// metadata at these places.
const (
	discoveryPath = "/.well-known/oauth-authorization-server"
	devicePath    = "/oauth/device_authorization"
	tokenPath     = "/oauth/token"
	revokePath    = "/oauth/revoke"
	pagePath      = "/device"
	stylePath     = "/device.css"
)

// Owns reports whether a path belongs to the sign-in.
func Owns(path string) bool {
	switch path {
	case discoveryPath, devicePath, tokenPath, revokePath, pagePath, stylePath:
		return true
	}
	return false
}

// Grant types of the token endpoint.
const (
	grantDevice  = "urn:ietf:params:oauth:grant-type:device_code"
	grantRefresh = "refresh_token"
)

// maxForm bounds a request's body. Forms of this protocol have a few hundred
// bytes.
const maxForm = 64 << 10

// Caller is what the server knows of a request.
type Caller struct {
	// BaseURL is what the client calls this site by: scheme, host and the path
	// below which the site is, without a slash at the end.
	BaseURL string
	// Secure is set if nobody on the way could read the request: it came over
	// HTTPS, or on this machine.
	Secure bool
	Client netip.Addr
	// User is whom the server has authenticated in front of the page; nil =
	// nobody, so that a client key is asked for.
	User *User
}

// ServeHTTP answers a request for a path that Owns reports.
func (f *Flow) ServeHTTP(w http.ResponseWriter, r *http.Request, s *Settings, from Caller) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if r.URL.Path == pagePath {
		f.servePage(w, r, from)
		return
	}
	method := http.MethodPost
	if r.URL.Path == discoveryPath || r.URL.Path == stylePath {
		method = http.MethodGet
	}
	switch {
	case r.Method != method && !(method == http.MethodGet && r.Method == http.MethodHead):
		h.Set("Allow", method)
		writeError(w, &oauthError{405, "invalid_request", "This endpoint takes " + method + "."})
	case r.URL.Path == stylePath:
		f.serveStyle(w, r)
	case !from.Secure:
		writeError(w, errInsecure)
	case r.URL.Path == discoveryPath:
		writeJSON(w, http.StatusOK, metadataOf(from.BaseURL))
	case r.URL.Path == devicePath:
		f.serveDevice(w, r, s, from)
	case r.URL.Path == tokenPath:
		f.serveToken(w, r, s)
	default:
		f.serveRevoke(w, r)
	}
}

var (
	errInsecure = &oauthError{400, "invalid_request", "Sign-in needs https://, except on the machine itself."}
	errTooLarge = &oauthError{413, "invalid_request", "The form is too large."}
	errNoForm   = &oauthError{400, "invalid_request", "The body is no form."}
	errInternal = &oauthError{500, "server_error", "The gateway could not do this now. Its log says why."}
)

// metadata describes the sign-in. Source: RFC 8414, 2.
type metadata struct {
	Issuer                string   `json:"issuer"`
	DeviceEndpoint        string   `json:"device_authorization_endpoint"`
	TokenEndpoint         string   `json:"token_endpoint"`
	RevocationEndpoint    string   `json:"revocation_endpoint"`
	GrantTypes            []string `json:"grant_types_supported"`
	ResponseTypes         []string `json:"response_types_supported"` // required, and none
	TokenAuthMethods      []string `json:"token_endpoint_auth_methods_supported"`
	RevocationAuthMethods []string `json:"revocation_endpoint_auth_methods_supported"`
}

func metadataOf(base string) metadata {
	return metadata{
		Issuer:         base,
		DeviceEndpoint: base + devicePath, TokenEndpoint: base + tokenPath, RevocationEndpoint: base + revokePath,
		GrantTypes:    []string{grantDevice, grantRefresh},
		ResponseTypes: []string{}, TokenAuthMethods: []string{"none"}, RevocationAuthMethods: []string{"none"},
	}
}

// deviceAnswer is RFC 8628's, with what Claude Code adds.
type deviceAnswer struct {
	DeviceCode              string `json:"device_code"`
	UserCode                string `json:"user_code"`
	VerificationURI         string `json:"verification_uri"`
	VerificationURIComplete string `json:"verification_uri_complete"`
	ExpiresIn               int    `json:"expires_in"`
	Interval                int    `json:"interval"`
	LoginNotice             string `json:"login_notice,omitempty"`
}

// serveDevice begins a sign-in. Nothing in the form matters: clients send what
// they like, or nothing.
func (f *Flow) serveDevice(w http.ResponseWriter, r *http.Request, s *Settings, from Caller) {
	if _, err := io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, maxForm)); err != nil {
		writeError(w, formError(err))
		return
	}
	if wait, blocked := f.begins.Blocked(from.Client); blocked {
		setRetryAfter(w, wait)
		writeError(w, &oauthError{429, "slow_down", "Too many sign-ins begin at this address. Try again later."})
		return
	}
	f.begins.Failed(from.Client)
	begun, err := f.begin(r.Context())
	switch {
	case errors.Is(err, store.ErrFull):
		setRetryAfter(w, time.Minute)
		writeError(w, &oauthError{503, "temporarily_unavailable", "Too many sign-ins wait for approval. Try again in a few minutes."})
	case err != nil:
		f.fail(w, r, "beginning a sign-in", err)
	default:
		page := from.BaseURL + pagePath
		writeJSON(w, http.StatusOK, deviceAnswer{
			DeviceCode: begun.deviceCode.Reveal(), UserCode: begun.userCode,
			VerificationURI: page, VerificationURIComplete: page + "?user_code=" + begun.userCode,
			ExpiresIn: int(codeLifetime.Seconds()), Interval: int(pollInterval.Seconds()), LoginNotice: s.Notice,
		})
	}
}

// tokenAnswer is RFC 6749's, with what Claude Code adds.
type tokenAnswer struct {
	AccessToken  string `json:"access_token"`
	TokenType    string `json:"token_type"`
	ExpiresIn    int    `json:"expires_in"`
	RefreshToken string `json:"refresh_token"`
	Email        string `json:"email,omitempty"` // whom the client shows as signed in
}

func (f *Flow) serveToken(w http.ResponseWriter, r *http.Request, s *Settings) {
	form, err := readForm(w, r)
	if err != nil {
		writeError(w, formError(err))
		return
	}
	var made tokens
	switch grant := form.Get("grant_type"); grant {
	case grantDevice:
		made, err = f.redeem(r.Context(), s, secret.New(form.Get("device_code")))
	case grantRefresh:
		made, err = f.refresh(r.Context(), s, secret.New(form.Get("refresh_token")))
	case "":
		err = &oauthError{400, "invalid_request", "The form lacks grant_type."}
	default:
		err = &oauthError{400, "unsupported_grant_type", "Supported are " + grantDevice + " and " + grantRefresh + "."}
	}
	if refused := (*oauthError)(nil); errors.As(err, &refused) {
		writeError(w, refused)
		return
	}
	if err != nil {
		f.fail(w, r, "issuing tokens", err)
		return
	}
	answer := tokenAnswer{
		AccessToken: made.access.Reveal(), TokenType: "Bearer",
		ExpiresIn: int(made.expiresIn.Seconds()), RefreshToken: made.refresh.Reveal(),
	}
	if strings.Contains(made.keyName, "@") {
		answer.Email = made.keyName
	}
	writeJSON(w, http.StatusOK, answer)
}

// serveRevoke says the same of tokens that were good and of others. Source:
// RFC 7009, 2.2.
func (f *Flow) serveRevoke(w http.ResponseWriter, r *http.Request) {
	form, err := readForm(w, r)
	if err == nil && form.Get("token") == "" {
		err = &oauthError{400, "invalid_request", "The form lacks token."}
	}
	if err != nil {
		writeError(w, formError(err))
		return
	}
	if err := f.revoke(r.Context(), secret.New(form.Get("token"))); err != nil {
		f.fail(w, r, "revoking a sign-in", err)
		return
	}
	w.WriteHeader(http.StatusOK)
}

// readForm reads the body as a form, whatever its content type says. What the
// query holds does not count: it gets into logs.
func readForm(w http.ResponseWriter, r *http.Request) (url.Values, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxForm))
	if err != nil {
		return nil, err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, errNoForm
	}
	return form, nil
}

func formError(err error) *oauthError {
	if refused := (*oauthError)(nil); errors.As(err, &refused) {
		return refused
	}
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return errTooLarge
	}
	return errNoForm
}

// fail answers for what only the operator can mend.
func (f *Flow) fail(w http.ResponseWriter, r *http.Request, doing string, err error) {
	if r.Context().Err() != nil {
		return // the client is gone
	}
	f.Logger().Error(doing, zap.Error(err))
	writeError(w, errInternal)
}

func writeError(w http.ResponseWriter, e *oauthError) { writeJSON(w, e.status, e) }

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client may be gone
}

func setRetryAfter(w http.ResponseWriter, wait time.Duration) {
	w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
}
