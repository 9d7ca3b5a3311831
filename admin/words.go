package admin

// Times, durations, money and shares in words.

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// none stands for an absent value.
const none = "-"

// span tells a duration in its two largest units: "2h 13m", "45s".
func span(d time.Duration) string {
	d = max(d, 0).Round(time.Second)
	units := []struct {
		size time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}}
	for i, unit := range units {
		if d < unit.size {
			continue
		}
		text := strconv.FormatInt(int64(d/unit.size), 10) + unit.name
		if i+1 < len(units) {
			if rest := d % unit.size / units[i+1].size; rest > 0 {
				text += " " + strconv.FormatInt(int64(rest), 10) + units[i+1].name
			}
		}
		return text
	}
	return "0s"
}

// ago tells how long a time is past.
func ago(ms *int64, now time.Time) string {
	if ms == nil {
		return "never"
	}
	d := now.Sub(time.UnixMilli(*ms))
	if d < time.Second {
		return "just now"
	}
	return span(d) + " ago"
}

// until tells how far ahead a time is.
func until(ms int64, now time.Time) string {
	return span(time.UnixMilli(ms).Sub(now))
}

// clock tells a time to the second, in the zone of now.
func clock(ms int64, now time.Time) string {
	return time.UnixMilli(ms).In(now.Location()).Format(time.DateTime)
}

// counted is a number of things.
func counted(n int64, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return number(n) + " " + thing
}

// latency tells milliseconds as the dashboard does.
func latency(ms int64) string {
	if ms < 1000 {
		return strconv.FormatInt(ms, 10) + "ms"
	}
	return fmt.Sprintf("%.2fs", float64(ms)/1000)
}

// dollars tells an amount; below one dollar fractions of a cent matter.
func dollars(usd *float64) string {
	switch {
	case usd == nil:
		return none
	case *usd != 0 && *usd < 1:
		return fmt.Sprintf("$%.4f", *usd)
	default:
		return fmt.Sprintf("$%.2f", *usd)
	}
}

// percent tells a fraction.
func percent(fraction *float64) string {
	if fraction == nil {
		return none
	}
	return strconv.Itoa(int(*fraction*100+0.5)) + "%"
}

func number(n int64) string { return strconv.FormatInt(n, 10) }

func optionalNumber(n *int64) string {
	if n == nil {
		return none
	}
	return number(*n)
}

func optional(s *string) string {
	if s == nil || *s == "" {
		return none
	}
	return *s
}

// bound tells a limit of which zero means none.
func bound(n int) string {
	if n == 0 {
		return none
	}
	return strconv.Itoa(n)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// all tells a list that allows everything when it is empty.
func all(list []string) string {
	if len(list) == 0 {
		return "all"
	}
	return strings.Join(list, ", ")
}
