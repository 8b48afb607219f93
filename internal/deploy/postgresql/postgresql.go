// Package postgresql is the target for a PostgreSQL server: files that
// ssl_cert_file and ssl_key_file name, and one HUP to the postmaster. The
// server keeps its old certificate when it cannot use the new one, and says so
// in its log only: the probe finds out.
package postgresql

import (
	"context"
	"errors"
	"path/filepath"
	"syscall"

	"chancery/internal/deploy"
	"chancery/internal/deploy/live"
	"chancery/internal/scan/probe"
)

// Config is the configuration of a target.
type Config struct {
	live.Config

	// Data directory of the server; postmaster.pid is there.
	Data string `toml:"data"`
}

// Kind is the plug-in.
var Kind = deploy.Kind{
	Name: "postgresql",
	Doc:  "PostgreSQL: files and one reload by a signal to the postmaster.",
	Config: func() any {
		return &Config{Config: live.Config{Files: []string{live.Fullchain, live.Privkey}, Owner: "postgres", Timeout: live.DefaultTimeout}}
	},
	Open: func(env deploy.Env, config any) (deploy.Target, error) {
		c := config.(*Config)
		if c.Data == "" && len(c.Reload) == 0 {
			return nil, errors.New("data: must be set to the data directory, or reload to a program such as [\"pg_ctlcluster\", \"15\", \"main\", \"reload\"]")
		}
		postmaster := deploy.Process{PIDFile: filepath.Join(c.Data, "postmaster.pid"), Executables: []string{"postgres"}}
		return live.Open(env, c.Config, live.Server{Reload: func(context.Context, live.Change) error { return postmaster.Signal(syscall.SIGHUP) }})
	},
	Serves: probe.Postgres,
}
