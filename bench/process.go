package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// variant is a program under test: what its site does with a request.
type variant struct {
	name     string
	site     func(u *upstream, way string) string // lines of the site
	accounts int                                  // that the balancer gets
	direct   bool                                 // no Caddy at all
	binary   string                               // "" = this program

	fill func(ctx context.Context, path string) error // puts something into the store before the start; nil = nothing
}

// process is a variant's Caddy.
type process struct {
	addr  string // of its site
	admin http.Client
	cmd   *exec.Cmd
	dead  chan error
	log   bytes.Buffer
}

// start runs the variant in front of one of upstream's ways to answer, in a
// Caddy process of its own with an empty store.
func (b *bench) start(ctx context.Context, v variant, way string) (*process, error) {
	if v.direct {
		return &process{addr: strings.TrimPrefix(b.up.URLs[way], "http://")}, nil
	}
	return b.startBinary(ctx, cmp.Or(v.binary, os.Args[0]), v, way)
}

func (b *bench) startBinary(ctx context.Context, binary string, v variant, way string) (*process, error) {
	dir, err := os.MkdirTemp(b.dir, "caddy")
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	socket := filepath.Join(dir, "admin")
	config := fmt.Sprintf(`{
	admin unix/%s
	persist_config off
	auto_https off
	log {
		level ERROR
	}
}
http://127.0.0.1:%d {
	bind 127.0.0.1
	%s
}
`, socket, port, v.site(b.up, way))
	file := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	if v.fill != nil {
		if err := v.fill(ctx, storePath(dir)); err != nil {
			return nil, fmt.Errorf("fill the store: %w", err)
		}
	}
	p := &process{addr: fmt.Sprintf("127.0.0.1:%d", port), dead: make(chan error, 1)}
	p.admin.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	p.cmd = exec.Command(binary, "run", "--config", file)
	p.cmd.Env = append(os.Environ(), role+"="+roleCaddy, "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start Caddy: %w", err)
	}
	go func() { p.dead <- p.cmd.Wait() }()
	if err := p.prepare(ctx, b.up, v); err != nil {
		p.stop()
		return nil, fmt.Errorf("start %s: %w\n%s", v.name, err, &p.log)
	}
	return p, nil
}

// freePort finds a port that nobody listens on.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// prepare waits until the process serves its site, and adds its accounts.
func (p *process) prepare(ctx context.Context, u *upstream, v variant) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for !p.answers(ctx) {
		select {
		case err := <-p.dead:
			p.dead <- err
			return errors.Join(errors.New("it ended"), err)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	for _, account := range u.Accounts[:v.accounts] {
		if err := p.addAccount(ctx, account); err != nil {
			return err
		}
	}
	return nil
}

func (p *process) answers(ctx context.Context) bool {
	res, err := p.ask(ctx, http.MethodGet, "/config/apps/http/servers", nil)
	if err != nil || res.StatusCode != http.StatusOK {
		return false
	}
	conn, err := net.Dial("tcp", p.addr)
	if err != nil {
		return false
	}
	return conn.Close() == nil
}

func (p *process) addAccount(ctx context.Context, body []byte) error {
	for {
		res, err := p.ask(ctx, http.MethodPost, "/claude_balancer/accounts", body)
		switch {
		case err != nil:
			return err
		case res.StatusCode == http.StatusCreated:
			return nil
		case res.StatusCode != http.StatusServiceUnavailable: // the configuration is not live yet
			return fmt.Errorf("add an account: %s", res.Status)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// ask calls the admin endpoint. The answer's body is read and gone.
func (p *process) ask(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://localhost"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := p.admin.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	return res, err
}

// profile writes a profile of the running process to a file.
func (p *process) profile(ctx context.Context, query, file string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost/debug/pprof/"+query, nil)
	if err != nil {
		return err
	}
	res, err := p.admin.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, res.Body)
	return errors.Join(err, f.Close())
}

func (p *process) stop() {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.dead:
	case <-time.After(3 * time.Second): // it would wait for streams
		_ = p.cmd.Process.Kill()
		<-p.dead
	}
}

// cpu is the CPU time that the process has used, by the system's accounting.
func (p *process) cpu() (time.Duration, error) {
	if p.cmd == nil {
		return 0, nil
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	// The second field, the program's name, may hold spaces: count behind it.
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	const utime, stime = 14 - 3, 15 - 3
	if len(fields) <= stime {
		return 0, fmt.Errorf("/proc/%d/stat: %q", p.cmd.Process.Pid, stat)
	}
	var ticks int64
	for _, field := range []string{fields[utime], fields[stime]} {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/%d/stat: %w", p.cmd.Process.Pid, err)
		}
		ticks += n
	}
	const perSecond = 100 // USER_HZ, the same on every Linux that Go runs on
	return time.Duration(ticks) * (time.Second / perSecond), nil
}

// resident is the process's resident memory in bytes.
func (p *process) resident() (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return n << 10, err
		}
	}
	return 0, errors.New("/proc/…/status tells no VmRSS")
}
