package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"chancery/internal/app"
	"chancery/internal/config"
)

// newConfig is `chancery config`.
func newConfig(e env) *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check, print or explain the configuration; API tokens",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return usagef("name what to do: check, print, doc, kinds or token")
		},
	}
	cmd.PersistentFlags().StringVarP(&path, "config", "c", "", "configuration `file` (default: $CHANCERY_CONFIG, or none)")
	cmd.AddCommand(configCheck(e, &path), configPrint(e, &path), configDoc(e), configKinds(e), newToken(e))
	return cmd
}

// configCheck is `chancery config check`.
func configCheck(e env, path *string) *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Say what is wrong with the configuration; exit 3 if anything is",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			if _, err := loadConfig(e, *path); err != nil {
				return err
			}
			fmt.Fprintln(e.stdout, "configuration ok")
			return nil
		},
	}
}

// configPrint is `chancery config print`.
func configPrint(e env, path *string) *cobra.Command {
	return &cobra.Command{
		Use:   "print",
		Short: "Print every effective value and where it came from; secrets are hidden",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			file := configPath(e, *path)
			c, err := config.Load(file, e.environ)
			if err != nil {
				return badConfig(e, file, err)
			}
			return c.Print(e.stdout)
		},
	}
}

// configDoc is `chancery config doc`.
func configDoc(e env) *cobra.Command {
	return &cobra.Command{
		Use:   "doc",
		Short: "Print the reference of every section and key (Markdown)",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			text, err := config.Manual()
			if err != nil {
				return err
			}
			_, err = io.WriteString(e.stdout, text)
			return err
		},
	}
}

// loadConfig loads and checks the configuration of a command that runs with it.
func loadConfig(e env, path string) (*config.Config, error) {
	path = configPath(e, path)
	c, err := config.Load(path, e.environ)
	if err != nil {
		return nil, badConfig(e, path, err)
	}
	if found := append(c.Check(), append(app.CheckKinds(c), app.CheckSources(c)...)...); len(found) > 0 {
		return nil, badConfig(e, path, errors.Join(found...))
	}
	return c, nil
}

// configPath is the file to read: the flag, then the variable, then none.
func configPath(e env, flag string) string {
	return orElse(flag, e.getenv("CHANCERY_CONFIG"))
}

// badConfig prints each problem on a line of its own and returns the summary.
func badConfig(e env, path string, err error) error {
	list := []error{err}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		list = many.Unwrap()
	}
	for _, one := range list {
		fmt.Fprintln(e.stderr, one)
	}
	noun := "problem"
	if len(list) > 1 {
		noun += "s"
	}
	return problems("chancery config doc", "%d %s in %s", len(list), noun, orElse(path, "the environment"))
}
