package scan

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"chancery/internal/scan/probe"
	"chancery/internal/scan/verdict"
)

// JSONLines returns a sink that writes one JSON object per result.
func JSONLines(w io.Writer) Sink {
	return func(_ context.Context, batch []Result) error {
		for i := range batch {
			text, err := json.Marshal(batch[i].View())
			if err != nil {
				return fmt.Errorf("encode result: %w", err)
			}
			if _, err := w.Write(append(text, '\n')); err != nil {
				return fmt.Errorf("write result: %w", err)
			}
		}
		return nil
	}
}

// Columns are the names of the fields of Row.
func Columns() []string {
	return []string{"target", "class", "problems", "days", "not_after", "key", "issuer", "names", "version", "address", "attempts", "dns_ms", "tcp_ms", "tls_ms", "serial", "fingerprint", "reason"}
}

// Row returns v as text, in the order of Columns.
func (v *View) Row() []string {
	class := string(v.Class)
	if v.Class == probe.Alert {
		class += "(" + strconv.Itoa(int(v.Alert)) + ")"
	}
	problems := make([]string, len(v.Problems))
	for i, p := range v.Problems {
		problems[i] = string(p)
	}
	c := v.Certificate
	days, notAfter := "", ""
	if c == nil {
		c = &CertificateView{}
	} else {
		days, notAfter = strconv.Itoa(c.Days), c.NotAfter.Format(time.RFC3339)
	}
	ms := func(f float64) string { return strconv.FormatFloat(f, 'f', 1, 64) }
	return []string{v.Target, class, strings.Join(problems, ","), days, notAfter, c.Key, c.Issuer, strings.Join(c.Names, " "), v.Version, v.Address,
		strconv.Itoa(v.Attempts), ms(v.Millis.DNS), ms(v.Millis.TCP), ms(v.Millis.TLS), c.Serial, c.Fingerprint, v.Reason}
}

// CSV returns a sink that writes a header and one record per result (RFC
// 4180). Fields that a spreadsheet would run as a formula are quoted with an
// apostrophe: certificates are written by strangers.
func CSV(w io.Writer) Sink {
	out := csv.NewWriter(w)
	header := true
	return func(_ context.Context, batch []Result) error {
		if header {
			out.Write(Columns())
			header = false
		}
		for i := range batch {
			v := batch[i].View()
			row := v.Row()
			for n, field := range row {
				if field != "" && strings.ContainsRune("=+@\t\r", rune(field[0])) {
					row[n] = "'" + field
				}
			}
			out.Write(row)
		}
		out.Flush()
		if err := out.Error(); err != nil {
			return fmt.Errorf("write csv: %w", err)
		}
		return nil
	}
}

// Register adds the figures of a finished scan to reg, as gauges for a node
// exporter's text file directory. There is no series per endpoint: their
// number is bounded by classes, problems and phases.
func (s *Summary) Register(reg *prometheus.Registry) error {
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "chancery", Subsystem: "scan", Name: name, Help: help}, labels)
	}
	targets := gauge("targets", "Targets of the last scan, by what became of them.", "class")
	for _, c := range probe.Classes() {
		targets.WithLabelValues(string(c)).Set(float64(s.Classes[c]))
	}
	found := gauge("problems", "Endpoints with a problem at the last scan.", "problem")
	for _, p := range verdict.Problems() {
		found.WithLabelValues(string(p)).Set(float64(s.Problems[p]))
	}
	phases := gauge("phase_seconds", "Quantiles of the phases of the last scan.", "phase", "quantile")
	for name, q := range s.Phases {
		phases.WithLabelValues(name, "0.5").Set(q.P50.Seconds())
		phases.WithLabelValues(name, "0.95").Set(q.P95.Seconds())
		phases.WithLabelValues(name, "0.99").Set(q.P99.Seconds())
	}
	totals := gauge("total", "Figures of the last scan.", "figure")
	for name, v := range map[string]float64{
		"targets": float64(s.Targets), "done": float64(s.Done), "skipped": float64(s.Skipped), "remaining": float64(s.Remaining),
		"healthy": float64(s.Healthy), "retried": float64(s.Retried), "recovered": float64(s.Recovered),
		"seconds": s.Elapsed.Seconds(), "started_at": float64(s.StartedAt.Unix()), "in_flight_peak": float64(s.Peak),
	} {
		totals.WithLabelValues(name).Set(v)
	}
	for _, c := range []prometheus.Collector{targets, found, phases, totals} {
		if err := reg.Register(c); err != nil {
			return fmt.Errorf("register scan metrics: %w", err)
		}
	}
	return nil
}

// Text returns the summary for people, a few lines.
func (s *Summary) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d targets in %s: %d done, %d healthy, %d not", s.Targets, s.Elapsed.Round(time.Millisecond), s.Done, s.Healthy, s.Unhealthy())
	if s.Skipped > 0 {
		fmt.Fprintf(&b, ", %d done before", s.Skipped)
	}
	if s.Remaining > 0 {
		fmt.Fprintf(&b, ", %d not scanned", s.Remaining)
	}
	if s.Duplicates > 0 {
		fmt.Fprintf(&b, ", %d named twice", s.Duplicates)
	}
	b.WriteByte('\n')
	for _, c := range probe.Classes() {
		if n := s.Classes[c]; n > 0 && c != probe.OK {
			fmt.Fprintf(&b, "  %-16s %d\n", c, n)
		}
	}
	for _, p := range verdict.Problems() {
		if n := s.Problems[p]; n > 0 {
			fmt.Fprintf(&b, "  %-16s %d\n", p, n)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Phases)) {
		if q := s.Phases[name]; q.Count > 0 {
			fmt.Fprintf(&b, "  %-5s p50 %s, p95 %s, p99 %s\n", name, round(q.P50), round(q.P95), round(q.P99))
		}
	}
	for _, n := range s.Notes {
		fmt.Fprintf(&b, "note: %s\n", n)
	}
	return b.String()
}

// round keeps three digits.
func round(d time.Duration) time.Duration {
	unit := time.Duration(1)
	for d/unit >= 1000 {
		unit *= 10
	}
	return d.Round(unit)
}
