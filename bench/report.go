package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"
)

// line is a row of the table.
type line struct {
	name, unit string
	bar        bar
	absolute   bool    // the bar is one of the figure itself, not of a ratio
	base, ours spread  // what reverse_proxy and the balancer took
	ratio      spread  // what the bar is about
	control    spread  // the ratio of reverse_proxy to itself
	floor      float64 // the ratio of the least handler
	note       string
	broken     bool // something that the note tells is over its bound
}

func exactly(v float64) spread { return spread{v, v, v} }

// report is the outcome of a run.
type report struct {
	started time.Time
	options options
	lines   []line
}

// print writes the whole report as Markdown.
func (r *report) print(w io.Writer) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s, %d rounds, took %s\n", r.started.UTC().Format("2006-01-02 15:04 MST"), r.options.rounds, time.Since(r.started).Round(time.Second))
	fmt.Fprintf(&b, "%s\n\n", machine())
	b.WriteString("| figure | reverse_proxy | claude_balancer | ratio (least–most) | must | aim | | reverse_proxy to itself |\n")
	b.WriteString("| --- | --- | --- | --- | --- | --- | --- | --- |\n")
	for _, l := range r.lines {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %s |\n", l.title(), l.base.text(), l.ours.text(), l.measured(),
			l.bar.text(l.bar.must), l.bar.text(l.bar.aim), l.verdict(), l.control.ratioText())
	}
	_, err := w.Write(b.Bytes())
	return err
}

func (l *line) title() string {
	if l.unit == "" {
		return l.name
	}
	return l.name + " (" + l.unit + ")"
}

func (l *line) measured() string {
	text := l.ratio.ratioText()
	if l.absolute {
		text = l.ratio.text()
	}
	if l.note != "" {
		text += ", " + l.note
	}
	if l.floor > 0 {
		text += fmt.Sprintf(", floor %.2f", l.floor)
	}
	return text
}

func (l *line) verdict() string {
	switch {
	case l.bar == bar{} && !l.absolute:
		return ""
	case l.broken || !l.bar.holds(l.ratio.median, l.bar.must):
		return "**over**"
	case l.bar.holds(l.ratio.median, l.bar.aim):
		return "aim"
	default:
		return "must"
	}
}

func (b bar) holds(value, bound float64) bool {
	// What rounds to the bound holds it: two digits are more than a run repeats.
	value = math.Round(value*100) / 100
	if b.least {
		return value >= bound
	}
	return value <= bound
}

func (b bar) text(bound float64) string {
	switch {
	case b.least:
		return "≥ " + number(bound)
	case b == bar{}:
		return "0"
	default:
		return "≤ " + number(bound)
	}
}

func (s spread) ratioText() string {
	if s == (spread{}) || math.IsNaN(s.median) {
		return ""
	}
	return fmt.Sprintf("%.2f (%.2f–%.2f)", s.median, s.least, s.most)
}

func (s spread) text() string {
	switch {
	case s == spread{}, math.IsNaN(s.median):
		return ""
	case s.least == s.most:
		return number(s.median)
	}
	return fmt.Sprintf("%s (%s–%s)", number(s.median), number(s.least), number(s.most))
}

// number writes three significant digits.
func number(v float64) string {
	if math.Abs(v) >= 100 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

// machine tells what the figures were measured on.
func machine() string {
	caddy := "?"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, d := range info.Deps {
			if d.Path == "github.com/caddyserver/caddy/v2" {
				caddy = d.Version
			}
		}
	}
	load, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(load), " ")
	return fmt.Sprintf("%s, Caddy %s, %s/%s, %d CPUs (%s), load of the machine at the end %s",
		runtime.Version(), caddy, runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), processor(), first)
}

func processor() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "?"
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "?"
}

// Places in a file, each between two comments.
const (
	tablePlace  = "go run ./bench"
	curvesPlace = "go run ./bench -curves"
)

// replaceIn puts text in place of what is there in a file.
func replaceIn(file, place string, text []byte) error {
	old, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	begin, end := "<!-- "+place+": begin -->\n", "<!-- "+place+": end -->\n"
	before, rest, begins := bytes.Cut(old, []byte(begin))
	_, after, ends := bytes.Cut(rest, []byte(end))
	if !begins || !ends {
		return fmt.Errorf("%s has no place for %s", file, place)
	}
	return os.WriteFile(file, slices.Concat(before, []byte(begin), text, []byte(end), after), 0o644)
}
