package main

import (
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strings"
	"text/tabwriter"
	"unicode"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

// outFormat says how a command prints what it found.
type outFormat string

// Formats of -o. Without it: a table on a terminal, TSV when piped.
const (
	outAuto outFormat = ""
	outWide outFormat = "wide"
	outJSON outFormat = "json"
	outYAML outFormat = "yaml"
	outText outFormat = "table" // the table even when piped
	outTSV  outFormat = "tsv"
)

// outFlags are the output flags that every listing command has.
type outFlags struct {
	format string
	json   bool
}

// add registers the flags on cmd.
func (f *outFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&f.format, "output", "o", "", "output: wide, json, yaml, table or tsv (default: table on a terminal, tsv when piped)")
	cmd.Flags().BoolVar(&f.json, "json", false, "same as -o json")
}

// printer returns the printer that the flags and the environment ask for.
func (f *outFlags) printer(e env) (*printer, error) {
	p := &printer{w: e.stdout, tty: isTerminal(e.stdout), format: outFormat(f.format)}
	switch p.format {
	case outAuto, outWide, outJSON, outYAML, outText, outTSV:
	default:
		return nil, usagef("-o %s is none of wide, json, yaml, table, tsv", f.format)
	}
	if f.json {
		p.format = outJSON
	}
	if p.format == outAuto && !p.tty {
		p.format = outTSV
	}
	p.color = p.tty && e.getenv("NO_COLOR") == "" && e.getenv("TERM") != "dumb"
	return p, nil
}

// printer prints one result.
type printer struct {
	w      io.Writer
	tty    bool
	color  bool
	format outFormat
}

// column is one column of a listing.
type column struct {
	name string
	wide bool // shown with -o wide, and in TSV
}

// list prints rows, or value where the format is a structured one. value is
// the same data, as the API would return it.
func (p *printer) list(columns []column, rows [][]string, value any) error {
	switch p.format {
	case outJSON, outYAML:
		return p.value(value)
	case outTSV:
		return p.tsv(columns, rows)
	}
	tw := tabwriter.NewWriter(p.w, 0, 0, 2, ' ', tabwriter.StripEscape)
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = strings.ToUpper(c.name)
	}
	p.row(tw, columns, names, p.color)
	for _, row := range rows {
		p.row(tw, columns, row, false)
	}
	if err := tw.Flush(); err != nil {
		return fmt.Errorf("print table: %w", err)
	}
	return nil
}

// row prints one line of a table, in bold if asked to.
func (p *printer) row(w io.Writer, columns []column, cells []string, bold bool) {
	shown := make([]string, 0, len(cells))
	for i, c := range cells {
		if columns[i].wide && p.format != outWide {
			continue
		}
		if c = printable(c); bold {
			c = "\xff\x1b[1m\xff" + c + "\xff\x1b[0m\xff" // \xff hides it from the width
		}
		shown = append(shown, c)
	}
	fmt.Fprintln(w, strings.Join(shown, "\t"))
}

// tsv prints a header and every column, wide ones too: scripts count on them.
func (p *printer) tsv(columns []column, rows [][]string) error {
	var b strings.Builder
	for i, c := range columns {
		if i > 0 {
			b.WriteByte('\t')
		}
		b.WriteString(c.name)
	}
	b.WriteByte('\n')
	for _, row := range rows {
		for i, c := range row {
			if i > 0 {
				b.WriteByte('\t')
			}
			b.WriteString(printable(c))
		}
		b.WriteByte('\n')
	}
	if _, err := io.WriteString(p.w, b.String()); err != nil {
		return fmt.Errorf("print rows: %w", err)
	}
	return nil
}

// value prints v as JSON or YAML; YAML has the same keys in the same order.
func (p *printer) value(v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode output: %w", err)
	}
	text = append(text, '\n')
	if p.format == outYAML {
		if text, err = toYAML(text); err != nil {
			return err
		}
	}
	if _, err := p.w.Write(text); err != nil {
		return fmt.Errorf("print output: %w", err)
	}
	return nil
}

// toYAML rewrites JSON, which is YAML already, in block style.
func toYAML(text []byte) ([]byte, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("convert to yaml: %w", err)
	}
	blockStyle(&doc)
	out, err := yaml.Marshal(&doc)
	if err != nil {
		return nil, fmt.Errorf("convert to yaml: %w", err)
	}
	return out, nil
}

// yaml11Bool are words that YAML 1.1, which many scripts still read, takes
// for booleans; the library quotes only what 1.2 would misread.
var yaml11Bool = regexp.MustCompile(`^(?i:y|n|yes|no|on|off)$`)

// blockStyle drops the flow and quoting style that came from JSON.
func blockStyle(n *yaml.Node) {
	n.Style = 0
	if n.Kind == yaml.ScalarNode && yaml11Bool.MatchString(n.Value) {
		n.Style = yaml.DoubleQuotedStyle
	}
	for _, c := range n.Content {
		blockStyle(c)
	}
}

// printable replaces control characters, so that a name from a hostile
// certificate can neither break a row nor drive the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == unicode.ReplacementChar {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}
