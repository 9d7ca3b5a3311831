package claudebalancer

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/simulator"
)

// What networks do: creep, go silent on one side, change certificates, lose
// names. With CLAUDE_BALANCER_LONG=1 the numbers are real ones.

func longRun() bool { return os.Getenv("CLAUDE_BALANCER_LONG") != "" }

// creeper writes the first bytes of an answer one by one.
type creeper struct {
	http.ResponseWriter
	left int
	gap  time.Duration
	sent *bytes.Buffer
}

func (c *creeper) Write(b []byte) (int, error) {
	c.sent.Write(b)
	for i := range b {
		if c.left <= 0 {
			_, err := c.ResponseWriter.Write(b[i:])
			return len(b), err
		}
		c.left--
		if _, err := c.ResponseWriter.Write(b[i : i+1]); err != nil {
			return i, err
		}
		_ = http.NewResponseController(c.ResponseWriter).Flush() // the next write tells
		time.Sleep(c.gap)
	}
	return len(b), nil
}

func (c *creeper) Unwrap() http.ResponseWriter { return c.ResponseWriter }

func TestASlowUpstreamIsRelayedByteForByte(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	slow := &creeper{left: 300, gap: time.Millisecond, sent: new(bytes.Buffer)}
	if longRun() {
		slow.left, slow.gap = 15, time.Second
	}
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		slow.ResponseWriter = w
		r.sim.ServeHTTP(slow, q)
	}))
	t.Cleanup(up.Close)
	p := newRig(t, rigOptions{shared: r, upstream: up.URL})
	p.add("work", "max")
	for _, stream := range []bool{true, false} {
		slow.sent.Reset()
		got := p.send("POST", "/v1/messages", messageBody(sonnet, stream)).mustBe(t, 200)
		if got.err != nil || got.body != slow.sent.String() {
			t.Errorf("stream %v: %v\n got %q\nsent %q", stream, got.err, got.body, slow.sent)
		}
	}
}

// dialRaw opens a connection to the site.
func (r *rig) dialRaw() net.Conn {
	r.t.Helper()
	conn, err := net.Dial("tcp", r.srv.Listener.Addr().String())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func rawMessage(body string) (head string) {
	return fmt.Sprintf("POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nAnthropic-Version: 2023-06-01\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", len(body))
}

func TestSlowClientsGetTheirAnswersAndHoldUpNobody(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	r.add("work", "max")
	gap := 5 * time.Millisecond
	if longRun() {
		gap = time.Second
	}
	const creeping = 10 // bytes of each direction
	var slow sync.WaitGroup
	for range 20 {
		conn := r.dialRaw()
		slow.Go(func() {
			body := messageBody(sonnet, true)
			head := rawMessage(body) + body[:len(body)-creeping]
			_, err := io.WriteString(conn, head)
			for i := len(body) - creeping; i < len(body) && err == nil; i++ {
				time.Sleep(gap)
				_, err = io.WriteString(conn, body[i:i+1])
			}
			if err != nil {
				t.Error(err)
				return
			}
			reader := bufio.NewReaderSize(conn, 16)
			for range creeping {
				time.Sleep(gap)
				if _, err := reader.ReadByte(); err != nil {
					t.Error(err)
					return
				}
			}
			_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
			rest := new(strings.Builder)
			for !strings.HasSuffix(rest.String(), "\r\n0\r\n\r\n") {
				b, err := reader.ReadByte()
				if err != nil {
					t.Errorf("%v after %q", err, rest)
					return
				}
				rest.WriteByte(b)
			}
			if !strings.Contains(rest.String(), "event: message_stop") {
				t.Errorf("a short stream: %q", rest)
			}
		})
	}
	for range 20 {
		begin := time.Now()
		r.message(sonnet).mustBe(t, 200)
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("a quick client waited %s", took)
		}
	}
	slow.Wait()
	r.eventually("no body is held", func() bool { return r.handler().buffered.Load() == 0 && r.account("work").InFlight == 0 })
}

// A client that has closed its side gets no answer by HTTP/1.1 in Go: it counts
// as one that left, and upstream works for nobody.
func TestAHalfClosedClientHasLeft(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	r.add("work", "max")
	r.sim.Script("work", simulator.Step{Do: simulator.Hang})
	conn := r.dialRaw()
	body := messageBody(sonnet, true)
	if _, err := io.WriteString(conn, rawMessage(body)+body); err != nil {
		t.Fatal(err)
	}
	r.eventually("upstream has the request", func() bool { return r.sim.InFlight() == 1 })
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	r.eventually("upstream notices", func() bool { return r.sim.Cancelled() == 1 })
	if row := r.last(); row.Outcome != api.OutcomeClientGone {
		t.Errorf("row %+v", row)
	}
}

// Upstream closes connections that were idle: the next request must not fail
// of it.
func TestConnectionsThatUpstreamHasClosedFailNoRequest(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	up := httptest.NewServer(r.sim)
	t.Cleanup(up.Close)
	p := newRig(t, rigOptions{shared: r, upstream: up.URL, directive: quick})
	p.add("work", "max")
	for range 50 {
		p.message(sonnet).mustBe(t, 200)
		up.CloseClientConnections()
		p.message(sonnet).mustBe(t, 200)
	}
}

func TestIdleConnectionsCostLittleAndHoldUpNobody(t *testing.T) {
	t.Parallel()
	idle := 300
	if longRun() {
		idle = 5000
	}
	const mostEach = 48 << 10 // bytes of memory
	p := newProcess(t, simulator.Options{})
	plain := freePort(t)
	p.start(strings.Replace(p.config("", ""), "https://localhost:", "http://localhost:"+plain+", https://localhost:", 1))
	p.add("work", "max")
	client := p.client("1")
	serves := func() {
		t.Helper()
		if status, body, err := p.message(t.Context(), client, false); status != http.StatusOK || err != nil {
			t.Fatal(status, body, err)
		}
	}
	serves()
	begin := (&soak{process: p}).size()
	conns := make([]net.Conn, idle)
	for i := range conns {
		conn, err := net.Dial("tcp", "127.0.0.1:"+plain)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		conns[i] = conn
	}
	for _, conn := range conns {
		if res, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || res.StatusCode != http.StatusOK {
			t.Fatal(res, err)
		}
	}
	for range 20 {
		serves()
	}
	during := (&soak{process: p}).size()
	each := (during.heap - begin.heap) / int64(idle)
	t.Logf("%d idle connections hold %d bytes of heap each", idle, each)
	if each > mostEach {
		t.Errorf("an idle connection holds %d bytes, want at most %d", each, mostEach)
	}
	for _, conn := range conns {
		_ = conn.Close()
	}
	p.waitFor("they are gone", func() bool {
		end := (&soak{process: p}).size()
		return end.descriptors <= begin.descriptors+5 && end.goroutines <= begin.goroutines+10
	})
}

// authority issues certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func issue(t *testing.T, name string, by *authority) (*authority, tls.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: by == nil, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key}, tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key}
}

func TestUpstreamsCertificateMayChangeButMustBeTrusted(t *testing.T) {
	t.Parallel()
	trusted, _ := issue(t, "authority", nil)
	stranger, _ := issue(t, "another authority", nil)
	_, first := issue(t, "upstream", trusted)
	_, renewed := issue(t, "upstream", trusted)
	_, forged := issue(t, "upstream", stranger)
	var current atomic.Pointer[tls.Certificate]
	current.Store(&first)

	r := newRig(t, rigOptions{})
	up := httptest.NewUnstartedServer(r.sim)
	up.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return &tls.Config{Certificates: []tls.Certificate{*current.Load()}, MinVersion: tls.VersionTLS12}, nil
	}}
	up.StartTLS()
	t.Cleanup(up.Close)
	ca := filepath.Join(r.dir, "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: trusted.cert.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	p := newRig(t, rigOptions{shared: r, upstream: up.URL, directive: append([]string{"transport http {", "tls_trust_pool file " + ca, "}"}, quick...)})
	p.add("work", "max")
	for _, c := range []struct {
		name   string
		cert   *tls.Certificate
		status int
	}{{"the first", &first, 200}, {"a renewed one", &renewed, 200}, {"a stranger's", &forged, 503}, {"the renewed one again", &renewed, 200}} {
		current.Store(c.cert)
		up.CloseClientConnections()
		got := p.message(sonnet)
		if got.status != c.status {
			t.Errorf("%s: %d %s", c.name, got.status, got.body)
		}
		if c.status == 503 && !strings.Contains(got.body, "certificate") {
			t.Errorf("%s: the client is not told why: %s", c.name, got.body)
		}
	}
}

// nameServer answers every question for an IPv4 address with 127.0.0.1, unless
// it fails.
func nameServer(t *testing.T, fails *atomic.Bool) (address string) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	go func() {
		buf := make([]byte, 1<<10)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			// The header is 12 bytes, then come the name's labels up to a zero
			// byte, the type and the class (RFC 1035, 4.1).
			end := 12 + bytes.IndexByte(buf[12:n], 0) + 5
			answer := append([]byte{}, buf[:end]...)
			copy(answer[2:12], []byte{0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0})
			switch {
			case fails.Load():
				answer[3] |= 2 // SERVFAIL
			case answer[end-3] == 1: // an address of IPv4
				answer[7] = 1
				answer = append(answer, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1)
			}
			_, _ = conn.WriteTo(answer, from)
		}
	}()
	return conn.LocalAddr().String()
}

func TestNamesThatCannotBeLookedUpFailForAsLongAsThat(t *testing.T) {
	t.Parallel()
	var fails atomic.Bool
	fails.Store(true)
	r := newRig(t, rigOptions{})
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(r.up.URL, "http://"))
	p := newRig(t, rigOptions{shared: r, upstream: "http://api.test:" + port,
		directive: append([]string{"transport http {", "resolvers udp/" + nameServer(t, &fails), "}"}, quick...)})
	p.add("work", "max")
	got := p.message(sonnet).mustBe(t, 503)
	if !strings.Contains(got.body, "api.test") || !strings.Contains(got.body, "lookup") {
		t.Errorf("the client is not told what could not be looked up: %s", got.body)
	}
	if row := p.last(); row.Attempts[0].Cause != "dial" {
		t.Errorf("attempts %+v", row.Attempts)
	}
	fails.Store(false)
	p.message(sonnet).mustBe(t, 200)
}
