// Package nginx is the target for nginx: files, `nginx -t`, and one HUP to the
// master process. nginx reads every certificate of its configuration at a
// reload, so a batch of any size costs the same as one.
package nginx

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
	Name: "nginx",
	Doc:  "nginx: files, its own test, and one reload by a signal to the master process.",
	Config: func() any {
		return &Config{PIDFile: "/run/nginx.pid", Config: live.Config{
			Files: []string{live.Fullchain, live.Privkey}, Test: []string{"nginx", "-t", "-q"}, Timeout: live.DefaultTimeout}}
	},
	Open: func(env deploy.Env, config any) (deploy.Target, error) {
		c := config.(*Config)
		master := deploy.Process{PIDFile: c.PIDFile, Executables: []string{"nginx", "openresty", "angie"}}
		return live.Open(env, c.Config, live.Server{Reload: func(ctx context.Context, _ live.Change) error {
			return master.SignalWorkers(ctx, syscall.SIGHUP, c.Timeout)
		}})
	},
	Serves: probe.TLS,
}
