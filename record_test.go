package claudebalancer

import (
	"net/http"
	"net/http/httptest"
	goruntime "runtime"
	"testing"
	"time"
	"weak"

	"github.com/claude-balancer/claude-balancer/selection"
	"github.com/claude-balancer/claude-balancer/selection/policies"
	"github.com/claude-balancer/claude-balancer/store"
)

// Thousands of rows may wait for a database that is away.
func TestARowThatWaitsHoldsNothingOfItsRequest(t *testing.T) {
	t.Parallel()
	finished := func() (store.Row, weak.Pointer[pass]) {
		pool := selection.New(time.Now, 1)
		pool.Sync([]selection.Account{{ID: "1", Name: "work", Plan: "max"}})
		p := &pass{rt: newRuntime(location{}), r: httptest.NewRequest("POST", "/v1/messages", nil), broken: "it broke"}
		p.want = selection.Request{Model: sonnet}
		ticket, _ := pool.Acquire(&p.want, policies.LeastUsed{}, nil)
		ticket.Release()
		p.answer = &answer{ticket: ticket, res: &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Request-Id": {"req_1"}}}}
		return p.row(), weak.Make(p)
	}
	row, request := finished()
	goruntime.GC()
	if request.Value() != nil {
		t.Error("the request is still held")
	}
	if *row.AccountUsed != "work" || *row.ErrorMessage != "it broke" {
		t.Errorf("%+v", row)
	}
}
