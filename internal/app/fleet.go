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
)

// agentPeriod is the life of an agent's identity; it is renewed after half.
const agentPeriod = 7 * 24 * time.Hour

// fleetIssuer certifies agents and what was assigned to them, each by a grant
// of exactly the names that were asked for.
type fleetIssuer struct {
	app       *App
	ca        string
	profiles  map[string]*ca.Profile // that may be asked for
	usual     string
	allow     []pki.Pattern
	deny      []pki.Pattern
	rules     []nameRule // of the CA
	byProfile map[string]nameRule
}

// nameRule is what a section says about names; an empty allow means anything.
type nameRule struct{ allow, deny []pki.Pattern }

func (r nameRule) passes(id pki.Identifier) bool {
	return !pki.MatchAny(r.deny, id) && (len(r.allow) == 0 || pki.MatchAny(r.allow, id))
}

// openFleet prepares the server of agents.
func (a *App) openFleet(registered map[string]*ca.Profile) (err error) {
	f, err := a.newFleetIssuer(registered)
	if err != nil {
		return err
	}
	a.fleet, err = fleet.New(fleet.Config{DB: a.db, Identify: f.identify, Permit: f.permit, Issue: f.issue, Pin: a.pin,
		Roots: func() string { return string(rootPEM(a.ca)) }, MaxParked: a.cfg.Agents.MaxParked, Log: a.log, Registry: a.metrics.Registry})
	return err
}

func (a *App) newFleetIssuer(registered map[string]*ca.Profile) (*fleetIssuer, error) {
	c := a.cfg.Agents
	f := &fleetIssuer{app: a, ca: cmp.Or(c.CA, firstCA(a.cfg)), profiles: map[string]*ca.Profile{}, byProfile: map[string]nameRule{}}
	section := a.cfg.CA[f.ca]
	f.usual = cmp.Or(c.Profile, section.DefaultProfile)
	if f.usual == "" && len(section.Profiles) > 0 {
		f.usual = section.Profiles[0]
	}
	own, err := newRule(c.AllowNames, c.DenyNames)
	if err != nil {
		return nil, err
	}
	f.allow, f.deny = own.allow, own.deny
	if !section.NamesShadow {
		r, err := newRule(section.AllowNames, section.DenyNames)
		if err != nil {
			return nil, err
		}
		f.rules = append(f.rules, r)
	}
	for _, name := range section.Profiles {
		f.profiles[name] = registered[name]
		p := a.cfg.Profile[name]
		if p.NamesShadow {
			continue
		}
		if f.byProfile[name], err = newRule(p.AllowNames, p.DenyNames); err != nil {
			return nil, err
		}
	}
	return f, nil
}

func newRule(allow, deny []string) (r nameRule, err error) {
	if r.allow, err = pki.ParsePatterns(allow); err == nil {
		r.deny, err = pki.ParsePatterns(deny)
	}
	return r, err
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

// permit says whether operators may assign names to agents.
func (f *fleetIssuer) permit(names []pki.Identifier, profile string) error {
	profile = cmp.Or(profile, f.usual)
	if err := f.private(); err != nil {
		return err
	}
	p := f.profiles[profile]
	if p == nil {
		return fault.New(fault.InvalidProfile, "CA %q has no profile %.64q", f.ca, profile)
	}
	own := nameRule{f.allow, f.deny}
	for _, id := range names {
		if len(f.allow) == 0 || !own.passes(id) {
			return fault.New(fault.RejectedIdentifier, "agents.allow_names of the server's configuration does not allow %s; add a pattern for it", id.Value)
		}
		for _, r := range append([]nameRule{f.byProfile[profile]}, f.rules...) {
			if !r.passes(id) {
				return fault.New(fault.RejectedIdentifier, "the rules of CA %q and profile %s do not allow %s", f.ca, profile, id.Value)
			}
		}
		if err := p.Permits(id); err != nil {
			return err
		}
	}
	return nil
}

// issue obtains what was assigned to an agent, from our own CA.
func (f *fleetIssuer) issue(ctx context.Context, o fleet.Order) ([][]byte, error) {
	if err := f.permit(o.Names, o.Profile); err != nil {
		return nil, err
	}
	csr, err := pki.ParseCSR(o.CSR, messages.MaxCSR)
	if err != nil {
		return nil, err
	}
	return f.certify(ctx, ca.MethodOperator, "assignment:"+o.Assignment, f.profiles[cmp.Or(o.Profile, f.usual)], o.Names, csr)
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
