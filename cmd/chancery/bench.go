package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery/internal/acme/challenge"
	"chancery/internal/app"
	"chancery/internal/bench"
	"chancery/internal/pki"
)

// newBench is `chancery bench`.
func newBench(e env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure servers, signatures, scans and renewals",
		Long: `Measure servers: ours or any other that speaks the protocol.

Each benchmark prints one line per number of clients: throughput with its
spread over several rounds, latency, and CPU per operation of the server, of
this program and of everybody else on the machine. Without --rate each client
starts its next operation when the last one is done. With --rate operations
start by the clock, and latency counts from the intended start, so a server
that stalls cannot hide it.

On shared machines compare CPU per operation and ratios within one minute, not
throughput of different days.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return usagef("name what to measure: issue, ocsp, api, control, sign, scan, renew or agents; or fleet, fill, report")
		},
	}
	cmd.AddCommand(benchIssue(e), benchOCSP(e), benchAPI(e), benchControl(e), benchSign(e), benchScan(e), benchRenew(e), benchAgents(e), benchFleet(e), benchFill(e), benchReport(e))
	return cmd
}

// benchFlags are what all benchmarks have.
type benchFlags struct {
	clients                     []int
	rate                        float64
	rounds, count               int
	warmup, duration, drain     time.Duration
	pause, timeout              time.Duration
	label, json, out            string
	data, readyFile, root, metr string
	insecure                    bool
	pids                        []int
	figures                     []bench.Figure // of the run as a whole
}

// load adds the flags that shape the load, and those of the result.
func (f *benchFlags) load(cmd *cobra.Command, clients []int, rounds int, duration time.Duration) {
	fl := cmd.Flags()
	fl.IntSliceVar(&f.clients, "clients", clients, "`numbers` of clients, one line of the result each; with --rate the most that work at once")
	fl.Float64Var(&f.rate, "rate", 0, "start so many `operations` per second, whatever the server does (0: when the last one is done)")
	fl.IntVar(&f.rounds, "rounds", rounds, "measured rounds per line")
	fl.DurationVar(&f.warmup, "warmup", 2*time.Second, "`time` before each round that does not count")
	fl.DurationVar(&f.duration, "duration", duration, "`time` of a round; 0: until --count is reached")
	fl.IntVar(&f.count, "count", 0, "a round also ends after so many `operations`")
	fl.DurationVar(&f.drain, "drain", 10*time.Second, "`time` for what a round leaves unfinished")
	fl.DurationVar(&f.pause, "pause", 0, "`time` between rounds")
	f.results(cmd)
}

// results adds the flags of the result.
func (f *benchFlags) results(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.label, "label", "", "`name` of what is measured, for comparisons")
	fl.StringVar(&f.json, "json", "", "append the result to this `file`, a JSON line per line of the table; - is standard output, without the table")
	fl.StringVar(&f.out, "out", "", "write result.json and chart.svg into this `directory`")
}

// server adds the flags that say which server, and what else is known of it.
func (f *benchFlags) server(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.data, "data", "./.chancery", "data `directory` of a running chancery on this machine: all else follows from it")
	fl.StringVar(&f.readyFile, "ready-file", "", "the same, by its ready `file`")
	fl.StringVar(&f.root, "root", "", "PEM `file` with the roots to trust (default: of the ready file, or the system's)")
	fl.BoolVar(&f.insecure, "insecure", false, "trust any HTTPS certificate")
	fl.DurationVar(&f.timeout, "timeout", 30*time.Second, "`time` limit of a request")
	fl.IntSliceVar(&f.pids, "server-pid", nil, "`process` whose CPU and memory to watch, with its children; repeat for a database (default: of the ready file)")
	fl.StringVar(&f.metr, "metrics", "", "`URL` of Go metrics, for allocations per operation (default: of the ready file)")
}

// ready reads where a running chancery is. It is no error that there is none
// when the user did not name it and needs it not.
func (f *benchFlags) ready(cmd *cobra.Command, needed bool) (app.Ready, error) {
	var r app.Ready
	path := f.readyFile
	if path == "" {
		path = filepath.Join(f.data, "ready.json")
	}
	named := cmd.Flags().Changed("data") || cmd.Flags().Changed("ready-file")
	if !named && !needed {
		return r, nil
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return r, &exitError{code: exitUsage, err: fmt.Errorf("no server is named, and none runs here: there is no %s", path), next: "chancery dev, or " + cmd.CommandPath() + " --help"}
	}
	if err != nil {
		return r, fmt.Errorf("read ready file: %w", err)
	}
	if err := json.Unmarshal(text, &r); err != nil || r.Directory == "" {
		return r, usagef("%s is not the ready file of a chancery", path)
	}
	return r, nil
}

// probe returns what to watch of the server.
func (f *benchFlags) probe(r app.Ready) (*bench.Probe, error) {
	p := &bench.Probe{PIDs: f.pids, MetricsURL: f.metr}
	if len(p.PIDs) == 0 && r.PID > 0 {
		p.PIDs = []int{r.PID}
	}
	if p.MetricsURL == "" {
		p.MetricsURL = r.Metrics
	}
	return p, p.Check()
}

// transport returns how to connect. roots is nil for the system's.
func (f *benchFlags) transport(e env, r app.Ready) (t bench.Transport, roots *x509.CertPool, err error) {
	file := f.root
	if file == "" {
		file = r.Root
	}
	if file != "" {
		if roots, err = readRoots(file); err != nil {
			return t, nil, err
		}
	}
	return bench.Transport{TLS: &tls.Config{RootCAs: roots, InsecureSkipVerify: f.insecure}, Timeout: f.timeout,
		UserAgent: "chancery-bench/" + e.build().Version}, roots, nil
}

func readRoots(file string) (*x509.CertPool, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read roots: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, usagef("%s holds no PEM certificate", file)
	}
	return pool, nil
}

// plan is what the flags ask for.
func (f *benchFlags) plan() bench.Plan {
	return bench.Plan{Clients: f.clients, Rate: f.rate, Rounds: f.rounds, Warmup: f.warmup, Duration: f.duration,
		Count: f.count, Drain: f.drain, Pause: f.pause}
}

// drive runs one workload and reports it.
func (f *benchFlags) drive(ctx context.Context, e env, probe *bench.Probe, w bench.Workload, settings map[string]string, data string) error {
	rep, err := f.newReporter(e, w, settings, data)
	if err != nil {
		return err
	}
	if e.getenv("GOGC") == "" {
		// The heap of a load generator is small, so it would be collected often,
		// on the cores that the server needs.
		debug.SetGCPercent(800)
	}
	d := bench.Driver{Plan: f.plan(), Probe: probe, Progress: rep.bar.Progress, OnPoint: rep.point}
	_, err = d.Run(ctx, w)
	return rep.finish(err)
}

// issueFlags are the flags of `chancery bench issue`.
type issueFlags struct {
	benchFlags
	directory, challenge          string
	http01Listen, tlsALPN01Listen string
	dnsListen, dnsTarget          string
	suffix, profile               string
	names, accounts, flood        int
	keyType, accountKeyType       string
	reuseKeys, verify             bool
	verifyRoot, keep              string
	contact                       []string
	eabKeyID, eabKeyFile          string
	poll                          time.Duration
}

// benchIssue is `chancery bench issue`.
func benchIssue(e env) *cobra.Command {
	var f issueFlags
	cmd := &cobra.Command{
		Use:   "issue",
		Short: "Measure an ACME server: whole issuances",
		Long: `Measure an ACME server. Every operation is a whole issuance with names of its
own: new-order, authorization, challenge (which the server really validates),
a fresh key and CSR, finalize, download. Accounts are made before the clock
starts. Any RFC 8555 server will do; with no --directory it is the chancery
that runs in --data.

The server must reach the built-in responder of the challenge: --http01-listen
is what it takes for port 80 of every name. For chancery dev the defaults fit
and names end in .localhost; other servers can be pointed at the built-in DNS
server (--dns-listen), which answers every name with --dns-target.`,
		Example: `  chancery dev --no-limits &
  chancery bench issue --clients 1,10,50 --duration 5s
  chancery bench issue --rate 500 --clients 200 --out results/overload

  # how much others notice of one account that floods
  chancery bench issue --flood 200 --clients 4 --rounds 3 --duration 8s

  # another server, whose resolver is 127.0.0.1:5353
  chancery bench issue --directory https://localhost:14000/dir --root pebble.minica.pem --dns-listen 127.0.0.1:5353 --suffix bench.example.com --server-pid 4711 --label pebble --json results.jsonl
  chancery bench report results.jsonl`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.flood > 0 && !cmd.Flags().Changed("clients") {
				f.clients = []int{4}
			}
			if f.flood > 0 && len(f.clients) != 1 {
				return usagef("with --flood name one number of --clients")
			}
			return f.run(cmd, e)
		},
	}
	f.load(cmd, []int{1, 5, 10, 25, 50, 100, 200}, 3, 10*time.Second)
	f.server(cmd)
	f.add(cmd)
	return cmd
}

func (f *issueFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.directory, "directory", "", "`URL` of the ACME directory (default: of the ready file)")
	fl.StringVar(&f.challenge, "challenge", string(challenge.HTTP01), "challenge `type`: http-01, dns-01 or tls-alpn-01")
	fl.StringVar(&f.http01Listen, "http01-listen", "127.0.0.1:5002", "`address` that answers http-01")
	fl.StringVar(&f.tlsALPN01Listen, "tlsalpn01-listen", "127.0.0.1:5001", "`address` that answers tls-alpn-01")
	fl.StringVar(&f.dnsListen, "dns-listen", "", "`address` of the built-in DNS server (dns-01 needs it; otherwise none runs)")
	fl.StringVar(&f.dnsTarget, "dns-target", "127.0.0.1", "`address` that the built-in DNS server gives to every name")
	fl.StringVar(&f.suffix, "suffix", "localhost", "`domain` below which all names are")
	fl.IntVar(&f.names, "names", 1, "names per certificate")
	fl.StringVar(&f.profile, "profile", "", "certificate `profile` to ask for (default: the server's choice)")
	fl.StringVar(&f.keyType, "key-type", string(pki.P256), "`type` of subject keys")
	fl.BoolVar(&f.reuseKeys, "reuse-keys", false, "one subject key per client, made before the clock starts (for RSA, whose keys take longer than issuing)")
	fl.StringVar(&f.accountKeyType, "account-key-type", string(pki.P256), "`type` of account keys")
	fl.IntVar(&f.flood, "flood", 0, "measure in turns alone and next to so many `clients` of one account that order without end and heed nothing; the server's limits must be on")
	fl.IntVar(&f.accounts, "accounts", 0, "share so many `accounts` between all clients (0: one each)")
	fl.StringArrayVar(&f.contact, "contact", nil, "contact `URL` of the accounts, such as mailto:pki@example.com")
	fl.StringVar(&f.eabKeyID, "eab-kid", "", "key `id` of the external account binding")
	fl.StringVar(&f.eabKeyFile, "eab-key-file", "", "`file` with its MAC key in base64url")
	fl.DurationVar(&f.poll, "poll", 0, "wait this `time` between looks at unfinished objects (default: what the server asks for)")
	fl.BoolVar(&f.verify, "verify", false, "verify chain, names and key of every certificate; costs CPU of this program")
	fl.StringVar(&f.verifyRoot, "verify-root", "", "PEM `file` with the roots of the certificates (default: those of --root)")
	fl.StringVar(&f.keep, "keep", "", "write every certificate to this PEM `file`, for bench ocsp")
}

// run measures.
func (f *issueFlags) run(cmd *cobra.Command, e env) (err error) {
	plan := f.plan()
	if err := plan.Check(); err != nil {
		return usageError(err)
	}
	ready, err := f.ready(cmd, f.directory == "")
	if err != nil {
		return err
	}
	probe, err := f.probe(ready)
	if err != nil {
		return err
	}
	cfg, stop, err := f.config(e, ready)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	b, err := bench.NewIssue(cmd.Context(), cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	if f.flood > 0 {
		return f.driveFlood(cmd.Context(), e, probe, b, f.settings(cfg), dataOf(ready))
	}
	return f.drive(cmd.Context(), e, probe, b.Workload(), f.settings(cfg), dataOf(ready))
}

// driveFlood measures next to a flood. Answers of the server that are not what
// they must be are problems found.
func (f *issueFlags) driveFlood(ctx context.Context, e env, probe *bench.Probe, b *bench.Issue, settings map[string]string, data string) error {
	rep, err := f.newReporter(e, b.Workload(), settings, data)
	if err != nil {
		return err
	}
	flood, err := b.Flood(ctx, f.flood)
	if err != nil {
		return rep.finish(err)
	}
	defer flood.Close()
	d := bench.Driver{Plan: f.plan(), Probe: probe, Progress: rep.bar.Progress, OnPoint: rep.point}
	points, err := d.RunFlood(ctx, b, flood)
	if err = rep.finish(err); err != nil {
		return err
	}
	if f.json != "-" {
		fmt.Fprint(e.stdout, bench.FloodText(points))
	}
	if s := points[1].Flood; s.Malformed+s.Other+s.RenewalsFailed > 0 {
		return problems("", "%d answers to the flood were not what they must be, %d renewals failed: %s", s.Malformed+s.Other, s.RenewalsFailed, s.Example)
	}
	return nil
}

// dataOf is the data directory of the server under test, or "".
func dataOf(r app.Ready) string {
	if r.Root == "" {
		return ""
	}
	return filepath.Dir(r.Root)
}

// config turns the flags into a benchmark; stop ends what it opened.
func (f *issueFlags) config(e env, ready app.Ready) (cfg bench.IssueConfig, stop func() error, err error) {
	var closers []func() error
	stop = func() error {
		var errs []error
		for _, c := range closers {
			errs = append(errs, c())
		}
		return errors.Join(errs...)
	}
	t, roots, err := f.transport(e, ready)
	if err != nil {
		return cfg, stop, err
	}
	cfg = bench.IssueConfig{Directory: f.directory, Transport: t, Challenge: challenge.Type(f.challenge), HTTP01Listen: f.http01Listen,
		TLSALPN01Listen: f.tlsALPN01Listen, Suffix: f.suffix, Names: f.names, Profile: f.profile, KeyType: pki.KeyType(f.keyType), Reuse: f.reuseKeys,
		Accounts: f.accounts, AccountKeyType: pki.KeyType(f.accountKeyType), Contact: f.contact, EABKeyID: f.eabKeyID, Poll: f.poll, Verify: f.verify, Roots: roots}
	if cfg.Directory == "" {
		cfg.Directory = ready.Directory
	}
	if cfg.EABKey, err = f.eabKey(); err != nil {
		return cfg, stop, err
	}
	if f.verifyRoot != "" {
		if cfg.Roots, err = readRoots(f.verifyRoot); err != nil {
			return cfg, stop, err
		}
	}
	if f.dnsListen != "" {
		target, err := netip.ParseAddr(f.dnsTarget)
		if err != nil {
			return cfg, stop, usagef("--dns-target %q is not an IP address", f.dnsTarget)
		}
		if cfg.DNS, err = bench.ListenDNS(f.dnsListen, target); err != nil {
			return cfg, stop, err
		}
		closers = append(closers, cfg.DNS.Close)
	}
	if f.keep != "" {
		file, err := os.Create(f.keep)
		if err != nil {
			return cfg, stop, errors.Join(fmt.Errorf("create certificate file: %w", err), stop())
		}
		cfg.Keep = bench.NewKeeper(file)
		closers = append(closers, cfg.Keep.Flush, file.Close)
	}
	return cfg, stop, nil
}

// eabKey reads the MAC key of the external account binding.
func (f *issueFlags) eabKey() ([]byte, error) {
	if (f.eabKeyID == "") != (f.eabKeyFile == "") {
		return nil, usagef("--eab-kid and --eab-key-file go together")
	}
	if f.eabKeyFile == "" {
		return nil, nil
	}
	text, err := os.ReadFile(f.eabKeyFile)
	if err != nil {
		return nil, fmt.Errorf("read MAC key: %w", err)
	}
	key, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(strings.TrimSpace(string(text)), "="))
	if err != nil {
		return nil, usagef("%s does not hold a MAC key in base64url", f.eabKeyFile)
	}
	return key, nil
}

// settings are what a reader of the result must know.
func (f *issueFlags) settings(cfg bench.IssueConfig) map[string]string {
	s := f.loadSettings()
	s["directory"], s["challenge"], s["key"], s["account key"] = cfg.Directory, string(cfg.Challenge), f.keyType, f.accountKeyType
	s["names"] = strconv.Itoa(f.names)
	if f.reuseKeys {
		s["key"] += " (reused)"
	}
	if f.accounts > 0 {
		s["accounts"] = strconv.Itoa(f.accounts)
	}
	if f.verify {
		s["verify"] = "every certificate"
	}
	return s
}

// loadSettings describe the load.
func (f *benchFlags) loadSettings() map[string]string {
	s := map[string]string{"rounds": fmt.Sprintf("%d of %s after %s", f.rounds, f.duration, f.warmup)}
	if f.count > 0 {
		s["rounds"] += fmt.Sprintf(" or %d operations", f.count)
	}
	if f.rate > 0 {
		s["loop"] = fmt.Sprintf("open, %g/s", f.rate)
	}
	return s
}

// usageError makes err an error of the command line.
func usageError(err error) error { return &exitError{code: exitUsage, err: err} }

// readToken reads an API token from a file.
func readToken(file string) (string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read API token: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

// benchAPI is `chancery bench api`.
func benchAPI(e env) *cobra.Command {
	var f benchFlags
	var tokenFile, accept string
	var conditional bool
	cmd := &cobra.Command{
		Use:   "api PATH...",
		Short: "Measure GET requests of an HTTP API",
		Long: `Measure GET requests of an HTTP API, over kept connections. A PATH is below
the API of the chancery that runs in --data, such as /certs?limit=50, or a
whole URL of any server. Several are asked in random order.`,
		Example: `  chancery bench api '/certs?limit=50' /summary
  chancery bench api --conditional '/certs?limit=50'
  chancery bench api --token-file token https://pki.example.com/api/v1/certs`,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if len(args) == 0 {
				return usagef("name at least one path or URL")
			}
			plan := f.plan()
			if err := plan.Check(); err != nil {
				return usageError(err)
			}
			relative := slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "/") })
			ready, err := f.ready(cmd, relative)
			if err != nil {
				return err
			}
			probe, err := f.probe(ready)
			if err != nil {
				return err
			}
			cfg := bench.APIConfig{Conditional: conditional, Accept: accept}
			if cfg.Transport, _, err = f.transport(e, ready); err != nil {
				return err
			}
			for _, a := range args {
				if strings.HasPrefix(a, "/") {
					a = ready.API + a
				}
				cfg.URLs = append(cfg.URLs, a)
			}
			if tokenFile == "" && relative {
				tokenFile = ready.Token
			}
			if tokenFile != "" {
				if cfg.Token, err = readToken(tokenFile); err != nil {
					return err
				}
			}
			b, err := bench.NewAPI(cfg)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, b.Close()) }()
			s := f.loadSettings()
			s["paths"] = strings.Join(args, " ")
			if conditional {
				s["conditional"] = "If-None-Match"
			}
			return f.drive(cmd.Context(), e, probe, b.Workload(), s, dataOf(ready))
		},
	}
	f.load(cmd, []int{1, 10, 50}, 3, 10*time.Second)
	f.server(cmd)
	cmd.Flags().StringVar(&tokenFile, "token-file", "", "`file` with the bearer token (default: of the ready file, for paths)")
	cmd.Flags().StringVar(&accept, "accept", "", "Accept `header`")
	cmd.Flags().BoolVar(&conditional, "conditional", false, "ask with If-None-Match once the ETag is known")
	return cmd
}

// benchSign is `chancery bench sign`.
func benchSign(e env) *cobra.Command {
	var f benchFlags
	var types, ops []string
	cmd := &cobra.Command{
		Use:   "sign",
		Short: "Measure keys and signatures in this process",
		Long: `Measure what keys, signatures and a certificate cost here, in CPU time of
this process:

  keygen  make a key pair
  sign    sign 600 octets, about what a certificate has
  verify  check such a signature
  csr     parse and check a certificate request
  cert    what an authority computes for a certificate: encode, sign with a
          throw-away key, sign with its own, verify (lints and commits show
          in chancery bench issue)`,
		Example: `  chancery bench sign
  chancery bench sign --key-type p256,ml-dsa-65 --op sign,cert --rounds 5`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.sign(cmd.Context(), e, types, ops)
		},
	}
	fl := cmd.Flags()
	fl.StringSliceVar(&types, "key-type", keyTypeNames(), "key `types`")
	fl.StringSliceVar(&ops, "op", bench.SignOps(), "`operations`")
	fl.IntVar(&f.rounds, "rounds", 3, "measured rounds per line")
	fl.DurationVar(&f.duration, "duration", 300*time.Millisecond, "`time` of a round")
	f.results(cmd)
	return cmd
}

func keyTypeNames() []string {
	var out []string
	for _, t := range pki.KeyTypes {
		out = append(out, string(t))
	}
	return out
}

// sign measures every operation with every key type.
func (f *benchFlags) sign(ctx context.Context, e env, types, ops []string) error {
	f.clients, f.warmup, f.drain = []int{1}, f.duration/10, time.Minute
	plan := f.plan()
	if err := plan.Check(); err != nil {
		return usageError(err)
	}
	rep, err := f.newReporter(e, (&bench.Sign{}).Workload(), f.loadSettings(), "")
	if err != nil {
		return err
	}
	for i, t := range types {
		for j, op := range ops {
			d := bench.Driver{Plan: plan, Progress: rep.bar.Part(i*len(ops)+j, len(types)*len(ops))}
			p, err := signPoint(ctx, d, op, pki.KeyType(t))
			if err != nil {
				return rep.finish(err)
			}
			rep.point(p)
		}
	}
	return rep.finish(nil)
}

// signPoint measures one operation with one key type.
func signPoint(ctx context.Context, d bench.Driver, op string, kt pki.KeyType) (bench.Point, error) {
	s, err := bench.NewSign(op, kt)
	if err != nil {
		return bench.Point{}, err
	}
	points, err := d.Run(ctx, s.Workload())
	if err != nil {
		return bench.Point{}, fmt.Errorf("%s: %w", s.Variant, err)
	}
	points[0].Variant = s.Variant
	return points[0], nil
}
