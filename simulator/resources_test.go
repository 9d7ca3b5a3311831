package simulator_test

import (
	"bytes"
	"fmt"
	"mime/multipart"
	"strings"
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/simulator"
)

type object struct {
	ID      string
	Data    []object
	HasMore bool   `json:"has_more"`
	LastID  string `json:"last_id"`
	Status  string `json:"processing_status"`
	Counts  struct{ Processing, Succeeded, Errored, Canceled int }
	Results string `json:"results_url"`
	Title   string `json:"display_title"`
}

// upload posts a multipart form with one file.
func (f *fixture) upload(c simulator.Credentials, path, content string) object {
	f.t.Helper()
	var b bytes.Buffer
	form := multipart.NewWriter(&b)
	file, _ := form.CreateFormFile("file", "notes.txt")
	fmt.Fprint(file, content)
	_ = form.WriteField("display_title", "My skill")
	_ = form.Close()
	r := f.request(c, "POST", path, b.String())
	r.Header.Set("Content-Type", form.FormDataContentType())
	a := f.do(r)
	wantStatus(f.t, a, 200)
	return decode[object](f.t, a)
}

func TestFilesAndSkillsExistForTheirOwnerOnly(t *testing.T) {
	t.Parallel()
	f := start(t, simulator.Options{})
	for path, prefix := range map[string]string{"/v1/files": "file_", "/v1/skills": "skill_"} {
		made := f.upload(f.work, path, "hello")
		if !strings.HasPrefix(made.ID, prefix) {
			t.Errorf("id %q", made.ID)
		}
		one := path + "/" + made.ID
		wantStatus(t, f.call(f.work, "GET", one, ""), 200)
		wantStatus(t, f.call(f.other, "GET", one, ""), 404)
		wantStatus(t, f.call(f.other, "DELETE", one, ""), 404)
		if list := decode[object](t, f.call(f.work, "GET", path, "")); len(list.Data) != 1 || list.Data[0].ID != made.ID {
			t.Errorf("list: %+v", list)
		}
		if list := decode[object](t, f.call(f.other, "GET", path, "")); len(list.Data) != 0 {
			t.Errorf("another account's list: %+v", list)
		}
		switch path {
		case "/v1/files":
			if a := f.call(f.work, "GET", one+"/content", ""); a.body != "hello" {
				t.Errorf("content: %s", a.body)
			}
			wantStatus(t, f.call(f.other, "GET", one+"/content", ""), 404)
			use := `{"model":"claude-sonnet-5-5","max_tokens":5,"messages":[{"role":"user","content":[{"type":"document","source":{"type":"file","file_id":"` + made.ID + `"}}]}]}`
			wantStatus(t, f.call(f.work, "POST", "/v1/messages", use), 200)
			wantStatus(t, f.call(f.other, "POST", "/v1/messages", use), 404)
		default:
			if made.Title != "My skill" {
				t.Errorf("title %q", made.Title)
			}
			wantStatus(t, f.call(f.work, "GET", one+"/versions", ""), 200)
		}
		wantStatus(t, f.call(f.work, "DELETE", one, ""), 200)
		wantStatus(t, f.call(f.work, "GET", one, ""), 404)
		wantStatus(t, f.call(f.work, "POST", path, "no form"), 400)
	}
}

func TestABatchEndsWhenItsTimeIsOver(t *testing.T) {
	t.Parallel()
	clock := newClock()
	f := start(t, simulator.Options{Now: clock.Now, BatchTime: time.Minute})
	const path = "/v1/messages/batches"
	create := func() object {
		t.Helper()
		a := f.call(f.work, "POST", path, `{"requests":[{"custom_id":"a","params":`+prompt(sonnet, false)+`},{"custom_id":"b","params":`+prompt("claude-9", false)+`}]}`)
		wantStatus(t, a, 200)
		return decode[object](t, a)
	}
	made := create()
	one := path + "/" + made.ID
	if made.Status != "in_progress" || !strings.HasPrefix(made.ID, "msgbatch_") {
		t.Errorf("made: %+v", made)
	}
	wantStatus(t, f.call(f.work, "GET", one+"/results", ""), 404)
	wantStatus(t, f.call(f.work, "DELETE", one, ""), 400)
	wantStatus(t, f.call(f.other, "GET", one, ""), 404)
	wantStatus(t, f.call(f.other, "POST", one+"/cancel", ""), 404)

	clock.add(time.Minute)
	ended := f.call(f.work, "GET", one, "")
	if b := decode[object](t, ended); b.Status != "ended" || b.Results != f.url+one+"/results" || !strings.Contains(ended.body, `"succeeded":1,"errored":1`) {
		t.Errorf("ended: %s", ended.body)
	}
	results := f.call(f.work, "GET", one+"/results", "")
	if lines := strings.Split(strings.TrimSpace(results.body), "\n"); len(lines) != 2 || !strings.Contains(lines[0], `"custom_id":"a","result":{"type":"succeeded","message":{`) {
		t.Errorf("results: %s", results.body)
	}

	second := create()
	if b := decode[object](t, f.call(f.work, "POST", path+"/"+second.ID+"/cancel", "")); b.Status != "canceling" {
		t.Errorf("cancelled: %+v", b)
	}
	if a := f.call(f.work, "GET", path+"/"+second.ID, ""); !strings.Contains(a.body, `"canceled":2`) || decode[object](t, a).Status != "ended" {
		t.Errorf("after the cancel: %s", a.body)
	}
	page := decode[object](t, f.call(f.work, "GET", path+"?limit=1", ""))
	if len(page.Data) != 1 || page.Data[0].ID != second.ID || !page.HasMore {
		t.Errorf("first page: %+v", page)
	}
	page = decode[object](t, f.call(f.work, "GET", path+"?limit=1&after_id="+page.LastID, ""))
	if len(page.Data) != 1 || page.Data[0].ID != made.ID || page.HasMore {
		t.Errorf("second page: %+v", page)
	}
	wantStatus(t, f.call(f.work, "DELETE", one, ""), 200)
	wantStatus(t, f.call(f.work, "GET", one, ""), 404)
	wantStatus(t, f.call(f.work, "POST", path, `{"requests":[]}`), 400)
}

func TestAContainerGoesOnOnItsOwnAccount(t *testing.T) {
	t.Parallel()
	f := start(t, simulator.Options{})
	body := func(container string) string {
		return `{"model":"claude-sonnet-5-5","max_tokens":5,"container":` + container + `,"messages":[{"role":"user","content":"hi"}]}`
	}
	made := decode[message](t, f.call(f.work, "POST", "/v1/messages", body(`{"skills":[]}`)))
	if made.Container == nil {
		t.Fatal("no container")
	}
	for _, form := range []string{`"%s"`, `{"id":"%s"}`} {
		next := body(fmt.Sprintf(form, made.Container.ID))
		if m := decode[message](t, f.call(f.work, "POST", "/v1/messages", next)); m.Container == nil || m.Container.ID != made.Container.ID {
			t.Errorf("went on in %+v", m.Container)
		}
		wantStatus(t, f.call(f.other, "POST", "/v1/messages", next), 404)
	}
	if m := decode[message](t, f.ask(f.work, sonnet, false)); m.Container != nil {
		t.Error("a container that nobody asked for")
	}
}
