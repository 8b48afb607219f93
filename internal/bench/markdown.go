package bench

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
)

// WriteMarkdown renders runs as Markdown: a comparison of runs of the same
// benchmark first, then each run with its machine, settings, scaling table,
// phases and errors. docs/performance.md is made by it.
func WriteMarkdown(w io.Writer, runs []Run) error {
	var b strings.Builder
	for _, g := range comparisons(runs) {
		g.markdown(&b)
		b.WriteByte('\n')
	}
	for i := range runs {
		runs[i].markdown(&b)
	}
	_, err := io.WriteString(w, strings.TrimRight(b.String(), "\n")+"\n")
	return err
}

// markdown writes one run.
func (r *Run) markdown(b *strings.Builder) {
	fmt.Fprintf(b, "### %s\n\n", escape(r.Title()))
	fmt.Fprintf(b, "%s.", escape(r.Machine.Where()))
	if s := r.settings(); s != "" {
		fmt.Fprintf(b, " Settings: %s.", escape(s))
	}
	if s := r.figures(); s != "" {
		fmt.Fprintf(b, " Measured: %s.", escape(s))
	}
	b.WriteString("\n\n")
	r.scaling().markdown(b)
	if g, ok := r.phases(); ok {
		b.WriteString("\nMedian / p99 of each phase in ms:\n\n")
		g.markdown(b)
	}
	if lines := r.failures(); len(lines) > 0 {
		b.WriteString("\nErrors:\n\n")
		for _, line := range lines {
			fmt.Fprintf(b, "- %s\n", escape(line))
		}
	}
	b.WriteByte('\n')
}

// markdown writes g as a table, figures to the right.
func (g grid) markdown(b *strings.Builder) {
	line := func(cells []string) {
		for _, c := range cells {
			b.WriteString("| " + escape(c) + " ")
		}
		b.WriteString("|\n")
	}
	line(g.header)
	b.WriteString(strings.Repeat("|--:", len(g.header)) + "|\n")
	for _, row := range g.rows {
		line(row)
	}
}

// comparisons makes one table for every benchmark of which there are several
// runs: a line per run, a column per number of clients.
func comparisons(runs []Run) []grid {
	var out []grid
	var seen []string
	for _, r := range runs {
		if slices.Contains(seen, r.Bench) {
			continue
		}
		seen = append(seen, r.Bench)
		same := slices.DeleteFunc(slices.Clone(runs), func(o Run) bool { return o.Bench != r.Bench || o.Unit != r.Unit })
		if len(same) > 1 {
			if g := compare(same); len(g.header) > 1 {
				out = append(out, g)
			}
		}
	}
	return out
}

// compare puts runs side by side: throughput and server CPU by clients.
func compare(runs []Run) grid {
	var clients []int
	for _, r := range runs {
		for _, p := range r.Points {
			if p.comparable() && !slices.Contains(clients, p.Clients) {
				clients = append(clients, p.Clients)
			}
		}
	}
	slices.Sort(clients)
	g := grid{header: []string{"bench " + runs[0].Bench}}
	for _, c := range clients {
		g.header = append(g.header, fmt.Sprintf("%s/s (server CPU ms) at %d", runs[0].Unit, c))
	}
	for _, r := range runs {
		row := []string{r.Label}
		for _, c := range clients {
			row = append(row, r.cell(c))
		}
		g.rows = append(g.rows, row)
	}
	return g
}

// comparable reports whether p says how fast the server is: in an open loop
// the clock decides.
func (p *Point) comparable() bool { return p.Variant == "" && p.Rate == 0 }

// cell is a run at one number of clients, or "-".
func (r *Run) cell(clients int) string {
	i := slices.IndexFunc(r.Points, func(p Point) bool { return p.Clients == clients && p.comparable() })
	if i < 0 {
		return "-"
	}
	text := number(r.Points[i].PerSecond.Median)
	if cpu := r.Points[i].ServerCPU; cpu != nil {
		text += " (" + number(cpu.Median) + ")"
	}
	return text
}

// escape makes text harmless within Markdown: labels and error texts come
// from files and servers of others.
func escape(s string) string {
	return strings.NewReplacer("|", `\|`, "<", "&lt;", "\n", " ", "\r", " ").Replace(printable(s))
}

// printable replaces what could drive a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
}
