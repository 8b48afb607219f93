package app

import (
	"context"
	"strings"
	"time"

	"chancery/internal/ca"
	"chancery/internal/fleet"
	"chancery/internal/inventory"
	"chancery/internal/loop"
	"chancery/internal/pki"
)

// openPolicies loads the policies of the inventory, and returns what our own
// authorities ask before they issue.
func (a *App) openPolicies(ctx context.Context) (func(ca.Proposal) error, error) {
	a.inventory = inventory.New(a.db)
	if err := a.inventory.LoadPolicies(ctx, time.Now()); err != nil {
		return nil, err
	}
	return func(p ca.Proposal) error {
		if internal(&p) {
			return nil
		}
		names := make([]string, len(p.Names))
		for i, n := range p.Names {
			names[i] = n.Value
		}
		return a.inventory.Refuse(&inventory.Proposal{Issuer: p.Issuer, Key: string(p.KeyType), Names: names, NotBefore: p.NotBefore, NotAfter: p.NotAfter})
	}, nil
}

// internal reports whether a certificate is one that the program needs to work
// at all: its own HTTPS listener, and the identities of agents. No policy may
// shut people out of the place where policies are mended.
func internal(p *ca.Proposal) bool {
	if p.Actor == "system" && p.OrderID == "" {
		return true
	}
	return p.Actor == "fleet" && len(p.Names) == 1 && p.Names[0].Type == pki.DNS && strings.HasSuffix(p.Names[0].Value, fleet.NameSuffix)
}

// policyLoop has this process go by what was changed through others.
func (a *App) policyLoop() loop.Every {
	return loop.Every{Name: "inventory.policies", Interval: 5 * time.Second, Log: a.log, Metrics: a.loops, Tick: func(ctx context.Context) (loop.Count, error) {
		return loop.Count{}, a.inventory.LoadPolicies(ctx, time.Now())
	}}
}
