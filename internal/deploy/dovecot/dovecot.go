// Package dovecot is the target for a Dovecot server: files that ssl_cert and
// ssl_key name, and one HUP to the master process.
package dovecot

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

	// File with the number of the master process.
	PIDFile string `toml:"pid_file"`
}

// Kind is the plug-in.
var Kind = deploy.Kind{
	Name: "dovecot",
	Doc:  "Dovecot: files, its own reading of the configuration as a test, and one reload by a signal.",
	Config: func() any {
		return &Config{PIDFile: "/run/dovecot/master.pid", Config: live.Config{
			Files: []string{live.Fullchain, live.Privkey}, Test: []string{"doveconf", "-n"}, Timeout: live.DefaultTimeout}}
	},
	Open: func(env deploy.Env, config any) (deploy.Target, error) {
		c := config.(*Config)
		master := deploy.Process{PIDFile: c.PIDFile, Executables: []string{"dovecot"}}
		return live.Open(env, c.Config, live.Server{Reload: func(context.Context, live.Change) error { return master.Signal(syscall.SIGHUP) }})
	},
	Serves: probe.IMAP,
}
