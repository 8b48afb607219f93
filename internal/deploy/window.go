package deploy

import (
	"fmt"
	"strings"
	"time"
)

// Window is a weekly span of time in which a target may be touched. It is
// written "02:00-05:00", "sat,sun 22:00-06:00" or "mon-fri 02:00-04:00
// Europe/Berlin": days (all when left out), from and to on the clock (past
// midnight when to is not later), and a time zone (UTC when left out). The
// days are those on which it opens.
type Window struct {
	days     [7]bool
	from, to int // minutes since midnight, local
	zone     *time.Location
}

// dayNames are the days of a window as they are written.
var dayNames = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// ParseWindow reads a window.
func ParseWindow(s string) (Window, error) {
	bad := func() (Window, error) {
		return Window{}, fmt.Errorf("%q is not a window; write one such as \"02:00-05:00\" or \"mon-fri 22:00-06:00 Europe/Berlin\"", s)
	}
	w := Window{zone: time.UTC, days: [7]bool{true, true, true, true, true, true, true}}
	fields := strings.Fields(s)
	if len(fields) > 1 && !strings.Contains(fields[0], ":") {
		days, ok := parseDays(strings.ToLower(fields[0]))
		if !ok {
			return bad()
		}
		w.days, fields = days, fields[1:]
	}
	if len(fields) == 0 || len(fields) > 2 {
		return bad()
	}
	from, to, ok := strings.Cut(fields[0], "-")
	f, err1 := time.Parse("15:04", from)
	t, err2 := time.Parse("15:04", to)
	if !ok || err1 != nil || err2 != nil {
		return bad()
	}
	w.from, w.to = f.Hour()*60+f.Minute(), t.Hour()*60+t.Minute()
	if len(fields) == 2 {
		zone, err := time.LoadLocation(fields[1])
		if err != nil {
			return Window{}, fmt.Errorf("%q: the time zone %q is not known", s, fields[1])
		}
		w.zone = zone
	}
	return w, nil
}

// parseDays reads "mon-fri", "sat,sun" or "fri-mon,wed".
func parseDays(s string) (days [7]bool, ok bool) {
	for part := range strings.SplitSeq(s, ",") {
		first, last, span := strings.Cut(part, "-")
		if !span {
			last = first
		}
		a, b := dayOf(first), dayOf(last)
		if a < 0 || b < 0 {
			return days, false
		}
		for d := a; ; d = (d + 1) % 7 {
			days[d] = true
			if d == b {
				break
			}
		}
	}
	return days, true
}

// dayOf returns the number of a day, or -1.
func dayOf(s string) int {
	for i, name := range dayNames {
		if s == name {
			return i
		}
	}
	return -1
}

// next returns the first instant at or after now at which w is open.
func (w Window) next(now time.Time) time.Time {
	local := now.In(w.zone)
	for ahead := -1; ahead <= 7; ahead++ {
		day := time.Date(local.Year(), local.Month(), local.Day()+ahead, 0, 0, 0, 0, w.zone)
		if !w.days[day.Weekday()] {
			continue
		}
		opens := time.Date(day.Year(), day.Month(), day.Day(), 0, w.from, 0, 0, w.zone)
		closes := time.Date(day.Year(), day.Month(), day.Day(), 0, w.to, 0, 0, w.zone)
		if w.to <= w.from {
			closes = time.Date(day.Year(), day.Month(), day.Day()+1, 0, w.to, 0, 0, w.zone)
		}
		switch {
		case !now.Before(closes):
		case now.Before(opens):
			return opens
		default:
			return now
		}
	}
	return now.AddDate(0, 0, 7) // a window without any day: ParseWindow makes none
}

// NextOpen returns the first instant at or after now at which one of the
// windows is open; now when there are none.
func NextOpen(windows []Window, now time.Time) time.Time {
	best := now
	for i, w := range windows {
		if at := w.next(now); i == 0 || at.Before(best) {
			best = at
		}
	}
	return best
}
