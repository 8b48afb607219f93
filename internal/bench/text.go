package bench

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// grid is a table of a report: right-aligned columns under one header.
type grid struct {
	header []string
	rows   [][]string
}

// column says how one column of the scaling table is made.
type column struct {
	name string
	cell func(*Point) string
	show func(*Run) bool // nil: always
}

// anyPoint makes a show function: the column is shown when a point has it.
func anyPoint(has func(*Point) bool) func(*Run) bool {
	return func(r *Run) bool {
		return slices.ContainsFunc(r.Points, func(p Point) bool { return has(&p) })
	}
}

// scalingColumns are the columns of the scaling table.
func scalingColumns(unit string) []column {
	ms := func(get func(*Point) float64) func(*Point) string {
		return func(p *Point) string { return number(get(p)) }
	}
	return []column{
		{"variant", func(p *Point) string { return p.Variant }, anyPoint(func(p *Point) bool { return p.Variant != "" })},
		{"clients", func(p *Point) string { return strconv.Itoa(p.Clients) }, anyPoint(func(p *Point) bool { return p.Variant == "" })},
		{"asked/s", func(p *Point) string { return number(p.Rate) }, anyPoint(func(p *Point) bool { return p.Rate > 0 })},
		{unit + "/s", func(p *Point) string { return number(p.PerSecond.Median) }, nil},
		{"spread", func(p *Point) string { return fmt.Sprintf("±%.1f%%", p.PerSecond.Percent()) }, nil},
		{"p50 ms", ms(func(p *Point) float64 { return p.Latency.P50 }), nil},
		{"p95 ms", ms(func(p *Point) float64 { return p.Latency.P95 }), nil},
		{"p99 ms", ms(func(p *Point) float64 { return p.Latency.P99 }), nil},
		{"max ms", ms(func(p *Point) float64 { return p.Latency.Max }), nil},
		{"sent p99 ms", ms(func(p *Point) float64 { return p.Service.P99 }), anyPoint(func(p *Point) bool { return p.Rate > 0 })},
		{"server CPU ms", serverCPUCell, anyPoint(func(p *Point) bool { return p.ServerCPU != nil })},
		{"client CPU ms", ms(func(p *Point) float64 { return p.ClientCPU.Median }), anyPoint(func(p *Point) bool { return p.ClientCPU.Max > 0 })},
		{"others CPU", func(p *Point) string { return fmt.Sprintf("%.0f%%", p.Others.Median*100) }, anyPoint(func(p *Point) bool { return p.ClientCPU.Max > 0 })},
		{"peak MB", func(p *Point) string { return orDash(float64(p.PeakRSS) / 1e6) }, anyPoint(func(p *Point) bool { return p.PeakRSS > 0 })},
		{"allocs", func(p *Point) string { return orDash(p.Mallocs) }, anyPoint(func(p *Point) bool { return p.Mallocs > 0 })},
		{"alloc KB", func(p *Point) string { return orDash(p.Allocated / 1e3) }, anyPoint(func(p *Point) bool { return p.Allocated > 0 })},
		{"SQL/s", sqlCell, anyPoint(func(p *Point) bool { return p.SQL != nil })},
		{"requests", ms(func(p *Point) float64 { return p.Requests }), anyPoint(func(p *Point) bool { return p.Requests > 0 && p.Requests != 1 })},
		{"measured", func(p *Point) string { return strconv.FormatInt(p.Latency.Count, 10) }, nil},
		{"errors", func(p *Point) string { return strconv.FormatInt(p.failed(), 10) }, nil},
	}
}

// scaling makes the scaling table of a run.
func (r *Run) scaling() grid {
	columns := slices.DeleteFunc(scalingColumns(r.Unit), func(c column) bool { return c.show != nil && !c.show(r) })
	var g grid
	for _, c := range columns {
		g.header = append(g.header, c.name)
	}
	for i := range r.Points {
		row := make([]string, 0, len(columns))
		for _, c := range columns {
			row = append(row, c.cell(&r.Points[i]))
		}
		g.rows = append(g.rows, row)
	}
	return g
}

// serverCPUCell is "-" where the server was not watched.
func serverCPUCell(p *Point) string {
	if p.ServerCPU == nil {
		return "-"
	}
	return number(p.ServerCPU.Median)
}

// sqlCell is "-" where the server does not count statements.
func sqlCell(p *Point) string {
	if p.SQL == nil {
		return "-"
	}
	return number(p.SQL.Median)
}

// orDash prints what one point may lack and others have.
func orDash(v float64) string {
	if v == 0 {
		return "-"
	}
	return number(v)
}

// phases makes the table of median and p99 per phase.
func (r *Run) phases() (grid, bool) {
	var g grid
	for _, p := range r.Points {
		if len(p.Phases) == 0 || p.Latency.Count == 0 {
			continue
		}
		if g.header == nil {
			g.header = []string{"clients"}
			for _, ph := range p.Phases {
				g.header = append(g.header, ph.Name)
			}
		}
		row := []string{strconv.Itoa(p.Clients)}
		for _, ph := range p.Phases {
			row = append(row, number(ph.Latency.P50)+" / "+number(ph.Latency.P99))
		}
		g.rows = append(g.rows, row)
	}
	return g, g.rows != nil
}

// number prints v with about three significant digits.
func number(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v >= 100 || v <= -100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 10 || v <= -10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case v >= 1 || v <= -1:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
	return strconv.FormatFloat(v, 'f', 3, 64)
}

// Title says in one line what was measured.
func (r *Run) Title() string {
	title := "chancery bench " + r.Bench
	if r.Label != "" {
		title += ": " + r.Label
	}
	return title
}

// Where says in one line on what machine.
func (m *Machine) Where() string {
	parts := []string{orUnknown(m.CPU), fmt.Sprintf("%d cores", m.Cores)}
	if m.Memory > 0 {
		parts = append(parts, fmt.Sprintf("%.0f GB", float64(m.Memory)/1e9))
	}
	if m.Kernel != "" {
		parts = append(parts, "kernel "+m.Kernel)
	}
	if m.Filesystem != "" {
		parts = append(parts, m.Filesystem)
	}
	if m.Verify > 0 {
		parts = append(parts, fmt.Sprintf("P-256 verification %.0f µs", m.Verify))
	}
	parts = append(parts, m.Build.Go, "chancery "+m.Build.Version)
	if rev := m.Build.Revision; rev != "" {
		parts = append(parts, "commit "+rev[:min(len(rev), 12)])
	}
	return strings.Join(append(parts, m.Date.Format("2006-01-02 15:04 UTC")), ", ")
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown CPU"
	}
	return s
}

// settings returns the settings as "name value" in order of their names.
func (r *Run) settings() string {
	names := make([]string, 0, len(r.Settings))
	for n := range r.Settings {
		names = append(names, n)
	}
	slices.Sort(names)
	for i, n := range names {
		names[i] = n + " " + r.Settings[n]
	}
	return strings.Join(names, ", ")
}

// figures returns what belongs to the run as a whole, as "name value unit".
func (r *Run) figures() string {
	parts := make([]string, len(r.Figures))
	for i, f := range r.Figures {
		parts[i] = strings.TrimSpace(f.Name + " " + number(f.Value) + " " + f.Unit)
	}
	return strings.Join(parts, ", ")
}

// WriteText writes the report for a terminal.
func (r *Run) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%s\n", r.Title(), r.Machine.Where())
	if s := r.settings(); s != "" {
		fmt.Fprintln(&b, s)
	}
	if s := r.figures(); s != "" {
		fmt.Fprintln(&b, s)
	}
	b.WriteByte('\n')
	r.scaling().text(&b)
	if g, ok := r.phases(); ok {
		b.WriteString("\np50 / p99 in ms of each phase\n")
		g.text(&b)
	}
	for _, line := range r.failures() {
		fmt.Fprintln(&b, line)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// failures says what went wrong, if anything did.
func (r *Run) failures() []string {
	var out []string
	for i := range r.Points {
		p := &r.Points[i]
		for j, class := range p.classes() {
			line := fmt.Sprintf("%d clients: %d x %s", p.Clients, p.Errors[class], class)
			if j < len(p.Examples) {
				line = fmt.Sprintf("%d clients: %d x %s", p.Clients, p.Errors[class], printable(p.Examples[j]))
			}
			out = append(out, line)
		}
	}
	return out
}

// text writes g with aligned columns.
func (g grid) text(b *strings.Builder) {
	tw := tabwriter.NewWriter(b, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, row := range append([][]string{g.header}, g.rows...) {
		fmt.Fprintln(tw, strings.Join(row, "\t")+"\t")
	}
	tw.Flush()
}
