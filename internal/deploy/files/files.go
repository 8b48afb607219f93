// Package files is the target for any server that reads certificates from
// files: it writes them and runs one program, such as `systemctl reload X`.
package files

import (
	"context"
	"errors"
	"strings"

	"chancery/internal/deploy"
	"chancery/internal/deploy/live"
)

// Config is the configuration of a target.
type Config struct {
	live.Config

	// Unit of systemd that is reloaded after a change: `systemctl reload UNIT`.
	// Empty: reload says what to run, or nothing is run.
	Unit string `toml:"unit"`
}

// Kind is the plug-in.
var Kind = deploy.Kind{
	Name: "files",
	Doc:  "Files in a directory, and a program or a systemd unit that reloads whatever reads them.",
	Config: func() any {
		return &Config{Config: live.Config{Files: []string{live.Fullchain, live.Privkey}, Timeout: live.DefaultTimeout}}
	},
	Open: open,
}

func open(env deploy.Env, config any) (deploy.Target, error) {
	c := config.(*Config)
	if c.Unit == "" {
		return live.Open(env, c.Config, live.Server{})
	}
	if len(c.Reload) > 0 {
		return nil, errors.New("unit: set either unit or reload")
	}
	if strings.HasPrefix(c.Unit, "-") {
		return nil, errors.New("unit: is not the name of a unit")
	}
	reload := deploy.Command{Argv: []string{"systemctl", "reload", c.Unit}, Timeout: c.Timeout}
	return live.Open(env, c.Config, live.Server{Reload: func(ctx context.Context, _ live.Change) error {
		_, err := reload.Run(ctx)
		return err
	}})
}
