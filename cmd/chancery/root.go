package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"chancery/internal/obs"
)

// env is what a command sees of the world outside.
type env struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	environ        []string
	closers        *[]io.Closer // closed, last one first, when the command has ended
}

// getenv returns the value of a variable, or "".
func (e env) getenv(name string) string {
	for i := len(e.environ) - 1; i >= 0; i-- {
		if v, ok := strings.CutPrefix(e.environ[i], name+"="); ok {
			return v
		}
	}
	return ""
}

// build says which program this is.
func (e env) build() obs.Build { return obs.ReadBuild(version, revision) }

// isTerminal reports whether w is a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// run executes one command line and returns its exit code.
func run(ctx context.Context, args []string, e env) int {
	e.closers = new([]io.Closer)
	root := newRoot(e)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	for _, c := range slices.Backward(*e.closers) {
		err = errors.Join(err, c.Close())
	}
	if err == nil {
		return exitOK
	}
	return report(e.stderr, cmd, err)
}

// section is a group of commands in the help text.
type section struct {
	title    string
	commands []*cobra.Command
}

// sections is the table of contents of the program: every command that
// exists, in the order of the help text.
func sections(e env) []section {
	return []section{
		{"Run", []*cobra.Command{newDev(e), newServe(e), newAgent(e)}},
		{"Use", []*cobra.Command{
			newCerts(e),
			newOrder(e),
			newRenew(e),
			newQueue(e),
			newCA(e),
			newACME(e),
			newScan(e),
			newDeploy(e),
			newTargets(e),
			newAgents(e),
			newAlerts(e),
			newCT(e),
			newApprovals(e),
			newAudit(e),
		}},
		{"Set up and look after", []*cobra.Command{
			newConfig(e), newTop(e), newDoctor(e), newBackup(e), newRestore(e), newMigrate(e), newBench(e),
			newCompletion(e), newMan(e), newVersion(e),
		}},
	}
}

// newRoot assembles the command tree.
func newRoot(e env) *cobra.Command {
	root := &cobra.Command{
		Use:               "chancery",
		Short:             "Keep a fleet's certificates alive: CA, ACME, renewal, scanning, control",
		SilenceErrors:     true,
		SilenceUsage:      true,
		DisableAutoGenTag: true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		Args:              cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return cmd.Help()
		},
	}
	root.SetIn(e.stdin)
	root.SetOut(e.stdout)
	root.SetErr(e.stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usagef("%w", err) })
	all := sections(e)
	for _, s := range all {
		root.AddGroup(&cobra.Group{ID: s.title, Title: s.title})
		for _, c := range s.commands {
			c.GroupID = s.title
			root.AddCommand(c)
		}
	}
	root.SetHelpCommand(&cobra.Command{Use: "help [command]", Short: "Show help", Hidden: true, RunE: func(_ *cobra.Command, args []string) error {
		return help(root, args)
	}})
	usual := root.HelpFunc()
	root.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		if cmd != root {
			usual(cmd, args)
			return
		}
		io.WriteString(cmd.OutOrStdout(), overview(root, all))
	})
	return root
}

// help shows the help of the command that args name.
func help(root *cobra.Command, args []string) error {
	cmd, rest, err := root.Find(args)
	if err != nil || cmd == nil || (len(rest) > 0 && !cmd.HasParent()) {
		return unknownCommand(root, strings.Join(args, " "))
	}
	cmd.InitDefaultHelpFlag()
	return cmd.Help()
}

// unknownCommand says so, with the nearest one there is.
func unknownCommand(cmd *cobra.Command, name string) error {
	cmd.SuggestionsMinimumDistance = 2 // letters that may differ
	if near := cmd.SuggestionsFor(name); len(near) > 0 {
		return usagef("there is no command %q; did you mean %q?", name, near[0])
	}
	return usagef("there is no command %q", name)
}

// overview is the help of the whole program, on one screen.
func overview(root *cobra.Command, all []section) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\nUsage: chancery COMMAND [flags]\n", root.Short)
	for _, s := range all {
		fmt.Fprintf(&b, "\n%s\n", s.title)
		for _, c := range s.commands {
			fmt.Fprintf(&b, "  %-11s %s\n", c.Name(), c.Short)
		}
	}
	b.WriteString("\n`chancery help COMMAND` explains one. Exit codes: 0 ok, 1 failed, 2 usage,\n3 problems found, 4 partly done, 75 try again later.\n")
	return b.String()
}
