package ca

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"chancery/internal/audit"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

// NameRule says which names may be certified, by patterns (see
// pki.ParsePattern).
type NameRule struct {
	Of    string        // whose rule it is, for messages: "issuer internal"
	Allow []pki.Pattern // nil: anything; empty: nothing
	Deny  []pki.Pattern // wins over Allow
}

// Check refuses id if the rule does not let it pass.
func (r *NameRule) Check(id pki.Identifier) error {
	switch {
	case pki.MatchAny(r.Deny, id):
		return fault.New(fault.RejectedIdentifier, "%s denies %s", r.Of, id.Value)
	case r.Allow != nil && !pki.MatchAny(r.Allow, id):
		return fault.New(fault.RejectedIdentifier, "%s does not allow %s; add a pattern for it to allow_names", r.Of, id.Value)
	}
	return nil
}

// OperatorConfig says what may be issued without a validation, on the word of
// whoever runs this installation.
type OperatorConfig struct {
	Name string // of the issuer in the configuration; part of the evidence
	CA   string // which certificate authority

	// Profiles are those that may be asked for, by name; Default is one of them.
	Profiles map[string]*Profile
	Default  string

	// Names is what the operator answers for. An empty list of what is allowed
	// allows nothing.
	Names NameRule
	// Also are rules that hold as well: those of the CA, and by name those of
	// its profiles.
	Also        []NameRule
	ProfileAlso map[string]NameRule

	// OnIssue, if set, is told of each certificate before Issue returns.
	OnIssue func(ctx context.Context, c *Certificate)
}

// Operator issues for names that the operator manages itself. It is the second
// of the two ways to a subscriber's certificate, beside validation by ACME, and
// deliberately narrow: it is made once, at the start, from configuration; it
// never serves an authority that the public trusts; every name must match a
// pattern that was written down for this purpose; and every issuance has a
// journal entry of its own that names the rule. A house test keeps the list of
// those who may make one.
type Operator struct {
	s   *Service
	cfg OperatorConfig
}

// NewOperator checks cfg.
func NewOperator(s *Service, cfg OperatorConfig) (*Operator, error) {
	switch {
	case s.trust[cfg.CA] == PublicWebPKI:
		return nil, fault.New(fault.Invalid, "issuer %s: CA %q is public-webpki; every name there must be validated, order through its ACME directory", cfg.Name, cfg.CA)
	case len(cfg.Names.Allow) == 0:
		return nil, fault.New(fault.Invalid, "issuer %s: allow_names is empty, so nothing could be issued; write the patterns of the names that you manage, such as *.internal.example.com", cfg.Name)
	case cfg.Profiles[cfg.Default] == nil:
		return nil, fault.New(fault.Invalid, "issuer %s: CA %q has no profile %q", cfg.Name, cfg.CA, cfg.Default)
	}
	cfg.Names.Of = "issuer " + cfg.Name
	return &Operator{s: s, cfg: cfg}, nil
}

// OperatorRequest asks for one certificate.
type OperatorRequest struct {
	// ID names the request for ever: repeating it returns the certificate that
	// was made, whatever happened in between.
	ID       string
	CSR      []byte // DER
	Profile  string // "": the default
	NotAfter time.Time
}

var (
	qOperatorIssue  = db.SQL("ca.get_operator_issue", `SELECT certificate_id FROM operator_issue WHERE request_id = $1`)
	qOperatorClaim  = db.SQL("ca.insert_operator_issue", `INSERT INTO operator_issue (request_id, certificate_id) VALUES ($1, $2)`)
	qOperatorRetake = db.SQL("ca.update_operator_issue", `UPDATE operator_issue SET certificate_id = $2 WHERE request_id = $1 AND certificate_id = $3`)
	qOperatorForget = db.SQL("ca.delete_operator_issue", `DELETE FROM operator_issue WHERE request_id = $1`)
)

// maxOperatorCSR bounds a certificate request, in octets.
const maxOperatorCSR = 64 << 10

// Issue returns the certificate of a request and its chain in DER, leaf first,
// without the root.
func (o *Operator) Issue(ctx context.Context, r OperatorRequest) ([][]byte, error) {
	before, err := db.Get(ctx, o.s.db.Read(), qOperatorIssue, (*db.Row).Text, r.ID)
	if err != nil && !errors.Is(err, db.ErrNotFound) {
		return nil, fmt.Errorf("look for an earlier certificate: %w", err)
	}
	if before != "" {
		c, err := Get(ctx, o.s.db.Read(), before)
		if err != nil {
			return nil, err
		}
		if c.State == StateIssued {
			return o.chain(&c)
		}
		// Its process died between intent and result, or is about to lose.
		if err := o.s.abandon(ctx, before); err != nil {
			return nil, err
		}
	}
	c, err := o.issue(ctx, r, before)
	if err != nil {
		return nil, err
	}
	if o.cfg.OnIssue != nil {
		o.cfg.OnIssue(ctx, c)
	}
	return o.chain(c)
}

// issue makes the certificate, in the place of an abandoned one if before is
// not "".
func (o *Operator) issue(ctx context.Context, r OperatorRequest, before string) (*Certificate, error) {
	csr, err := pki.ParseCSR(r.CSR, maxOperatorCSR)
	if err != nil {
		return nil, err
	}
	if r.Profile == "" {
		r.Profile = o.cfg.Default
	}
	profile := o.cfg.Profiles[r.Profile]
	if profile == nil {
		return nil, fault.New(fault.InvalidProfile, "issuer %s has no profile %.64q", o.cfg.Name, r.Profile)
	}
	now := time.Now()
	grant, err := o.grant(csr.Identifiers, r.Profile, now)
	if err != nil {
		return nil, err
	}
	actor := "issuer:" + o.cfg.Name
	return o.s.Issue(ctx, Request{CA: o.cfg.CA, Profile: profile, Grant: grant, CSR: csr, NotAfter: r.NotAfter, Actor: actor,
		Claim: func(_ context.Context, tx *db.Tx, id string) error {
			lost := fault.New(fault.Conflict, "this request is being answered by another process; ask again").Retry(time.Second)
			if before == "" {
				tx.Queue(qOperatorClaim, nil, r.ID, id)
			} else {
				tx.Queue(qOperatorRetake, db.ExactlyOne(lost), r.ID, id, before)
			}
			var names []string
			for _, n := range csr.Identifiers {
				names = append(names, n.String())
			}
			return audit.Append(tx, audit.Entry{At: now, Kind: "operator.grant", Actor: actor, Subject: "certificate:" + id,
				Data: map[string]any{"names": names, "request": r.ID, "rule": o.cfg.Names.Of}})
		}})
}

// grant authorizes names, each by itself, as far as every rule lets it pass.
func (o *Operator) grant(names []pki.Identifier, profile string, now time.Time) (Grant, error) {
	rules := append(slices.Clone(o.cfg.Also), o.cfg.Names)
	if r, ok := o.cfg.ProfileAlso[profile]; ok {
		rules = append(rules, r)
	}
	evidence := make([]Evidence, 0, len(names))
	for _, n := range names {
		for i := range rules {
			if err := rules[i].Check(n); err != nil {
				return Grant{}, err
			}
		}
		evidence = append(evidence, Evidence{Name: n, Method: "operator", Reference: "issuer:" + o.cfg.Name,
			ValidatedAt: now, ExpiresAt: now.Add(time.Hour), CAAExempt: true})
	}
	return NewGrant(evidence)
}

// chain returns c and what is above it.
func (o *Operator) chain(c *Certificate) ([][]byte, error) {
	a := o.s.Authority(c.AuthorityID)
	if a == nil || len(a.Chains) == 0 {
		return nil, fmt.Errorf("authority %s of certificate %s is unknown", c.AuthorityID, c.ID)
	}
	above, err := pki.DecodeChain(a.Chains[0], 256<<10, 8)
	if err != nil {
		return nil, fmt.Errorf("read chain of authority %s: %w", a.Name, err)
	}
	return append([][]byte{c.DER}, above...), nil
}

// Forget drops the memory of a request, once its answer is stored elsewhere.
func (o *Operator) Forget(ctx context.Context, id string) error {
	return o.s.db.Write(ctx, func(tx *db.Tx) error { tx.Queue(qOperatorForget, nil, id); return nil })
}

// RenewalWindow returns when a certificate of ours should be renewed, and the
// URL that says why if an incident asks for it.
func (o *Operator) RenewalWindow(ctx context.Context, leaf *x509.Certificate, now time.Time) (start, end time.Time, url string, err error) {
	c, err := o.find(ctx, leaf)
	if err != nil {
		return start, end, "", err
	}
	since, url, hurry, err := o.s.Explanation(ctx, &c, now)
	if err != nil {
		return start, end, "", err
	}
	switch {
	case hurry:
		return since.Add(-time.Hour), since, url, nil
	case !c.RevokedAt.IsZero():
		return c.RevokedAt.Add(-time.Hour), c.RevokedAt, "", nil
	}
	start, end = pki.RenewalWindow(c.NotBefore, c.NotAfter)
	return start, end, "", nil
}

// Revoke revokes a certificate of ours. Revoking twice is no error.
func (o *Operator) Revoke(ctx context.Context, leaf *x509.Certificate, reason int) error {
	c, err := o.find(ctx, leaf)
	if err != nil {
		return err
	}
	why, err := CheckReason(reason)
	if err != nil {
		return err
	}
	_, err = o.s.Revoke(ctx, Revocation{CertificateID: c.ID, Reason: why, Actor: "issuer:" + o.cfg.Name})
	if fault.Is(err, fault.AlreadyRevoked) {
		return nil
	}
	return err
}

// find returns the row of one of our certificates.
func (o *Operator) find(ctx context.Context, leaf *x509.Certificate) (Certificate, error) {
	serial := pki.MetadataOf(leaf).Serial
	for _, a := range o.s.Authorities() {
		if a.CA == o.cfg.CA && a.Cert != nil && string(a.Cert.RawSubject) == string(leaf.RawIssuer) {
			c, err := BySerial(ctx, o.s.db.Read(), a.ID, serial)
			if err == nil || !fault.Is(err, fault.NotFound) {
				return c, err
			}
		}
	}
	return Certificate{}, fault.New(fault.NotFound, "certificate %s was not issued by CA %q", serial.Hex(), o.cfg.CA)
}
