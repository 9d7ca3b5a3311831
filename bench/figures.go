package main

import (
	"context"
	"fmt"
)

// figure is something that is measured. It makes one line of the table or more.
type figure struct {
	name    string
	measure func(ctx context.Context, b *bench) ([]line, error)
}

// bar is what a figure has to hold: at most, or at least.
type bar struct {
	must, aim float64
	least     bool
}

// Sizes of request bodies, in bytes.
const (
	small = 2 << 10
	large = 200 << 10
)

// figures are all there are, in the order of the table.
func figures() []figure {
	all := []figure{
		compare("CPU per request, 32 connections, 2 kB", load{conns: 32, body: small}, atOnce, cpuPerTenThousand, "CPU-s per 10,000", bar{must: 1.00, aim: 0.85}),
		compare("CPU per request, 32 connections, 200 kB", load{conns: 32, body: large}, atOnce, cpuPerTenThousand, "CPU-s per 10,000", bar{must: 1.10, aim: 1.00}),
		compare("CPU per streamed request, 32 connections, 2 kB", load{conns: 32, body: small, stream: true}, atOnce, cpuPerTenThousand, "CPU-s per 10,000", bar{must: 1.00, aim: 0.85}),
		compare("CPU per request to HTTPS, 32 connections, 2 kB", load{conns: 32, body: small}, overTLS, cpuPerTenThousand, "CPU-s per 10,000", bar{must: 0.95, aim: 0.80}),
		compare("CPU per request to HTTPS, 32 connections, 200 kB", load{conns: 32, body: large}, overTLS, cpuPerTenThousand, "CPU-s per 10,000", bar{must: 1.05, aim: 0.95}),
		compare("whole latency, 1 connection, 2 kB, p50", load{conns: 1, body: small}, atOnce, wholeLatency, "µs", bar{must: 1.05, aim: 0.95}),
		compare("requests per second, 64 connections, 2 kB", load{conns: 64, body: small}, atOnce, perSecond, "1/s", bar{must: 1.00, aim: 1.15, least: true}),
		{"time to first event added, p50", firstEventAdded},
		compare("CPU per event while counting usage", load{conns: 32, body: small, stream: true}, paced, cpuPerEvent, "CPU-µs", bar{must: 1.15, aim: 1.05}),
		{"resident memory idle", idleMemory},
		{"resident memory with 2,000 slow streams, 2 kB", func(ctx context.Context, b *bench) ([]line, error) {
			return streamMemory(ctx, b, small, bar{must: 1.0, aim: 0.75})
		}},
		{"resident memory with 2,000 slow streams, 200 kB", func(ctx context.Context, b *bench) ([]line, error) {
			return streamMemory(ctx, b, large, bar{must: 1.1, aim: 0.85})
		}},
		{"failed or short of 20,000 streams, upstream at once", failedStreams},
		{"the parts by themselves", parts},
	}
	return all
}

// floorRounds are enough to see what a figure that misses its aim could be.
const floorRounds = 2

// compare measures one figure of the balancer against reverse_proxy, and of
// reverse_proxy against itself.
func compare(name string, l load, way string, value func(sample) float64, unit string, bar bar) figure {
	return figure{name, func(ctx context.Context, b *bench) ([]line, error) {
		l.last = b.round()
		if way == paced {
			l.last *= 2 // a stream takes a while
		}
		variants := []variant{plain, ours, control}
		if b.floor {
			variants = append(variants, floor)
		}
		if b.against != "" {
			before.binary = b.against
			variants = append(variants, before)
		}
		samples, err := b.sideBySide(ctx, l, way, variants...)
		if err != nil {
			return nil, err
		}
		base := each(samples[plain.name], value)
		mine, was := each(samples[ours.name], value), each(samples[before.name], value)
		made := line{
			name: name, unit: unit, bar: bar,
			base: spreadOf(base), ours: spreadOf(mine), ratio: spreadOf(ratios(mine, base)),
			control: spreadOf(ratios(each(samples[control.name], value), base)),
		}
		if !b.floor && made.verdict() != "aim" && !b.quick {
			// How much there is to gain at all.
			few := *b
			few.rounds = floorRounds
			if samples, err = few.sideBySide(ctx, l, way, plain, floor); err != nil {
				return nil, err
			}
			base = each(samples[plain.name], value)
		}
		if of := samples[floor.name]; of != nil {
			made.floor = spreadOf(ratios(each(of, value), base)).median
		}
		lines := []line{made}
		if len(was) > 0 {
			lines = append(lines, line{
				name: name + ", beside the other build", unit: unit, bar: bar,
				base: spreadOf(was), ours: made.ours, ratio: spreadOf(ratios(mine, was)),
			})
		}
		return lines, nil
	}}
}

// firstEventAdded compares what the proxies add to the time that upstream
// itself takes until its first event.
func firstEventAdded(ctx context.Context, b *bench) ([]line, error) {
	l := load{conns: 1, body: small, stream: true, last: b.round()}
	samples, err := b.sideBySide(ctx, l, atOnce, plain, ours, control, direct)
	if err != nil {
		return nil, err
	}
	added := func(v variant) []float64 {
		values, without := each(samples[v.name], firstEvent), each(samples[direct.name], firstEvent)
		for i := range values {
			values[i] -= without[i]
		}
		return values
	}
	base, mine := added(plain), added(ours)
	return []line{{
		name: "time to first event added, p50", unit: "µs", bar: bar{must: 1.1, aim: 1.0},
		base: spreadOf(base), ours: spreadOf(mine), ratio: spreadOf(ratios(mine, base)),
		control: spreadOf(ratios(added(control), base)),
	}}, nil
}

// failedStreams counts streams that are lost or cut though upstream answered
// each of them at once.
func failedStreams(ctx context.Context, b *bench) ([]line, error) {
	l := load{conns: 64, body: small, stream: true, count: 20_000}
	if b.quick {
		l.count = 4_000
	}
	counts := make(map[string]float64)
	for _, v := range []variant{plain, ours} {
		p, err := b.start(ctx, v, atOnce)
		if err != nil {
			return nil, err
		}
		out, err := l.run(ctx, p.addr, b.up.Key)
		p.stop()
		if err != nil {
			return nil, err
		}
		counts[v.name] = float64(out.failed + l.count - out.requests)
	}
	return []line{{
		name: fmt.Sprintf("failed or short of %d streams, upstream at once", l.count), absolute: true,
		base: exactly(counts[plain.name]), ours: exactly(counts[ours.name]), ratio: exactly(counts[ours.name]), control: exactly(0),
	}}, nil
}
