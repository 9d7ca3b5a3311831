package main

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
)

// part is a Go benchmark whose figure has a bar.
type part struct {
	name, pkg, bench string
	unit             string // which of the benchmark's figures, in ns
	bar              bar    // in µs
	allocs           int    // at most; -1 = any
}

var barredParts = []part{
	{"reading model and session of a 200 kB body", "./anthropic", "BenchmarkReadBody/200kB", "ns/op", bar{must: 60, aim: 30}, 4},
	{"recording a request, CPU off the response path", "./store", "BenchmarkHistoryRow", "cpu-ns/op", bar{must: 15, aim: 8}, -1},
	{"choosing among 1,000 accounts", ".", "BenchmarkChoosing/1000", "ns/op", bar{must: 20, aim: 5}, 0},
}

// parts runs the Go benchmarks that stand for one step of a request.
func parts(ctx context.Context, b *bench) ([]line, error) {
	count, benchtime := "6", "0.5s"
	if b.quick {
		count, benchtime = "2", "0.1s"
	}
	var lines []line
	for _, p := range barredParts {
		cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^"+strings.ReplaceAll(p.bench, "/", "$/^")+"$",
			"-benchmem", "-count", count, "-benchtime", benchtime, strings.Replace(p.pkg, ".", "github.com/claude-balancer/claude-balancer", 1))
		out, err := cmd.CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("%s: %w\n%s", p.bench, err, out)
		}
		times, allocs := figuresOf(out, p.unit), figuresOf(out, "allocs/op")
		if len(times) == 0 || len(allocs) == 0 {
			return nil, fmt.Errorf("%s tells no %s:\n%s", p.bench, p.unit, out)
		}
		for i := range times {
			times[i] /= 1000
		}
		s := spreadOf(times)
		made := line{name: p.name, unit: "µs", bar: p.bar, absolute: true, ours: s, ratio: s, note: fmt.Sprintf("%.0f allocations", allocs[0])}
		if p.allocs >= 0 {
			made.note += fmt.Sprintf(" (≤ %d)", p.allocs)
			made.broken = allocs[0] > float64(p.allocs)
		}
		lines = append(lines, made)
	}
	return lines, nil
}

// figuresOf finds the figures of a unit in a Go benchmark's output.
func figuresOf(out []byte, unit string) (values []float64) {
	for _, m := range regexp.MustCompile(`([0-9.]+) `+regexp.QuoteMeta(unit)+`\b`).FindAllSubmatch(out, -1) {
		if v, err := strconv.ParseFloat(string(m[1]), 64); err == nil {
			values = append(values, v)
		}
	}
	return values
}
