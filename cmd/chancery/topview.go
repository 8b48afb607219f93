package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"chancery/internal/api"
)

// style is how a piece of a line is shown where colours are.
type style string

// Styles, as parameters of SGR (ECMA-48 section 8.3.117).
const (
	plain  style = ""
	bold   style = "1"
	dim    style = "2"
	red    style = "1;31"
	yellow style = "33"
	green  style = "32"
)

// piece is text in one style.
type piece struct {
	text  string
	style style
}

// line is one line of a view.
type line []piece

// write appends the line, at most width runes of it (0 = all).
func (l line) write(b *strings.Builder, width int, color bool) {
	left := width
	for _, p := range l {
		text := printable(p.text)
		if width > 0 {
			if n := utf8.RuneCountInString(text); n > left {
				text = string([]rune(text)[:left])
			}
			left -= utf8.RuneCountInString(text)
		}
		if text == "" {
			continue
		}
		if color && p.style != plain {
			text = "\x1b[" + string(p.style) + "m" + text + "\x1b[0m"
		}
		b.WriteString(text)
	}
}

// printView prints one view as text.
func printView(e env, v *topView) error {
	var b strings.Builder
	for _, l := range v.lines() {
		l.write(&b, 0, false)
		b.WriteByte('\n')
	}
	_, err := io.WriteString(e.stdout, b.String())
	return err
}

// lines lays the view out. What somebody must act on comes first, so that a
// short terminal cuts off the rest.
func (v *topView) lines() []line {
	out := []line{v.head()}
	for _, n := range v.Notes {
		out = append(out, line{{"! " + n, yellow}})
	}
	out = append(out, v.alertLines()...)
	out = append(out, line{})
	out = append(out, v.phaseLines()...)
	out = append(out, line{})
	out = append(out, v.queueLines()...)
	out = append(out, v.renewalLines()...)
	out = append(out, line{})
	return append(out, v.factLines()...)
}

func (v *topView) head() line {
	over := "first look, rates follow"
	if v.Over > 0 {
		over = "rates over " + seconds(v.Over)
	}
	return line{{"chancery " + v.Build.Version, bold}, {fmt.Sprintf("  %s  up %s  %s  %s", v.Server, span(v.At.Sub(v.StartedAt)), v.At.Format("15:04:05 MST"), over), plain}}
}

func (v *topView) alertLines() []line {
	n := int(total(v.Alerts.BySeverity))
	if len(v.Alerts.Firing) == 0 && n == 0 {
		return []line{{{"alerts     ", bold}, {"none fires", green}}}
	}
	var parts []string
	for _, s := range []string{"critical", "warning", "info"} {
		if c := v.Alerts.BySeverity[s]; c > 0 {
			parts = append(parts, fmt.Sprintf("%.0f %s", c, s))
		}
	}
	if len(parts) == 0 { // the figure follows the list by some seconds
		parts = []string{strconv.Itoa(len(v.Alerts.Firing)) + " firing"}
	}
	out := []line{{{"alerts     ", bold}, {strings.Join(parts, ", "), severityStyle(v.Alerts)}}}
	for i, a := range v.Alerts.Firing {
		if i == named {
			return append(out, line{{"           ... chancery alerts list", dim}})
		}
		st := yellow
		if a.Severity == "critical" {
			st = red
		}
		out = append(out, line{{"           ", plain}, {fmt.Sprintf("%-9s", a.Severity), st}, {a.Summary, plain}})
	}
	return out
}

// named bounds how many alerts, failures and passes are named.
const named = 4

func severityStyle(a topAlerts) style {
	if a.BySeverity["critical"] > 0 || slices.ContainsFunc(a.Firing, func(x api.AlertView) bool { return x.Severity == "critical" }) {
		return red
	}
	return yellow
}

func (v *topView) phaseLines() []line {
	out := []line{{{fmt.Sprintf("%-18s %10s %10s %10s %10s %10s %12s", "PHASE", "RATE/S", "P50", "P95", "REJECTED/S", "FAILED/S", "TOTAL"), bold}}}
	add := func(name string, p *topPhase) {
		failed := piece{fmt.Sprintf(" %10s", number(p.Failed)), plain}
		if p.Failed > 0 {
			failed.style = red
		}
		out = append(out, line{{fmt.Sprintf("%-18s %10s %10s %10s %10s", name, number(p.PerSecond), maybe(p.P50), maybe(p.P95), number(p.Rejected)), plain},
			failed, {fmt.Sprintf(" %12.0f", p.Total), plain}})
	}
	for i := range v.Phases {
		if p := &v.Phases[i]; p.Total > 0 || p.Operation == "finalize" {
			add(p.Operation, p)
		}
	}
	for i := range v.CA {
		if p := &v.CA[i]; p.Total > 0 {
			add("ca "+p.Operation, p)
		}
	}
	return out
}

// lanes bounds how many queues are shown, the busiest ones.
const lanes = 10

func (v *topView) queueLines() []line {
	out := []line{{{fmt.Sprintf("%-24s %9s %9s %9s %9s  %s", "QUEUE", "WAITING", "IN FLIGHT", "CAP", "OLDEST", "STATE"), bold}}}
	if len(v.Queues) == 0 {
		return append(out, line{{"none: no issuer and no target is configured", dim}})
	}
	qs := slices.Clone(v.Queues)
	slices.SortStableFunc(qs, func(x, y api.Queue) int { return cmp.Compare(y.Waiting+y.InFlight, x.Waiting+x.InFlight) })
	for i := range qs {
		if i == lanes {
			return append(out, line{{fmt.Sprintf("... and %d more: chancery queue list", len(qs)-lanes), dim}})
		}
		out = append(out, queueLine(&qs[i], v.At))
	}
	return out
}

func queueLine(q *api.Queue, at time.Time) line {
	oldest := "-"
	if q.Oldest != nil && q.Waiting > 0 {
		oldest = span(at.Sub(*q.Oldest))
	}
	state, st := queueState(q), plain
	switch {
	case q.Breaker == "open":
		st = red
	case state != "open":
		st = yellow
	}
	return line{{fmt.Sprintf("%-24s %9d %9d %9s %9s  ", queueName(q), q.Waiting, q.InFlight, fmt.Sprintf("%d/%d", q.Allowed, q.Cap), oldest), plain}, {state, st}, {errorTail(q.Error), dim}}
}

// errorTail is an error at the end of a line.
func errorTail(s string) string {
	if s == "" {
		return ""
	}
	return "  " + s
}

func (v *topView) renewalLines() []line {
	r := &v.Renewals
	text, st := "none fails", green
	if n := len(r.Failing); n > 0 {
		text, st = strconv.Itoa(n)+" fail", red
		if r.More {
			text = "at least " + text
		}
	}
	next := ""
	if r.Due == 0 && r.Next != nil {
		next = ", the next in " + span(r.Next.Sub(v.At))
	}
	out := []line{{{"renewals   ", bold}, {fmt.Sprintf("%d due%s, ", r.Due, next), plain}, {text, st}}}
	for i, f := range r.Failing {
		if i == named {
			return append(out, line{{"           ... chancery renew list --trouble", dim}})
		}
		out = append(out, line{{fmt.Sprintf("           %-24s ", f.Name), plain}, {f.Class, yellow}, {errorTail(f.Error), dim}})
	}
	return out
}

// Ages at which what is served about revocation is worth a colour. Answers and
// lists are valid for days; revocations are seen within seconds.
const (
	oldAnswer = 3 * 86400
	oldList   = 86400
	oldLag    = 60
)

func aged(name string, age, old float64) []piece {
	st := plain
	if age > old {
		st = red
	}
	return []piece{{name + " ", plain}, {seconds(age), st}}
}

func (v *topView) factLines() []line {
	s, out := &v.Status, []line{}
	status := line{{"status     ", bold}, {fmt.Sprintf("%s OCSP/s for %.0f serials, oldest ", number(s.OCSPPerSecond), s.Serials), plain}}
	status = append(status, aged("answer", s.OldestOCSP, oldAnswer)...)
	status = append(status, piece{", ", plain})
	status = append(status, aged("CRL", s.OldestCRL, oldList)...)
	status = append(status, piece{", ", plain})
	status = append(status, aged("revocations seen until", s.Lag, oldLag)...)
	status = append(status, piece{" ago", plain})
	if s.Findings > 0 {
		status = append(status, piece{fmt.Sprintf(", %.0f findings: chancery certs findings", s.Findings), red})
	}
	out = append(out, status)
	out = append(out, v.scanLines()...)
	agents := line{{"agents     ", bold}, {fmt.Sprintf("%.0f parked here, %s deployments/s", v.Agents.Parked, number(v.Agents.Deployments)), plain}}
	if v.Agents.Failed > 0 {
		agents = append(agents, piece{fmt.Sprintf(", %.0f failed since the start", v.Agents.Failed), yellow})
	}
	out = append(out, agents)
	db := fmt.Sprintf("%s statements/s, p50 %s, p95 %s", number(v.Database.PerSecond), maybe(v.Database.P50), maybe(v.Database.P95))
	if v.Slowest != "" {
		db += ", most time: " + v.Slowest
	}
	out = append(out, line{{"database   ", bold}, {db, plain}})
	h := &v.HTTP
	http := line{{"http       ", bold}, {fmt.Sprintf("%s requests/s, %.0f in flight, p50 %s, p95 %s, ", number(h.PerSecond), h.InFlight, maybe(h.P50), maybe(h.P95)), plain}, {number(h.Errors) + " errors/s", plain}}
	if h.Errors > 0 {
		http[2].style = red
	}
	if h.Panics > 0 {
		http = append(http, piece{fmt.Sprintf(", %.0f panics", h.Panics), red})
	}
	out = append(out, http, v.workLine())
	p := &v.Process
	return append(out, line{{"process    ", bold}, {fmt.Sprintf("%.2f cores, %s resident, %s heap, %.0f goroutines, %.0f/%.0f files",
		p.Cores, size(p.Resident), size(p.Heap), p.Goroutines, p.OpenFiles, p.MaxFiles), plain}})
}

func (v *topView) scanLines() []line {
	sc := &v.Scan
	head := line{{"scans      ", bold}, {fmt.Sprintf("%d passes run, %s results/s, %s stored/s, batch p95 %s", len(sc.Running), number(sc.PerSecond), number(sc.Stored), maybe(sc.P95)), plain}}
	if sc.Slowed > 0 {
		head = append(head, piece{fmt.Sprintf(", %.0f batches had to wait", sc.Slowed), yellow})
	}
	out := []line{head}
	for i := range sc.Running[:min(len(sc.Running), named)] {
		p := &sc.Running[i]
		out = append(out, line{{fmt.Sprintf("           %s %s: %d of %d left, since %s", p.Kind, p.ID, p.Left, p.Targets, span(v.At.Sub(p.StartedAt))), dim}})
	}
	return out
}

// workLine shows pools and loops that have something waiting.
func (v *topView) workLine() line {
	var parts []string
	for _, p := range v.Pools {
		if p.Running+p.Waiting > 0 {
			parts = append(parts, fmt.Sprintf("%s %.0f running %.0f waiting", p.Pool, p.Running, p.Waiting))
		}
	}
	for _, l := range v.Backlogs {
		if l.Backlog > 0 {
			parts = append(parts, fmt.Sprintf("%s %.0f waiting", l.Loop, l.Backlog))
		} else {
			parts = append(parts, l.Loop+" does not succeed")
		}
	}
	if len(parts) == 0 {
		return line{{"loops      ", bold}, {"nothing waits", green}}
	}
	return line{{"loops      ", bold}, {strings.Join(parts, ", "), yellow}}
}

// number formats a rate, short.
func number(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v < 10:
		return strconv.FormatFloat(v, 'f', 2, 64)
	case v < 1000:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 0, 64)
}

// maybe formats seconds that may be unknown.
func maybe(v *float64) string {
	if v == nil {
		return "-"
	}
	return seconds(*v)
}

// seconds formats a duration of any length, to about three digits.
func seconds(v float64) string {
	switch {
	case v < 0.001:
		return fmt.Sprintf("%.0f us", v*1e6)
	case v < 1:
		return fmt.Sprintf("%.1f ms", v*1e3)
	case v < 100:
		return fmt.Sprintf("%.1f s", v)
	}
	return span(time.Duration(v * float64(time.Second)))
}

// span formats a long duration by its two largest units.
func span(d time.Duration) string {
	d = max(d, 0).Round(time.Second)
	days, h, m, s := d/(24*time.Hour), d/time.Hour%24, d/time.Minute%60, d/time.Second%60
	switch {
	case days > 0:
		return fmt.Sprintf("%dd%dh", days, h)
	case h > 0:
		return fmt.Sprintf("%dh%dm", h, m)
	case m > 0:
		return fmt.Sprintf("%dm%ds", m, s)
	}
	return fmt.Sprintf("%ds", s)
}

// size formats bytes.
func size(v float64) string {
	const unit = 1 << 20
	if v >= 1024*unit {
		return fmt.Sprintf("%.1f GiB", v/(1024*unit))
	}
	return fmt.Sprintf("%.1f MiB", v/unit)
}
