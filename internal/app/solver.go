package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"chancery/internal/acme/solver"
	"chancery/internal/acme/solver/acmedns"
	"chancery/internal/acme/solver/azuredns"
	"chancery/internal/acme/solver/clouddns"
	"chancery/internal/acme/solver/cloudflare"
	"chancery/internal/acme/solver/digitalocean"
	dnsexec "chancery/internal/acme/solver/exec"
	"chancery/internal/acme/solver/powerdns"
	"chancery/internal/acme/solver/rfc2136"
	"chancery/internal/acme/solver/route53"
	dnshook "chancery/internal/acme/solver/webhook"
	"chancery/internal/config"
	"chancery/internal/dns"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

// DNSKinds lists the kinds of DNS providers: the only place that does.
func DNSKinds() []solver.Kind {
	return []solver.Kind{rfc2136.Kind, powerdns.Kind, acmedns.Kind, route53.Kind, cloudflare.Kind, azuredns.Kind, clouddns.Kind,
		digitalocean.Kind, dnsexec.Kind, dnshook.Kind}
}

// responders answer the challenges of other CAs.
type responders struct {
	solver *solver.Solver // nil: nothing is configured
	http   *solver.HTTP
	alpn   *solver.ALPN
	names  *dns.Resolver
}

// openSolver prepares what [dns.NAME] and [challenges] say.
func (a *App) openSolver() (err error) {
	a.responders, err = openResponders(a.cfg, a.opts.Hosts, a.log)
	return err
}

// openResponders prepares what a configuration says about challenges of other
// CAs. It opens no listener.
func openResponders(cfg *config.Config, hosts map[string][]netip.Addr, log *slog.Logger) (r responders, err error) {
	c, v := cfg.Challenges, cfg.Validation
	if len(cfg.DNS) == 0 && c.HTTP01Listen == "" && c.HTTP01Webroot == "" && c.TLSALPN01Listen == "" && len(c.PersistNames) == 0 {
		return r, nil
	}
	if r.names, err = dns.New(dns.Config{Servers: v.Resolvers, Timeout: v.DNSTimeout / dnsAttempts, Attempts: dnsAttempts, Hosts: hosts}); err != nil {
		return r, err
	}
	sc := solver.Config{Resolver: r.names, Log: log}
	if c.HTTP01Listen != "" || c.HTTP01Webroot != "" {
		r.http = solver.NewHTTP(c.HTTP01Webroot)
		sc.HTTP = r.http
	}
	if c.TLSALPN01Listen != "" {
		r.alpn = solver.NewALPN()
		sc.ALPN = r.alpn
	}
	if sc.Persist, err = pki.ParsePatterns(c.PersistNames); err != nil {
		return r, err
	}
	if len(c.PersistNames) == 0 {
		sc.Persist = nil
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.DNS)) {
		route, err := openDNS(cfg, name, solver.Env{Name: name, Log: log.With("dns", name)})
		if err != nil {
			return r, err
		}
		sc.Routes = append(sc.Routes, route)
	}
	r.solver, err = solver.New(sc)
	return r, err
}

// openDNS opens a [dns.NAME] section. The error is one or several
// *config.Problem.
func openDNS(cfg *config.Config, name string, env solver.Env) (solver.Route, error) {
	c, section := cfg.DNS[name], "dns."+name
	out := solver.Route{Account: name, Zones: c.Zones, Wait: c.Wait, TTL: c.TTL}
	for _, text := range c.Nameservers {
		at, err := netip.ParseAddrPort(text)
		if err != nil {
			return out, cfg.Locate(section, fmt.Errorf("nameservers: %q is not an address and a port", text))
		}
		out.Nameservers = append(out.Nameservers, at)
	}
	var known []string
	for _, k := range DNSKinds() {
		if k.Name != c.Kind {
			known = append(known, k.Name)
			continue
		}
		settings := k.Config()
		err := c.Bind(name, settings)
		if err == nil {
			out.Provider, err = k.Open(env, settings)
		}
		return out, cfg.Locate(section, err)
	}
	return out, cfg.Locate(section, fmt.Errorf("kind: there is no kind %q of DNS provider; there are %v", c.Kind, known))
}

// serveChallenges opens the listeners of [challenges], if this process renews.
func (a *App) serveChallenges(ctx context.Context, g *errgroup.Group) error {
	if !a.renews() {
		return nil
	}
	return a.responders.serve(ctx, g, a.cfg.Challenges)
}

// serve opens the listeners, and runs them until ctx ends.
func (r *responders) serve(ctx context.Context, g *errgroup.Group, c config.Challenges) error {
	open := func(addr, key string) (net.Listener, error) {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			return nil, fault.Wrap(err, fault.Conflict, "cannot listen on %s for challenges.%s; stop what uses it, or choose another address", addr, key)
		}
		return ln, nil
	}
	var web, alpn net.Listener
	var err error
	if r.http != nil && c.HTTP01Listen != "" {
		if web, err = open(c.HTTP01Listen, "http01_listen"); err != nil {
			return err
		}
	}
	if r.alpn != nil {
		if alpn, err = open(c.TLSALPN01Listen, "tlsalpn01_listen"); err != nil {
			if web != nil {
				web.Close()
			}
			return err
		}
		g.Go(func() error { return r.alpn.Serve(ctx, alpn) })
	}
	if web == nil {
		return nil
	}
	srv := r.http.Server()
	g.Go(func() error {
		if err := srv.Serve(web); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve http-01 challenges: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		return srv.Shutdown(end)
	})
	return nil
}

// closeSolver removes what was presented and is not needed any more.
func (a *App) closeSolver() error { return a.responders.close() }

func (r *responders) close() error {
	var err error
	if r.solver != nil {
		end, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		err = r.solver.Close(end)
	}
	if r.names != nil {
		r.names.Close()
	}
	return err
}
