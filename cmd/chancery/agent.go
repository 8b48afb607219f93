package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"chancery/internal/acme/challenge"
	"chancery/internal/acme/perspective"
	"chancery/internal/dns"
	"chancery/internal/fault"
	"chancery/internal/httpd"
	"chancery/internal/obs"
)

// agentFlags are the flags of `chancery agent`.
type agentFlags struct {
	name, region, listen, key string
	primaries                 []string
	resolvers, allowTargets   []string
	http01Port, tlsALPN01Port int
	timeout                   time.Duration
	workers                   int
	debugListen, readyFile    string
	logFormat, logLevel       string
}

// newAgent is `chancery agent`: what runs on hosts elsewhere for a server. With
// --perspective it looks at names, otherwise it keeps certificates in service.
func newAgent(e env) *cobra.Command {
	var f agentFlags
	var fleet hostFlags
	cmd := &cobra.Command{
		Use:   "agent --server URL --token TOKEN --state DIR --config FILE | agent --perspective NAME",
		Short: "Keep certificates in service on this host, or be a perspective",
		Long: `Keep certificates in service on a host that the server cannot reach. The agent
dials out, and waits there for something to do. It makes its keys itself, and
puts certificates into service at the [target.NAME]s of its own file; the server can
name these and nothing else. With --once it does what there is to do and ends.
See docs/agents.md.

Or, with --perspective, run a remote network perspective: it looks at identifiers from where it is, for
a server elsewhere that counts only what several perspectives see alike.

The two know each other by pinned keys. ` + "`chancery agent key FILE`" + ` makes a key and
prints its pin: the agent's goes into [perspective.NAME] of the server's
configuration, the server's (DIR/perspective.key) into --primary here. The
agent keeps nothing and needs no database. See docs/perspectives.md.`,
		Example: `  chancery agent --server https://chancery.example.com --token-file token --state /var/lib/chancery-agent --config agent.toml
  chancery agent --state /var/lib/chancery-agent --config agent.toml --once   # from cron, once it is enrolled
  chancery agent --state /var/lib/chancery-agent --config agent.toml --once --dry-run   # without a server
  chancery agent key /var/lib/chancery/agent.key
  chancery agent --perspective fra --region ripe --listen :9443 \
      --key /var/lib/chancery/agent.key --primary sha256/47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.name == "" && fleet.wanted() {
				log, err := newLogger(e, f.logLevel, f.logFormat)
				if err != nil {
					return err
				}
				return fleet.run(cmd.Context(), e, log)
			}
			if f.name == "" && !f.given() {
				return usagef("either --state, to keep certificates in service here, or --perspective is needed")
			}
			if f.name == "" || f.region == "" || f.key == "" || len(f.primaries) == 0 {
				return usagef("--perspective, --region, --key and --primary are needed")
			}
			return f.run(cmd.Context(), e)
		},
	}
	fleet.add(cmd, e)
	fl := cmd.Flags()
	fl.StringVar(&f.name, "perspective", "", "`name` of the perspective, as in the server's configuration")
	fl.StringVar(&f.region, "region", "", "`region` where it is, as in the server's configuration")
	fl.StringVar(&f.listen, "listen", ":9443", "`address` where the server asks")
	fl.StringVar(&f.key, "key", "", "key `file`; made when it is missing")
	fl.StringArrayVar(&f.primaries, "primary", nil, "`pin` of the key of a server that may ask (repeatable)")
	fl.StringArrayVar(&f.resolvers, "resolver", nil, "DNS server `HOST:PORT` (repeatable; default: the system's); one near this agent, which no other perspective uses")
	fl.StringArrayVar(&f.allowTargets, "allow-target", nil, "private `CIDR` that validation may reach (repeatable; default: public addresses only)")
	fl.IntVar(&f.http01Port, "http01-port", 80, "`port` that http-01 validation connects to; another is for tests only")
	fl.IntVar(&f.tlsALPN01Port, "tlsalpn01-port", 443, "`port` that tls-alpn-01 validation connects to; another is for tests only")
	fl.DurationVar(&f.timeout, "timeout", 12*time.Second, "longest `time` for one validation; less than the server waits")
	fl.IntVar(&f.workers, "workers", 256, "most questions at once; `more` are refused")
	fl.StringVar(&f.debugListen, "debug-listen", "", "private `address`: metrics, health, profiles (default: none)")
	fl.StringVar(&f.readyFile, "ready-file", "", "write the address to this `file` when the agent serves")
	fl.StringVar(&f.logFormat, "log-format", "auto", "`format` of log lines: auto, json or text")
	fl.StringVar(&f.logLevel, "log-level", "info", "least severe `level` logged: debug, info, warn or error")
	cmd.AddCommand(newAgentKey(e), newAgentList(e), newAgentImport(e))
	return cmd
}

// given reports whether anything of a perspective is on the command line.
func (f *agentFlags) given() bool { return f.region != "" || f.key != "" || len(f.primaries) > 0 }

// newAgentKey is `chancery agent key`.
func newAgentKey(e env) *cobra.Command {
	return &cobra.Command{
		Use:   "key FILE",
		Short: "Print the pin of a key, which is made when the file is missing",
		Long: `Print the pin of the key in FILE, by which the other side knows it. The key is
made, with mode 0600, when there is no such file. The pin is no secret.`,
		Example: `  chancery agent key /var/lib/chancery/agent.key     # on the agent
  chancery agent key /var/lib/chancery/perspective.key  # on the server`,
		Args: exactArgs("FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			k, err := perspective.OpenKey(args[0])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(e.stdout, k.Pin())
			return err
		},
	}
}

// run serves until ctx ends.
func (f *agentFlags) run(ctx context.Context, e env) error {
	log, err := newLogger(e, f.logLevel, f.logFormat)
	if err != nil {
		return err
	}
	resolver, err := dns.New(dns.Config{Servers: f.resolvers, Timeout: 2 * time.Second, Attempts: 3})
	if err != nil {
		return err
	}
	defer resolver.Close()
	agent, pin, err := f.agent(e, resolver)
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", f.listen)
	if err != nil {
		return fault.Wrap(err, fault.Conflict, "cannot listen on %s; stop what uses it, or choose another address", f.listen)
	}
	metrics := obs.NewMetrics(e.build())
	m := httpd.NewMetrics(metrics.Registry)
	mux := httpd.NewMux(m)
	agent.Routes(mux)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return httpd.New(httpd.Config{Name: "perspective", Handler: mux, TLS: agent.TLS(), Log: log, Metrics: m}).Run(ctx, ln)
	})
	if f.debugListen != "" {
		debug, err := obs.ListenDebug(f.debugListen)
		if err != nil {
			ln.Close()
			return fault.Wrap(err, fault.Conflict, "cannot listen on %s for --debug-listen", f.debugListen)
		}
		g.Go(func() error { return obs.NewDebug(metrics, e.build(), log).Serve(ctx, debug) })
	}
	log.Info("perspective serves", "perspective", f.name, "region", f.region, "address", ln.Addr().String(), "pin", string(pin))
	if f.readyFile != "" {
		if err := os.WriteFile(f.readyFile, []byte(ln.Addr().String()+"\n"), 0o644); err != nil {
			log.Error("ready file not written", "error", err)
		}
	}
	return g.Wait()
}

// agent puts the perspective together.
func (f *agentFlags) agent(e env, resolver *dns.Resolver) (*perspective.Agent, perspective.Pin, error) {
	key, err := perspective.OpenKey(f.key)
	if err != nil {
		return nil, "", err
	}
	var primaries []perspective.Pin
	for _, s := range f.primaries {
		pin, err := perspective.ParsePin(s)
		if err != nil {
			return nil, "", usagef("--primary: %w", err)
		}
		primaries = append(primaries, pin)
	}
	policy, err := challenge.NewPolicy(f.allowTargets)
	if err != nil {
		return nil, "", usagef("--allow-target: %w", err)
	}
	for _, p := range []int{f.http01Port, f.tlsALPN01Port} {
		if p < 1 || p > 65535 {
			return nil, "", usagef("%d is not a port", p)
		}
	}
	c := challenge.Config{Resolver: resolver, Policy: policy, HTTP01Port: uint16(f.http01Port), TLSALPN01Port: uint16(f.tlsALPN01Port),
		Perspective: f.name, Timeout: f.timeout, UserAgent: "chancery/" + e.build().Version}
	validators, err := challenge.NewRegistry(challenge.NewHTTP01(c), challenge.NewDNS01(c), challenge.NewTLSALPN01(c),
		challenge.NewDNSAccount01(c), challenge.NewDNSPersist01(c))
	if err != nil {
		return nil, "", err
	}
	agent, err := perspective.NewAgent(perspective.AgentConfig{Name: f.name, Region: f.region, Key: key, Primaries: primaries,
		Validators: validators, Resolver: resolver, CAATimeout: f.timeout, Workers: f.workers})
	return agent, key.Pin(), err
}
