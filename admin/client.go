package admin

// The command's client of the admin endpoint. Unlike Caddy's own helper it can
// be interrupted, and it hands on the sentence of a refusal alone.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// dialTimeout bounds the wait for a server that does not even accept.
const dialTimeout = 5 * time.Second

type client struct {
	address string // as people know it
	base    string // scheme and host of URLs
	origin  string // "" on a unix socket
	http    *http.Client
}

// newClient takes an admin address of Caddy's: host:port or unix//path.
func newClient(address string) (*client, error) {
	parsed, err := caddy.ParseNetworkAddress(address)
	known := parsed.Network == "unix" || strings.HasPrefix(parsed.Network, "tcp")
	if err != nil || !known || parsed.PortRangeSize() > 1 {
		return nil, fmt.Errorf("%q is no address of an admin endpoint: use host:port or unix//path", address)
	}
	c := &client{address: address}
	target := parsed.JoinHostPort(0)
	if parsed.IsUnixNetwork() {
		target, _, _ = strings.Cut(parsed.Host, "|") // the socket's permissions are the server's business
		c.base = "http://127.0.0.1"
	} else {
		c.base = "http://" + target
		c.origin = c.base
	}
	dialer := net.Dialer{Timeout: dialTimeout}
	c.http = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, parsed.Network, target)
		},
	}}
	return c, nil
}

// call sends a body, if any, as JSON and returns the answer's JSON.
func (c *client) call(ctx context.Context, method, path string, body any) (json.RawMessage, error) {
	req, err := c.request(ctx, method, path, body)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if opErr := (*net.OpError)(nil); errors.As(err, &opErr) && opErr.Op == "dial" {
		return nil, fmt.Errorf(`no Caddy server answers at %s: start one with "caddy run", or name its admin endpoint with --address`, c.address)
	}
	if err != nil {
		return nil, fmt.Errorf("asking the server at %s: %w", c.address, err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("reading the answer of the server at %s: %w", c.address, err)
	}
	if resp.StatusCode >= 300 {
		return nil, c.refusal(resp.StatusCode, answer)
	}
	// A site answers everything, too, if with nothing.
	if resp.StatusCode != http.StatusNoContent && !json.Valid(answer) {
		return nil, c.noBalancer()
	}
	return answer, nil
}

func (c *client) request(ctx context.Context, method, path string, body any) (*http.Request, error) {
	var content io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encoding the request: %w", err)
		}
		content = bytes.NewReader(encoded)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, content)
	if err != nil {
		return nil, fmt.Errorf("%q is no address of an admin endpoint: use host:port or unix//path", c.address)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.origin != "" {
		req.Header.Set("Origin", c.origin)
	}
	if name := localUser(); name != "" {
		req.Header.Set(userHeader, name)
	}
	return req, nil
}

// refusal is the server's sentence.
func (c *client) refusal(status int, answer []byte) error {
	var body struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(answer, &body) == nil && body.Error != "" {
		return errors.New(body.Error)
	}
	if status == http.StatusNotFound {
		return c.noBalancer()
	}
	return fmt.Errorf("the server at %s answered with HTTP status %d and no reason", c.address, status)
}

func (c *client) noBalancer() error {
	return fmt.Errorf("the server at %s is no admin endpoint of a Caddy with claude-balancer built in", c.address)
}

// pathOf builds a path of the admin API; each part is one segment whatever it
// holds.
func pathOf(parts ...string) string {
	path := prefix
	for _, part := range parts {
		path += "/" + escapeSegment(part)
	}
	return path
}

// escapeSegment is url.PathEscape for names such as "..", too, which would be
// taken for a way up.
func escapeSegment(s string) string {
	if s == "." || s == ".." {
		return strings.ReplaceAll(s, ".", "%2E")
	}
	return url.PathEscape(s)
}
