package signin

// The page on which a person approves a sign-in, or denies it.

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"html/template"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/claude-balancer/claude-balancer/access"
	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/secret"
	"github.com/claude-balancer/claude-balancer/store"
)

// User is a person whom the server has authenticated in front of the page.
type User struct {
	Name string
	// Key returns the client key that the person approves for, and makes it if
	// need be. An *api.Error is shown.
	Key func(ctx context.Context) (id, name string, err error)
}

//go:embed page.html
var pageHTML string

//go:embed page.css
var pageCSS string

// page is what the template shows.
type page struct {
	Code      string // well-formed, or ""
	User      string // "" = a client key is asked for
	Problem   string
	WrongKey  bool
	WrongCode bool
	Key       string // done: the key's name
	Approved  bool
	Denied    bool
}

var pageTemplate = template.Must(template.New("page").Parse(pageHTML))

// pagePolicy lets the page load its style sheet and send its form, and nothing
// else.
const pagePolicy = "default-src 'none'; style-src 'self'; img-src data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"

// serveStyle serves the style sheet: the dashboard's, and what the page adds.
func (f *Flow) serveStyle(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "private, no-cache")
	h.Set("Content-Type", "text/css; charset=utf-8")
	h.Set("ETag", f.styleTag)
	http.ServeContent(w, r, stylePath, time.Time{}, strings.NewReader(f.Style))
}

func (f *Flow) servePage(w http.ResponseWriter, r *http.Request, from Caller) {
	p := page{}
	if from.User != nil {
		p.User = from.User.Name
	}
	status := http.StatusOK
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodHead && r.Method != http.MethodPost:
		w.Header().Set("Allow", "GET, HEAD, POST")
		status, p.Problem = http.StatusMethodNotAllowed, "This page takes GET and POST."
	case !from.Secure:
		status, p.Problem = http.StatusBadRequest, "Open this page over https://. Over http:// anyone on the way could read your key."
	case r.Method == http.MethodPost:
		status = f.decide(w, r, from, &p)
	default:
		p.Code = readUserCode(r.URL.Query().Get("user_code"))
	}
	f.show(w, status, p)
}

func (f *Flow) show(w http.ResponseWriter, status int, p page) {
	var out bytes.Buffer
	if err := pageTemplate.Execute(&out, p); err != nil {
		f.Logger().Error("writing the sign-in page", zap.Error(err))
		status = http.StatusInternalServerError
		out.Reset()
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", pagePolicy)
	h.Set("X-Frame-Options", "DENY")
	// Not no-referrer: a browser would then call the page's own form's origin
	// null. The address holds a code that is worth little and nothing else.
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	w.WriteHeader(status)
	_, _ = w.Write(out.Bytes()) // the browser may be gone
}

// decide takes the form. Who sends it is settled first: without a good key, or
// a user, nobody learns whether a code waits.
func (f *Flow) decide(w http.ResponseWriter, r *http.Request, from Caller, p *page) (status int) {
	if !fromThePage(r, from) {
		p.Problem = "This form did not come from this page. Open the page itself and try again."
		return http.StatusForbidden
	}
	form, err := readForm(w, r)
	if err != nil {
		p.Problem = "The form could not be read. Try again."
		return formError(err).status
	}
	p.Code = readUserCode(form.Get("user_code"))
	id, name, refused := f.approver(r.Context(), from, form)
	if refused != nil {
		p.Problem, p.WrongKey = refused.message, refused.key
		if refused.wait > 0 {
			setRetryAfter(w, refused.wait)
		}
		return refused.status
	}
	if wait, blocked := f.codes.Blocked(from.Client); blocked {
		setRetryAfter(w, wait)
		p.Problem = "Too many wrong codes came from your address. Wait a minute and try again."
		return http.StatusTooManyRequests
	}
	approve := form.Get("decision") == "approve"
	if !approve && form.Get("decision") != "deny" {
		p.Problem = "Choose Approve or Deny."
		return http.StatusBadRequest
	}
	who, err := "user "+p.User, error(nil)
	if p.User == "" {
		who = "key " + name
	}
	if approve {
		err = f.Store.DecideDevice(r.Context(), p.Code, id)
	} else {
		err = f.Store.DecideDevice(r.Context(), p.Code, "")
	}
	switch {
	case errors.Is(err, store.ErrNotFound):
		f.codes.Failed(from.Client)
		p.WrongCode = true
		p.Problem = "No sign-in waits under this code. Compare it with your terminal; it may have expired, or have been used."
		return http.StatusBadRequest
	case err != nil:
		f.Logger().Error("deciding on a sign-in", zap.Error(err))
		p.Problem = "The decision could not be stored. Try again in a moment."
		return http.StatusInternalServerError
	case approve:
		f.Audit(r.Context(), "sign_in.approve", who, name)
		p.Approved, p.Key = true, name
	default:
		f.Audit(r.Context(), "sign_in.deny", who, name)
		p.Denied = true
	}
	return http.StatusOK
}

// refusal says why a person may not decide.
type refusal struct {
	status  int
	message string
	key     bool // it is about the client key
	wait    time.Duration
}

// approver finds out for which client key a person decides.
func (f *Flow) approver(ctx context.Context, from Caller, form url.Values) (id, name string, refused *refusal) {
	if from.User != nil {
		return f.userKey(ctx, from.User)
	}
	typed := secret.New(strings.TrimSpace(form.Get("key")))
	key, ok := f.Keys.Find(typed)
	switch {
	case !ok:
		return "", "", f.wrongKey(from.Client)
	case key.Role != api.RoleClient:
		return "", "", &refusal{status: http.StatusForbidden, key: true,
			message: "This client key may only read the dashboard. Use a key with the role client."}
	}
	return key.ID, key.Name, nil
}

func (f *Flow) wrongKey(client netip.Addr) *refusal {
	r := f.Guard.Refuse(client, access.RefuseBadKey())
	if r.Status == http.StatusTooManyRequests {
		return &refusal{status: r.Status, message: r.Message, key: true, wait: r.RetryAfter}
	}
	// Not 401, to which browsers expect a challenge.
	return &refusal{status: http.StatusForbidden, message: r.Message, key: true}
}

func (f *Flow) userKey(ctx context.Context, u *User) (id, name string, refused *refusal) {
	id, name, err := u.Key(ctx)
	if err == nil {
		return id, name, nil
	}
	if told := (*api.Error)(nil); errors.As(err, &told) {
		return "", "", &refusal{status: http.StatusForbidden, message: told.Message}
	}
	f.Logger().Error("finding the client key of a user", zap.String("user", u.Name), zap.Error(err))
	return "", "", &refusal{status: http.StatusInternalServerError, message: "Your client key could not be read. Try again in a moment."}
}

// fromThePage reports whether a form was sent by the page and not by another
// site's. A typed key is nothing that a stranger's form could send along; a
// user whom the browser authenticates by itself is, so then the browser must
// say where the form comes from.
func fromThePage(r *http.Request, from Caller) bool {
	var protection http.CrossOriginProtection
	if u, err := url.Parse(from.BaseURL); err == nil && u.Host != "" {
		_ = protection.AddTrustedOrigin(u.Scheme + "://" + u.Host) // what the browser calls us, behind whatever proxy
	}
	if protection.Check(r) != nil {
		return false
	}
	told := r.Header.Get("Sec-Fetch-Site") != "" || r.Header.Get("Origin") != ""
	return told || from.User == nil
}
