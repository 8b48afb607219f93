package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"chancery/internal/dns"
	"chancery/internal/fault"
	"chancery/internal/scan"
	"chancery/internal/scan/probe"
	"chancery/internal/scan/verdict"
)

// scanFlags are the flags of `chancery scan`.
type scanFlags struct {
	files, roots          []string
	ports, starttls, kind string
	resolvers             []string
	noSystem, revocation  bool
	ipv6, unhealthy       bool
	warn, timeout         time.Duration
	perAddress, most      int
	rate                  float64
	maxTargets            int
	resume, prometheus    string
	store                 bool
	conn                  *conn
	out                   outFlags
}

// newScan is `chancery scan`.
func newScan(e env) *cobra.Command {
	var f scanFlags
	cmd := &cobra.Command{
		Use:   "scan [TARGET...]",
		Short: "Examine certificates that endpoints serve; exit 3 when one is bad",
		Long: `Examine the certificates that endpoints serve. Needs no server and changes
nothing, but with --store what is found is put into the inventory of the
server that --server or --data name. A server that is busy slows the scan.

A TARGET is [SCHEME://]HOST[:PORTS][/NAME]:

  HOST    a host name, an address, a prefix (192.0.2.0/24) or a range
          (192.0.2.1-192.0.2.9, 192.0.2.1-9); IPv6 in brackets before a port
  PORTS   443 if nothing else is said; a list such as 443,8443 or 8000-8010
  NAME    the server name to ask for and to judge by, when HOST is not it
  SCHEME  tls, https, smtp, imap, pop3, ftp, ldap, xmpp, postgres, mysql
          (STARTTLS), smtps, imaps, pop3s, ftps, ldaps, xmpps

Without SCHEME the port says how TLS begins: 25 and 587 are SMTP, 5432 is
PostgreSQL, and so on. An address without NAME is not judged by name: nobody
said what it should serve.

Probes: observe makes a full handshake, so the endpoint proves that it holds
the key. fetch stops at the certificate: twice as fast, no proof, and a failed
handshake in the endpoint's log. dual also looks for a second certificate of
the other kind of key, features for versions and post-quantum key exchange.

The number of targets in flight adapts to this machine. One address gets at
most 4 connections at once and 20 a second. A time-out is believed when the
second attempt fails too.

Interrupted with --resume FILE, the scan goes on where it stopped when it is
started again. The file of a finished scan makes the next one try endpoints
that failed in a lane of their own.`,
		Example: `  chancery scan example.com mail.example.com:25
  chancery scan --roots ca.pem 10.0.0.0/24 --ports 443,8443
  chancery scan -f hosts.txt --expires-within 14d -o csv > report.csv
  chancery scan -f hosts.txt --store --data /var/lib/chancery
  chancery scan schedules add known inventory --every 1d
  chancery scan -f hosts.txt -o jsonl --resume pass.state --prometheus scan.prom
  cut -f1 hosts.tsv | chancery scan -f - --probe features --json`,
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd.Context(), e, args) },
	}
	cmd.Args = cobra.ArbitraryArgs // also with sub-commands: anything else is a target
	cmd.AddCommand(scanSchedules(e), scanPasses(e), scanSources(e))
	fl := cmd.Flags()
	f.conn = connectTo(e, cmd, true)
	fl.BoolVar(&f.store, "store", false, "put what is found into the inventory")
	fl.StringArrayVarP(&f.files, "file", "f", nil, "read targets from `file`, one a line; - is standard input (repeatable)")
	fl.StringVarP(&f.ports, "ports", "p", "", "`ports` of targets that name none: 443,8443,9000-9010")
	fl.StringVar(&f.starttls, "starttls", "", "`protocol` of targets without scheme: tls, smtp, imap, ... (default: by port)")
	fl.StringVar(&f.kind, "probe", string(scan.Observe), "observe, fetch, dual or features")
	fl.StringArrayVar(&f.roots, "roots", nil, "trust the CA certificates in this PEM `file` too (repeatable)")
	fl.BoolVar(&f.noSystem, "no-system-roots", false, "do not trust the system's CA certificates")
	fl.BoolVar(&f.revocation, "revocation", false, "look up revocation: stapled response, CRL, else OCSP")
	fl.Var((*days)(&f.warn), "expires-within", "report certificates that end within this `time` (14d, 36h)")
	fl.BoolVar(&f.unhealthy, "problems", false, "print only targets that failed or have a problem")
	fl.StringArrayVar(&f.resolvers, "resolver", nil, "DNS server `host:port` (default: the system's)")
	fl.BoolVarP(&f.ipv6, "ipv6", "6", false, "prefer IPv6")
	fl.DurationVar(&f.timeout, "timeout", 3*time.Second, "bound to connect, and for what the handshake waits")
	fl.IntVar(&f.perAddress, "per-address", 4, "connections to one address at once")
	fl.Float64Var(&f.rate, "rate", 20, "connections to one address per second")
	fl.IntVar(&f.most, "max-in-flight", 8000, "most targets in flight")
	fl.IntVar(&f.maxTargets, "max-targets", 1_000_000, "refuse to scan more")
	fl.StringVar(&f.resume, "resume", "", "keep the state of the scan in `file`, and go on from it")
	fl.StringVar(&f.prometheus, "prometheus", "", "write figures to `file` for a node exporter (\"textfile\")")
	f.out.add(cmd)
	fl.Lookup("output").Usage = "output: wide, json, jsonl, csv, yaml, table or tsv (default: table on a terminal, tsv when piped)"
	return cmd
}

// days is a duration flag that knows days.
type days time.Duration

// Set implements pflag.Value.
func (d *days) Set(text string) error {
	if n, ok := strings.CutSuffix(text, "d"); ok {
		hours, err := time.ParseDuration(n + "h")
		if err != nil || hours < 0 {
			return fmt.Errorf("want a time such as 14d or 36h")
		}
		*d = days(24 * hours)
		return nil
	}
	v, err := time.ParseDuration(text)
	if err != nil || v < 0 {
		return fmt.Errorf("want a time such as 14d or 36h")
	}
	*d = days(v)
	return nil
}

// String implements pflag.Value.
func (d *days) String() string {
	if *d == 0 {
		return ""
	}
	return time.Duration(*d).String()
}

// Type implements pflag.Value.
func (d *days) Type() string { return "time" }

// run is the command.
func (f *scanFlags) run(ctx context.Context, e env, args []string) error {
	targets, err := f.targets(e, args)
	if err != nil {
		return err
	}
	cfg, closeAll, err := f.config()
	if err != nil {
		return err
	}
	defer closeAll()
	out, err := f.output(e)
	if err != nil {
		return err
	}
	sink := out.sink
	if f.store {
		cl, err := f.conn.client(ctx)
		if err != nil {
			return err
		}
		sink = storing(cl, e, cfg.Probe, sink)
	}
	s, err := scan.New(cfg)
	if err != nil {
		return err
	}
	if _, note := s.Bounds(); note != "" {
		fmt.Fprintf(e.stderr, "note: %s\n", note)
	}
	if cfg.State != nil {
		if resumed, n := cfg.State.Resumed(); resumed {
			fmt.Fprintf(e.stderr, "note: %s has %d targets done; going on\n", f.resume, n)
		}
	}
	stop := showProgress(e, s)
	list, duplicates := targets.List(), targets.Duplicates()
	sum, err := s.Run(ctx, list, sink) // without targets, whose index of 20,000 takes 5 MB
	stop()
	sum.Duplicates = duplicates
	if err := errors.Join(out.close(&sum), f.metrics(&sum)); err != nil {
		return err
	}
	fmt.Fprint(e.stderr, sum.Text())
	return f.outcome(&sum, err)
}

// outcome turns the end of a scan into an exit code.
func (f *scanFlags) outcome(sum *scan.Summary, err error) error {
	if err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	if sum.Remaining > 0 {
		next := ""
		if f.resume != "" {
			next = "the same command; it goes on from " + f.resume
		}
		return &exitError{code: exitPartial, err: fmt.Errorf("interrupted: %d of %d targets were not scanned", sum.Remaining, sum.Targets), next: next}
	}
	if n := sum.Unhealthy(); n > 0 {
		return problems("", "%d of %d targets are not in order", n, sum.Done)
	}
	return nil
}

// targets reads arguments, files and standard input.
func (f *scanFlags) targets(e env, args []string) (*scan.Targets, error) {
	cfg := scan.TargetConfig{Max: f.maxTargets, Protocol: probe.Protocol(f.starttls)}
	if f.starttls != "" && !cfg.Protocol.Valid() {
		return nil, usagef("--starttls %s is none of tls, smtp, imap, pop3, ftp, ldap, xmpp, postgres, mysql", f.starttls)
	}
	if f.ports != "" {
		ports, err := scan.ParsePorts(f.ports)
		if err != nil {
			return nil, usagef("--ports: %s", fault.As(err).Detail)
		}
		cfg.Ports = ports
	}
	targets := scan.NewTargets(cfg)
	for _, a := range args {
		if err := targets.Add(a); err != nil {
			return nil, usagef("%s", fault.As(err).Detail)
		}
	}
	for _, name := range f.files {
		if err := readTargets(e, name, targets); err != nil {
			return nil, err
		}
	}
	if len(targets.List()) == 0 {
		return nil, usagef("name a target, or a file with -f")
	}
	return targets, nil
}

// readTargets reads one file, or standard input for "-".
func readTargets(e env, name string, into *scan.Targets) error {
	in := e.stdin
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return usagef("%w", err)
		}
		defer file.Close()
		in = file
	}
	if err := into.Read(in); err != nil {
		return usagef("%s: %s", name, fault.As(err).Detail)
	}
	return nil
}

// config opens what the scan needs.
func (f *scanFlags) config() (cfg scan.Config, closeAll func(), err error) {
	cfg = scan.Config{
		Probe: scan.Kind(f.kind), PreferIPv6: f.ipv6, Warn: f.warn, Connect: f.timeout, Handshake: f.timeout,
		PerAddress: f.perAddress, AddressRate: f.rate, MaxInFlight: f.most,
	}
	if !cfg.Probe.Valid() {
		return cfg, nil, usagef("--probe %s is none of observe, fetch, dual, features", f.kind)
	}
	roots, err := f.rootSets()
	if err != nil {
		return cfg, nil, err
	}
	cfg.Judge = verdict.New(verdict.Config{Roots: roots})
	if cfg.Resolver, err = dns.New(dns.Config{Servers: f.resolvers, UseHostsFile: len(f.resolvers) == 0}); err != nil {
		return cfg, nil, usagef("%w", err)
	}
	if f.revocation {
		cfg.Revocation = verdict.NewRevocation(statusClient(cfg.Resolver))
	}
	if f.resume != "" {
		if cfg.State, err = scan.OpenState(f.resume); err != nil {
			cfg.Resolver.Close()
			return cfg, nil, err
		}
	}
	return cfg, func() {
		cfg.Resolver.Close()
		if cfg.State != nil {
			cfg.State.Close()
		}
	}, nil
}

// rootSets reads the trust anchors: the system's and one set per file.
func (f *scanFlags) rootSets() ([]verdict.Roots, error) {
	var sets []verdict.Roots
	if !f.noSystem {
		pool, err := x509.SystemCertPool()
		if err != nil {
			return nil, fmt.Errorf("read the system's roots: %w", err)
		}
		sets = append(sets, verdict.Roots{Name: "system", Pool: pool})
	}
	for _, name := range f.roots {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, usagef("%w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(text) {
			return nil, usagef("%s has no certificate in PEM form", name)
		}
		sets = append(sets, verdict.Roots{Name: name, Pool: pool})
	}
	return sets, nil
}

// statusClient fetches CRLs and OCSP answers; names go through r.
func statusClient(r *dns.Resolver) *http.Client {
	var d net.Dialer
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		if _, err := netip.ParseAddr(host); err == nil {
			return d.DialContext(ctx, network, address)
		}
		answer, err := r.Addrs(ctx, host)
		if err != nil {
			return nil, err
		}
		return d.DialContext(ctx, network, net.JoinHostPort(answer.Addrs[len(answer.Addrs)-1].String(), port))
	}
	return &http.Client{Transport: &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 8, ResponseHeaderTimeout: 10 * time.Second}}
}

// metrics writes the file of --prometheus, all or nothing.
func (f *scanFlags) metrics(sum *scan.Summary) error {
	if f.prometheus == "" {
		return nil
	}
	reg := prometheus.NewRegistry()
	if err := sum.Register(reg); err != nil {
		return err
	}
	if err := prometheus.WriteToTextfile(f.prometheus, reg); err != nil {
		return fmt.Errorf("write metrics: %w", err)
	}
	return nil
}
