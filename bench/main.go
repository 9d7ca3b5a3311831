// Command bench measures claude-balancer side by side with Caddy's own
// reverse_proxy: the same binary, the same simulated upstream, the same load,
// in alternating rounds and both orders. It prints a table with the bars that
// each figure has to hold, in under fifteen minutes:
//
//	go run ./bench                          # -quick: in under two
//	go run ./bench -only cpu -rounds 12     # figures whose name holds "cpu"
//	go run ./bench -o docs/benchmarks.md    # replaces the table in that file
//
// Everything listens on the loopback alone, and ends with the command. What is
// compared is CPU time by the system's own accounting, which other work on the
// machine disturbs least; plain reverse_proxy is measured against itself too,
// and shows what of a difference is noise. It runs on Linux.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/claude-balancer/claude-balancer"
)

// role makes this binary be one of the other processes.
const role = "CLAUDE_BALANCER_BENCH_ROLE"

const (
	roleCaddy    = "caddy"
	roleUpstream = "upstream"
)

// The longest that a run may take.
const (
	quickLimit = 2 * time.Minute
	fullLimit  = 15 * time.Minute
)

func main() {
	switch os.Getenv(role) {
	case roleCaddy:
		caddycmd.Main()
		return
	case roleUpstream:
		runUpstream()
		return
	}
	o := options{}
	flag.BoolVar(&o.quick, "quick", false, "short rounds, for a first look")
	flag.StringVar(&o.only, "only", "", "measure only what has this `text` in its name")
	flag.IntVar(&o.rounds, "rounds", 0, "`number` of rounds (default 6, with -quick 2)")
	flag.StringVar(&o.out, "o", "", "Markdown `file` whose table is replaced with the result")
	flag.StringVar(&o.profile, "profile", "", "`folder` for CPU and allocation profiles of every load")
	flag.BoolVar(&o.floor, "floor", false, "measure the least that a handler in Caddy can cost, too")
	flag.Parse()
	if o.rounds < 0 || o.rounds > 100 || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(o); err != nil {
		fatal(err)
	}
}

// fatal ends the process. Caddy has taken the log package over.
func fatal(err error) {
	fmt.Fprintln(os.Stderr, "bench:", err)
	os.Exit(1)
}

type options struct {
	quick, floor       bool
	only, out, profile string
	rounds             int
}

// setDefaults fills in what the flags left open.
func (o *options) setDefaults() (limit time.Duration) {
	limit = fullLimit
	if o.quick {
		limit = quickLimit
	}
	switch {
	case o.rounds > 0:
		limit *= time.Duration(max(1, o.rounds/6))
	case o.quick:
		o.rounds = 2
	default:
		o.rounds = 6
	}
	return limit
}

// round is how long one load lasts.
func (o *options) round() time.Duration {
	if o.quick {
		return 500 * time.Millisecond
	}
	return 2 * time.Second
}

func run(o options) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	limit := o.setDefaults()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()

	dir, err := os.MkdirTemp("", "claude-balancer-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	up, err := startUpstream(dir)
	if err != nil {
		return err
	}
	defer up.stop()

	r := &report{started: time.Now(), options: o}
	b := &bench{options: o, dir: dir, up: up}
	for _, f := range figures() {
		if !strings.Contains(f.name, o.only) {
			continue
		}
		fmt.Fprintf(os.Stderr, "%s …\n", f.name)
		lines, err := f.measure(ctx, b)
		if ctx.Err() != nil {
			return errors.Join(fmt.Errorf("%s: stopped after %s", f.name, time.Since(r.started).Round(time.Second)), err)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		r.lines = append(r.lines, lines...)
	}
	if err := r.print(os.Stdout); err != nil || o.out == "" {
		return err
	}
	return r.replaceIn(o.out)
}

// bench is what the figures are measured with.
type bench struct {
	options
	dir string
	up  *upstream
}
