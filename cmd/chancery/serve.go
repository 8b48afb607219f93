package main

import (
	"log/slog"

	"github.com/spf13/cobra"

	"chancery/internal/app"
	"chancery/internal/config"
	"chancery/internal/obs"
)

// newServe is `chancery serve`.
func newServe(e env) *cobra.Command {
	var path, readyFile string
	var chaos chaosFlag
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run from a configuration file",
		Long: `Run from a configuration file (see ` + "`chancery config doc`" + `), until told to stop.

The authorities that it names must exist; make them with ` + "`chancery ca init`" + `.`,
		Example: `  chancery serve --config /etc/chancery/chancery.toml`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(e, path)
			if err != nil {
				return err
			}
			return serve(cmd.Context(), e, cfg, app.Options{ReadyFile: readyFile, Chaos: chaos.spec})
		},
	}
	cmd.Flags().StringVarP(&path, "config", "c", "", "configuration `file` (default: $CHANCERY_CONFIG)")
	cmd.Flags().StringVar(&readyFile, "ready-file", "", "write a JSON `file` with all URLs and the pid when everything serves")
	chaos.add(cmd)
	return cmd
}

// newLog makes the logger of a serving process, on standard error.
func newLog(e env, cfg *config.Config) (*slog.Logger, error) {
	return newLogger(e, string(cfg.Log.Level), string(cfg.Log.Format))
}

func newLogger(e env, level, format string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, usagef("log level %q is none of debug, info, warn, error", level)
	}
	return obs.NewLogger(e.stderr, obs.Format(format), l), nil
}
