package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// memoryRounds bounds the rounds of the figures of memory: they start processes
// anew each time, and differ little.
const memoryRounds = 6

const mebibyte = 1 << 20

// idleMemory compares a balancer that serves nothing with a Caddy that was
// built without the plugin.
func idleMemory(ctx context.Context, b *bench) ([]line, error) {
	stock, err := b.install(ctx, "stock", "github.com/claude-balancer/claude-balancer/bench/stock")
	if err != nil {
		return nil, err
	}
	with, err := b.install(ctx, "with", "github.com/claude-balancer/claude-balancer/cmd/caddy")
	if err != nil {
		return nil, err
	}
	var base, mine, more []float64
	for range min(b.rounds, memoryRounds) {
		without, err := b.idle(ctx, stock, empty)
		if err != nil {
			return nil, err
		}
		balanced, err := b.idle(ctx, with, ours)
		if err != nil {
			return nil, err
		}
		base, mine, more = append(base, without), append(mine, balanced), append(more, balanced-without)
	}
	return []line{{
		name: "resident memory idle, over Caddy without the plugin", unit: "MiB", bar: bar{must: 16, aim: 12}, absolute: true,
		base: spreadOf(base), ours: spreadOf(mine), ratio: spreadOf(more),
	}}, nil
}

// install builds a program and copies it, as who installs it does. How much of a
// program's file is resident depends on how the system came to have it in
// memory: by some MiB it is more where the linker has just written it.
func (b *bench) install(ctx context.Context, name, pkg string) (string, error) {
	built, installed := filepath.Join(b.dir, name+"-built"), filepath.Join(b.dir, name)
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", built, pkg).CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	program, err := os.ReadFile(built)
	if err != nil {
		return "", err
	}
	return installed, os.WriteFile(installed, program, 0o700)
}

func (b *bench) idle(ctx context.Context, binary string, v variant) (float64, error) {
	p, err := b.startBinary(ctx, binary, v, atOnce)
	if err != nil {
		return 0, err
	}
	defer p.stop()
	time.Sleep(time.Second)
	n, err := p.resident()
	return float64(n) / mebibyte, err
}

// streamMemory compares the memory that many open streams hold.
func streamMemory(ctx context.Context, b *bench, body int, bar bar) ([]line, error) {
	n := 2000
	if b.quick {
		n = 500
	}
	values := make(map[string][]float64)
	variants := []variant{plain, ours, control}
	for round := range min(b.rounds, memoryRounds) {
		for _, i := range order(len(variants), round) {
			v := variants[i]
			held, err := b.holdStreams(ctx, v, body, n)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", v.name, err)
			}
			values[v.name] = append(values[v.name], held)
		}
	}
	base, mine := values[plain.name], values[ours.name]
	return []line{{
		name: fmt.Sprintf("resident memory with %d slow streams, %d kB bodies", n, body>>10), unit: "MiB", bar: bar,
		base: spreadOf(base), ours: spreadOf(mine), ratio: spreadOf(ratios(mine, base)),
		control: spreadOf(ratios(values[control.name], base)),
	}}, nil
}

// openers is how many streams are opened at a time.
const openers = 32

// holdStreams opens n streams through a fresh process and returns its resident
// memory, in MiB, while all of them are open.
func (b *bench) holdStreams(ctx context.Context, v variant, body, n int) (float64, error) {
	p, err := b.start(ctx, v, slow)
	if err != nil {
		return 0, err
	}
	defer p.stop()
	clients := make([]client, n)
	text := requestBody(body, true)
	turns := make(chan int, n)
	for i := range n {
		turns <- i
	}
	close(turns)
	failures := make([]error, openers)
	var all sync.WaitGroup
	for k := range openers {
		all.Go(func() {
			for i := range turns {
				clients[i] = client{addr: p.addr, key: b.up.Key, body: text, stream: true, sessions: usualSessions}
				if err := clients[i].open(int64(i)); err != nil {
					failures[k] = err
				}
			}
		})
	}
	all.Wait()
	defer func() {
		for i := range clients {
			clients[i].close()
		}
	}()
	if err := errors.Join(failures...); err != nil {
		return 0, err
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	time.Sleep(time.Second)
	held, err := p.resident()
	if b.profile != "" {
		err = errors.Join(err, p.profile(ctx, "heap", filepath.Join(b.profile, fmt.Sprintf("%s-streams-%d.heap", v.name, body))))
	}
	return float64(held) / mebibyte, err
}

// open begins a stream and reads its first event.
func (c *client) open(n int64) error {
	res, err := c.send(n)
	if err != nil {
		return err
	}
	k, err := res.Body.Read(c.buf[:])
	if err != nil || !bytes.HasPrefix(c.buf[:k], []byte("event: ")) {
		return errors.Join(fmt.Errorf("no first event but %q", c.buf[:k]), err)
	}
	return nil
}
