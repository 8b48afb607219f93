package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"chancery/internal/app"
)

//go:generate sh -c "go run . config kinds > ../../docs/kinds.md"

// configKinds is `chancery config kinds`.
func configKinds(e env) *cobra.Command {
	return &cobra.Command{
		Use:   "kinds",
		Short: "Print every kind of issuer and target with its keys (Markdown)",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := io.WriteString(e.stdout, kindsText())
			return err
		},
	}
}

// kindsText is the reference of all plug-ins.
func kindsText() string {
	var b strings.Builder
	b.WriteString("# Kinds of issuers and targets\n\nEach `[issuer.NAME]` and `[target.NAME]` section has the keys of docs/config.md, and those of its `kind`:\n")
	for _, k := range app.Kinds() {
		fmt.Fprintf(&b, "\n## %s: kind = %q\n\n%s\n", k.Section, k.Name, k.Doc)
		for _, s := range k.Settings {
			fmt.Fprintf(&b, "\n- `%s` (%s, default `%s`): %s\n", s.Key, s.Type, s.Default, s.Doc)
		}
	}
	return b.String()
}
