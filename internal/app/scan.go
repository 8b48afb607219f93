package app

import (
	"context"
	"crypto/x509"
	"fmt"
	"os"

	"chancery/internal/config"
	"chancery/internal/dns"
	"chancery/internal/loop"
	"chancery/internal/scan"
	"chancery/internal/scan/pass"
	"chancery/internal/scan/verdict"
)

// scanners is how many parts of passes one process scans at once.
const scanners = 2

// openScan prepares scheduled scans and the writer of their results.
func (a *App) openScan(context.Context) (err error) {
	c := a.cfg.Scan
	servers := c.Resolvers
	if len(servers) == 0 {
		servers = a.cfg.Validation.Resolvers
	}
	a.scanDNS, err = dns.New(dns.Config{Servers: servers, Hosts: a.opts.Hosts, UseHostsFile: len(servers) == 0})
	if err != nil {
		return err
	}
	if _, err := a.scanRoots(); err != nil {
		return err
	}
	a.passes = pass.New(pass.Config{DB: a.db, Bus: a.bus, Inventory: a.inventory, Scan: a.scanTargets, Site: c.Site, MaxTargets: c.MaxTargets,
		Scanners: scanners, Log: a.log, Registry: a.metrics.Registry, Loops: a.loops})
	return nil
}

// scanRoots are the trust anchors of scans: the system's, those of this
// installation, and one set per configured file.
func (a *App) scanRoots() ([]verdict.Roots, error) {
	system, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("read the system's roots: %w", err)
	}
	sets := []verdict.Roots{{Name: "system", Pool: system}}
	own := x509.NewCertPool()
	own.AppendCertsFromPEM(rootPEM(a.ca))
	sets = append(sets, verdict.Roots{Name: "chancery", Pool: own})
	for _, file := range a.cfg.Scan.Roots {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read scan.roots: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("scan.roots: %s holds no certificate in PEM", file)
		}
		sets = append(sets, verdict.Roots{Name: file, Pool: pool})
	}
	return sets, nil
}

// scanTargets scans a part of a pass.
func (a *App) scanTargets(ctx context.Context, kind scan.Kind, targets []scan.Target, sink scan.Sink) (sum scan.Summary, err error) {
	roots, err := a.scanRoots()
	if err != nil {
		return sum, err
	}
	c := a.cfg.Scan
	s, err := scan.New(scan.Config{Resolver: a.scanDNS, Judge: verdict.New(verdict.Config{Roots: roots}), Probe: kind, Warn: c.Warn,
		Connect: c.Timeout, Handshake: c.Timeout, PerAddress: c.PerAddress, AddressRate: float64(c.AddressRate), MaxInFlight: max(c.MaxInFlight/scanners, 64)})
	if err != nil {
		return sum, err
	}
	return s.Run(ctx, targets, sink)
}

// scanLoops run schedules, and end their passes.
func (a *App) scanLoops() (loops []loop.Every) {
	if a.has(config.RoleScan) {
		loops = append(loops, a.passes.ScanLoops()...)
	}
	if a.has(config.RoleWriter) {
		loops = append(loops, a.passes.WriterLoops()...)
	}
	return loops
}
