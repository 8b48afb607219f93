package app

import (
	"context"
	"net/url"
	"slices"
	"strings"
	"time"

	"chancery/internal/acme/challenge"
	"chancery/internal/acme/server"
	"chancery/internal/api"
	"chancery/internal/ca"
	"chancery/internal/config"
	"chancery/internal/db"
	"chancery/internal/dns"
	"chancery/internal/httpd"
	"chancery/internal/limit"
	"chancery/internal/loop"
	"chancery/internal/pki"
	"chancery/internal/token"
)

// openEdges prepares status, ACME and API, and this server's own certificate.
func (a *App) openEdges(ctx context.Context) (err error) {
	registered, err := a.ca.Register(ctx, profiles(a.cfg))
	if err != nil {
		return err
	}
	if err := a.openStatus(); err != nil {
		return err
	}
	if err := a.openACME(registered); err != nil {
		return err
	}
	if err := a.acme.LoadLimits(ctx, time.Now()); err != nil {
		return err
	}
	if err := a.openRenew(registered); err != nil {
		return err
	}
	if _, err := token.EnsureAdmin(ctx, a.db, a.paths.adminToken(), time.Now()); err != nil {
		return err
	}
	a.https = &httpsCert{cfg: a.cfg, paths: a.paths, ca: a.ca, name: firstCA(a.cfg), certs: &httpd.Certificates{}}
	if err := a.openFleet(registered); err != nil {
		return err
	}
	ac := api.Config{DB: a.db, Fleet: a.fleet, CA: a.ca, Profiles: registered, ACME: a.acme, Secrets: a.keys.Sealer(),
		Inventory: a.inventory, Renew: a.renew, Scans: a.passes, Sources: a.sources, CT: a.ct, Alerts: a.alerts, Build: a.opts.Build, Metrics: a.metrics.Registry, Log: a.log, Changed: a.changed, Revoked: a.status.RevokedMany}
	if err := a.access(&ac); err != nil {
		return err
	}
	if a.api, err = api.New(ac); err != nil {
		return err
	}
	if err := a.recoverNow(ctx); err != nil {
		return err
	}
	if err := a.https.load(ctx); err != nil {
		return err
	}
	return a.catchUp(ctx)
}

// openACME prepares validation and the ACME server.
func (a *App) openACME(registered map[string]*ca.Profile) (err error) {
	v := a.cfg.Validation
	a.resolver, err = dns.New(dns.Config{Servers: v.Resolvers, Timeout: v.DNSTimeout / dnsAttempts, Attempts: dnsAttempts, Hosts: a.opts.Hosts})
	if err != nil {
		return err
	}
	targets := make([]string, len(v.AllowTargets))
	for i, p := range v.AllowTargets {
		targets[i] = p.String()
	}
	policy, err := challenge.NewPolicy(targets)
	if err != nil {
		return err
	}
	common := challenge.Config{Resolver: a.resolver, Policy: policy, HTTP01Port: uint16(v.HTTP01Port),
		TLSALPN01Port: uint16(v.TLSALPN01Port), Timeout: v.Timeout, StepTimeout: v.ConnectTimeout,
		UserAgent: "chancery/" + a.opts.Build.Version}
	validators, err := challenge.NewRegistry(challenge.NewHTTP01(common), challenge.NewDNS01(common), challenge.NewTLSALPN01(common),
		challenge.NewDNSAccount01(common), challenge.NewDNSPersist01(common), challenge.NewDeviceAttest01(common), challenge.NewTKAuth01(common), challenge.NewEmailReply00(common))
	if err != nil {
		return err
	}
	if err := a.openPerspectives(); err != nil {
		return err
	}
	limits, err := limits(a.cfg.Limits)
	if err != nil {
		return err
	}
	cas, err := a.directories(registered)
	if err != nil {
		return err
	}
	mail, err := openMail(a.cfg.Mail)
	if err != nil {
		return err
	}
	c := a.cfg.ACME
	a.acme, err = server.New(server.Config{
		DB: a.db, Issuer: a.ca, Secrets: a.keys.Sealer(), Validators: validators, Perspectives: a.perspectives, BaseURL: a.cfg.Server.URL, CAs: cas,
		MaxNames: c.MaxNames, MaxBody: c.MaxBody, OrderLifetime: c.OrderLifetime, PendingLifetime: c.PendingLifetime,
		AuthorizationLifetime: c.AuthorizationLifetime, Retention: c.Retention, ChallengeWait: orNever(c.ChallengeWait),
		ValidationTimeout: v.Timeout + v.DNSTimeout, Workers: v.Workers, RenewalPoll: c.RenewalPoll, Limits: limits, WeakKeys: a.weak,
		Replica: a.replica, RedeemForeign: a.redeemer(),
		OnIssue: func(_ context.Context, cert *ca.Certificate) { a.status.Issued(cert) },
		OnRevoke: func(ctx context.Context, cert *ca.Certificate) {
			if err := a.status.Revoked(ctx, cert); err != nil {
				a.log.WarnContext(ctx, "revoked answer not signed yet", "error", err)
			}
			loop.Nudge(a.wake.sequence)
		},
		Mail:    mail,
		Metrics: a.metrics, PoolMetrics: a.loops, Log: a.log,
	})
	return err
}

// dnsAttempts is how often one question is asked within its time.
const dnsAttempts = 3

// orNever turns a configured 0, "do not wait", into what the server calls so.
func orNever(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}

// directories translates the [ca.NAME] sections.
func (a *App) directories(registered map[string]*ca.Profile) (map[string]server.CA, error) {
	identities := a.cfg.ACME.CAAIdentities
	if len(identities) == 0 {
		u, err := url.Parse(a.cfg.Server.URL)
		if err != nil {
			return nil, err
		}
		identities = []string{u.Hostname()}
	}
	out := map[string]server.CA{}
	for name, c := range a.cfg.CA {
		checker, err := challenge.NewCAA(challenge.CAAConfig{Resolver: a.resolver, Domains: identities, Timeout: a.cfg.Validation.DNSTimeout})
		if err != nil {
			return nil, err
		}
		d := server.CA{DefaultProfile: c.DefaultProfile, CAA: checker, CAAIdentities: identities, EABRequired: a.cfg.ACME.EABRequired,
			TermsOfService: a.cfg.ACME.TermsOfService, Website: a.cfg.ACME.Website, Trust: ca.Trust(c.Trust), Subdomains: c.Subdomains,
			MinPerspectives: c.MinPerspectives, CertificateGet: c.AllowCertificateGet, Delegation: c.Delegation, TokenAuthority: c.TokenAuthority,
			AutoRenewal: server.AutoRenewal{MinLifetime: c.StarMinLifetime, MaxDuration: c.StarMaxDuration, AllowGet: c.StarAllowGet},
			JustInTime:  server.JustInTime(a.cfg.ACME.DNSPersistJustInTime), PersistAccountURL: a.cfg.ACME.DNSPersistAccountURL}
		if d.Names, err = namePolicy(c.AllowNames, c.DenyNames, c.NamesShadow); err != nil {
			return nil, err
		}
		for _, name := range c.Profiles {
			p := a.cfg.Profile[name]
			names, err := namePolicy(p.AllowNames, p.DenyNames, p.NamesShadow)
			if err != nil {
				return nil, err
			}
			attestation, err := attestation(p)
			if err != nil {
				return nil, err
			}
			tokens, err := tokens(p)
			if err != nil {
				return nil, err
			}
			d.Profiles = append(d.Profiles, server.Profile{Profile: registered[name], Challenges: challengeTypes(p), Names: names, Attestation: attestation, Tokens: tokens})
		}
		out[name] = d
	}
	return out, nil
}

// namePolicy translates the patterns of a section, whose empty list of what is
// allowed means anything.
func namePolicy(allow, deny []string, shadow bool) (p server.NamePolicy, err error) {
	p.Shadow = shadow
	if len(allow) > 0 {
		if p.Allow, err = pki.ParsePatterns(allow); err != nil {
			return p, err
		}
	}
	p.Deny, err = pki.ParsePatterns(deny)
	return p, err
}

func challengeTypes(p config.Profile) []challenge.Type {
	var out []challenge.Type
	for _, c := range p.Challenges {
		out = append(out, challenge.Type(c))
	}
	return out
}

// limits translates the [limits] section.
func limits(c config.Limits) (*server.Limits, error) {
	if !c.Enabled {
		return &server.Limits{}, nil
	}
	out := &server.Limits{PendingOrders: c.PendingOrders}
	for _, l := range []struct {
		name string
		rate config.Rate
		into **limit.Limiter
	}{
		{"accounts_per_ip", c.AccountsPerIP, &out.AccountsPerIP},
		{"accounts_per_net", c.AccountsPerNet, &out.AccountsPerNet},
		{"orders_per_account", c.OrdersPerAccount, &out.OrdersPerAccount},
		{"failures_per_name", c.FailuresPerName, &out.FailuresPerName},
		{"certificates_per_domain", c.CertificatesPerDomain, &out.CertificatesPerDomain},
		{"certificates_per_name_set", c.CertificatesPerNameSet, &out.CertificatesPerNameSet},
		{"lookups_per_name", c.LookupsPerName, &out.LookupsPerName},
		{"verifications_per_ip", c.VerificationsPerIP, &out.VerificationsPerIP},
	} {
		rate := limit.Rate{Count: l.rate.Count, Per: l.rate.Per, Burst: l.rate.Burst}
		var err error
		if *l.into, err = limit.New(l.name, rate, 0); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// firstCA is the CA that serves when none is named: "default" if there is one.
func firstCA(cfg *config.Config) string {
	var names []string
	for name := range cfg.CA {
		names = append(names, name)
	}
	slices.SortFunc(names, func(x, y string) int {
		if x == "default" {
			return -1
		}
		if y == "default" {
			return 1
		}
		return strings.Compare(x, y)
	})
	return names[0]
}

// claimLeaseFor is how old a claim must be before it counts as abandoned. On
// SQLite, at the start, nobody else can be at work.
func claimLeaseFor(e db.Engine) time.Duration {
	if e == db.SQLite {
		return 0
	}
	return claimLease
}
