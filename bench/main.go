// Command bench measures claude-balancer side by side with Caddy's own
// reverse_proxy: the same binary, the same simulated upstream, the same load,
// in alternating rounds and both orders. It prints a table with the bars that
// each figure has to hold, in under fifteen minutes:
//
//	go run ./bench                          # -quick: in under two
//	go run ./bench -only cpu -rounds 12     # figures whose name holds "cpu"
//	go run ./bench -o docs/benchmarks.md    # replaces the table in that file
//	go run ./bench -curves -rows 10000000   # what a request costs with much of everything
//
// Everything listens on the loopback alone, and ends with the command. What is
// compared is CPU time by the system's own accounting, which other work on the
// machine disturbs least; plain reverse_proxy is measured against itself too,
// and shows what of a difference is noise. It runs on Linux.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
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

// The longest that a run may take, on a machine that is slower than it should
// be.
const (
	quickLimit  = 3 * time.Minute
	fullLimit   = 20 * time.Minute
	curvesLimit = time.Hour // most of it goes into writing rows
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
	flag.BoolVar(&o.curves, "curves", false, "measure what a request costs with few and with many accounts, conversations and rows, instead")
	flag.IntVar(&o.rows, "rows", 1_000_000, "the largest `number` of rows for -curves; ten million take minutes to write")
	flag.StringVar(&o.against, "against", "", "a `binary` of this program, built before a change: measure its balancer, too")
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
	quick, floor, curves bool
	only, out, profile   string
	against              string
	rounds, rows         int
}

// setDefaults fills in what the flags left open.
func (o *options) setDefaults() (limit time.Duration) {
	limit = fullLimit
	if o.quick {
		limit = quickLimit
	}
	switch {
	case o.curves && o.rounds == 0:
		o.rounds, limit = 6, curvesLimit
	case o.curves:
		limit = curvesLimit
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

	if o.profile != "" {
		if err := os.MkdirAll(o.profile, 0o755); err != nil {
			return err
		}
	}
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
	if o.curves {
		return show(o.out, curvesPlace, func(w io.Writer) error { return drawCurves(ctx, b, w) })
	}
	for _, f := range figures() {
		if !strings.Contains(f.name, o.only) {
			continue
		}
		fmt.Fprintf(os.Stderr, "%s …\n", f.name)
		lines, err := f.measure(ctx, b)
		if err != nil || ctx.Err() != nil {
			err = fmt.Errorf("%s, after %s: %w", f.name, time.Since(r.started).Round(time.Second), errors.Join(err, ctx.Err()))
			return errors.Join(r.print(os.Stdout), err) // what there is, but into no file
		}
		r.lines = append(r.lines, lines...)
	}
	return show(o.out, tablePlace, r.print)
}

// show prints something, and puts it into its place in a file if there is one.
func show(file, place string, print func(io.Writer) error) error {
	var text bytes.Buffer
	if err := print(&text); err != nil {
		return err
	}
	if _, err := os.Stdout.Write(text.Bytes()); err != nil || file == "" {
		return err
	}
	return replaceIn(file, place, text.Bytes())
}

// bench is what the figures are measured with.
type bench struct {
	options
	dir string
	up  *upstream
}
