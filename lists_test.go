package claudebalancer

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/simulator"
)

// kind is one of the things that belong to the account that made them.
type kind struct {
	name, path string
	create     func(r *rig, header ...string) reply
}

var kinds = []kind{
	{"batches", "/v1/messages/batches", func(r *rig, header ...string) reply {
		return r.send("POST", "/v1/messages/batches", `{"requests":[{"custom_id":"one","params":`+messageBody(sonnet, false)+`}]}`, header...)
	}},
	{"files", "/v1/files", func(r *rig, header ...string) reply { return r.upload("/v1/files", header...) }},
	{"skills", "/v1/skills", func(r *rig, header ...string) reply { return r.upload("/v1/skills", header...) }},
}

// upload sends a form with one file.
func (r *rig) upload(path string, header ...string) reply {
	r.t.Helper()
	const form = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\nContent-Type: text/plain\r\n\r\nhello\r\n--b--\r\n"
	return r.send("POST", path, form, append([]string{"Content-Type", "multipart/form-data; boundary=b"}, header...)...)
}

// id is the id of what an answer describes.
func (rp reply) id(t testing.TB) string {
	t.Helper()
	id, _ := rp.json(t)["id"].(string)
	if id == "" {
		t.Fatalf("no id: %s", rp.body)
	}
	return id
}

// makeOn creates something on the named account.
func (r *rig) makeOn(k kind, account string, header ...string) string {
	r.t.Helper()
	for _, a := range []string{"a", "b", "c"} {
		r.pause(a, a != account)
	}
	got := k.create(r, header...).mustBe(r.t, 200)
	if served := got.header.Get("X-Proxy-Account"); served != account {
		r.t.Fatalf("made on %s, not on %s", served, account)
	}
	for _, a := range []string{"a", "b", "c"} {
		r.pause(a, false)
	}
	return got.id(r.t)
}

func (r *rig) pause(name string, paused bool) {
	r.t.Helper()
	r.patch(name, api.AccountPatch{Paused: setField(paused)})
}

// three is a rig with the accounts a, b and c.
func three(t *testing.T) *rig {
	t.Helper()
	r := newRig(t, rigOptions{directive: quick})
	for _, name := range []string{"a", "b", "c"} {
		r.add(name, "max")
	}
	return r
}

// asKey makes a client key and returns its header.
func (r *rig) asKey(k api.NewKey) []string {
	r.t.Helper()
	return []string{"X-Api-Key", r.key(k)}
}

// page is what a list shows.
type page struct {
	ids         []string
	more        bool
	first, last string
	next        string
	accounts    string
	request     string // its id
}

func (r *rig) list(path string, header ...string) page {
	r.t.Helper()
	got := r.send("GET", path, "", header...).mustBe(r.t, 200)
	body := got.json(r.t)
	p := page{accounts: got.header.Get("X-Proxy-Account"), request: got.header.Get("X-Request-Id")}
	for _, item := range body["data"].([]any) {
		p.ids = append(p.ids, item.(map[string]any)["id"].(string))
	}
	p.more, _ = body["has_more"].(bool)
	p.first, _ = body["first_id"].(string)
	p.last, _ = body["last_id"].(string)
	p.next, _ = body["next_page"].(string)
	return p
}

func TestListsAreMergedAccountByAccountWithOneCursor(t *testing.T) {
	t.Parallel()
	for _, k := range kinds[:2] {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			r := three(t)
			var want []string // newest first in each account
			for account, n := range map[string]int{"a": 3, "b": 0, "c": 4} {
				for range n {
					r.makeOn(k, account)
				}
			}
			want = r.list(k.path).ids
			if len(want) != 7 {
				t.Fatalf("%d of 7 items: %v", len(want), want)
			}
			for _, limit := range []int{1, 2, 3, 4, 6, 7, 8, 1000} {
				var got []string
				path, pages := fmt.Sprintf("%s?limit=%d", k.path, limit), 0
				for cursor := ""; ; pages++ {
					p := r.list(path + cursor)
					got = append(got, p.ids...)
					if len(p.ids) == 0 || p.first != p.ids[0] || p.last != p.ids[len(p.ids)-1] || len(p.ids) < limit && p.more {
						t.Fatalf("page %+v", p)
					}
					if !p.more {
						break
					}
					cursor = "&after_id=" + p.last
				}
				if !slices.Equal(got, want) {
					t.Errorf("limit %d: forward %v, want %v", limit, got, want)
				}
				got = []string{want[6]}
				for cursor := want[6]; ; {
					p := r.list(path + "&before_id=" + cursor)
					got = append(slices.Clone(p.ids), got...)
					if !p.more {
						break
					}
					if len(p.ids) != limit {
						t.Fatalf("page %+v", p)
					}
					cursor = p.first
				}
				if !slices.Equal(got, want) {
					t.Errorf("limit %d: backward %v, want %v", limit, got, want)
				}
			}
			if p := r.list(k.path + "?before_id=" + want[0]); len(p.ids) != 0 || p.more || p.first != "" {
				t.Errorf("before the first: %+v", p)
			}
			if p := r.list(k.path + "?after_id=" + want[6]); len(p.ids) != 0 || p.more {
				t.Errorf("behind the last: %+v", p)
			}
			whole := r.list(k.path)
			if whole.accounts != "a, b, c" {
				t.Errorf("merged of %q", whole.accounts)
			}
			row := r.row(whole.request)
			if len(row.Attempts) != 3 || row.FailoverAttempts != 0 || row.Outcome != api.OutcomeOK {
				t.Errorf("row %+v", row)
			}
			r.restart()
			if got := r.list(k.path + "?limit=2&after_id=" + want[1]).ids; !slices.Equal(got, want[2:4]) {
				t.Errorf("after a restart %v, want %v", got, want[2:4])
			}
		})
	}
}

func TestSkillsAreMergedByPageToken(t *testing.T) {
	t.Parallel()
	r := three(t)
	// The simulator has no pages of skills: these are scripted.
	page := func(next string, ids ...string) simulator.Step {
		var data []string
		for _, id := range ids {
			data = append(data, fmt.Sprintf(`{"id":%q,"type":"skill"}`, id))
		}
		token := "null"
		if next != "" {
			token = fmt.Sprintf("%q", next)
		}
		return simulator.Step{Path: "/v1/skills", Status: 200, Header: http.Header{"Content-Type": {"application/json"}},
			Body: fmt.Sprintf(`{"data":[%s],"has_more":%v,"next_page":%s}`, strings.Join(data, ","), next != "", token)}
	}
	r.sim.Script("a", page("p2", "pptx", "skill_1"), page("", "skill_2"))
	r.sim.Script("b", page("p9", "pptx"), page("", "skill_3"))
	r.sim.Script("c", page("", "skill_4"), page("", "skill_4"))

	var got []string
	var sizes []int
	for token := ""; ; {
		p := r.list("/v1/skills?source=all&limit=2" + token)
		got, sizes = append(got, p.ids...), append(sizes, len(p.ids))
		if !p.more {
			break
		}
		token = "&page=" + p.next
	}
	if s := strings.Join(got, " "); s != "pptx skill_1 skill_2 skill_3 skill_4" {
		t.Errorf("listed %s in pages of %v", s, sizes)
	}
	var asked []string
	for _, seen := range r.sim.Requests() {
		asked = append(asked, seen.Account+"?"+seen.RawQuery)
	}
	if asked[0] != "a?limit=2&source=all" || !slices.Contains(asked, "a?limit=2&page=p2&source=all") {
		t.Errorf("asked %v", asked)
	}
	r.send("GET", "/v1/skills?page=gone:x", "").mustBe(t, 400)
}

func TestAKeySeesAndListsOnlyWhatWasMadeWithIt(t *testing.T) {
	t.Parallel()
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			r := three(t)
			mine, yours := r.asKey(api.NewKey{Name: "mine"}), r.asKey(api.NewKey{Name: "yours"})
			var own []string
			for i := range 6 {
				account := []string{"a", "c"}[i%2]
				own = append(own, r.makeOn(k, account, mine...))
				r.makeOn(k, account, yours...)
				r.makeOn(k, account)
			}
			all := r.list(k.path)
			if len(all.ids) != 18 {
				t.Errorf("a client without a key sees %d of 18", len(all.ids))
			}
			var got []string
			for cursor := ""; ; {
				p := r.list(k.path+"?limit=2"+cursor, mine...)
				got = append(got, p.ids...)
				if !p.more {
					break
				}
				cursor = "&after_id=" + p.last
				if k.name == "skills" {
					cursor = "&page=" + p.next
				}
			}
			slices.Sort(own)
			if sorted := slices.Sorted(slices.Values(got)); !slices.Equal(sorted, own) {
				t.Errorf("a key lists %v, its own are %v", sorted, own)
			}
			if p := r.list(k.path, r.asKey(api.NewKey{Name: "new"})...); len(p.ids) != 0 || p.more {
				t.Errorf("a new key lists %+v", p)
			}
			r.send("GET", k.path+"/"+own[0], "", mine...).mustBe(t, 200)
			for _, method := range []string{"GET", "DELETE", "POST"} {
				got := r.send(method, k.path+"/"+own[0], "", yours...).mustBe(t, 404)
				if got.errorType(t) != "not_found_error" {
					t.Errorf("%s", got.body)
				}
			}
			if k.name != "skills" {
				r.send("GET", k.path+"?after_id="+own[0], "", yours...).mustBe(t, 404)
			}
			r.send("GET", k.path+"/"+own[0], "").mustBe(t, 200)
		})
	}
}

func TestRestrictedKeysHaveNoBatchesAndSearchNothing(t *testing.T) {
	t.Parallel()
	r := three(t)
	some := r.asKey(api.NewKey{Name: "some", Models: []string{"*sonnet*"}})
	kinds[0].create(r, some...).mustBe(t, 403)
	r.send("GET", "/v1/messages/batches", "", some...).mustBe(t, 403)
	r.send("GET", "/v1/files/file_of_tomorrow", "", some...).mustBe(t, 404)
	if n := len(r.used()); n != 0 {
		t.Errorf("%d requests went upstream", n)
	}
	id := kinds[1].create(r, some...).mustBe(t, 200).id(t)
	r.send("GET", "/v1/files/"+id, "", some...).mustBe(t, 200)
	if p := r.list("/v1/files", some...); len(p.ids) != 1 || p.ids[0] != id {
		t.Errorf("it lists %+v", p)
	}
}

func TestAKeyOfSomeAccountsListsThose(t *testing.T) {
	t.Parallel()
	r := three(t)
	onB := r.asKey(api.NewKey{Name: "b only", Accounts: []string{"b"}})
	id := kinds[1].create(r, onB...).mustBe(t, 200).id(t)
	if p := r.list("/v1/files", onB...); p.accounts != "b" || len(p.ids) != 1 || p.ids[0] != id {
		t.Errorf("%+v", p)
	}
}

func TestOneAccountsListPassesAsItIs(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{directive: quick})
	r.add("a", "max")
	r.list("/v1/files?limit=5&odd=%7e&x")
	if got := r.sim.Requests()[0].RawQuery; got != "limit=5&odd=%7e&x" {
		t.Errorf("the query became %q", got)
	}
	r.send("GET", "/v1/files?limit=0", "").mustBe(t, 400)
}

func TestAListIsWholeOrAnError(t *testing.T) {
	t.Parallel()
	r := three(t)
	for _, name := range []string{"a", "b", "c"} {
		r.makeOn(kinds[1], name)
	}
	r.sim.Script("b", simulator.Step{Times: 3, Do: simulator.ServerError(500)})
	got := r.send("GET", "/v1/files", "").mustBe(t, 503)
	if !strings.Contains(got.errorMessage(t), "b (HTTP 500") || strings.Contains(got.body, "another account") {
		t.Errorf("%s", got.body)
	}
	row := r.row(got.header.Get("X-Request-Id"))
	if row.Outcome != api.OutcomeExhausted || row.StatusCode != 503 || row.AccountUsed != nil || row.FailoverAttempts != 1 || len(row.Attempts) != 4 {
		t.Errorf("row %+v", row)
	}
	if n := len(r.list("/v1/files").ids); n != 3 {
		t.Errorf("%d of 3", n)
	}
	r.sim.Script("b", simulator.Step{Do: simulator.ServerError(500)}) // and well again in the next round
	if n := len(r.list("/v1/files").ids); n != 3 {
		t.Errorf("%d of 3", n)
	}
	r.sim.Script("b", simulator.Step{Status: 403}) // it may not have files at all
	if p := r.list("/v1/files"); len(p.ids) != 2 || p.accounts != "a, c" {
		t.Errorf("%+v", p)
	}
	r.sim.Script("", simulator.Step{Times: 3, Status: 403})
	r.send("GET", "/v1/files", "").mustBe(t, 403)
	r.sim.Script("a", simulator.Step{Status: 400, Body: `{"odd":  "words"}`})
	if got := r.send("GET", "/v1/files", "").mustBe(t, 400); got.body != `{"odd":  "words"}` {
		t.Errorf("a refusal became %s", got.body)
	}
	r.sim.Script("a", simulator.Step{Status: 200, Body: "no list"})
	r.send("GET", "/v1/files", "").mustBe(t, 502)
	for _, limit := range []string{"0", "1001", "x", "-1"} {
		r.send("GET", "/v1/files?limit="+limit, "").mustBe(t, 400)
	}
	r.pause("b", true)
	if p := r.list("/v1/files"); len(p.ids) != 2 || p.accounts != "a, c" {
		t.Errorf("a paused account's files are listed: %+v", p)
	}
	for _, name := range []string{"a", "c"} {
		r.pause(name, true)
	}
	r.send("GET", "/v1/files", "").mustBe(t, 503)
}

func TestAListTriesEachAccountAsOftenAsARequestMay(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{directive: append([]string{"max_tries 2"}, quick...)})
	for _, name := range []string{"a", "b", "c", "d"} {
		r.add(name, "max")
	}
	if p := r.list("/v1/files"); p.accounts != "a, b, c, d" {
		t.Errorf("%+v", p)
	}
}

func TestABenchForMessagesDoesNotBlockListsNorResources(t *testing.T) {
	t.Parallel()
	r := three(t)
	id := r.makeOn(kinds[0], "a")
	r.pause("b", true)
	r.pause("c", true)
	r.sim.Script("a", simulator.Step{Do: simulator.Window5h(time.Now().Add(time.Hour))})
	r.message(sonnet).mustBe(t, 503)
	r.send("GET", "/v1/messages/batches/"+id, "").mustBe(t, 200)
	if p := r.list("/v1/messages/batches"); len(p.ids) != 1 {
		t.Errorf("%+v", p)
	}
}

func TestAnOwnerIsFoundAgainById(t *testing.T) {
	t.Parallel()
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			r := three(t)
			id := r.makeOn(k, "b")
			r.sim.Reset()
			for _, path := range []string{"", "/content"} {
				if k.name == "files" || path == "" {
					r.send("GET", k.path+"/"+id+path, "").mustBe(t, 200)
				}
			}
			r.restart()
			r.send("GET", k.path+"/"+id, "").mustBe(t, 200)
			for _, account := range r.used() {
				if account != "b" {
					t.Errorf("%s was asked", account)
				}
			}
			r.pause("b", true)
			got := r.send("GET", k.path+"/"+id, "").mustBe(t, 503)
			if want := "The account that owns this resource cannot serve now: b (paused by the operator)."; got.errorMessage(t) != want {
				t.Errorf("%s", got.body)
			}
			r.pause("b", false)
			r.send("DELETE", k.path+"/"+id, "").mustBe(t, 200)
			r.send("GET", k.path+"/"+id, "").mustBe(t, 404)
		})
	}
}

// madeElsewhere makes a batch on an account, not through the balancer.
func (r *rig) madeElsewhere(account string) string {
	r.t.Helper()
	req := r.request("POST", "/v1/messages/batches", `{"requests":[{"custom_id":"x","params":`+messageBody(sonnet, false)+`}]}`,
		"Anthropic-Beta", "oauth-2025-04-20", "Authorization", "Bearer "+r.sim.Credentials(account).Access.Reveal())
	req.URL.Host = strings.TrimPrefix(r.up.URL, "http://")
	return r.do(req).mustBe(r.t, 200).id(r.t)
}

func TestACursorThatIsNotKnownIsSearched(t *testing.T) {
	t.Parallel()
	r := three(t)
	for _, account := range []string{"a", "b", "b", "c"} {
		r.madeElsewhere(account)
	}
	const path = "/v1/messages/batches?limit=2"
	want := r.list("/v1/messages/batches").ids
	first := r.list(path)
	r.sim.Reset()
	if p := r.list(path + "&after_id=" + first.last); !slices.Equal(p.ids, want[2:]) || strings.Join(r.used(), " ") != "b c" {
		t.Errorf("%v of %v, asked %v", p.ids, want, r.used())
	}
	r.restart() // and it is not known any more
	r.sim.Reset()
	if p := r.list(path + "&after_id=" + first.last); !slices.Equal(p.ids, want[2:]) || strings.Join(r.used(), " ") != "a b b c" {
		t.Errorf("%v of %v, asked %v", p.ids, want, r.used())
	}
	r.sim.Reset()
	for _, cursor := range []string{"../organizations/me", "x%2Fresults", "x%3F", strings.Repeat("x", 257)} {
		r.send("GET", path+"&after_id="+cursor, "").mustBe(t, 404)
	}
	if n := len(r.used()); n != 0 {
		t.Errorf("a cursor that is no id led upstream: %+v", r.sim.Requests())
	}
	r.send("GET", path+"&before_id=msgbatch_gone", "").mustBe(t, 404)
	r.sim.Script("b", simulator.Step{Times: 3, Do: simulator.ServerError(500)})
	r.send("GET", path+"&before_id=msgbatch_gone", "").mustBe(t, 503)

	mine := r.makeOn(kinds[0], "b")
	r.pause("b", true)
	if got := r.send("GET", path+"&after_id="+mine, "").mustBe(t, 503); !strings.Contains(got.errorMessage(t), "b (paused") {
		t.Errorf("%s", got.body)
	}
}

func TestAnUnknownIdIsSearchedOnceAndThenRemembered(t *testing.T) {
	t.Parallel()
	r := three(t)
	id := r.madeElsewhere("c")
	path := "/v1/messages/batches/" + id
	r.sim.Reset()
	r.send("POST", path+"/cancel", "").mustBe(t, 404) // nobody knows where that would act
	r.send("DELETE", path, "").mustBe(t, 404)
	if n := len(r.used()); n != 0 {
		t.Fatalf("a change of an unknown id was tried on %d accounts", n)
	}
	if got := r.send("GET", path, "").mustBe(t, 200); got.header.Get("X-Proxy-Account") != "c" {
		t.Errorf("found on %s", got.header.Get("X-Proxy-Account"))
	}
	if n := len(r.used()); n > 3 || r.sim.Count("c") != 1 {
		t.Errorf("%d accounts were asked", n)
	}
	r.sim.Reset()
	r.restart()
	r.send("GET", path, "").mustBe(t, 200)
	r.send("POST", path+"/cancel", "").mustBe(t, 200)
	if used := strings.Join(r.used(), " "); used != "c c" {
		t.Errorf("asked %s", used)
	}

	other := r.madeElsewhere("b") // a key may search, too, and keeps what it finds
	r.send("GET", "/v1/messages/batches/"+other, "", r.asKey(api.NewKey{Name: "finder"})...).mustBe(t, 200)
	r.send("GET", "/v1/messages/batches/"+other, "", r.asKey(api.NewKey{Name: "late"})...).mustBe(t, 404)
}

func TestThatNobodyKnowsAnIdIsRememberedForAWhile(t *testing.T) {
	t.Parallel()
	c := newClock()
	r := newRig(t, rigOptions{sim: simulator.Options{Now: c.now}, directive: quick})
	for _, name := range []string{"a", "b", "c"} {
		r.add(name, "max")
	}
	ask := func() int {
		r.sim.Reset()
		got := r.send("GET", "/v1/files/file_x", "").mustBe(t, 404)
		if got.errorType(t) != "not_found_error" {
			t.Errorf("%s", got.body)
		}
		return len(r.used())
	}
	if n := ask(); n != 3 {
		t.Errorf("%d accounts were asked, each once", n)
	}
	if n := ask(); n != 0 {
		t.Errorf("%d were asked again", n)
	}
	c.pass(10*time.Minute + time.Second)
	if n := ask(); n != 3 {
		t.Errorf("%d accounts were asked ten minutes later", n)
	}
	c.pass(10*time.Minute + time.Second)
	r.sim.Script("b", simulator.Step{Times: -1, Do: simulator.Bare429})
	for range 2 { // b may know it: this is not for sure
		r.sim.Reset()
		r.send("GET", "/v1/files/file_x", "")
		if n := len(r.used()); n < 3 {
			t.Errorf("%d were asked", n)
		}
	}
}

func TestAnthropicsOwnSkillsBelongToNobody(t *testing.T) {
	t.Parallel()
	r := three(t)
	shared := simulator.Step{Path: "/v1/skills/pptx", Times: -1, Status: 200, Header: http.Header{"Content-Type": {"application/json"}}, Body: `{"id":"pptx","type":"skill"}`}
	r.sim.Script("", shared)
	for _, name := range []string{"one", "two"} {
		r.send("GET", "/v1/skills/pptx", "", r.asKey(api.NewKey{Name: name})...).mustBe(t, 200)
	}
}

func TestMessagesGoWhereTheirFilesAre(t *testing.T) {
	t.Parallel()
	r := three(t)
	mine, yours := r.asKey(api.NewKey{Name: "mine"}), r.asKey(api.NewKey{Name: "yours"})
	onB, onC := r.makeOn(kinds[1], "b", mine...), r.makeOn(kinds[1], "c", yours...)
	with := func(ids ...string) string {
		var blocks []string
		for _, id := range ids {
			blocks = append(blocks, fmt.Sprintf(`{"type":"document","source":{"type":"file","file_id":%q}}`, id))
		}
		return fmt.Sprintf(`{"model":%q,"max_tokens":9,"messages":[{"role":"user","content":[%s]}]}`, sonnet, strings.Join(blocks, ","))
	}
	for range 3 {
		got := r.send("POST", "/v1/messages", with(onB), append(mine, "X-Claude-Code-Session-Id", "s")...).mustBe(t, 200)
		if served := got.header.Get("X-Proxy-Account"); served != "b" {
			t.Errorf("served by %s, which does not have the file", served)
		}
	}
	batch := `{"requests":[{"custom_id":"x","params":` + with(onB) + `}]}`
	if got := r.send("POST", "/v1/messages/batches", batch, mine...).mustBe(t, 200); got.header.Get("X-Proxy-Account") != "b" {
		t.Errorf("the batch went to %s", got.header.Get("X-Proxy-Account"))
	}
	r.sim.Reset()
	for _, body := range []string{with(onC), with(onB, onC), with(onC, onB)} {
		r.send("POST", "/v1/messages", body, mine...).mustBe(t, 404)
	}
	zipped := r.request("POST", "/v1/messages", gzipped(t, with(onC)), append(mine, "Content-Encoding", "gzip")...)
	r.do(zipped).mustBe(t, 404)
	if n := len(r.used()); n != 0 {
		t.Errorf("%d requests with another's file went upstream", n)
	}
	r.pause("b", true)
	if got := r.send("POST", "/v1/messages", with(onB), mine...).mustBe(t, 503); !strings.Contains(got.errorMessage(t), "b (paused") {
		t.Errorf("%s", got.body)
	}
}

func TestAContainerIsUsedWhereItIs(t *testing.T) {
	t.Parallel()
	for _, stream := range []bool{false, true} {
		r := newRig(t, rigOptions{directive: append([]string{"session_affinity off"}, quick...)})
		for _, name := range []string{"a", "b", "c"} {
			r.add(name, "max")
		}
		ask := func(container string) reply {
			return r.send("POST", "/v1/messages", fmt.Sprintf(`{"model":%q,"max_tokens":9,"container":%s,"messages":[{"role":"user","content":"x"}],"stream":%v}`, sonnet, container, stream)).mustBe(t, 200)
		}
		first := ask(`{"skills":[{"type":"anthropic","skill_id":"pptx"}]}`)
		i := strings.Index(first.body, `"container_01`)
		if i < 0 {
			t.Fatalf("no container: %s", first.body)
		}
		id := first.body[i+1 : i+1+strings.IndexByte(first.body[i+1:], '"')]
		for _, again := range []string{fmt.Sprintf("%q", id), fmt.Sprintf(`{"id":%q}`, id)} {
			for range 2 {
				if got := ask(again); got.header.Get("X-Proxy-Account") != first.header.Get("X-Proxy-Account") {
					t.Errorf("container of %s used on %s", first.header.Get("X-Proxy-Account"), got.header.Get("X-Proxy-Account"))
				}
			}
		}
	}
}

func TestWhatWasMadeIsKnownBeforeTheClientKnowsIt(t *testing.T) {
	t.Parallel()
	r := three(t)
	for range 20 {
		id := kinds[0].create(r).mustBe(t, 200).id(t)
		r.send("POST", "/v1/messages/batches/"+id+"/cancel", "").mustBe(t, 200)
	}
}

func TestModelsAreAskedOfAnyAccount(t *testing.T) {
	t.Parallel()
	r := three(t)
	for range 3 {
		r.send("GET", "/v1/models?limit=1", "").mustBe(t, 200)
		r.send("GET", "/v1/models/"+sonnet, "", r.asKey(api.NewKey{Name: newID()})...).mustBe(t, 200)
	}
	if n := len(r.used()); n != 6 {
		t.Errorf("%d requests upstream", n)
	}
}
