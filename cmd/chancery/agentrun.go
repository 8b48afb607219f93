package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"chancery/internal/app"
	"chancery/internal/config"
	"chancery/internal/fleet/agent"
)

// hostFlags are the flags of `chancery agent` on a host with certificates.
type hostFlags struct {
	server, token, tokenFile, state string
	config, name, caFile            string
	once                            bool
	alone                           aloneFlags
}

func (f *hostFlags) add(cmd *cobra.Command, e env) {
	fl := cmd.Flags()
	fl.StringVar(&f.server, "server", "", "`URL` of the server to enrol at (default: where it is enrolled)")
	fl.StringVar(&f.token, "token", e.getenv("CHANCERY_AGENT_TOKEN"), "enrolment `token`, for the first start (default: $CHANCERY_AGENT_TOKEN)")
	fl.StringVar(&f.tokenFile, "token-file", "", "`file` with the enrolment token")
	fl.StringVar(&f.state, "state", "", "`directory` of the agent: identity, keys, journals")
	fl.StringVarP(&f.config, "config", "c", "", "`file` with the [target.NAME]s of this host, and with the [certificate.NAME]s that it keeps without a server")
	fl.StringVar(&f.name, "name", "", "`name` of the agent (default: the host's name)")
	fl.StringVar(&f.caFile, "ca-file", "", "`file` with more roots that the server may chain to")
	f.alone.add(cmd)
	fl.BoolVar(&f.once, "once", false, "do what there is to do, wait for what is being issued, and end; for cron")
}

// wanted reports whether the command line asks for this kind of agent.
func (f *hostFlags) wanted() bool { return f.state != "" || f.server != "" || f.once }

// run is an agent until ctx ends, or once.
func (f *hostFlags) run(ctx context.Context, e env, log *slog.Logger) error {
	if f.state == "" {
		return usagef("--state is missing: where the agent keeps its identity and keys")
	}
	if configPath(e, f.config) != "" {
		c, err := loadConfig(e, f.config)
		if err != nil {
			return err
		}
		if len(c.Certificate) > 0 {
			return f.runAlone(ctx, e, c, log)
		}
	}
	if f.alone.plan || len(f.alone.renew) > 0 {
		return usagef("--dry-run and --renew are for the [certificate.NAME]s of the agent's own file, and there is none")
	}
	cfg, err := f.agentConfig(e, log)
	if err != nil {
		return err
	}
	a, err := agent.Open(ctx, cfg)
	if err != nil {
		return err
	}
	defer a.Close()
	name, id := a.Name()
	if !f.once {
		log.Info("agent works", "agent", name, "targets", len(cfg.Targets))
		return a.Run(ctx)
	}
	live, failed, err := a.Once(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(e.stdout, "agent %s (%s): %d certificates put into service, %d failed\n", name, id, live, failed)
	return partly(failed, live+failed, "%d of %d certificates are not live", "chancery agents show "+name)
}

// runAlone keeps the certificates of the agent's own file. A host is kept by a
// server or by itself: two masters of one target would undo each other's work.
func (f *hostFlags) runAlone(ctx context.Context, e env, c *config.Config, log *slog.Logger) (err error) {
	state, err := filepath.Abs(f.state)
	if err != nil {
		return fmt.Errorf("find state directory: %w", err)
	}
	if _, err := os.Stat(filepath.Join(state, "identity.json")); err == nil || f.server != "" {
		return usagef("%s has [certificate.NAME]s of its own, and this agent is enrolled at a server; keep the one or the other, or run two agents with a file and a state directory each", configPath(e, f.config))
	}
	if len(f.alone.renew) > 0 && !f.once {
		return usagef("--renew needs --once")
	}
	h, err := f.alone.open(e, configPath(e, f.config), c, state, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	if f.once || f.alone.plan {
		return f.alone.once(ctx, e, h)
	}
	log.Info("agent works without a server", "certificates", len(c.Certificate), "targets", len(c.Target))
	return h.Run(ctx)
}

func (f *hostFlags) agentConfig(e env, log *slog.Logger) (cfg agent.Config, err error) {
	cfg = agent.Config{Server: f.server, Token: f.token, Name: strings.ToLower(f.name), Version: e.build().Version, Log: log, Targets: map[string]agent.Target{}}
	if cfg.State, err = filepath.Abs(f.state); err != nil {
		return cfg, fmt.Errorf("find state directory: %w", err)
	}
	if f.tokenFile != "" {
		text, err := os.ReadFile(f.tokenFile)
		if err != nil {
			return cfg, fmt.Errorf("read token: %w", err)
		}
		cfg.Token = strings.TrimSpace(string(text))
	}
	if cfg.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			return cfg, fmt.Errorf("find the host's name: %w; give --name", err)
		}
		cfg.Name = strings.ToLower(host)
	}
	if f.caFile != "" {
		text, err := os.ReadFile(f.caFile)
		if err != nil {
			return cfg, fmt.Errorf("read roots: %w", err)
		}
		cfg.Roots = x509.NewCertPool()
		if !cfg.Roots.AppendCertsFromPEM(text) {
			return cfg, usagef("%s holds no certificate in PEM", f.caFile)
		}
	}
	return cfg, f.targets(e, &cfg, log)
}

// targets opens the targets of this host; their journals are below the state
// directory.
func (f *hostFlags) targets(e env, cfg *agent.Config, log *slog.Logger) error {
	if configPath(e, f.config) == "" {
		return nil
	}
	c, err := loadConfig(e, f.config)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(c.Target)) {
		if cfg.Targets[name], err = f.target(c, name, cfg.State, log); err != nil {
			return badConfig(e, configPath(e, f.config), err)
		}
	}
	return nil
}

func (f *hostFlags) target(c *config.Config, name, state string, log *slog.Logger) (agent.Target, error) {
	if err := app.MakeState(state, name); err != nil {
		return agent.Target{}, err
	}
	p, err := app.OpenTarget(c, name, state, log, false)
	if err != nil {
		return agent.Target{}, err
	}
	return agent.Target{Target: p.Target, Options: p.Options}, nil
}
