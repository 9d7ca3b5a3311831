package selection

import (
	"context"
	"slices"
	"time"

	"github.com/claude-balancer/claude-balancer/anthropic"
)

// queue holds requests that wait for a place: in order of arrival for each
// client, the clients in turn, so that one busy client cannot starve another.
// Guarded by Pool.mu.
type queue struct {
	clients []*clientQueue
	length  int
}

type clientQueue struct {
	client  string
	waiters []*waiter
}

type waiter struct {
	request  *Request
	policy   Policy
	tried    []string
	deadline time.Time
	// result gets the ticket, or nil once no account can be expected any more.
	result chan *Ticket // capacity 1
	done   bool         // it was given its result, and has left the queue
}

func (q *queue) push(w *waiter) {
	q.length++
	for _, c := range q.clients {
		if c.client == w.request.Client {
			c.waiters = append(c.waiters, w)
			return
		}
	}
	q.clients = append(q.clients, &clientQueue{w.request.Client, []*waiter{w}})
}

// remove takes a waiter out. If it was served, its client goes behind the
// others.
func (q *queue) remove(w *waiter, served bool) {
	for ci, c := range q.clients {
		i := slices.Index(c.waiters, w)
		if i < 0 {
			continue
		}
		q.length--
		c.waiters = slices.Delete(c.waiters, i, i+1)
		switch {
		case len(c.waiters) == 0:
			q.clients = slices.Delete(q.clients, ci, ci+1)
		case served:
			q.clients = append(slices.Delete(q.clients, ci, ci+1), c)
		}
		return
	}
}

// need is what makes requests alike to the queue: if one finds no account, no
// other does.
type need struct {
	model      string
	family     anthropic.Family
	generative bool
	owner      string
	client     string
}

func (r *Request) need() need { return need{r.Model, r.Family, r.Generative, r.Owner, r.Client} }

// serveWaiting hands places to waiting requests until no one can be served. As
// it only takes places away, who found none before it need not look again.
func (p *Pool) serveWaiting() {
	if p.waiting.length == 0 {
		return
	}
	unmet := make(map[need]Refusal)
	for p.serveOne(unmet) {
	}
}

// serveOne ends the wait of the first request that can be served, or that has
// nothing to wait for any more.
func (p *Pool) serveOne(unmet map[need]Refusal) bool {
	for _, c := range p.waiting.clients {
		for _, w := range c.waiters {
			n := w.request.need()
			refusal, known := unmet[n]
			var t *Ticket
			if !known {
				if t, refusal = p.acquire(w.request, w.policy, w.tried); t == nil && len(w.tried) == 0 && !refusal.session {
					unmet[n] = refusal
				}
			}
			if t != nil || !refusal.WorthWaiting(w.deadline) {
				p.waiting.remove(w, t != nil)
				w.done = true
				w.result <- t
				return true
			}
		}
	}
	return false
}

// Wait waits for a place until the deadline: because capacity becomes free, a
// bench ends, or the operator changes something. It returns nil when the
// deadline passes or ctx ends first, or when no account can be expected until
// the deadline.
func (p *Pool) Wait(ctx context.Context, r *Request, policy Policy, tried []string, deadline time.Time) *Ticket {
	w := &waiter{request: r, policy: policy, tried: tried, deadline: deadline, result: make(chan *Ticket, 1)}
	p.mu.Lock()
	p.waiting.push(w)
	p.serveWaiting()
	p.mu.Unlock()
	defer p.leave(w)
	for {
		timer := time.NewTimer(p.pause(w))
		select {
		case t := <-w.result:
			timer.Stop()
			return t
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		p.mu.Lock()
		p.serveWaiting()
		over := !w.done && !p.now().Before(deadline)
		p.mu.Unlock()
		if over {
			return nil
		}
	}
}

// pause is how long nothing can happen to the waiter by the passing of time.
func (p *Pool) pause(w *waiter) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w.done {
		return 0
	}
	now, next := p.look(w.request), w.deadline
	if _, refusal := p.candidates(w.request, w.tried, now); !refusal.FreeAt.IsZero() && refusal.FreeAt.Before(next) {
		next = refusal.FreeAt
	}
	return next.Sub(now)
}

// leave takes the waiter out of the queue and gives back a place that was
// handed to it too late.
func (p *Pool) leave(w *waiter) {
	p.mu.Lock()
	p.waiting.remove(w, false)
	p.mu.Unlock()
	select {
	case t := <-w.result:
		if t != nil {
			t.Release()
		}
	default:
	}
}

// Waiting is the number of requests in the queue.
func (p *Pool) Waiting() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.waiting.length
}
