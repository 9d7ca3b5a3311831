package claudebalancer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/claude-balancer/claude-balancer/anthropic"
	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/store"
)

// Lists of batches, files and skills are merged as if one account had them all:
// account by account in the order of the pool, each in upstream's own order. A
// page asks as many accounts as it takes to fill it. Cursors are upstream's: the
// ids of items, or for skills a page token, with its account in front.
//
// Accounts that are paused, disabled or need a login are left out: X-Proxy-Account
// names those that are in. An account that is in and fails fails the list, since
// an incomplete one would look complete.

const (
	defaultList = 20
	maxList     = 1000
	filterList  = 100      // asked for at least, where some of it may not be shown
	maxListBody = 64 << 20 // bytes of one account's page
)

// list is a merged list on its way to the client.
type list struct {
	p        *pass
	query    url.Values
	limit    int
	accounts []string // ids of those that are in
	asked    []string // names, in the order of asking
	refused  *http.Response
}

// listItem is an entry as upstream wrote it.
type listItem struct {
	json.RawMessage
	id      string
	account int // index in list.accounts
}

// listPage is one account's page.
type listPage struct {
	Data     []json.RawMessage `json:"data"`
	HasMore  bool              `json:"has_more"`
	NextPage string            `json:"next_page"`
}

// newList returns nil if there is nothing to merge: one account's list, all of
// which the client may see, passes as it is.
func (p *pass) newList() (*list, *refusal) {
	l := &list{p: p, query: p.r.URL.Query(), limit: defaultList}
	members := p.rt.pool.Snapshot()
	if p.who.Key == nil && len(members) <= 1 {
		return nil, nil
	}
	if text := l.query.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > maxList {
			return nil, &refusal{status: http.StatusBadRequest, typ: typeInvalidRequest,
				message: fmt.Sprintf("limit: must be from 1 to %d.", maxList)}
		}
		l.limit = n
	}
	for _, m := range members {
		switch m.Status {
		case api.StatusPaused, api.StatusNeedsLogin, api.StatusDisabled:
			continue
		}
		if p.want.Allowed == nil || p.want.Allowed(m.Name) {
			l.accounts = append(l.accounts, m.ID)
		}
	}
	if len(l.accounts) == 0 {
		return nil, nil // the usual refusal says why
	}
	p.body.drop()
	return l, nil
}

// answer gathers the page that the client asked for.
func (l *list) answer() (*http.Response, error) {
	var out any
	var err error
	switch {
	case l.p.target.Endpoint == anthropic.Skills:
		out, err = l.byToken()
	case l.query.Get("before_id") != "":
		out, err = l.before(l.query.Get("before_id"))
	default:
		out, err = l.after(l.query.Get("after_id"))
	}
	var whole *wholeAnswer
	switch {
	case errors.As(err, &whole):
		return l.send(whole.Response), nil
	case err != nil:
		l.p.forgetAnswer()
		return nil, err
	case l.refused != nil && len(l.asked) == 0: // each of them said no
		return l.send(l.refused), nil
	}
	body, err := json.Marshal(out)
	if err != nil {
		return nil, err
	}
	header := l.p.answer.res.Header
	header.Set("Content-Type", "application/json")
	return l.send(&http.Response{StatusCode: http.StatusOK, Header: header, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body))}), nil
}

// send makes a gathered answer the client's.
func (l *list) send(res *http.Response) *http.Response {
	res.Header.Del("Content-Length")
	if *l.p.h.ExposeAccount && len(l.asked) > 0 {
		res.Header["X-Proxy-Account"] = []string{strings.Join(l.asked, ", ")}
	}
	l.p.answer.res = res
	return res
}

// idPage is a page whose cursors are ids.
type idPage struct {
	Data    []json.RawMessage `json:"data"`
	HasMore bool              `json:"has_more"`
	FirstID *string           `json:"first_id"`
	LastID  *string           `json:"last_id"`
}

func (l *list) idPage(items []listItem, more bool) idPage {
	out := idPage{Data: []json.RawMessage{}, HasMore: more}
	for _, item := range items {
		out.Data = append(out.Data, item.RawMessage)
	}
	if n := len(items); n > 0 {
		for _, end := range []listItem{items[0], items[n-1]} {
			l.p.rt.cursors.add(end.id, l.accounts[end.account], l.p.start)
		}
		out.FirstID, out.LastID = &items[0].id, &items[n-1].id
	}
	return out
}

// after gathers what follows a cursor, or the beginning.
func (l *list) after(cursor string) (any, error) {
	first, err := l.accountOf(cursor)
	if err != nil {
		return nil, err
	}
	var items []listItem
	for i := first; i < len(l.accounts) && len(items) <= l.limit; i++ {
		for more := true; more && len(items) <= l.limit; {
			var page []listItem
			if page, more, err = l.page(i, "after_id", cursor, l.limit+1-len(items)); err != nil {
				return nil, err
			}
			if cursor = lastID(page); cursor == "" {
				more = false
			}
			if items, err = l.show(items, page); err != nil {
				return nil, err
			}
		}
		cursor = ""
	}
	more := len(items) > l.limit
	return l.idPage(items[:min(len(items), l.limit)], more), nil
}

// before gathers what stands in front of a cursor.
func (l *list) before(cursor string) (any, error) {
	last, err := l.accountOf(cursor)
	if err != nil {
		return nil, err
	}
	var items []listItem // the other way round
	for more := true; more && len(items) <= l.limit; {
		var page []listItem
		if page, more, err = l.page(last, "before_id", cursor, l.limit+1-len(items)); err != nil {
			return nil, err
		}
		slices.Reverse(page)
		if cursor = lastID(page); cursor == "" {
			more = false
		}
		if items, err = l.show(items, page); err != nil {
			return nil, err
		}
	}
	for i := last - 1; i >= 0 && len(items) <= l.limit; i-- {
		if items, err = l.tail(items, i); err != nil {
			return nil, err
		}
	}
	more := len(items) > l.limit
	items = items[:min(len(items), l.limit)]
	slices.Reverse(items)
	return l.idPage(items, more), nil
}

// tail appends the end of an account's list, the last item first. Upstream has
// no page for it, so the list is walked through.
func (l *list) tail(items []listItem, account int) ([]listItem, error) {
	var end []listItem
	cursor := ""
	for more := true; more; {
		page, hasMore, err := l.page(account, "after_id", cursor, maxList)
		if err != nil {
			return nil, err
		}
		cursor = lastID(page)
		more = hasMore && cursor != ""
		if end, err = l.show(end, page); err != nil {
			return nil, err
		}
		end = end[max(0, len(end)-l.limit-1):]
	}
	slices.Reverse(end)
	return append(items, end...), nil
}

func lastID(items []listItem) string {
	if len(items) == 0 {
		return ""
	}
	return items[len(items)-1].id
}

// byToken gathers a page of a list that goes by page tokens.
func (l *list) byToken() (any, error) {
	out := struct {
		Data     []json.RawMessage `json:"data"`
		HasMore  bool              `json:"has_more"`
		NextPage *string           `json:"next_page"`
	}{Data: []json.RawMessage{}}
	account, token, _ := strings.Cut(l.query.Get("page"), ":")
	i := 0
	if account != "" {
		if i = slices.Index(l.accounts, account); i < 0 {
			return nil, &refusal{status: http.StatusBadRequest, typ: typeInvalidRequest,
				message: "page: this token leads nowhere any more. Begin the list anew."}
		}
	}
	var items []listItem
	for i < len(l.accounts) && len(items) < l.limit {
		next, page, err := l.tokenPage(i, token, l.limit-len(items))
		if err != nil {
			return nil, err
		}
		if items, err = l.show(items, page); err != nil {
			return nil, err
		}
		if token = next; token == "" {
			i++
		}
	}
	for i < len(l.accounts) && token == "" { // is there anything behind it?
		next, page, err := l.tokenPage(i, "", 1)
		if err != nil {
			return nil, err
		}
		if page, err = l.show(nil, page); err != nil {
			return nil, err
		}
		if len(page) > 0 || next != "" {
			break
		}
		i++
	}
	for _, item := range items {
		out.Data = append(out.Data, item.RawMessage)
	}
	if i < len(l.accounts) {
		next := l.accounts[i] + ":" + token
		out.HasMore, out.NextPage = true, &next
	}
	return out, nil
}

// show appends those of one account's items that the client may see: a key sees
// what was made with it. What every account has alike, the first one shows.
func (l *list) show(items, more []listItem) ([]listItem, error) {
	var owned map[string]store.Resource
	key := l.p.who.Key
	if key != nil && len(more) > 0 {
		ids := make([]string, 0, len(more))
		for _, item := range more {
			ids = append(ids, item.id)
		}
		var err error
		if owned, err = l.p.rt.ownersOf(l.p.ctx, ids); err != nil {
			return nil, l.p.refuseLookup(err)
		}
	}
	for _, item := range more {
		shared := l.p.target.Endpoint == anthropic.Skills && anthropic.SharedSkill(item.id)
		made, known := owned[item.id]
		switch {
		case shared && item.account == 0, !shared && key == nil, !shared && known && l.p.mayUse(made):
			items = append(items, item)
		}
	}
	return items, nil
}

// page asks an account for one page of about n items by an id.
func (l *list) page(account int, direction, cursor string, n int) ([]listItem, bool, error) {
	if l.p.who.Key != nil {
		n = max(n, filterList)
	}
	query := l.without("before_id", "after_id")
	query.Set("limit", strconv.Itoa(min(n, maxList)))
	if cursor != "" {
		query.Set(direction, cursor)
	}
	page, err := l.ask(account, query)
	return page.items(account), page.HasMore, err
}

// tokenPage asks an account for one page of at most n items by a token.
func (l *list) tokenPage(account int, token string, n int) (string, []listItem, error) {
	query := l.without("page")
	query.Set("limit", strconv.Itoa(n))
	if token != "" {
		query.Set("page", token)
	}
	page, err := l.ask(account, query)
	return page.NextPage, page.items(account), err
}

func (p *listPage) items(account int) []listItem {
	items := make([]listItem, 0, len(p.Data))
	for _, raw := range p.Data {
		items = append(items, listItem{raw, anthropic.CreatedID(raw), account})
	}
	return items
}

// without copies the client's query without some of its parameters.
func (l *list) without(names ...string) url.Values {
	query := make(url.Values, len(l.query)+2)
	for name, values := range l.query {
		if !slices.Contains(names, name) {
			query[name] = values
		}
	}
	return query
}

// ask gets an account's page. One that may not list these things at all has
// none of them; any other refusal is the client's answer.
func (l *list) ask(account int, query url.Values) (listPage, error) {
	var page listPage
	u := *l.p.r.URL
	u.RawQuery = query.Encode()
	res, body, err := l.p.askOne(l.accounts[account], &u)
	if err != nil {
		return page, err
	}
	switch {
	case res.StatusCode == http.StatusForbidden || res.StatusCode == http.StatusNotFound:
		l.refused = res
		return page, nil
	case res.StatusCode != http.StatusOK:
		return page, &wholeAnswer{res}
	}
	if name := l.p.answer.ticket.Name; !slices.Contains(l.asked, name) {
		l.asked = append(l.asked, name)
	}
	if err := json.Unmarshal(body, &page); err != nil {
		l.p.outcome = api.OutcomeUpstreamError
		return page, &refusal{status: http.StatusBadGateway, typ: typeAPI, message: "Upstream answered with something that is no list."}
	}
	return page, nil
}

// wholeAnswer is an answer that goes to the client as it is.
type wholeAnswer struct{ *http.Response }

func (*wholeAnswer) Error() string { return "upstream refuses the list" }

// askOne makes a request of its own to one account, with all that belongs to
// it: rounds, refreshes, waits. The answer is read whole.
func (p *pass) askOne(account string, u *url.URL) (*http.Response, []byte, error) {
	p.want.Owner, p.url = account, u
	p.spent, p.held, p.repeated = len(p.attempts), nil, false
	res, err := p.rounds()
	if err != nil {
		return nil, nil, err
	}
	defer p.answer.ticket.Release()
	defer p.answer.cancel(nil)
	body, err := io.ReadAll(io.LimitReader(p.answer.body(), maxListBody))
	_ = res.Body.Close()
	if err != nil {
		return nil, nil, p.refuseLostAnswer()
	}
	if id := p.answer.ticket.ID; id != p.served {
		p.forgetServed() // the last one stands for the request
		p.served = id
	}
	res.Body, res.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return res, body, nil
}

// forgetAnswer drops a part of a list that the client does not get.
func (p *pass) forgetAnswer() {
	p.answer = nil // nothing of it is held any more
	p.forgetServed()
}

// forgetServed takes the account that has answered a part of the list out of
// those that were given up.
func (p *pass) forgetServed() {
	p.results = slices.DeleteFunc(p.results, func(r *result) bool { return r.id == p.served })
}

// accountOf finds the account that a cursor leads to; no cursor leads to the
// first.
func (l *list) accountOf(cursor string) (int, error) {
	if cursor == "" {
		return 0, nil
	}
	p := l.p
	owner, known := p.rt.cursors.get(cursor, p.start)
	r, err := p.rt.ownerOf(p.ctx, cursor)
	switch {
	case err == nil && !p.mayUse(r), err != nil && p.who.Key != nil:
		return 0, refuseUnknownID
	case err == nil:
		owner = r.AccountID
	case !known && isID(cursor):
		return l.search(cursor)
	case !known:
		return 0, refuseUnknownID
	}
	if i := slices.Index(l.accounts, owner); i >= 0 {
		return i, nil
	}
	p.want.Owner = owner
	return 0, p.refuseOwnerGone()
}

// isID reports whether a client's word can be an id, and so stand in a path.
func isID(s string) bool {
	const most = 256
	return len(s) <= most && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r == '_' || r == '-' || '0' <= r && r <= '9' || 'A' <= r && r <= 'Z' || 'a' <= r && r <= 'z')
	})
}

// search asks each account for the item that a cursor names.
func (l *list) search(cursor string) (int, error) {
	u := *l.p.r.URL
	u.Path = strings.TrimSuffix(u.Path, "/") + "/" + cursor
	u.RawPath, u.RawQuery = "", ""
	for i, account := range l.accounts {
		res, _, err := l.p.askOne(account, &u)
		if err != nil {
			return 0, err
		}
		if res.StatusCode == http.StatusOK {
			l.p.rt.cursors.add(cursor, account, l.p.start)
			return i, nil
		}
	}
	return 0, refuseUnknownID
}
