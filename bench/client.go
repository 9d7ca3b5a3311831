package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// load is what clients do: each connection sends one request after the other.
type load struct {
	conns    int
	body     int // bytes of a request's body
	stream   bool
	sessions int           // conversations, in turn; 0 = a few
	count    int           // stop after so many requests; 0 = after the time
	last     time.Duration // how long
}

// outcome is what the clients saw.
type outcome struct {
	requests int
	failed   int // not 200, or not whole
	events   int
	took     time.Duration
	whole    []time.Duration // of each request, until the last byte
	first    []time.Duration // until the first byte of the body
	problem  error           // the first failure
}

// usualSessions is how many conversations a load has unless it says otherwise.
const usualSessions = 200

// run puts the load on the address. Failed requests are counted; it returns an
// error if nothing works.
func (l load) run(ctx context.Context, addr, key string) (outcome, error) {
	sessions := l.sessions
	if sessions == 0 {
		sessions = usualSessions
	}
	var next atomic.Int64
	more := func() (int64, bool) {
		n := next.Add(1)
		return n, l.count == 0 || n <= int64(l.count)
	}
	ctx, cancel := context.WithTimeout(ctx, l.limit())
	defer cancel()
	body := requestBody(l.body, l.stream)
	start := time.Now()
	results := make([]outcome, l.conns)
	var all sync.WaitGroup
	for i := range l.conns {
		all.Go(func() {
			c := client{addr: addr, key: key, body: body, stream: l.stream, sessions: int64(sessions)}
			defer c.close()
			for ctx.Err() == nil {
				n, ok := more()
				if !ok {
					return
				}
				c.request(n, &results[i])
			}
		})
	}
	all.Wait()
	out := outcome{took: time.Since(start)}
	for _, r := range results {
		out.requests += r.requests
		out.failed += r.failed
		out.events += r.events
		out.whole = append(out.whole, r.whole...)
		out.first = append(out.first, r.first...)
		if out.problem == nil {
			out.problem = r.problem
		}
	}
	if len(out.whole) == 0 {
		return out, errors.Join(errors.New("no request was answered"), out.problem)
	}
	return out, nil
}

func (l load) limit() time.Duration {
	if l.count > 0 {
		return 2 * time.Minute
	}
	return l.last
}

// requestBody is a message request of about size bytes. As in real ones, the
// model is first.
func requestBody(size int, stream bool) []byte {
	const words = `The quick brown fox says \"hello\" to the lazy dog, and then:\n\tfunc main() { fmt.Println(1 + 2) }\n`
	var b bytes.Buffer
	b.WriteString(`{"model":"claude-sonnet-4-5","max_tokens":1024,"messages":[`)
	for turn := 0; b.Len() < size-200; turn++ {
		if turn > 0 {
			b.WriteString(`,{"role":"assistant","content":[{"type":"text","text":"Yes."}]},`)
		}
		text := strings.Repeat(words, min(20, (size-b.Len())/len(words)+1))
		fmt.Fprintf(&b, `{"role":"user","content":[{"type":"text","text":"%s"}]}`, text)
	}
	fmt.Fprintf(&b, `],"stream":%v}`, stream)
	return b.Bytes()
}

// client is one connection of a client as Claude Code is.
type client struct {
	addr, key string
	body      []byte
	stream    bool
	sessions  int64

	conn   net.Conn
	reader *bufio.Reader
	head   bytes.Buffer
	buf    [16 << 10]byte
}

func (c *client) close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

// request sends the n-th request and reads its answer.
func (c *client) request(n int64, out *outcome) {
	out.requests++
	start := time.Now()
	first, events, err := c.exchange(n)
	if err != nil {
		out.failed++
		if out.problem == nil {
			out.problem = err
		}
		c.close()
		return
	}
	out.events += events
	out.whole = append(out.whole, time.Since(start))
	out.first = append(out.first, first.Sub(start))
}

// patience is how long an answer may be silent.
const patience = 20 * time.Second

func (c *client) exchange(n int64) (first time.Time, events int, err error) {
	res, err := c.send(n)
	if err != nil {
		return first, 0, err
	}
	var tail []byte
	for {
		k, err := res.Body.Read(c.buf[:])
		if k > 0 {
			if first.IsZero() {
				first = time.Now()
			}
			if c.stream {
				events += bytes.Count(c.buf[:k], []byte("event: "))
				tail = append(tail[:0], c.buf[max(0, k-64):k]...)
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return first, events, err
		}
	}
	switch {
	case first.IsZero():
		return first, 0, errors.New("an empty answer")
	case c.stream && !bytes.Contains(tail, []byte("message_stop")):
		return first, events, fmt.Errorf("a short stream that ends with %q", tail)
	}
	return first, events, nil
}

// send writes a request and reads the answer's head.
func (c *client) send(n int64) (*http.Response, error) {
	if c.conn == nil {
		conn, err := net.Dial("tcp", c.addr)
		if err != nil {
			return nil, err
		}
		c.conn, c.reader = conn, bufio.NewReaderSize(conn, 16<<10)
	}
	if err := c.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	c.writeHead(n)
	parts := net.Buffers{c.head.Bytes(), c.body}
	if _, err := parts.WriteTo(c.conn); err != nil {
		return nil, err
	}
	res, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 500))
		return nil, fmt.Errorf("%s: %s", res.Status, text)
	}
	return res, nil
}

// writeHead writes the headers that Claude Code sends.
func (c *client) writeHead(n int64) {
	c.head.Reset()
	fmt.Fprintf(&c.head, "POST /v1/messages?beta=true HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\nX-Api-Key: %s\r\n", c.addr, len(c.body), c.key)
	fmt.Fprintf(&c.head, "X-Claude-Code-Session-Id: 0b5c3a5e-7f2d-4a53-9e1c-%012d\r\n", n%c.sessions)
	c.head.WriteString(usualHeader)
}

const usualHeader = "Accept: application/json\r\n" +
	"Anthropic-Beta: claude-code-20250219,interleaved-thinking-2025-05-14\r\n" +
	"Anthropic-Dangerous-Direct-Browser-Access: true\r\n" +
	"Anthropic-Version: 2023-06-01\r\n" +
	"Content-Type: application/json\r\n" +
	"User-Agent: claude-cli/2.1.0 (external, cli)\r\n" +
	"X-App: cli\r\n" +
	"X-Stainless-Arch: x64\r\n" +
	"X-Stainless-Lang: js\r\n" +
	"X-Stainless-Os: Linux\r\n" +
	"X-Stainless-Package-Version: 0.70.0\r\n" +
	"X-Stainless-Retry-Count: 0\r\n" +
	"X-Stainless-Runtime: node\r\n" +
	"X-Stainless-Runtime-Version: v24.3.0\r\n" +
	"X-Stainless-Timeout: 600\r\n\r\n"

// median of durations; they are sorted in place.
func middle(d []time.Duration) time.Duration {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return d[len(d)/2]
}
