package ca

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"regexp"
	"time"

	"chancery/internal/audit"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/keys"
	"chancery/internal/pki"
)

// Lives of the certificates that Chancery makes for its own authorities.
const (
	RootPeriod    = 20 * 365 * 24 * time.Hour
	IssuingPeriod = 10 * 365 * 24 * time.Hour
	OCSPPeriod    = 30 * 24 * time.Hour
)

// Spec describes an authority to be made.
type Spec struct {
	CA           string      // name in paths and configuration: lower-case letters, digits, "-"
	KeyType      pki.KeyType // of the new key
	Organization string      // O of the subject; "" = none
	CommonName   string      // CN of the subject; "" = made from CA and role
	Period       time.Duration
	Shards       int // CRL shards of an issuing authority; 0 = 1
}

var caName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

func (spec *Spec) check() error {
	if !caName.MatchString(spec.CA) {
		return fault.New(fault.Invalid, "a CA name is 1 to 63 lower-case letters, digits and inner hyphens; %q is not", spec.CA)
	}
	if !spec.KeyType.Valid() {
		return fault.New(fault.Invalid, "key type %q is unknown; choose one of %v", spec.KeyType, pki.KeyTypes)
	}
	if spec.Shards < 0 || spec.Shards > 4096 {
		return fault.New(fault.Invalid, "CRL shards must be between 1 and 4096")
	}
	spec.Shards = max(spec.Shards, 1)
	return nil
}

func (spec *Spec) subject(role Role, now time.Time) pkix.Name {
	cn := spec.CommonName
	if cn == "" {
		cn = fmt.Sprintf("%s %s CA %d", spec.CA, role, now.Year())
	}
	name := pkix.Name{CommonName: cn}
	if spec.Organization != "" {
		name.Organization = []string{spec.Organization}
	}
	return name
}

// newAuthority makes a key and the row that will hold it; nothing is stored in
// the database yet. A key whose row never arrives is only an unused file.
func (s *Service) newAuthority(ctx context.Context, spec *Spec, role Role, parentID string, now time.Time) (*Authority, crypto.Signer, error) {
	id := db.NewID(now)
	name := fmt.Sprintf("%s-%s-%s", spec.CA, role, id[len(id)-8:])
	home := s.keys
	if other, ok := s.homes[role]; ok {
		home = other
	}
	ref, err := home.Create(ctx, name, spec.KeyType)
	if err != nil {
		return nil, nil, fmt.Errorf("make key of %s: %w", name, err)
	}
	key, err := s.keys.Open(ctx, ref)
	if err != nil {
		return nil, nil, err
	}
	a := &Authority{ID: id, CA: spec.CA, Name: name, Role: role, State: Active, ParentID: parentID,
		KeyType: spec.KeyType, KeyRef: ref, Shards: spec.Shards, CreatedAt: now}
	return a, key, nil
}

// CreateRoot makes a self-signed root.
func (s *Service) CreateRoot(ctx context.Context, spec Spec, actor string) (*Authority, error) {
	if err := spec.check(); err != nil {
		return nil, err
	}
	now := time.Now()
	spec.Shards = 1
	a, key, err := s.newAuthority(ctx, &spec, RoleRoot, "", now)
	if err != nil {
		return nil, err
	}
	if a.signer, err = keys.NewSigner(key, s.record); err != nil {
		return nil, err
	}
	profile := own("root", orPeriod(spec.Period, RootPeriod), x509.KeyUsageCertSign|x509.KeyUsageCRLSign)
	profile.Authority, profile.PathLen, profile.NoOCSP, profile.NoCRL = true, -1, true, true
	// A root is its own issuer: give it a certificate-shaped stand-in with the
	// subject and key it is about to have.
	subject := spec.subject(RoleRoot, now)
	raw, err := pki.MarshalName(subject)
	if err != nil {
		return nil, err
	}
	keyID, err := pki.KeyID(a.signer.SPKI())
	if err != nil {
		return nil, err
	}
	a.Cert = &x509.Certificate{RawSubject: raw, SubjectKeyId: keyID, PublicKey: key.Public(), NotAfter: now.Add(profile.Period)}
	if _, err := s.issueOwn(ctx, a, profile, subject, a.signer.SPKI(), a.KeyType, a.keep(actor)); err != nil {
		return nil, err
	}
	return a, s.Reload(ctx)
}

// CreateIssuing makes an issuing authority under a root whose key is here.
func (s *Service) CreateIssuing(ctx context.Context, rootID string, spec Spec, actor string) (*Authority, error) {
	if err := spec.check(); err != nil {
		return nil, err
	}
	root, err := s.withKey(ctx, rootID)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	a, key, err := s.newAuthority(ctx, &spec, RoleIssuing, root.ID, now)
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	if _, err := s.issueOwn(ctx, root, issuingProfile(spec.Period), spec.subject(RoleIssuing, now), spki, a.KeyType, a.keep(actor)); err != nil {
		return nil, err
	}
	return a, s.Reload(ctx)
}

func issuingProfile(period time.Duration) Profile {
	p := own("issuing", orPeriod(period, IssuingPeriod), x509.KeyUsageDigitalSignature|x509.KeyUsageCertSign|x509.KeyUsageCRLSign)
	p.Authority, p.PathLen, p.NoOCSP = true, 0, true // a root signs CRLs; it has no responder
	return p
}

// CreateResponder makes the delegated OCSP signer of an authority (RFC 6960
// section 4.2.2.2): a P-256 key, id-kp-OCSPSigning, id-pkix-ocsp-nocheck. The
// authority may be retired: its certificates live on, and so does their status.
func (s *Service) CreateResponder(ctx context.Context, authorityID, actor string) (*Authority, error) {
	parent, err := s.StatusSigner(ctx, authorityID)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	spec := Spec{CA: parent.CA, KeyType: pki.P256, Shards: 1, CommonName: parent.CA + " OCSP " + now.Format("2006-01-02")}
	a, key, err := s.newAuthority(ctx, &spec, RoleOCSP, parent.ID, now)
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	profile := own("ocsp", OCSPPeriod, x509.KeyUsageDigitalSignature)
	profile.ExtKeyUsage, profile.NoCheck, profile.NoOCSP, profile.NoCRL = []asn1.ObjectIdentifier{pki.EKUOCSPSigning}, true, true, true
	if _, err := s.issueOwn(ctx, parent, profile, spec.subject(RoleOCSP, now), spki, a.KeyType, a.keep(actor)); err != nil {
		return nil, err
	}
	return a, s.Reload(ctx)
}

// keep records a new authority together with its certificate.
func (a *Authority) keep(actor string) func(tx *db.Tx, der []byte) error {
	return func(tx *db.Tx, der []byte) error {
		a.DER = der
		if err := a.parse(); err != nil {
			return err
		}
		a.insert(tx)
		return journalAuthority(tx, "authority.create", a, actor)
	}
}

func journalAuthority(tx *db.Tx, kind audit.Kind, a *Authority, actor string) error {
	data := map[string]string{"name": a.Name, "role": string(a.Role), "key_type": string(a.KeyType)}
	if a.DER != nil {
		fp := pki.Fingerprint(a.DER)
		data["sha256"] = hexText(fp[:])
	}
	return audit.Append(tx, audit.Entry{At: time.Now(), Kind: kind, Actor: actor, Subject: "authority:" + a.ID, Data: data})
}

// withKey returns an active authority whose key is open, opening a root's.
func (s *Service) withKey(ctx context.Context, id string) (*Authority, error) {
	a := s.Authority(id)
	if a == nil || a.State != Active {
		return nil, fault.New(fault.NotFound, "there is no active authority %q", id)
	}
	return s.opened(ctx, a)
}

// opened returns a if its key is open, and otherwise a copy with the key open.
func (s *Service) opened(ctx context.Context, a *Authority) (*Authority, error) {
	if a.CanSign() {
		return a, nil
	}
	if a.KeyRef == "" {
		return nil, fault.Wrap(errKeyless, fault.Precondition, "the key of authority %s is kept elsewhere: make a request with `chancery ca csr`, have it signed there, and import the certificate", a.Name)
	}
	clone := &Authority{ID: a.ID, CA: a.CA, Name: a.Name, Role: a.Role, State: a.State, ParentID: a.ParentID, KeyType: a.KeyType,
		KeyRef: a.KeyRef, DER: a.DER, Shards: a.Shards, CreatedAt: a.CreatedAt, Cert: a.Cert}
	return clone, s.open(ctx, clone)
}

// RequestIssuing makes the key of an issuing authority and a PKCS #10 request
// for it, to be signed by a root that is offline or not ours. The authority
// waits until ImportIssuing.
func (s *Service) RequestIssuing(ctx context.Context, spec Spec, actor string) (*Authority, error) {
	if err := spec.check(); err != nil {
		return nil, err
	}
	now := time.Now()
	a, key, err := s.newAuthority(ctx, &spec, RoleIssuing, "", now)
	if err != nil {
		return nil, err
	}
	a.State = Pending
	a.CSR, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: spec.subject(RoleIssuing, now)}, key)
	if err != nil {
		return nil, fmt.Errorf("make request of %s: %w", a.Name, err)
	}
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		a.insert(tx)
		return journalAuthority(tx, "authority.request", a, actor)
	})
	if err != nil {
		return nil, err
	}
	return a, s.Reload(ctx)
}

// ImportIssuing activates a pending authority with the certificate that a root
// issued for its request. chain holds that certificate first and then those
// between it and the root, in DER; a root of ours is found by its key.
func (s *Service) ImportIssuing(ctx context.Context, id string, chain [][]byte, actor string) (*Authority, error) {
	a := s.Authority(id)
	if a == nil || a.State != Pending {
		return nil, fault.New(fault.NotFound, "there is no authority %q that waits for a certificate", id)
	}
	cert, err := s.checkImport(ctx, a, chain)
	if err != nil {
		return nil, err
	}
	chain, root := s.splitRoot(chain, a.CA)
	var parent string
	for _, r := range s.Authorities() {
		if r.Cert != nil && cert.CheckSignatureFrom(r.Cert) == nil {
			parent = r.ID
		}
	}
	if root != nil && parent == "" && len(chain) == 1 {
		parent = root.ID
	}
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		if root != nil {
			root.insert(tx)
			if err := journalAuthority(tx, "authority.trust", root, actor); err != nil {
				return err
			}
		}
		tx.Queue(qActivate, db.ExactlyOne(fault.New(fault.Conflict, "authority %s was activated meanwhile", a.Name)), a.ID, chain[0], cert.NotAfter, orNull(&parent))
		if len(chain) > 1 {
			tx.Queue(qInsertChain, nil, a.ID, string(pki.EncodeChain(chain...)), time.Now())
		}
		return journalAuthority(tx, "authority.activate", &Authority{ID: a.ID, Name: a.Name, Role: a.Role, KeyType: a.KeyType, DER: chain[0]}, actor)
	})
	if err != nil {
		return nil, err
	}
	if err := s.Reload(ctx); err != nil {
		return nil, err
	}
	return s.Authority(id), nil
}

// splitRoot takes a self-signed certificate off the end of an imported chain:
// clients have it or do not trust it, so it is not served with certificates. A
// root that is not known here yet is returned as an authority without a key,
// so that it stands among the trust anchors.
func (s *Service) splitRoot(chain [][]byte, ca string) ([][]byte, *Authority) {
	last := chain[len(chain)-1]
	cert, err := x509.ParseCertificate(last)
	if len(chain) < 2 || err != nil || !cert.IsCA || cert.CheckSignatureFrom(cert) != nil {
		return chain, nil
	}
	chain = chain[:len(chain)-1]
	for _, a := range s.Authorities() {
		if string(a.DER) == string(last) {
			return chain, nil
		}
	}
	kt, err := pki.KeyTypeOf(cert.PublicKey)
	if err != nil {
		return chain, nil
	}
	now := time.Now()
	id := db.NewID(now)
	return chain, &Authority{ID: id, CA: ca, Name: fmt.Sprintf("%s-root-%s", ca, id[len(id)-8:]), Role: RoleRoot, State: Active,
		KeyType: kt, DER: last, Cert: cert, Shards: 1, CreatedAt: now}
}

// checkImport makes sure that a foreign certificate belongs to a's key and can
// issue.
func (s *Service) checkImport(ctx context.Context, a *Authority, chain [][]byte) (*x509.Certificate, error) {
	if len(chain) == 0 {
		return nil, fault.New(fault.Invalid, "no certificate to import")
	}
	cert, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil, fault.Wrap(err, fault.Invalid, "the certificate to import does not parse")
	}
	key, err := s.keys.Open(ctx, a.KeyRef)
	if err != nil {
		return nil, err
	}
	eq, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	switch {
	case !ok || !eq.Equal(cert.PublicKey):
		return nil, fault.New(fault.Invalid, "the certificate is for another key than that of %s", a.Name)
	case !cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return nil, fault.New(fault.Invalid, "the certificate is not one of a certificate authority (basicConstraints cA and keyUsage keyCertSign)")
	case len(cert.SubjectKeyId) == 0:
		return nil, fault.New(fault.Invalid, "the certificate has no subject key identifier (RFC 5280 section 4.2.1.2)")
	case time.Now().After(cert.NotAfter):
		return nil, fault.New(fault.Invalid, "the certificate expired on %s", cert.NotAfter.Format(time.DateOnly))
	}
	return cert, nil
}

// CrossSign adds a chain through another root: a certificate for the same key
// as authority id, issued elsewhere, with what lies between. It is offered to
// clients as an alternate.
func (s *Service) CrossSign(ctx context.Context, id string, chain [][]byte, actor string) error {
	a := s.Authority(id)
	if a == nil || a.State != Active || a.Role != RoleIssuing {
		return fault.New(fault.NotFound, "there is no active issuing authority %q", id)
	}
	if _, err := s.checkImport(ctx, a, chain); err != nil {
		return err
	}
	if string(chain[0]) == string(a.DER) {
		return fault.New(fault.Invalid, "this is the certificate of %s itself; a cross-sign is one that another root issued for its key", a.Name)
	}
	chain, _ = s.splitRoot(chain, a.CA)
	err := s.db.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qInsertChain, nil, a.ID, string(pki.EncodeChain(chain...)), time.Now())
		return journalAuthority(tx, "authority.cross_sign", &Authority{ID: a.ID, Name: a.Name, Role: a.Role, KeyType: a.KeyType, DER: chain[0]}, actor)
	})
	return errors.Join(err, s.Reload(ctx))
}

// SignIssuing signs the request of an authority that lives elsewhere with a
// root of ours, and returns the certificate: the other side of RequestIssuing.
func (s *Service) SignIssuing(ctx context.Context, rootID string, csrDER []byte, period time.Duration) (*Certificate, error) {
	root, err := s.withKey(ctx, rootID)
	if err != nil {
		return nil, err
	}
	if root.Role != RoleRoot {
		return nil, fault.New(fault.Precondition, "authority %s is not a root", root.Name)
	}
	req, err := x509.ParseCertificateRequest(csrDER)
	if err == nil {
		err = req.CheckSignature()
	}
	if err != nil {
		return nil, fault.Wrap(err, fault.BadCSR, "the request does not parse or its signature does not verify")
	}
	if err := pki.CheckKey(req.PublicKey); err != nil {
		return nil, err
	}
	kt, err := pki.KeyTypeOf(req.PublicKey)
	if err != nil {
		return nil, err
	}
	return s.issueOwn(ctx, root, issuingProfile(period), req.Subject, req.RawSubjectPublicKeyInfo, kt, nil)
}

// Retire stops an authority from issuing; its status is answered as before.
func (s *Service) Retire(ctx context.Context, id, actor string) error {
	a := s.Authority(id)
	if a == nil {
		return fault.New(fault.NotFound, "there is no authority %q", id)
	}
	err := s.db.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qRetire, db.ExactlyOne(fault.New(fault.Conflict, "authority %s is not active", a.Name)), id)
		return journalAuthority(tx, "authority.retire", a, actor)
	})
	return errors.Join(err, s.Reload(ctx))
}

func orPeriod(d, otherwise time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return otherwise
}
