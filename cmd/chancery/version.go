package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// newVersion is `chancery version`.
func newVersion(e env) *cobra.Command {
	var flags outFlags
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Show which build this is",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			p, err := flags.printer(e)
			if err != nil {
				return err
			}
			b := e.build()
			if p.format == outJSON || p.format == outYAML {
				return p.value(b)
			}
			line := "chancery " + b.Version
			if b.Revision != "" {
				line += " (" + b.Revision + ")"
			}
			fmt.Fprintf(e.stdout, "%s %s %s\n", line, b.Go, b.Platform)
			return nil
		},
	}
	flags.add(cmd)
	return cmd
}

// noArgs refuses arguments as a usage error.
func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("unexpected argument %q", args[0])
	}
	return nil
}
