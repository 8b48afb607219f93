package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"chancery/internal/api"
	"chancery/internal/api/client"
	"chancery/internal/app"
)

// conn are the flags of every command that talks to a running server.
type conn struct {
	e                               env
	server, tokenFile, caFile, data string
	breakGlass                      string
	config                          string         // of --offline
	offline                         bool           // work on the data directory itself
	cmd                             *cobra.Command // where the flags are
	given                           func(flag string) bool
}

// connect registers the flags on cmd and everything below it.
func connect(e env, cmd *cobra.Command) *conn {
	return connectTo(e, cmd, false)
}

// connectTo registers the flags on cmd, alone or with everything below it.
func connectTo(e env, cmd *cobra.Command, alone bool) *conn {
	f := cmd.PersistentFlags()
	if alone {
		f = cmd.Flags()
	}
	c := &conn{e: e, cmd: cmd, given: f.Changed}
	f.StringVar(&c.server, "server", e.getenv("CHANCERY_SERVER"), "`URL` of the server (default: $CHANCERY_SERVER, or the one that runs on --data)")
	f.StringVar(&c.tokenFile, "token-file", "", "`file` with the API token (default: $CHANCERY_TOKEN, or admin.token in --data)")
	f.StringVar(&c.caFile, "ca-file", "", "`file` with the roots that the server's certificate must chain to (default: root.pem in --data)")
	f.StringVar(&c.breakGlass, "break-glass", "", "act without the second person that approval.operations asks for, and record this `reason`")
	f.StringVar(&c.data, "data", "./.chancery", "data `directory` of a server on this machine")
	return c
}

// allowOffline adds --offline, for commands that make sense before a server
// has ever run, or on a machine without one.
func (c *conn) allowOffline() *conn {
	f := c.cmd.PersistentFlags()
	f.BoolVar(&c.offline, "offline", false, "work on --data itself; no server may run on it")
	f.StringVarP(&c.config, "config", "c", "", "configuration `file`, with --offline: data directory, database and URLs come from it")
	return c
}

// local returns a client for the installation that the flags name.
func (c *conn) local(ctx context.Context) (*client.Client, error) {
	cfg, err := loadConfig(c.e, c.config)
	if err != nil {
		return nil, err
	}
	if c.config == "" || c.given("data") {
		cfg.Server.Data = c.data
	}
	o, err := app.OpenOffline(ctx, cfg, c.e.build())
	if err != nil {
		return nil, err
	}
	*c.e.closers = append(*c.e.closers, o)
	http, token := o.Client()
	return client.New(client.Config{Server: "http://offline", Token: token, HTTP: http})
}

// client returns a client for the server that the flags name.
func (c *conn) client(ctx context.Context) (*client.Client, error) {
	if c.offline {
		return c.local(ctx)
	}
	cfg := client.Config{Server: c.server, UserAgent: "chancery/" + c.e.build().Version, BreakGlass: c.breakGlass}
	// Another server is never sent the local administrator's token, unless the
	// command line names the directory.
	local := c.server == "" || c.given("data")
	var err error
	if cfg.Server == "" {
		if cfg.Server, err = c.runningServer(); err != nil {
			return nil, err
		}
	}
	if cfg.Token, err = c.token(local); err != nil {
		return nil, err
	}
	if cfg.Roots, err = c.roots(local); err != nil {
		return nil, err
	}
	return client.New(cfg)
}

// open returns what a command needs that asks the server and prints the
// answer. What is wrong with the flags is said before the server is looked for.
func (c *conn) open(ctx context.Context, out *outFlags) (*printer, *client.Client, error) {
	p, err := out.printer(c.e)
	if err != nil {
		return nil, nil, err
	}
	cl, err := c.client(ctx)
	return p, cl, err
}

// runningServer returns the URL of the server that runs on the data directory.
func (c *conn) runningServer() (string, error) {
	text, err := os.ReadFile(filepath.Join(c.data, "ready.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", &exitError{code: exitFailed, next: "chancery dev --data " + shellQuote(c.data),
			err: fmt.Errorf("no server has run on %s; start one, or name another with --server or --data", c.data)}
	}
	if err != nil {
		return "", fmt.Errorf("read ready file: %w", err)
	}
	var r app.Ready
	if err := json.Unmarshal(text, &r); err != nil || r.API == "" {
		return "", fmt.Errorf("%s/ready.json does not say where the server is; name it with --server", c.data)
	}
	return strings.TrimSuffix(r.API, api.Prefix), nil
}

// token returns the API token: from the flag, the environment, the directory.
func (c *conn) token(local bool) (string, error) {
	file := c.tokenFile
	if file == "" {
		if t := c.e.getenv("CHANCERY_TOKEN"); t != "" {
			return t, nil
		}
		if !local {
			return "", usagef("no token for %s; give --token-file or $CHANCERY_TOKEN", c.server)
		}
		file = filepath.Join(c.data, "admin.token")
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read token: %w; give --token-file or $CHANCERY_TOKEN", err)
	}
	return strings.TrimSpace(string(text)), nil
}

// roots returns what the server's certificate must chain to, nil = the
// system's roots.
func (c *conn) roots(local bool) (*x509.CertPool, error) {
	file := c.caFile
	if file == "" {
		if file = filepath.Join(c.data, "root.pem"); !local {
			return nil, nil
		}
	}
	text, err := os.ReadFile(file)
	if c.caFile == "" && errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read roots: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s holds no certificate in PEM", file)
	}
	return pool, nil
}
