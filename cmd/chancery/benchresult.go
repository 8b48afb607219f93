package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery/internal/bench"
)

// reporter turns points into files and the text on the screen.
type reporter struct {
	e     env
	f     *benchFlags
	run   bench.Run
	bar   *bench.Bar
	lines io.Writer // of --json, or nil
	close func() error
	err   error
}

func (f *benchFlags) newReporter(e env, w bench.Workload, settings map[string]string, data string) (*reporter, error) {
	rep := &reporter{e: e, f: f, bar: bench.NewBar(e.stderr, isTerminal(e.stderr) && e.getenv("TERM") != "dumb"), close: func() error { return nil }}
	rep.run = bench.Run{Format: bench.Format, ID: newRunID(), Bench: w.Name, Unit: w.Unit, Label: f.label, Settings: settings, Figures: f.figures,
		Machine: bench.Fingerprint(e.build(), data, time.Now())}
	switch f.json {
	case "":
	case "-":
		rep.lines = e.stdout
	default:
		file, err := os.OpenFile(f.json, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return nil, fmt.Errorf("open result file: %w", err)
		}
		rep.lines, rep.close = file, file.Close
	}
	if f.out != "" {
		if err := os.MkdirAll(f.out, 0o755); err != nil {
			return nil, fmt.Errorf("make result directory: %w", err)
		}
	}
	return rep, nil
}

// newRunID returns what tells a run from all others.
func newRunID() string {
	id := make([]byte, 8)
	rand.Read(id) // never fails
	return hex.EncodeToString(id)
}

// point keeps one line of the result; a crash later loses nothing.
func (r *reporter) point(p bench.Point) {
	r.run.Points = append(r.run.Points, p)
	if r.lines != nil && r.err == nil {
		r.err = r.run.WriteLine(r.lines)
	}
}

// finish prints what there is, also after an error of the run. Failed
// operations make exit code 4: the figures stand, and not all is well.
func (r *reporter) finish(err error) error {
	r.bar.Clear()
	if len(r.run.Points) > 0 {
		err = errors.Join(err, r.err, r.files())
		if r.f.json != "-" {
			err = errors.Join(err, r.run.WriteText(r.e.stdout))
		}
	}
	if err = errors.Join(err, r.close()); err != nil {
		if errors.Is(err, context.Canceled) && len(r.run.Points) > 0 {
			return &exitError{code: exitPartial, err: errors.New("interrupted; the lines that were finished stand")}
		}
		return err
	}
	failed := int64(0)
	for _, p := range r.run.Points {
		for _, n := range p.Errors {
			failed += n
		}
	}
	if failed > 0 {
		return &exitError{code: exitPartial, err: fmt.Errorf("%d operations failed", failed)}
	}
	return nil
}

// files writes the directory of --out.
func (r *reporter) files() error {
	if r.f.out == "" {
		return nil
	}
	var result, chart bytes.Buffer
	if err := errors.Join(r.run.WriteFile(&result), r.run.WriteSVG(&chart)); err != nil {
		return err
	}
	return errors.Join(os.WriteFile(filepath.Join(r.f.out, "result.json"), result.Bytes(), 0o644),
		os.WriteFile(filepath.Join(r.f.out, "chart.svg"), chart.Bytes(), 0o644))
}

// benchReport is `chancery bench report`.
func benchReport(e env) *cobra.Command {
	var page bool
	var costs, profile string
	cmd := &cobra.Command{
		Use:   "report FILE...",
		Short: "Make Markdown tables of result files",
		Long: `Make Markdown of result files, those of --json and of --out alike: what was
measured where and how, the tables, and side by side all results of one kind.

With --page each file is one section of a whole page, which begins with a table
for planning and one of memory.`,
		Example: `  chancery bench report results.jsonl > performance.md
  chancery bench report --page docs/performance/*.jsonl > docs/performance.md`,
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("name at least one result file")
			}
			if page {
				return writePage(e.stdout, args, costs, profile)
			}
			runs, err := readResults(args)
			if err != nil {
				return err
			}
			return bench.WriteMarkdown(e.stdout, runs)
		},
	}
	cmd.Flags().BoolVar(&page, "page", false, "make a whole page, a section per file")
	cmd.Flags().StringVar(&costs, "costs", "", "Markdown `file` about where the CPU goes, for --page")
	cmd.Flags().StringVar(&profile, "profile", "", "text `file` with the heaviest functions, for --page")
	return cmd
}

// writePage makes a page of result files.
func writePage(w io.Writer, files []string, costs, profile string) error {
	var p bench.Page
	for _, name := range files {
		runs, err := readResults([]string{name})
		if err != nil {
			return err
		}
		p.Series = append(p.Series, bench.Series{Name: strings.TrimSuffix(filepath.Base(name), filepath.Ext(name)), Runs: runs})
	}
	for file, into := range map[string]*string{costs: &p.Costs, profile: &p.Profile} {
		if file == "" {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("read part of the page: %w", err)
		}
		*into = string(text)
	}
	return bench.WritePage(w, p)
}

// readResults reads all files.
func readResults(files []string) ([]bench.Run, error) {
	var all bytes.Buffer
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read results: %w", err)
		}
		if _, err := bench.ReadRuns(bytes.NewReader(text), name); err != nil {
			return nil, usageError(err)
		}
		all.Write(append(text, '\n'))
	}
	return bench.ReadRuns(&all, "the files together")
}
