package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"golang.org/x/sync/errgroup"

	"chancery/internal/acme/solver"
	"chancery/internal/config"
	"chancery/internal/fleet/alone"
	"chancery/internal/issuer"
	"chancery/internal/pki"
)

// Host is an agent that works alone, put together from its configuration.
type Host struct {
	*alone.Runner
	responders responders
}

// OpenHost puts an agent together that keeps the [certificate.NAME]s of a
// configuration, with everything it must remember below state. It opens no
// listener before something is ordered. The error is one or several
// *config.Problem where the configuration is to blame.
func OpenHost(cfg *config.Config, state string, targets map[string]*alone.Target, log *slog.Logger) (*Host, error) {
	h := new(Host)
	var err error
	if h.responders, err = openResponders(cfg, nil, log); err != nil {
		return nil, err
	}
	o := &hostIssuers{cfg: cfg, state: state, log: log, solver: h.responders.solver, open: map[[2]string]*alone.Issuer{}}
	ac := alone.Config{State: state, Targets: targets, Log: log, Respond: func() (func() error, error) { return h.respond(cfg.Challenges) }}
	for _, name := range slices.Sorted(maps.Keys(cfg.Certificate)) {
		c := cfg.Certificate[name]
		out := alone.Certificate{Name: name, Targets: c.Targets, ID: c.FileID(), KeyType: c.KeyType, ReuseKey: c.ReuseKey, Profile: c.Profile, RenewBefore: c.RenewBefore}
		if out.Names, err = pki.ParseNames(c.Names); err == nil {
			out.Issuers, err = o.of(&c)
		}
		if err != nil {
			return nil, errors.Join(err, h.Close())
		}
		ac.Certificates = append(ac.Certificates, out)
	}
	if h.Runner, err = alone.New(ac); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

// Close removes the challenges that are still there.
func (h *Host) Close() error { return h.responders.close() }

// respond opens the listeners of [challenges].
func (h *Host) respond(c config.Challenges) (stop func() error, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	g, ctx := errgroup.WithContext(ctx)
	if err := h.responders.serve(ctx, g, c); err != nil {
		cancel()
		return nil, errors.Join(err, g.Wait())
	}
	return func() error { cancel(); return g.Wait() }, nil
}

// hostIssuers opens the issuers of a host, each once for each way of proving
// names.
type hostIssuers struct {
	cfg    *config.Config
	state  string
	log    *slog.Logger
	solver *solver.Solver // nil: nothing is configured
	open   map[[2]string]*alone.Issuer
}

// of returns the issuers of a certificate, the fallbacks last.
func (o *hostIssuers) of(c *config.Certificate) ([]*alone.Issuer, error) {
	first := c.Issuer
	if first == "" {
		for only := range o.cfg.Issuer { // Check made sure that there is one
			first = only
		}
	}
	var out []*alone.Issuer
	for _, name := range append([]string{first}, o.cfg.Issuer[first].Fallbacks...) {
		i, err := o.issuer(name, c.Challenge)
		if err != nil {
			return nil, err
		}
		out = append(out, i)
	}
	return out, nil
}

// issuer opens an issuer with its staging.
func (o *hostIssuers) issuer(name, challenge string) (*alone.Issuer, error) {
	key := [2]string{name, challenge}
	if i := o.open[key]; i != nil {
		return i, nil
	}
	c, section := o.cfg.Issuer[name], "issuer."+name
	if c.Limits != "none" || c.Orders.Count != 0 {
		return nil, o.cfg.Locate(section, errors.New("limits: budgets are kept by servers; leave limits and orders out of an agent's file"))
	}
	kind, settings, err := bindIssuer(foreignKinds(), name, &c)
	if err != nil {
		return nil, o.cfg.Locate(section, err)
	}
	store := alone.Store{State: o.state, Issuer: name}
	env := issuer.Env{Name: name, Log: o.log.With("issuer", name), Keep: store.Keep, Kept: store.Kept}
	switch {
	case o.solver != nil && challenge != "":
		env.Solver = solver.Only(o.solver, challenge)
	case o.solver != nil:
		env.Solver = o.solver
	}
	opened, err := kind.Open(env, settings)
	if err != nil {
		return nil, o.cfg.Locate(section, err)
	}
	i := &alone.Issuer{Name: name, Issuer: opened, Timeout: c.Timeout, FallbackAfter: c.FallbackAfter}
	o.open[key] = i
	if c.Staging != "" {
		if i.Staging, err = o.issuer(c.Staging, challenge); err != nil {
			return nil, fmt.Errorf("open staging issuer: %w", err)
		}
	}
	return i, nil
}
