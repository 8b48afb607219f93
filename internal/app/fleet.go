package app

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"time"

	"chancery/internal/ca"
	"chancery/internal/fault"
	messages "chancery/internal/fleet"
	fleet "chancery/internal/fleet/server"
	"chancery/internal/loop"
	"chancery/internal/pki"
	"chancery/internal/renew"
)

// agentPeriod is the life of an agent's identity; it is renewed after half.
const agentPeriod = 7 * 24 * time.Hour

// fleetIssuer certifies agents and what was assigned to them, each by a grant
// of exactly the names that were asked for.
type fleetIssuer struct {
	app   *App
	ca    string
	usual string
	own   ca.NameRule       // agents.allow_names; what is not in it may not be assigned
	rules ca.OperatorConfig // of the CA and its profiles
}

// openFleet prepares the server of agents.
func (a *App) openFleet(registered map[string]*ca.Profile) (err error) {
	f, err := a.newFleetIssuer(registered)
	if err != nil {
		return err
	}
	a.agents = f
	a.fleet, err = fleet.New(fleet.Config{DB: a.db, Identify: f.identify, Permit: f.permit, Issue: f.issue, Manager: (*fleetManager)(a), Pin: a.pin,
		Roots: func() string { return string(rootPEM(a.ca)) }, MaxParked: a.cfg.Agents.MaxParked, Log: a.log, Registry: a.metrics.Registry})
	return err
}

func (a *App) newFleetIssuer(registered map[string]*ca.Profile) (f *fleetIssuer, err error) {
	c := a.cfg.Agents
	f = &fleetIssuer{app: a, ca: cmp.Or(c.CA, firstCA(a.cfg)), own: ca.NameRule{Of: "agents.allow_names of the server's configuration"}}
	if f.own.Allow, err = pki.ParsePatterns(c.AllowNames); err != nil {
		return nil, err
	}
	if f.own.Allow == nil {
		f.own.Allow = []pki.Pattern{} // nothing
	}
	if f.own.Deny, err = pki.ParsePatterns(c.DenyNames); err != nil {
		return nil, err
	}
	f.rules, err = describeCA(a.cfg, registered, f.ca)
	f.usual = cmp.Or(c.Profile, f.rules.Default)
	return f, err
}

// private refuses a CA that strangers trust: its certificates need validation.
func (f *fleetIssuer) private() error {
	if ca.Trust(f.app.cfg.CA[f.ca].Trust) == ca.PublicWebPKI {
		return fault.New(fault.Precondition, "CA %q is public-webpki, where every name must be validated; name a private one in agents.ca", f.ca)
	}
	return nil
}

// identify certifies an agent.
func (f *fleetIssuer) identify(ctx context.Context, id string, der []byte) ([][]byte, error) {
	if err := f.private(); err != nil {
		return nil, err
	}
	csr, err := pki.ParseCSR(der, messages.MaxCSR)
	if err != nil {
		return nil, err
	}
	name := pki.Identifier{Type: pki.DNS, Value: id + messages.NameSuffix}
	only := *csr // of a request for an identity only the key counts
	only.Identifiers, only.CommonName, only.MustStaple = []pki.Identifier{name}, "", false
	profile := ca.DefaultProfiles()[0]
	profile.Name, profile.Period, profile.CommonName, profile.MustStaple = "agent", agentPeriod, pki.CNNone, false
	profile.KeyUsage, profile.ExtKeyUsage = x509.KeyUsageDigitalSignature, []asn1.ObjectIdentifier{pki.EKUClientAuth}
	return f.certify(ctx, ca.MethodInternal, "agent:"+id, &profile, []pki.Identifier{name}, &only)
}

// owns says whether agents may have certificates for names, whoever issues them.
func (f *fleetIssuer) owns(names []pki.Identifier) error {
	for _, id := range names {
		if err := f.own.Check(id); err != nil {
			return err
		}
	}
	return nil
}

// permit says whether operators may assign names to agents. What comes from a
// named issuer is held to the rules of that issuer when it is ordered.
func (f *fleetIssuer) permit(names []pki.Identifier, profile, issuer string) error {
	if err := f.owns(names); err != nil || issuer != "" {
		return err
	}
	profile = cmp.Or(profile, f.usual)
	if err := f.private(); err != nil {
		return err
	}
	p := f.rules.Profiles[profile]
	if p == nil {
		return fault.New(fault.InvalidProfile, "CA %q has no profile %.64q", f.ca, profile)
	}
	for _, id := range names {
		for _, r := range append([]ca.NameRule{f.rules.ProfileAlso[profile]}, f.rules.Also...) {
			if err := r.Check(id); err != nil {
				return err
			}
		}
		if err := p.Permits(id); err != nil {
			return err
		}
	}
	return nil
}

// issue obtains what was assigned to an agent: from the issuer that it is
// managed with, or else from our own CA.
func (f *fleetIssuer) issue(ctx context.Context, o fleet.Order) ([][]byte, error) {
	chain, err := f.app.renew.Obtained(ctx, o.Assignment, o.CSR, o.Needed)
	switch {
	case errors.Is(err, renew.ErrPending):
		return nil, errors.Join(fleet.ErrPending, err)
	case !fault.Is(err, fault.NotFound):
		return chain, err
	}
	if err := f.permit(o.Names, o.Profile, ""); err != nil {
		return nil, err
	}
	csr, err := pki.ParseCSR(o.CSR, messages.MaxCSR)
	if err != nil {
		return nil, err
	}
	return f.certify(ctx, ca.MethodOperator, "assignment:"+o.Assignment, f.rules.Profiles[cmp.Or(o.Profile, f.usual)], o.Names, csr)
}

// fleetManager is the renewal engine as agents need it.
type fleetManager App

// Manage implements server.Manager.
func (a *fleetManager) Manage(ctx context.Context, o fleet.Order, issuer, actor string) error {
	_, err := a.renew.CreateRemote(ctx, o.Assignment, renew.Spec{Names: o.Names, Owner: o.Owner, Issuer: issuer, Profile: o.Profile}, actor)
	return err
}

// Unmanage implements server.Manager.
func (a *fleetManager) Unmanage(ctx context.Context, id, actor string) error {
	return a.renew.RemoveRemote(ctx, id, actor)
}

// Hurry implements server.Manager.
func (a *fleetManager) Hurry(ctx context.Context, id, actor string) error {
	return a.renew.RenewRemote(ctx, id, actor)
}

// Requested implements server.Manager.
func (a *fleetManager) Requested(ctx context.Context, id string) error {
	return a.renew.RequestReady(ctx, id)
}

// certify issues by the same steps as for any subscriber.
func (f *fleetIssuer) certify(ctx context.Context, method, reference string, p *ca.Profile, names []pki.Identifier, csr *pki.CSR) ([][]byte, error) {
	now := time.Now()
	evidence := make([]ca.Evidence, len(names))
	for i, n := range names {
		evidence[i] = ca.Evidence{Name: n, Method: method, Reference: reference, ValidatedAt: now, ExpiresAt: now.Add(time.Hour), CAAExempt: true}
	}
	grant, err := ca.NewGrant(evidence)
	if err != nil {
		return nil, err
	}
	c, err := f.app.ca.Issue(ctx, ca.Request{CA: f.ca, Profile: p, Grant: grant, CSR: csr, Actor: "fleet"})
	if err != nil {
		return nil, err
	}
	f.app.status.Issued(c)
	loop.Nudge(f.app.wake.sequence)
	issuer := f.app.ca.Authority(c.AuthorityID)
	if issuer == nil || len(issuer.Chains) == 0 {
		return nil, errors.New("the authority that issued is unknown")
	}
	above, err := pki.DecodeChain(issuer.Chains[0], 256<<10, 8)
	if err != nil {
		return nil, err
	}
	return append([][]byte{c.DER}, above...), nil
}

// pin is what enrolment tokens know this server by: the authority that issues
// its certificates, or the key of one that comes from a file.
func (a *App) pin() (string, error) {
	if a.cfg.Server.TLSCertFile != "" {
		cert := a.https.certs.Current()
		if cert == nil || cert.Leaf == nil {
			return "", errors.New("the HTTPS listener has no certificate yet")
		}
		return messages.Pin(cert.Leaf), nil
	}
	issuer, err := a.ca.Issuing(a.https.name)
	if err != nil {
		return "", err
	}
	return messages.Pin(issuer.Cert), nil
}
