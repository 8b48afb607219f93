package ca

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509/pkix"
	"encoding/json/v2"
	"errors"
	"fmt"
	"slices"
	"time"

	"chancery/internal/audit"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/obs"
	"chancery/internal/pki"
)

// Request asks for one certificate.
type Request struct {
	CA      string   // which certificate authority
	Profile *Profile // as pinned by the order
	Grant   Grant    // the names, and why they may be certified
	CSR     *pki.CSR

	NotBefore, NotAfter time.Time // as ordered; zero: as the profile says

	OrderID, AccountID string // "" outside ACME
	Actor              string // for the journal

	// Claim and Complete, if set, add the caller's rows to the transaction
	// that records the intent, and to the one that stores the certificate.
	// They get the certificate's id. An error of Claim means that nothing was
	// or will be signed.
	Claim    func(ctx context.Context, tx *db.Tx, certificateID string) error
	Complete func(ctx context.Context, tx *db.Tx, certificateID string) error
}

// plan is an issuance on its way: what will be signed, by whom, for whom.
type plan struct {
	cert     Certificate
	auth     *Authority
	spkiHash []byte
	evidence string
	names    string
	actor    string
	claim    func(ctx context.Context, tx *db.Tx, certificateID string) error
	complete func(ctx context.Context, tx *db.Tx, certificateID string) error
	keep     func(tx *db.Tx, der []byte) error // of an authority's own certificate
	ct       *logging                          // nil: the certificate is not logged
}

// Issue makes a certificate in the order that keeps issuance safe:
//
//  1. the grant covers every name of the request, each by itself, at this instant;
//  2. the TBSCertificate is built, signed by a throw-away key, and linted;
//  3. serial, bytes and journal entry are committed together with the caller's
//     claim: one winner, on the disk, before any real signature;
//  4. the authority signs; the signature is verified, and the signed bytes are
//     compared with those that were linted;
//  5. the certificate, its names and the caller's completion are committed.
//
// Where the profile demands Certificate Transparency, steps 2 to 4 are taken
// twice: for the precertificate, and for the certificate with the timestamps
// that logs gave for it (see announce).
//
// If any step fails the serial is abandoned: a later try takes a new one.
func (s *Service) Issue(ctx context.Context, req Request) (*Certificate, error) {
	now := time.Now()
	p, err := s.plan(ctx, &req, now)
	if err != nil {
		return nil, err
	}
	return s.execute(ctx, p)
}

// plan checks the request and builds the bytes to sign.
func (s *Service) plan(ctx context.Context, req *Request, now time.Time) (*plan, error) {
	if err := req.check(now); err != nil {
		return nil, err
	}
	auth, err := s.Issuing(req.CA)
	if err != nil {
		return nil, err
	}
	terms := s.trust[auth.CA].At(now)
	if err := terms.check(req.Grant, now); err != nil {
		return nil, err
	}
	spkiHash := pki.SPKIHash(req.CSR.SPKI)
	if s.weak.Contains(req.CSR.PublicKey) {
		return nil, fault.New(fault.BadPublicKey, "this key is on a list of weak keys; make a new key")
	}
	from, to, err := req.Profile.validity(now, terms, req.NotBefore, req.NotAfter, auth.Cert.NotAfter)
	if err != nil {
		return nil, err
	}
	if err := s.permit(auth, req, from, to); err != nil {
		return nil, err
	}
	leaf := pki.Leaf{NotBefore: from, NotAfter: to, SPKI: req.CSR.SPKI, Identifiers: req.Grant.Names(),
		CommonName: req.CSR.NameFor(req.Grant.Names()), MustStaple: req.CSR.MustStaple}
	if req.Profile.CT != nil {
		return s.planLogged(ctx, auth, leaf, req, spkiHash)
	}
	return s.build(ctx, auth, req.Profile, leaf, req, spkiHash)
}

// Proposal is a certificate that is about to be issued.
type Proposal struct {
	Issuer              string // common name of the authority
	KeyType             pki.KeyType
	Names               []pki.Identifier
	NotBefore, NotAfter time.Time
	Actor               string
	OrderID             string // "" outside ACME
}

// permit asks the policies of this installation.
func (s *Service) permit(auth *Authority, req *Request, from, to time.Time) error {
	if s.refuse == nil {
		return nil
	}
	return s.refuse(Proposal{Issuer: auth.Cert.Subject.CommonName, KeyType: req.CSR.KeyType, Names: req.Grant.Names(), NotBefore: from, NotAfter: to, Actor: req.Actor, OrderID: req.OrderID})
}

// build encodes and lints the TBSCertificate of leaf.
func (s *Service) build(ctx context.Context, auth *Authority, profile *Profile, leaf pki.Leaf, req *Request, spkiHash [32]byte) (*plan, error) {
	now := time.Now()
	serial, err := pki.NewSerial(auth.SerialPrefix(), now, s.random)
	if err != nil {
		return nil, err
	}
	leaf.Serial = serial
	shard := auth.Shard(serial)
	if !profile.NoCRL {
		leaf.CRLShardURL = s.urls.CRL(auth, shard)
	}
	enc, err := auth.encoder(profile, s.urls)
	if err != nil {
		return nil, err
	}
	tbs, err := enc.TBS(leaf)
	if err != nil {
		return nil, fault.Wrap(err, fault.BadCSR, "no certificate can be made from this request: %v", err)
	}
	if err := s.lint(ctx, profile, auth.KeyType, tbs, modelOf(enc, req.CSR.KeyType, &leaf)); err != nil {
		return nil, err
	}
	evidence, err := req.Grant.encode()
	if err != nil {
		return nil, err
	}
	hash := sha256.Sum256(tbs)
	p := &plan{auth: auth, spkiHash: spkiHash[:], evidence: evidence, actor: req.Actor, claim: req.Claim, complete: req.Complete,
		cert: Certificate{ID: db.NewID(now), AuthorityID: auth.ID, Serial: serial, State: StateIntent, CA: auth.CA,
			Profile: profile.Name, ProfileHash: profile.Hash(), OrderID: req.OrderID, AccountID: req.AccountID,
			KeyType: req.CSR.KeyType, Evidence: req.Grant.evidence, TBSHash: hash[:], TBS: tbs, Shard: shard,
			NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter, CreatedAt: now}}
	for _, id := range leaf.Identifiers {
		p.cert.Names = append(p.cert.Names, id.Value)
	}
	names, err := json.Marshal(p.cert.Names)
	p.names = string(names)
	return p, err
}

// check holds the request against its grant and profile.
func (req *Request) check(now time.Time) error {
	if req.CSR == nil {
		return fault.New(fault.BadCSR, "no certificate request")
	}
	if err := req.Grant.check(now); err != nil {
		return err
	}
	if !req.CSR.Speaks(req.Grant.Names()) {
		return fault.New(fault.BadCSR, "the names in the certificate request are not exactly those of the order")
	}
	if err := req.Grant.checkKey(pki.SPKIHash(req.CSR.SPKI)); err != nil {
		return err
	}
	for _, id := range req.Grant.Names() {
		if err := req.Profile.Permits(id); err != nil {
			return err
		}
	}
	if !slices.Contains(req.Profile.KeyTypes, req.CSR.KeyType) {
		return fault.New(fault.BadCSR, "profile %s does not allow %s keys; allowed are %v", req.Profile.Name, req.CSR.KeyType, req.Profile.KeyTypes)
	}
	if req.CSR.MustStaple && !req.Profile.MustStaple {
		return fault.New(fault.BadCSR, "profile %s does not allow OCSP must-staple; request a certificate without it", req.Profile.Name)
	}
	return nil
}

// lint signs tbs with a throw-away key of the same kind and checks the result.
func (s *Service) lint(ctx context.Context, profile *Profile, kt pki.KeyType, tbs []byte, of modelKey) error {
	signer, err := s.throwaways.Signer(kt)
	if err != nil {
		return fmt.Errorf("make throw-away key: %w", err)
	}
	sig, err := signer.SignTBS(ctx, tbs)
	if err != nil {
		return fmt.Errorf("sign for lint: %w", err)
	}
	buf := lintBuffers.Get().(*[]byte)
	defer lintBuffers.Put(buf)
	*buf = pki.AppendAssembled((*buf)[:0], tbs, kt, sig)
	return profile.Lint.check(*buf, of)
}

func modelOf(enc *pki.Encoder, key pki.KeyType, leaf *pki.Leaf) modelKey {
	return modelKey{enc, key, leaf.CommonName != "" || leaf.Subject != nil, leaf.MustStaple, len(leaf.ExtraExtensions)}
}

// execute commits the intent, signs, and commits the result.
func (s *Service) execute(ctx context.Context, p *plan) (_ *Certificate, err error) {
	ctx, span := obs.Step(ctx, "ca.issue")
	defer func() { span.End(err) }()
	span.Str("ca.authority", p.cert.AuthorityID)
	span.Str("ca.certificate", p.cert.ID)
	fault.Point("ca.before_intent")
	if err := s.commitIntent(ctx, p); err != nil {
		return nil, err
	}
	fault.Point("ca.after_intent")
	// From here on the outcome must be recorded whatever the client does.
	ctx = context.WithoutCancel(ctx)
	der, err := s.produce(ctx, p)
	if err == nil {
		fault.Point("ca.after_sign")
		err = s.commitResult(ctx, p, der)
	}
	if err != nil {
		return nil, errors.Join(err, s.abandon(ctx, p.cert.ID))
	}
	fault.Point("ca.after_result")
	return &p.cert, nil
}

// produce returns the certificate, after it was logged where the profile says so.
func (s *Service) produce(ctx context.Context, p *plan) ([]byte, error) {
	if p.ct != nil {
		if err := s.announce(ctx, p); err != nil {
			return nil, err
		}
	}
	return s.sign(ctx, p)
}

func (s *Service) commitIntent(ctx context.Context, p *plan) error {
	c := &p.cert
	serial := c.Serial.Hex()
	data := intentData{c.AuthorityID, serial, hexText(c.TBSHash), c.OrderID}.raw()
	err := s.db.Write(ctx, func(tx *db.Tx) error {
		if p.claim != nil {
			if err := p.claim(ctx, tx, c.ID); err != nil {
				return err
			}
		}
		// That the key is not blocked holds in the same transaction.
		tx.Queue(qInsertIntent, notBlocked, &c.ID, &c.AuthorityID, &serial, &c.CA, &c.Profile, &c.ProfileHash,
			orNull(&c.OrderID), orNull(&c.AccountID), &p.names, (*string)(&c.KeyType), &p.spkiHash, &p.evidence, &c.TBSHash, &c.TBS,
			c.Shard, &c.NotBefore, &c.NotAfter, &c.CreatedAt)
		if p.ct != nil {
			p.ct.intend(tx, c)
		}
		return audit.Append(tx, audit.Entry{At: c.CreatedAt, Kind: "certificate.intend", Actor: p.actor, Subject: "certificate:" + c.ID,
			Data: data})
	})
	if err != nil {
		return fmt.Errorf("commit intent to sign: %w", err)
	}
	return nil
}

type intentData struct {
	Authority string `json:"authority"`
	Serial    string `json:"serial"`
	TBSHash   string `json:"tbs_sha256"`
	Order     string `json:"order,omitempty"`
}

type issueData struct {
	Serial      string `json:"serial"`
	Fingerprint string `json:"sha256"`
}

// raw and the one below write what encoding/json would: ids and hexadecimal
// text need no escapes.
func (d intentData) raw() audit.Raw {
	text := `{"authority":"` + d.Authority + `","serial":"` + d.Serial + `","tbs_sha256":"` + d.TBSHash
	if d.Order != "" {
		text += `","order":"` + d.Order
	}
	return audit.Raw(text + `"}`)
}

func (d issueData) raw() audit.Raw {
	return audit.Raw(`{"serial":"` + d.Serial + `","sha256":"` + d.Fingerprint + `"}`)
}

// sign makes the real signature over exactly the linted bytes.
func (s *Service) sign(ctx context.Context, p *plan) (_ []byte, err error) {
	ctx, span := obs.Step(ctx, "ca.sign")
	defer func() { span.End(err) }()
	span.Str("ca.key_type", string(p.auth.KeyType))
	sig, err := p.auth.signer.SignTBS(ctx, p.cert.TBS)
	if err != nil {
		after := 5 * time.Second
		if f, ok := errors.AsType[*fault.Error](err); ok && f.RetryAfter > 0 {
			after = f.RetryAfter // the key store knows better
		}
		return nil, fault.Wrap(err, fault.Unavailable, "the authority's key cannot sign now; try again").Retry(after)
	}
	if err := pki.VerifyTBS(p.auth.Cert.PublicKey, p.cert.TBS, sig); err != nil {
		return nil, fmt.Errorf("verify own signature of %s: %w", p.cert.ID, err)
	}
	der := pki.AssembleCertificate(p.cert.TBS, p.auth.KeyType, sig)
	tbs, err := pki.TBSOf(der)
	if err != nil || !bytes.Equal(tbs, p.cert.TBS) {
		return nil, errors.Join(fmt.Errorf("certificate %s does not hold the bytes that were linted", p.cert.ID), err)
	}
	return der, nil
}

// errLost means that the intent was abandoned by another process meanwhile.
var errLost = fault.New(fault.Unavailable, "the issuance was interrupted and its serial abandoned; try again").Retry(time.Second)

var notLost = db.ExactlyOne(errLost)

func (s *Service) commitResult(ctx context.Context, p *plan, der []byte) error {
	fp := pki.Fingerprint(der)
	row := &struct {
		der, fingerprint []byte
		now              time.Time
	}{der, fp[:], time.Now()}
	data := issueData{p.cert.Serial.Hex(), hexText(fp[:])}.raw()
	err := s.db.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qComplete, notLost, &p.cert.ID, &row.der, &row.fingerprint, &row.now)
		for _, n := range p.cert.Names {
			tx.Queue(qInsertName, nil, pki.ReverseName(n), &p.cert.ID)
		}
		if p.complete != nil {
			if err := p.complete(ctx, tx, p.cert.ID); err != nil {
				return err
			}
		}
		if p.keep != nil {
			if err := p.keep(tx, der); err != nil {
				return err
			}
		}
		return audit.Append(tx, audit.Entry{At: row.now, Kind: "certificate.issue", Actor: p.actor, Subject: "certificate:" + p.cert.ID,
			Data: data})
	})
	if err != nil {
		return fmt.Errorf("store certificate: %w", err)
	}
	p.cert.State, p.cert.DER, p.cert.TBS, p.cert.IssuedAt = StateIssued, der, nil, row.now
	return nil
}

// abandon gives up a serial; it may fail with the database, and then Recover
// does it later.
func (s *Service) abandon(ctx context.Context, id string) error {
	return s.db.Write(ctx, func(tx *db.Tx) error { return Abandon(ctx, tx, id, time.Now()) })
}

// Abandon gives up the serial of an intent within a transaction. The serial
// counts as revoked from now on, because a signature may exist. An intent that
// is already issued or abandoned stays as it is.
func Abandon(ctx context.Context, tx *db.Tx, id string, now time.Time) error {
	n, err := tx.Exec(ctx, qAbandon, id, now)
	if err != nil || n == 0 {
		return err
	}
	return audit.Append(tx, audit.Entry{At: now, Kind: "certificate.abandon", Actor: "system", Subject: "certificate:" + id})
}

// Recover abandons intents made before the given instant that belong to no
// order (those of orders are resumed by their protocol), and returns how many.
func (s *Service) Recover(ctx context.Context, before time.Time) (n int, err error) {
	type intent struct{ id, order string }
	olds, err := db.List(ctx, s.db.Read(), qOldIntents, func(r *db.Row) intent { return intent{r.Text(), r.Text()} }, before, 1000)
	if err != nil {
		return 0, err
	}
	for _, o := range olds {
		if o.order != "" {
			continue
		}
		if err := s.abandon(ctx, o.id); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// issueOwn issues a certificate that Chancery needs for itself: authorities,
// OCSP responders. It takes the same steps as Issue. keep, if not nil, adds the
// rows of the certificate's owner to the transaction that stores it, so that no
// crash leaves one without the other.
func (s *Service) issueOwn(ctx context.Context, auth *Authority, profile Profile, subject pkix.Name, spki []byte, kt pki.KeyType,
	keep func(tx *db.Tx, der []byte) error) (*Certificate, error) {
	now := time.Now()
	name, err := pki.MarshalName(subject)
	if err != nil {
		return nil, err
	}
	end := auth.end(now.Add(profile.Period))
	from, to, err := profile.validity(now, Terms{}, time.Time{}, time.Time{}, end)
	if err != nil {
		return nil, err
	}
	req := &Request{Actor: "system", CSR: &pki.CSR{SPKI: spki, KeyType: kt},
		Grant: Grant{evidence: []Evidence{{Method: "internal", Reference: profile.Name, ValidatedAt: now, ExpiresAt: now.Add(time.Hour), CAAExempt: true}}}}
	leaf := pki.Leaf{NotBefore: from, NotAfter: to, SPKI: spki, Subject: name}
	p, err := s.build(ctx, auth, &profile, leaf, req, pki.SPKIHash(spki))
	if err != nil {
		return nil, err
	}
	p.cert.Names = []string{subject.CommonName}
	p.names, p.keep = jsonText(p.cert.Names), keep
	return s.execute(ctx, p)
}
