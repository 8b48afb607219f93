package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"chancery/internal/scan"
)

// scanOutput is where results go and what happens at the end.
type scanOutput struct {
	sink  scan.Sink
	close func(*scan.Summary) error
}

// output returns the writer of the format asked for. CSV, TSV and JSON lines
// are written as results come; the other formats need all of them.
func (f *scanFlags) output(e env) (*scanOutput, error) {
	w := bufio.NewWriter(e.stdout)
	done := func(*scan.Summary) error { return w.Flush() }
	switch {
	case f.out.format == "jsonl" && !f.out.json:
		return f.filtered(flushing(scan.JSONLines(w), w), done), nil
	case f.out.format == "csv" && !f.out.json:
		return f.filtered(flushing(scan.CSV(w), w), done), nil
	}
	p, err := f.out.printer(e)
	if err != nil {
		return nil, err
	}
	if p.format == outTSV {
		p.w = w
		return f.filtered(flushing(tsvSink(p), w), done), nil
	}
	return f.collected(p), nil
}

// flushing hands each batch on when it is written: a reader of the pipe sees
// results while the scan runs.
func flushing(to scan.Sink, w *bufio.Writer) scan.Sink {
	return func(ctx context.Context, batch []scan.Result) error {
		if err := to(ctx, batch); err != nil {
			return err
		}
		if err := w.Flush(); err != nil {
			return fmt.Errorf("write results: %w", err)
		}
		return nil
	}
}

// filtered drops healthy results if only problems are wanted.
func (f *scanFlags) filtered(to scan.Sink, done func(*scan.Summary) error) *scanOutput {
	if !f.unhealthy {
		return &scanOutput{to, done}
	}
	return &scanOutput{func(ctx context.Context, batch []scan.Result) error {
		kept := make([]scan.Result, 0, len(batch))
		for _, r := range batch {
			if !r.Healthy() {
				kept = append(kept, r)
			}
		}
		return to(ctx, kept)
	}, done}
}

// tsvSink prints a header and then rows.
func tsvSink(p *printer) scan.Sink {
	header := true
	return func(_ context.Context, batch []scan.Result) error {
		var b strings.Builder
		if header {
			b.WriteString(strings.Join(scan.Columns(), "\t") + "\n")
			header = false
		}
		for i := range batch {
			v := batch[i].View()
			for n, c := range v.Row() {
				if n > 0 {
					b.WriteByte('\t')
				}
				b.WriteString(printable(c))
			}
			b.WriteByte('\n')
		}
		_, err := io.WriteString(p.w, b.String())
		return err
	}
}

// collected keeps the results for a table, JSON or YAML.
func (f *scanFlags) collected(p *printer) *scanOutput {
	views := []scan.View{}
	sink := func(_ context.Context, batch []scan.Result) error {
		for i := range batch {
			views = append(views, batch[i].View())
		}
		return nil
	}
	return f.filtered(sink, func(sum *scan.Summary) error {
		var columns []column
		for i, name := range scan.Columns() {
			columns = append(columns, column{name: name, wide: i >= 6})
		}
		rows := make([][]string, len(views))
		for i := range views {
			rows[i] = views[i].Row()
		}
		return p.list(columns, rows, struct {
			Results []scan.View   `json:"results"`
			Summary *scan.Summary `json:"summary"`
		}{views, sum})
	})
}

// showProgress draws a bar on standard error, if that is a terminal, until the
// returned function is called.
func showProgress(e env, s *scan.Scanner) (stop func()) {
	if !isTerminal(e.stderr) || e.getenv("TERM") == "dumb" {
		return func() {}
	}
	began, quit, gone := time.Now(), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				fmt.Fprint(e.stderr, "\r\x1b[K"+progressLine(s.Progress(), time.Since(began)))
			case <-quit:
				fmt.Fprint(e.stderr, "\r\x1b[K")
				return
			}
		}
	}()
	return func() { close(quit); <-gone }
}

// progressLine is the bar with rate and time left.
func progressLine(p scan.Progress, elapsed time.Duration) string {
	const width = 30
	filled, percent := 0, 0
	if p.Total > 0 {
		filled, percent = width*p.Done/p.Total, 100*p.Done/p.Total
	}
	line := fmt.Sprintf("[%s%s] %3d%% %d/%d, %d not in order, %d in flight", strings.Repeat("=", filled), strings.Repeat(" ", width-filled), percent, p.Done, p.Total, p.Unhealthy, p.InFlight)
	if rate := float64(p.Done) / elapsed.Seconds(); rate > 0 && p.Done > 0 {
		left := time.Duration(float64(p.Total-p.Done) / rate * float64(time.Second))
		line += fmt.Sprintf(", %.0f/s, %s left", rate, left.Round(time.Second))
	}
	return line
}
