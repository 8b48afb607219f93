package main

import (
	"io"

	"github.com/spf13/cobra"
)

// newCompletion is `chancery completion`.
func newCompletion(e env) *cobra.Command {
	shells := map[string]func(*cobra.Command, io.Writer) error{
		"bash":       func(c *cobra.Command, w io.Writer) error { return c.GenBashCompletionV2(w, true) },
		"zsh":        func(c *cobra.Command, w io.Writer) error { return c.GenZshCompletion(w) },
		"fish":       func(c *cobra.Command, w io.Writer) error { return c.GenFishCompletion(w, true) },
		"powershell": func(c *cobra.Command, w io.Writer) error { return c.GenPowerShellCompletionWithDesc(w) },
	}
	return &cobra.Command{
		Use:       "completion SHELL",
		Short:     "Write a completion script: bash, zsh, fish or powershell",
		Example:   "  source <(chancery completion bash)\n  chancery completion zsh > \"${fpath[1]}/_chancery\"",
		ValidArgs: []string{"bash", "zsh", "fish", "powershell"},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("name one shell: bash, zsh, fish or powershell")
			}
			generate, ok := shells[args[0]]
			if !ok {
				return usagef("%q is none of bash, zsh, fish, powershell", args[0])
			}
			return generate(cmd.Root(), e.stdout)
		},
	}
}
