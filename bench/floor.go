package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(floorHandler{})
	httpcaddyfile.RegisterHandlerDirective("bench_floor", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		f := new(floorHandler)
		return f, f.UnmarshalCaddyfile(h.Dispenser)
	})
}

// floorHandler is the least that a handler in Caddy can do to proxy a request
// whose body it holds: read it, make one round trip with Go's transport, copy
// the answer. It can neither choose, fail over, flush, count nor record.
type floorHandler struct {
	Upstream string `json:"upstream"`
	CA       string `json:"ca"`

	base      *url.URL
	transport *http.Transport
}

// CaddyModule returns the Caddy module information.
func (floorHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.bench_floor", New: func() caddy.Module { return new(floorHandler) }}
}

// UnmarshalCaddyfile reads `bench_floor <upstream> <CA file>`.
func (f *floorHandler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.Args(&f.Upstream, &f.CA) {
		return d.ArgErr()
	}
	return nil
}

// Provision implements caddy.Provisioner.
func (f *floorHandler) Provision(caddy.Context) (err error) {
	if f.base, err = url.Parse(f.Upstream); err != nil {
		return err
	}
	pem, err := os.ReadFile(f.CA)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return fmt.Errorf("no certificate in %s", f.CA)
	}
	f.transport = &http.Transport{
		MaxIdleConnsPerHost: 256, DisableCompression: true,
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
	}
	return nil
}

var (
	floorBodies  = sync.Pool{New: func() any { return new(bytes.Buffer) }}
	floorBuffers = sync.Pool{New: func() any { return new([16 << 10]byte) }}
)

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (f *floorHandler) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	body := floorBodies.Get().(*bytes.Buffer)
	body.Reset()
	if _, err := body.ReadFrom(r.Body); err != nil {
		return err
	}
	u := *f.base
	u.Path = r.URL.Path
	// A transport may read on after RoundTrip; this upstream reads all of a
	// body before it answers.
	req := (&http.Request{
		Method: r.Method, URL: &u, Host: u.Host, Header: r.Header,
		Body: io.NopCloser(bytes.NewReader(body.Bytes())), ContentLength: int64(body.Len()),
	}).WithContext(r.Context())
	res, err := f.transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	floorBodies.Put(body)
	maps.Copy(w.Header(), res.Header)
	w.WriteHeader(res.StatusCode)
	buffer := floorBuffers.Get().(*[16 << 10]byte)
	defer floorBuffers.Put(buffer)
	_, err = io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{res.Body}, buffer[:])
	return err
}

// Interface guards
var (
	_ caddy.Provisioner           = (*floorHandler)(nil)
	_ caddyhttp.MiddlewareHandler = (*floorHandler)(nil)
)
