package app

import (
	"context"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"maps"
	"slices"

	"chancery/internal/ca"
	"chancery/internal/config"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

// ensureAuthorities makes what is missing: one root for the installation, an
// issuing authority for each configured CA. Only `dev` does so by itself; an
// operator of `serve` decides about keys with `chancery ca init`.
func ensureAuthorities(ctx context.Context, cfg *config.Config, s *ca.Service, create bool) error {
	for _, name := range slices.Sorted(maps.Keys(cfg.CA)) {
		if _, err := s.Issuing(name); err == nil {
			continue
		}
		if !create {
			return fault.New(fault.Precondition, "there is no certificate authority named %q yet; make it with `chancery ca init --offline --ca %s`, and the same --config or --data", name, name)
		}
		if _, err := InitCA(ctx, s, name, cfg.CA[name], "system"); err != nil {
			return fmt.Errorf("make authority %s: %w", name, err)
		}
	}
	return nil
}

// InitCA makes an issuing authority named name under the installation's root,
// and that root, too, when there is none.
func InitCA(ctx context.Context, s *ca.Service, name string, cfg config.CA, actor string) (*ca.Authority, error) {
	spec := ca.Spec{CA: name, KeyType: cfg.KeyType, Organization: cfg.Organization, Shards: cfg.CRLShards}
	root := newestRoot(s)
	if root == nil {
		rootSpec := spec
		rootSpec.CommonName = cfg.Organization + " Root CA"
		if cfg.Organization == "" {
			rootSpec.CommonName = name + " Root CA"
		}
		var err error
		if root, err = s.CreateRoot(ctx, rootSpec, actor); err != nil {
			return nil, err
		}
	}
	return s.CreateIssuing(ctx, root.ID, spec, actor)
}

// trusts translates the trust profiles of the [ca.NAME] sections.
func trusts(cfg *config.Config) map[string]ca.Trust {
	out := map[string]ca.Trust{}
	for name, c := range cfg.CA {
		out[name] = ca.Trust(c.Trust)
	}
	return out
}

// newestRoot returns the active root that was made last, or nil.
func newestRoot(s *ca.Service) *ca.Authority {
	var root *ca.Authority
	for _, a := range s.Authorities() {
		if a.Role == ca.RoleRoot && a.State == ca.Active {
			root = a
		}
	}
	return root
}

// rootPEM returns the certificates of all active roots, newest first: the
// trust anchors of an installation.
func rootPEM(s *ca.Service) []byte {
	var ders [][]byte
	for _, a := range s.Authorities() {
		if a.Role == ca.RoleRoot && a.State == ca.Active {
			ders = append(ders, a.DER)
		}
	}
	slices.Reverse(ders)
	return pki.EncodeChain(ders...)
}

// extKeyUsages are the object identifiers of the configuration's words.
var extKeyUsages = map[config.ExtKeyUsage]asn1.ObjectIdentifier{
	"server-auth": pki.EKUServerAuth, "client-auth": pki.EKUClientAuth,
	"email-protection": pki.EKUEmailProtection, "code-signing": pki.EKUCodeSigning,
}

// keyUsages are the bits of the configuration's words.
var keyUsages = map[config.KeyUsage]x509.KeyUsage{
	"digital-signature": x509.KeyUsageDigitalSignature, "key-encipherment": x509.KeyUsageKeyEncipherment,
}

// profile translates a [profile.NAME] section.
func profile(name string, p config.Profile) ca.Profile {
	out := ca.Profile{Name: name, Description: p.Description, Period: p.Period, Backdate: p.Backdate, KeyTypes: p.KeyTypes,
		CommonName: pki.CNRule(p.CommonName), Permitted: p.PermittedDomains, Excluded: p.ExcludedDomains,
		MustStaple: p.OCSP, Lint: ca.LintSet(p.Lint), NoOCSP: !p.OCSP, NoCRL: !p.CRL}
	if len(p.CTLogs) > 0 {
		out.CT = &ca.CT{Logs: p.CTLogs, SCTs: p.CTSCTs, Operators: p.CTOperators, Deadline: p.CTDeadline}
	}
	for _, u := range p.KeyUsages {
		out.KeyUsage |= keyUsages[u]
	}
	for _, u := range p.ExtKeyUsages {
		out.ExtKeyUsage = append(out.ExtKeyUsage, extKeyUsages[u])
	}
	for _, n := range p.Names {
		switch n {
		case "dns":
			out.Identifiers = append(out.Identifiers, pki.DNS)
		case "ip":
			out.Identifiers = append(out.Identifiers, pki.IP)
		case "wildcard":
			out.Wildcard = true
		case "permanent-identifier", "hardware-module", "TNAuthList", "email":
			out.Identifiers = append(out.Identifiers, pki.IdentifierType(n))
		}
	}
	return out
}

// profiles translates all profiles, in the order of their names.
func profiles(cfg *config.Config) []ca.Profile {
	var out []ca.Profile
	for _, name := range slices.Sorted(maps.Keys(cfg.Profile)) {
		out = append(out, profile(name, cfg.Profile[name]))
	}
	return out
}
