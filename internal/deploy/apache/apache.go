// Package apache is the target for the Apache HTTP server: files,
// `apache2ctl -t`, and one graceful restart by a signal to the parent process.
// Apache's test accepts a key of another certificate, and the restart then
// ends the server: pairs are checked before it sees them.
package apache

import (
	"context"
	"syscall"

	"chancery/internal/deploy"
	"chancery/internal/deploy/live"
	"chancery/internal/scan/probe"
)

// Config is the configuration of a target.
type Config struct {
	live.Config

	// File with the number of the parent process.
	PIDFile string `toml:"pid_file"`
}

// Kind is the plug-in.
var Kind = deploy.Kind{
	Name: "apache",
	Doc:  "Apache HTTP server: files, its own test, and one graceful restart.",
	Config: func() any {
		return &Config{PIDFile: "/run/apache2/apache2.pid", Config: live.Config{
			Files: []string{live.Fullchain, live.Privkey}, Test: []string{"apache2ctl", "-t"}, Timeout: live.DefaultTimeout}}
	},
	Open: func(env deploy.Env, config any) (deploy.Target, error) {
		c := config.(*Config)
		parent := deploy.Process{PIDFile: c.PIDFile, Executables: []string{"apache2", "httpd"}}
		return live.Open(env, c.Config, live.Server{Reload: func(ctx context.Context, _ live.Change) error {
			return parent.SignalRewrite(ctx, syscall.SIGUSR1, c.Timeout)
		}})
	},
	Serves: probe.TLS,
}
