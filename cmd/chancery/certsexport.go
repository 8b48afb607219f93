package main

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"io"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"chancery/internal/api"
	"chancery/internal/api/client"
)

func certsExport(c *conn) *cobra.Command {
	var to outFile
	var format string
	cmd := &cobra.Command{Use: "export [QUERY...]", Short: "Write all certificates that fit as CSV, JSON lines or CBOM", Args: cobra.ArbitraryArgs,
		Long:    "Write all certificates that fit, page by page, so that any number can be exported. A\nCBOM is a cryptography bill of materials (CycloneDX 1.6, JSON): certificates, their\nkeys, and the algorithms of both with their strength against classical and quantum\ncomputers.\n\n" + queryHelp,
		Example: "  chancery certs export status:active --out active.csv\n  chancery certs export 'expires:<30d' --format jsonl | jq -r .names[]\n  chancery certs export status:active -o cbom --out estate.cdx.json",
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains([]string{"csv", "jsonl", "cbom"}, format) {
				return usagef("--format %s is none of csv, jsonl, cbom", format)
			}
			cl, err := c.client(cmd.Context())
			if err != nil {
				return err
			}
			if format == "cbom" {
				return to.write(c.e, func(w io.Writer) error { return cl.Stream(cmd.Context(), "/inventory/cbom", queryOf(args), w) })
			}
			return to.write(c.e, func(w io.Writer) error {
				return export(cmd.Context(), cl, queryOf(args), format, w)
			})
		}}
	cmd.Flags().StringVarP(&format, "format", "o", "csv", "`form`: csv, jsonl or cbom")
	to.add(cmd)
	return cmd
}

func export(ctx context.Context, cl *client.Client, query url.Values, format string, w io.Writer) error {
	table, lines := csv.NewWriter(w), json.NewEncoder(w)
	lines.SetEscapeHTML(false)
	if format == "csv" {
		names := make([]string, len(knownColumns))
		for i, col := range knownColumns {
			names[i] = col.name
		}
		if err := table.Write(names); err != nil {
			return err
		}
	}
	for page, err := range client.Pages[api.Known](ctx, cl, "/certs", query, 1000) {
		if err != nil {
			return err
		}
		for i := range page.Items {
			if format == "csv" {
				err = table.Write(safeCells(knownRow(&page.Items[i])))
			} else {
				err = lines.Encode(&page.Items[i])
			}
			if err != nil {
				return err
			}
		}
	}
	table.Flush()
	return table.Error()
}

// safeCells quotes what a spreadsheet would run as a formula: names in
// certificates are written by strangers.
func safeCells(row []string) []string {
	for i, cell := range row {
		if cell != "" && strings.ContainsRune("=+-@\t\r", rune(cell[0])) {
			row[i] = "'" + cell
		}
	}
	return row
}
