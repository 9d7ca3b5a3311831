package storetest

import (
	"bytes"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
)

// Proxy is a network between a Store and its PostgreSQL server that can fail.
// It understands no TLS.
type Proxy struct {
	URL string // of the server, by way of the proxy

	listener net.Listener
	server   string
	trips    atomic.Int64

	mu      sync.Mutex
	state   proxyState
	changed chan struct{} // closed at a change of state
	conns   map[net.Conn]struct{}
}

type proxyState int

const (
	passing proxyState = iota
	stalled
	cut
	cutting // at the next commit, once the server has it
)

// NewProxy starts a proxy to the server that a URL names.
func NewProxy(tb testing.TB, serverURL string) *Proxy {
	tb.Helper()
	at, err := url.Parse(serverURL)
	if err != nil {
		tb.Fatal("the server's URL cannot be read")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &Proxy{listener: l, server: at.Host, changed: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	at.Host = l.Addr().String()
	p.URL = at.String()
	go p.serve()
	tb.Cleanup(func() {
		_ = l.Close()
		p.set(cut)
	})
	return p
}

// RoundTrips returns how often something was asked of the server and answered.
func (p *Proxy) RoundTrips() int64 { return p.trips.Load() }

// Cut ends all connections and refuses new ones.
func (p *Proxy) Cut() { p.set(cut) }

// Stall lets connections stand without a byte going through, as a network does
// that drops packets.
func (p *Proxy) Stall() { p.set(stalled) }

// CutAtCommit lets the next commit through to the server and cuts the network
// before its answer.
func (p *Proxy) CutAtCommit() { p.set(cutting) }

// Restore lets everything pass again.
func (p *Proxy) Restore() { p.set(passing) }

func (p *Proxy) set(s proxyState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state = s
	close(p.changed)
	p.changed = make(chan struct{})
	if s != cut {
		return
	}
	for c := range p.conns {
		_ = c.Close()
	}
	clear(p.conns)
}

func (p *Proxy) now() (proxyState, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state, p.changed
}

func (p *Proxy) serve() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		if state, _ := p.now(); state == cut {
			_ = client.Close()
			continue
		}
		server, err := net.Dial("tcp", p.server)
		if err != nil {
			_ = client.Close()
			continue
		}
		p.mu.Lock()
		p.conns[client], p.conns[server] = struct{}{}, struct{}{}
		p.mu.Unlock()
		asked := new(atomic.Bool)
		go p.pass(server, client, true, asked)
		go p.pass(client, server, false, asked)
	}
}

// pass copies one direction of a connection, whose two share whether the server
// was asked something that it has not answered yet.
func (p *Proxy) pass(to, from net.Conn, toServer bool, asked *atomic.Bool) {
	defer func() { _, _ = to.Close(), from.Close() }()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		if wasAsked := asked.Swap(toServer); wasAsked && !toServer {
			p.trips.Add(1)
		}
		state, changed := p.now()
		for state == stalled {
			<-changed
			state, changed = p.now()
		}
		committing := toServer && state == cutting && bytes.Contains(buffer[:n], []byte("commit"))
		if committing {
			// The answer must not come back.
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
			_ = from.Close()
			_, _ = io.Copy(io.Discard, io.LimitReader(to, 1)) // until the server has answered
			p.set(cut)
			return
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}
