package simulator

// Message batches.

import (
	"bytes"
	"encoding/json"
	"net/http"
	"time"
)

// batch is a batch's state. Its messages are answered when it is made and are
// visible when its time is over.
type batch struct {
	results   []batchResult
	ends      time.Time
	cancelled time.Time // zero: not cancelled
}

type batchResult struct {
	CustomID string `json:"custom_id"`
	Result   result `json:"result"`
}

type result struct {
	Type    string          `json:"type"`
	Message json.RawMessage `json:"message,omitempty"`
	Error   json.RawMessage `json:"error,omitempty"`
}

type batchInfo struct {
	ID                string      `json:"id"`
	Type              string      `json:"type"`
	ProcessingStatus  string      `json:"processing_status"`
	RequestCounts     batchCounts `json:"request_counts"`
	EndedAt           *string     `json:"ended_at"`
	CreatedAt         string      `json:"created_at"`
	ExpiresAt         string      `json:"expires_at"`
	ArchivedAt        *string     `json:"archived_at"`
	CancelInitiatedAt *string     `json:"cancel_initiated_at"`
	ResultsURL        *string     `json:"results_url"`
}

type batchCounts struct {
	Processing int `json:"processing"`
	Succeeded  int `json:"succeeded"`
	Errored    int `json:"errored"`
	Canceled   int `json:"canceled"`
	Expired    int `json:"expired"`
}

func (b batchInfo) key() string { return b.ID }

func createBatch(x *Exchange) {
	body, problem := x.decoded()
	if problem != nil {
		x.fail(*problem)
		return
	}
	var request struct {
		Requests []struct {
			CustomID string          `json:"custom_id"`
			Params   json.RawMessage `json:"params"`
		} `json:"requests"`
	}
	if json.Unmarshal(body, &request) != nil || len(request.Requests) == 0 {
		x.fail(*badRequest("requests: Field required"))
		return
	}
	now := x.sim.now()
	b := &batch{ends: now.Add(x.sim.opts.BatchTime)}
	for _, r := range request.Requests {
		b.results = append(b.results, batchResult{r.CustomID, x.batchAnswer(r.Params)})
	}
	owned := &resource{kind: kindBatch, id: x.sim.newID("msgbatch_"), created: now, batch: b}
	x.account.own(owned)
	x.json(http.StatusOK, x.batchInfo(owned).unfinished("in_progress"))
}

// batchAnswer answers one request of a batch.
func (x *Exchange) batchAnswer(params json.RawMessage) result {
	p, problem := readPrompt(params)
	if problem == nil {
		problem = x.checkPrompt(p)
	}
	if problem != nil {
		return result{Type: "errored", Error: problem.envelope(x.requestID)}
	}
	return result{Type: "succeeded", Message: x.sim.compose(x.account, p).whole()}
}

// batchInfo tells the state of a batch at this time.
func (x *Exchange) batchInfo(r *resource) batchInfo {
	x.account.mu.Lock()
	b := *r.batch
	x.account.mu.Unlock()
	info := batchInfo{
		ID: r.id, Type: "message_batch", ProcessingStatus: "in_progress",
		CreatedAt: stamp(r.created), ExpiresAt: stamp(r.created.Add(24 * time.Hour)),
	}
	if !b.cancelled.IsZero() {
		at := stamp(b.cancelled)
		info.CancelInitiatedAt = &at
	}
	if x.sim.now().Before(b.ends) {
		info.RequestCounts.Processing = len(b.results)
		return info
	}
	info.ProcessingStatus = "ended"
	ended, url := stamp(b.ends), x.origin()+"/v1/messages/batches/"+r.id+"/results"
	info.EndedAt, info.ResultsURL = &ended, &url
	for _, one := range b.results {
		switch one.Result.Type {
		case "succeeded":
			info.RequestCounts.Succeeded++
		case "canceled":
			info.RequestCounts.Canceled++
		default:
			info.RequestCounts.Errored++
		}
	}
	return info
}

// origin is the service's address as the caller has it.
func (x *Exchange) origin() string {
	if x.Request.TLS != nil {
		return "https://" + x.Request.Host
	}
	return "http://" + x.Request.Host
}

func getBatch(x *Exchange) {
	if r := x.named(kindBatch, "Batch"); r != nil {
		x.json(http.StatusOK, x.batchInfo(r))
	}
}

func listBatches(x *Exchange) {
	var list []batchInfo
	for _, r := range x.account.newest(kindBatch) {
		list = append(list, x.batchInfo(r))
	}
	servePage(x, list)
}

// cancelBatch cancels what is still in progress: all of it, since the messages
// of a batch here end together.
func cancelBatch(x *Exchange) {
	r := x.named(kindBatch, "Batch")
	if r == nil {
		return
	}
	x.account.mu.Lock()
	cancelled := r.batch.cancel(x.sim.now())
	x.account.mu.Unlock()
	info := x.batchInfo(r)
	if cancelled {
		info = info.unfinished("canceling")
	}
	x.json(http.StatusOK, info)
}

// cancel ends a batch that is in progress and reports whether it was.
func (b *batch) cancel(now time.Time) bool {
	if !now.Before(b.ends) {
		return false
	}
	results := make([]batchResult, len(b.results))
	for i, one := range b.results {
		results[i] = batchResult{one.CustomID, result{Type: "canceled"}}
	}
	b.results, b.cancelled, b.ends = results, now, now
	return true
}

// unfinished is the batch as its making or cancelling shows it.
func (b batchInfo) unfinished(status string) batchInfo {
	c := b.RequestCounts
	b.RequestCounts = batchCounts{Processing: c.Processing + c.Succeeded + c.Errored + c.Canceled}
	b.ProcessingStatus, b.EndedAt, b.ResultsURL = status, nil, nil
	return b
}

func deleteBatch(x *Exchange) {
	r := x.named(kindBatch, "Batch")
	if r == nil {
		return
	}
	if x.batchInfo(r).ProcessingStatus != "ended" {
		x.fail(*badRequest("Batch cannot be deleted while it is in progress"))
		return
	}
	x.account.disown(r)
	x.json(http.StatusOK, deleted{r.id, "message_batch_deleted"})
}

func batchResults(x *Exchange) {
	r := x.named(kindBatch, "Batch")
	if r == nil {
		return
	}
	if x.batchInfo(r).ProcessingStatus != "ended" {
		x.fail(*missing("Batch results are not available yet: " + r.id))
		return
	}
	x.account.mu.Lock()
	results := r.batch.results
	x.account.mu.Unlock()
	var lines bytes.Buffer
	for _, one := range results {
		lines.Write(mustMarshal(one))
		lines.WriteByte('\n')
	}
	x.send(http.StatusOK, "application/x-jsonl", lines.Bytes())
}
