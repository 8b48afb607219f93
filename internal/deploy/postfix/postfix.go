// Package postfix is the target for a Postfix server: files that
// smtpd_tls_chain_files names, tables of certificates by server name, which
// hold copies of the files and are made anew, and one `postfix reload`.
package postfix

import (
	"context"
	"fmt"
	"strings"

	"chancery/internal/deploy"
	"chancery/internal/deploy/live"
	"chancery/internal/scan/probe"
)

// Config is the configuration of a target.
type Config struct {
	live.Config

	// Configuration directory of the Postfix instance.
	ConfigDir string `toml:"config_dir"`

	// Tables of tls_server_sni_maps, as main.cf names them:
	// "hash:/etc/postfix/sni". Each is made anew with `postmap -F` before the
	// reload.
	SNIMaps []string `toml:"sni_maps"`
}

// Kind is the plug-in.
var Kind = deploy.Kind{
	Name: "postfix",
	Doc:  "Postfix: files, tables of certificates by name, and one reload.",
	Config: func() any {
		return &Config{ConfigDir: "/etc/postfix", Config: live.Config{Files: []string{live.Combined}, Timeout: live.DefaultTimeout}}
	},
	Open:   open,
	Serves: probe.SMTP,
}

func open(env deploy.Env, config any) (deploy.Target, error) {
	c := config.(*Config)
	for _, m := range c.SNIMaps {
		if kind, path, ok := strings.Cut(m, ":"); !ok || kind == "" || !strings.HasPrefix(path, "/") || strings.HasPrefix(kind, "-") {
			return nil, fmt.Errorf("sni_maps: %q is not a table; write one such as \"hash:/etc/postfix/sni\"", m)
		}
	}
	run := func(ctx context.Context, argv ...string) error {
		_, err := deploy.Command{Argv: argv, Timeout: c.Timeout}.Run(ctx)
		return err
	}
	return live.Open(env, c.Config, live.Server{
		Test: func(ctx context.Context) error { return run(ctx, "postfix", "-c", c.ConfigDir, "check") },
		Reload: func(ctx context.Context, _ live.Change) error {
			for _, m := range c.SNIMaps {
				if err := run(ctx, "postmap", "-c", c.ConfigDir, "-F", m); err != nil {
					return err
				}
			}
			return run(ctx, "postfix", "-c", c.ConfigDir, "reload")
		},
	})
}
