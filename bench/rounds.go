package main

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// sample is what one load on one variant showed.
type sample struct {
	outcome
	cpu time.Duration
}

// settle is how long a process may go on with what it does behind the requests
// before its CPU time is read: history rows wait up to 100 ms.
const settle = 250 * time.Millisecond

// sideBySide puts the load on each variant in every round and returns the
// samples by variant. The order changes from round to round, so that each
// variant comes before and after every other one as often as possible.
func (b *bench) sideBySide(ctx context.Context, l load, way string, variants ...variant) (map[string][]sample, error) {
	running := make([]*process, len(variants))
	for i, v := range variants {
		p, err := b.start(ctx, v, way)
		if err != nil {
			return nil, err
		}
		defer p.stop()
		running[i] = p
		warm := l
		warm.last /= 4
		warm.count /= 20
		if _, err := warm.run(ctx, p.addr, b.up.Key); err != nil {
			return nil, fmt.Errorf("%s: %w\n%s", v.name, err, &p.log)
		}
	}
	samples := make(map[string][]sample)
	for round := range b.rounds {
		for _, i := range order(len(variants), round) {
			s, err := b.load(ctx, l, running[i])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", variants[i].name, err)
			}
			samples[variants[i].name] = append(samples[variants[i].name], s)
		}
	}
	for i, v := range variants {
		if err := b.profileLoad(ctx, l, way, v, running[i]); err != nil {
			return nil, err
		}
	}
	return samples, nil
}

// order is a round's order of n variants: turned on by one each round, and the
// other way round after n rounds. Six rounds of three are all orders there are.
func order(n, round int) []int {
	o := make([]int, n)
	for i := range o {
		o[i] = (i + round) % n
	}
	if round/n%2 == 1 {
		slices.Reverse(o)
	}
	return o
}

func (b *bench) load(ctx context.Context, l load, p *process) (sample, error) {
	before, err := p.cpu()
	if err != nil {
		return sample{}, err
	}
	out, err := l.run(ctx, p.addr, b.up.Key)
	if err != nil {
		return sample{}, err
	}
	time.Sleep(settle)
	after, err := p.cpu()
	return sample{outcome: out, cpu: after - before}, err
}

// profileLoad puts the load on once more and profiles it, if that is asked for.
func (b *bench) profileLoad(ctx context.Context, l load, way string, v variant, p *process) error {
	if b.profile == "" || v.direct || l.count > 0 {
		return nil
	}
	name := strings.NewReplacer(" ", "-", ",", "").Replace(fmt.Sprintf("%s-%s-%d-%d-%v", v.name, way, l.body, l.conns, l.stream))
	done := make(chan error, 1)
	go func() {
		done <- p.profileFor(ctx, 5*time.Second, filepath.Join(b.profile, name))
	}()
	l.last = 6 * time.Second
	if _, err := l.run(ctx, p.addr, b.up.Key); err != nil {
		return err
	}
	return <-done
}

// profileFor writes profiles of CPU time and of all allocations.
func (p *process) profileFor(ctx context.Context, d time.Duration, file string) error {
	if err := p.profile(ctx, fmt.Sprintf("profile?seconds=%d", int(d.Seconds())), file+".cpu"); err != nil {
		return err
	}
	return p.profile(ctx, "allocs", file+".allocs")
}

// each computes a figure of every sample.
func each(samples []sample, figure func(sample) float64) []float64 {
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = figure(s)
	}
	return values
}

// spread is a median with the least and the most.
type spread struct{ median, least, most float64 }

func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{math.NaN(), math.NaN(), math.NaN()}
	}
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	return spread{(v[(n-1)/2] + v[n/2]) / 2, v[0], v[n-1]}
}

// ratios compares round by round, so that what disturbs a whole round cancels
// out.
func ratios(a, b []float64) []float64 {
	out := make([]float64, len(a))
	for i := range a {
		out[i] = a[i] / b[i]
	}
	return out
}

// Figures of a sample.

func cpuPerTenThousand(s sample) float64 { return s.cpu.Seconds() * 10_000 / float64(len(s.whole)) }

func perSecond(s sample) float64 { return float64(len(s.whole)) / s.took.Seconds() }

func wholeLatency(s sample) float64 { return float64(middle(s.whole).Microseconds()) }

func firstEvent(s sample) float64 { return float64(middle(s.first).Microseconds()) }

func cpuPerEvent(s sample) float64 { return float64(s.cpu.Microseconds()) / float64(s.events) }
