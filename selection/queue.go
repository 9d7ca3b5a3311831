package selection

import (
	"context"
	"slices"
	"time"
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
	request *Request
	policy  Policy
	tried   []string
	ticket  chan *Ticket // capacity 1
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

func (q *queue) remove(w *waiter) {
	for ci, c := range q.clients {
		i := slices.Index(c.waiters, w)
		if i < 0 {
			continue
		}
		q.length--
		c.waiters = slices.Delete(c.waiters, i, i+1)
		if len(c.waiters) == 0 {
			q.clients = slices.Delete(q.clients, ci, ci+1)
		}
		return
	}
}

// served moves the client behind the others.
func (q *queue) served(c *clientQueue, w *waiter) {
	q.remove(w)
	if i := slices.Index(q.clients, c); i >= 0 {
		q.clients = append(slices.Delete(q.clients, i, i+1), c)
	}
}

// serveWaiting hands places to waiting requests until no one can be served.
func (p *Pool) serveWaiting() {
	for p.waiting.length > 0 && p.serveOne() {
	}
}

func (p *Pool) serveOne() bool {
	for _, c := range p.waiting.clients {
		for _, w := range c.waiters {
			if t, _ := p.acquire(w.request, w.policy, w.tried); t != nil {
				p.waiting.served(c, w)
				w.ticket <- t
				return true
			}
		}
	}
	return false
}

// Wait waits for a place until the deadline: because capacity becomes free, a
// bench ends, or the operator changes something. It returns nil when the
// deadline passes or ctx ends first.
func (p *Pool) Wait(ctx context.Context, r *Request, policy Policy, tried []string, deadline time.Time) *Ticket {
	w := &waiter{request: r, policy: policy, tried: tried, ticket: make(chan *Ticket, 1)}
	p.mu.Lock()
	t, refusal := p.acquire(r, policy, tried)
	if t != nil {
		p.mu.Unlock()
		return t
	}
	p.waiting.push(w)
	p.mu.Unlock()
	defer p.leave(w)

	for {
		next := deadline
		if at := refusal.FreeAt; !at.IsZero() && at.Before(next) {
			next = at
		}
		timer := time.NewTimer(next.Sub(p.now()))
		select {
		case t := <-w.ticket:
			timer.Stop()
			return t
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		p.mu.Lock()
		p.serveWaiting()
		if len(w.ticket) == 0 {
			_, refusal = p.candidates(r, tried, p.now())
		}
		p.mu.Unlock()
		if len(w.ticket) == 0 && !p.now().Before(deadline) {
			return nil
		}
	}
}

// leave takes the waiter out of the queue and gives back a place that was
// handed to it too late.
func (p *Pool) leave(w *waiter) {
	p.mu.Lock()
	p.waiting.remove(w)
	p.mu.Unlock()
	select {
	case t := <-w.ticket:
		t.Release()
	default:
	}
}

// Waiting is the number of requests in the queue.
func (p *Pool) Waiting() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.waiting.length
}
