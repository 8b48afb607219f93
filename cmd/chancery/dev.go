package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery/internal/app"
	"chancery/internal/config"
	"chancery/internal/pki"
	"chancery/internal/scan"
)

// devFlags are the flags of `chancery dev`.
type devFlags struct {
	data, db, listen, httpListen, debugListen string
	http01Port, tlsALPN01Port                 int
	resolvers, allowTargets                   []string
	caKeyType, readyFile                      string
	noLimits                                  bool
	estate                                    int
	chaos                                     chaosFlag
}

// newDev is `chancery dev`.
func newDev(e env) *cobra.Command {
	var f devFlags
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run everything on this machine: CA, ACME, OCSP, CRL, API",
		Long: `Run everything on this machine, on loopback, with nothing else installed.

The first start makes a root and an issuing authority in the data directory;
later starts find them there. Validation may reach loopback addresses, and
names below "localhost" are 127.0.0.1, so certificates for demo.localhost can
be had without DNS. It is the same program as ` + "`chancery serve`" + `, with other
defaults; variables such as CHANCERY_LOG_LEVEL work here, too.`,
		Example: `  chancery dev
  chancery dev --data /tmp/pki --listen 127.0.0.1:9443 --http-listen 127.0.0.1:9080
  chancery dev --estate 100000
  chancery dev --db postgres://user@localhost/chancery --ready-file ready.json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := f.config(e)
			if err != nil {
				return err
			}
			if f.estate < 0 || f.estate > maxEstate {
				return usagef("--estate %d is not from 0 to %d", f.estate, maxEstate)
			}
			return serve(cmd.Context(), e, cfg, app.Options{Create: true, Hosts: loopbackNames(), ReadyFile: f.readyFile,
				Estate: f.estate, EstateProgress: estateBar(e, f.estate), Chaos: f.chaos.spec})
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.data, "data", "./.chancery", "`directory` of all files")
	fl.StringVar(&f.db, "db", "", "SQLite path or postgres:// `URL` (default: chancery.db in the data directory)")
	fl.StringVar(&f.listen, "listen", "127.0.0.1:8443", "HTTPS `address`: ACME, API, UI")
	fl.StringVar(&f.httpListen, "http-listen", "127.0.0.1:8080", "plain HTTP `address`: OCSP, CRL, CA certificates")
	fl.StringVar(&f.debugListen, "debug-listen", "127.0.0.1:8081", "private `address`: metrics, health, profiles; \"\" = none")
	fl.IntVar(&f.http01Port, "http01-port", 5002, "`port` that http-01 validation connects to")
	fl.IntVar(&f.tlsALPN01Port, "tlsalpn01-port", 5001, "`port` that tls-alpn-01 validation connects to")
	fl.StringArrayVar(&f.resolvers, "resolver", nil, "DNS server `HOST:PORT` (repeatable; default: the system's)")
	fl.StringArrayVar(&f.allowTargets, "allow-target", nil, "private `CIDR` that validation may reach, besides loopback (repeatable)")
	fl.StringVar(&f.caKeyType, "ca-key-type", string(pki.P256), "key `type` of the authorities, when they are made")
	fl.StringVar(&f.readyFile, "ready-file", "", "write a JSON `file` with all URLs and the pid when everything serves")
	fl.BoolVar(&f.noLimits, "no-limits", false, "switch rate limits off")
	fl.IntVar(&f.estate, "estate", 0, "fill the inventory with `N` invented certificates, once")
	f.chaos.add(cmd)
	return cmd
}

// maxEstate bounds --estate.
const maxEstate = 10_000_000

// estateBar draws how far the making of an estate is, on a terminal.
func estateBar(e env, n int) func(int) {
	if !isTerminal(e.stderr) || e.getenv("TERM") == "dumb" {
		return nil
	}
	began := time.Now()
	return func(made int) {
		line := progressLine(scan.Progress{Total: n, Done: made}, time.Since(began))
		if made == n {
			line = ""
		}
		fmt.Fprint(e.stderr, "\r\x1b[K"+line)
	}
}

// config turns the flags into a configuration over the zero one.
func (f *devFlags) config(e env) (*config.Config, error) {
	cfg, err := config.Load("", e.environ)
	if err != nil {
		return nil, badConfig(e, "", err)
	}
	cfg.Server.Data, cfg.Database.URL = f.data, f.db
	cfg.Server.Listen, cfg.Server.HTTPListen, cfg.Server.DebugListen = f.listen, f.httpListen, f.debugListen
	if cfg.Server.URL, err = localURL("https", "--listen", f.listen); err != nil {
		return nil, err
	}
	if cfg.Server.HTTPURL, err = localURL("http", "--http-listen", f.httpListen); err != nil {
		return nil, err
	}
	if len(cfg.Agents.AllowNames) == 0 {
		cfg.Agents.AllowNames = []string{"localhost", "*.localhost", "*.test", "127.0.0.0/8", "::1/128"}
	}
	v := &cfg.Validation
	v.HTTP01Port, v.TLSALPN01Port, v.Resolvers = f.http01Port, f.tlsALPN01Port, f.resolvers
	v.AllowTargets = append(v.AllowTargets, netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"))
	for _, s := range f.allowTargets {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, usagef("--allow-target %q is not a CIDR such as 10.0.0.0/8", s)
		}
		v.AllowTargets = append(v.AllowTargets, p.Masked())
	}
	if !pki.KeyType(f.caKeyType).Valid() {
		return nil, usagef("--ca-key-type %q is unknown; choose one of %v", f.caKeyType, pki.KeyTypes)
	}
	for name, c := range cfg.CA {
		c.KeyType = pki.KeyType(f.caKeyType)
		cfg.CA[name] = c
	}
	if len(cfg.Issuer) == 0 {
		// Names that nobody else can own (RFC 6761, RFC 9476 and private networks).
		i := config.DefaultIssuer()
		i.Kind, i.Workers = "local", 32
		cfg.Issuer["local"] = i.With("allow_names", []string{"localhost", "*.localhost", "*.test", "*.example", "*.internal", "*.home.arpa",
			"127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fd00::/8"})
	}
	cfg.Limits.Enabled = cfg.Limits.Enabled && !f.noLimits
	if found := cfg.Check(); len(found) > 0 {
		return nil, found[0]
	}
	return cfg, nil
}

// localURL is the URL of a listener on loopback.
func localURL(scheme, flag, addr string) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", usagef("%s %q is not HOST:PORT", flag, addr)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && (ip.IsLoopback() || ip.IsUnspecified()) {
		host = "localhost"
	}
	return scheme + "://" + net.JoinHostPort(host, port), nil
}

// loopbackNames makes localhost and all names below it loopback, without DNS.
func loopbackNames() map[string][]netip.Addr {
	v4 := []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	return map[string][]netip.Addr{"localhost": v4, "*.localhost": v4}
}

// serve composes the program, runs it until ctx ends, and tells a person where
// it is.
func serve(ctx context.Context, e env, cfg *config.Config, opts app.Options) error {
	start := time.Now()
	opts.Build = e.build()
	log, err := newLog(e, cfg)
	if err != nil {
		return err
	}
	opts.Log = log
	if opts.Chaos != nil {
		log.Warn("CHAOS IS ON: this server misbehaves on purpose, never run it for real", "chaos", opts.Chaos.String())
	}
	opts.OnReady = func(r app.Ready) {
		welcome(e.stdout, cfg, r, time.Since(start))
		tellSystemd(e, log, "READY=1")
	}
	defer context.AfterFunc(ctx, func() { tellSystemd(e, log, "STOPPING=1") })()
	a, err := app.New(ctx, cfg, opts)
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

// welcome prints the URLs and two commands to begin with.
func welcome(w io.Writer, cfg *config.Config, r app.Ready, took time.Duration) {
	fmt.Fprintf(w, "chancery is ready after %d ms; Ctrl-C stops it.\n\n", took.Milliseconds())
	for _, l := range [][2]string{
		{"ACME directory", r.Directory}, {"API", r.API}, {"OCSP", r.OCSP}, {"CRL", r.CRL},
		{"metrics", r.Metrics}, {"root", r.Root}, {"admin token", r.Token}, {"CHAOS IS ON", r.Chaos},
	} {
		if l[1] != "" {
			fmt.Fprintf(w, "  %-15s %s\n", l[0], l[1])
		}
	}
	port := ""
	if p := cfg.Validation.HTTP01Port; p != 80 {
		port = fmt.Sprintf(" --http-01-port %d", p)
	}
	work := shellQuote(filepath.Join(filepath.Dir(r.Root), "certbot"))
	fmt.Fprintf(w, `
A certificate by certbot:
  REQUESTS_CA_BUNDLE=%[1]s certbot certonly --standalone%[2]s --agree-tos --register-unsafely-without-email -n --config-dir %[3]s --work-dir %[3]s --logs-dir %[3]s --server %[4]s -d demo.localhost

What has been issued:
  curl -s --cacert %[1]s -H "Authorization: Bearer $(cat %[5]s)" %[6]s/certs

`, shellQuote(r.Root), port, work, r.Directory, shellQuote(r.Token), r.API)
}

// shellQuote quotes a path for a shell where it needs to be.
func shellQuote(s string) string {
	if strings.ContainsFunc(s, func(c rune) bool {
		return !strings.ContainsRune("/._-+:@%", c) && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z')
	}) {
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	return s
}
