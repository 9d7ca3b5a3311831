package claudebalancer

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/claude-balancer/claude-balancer/access"
	"github.com/claude-balancer/claude-balancer/anthropic"
	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/selection"
)

// pass is one request's way through the pool: the first answer that is good
// enough for the client is delivered.
type pass struct {
	h      *Handler
	rt     *runtime
	w      http.ResponseWriter
	r      *http.Request
	ctx    context.Context
	id     string
	start  time.Time
	target anthropic.Target
	who    access.Who
	log    *zap.Logger

	// settleKey ends the request for its key: its cost is spent and its place
	// is free. It may be called more than once; nil without a key.
	settleKey func()

	body    *requestBody
	bodyOut sync.Once
	text    []byte // the body without its encoding, while the request is prepared
	known   anthropic.Body
	hashed  string            // session, for history and log
	want    selection.Request // what selection has to know

	searching bool     // for the owner of an unknown id
	mentions  []string // resources that the body names
	named     []string // of these, those whose owner is known
	list      *list    // to merge; nil if the request is none

	url      *url.URL // that is asked for upstream: its path and query
	spent    int      // attempts that do not count for max_tries
	served   string   // id of the account that has answered a part of the list
	round    int
	tried    []string  // ids of the accounts that this round has had
	results  []*result // one for each account that was tried, in order
	attempts []api.Attempt
	lastTry  time.Duration // what the last try took until it was judged
	held     *answer       // to pass on verbatim if nothing better comes
	repeated bool          // a request that upstream may have got was sent again
	deadline time.Time

	answer    *answer // the one that the client gets
	firstByte time.Time
	refused   *refusal // set when the client gets an error of the balancer's own
	outcome   api.Outcome
	complete  bool   // the answer came to its end
	broken    string // why it did not
	lateError []byte // the error event it ended with
	usage     anthropic.Usage
}

// result sums up what an account did for the request.
type result struct {
	id, name string
	status   int
	cause    anthropic.Cause
	message  string
	tries    int
	refresh  bool // its token was refreshed by force
	passable bool // its last answer is as good for the client as any
	// storeAway: its token has expired, and is not refreshed without the store.
	storeAway bool
}

// errClientGone is the cause of everything that ends because the client left.
var errClientGone = errors.New("the client is gone")

// proxy serves one request.
func (h *Handler) proxy(w http.ResponseWriter, r *http.Request, rt *runtime, target anthropic.Target, who access.Who) {
	p := &pass{h: h, rt: rt, w: w, r: r, id: newID(), start: rt.now(), target: target, who: who, url: r.URL, log: h.logger}
	p.deadline = p.start.Add(time.Duration(h.TryDuration))
	p.ctx = r.Context()
	if key := who.Key; key != nil {
		release, refused := key.Begin(p.start)
		if refused != nil {
			countRefused(refused)
			asRefusal(refused).write(w, r, p.id)
			return
		}
		p.settleKey = func() { release(p.cost()) }
		defer p.settleKey()
		ctx, cancel := context.WithCancelCause(p.ctx)
		defer cancel(nil)
		defer key.OnRevoke(func() { cancel(errKeyRevoked) })()
		p.ctx = ctx
	}
	if target.Endpoint == anthropic.Models {
		ctx, cancel := context.WithTimeoutCause(p.ctx, modelsPatience, errModelsLate)
		defer cancel()
		p.ctx = ctx
		p.deadline = p.start.Add(min(time.Duration(h.TryDuration), modelsPatience))
	}
	metricInFlight(1)
	defer metricInFlight(-1)
	defer p.finish()
	p.refused = p.prepare()
	if p.body != nil {
		defer p.letBodyGo()
	}
	if p.refused == nil && p.outcome == "" {
		p.forward()
	}
	if p.refused != nil {
		p.refused.write(w, r, p.id)
	}
}

// now is the runtime's clock. Waits and the silence of streams are measured in
// real time.
func (p *pass) now() time.Time { return p.rt.now() }

// errKeyRevoked is the cause of everything that ends because the client's key
// was revoked: a wait, a try, an answer that runs.
var errKeyRevoked = errors.New("the client key was revoked")

// modelsPatience is how long a client is kept waiting for the list of models.
// Claude Code waits for 3 s, then does without.
const modelsPatience = 2500 * time.Millisecond

// errModelsLate is the cause of the end of a request for models that took too
// long.
var errModelsLate = errors.New("no list of models in time")

func (p *pass) keyRevoked() bool { return errors.Is(context.Cause(p.ctx), errKeyRevoked) }

// refuseEndedKey answers a request whose key was good when it arrived. It says
// what the key's next request will hear.
func (p *pass) refuseEndedKey() *refusal {
	p.outcome = api.OutcomeRefused
	bad := access.RefuseEnded(p.who)
	countRefused(bad)
	return asRefusal(bad)
}

// prepare reads the request and decides everything that does not depend on an
// account.
func (p *pass) prepare() *refusal {
	messages := strings.HasPrefix(p.r.URL.Path, "/v1/messages")
	body, err := readBody(p.r, bodyLimits{one: p.h.MaxBody, all: p.h.MaxBuffered, account: p.h.buffered, stream: !messages})
	if err != nil {
		return p.refuseBody(err)
	}
	p.body = body
	encoding := p.r.Header.Get("Content-Encoding")
	if body.repeatable() {
		p.text = body.plain(encoding, p.h.MaxBody)
		p.known, p.mentions = anthropic.ReadBody(p.text)
	}
	if refused := p.refuseForKey(encoding); refused != nil {
		return refused
	}

	p.want = selection.Request{
		Model:      p.known.Model,
		Family:     anthropic.FamilyOf(p.known.Model),
		Generative: p.target.Endpoint == anthropic.Messages,
	}
	if p.who.Key != nil {
		p.want.Client = p.who.Key.Name
		p.want.Allowed = p.who.Key.AllowsAccount
	}
	p.findSession()
	if refused := p.findOwner(); refused != nil {
		return refused
	}
	p.text = nil // a decoded copy need not live as long as the answer
	return nil
}

func (p *pass) refuseBody(err error) *refusal {
	switch {
	case errors.Is(err, errBodyTooLarge):
		return refuseTooLarge
	case errors.Is(err, errBodiesTooLarge):
		return refuseBuffered
	case errors.Is(err, errBodyStalled): // it ends the request's context too
		return refuseStalled
	case p.r.Context().Err() != nil:
		p.outcome = api.OutcomeClientGone
		return nil
	default:
		return refuseUnreadable
	}
}

// refuseForKey holds a key that is limited to some models to them. What it asks
// for must be certain: a body that two readers could read differently is
// refused.
func (p *pass) refuseForKey(encoding string) *refusal {
	key := p.who.Key
	if key == nil || !key.Restricted() {
		return nil
	}
	switch p.target.Endpoint {
	case anthropic.Messages, anthropic.CountTokens:
	case anthropic.Models:
		if id := p.target.ID; id != "" && !key.Allows(id) {
			return asRefusal(key.RefuseModel(id))
		}
		return nil
	default:
		return nil
	}
	ambiguous := p.known.Ambiguous || !p.known.Object || p.known.Model == "" ||
		encoding != "" && !strings.EqualFold(encoding, "identity")
	if ambiguous {
		return &refusal{status: http.StatusBadRequest, typ: typeInvalidRequest, message: fmt.Sprintf(
			"This client key is limited to the models %s, so the body must be plain JSON that names its model once.",
			strings.Join(key.Models(), ", "))}
	}
	if !key.Allows(p.known.Model) {
		return asRefusal(key.RefuseModel(p.known.Model))
	}
	return nil
}

// findSession names the conversation, so that affinity can keep it on its
// account.
func (p *pass) findSession() {
	session := anthropic.Session(p.r.Header, p.known)
	if session == "" && p.target.Endpoint == anthropic.Messages && p.body.repeatable() {
		if key, ok := anthropic.ContentKey(p.text); ok {
			session = string(key[:])
		}
	}
	if session == "" {
		return
	}
	p.hashed = hashed(session)
	if keep := time.Duration(*p.h.SessionAffinity); keep > 0 && p.target.Endpoint == anthropic.Messages {
		p.want.Session = hashed(p.want.Client, string(p.want.Family), session)
		p.want.Keep, p.want.WaitUntil = keep, p.start.Add(burstPatience)
	}
}

// forward sends the request through the pool and gives the client the answer.
func (p *pass) forward() {
	res, err := p.roundTrip()
	if err != nil {
		p.failed(err)
		return
	}
	p.deliver(res)
}

// letBodyGo drops the request's own hold on its body: no try will need it.
func (p *pass) letBodyGo() { p.bodyOut.Do(p.body.release) }

// failed takes note of why there is no answer.
func (p *pass) failed(err error) {
	var refused *refusal
	switch {
	case errors.As(err, &refused):
		p.refused = refused
	case p.keyRevoked():
		p.refused = p.refuseEndedKey()
	case errors.Is(context.Cause(p.ctx), errModelsLate):
		p.refused = p.refuseTimeout()
	default:
		p.outcome = api.OutcomeClientGone
	}
}

// result returns the sum of what the account did so far.
func (p *pass) result(t *selection.Ticket) *result {
	for _, r := range p.results {
		if r.id == t.ID {
			return r
		}
	}
	r := &result{id: t.ID, name: t.Name}
	p.results = append(p.results, r)
	return r
}

// triedNow marks the account as tried in this round.
func (p *pass) triedNow(id string) {
	if !slices.Contains(p.tried, id) {
		p.tried = append(p.tried, id)
	}
}
