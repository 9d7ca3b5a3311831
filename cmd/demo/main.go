// Command demo shows the main job at work, without an account: Caddy with the
// plugin, a simulated provider behind it, three accounts, and a client that
// sends mixed requests. It prints each request's way and the address of the
// dashboard.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/term"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("demo: ")
	n := flag.Int("n", 0, "stop after so many requests; 0 = go on until Ctrl-C (20 without a terminal)")
	every := flag.Duration("every", 400*time.Millisecond, "time between requests")
	addr := flag.String("addr", "localhost:8484", "where the site listens; port 0 picks a free one")
	flag.Parse()
	if *n < 0 {
		log.Fatal("-n cannot be negative")
	}
	if *n == 0 && !term.IsTerminal(int(os.Stdout.Fd())) {
		*n = 20
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *addr, *n, *every); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, addr string, n int, every time.Duration) error {
	dir, err := os.MkdirTemp("", "claude-balancer-demo")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	s, err := startStage(dir, addr)
	if err != nil {
		return err
	}
	defer s.stop()
	fmt.Printf("claude-balancer demo: a simulated provider, no account needed\n\n  dashboard  %s/\n  API        ANTHROPIC_BASE_URL=%s\n\n", s.url, s.url)

	c := client{url: s.url}
	c.header()
	for i := 0; n == 0 || i < n; i++ {
		s.play(i)
		if err := c.send(ctx, i); err != nil {
			if ctx.Err() != nil {
				break
			}
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(every):
			continue
		}
		break
	}
	return c.summary()
}
