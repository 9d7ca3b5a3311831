package simulator

// /_simulator/: the simulator by HTTP, for tests in other languages and by hand.

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

const controlPrefix = "/_simulator/"

// controlAccount is an Account in JSON, with the credentials in an answer.
type controlAccount struct {
	Name         string          `json:"name"`
	Plan         string          `json:"plan"`
	TokenLife    string          `json:"token_life,omitempty"` // such as "1h"
	Windows      []controlWindow `json:"windows,omitempty"`
	ExtraUsage   bool            `json:"extra_usage,omitempty"`
	Families     []string        `json:"families,omitempty"`
	AccountUUID  string          `json:"account_uuid,omitempty"`
	AccessToken  string          `json:"access_token,omitempty"`
	RefreshToken string          `json:"refresh_token,omitempty"`
	APIKey       string          `json:"api_key,omitempty"`
	ExpiresAt    *int64          `json:"expires_at,omitempty"` // ms
	Requests     int64           `json:"requests"`
	Refreshes    int64           `json:"refreshes"`
	Reuses       int64           `json:"reuses"`
}

type controlWindow struct {
	Name   string `json:"name"`
	Limit  int64  `json:"limit"`
	Tokens bool   `json:"tokens,omitempty"`
	Length string `json:"length,omitempty"`
	Family string `json:"family,omitempty"`
}

// controlStep is a Step in JSON. Do names a Behaviour; the members after it are
// its parameters.
type controlStep struct {
	Account string            `json:"account"`
	Path    string            `json:"path"`
	Times   int               `json:"times"`
	Status  int               `json:"status"`
	Header  map[string]string `json:"header"`
	Body    string            `json:"body"`
	Delay   string            `json:"delay"`
	Do      string            `json:"do"`

	ResetIn    string `json:"reset_in"`    // windows; default "1h"
	RetryAfter string `json:"retry_after"` // burst
	Window     string `json:"window"`      // scoped_window; default 7d_oi
	Type       string `json:"type"`        // error events; default overloaded_error
	After      int    `json:"after"`       // events before a fault
	Count      int    `json:"count"`       // pings
	Gap        string `json:"gap"`         // between pings, between pieces, of silence
	KeepOpen   bool   `json:"keep_open"`   // answer_before_reading
}

func (s *Simulator) controlHandler() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, serve func(r *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			answer, err := serve(r)
			w.Header().Set("Content-Type", "application/json")
			if err != nil {
				w.WriteHeader(http.StatusBadRequest)
				answer = map[string]string{"error": err.Error()}
			}
			_ = json.NewEncoder(w).Encode(answer) // the client may have left
		})
	}
	handle("GET /_simulator/accounts", func(*http.Request) (any, error) { return s.controlAccounts(), nil })
	handle("POST /_simulator/accounts", s.controlAdd)
	handle("POST /_simulator/accounts/{name}/{action}", s.controlAct)
	handle("POST /_simulator/approve", s.controlApprove)
	handle("POST /_simulator/script", s.controlScript)
	handle("DELETE /_simulator/script", func(r *http.Request) (any, error) {
		s.Unscript(r.URL.Query().Get("account"))
		return done, nil
	})
	handle("GET /_simulator/requests", func(*http.Request) (any, error) { return s.controlRequests(), nil })
	handle("DELETE /_simulator/requests", func(*http.Request) (any, error) {
		s.Reset()
		return done, nil
	})
	handle("GET /_simulator/counters", func(*http.Request) (any, error) {
		return map[string]int{
			"requests": s.Count(""), "active_streams": s.ActiveStreams(), "in_flight": s.InFlight(), "cancelled": s.Cancelled(),
		}, nil
	})
	return mux
}

var done = map[string]bool{"ok": true}

func (s *Simulator) controlAccounts() []controlAccount {
	list := []controlAccount{}
	for _, a := range s.all() {
		list = append(list, s.controlAccount(a))
	}
	return list
}

func (s *Simulator) controlAccount(a *account) controlAccount {
	c := s.Credentials(a.Name)
	view := controlAccount{
		Name: a.Name, Plan: a.Plan, TokenLife: a.TokenLife.String(), ExtraUsage: a.ExtraUsage, Families: a.Families,
		AccountUUID: c.AccountUUID, AccessToken: c.Access.Reveal(), RefreshToken: c.Refresh.Reveal(), APIKey: c.APIKey.Reveal(),
		Requests: a.requests.Load(), Refreshes: a.refreshes.Load(), Reuses: a.reuses.Load(),
	}
	if !c.ExpiresAt.IsZero() {
		ms := c.ExpiresAt.UnixMilli()
		view.ExpiresAt = &ms
	}
	for _, w := range a.windows {
		view.Windows = append(view.Windows, controlWindow{w.Name, w.Limit, w.Tokens, w.Length.String(), w.Family})
	}
	return view
}

func (s *Simulator) controlAdd(r *http.Request) (any, error) {
	var in controlAccount
	if err := readControl(r, &in); err != nil {
		return nil, err
	}
	if in.Name == "" {
		return nil, fmt.Errorf("name is missing")
	}
	life, err := duration(in.TokenLife, 0)
	if err != nil {
		return nil, err
	}
	settings := Account{Name: in.Name, Plan: in.Plan, TokenLife: life, ExtraUsage: in.ExtraUsage, Families: in.Families}
	for _, w := range in.Windows {
		length, err := duration(w.Length, 0)
		if err != nil {
			return nil, err
		}
		settings.Windows = append(settings.Windows, Window{w.Name, w.Limit, w.Tokens, length, w.Family})
	}
	if _, err := s.add(settings); err != nil {
		return nil, err
	}
	return s.controlAccount(s.account(in.Name)), nil
}

func (s *Simulator) controlAct(r *http.Request) (any, error) {
	name, action := r.PathValue("name"), r.PathValue("action")
	do := map[string]func(string){
		"expire_access": s.ExpireAccess, "revoke_access": s.RevokeAccess, "kill_refresh": s.KillRefresh,
		"hold": s.Hold, "release": s.Release,
	}[action]
	if do == nil {
		return nil, fmt.Errorf("no action %q", action)
	}
	if s.account(name) == nil {
		return nil, fmt.Errorf("no account %q", name)
	}
	do(name)
	return done, nil
}

func (s *Simulator) controlApprove(r *http.Request) (any, error) {
	var in struct{ URL, Account string }
	if err := readControl(r, &in); err != nil {
		return nil, err
	}
	code, err := s.Approve(in.URL, in.Account)
	if err != nil {
		return nil, err
	}
	return map[string]string{"code": code}, nil
}

func (s *Simulator) controlScript(r *http.Request) (any, error) {
	var in controlStep
	if err := readControl(r, &in); err != nil {
		return nil, err
	}
	if in.Account != "" && s.account(in.Account) == nil {
		return nil, fmt.Errorf("no account %q", in.Account)
	}
	delay, err := duration(in.Delay, 0)
	if err != nil {
		return nil, err
	}
	step := Step{Path: in.Path, Times: in.Times, Status: in.Status, Header: make(http.Header), Body: in.Body, Delay: delay}
	for name, value := range in.Header {
		step.Header.Set(name, value)
	}
	if in.Do != "" {
		if step.Do, err = s.behaviour(in); err != nil {
			return nil, err
		}
	}
	s.Script(in.Account, step)
	return done, nil
}

// behaviour returns the Behaviour that a step names.
func (s *Simulator) behaviour(in controlStep) (Behaviour, error) {
	resetIn, err := duration(in.ResetIn, time.Hour)
	if err != nil {
		return nil, err
	}
	retryAfter, err := duration(in.RetryAfter, 0)
	if err != nil {
		return nil, err
	}
	gap, err := duration(in.Gap, 0)
	if err != nil {
		return nil, err
	}
	reset, window, kind, status := s.now().Add(resetIn), in.Window, in.Type, in.Status
	if window == "" {
		window = "7d_oi"
	}
	if kind == "" {
		kind = overloaded
	}
	if status == 0 {
		status = http.StatusInternalServerError
	}
	b := map[string]Behaviour{
		"window_5h": Window5h(reset), "weekly": Weekly(reset), "scoped_window": ScopedWindow(window, reset),
		"windows_only": WindowsOnly(reset), "unified_429": Unified429, "out_of_credits": OutOfCredits,
		"credits_required": CreditsRequired, "spend_limit": SpendLimit, "burst": Burst(retryAfter), "bare_429": Bare429,
		"overloaded_529": Overloaded529, "server_error": ServerError(status), "unauthorized": Unauthorized,
		"token_revoked_403": TokenRevoked403, "oauth_not_allowed": OAuthNotAllowed, "org_disabled": OrgDisabled,
		"on_hold": OnHold, "model_forbidden": ModelForbidden, "billing_402": Billing402, "api_spend_400": APISpend400,
		"extra_usage_400": ExtraUsage400, "bad_request_400": BadRequest400, "extra_usage_200": ExtraUsage200,
		"first_event_error": FirstEventError(kind), "late_event_error": LateEventError(kind, in.After),
		"cut_stream": CutStream(in.After), "end_without_stop": EndWithoutStop(in.After),
		"silent_start": SilentStart(gap), "silent_stream": SilentStream(gap),
		"pings_before_first_event": PingsBeforeFirstEvent(in.Count, gap),
		"reset_before_headers":     ResetBeforeHeaders, "reset_after_read": ResetAfterRead, "hang": Hang,
		"answer_before_reading": AnswerBeforeReading(status, in.KeepOpen), "slow_body": SlowBody(gap), "drop_answer": DropAnswer,
	}[in.Do]
	if b == nil {
		return nil, fmt.Errorf("no behaviour %q", in.Do)
	}
	return b, nil
}

// controlRequest is a Seen in JSON.
type controlRequest struct {
	Time     int64       `json:"time"` // ms
	Account  string      `json:"account"`
	Method   string      `json:"method"`
	Host     string      `json:"host"`
	Path     string      `json:"path"`
	RawQuery string      `json:"raw_query"`
	Proto    string      `json:"proto"`
	Header   http.Header `json:"header"`
	Body     string      `json:"body"`
	BodySize int64       `json:"body_size"`
	BodySum  string      `json:"body_sha256"`
}

func (s *Simulator) controlRequests() []controlRequest {
	list := []controlRequest{}
	for _, r := range s.Requests() {
		list = append(list, controlRequest{
			r.Time.UnixMilli(), r.Account, r.Method, r.Host, r.Path, r.RawQuery, r.Proto, r.Header,
			string(r.Body), r.BodySize, fmt.Sprintf("%x", r.BodySum),
		})
	}
	return list
}

func readControl(r *http.Request, to any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(to); err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	return nil
}

func duration(s string, otherwise time.Duration) (time.Duration, error) {
	if s == "" {
		return otherwise, nil
	}
	return time.ParseDuration(s)
}
