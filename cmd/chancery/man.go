package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

//go:generate sh -c "go run . man --markdown > ../../docs/cli.md"

// newMan is `chancery man`.
func newMan(e env) *cobra.Command {
	var dir string
	var markdown bool
	cmd := &cobra.Command{
		Use:     "man [COMMAND...]",
		Short:   "Write manual pages",
		Example: "  chancery man config check | man -l -\n  chancery man --dir /usr/local/share/man/man1",
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch {
			case dir != "" && markdown:
				return usagef("--dir and --markdown exclude each other")
			case markdown:
				return writeMarkdown(e.stdout, root)
			case dir != "":
				return writeManTree(e, root, dir)
			}
			target, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return unknownCommand(root, strings.Join(args, " "))
			}
			return doc.GenMan(target, manHeader(e), e.stdout)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "write one page per command into this `directory`")
	cmd.Flags().BoolVar(&markdown, "markdown", false, "write the whole reference as one Markdown text")
	return cmd
}

// manHeader dates pages by the commit, so that builds are reproducible.
func manHeader(e env) *doc.GenManHeader {
	b := e.build()
	at, err := time.Parse(time.RFC3339, b.Time)
	if err != nil {
		at = time.Unix(0, 0).UTC()
	}
	return &doc.GenManHeader{Section: "1", Manual: "Chancery", Source: "chancery " + b.Version, Date: &at}
}

// writeManTree writes one page per command.
func writeManTree(e env, root *cobra.Command, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make manual directory: %w", err)
	}
	if err := doc.GenManTree(root, manHeader(e), dir); err != nil {
		return fmt.Errorf("write manual pages: %w", err)
	}
	return nil
}

// writeMarkdown writes every command, in the order of the help text.
func writeMarkdown(w io.Writer, root *cobra.Command) error {
	var b bytes.Buffer
	b.WriteString("# Command line\n\nMade from the program itself by `go generate ./cmd/chancery`; the same text is in `chancery help` and `man chancery`.\n")
	if err := markdownTree(&b, root); err != nil {
		return err
	}
	_, err := w.Write(append(bytes.TrimRight(b.Bytes(), "\n"), '\n'))
	return err
}

// markdownTree appends one command and its children.
func markdownTree(b *bytes.Buffer, cmd *cobra.Command) error {
	if cmd.HasParent() {
		fmt.Fprintf(b, "\n## %s\n\n%s\n\n```\n", cmd.CommandPath(), orElse(cmd.Long, cmd.Short+"."))
		cmd.InitDefaultHelpFlag()
		b.WriteString(cmd.UsageString())
		b.WriteString("```\n")
	}
	for _, c := range cmd.Commands() {
		if !c.IsAvailableCommand() {
			continue
		}
		if err := markdownTree(b, c); err != nil {
			return err
		}
	}
	return nil
}

// orElse returns s, or def when s is empty.
func orElse(s, def string) string {
	if s == "" {
		return def
	}
	return s
}
