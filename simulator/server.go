package simulator

// Running servers, for programs and tests that need an address.

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"time"
)

// Server is a simulator that listens.
type Server struct {
	URL   string            // such as http://127.0.0.1:12345
	CA    *x509.Certificate // nil without TLS
	CAPEM []byte            // CA in PEM, for a file

	simulator *Simulator
	http      *http.Server
	done      chan struct{}
}

// Start serves plain HTTP/1.1 on a free port of 127.0.0.1. It panics if it
// cannot.
func (s *Simulator) Start() *Server { return must(s.Listen("127.0.0.1:0")) }

// StartTLS serves HTTPS with HTTP/2 and HTTP/1.1 on a free port of 127.0.0.1,
// for 127.0.0.1, ::1 and localhost. It panics if it cannot.
func (s *Simulator) StartTLS() *Server { return must(s.ListenTLS("127.0.0.1:0")) }

func must(srv *Server, err error) *Server {
	if err != nil {
		panic("simulator: " + err.Error())
	}
	return srv
}

// Listen serves plain HTTP/1.1 on an address.
func (s *Simulator) Listen(address string) (*Server, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("start the simulator: %w", err)
	}
	srv := s.server("http://" + l.Addr().String())
	go srv.run(func() error { return srv.http.Serve(l) })
	return srv, nil
}

// ListenTLS serves HTTPS with HTTP/2 on an address, with a certificate of its own.
func (s *Simulator) ListenTLS(address string) (*Server, error) {
	certificate, err := selfSigned()
	if err != nil {
		return nil, fmt.Errorf("make the simulator's certificate: %w", err)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("start the simulator: %w", err)
	}
	srv := s.server("https://" + l.Addr().String())
	srv.CA = certificate.Leaf
	srv.CAPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Leaf.Raw})
	srv.http.TLSConfig = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	go srv.run(func() error { return srv.http.ServeTLS(l, "", "") })
	return srv, nil
}

func (s *Simulator) server(url string) *Server {
	return &Server{
		URL: url, simulator: s, done: make(chan struct{}),
		http: &http.Server{Handler: s, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0)},
	}
}

func (srv *Server) run(serve func() error) {
	defer close(srv.done)
	_ = serve() // ends with ErrServerClosed
}

// Close ends the server and every connection.
func (srv *Server) Close() {
	_ = srv.http.Close()
	<-srv.done
	srv.simulator.closeKept()
}

// Client returns an HTTP client that trusts the server and has connections of
// its own.
func (srv *Server) Client() *http.Client {
	t := &http.Transport{ForceAttemptHTTP2: true}
	if srv.CA != nil {
		roots := x509.NewCertPool()
		roots.AddCert(srv.CA)
		t.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	return &http.Client{Transport: t}
}

// keep leaves a connection open and unread until the server closes.
func (s *Simulator) keep(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept = append(s.kept, conn)
}

func (s *Simulator) closeKept() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, conn := range s.kept {
		_ = conn.Close()
	}
	s.kept = nil
}

// selfSigned makes a certificate that is its own authority.
func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "claude-balancer simulator"},
		NotBefore:    time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IsCA:        true, BasicConstraintsValid: true,
		DNSNames:    []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}
