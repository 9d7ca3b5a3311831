package claudebalancer

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/anthropic"
	"github.com/claude-balancer/claude-balancer/selection"
	"github.com/claude-balancer/claude-balancer/selection/policies"
)

// BenchmarkChoosing is the choice of an account, for a conversation that has
// none yet: with the check of each account, its limits and windows.
func BenchmarkChoosing(b *testing.B) {
	for _, n := range []int{3, 100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			pool := selection.New(time.Now, 1)
			accounts := make([]selection.Account, n)
			for i := range accounts {
				accounts[i] = selection.Account{ID: fmt.Sprint("id-", i), Name: fmt.Sprint("account-", i), Plan: "max"}
			}
			pool.Sync(accounts)
			var want selection.Request
			b.ReportAllocs()
			for b.Loop() {
				want = selection.Request{Model: sonnet, Family: anthropic.FamilyOf(sonnet), Generative: true}
				ticket, _ := pool.Acquire(&want, policies.LeastUsed{}, nil)
				ticket.Release()
			}
		})
	}
}

// BenchmarkReadingRequest is what happens before an account is chosen: the body
// is read into memory, and its model and session are found.
func BenchmarkReadingRequest(b *testing.B) {
	for _, size := range []int{2 << 10, 200 << 10, 5 << 20} {
		b.Run(fmt.Sprintf("%dkB", size>>10), func(b *testing.B) {
			head := []byte(`{"model":"` + sonnet + `","messages":[{"role":"user","content":"`)
			body := append(append(head, bytes.Repeat([]byte(`words \"and\" words\n`), size/20)...), `"}],"stream":true}`...)
			limits := bodyLimits{one: defaultMaxBody, all: defaultMaxBuffered, account: new(atomic.Int64)}
			b.ReportAllocs()
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				r := httptest.NewRequest(http.MethodPost, "/v1/messages", bytes.NewReader(body))
				read, err := readBody(r, limits)
				if err != nil {
					b.Fatal(err)
				}
				if known, _ := anthropic.ReadBody(read.data); known.Model != sonnet {
					b.Fatal(known)
				}
				read.release()
			}
		})
	}
}

// BenchmarkRequest is a whole request, client and upstream included: what the
// balancer allocates for it shows in a comparison of two versions.
func BenchmarkRequest(b *testing.B) {
	r := newRig(b, rigOptions{})
	r.add("a", "max")
	body := messageBody(sonnet, true)
	b.ReportAllocs()
	for b.Loop() {
		res, err := http.DefaultTransport.RoundTrip(r.request(http.MethodPost, "/v1/messages", body))
		if err != nil {
			b.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
	}
}
