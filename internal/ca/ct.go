package ca

import (
	"context"
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"slices"
	"time"

	"chancery/internal/audit"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

// CT says that certificates of a profile are logged (Certificate Transparency,
// RFC 6962) before they are made, and hold the timestamps of the logs.
type CT struct {
	Logs      []string      `json:"logs"`        // names of logs, the preferred first; more than are needed are reserves
	SCTs      int           `json:"scts"`        // how many timestamps a certificate holds at least
	Operators int           `json:"operators"`   // of how many operators at least
	Deadline  time.Duration `json:"deadline_ns"` // of all submissions of one certificate together
}

// LongestDeadline bounds CT.Deadline: an order that is processed for longer
// than half a minute is taken for one whose process died.
const LongestDeadline = 20 * time.Second

// check reports what makes t unusable.
func (t *CT) check(profile string) error {
	switch {
	case t == nil:
		return nil
	case t.SCTs < 1 || t.SCTs > len(t.Logs) || t.Operators < 1 || t.Operators > t.SCTs:
		return fault.New(fault.Invalid, "profile %s: %d timestamps of %d operators cannot be had from %d logs", profile, t.SCTs, t.Operators, len(t.Logs))
	case t.Deadline <= 0 || t.Deadline > LongestDeadline:
		return fault.New(fault.Invalid, "profile %s: the deadline of logs must be between 0 and %s", profile, LongestDeadline)
	}
	return nil
}

// Submission is a precertificate on its way to logs.
type Submission struct {
	Chain [][]byte // DER: the precertificate, the authority, those above it but the root
	CT    CT
}

// logging is what it takes to make the certificate of a precertificate.
type logging struct {
	want    CT
	profile *Profile
	leaf    pki.Leaf // without poison or timestamps
	key     pki.KeyType
	tbs     []byte // of the precertificate
	hash    [32]byte
}

var (
	qInsertPrecert = db.SQL("ca.insert_precertificate", `INSERT INTO precertificate (certificate_id, tbs_hash, tbs, created_at) VALUES ($1, $2, $3, $4)`)
	qKeepPrecert   = db.SQL("ca.store_precertificate", `UPDATE precertificate SET der = $2 WHERE certificate_id = $1 AND der IS NULL`)
	qLogged        = db.SQL("ca.store_logged", `UPDATE precertificate SET logged_at = $2 WHERE certificate_id = $1 AND der IS NOT NULL AND logged_at IS NULL`)
	qFinalTBS      = db.SQL("ca.intend_logged", `UPDATE certificate SET tbs = $2, tbs_hash = $3 WHERE id = $1 AND state = 'intent'`)
	qPrecerts      = db.SQL("ca.list_precertificates", `SELECT certificate_id, tbs_hash, tbs, der, logged_at FROM precertificate WHERE certificate_id = ANY($1::text[])`)
	qPrecertHashes = db.SQL("ca.list_precert_hashes", `SELECT tbs_hash FROM precertificate`, db.Scan("doctor reads every hash once"))
)

// planLogged is build for a profile whose certificates are logged: what is
// linted and intended first is the precertificate.
func (s *Service) planLogged(ctx context.Context, auth *Authority, leaf pki.Leaf, req *Request, spkiHash [32]byte) (*plan, error) {
	if s.submit == nil {
		return nil, fault.New(fault.Precondition, "profile %s demands Certificate Transparency, and this process knows no logs; the operator must configure them", req.Profile.Name)
	}
	announced := leaf
	announced.ExtraExtensions = append(slices.Clone(leaf.ExtraExtensions), pki.Poison())
	p, err := s.build(ctx, auth, req.Profile, announced, req, spkiHash)
	if err != nil {
		return nil, err
	}
	leaf.Serial = p.cert.Serial
	if !req.Profile.NoCRL {
		leaf.CRLShardURL = s.urls.CRL(auth, p.cert.Shard)
	}
	p.ct = &logging{want: *req.Profile.CT, profile: req.Profile, leaf: leaf, key: req.CSR.KeyType, tbs: p.cert.TBS, hash: [32]byte(p.cert.TBSHash)}
	return p, nil
}

// intend joins the transaction of the first intent, which is the one to sign
// the precertificate.
func (l *logging) intend(tx *db.Tx, c *Certificate) {
	tx.Queue(qInsertPrecert, nil, c.ID, l.hash[:], l.tbs, c.CreatedAt)
}

// announce signs the precertificate, has it logged, and commits the intent to
// sign the certificate with the timestamps, whose bytes p then holds.
//
//  1. the precertificate is signed, and stored before it leaves the process;
//  2. logs give timestamps;
//  3. the TBSCertificate with the timestamps must equal that of the
//     precertificate but for the poison, and is linted;
//  4. it is committed, with its journal entry, before anything is signed.
func (s *Service) announce(ctx context.Context, p *plan) error {
	l := p.ct
	der, err := s.sign(ctx, p)
	if err != nil {
		return err
	}
	fault.Point("ca.after_precertificate")
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qKeepPrecert, notLost, p.cert.ID, der)
		return nil
	})
	if err != nil {
		return fmt.Errorf("store precertificate: %w", err)
	}
	scts, err := s.submit(ctx, Submission{Chain: append([][]byte{der}, p.auth.above()...), CT: l.want})
	if err != nil {
		return fmt.Errorf("log precertificate: %w", err)
	}
	fault.Point("ca.after_logs")
	if err := s.finish(ctx, p, scts); err != nil {
		return err
	}
	return s.commitLogged(ctx, p, len(scts))
}

// finish builds and lints the TBSCertificate that holds the timestamps.
func (s *Service) finish(ctx context.Context, p *plan, scts []pki.SCT) error {
	l := p.ct
	if len(scts) < l.want.SCTs {
		return fmt.Errorf("log precertificate: %d timestamps are too few", len(scts))
	}
	list, err := pki.SCTList(scts)
	if err != nil {
		return err
	}
	leaf := l.leaf
	leaf.ExtraExtensions = append(slices.Clone(leaf.ExtraExtensions), list)
	enc, err := p.auth.encoder(l.profile, s.urls)
	if err != nil {
		return err
	}
	tbs, err := enc.TBS(leaf)
	if err != nil {
		return err
	}
	if err := pki.SamePrecert(l.tbs, tbs); err != nil {
		return err
	}
	of := modelOf(enc, l.key, &leaf)
	of.extras = -len(scts) // another shape than that of the precertificate
	if err := s.lint(ctx, l.profile, p.auth.KeyType, tbs, of); err != nil {
		return err
	}
	hash := sha256.Sum256(tbs)
	p.cert.TBS, p.cert.TBSHash = tbs, hash[:]
	return nil
}

// commitLogged commits the second intent.
func (s *Service) commitLogged(ctx context.Context, p *plan, scts int) error {
	c, now := &p.cert, time.Now()
	err := s.db.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qFinalTBS, notLost, c.ID, c.TBS, c.TBSHash)
		tx.Queue(qLogged, notLost, c.ID, now)
		return audit.Append(tx, audit.Entry{At: now, Kind: "certificate.intend", Actor: p.actor, Subject: "certificate:" + c.ID,
			Data: loggedData{intentData{c.AuthorityID, c.Serial.Hex(), hexText(c.TBSHash), c.OrderID}, hexText(p.ct.hash[:]), scts}})
	})
	if err != nil {
		return fmt.Errorf("commit intent to sign: %w", err)
	}
	return nil
}

type loggedData struct {
	intentData
	Precert string `json:"precertificate_tbs_sha256"`
	SCTs    int    `json:"scts"`
}

// above returns the DER of a and of what lies above it, but for the root.
func (a *Authority) above() (ders [][]byte) {
	if len(a.Chains) == 0 {
		return [][]byte{a.DER}
	}
	for rest := a.Chains[0]; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return ders
		}
		ders = append(ders, block.Bytes)
	}
}

// precertificate is a row of its table.
type precertificate struct {
	hash, tbs, der []byte
	loggedAt       time.Time
}

// precertificates returns those of certificates, by certificate id.
func precertificates(ctx context.Context, q db.Q, ids []string) (map[string]*precertificate, error) {
	out := map[string]*precertificate{}
	err := q.All(ctx, qPrecerts, func(r *db.Row) error {
		out[r.Text()] = &precertificate{hash: r.Bytes(), tbs: r.Bytes(), der: r.Bytes(), loggedAt: r.Time()}
		return nil
	}, ids)
	return out, err
}

// checkPrecert is I1 of a precertificate: its bytes are stored, and whatever
// was issued is the certificate that it announced.
func (c *Certificate) checkPrecert(pre *precertificate, report func(Finding)) {
	if pre == nil {
		return
	}
	bad := func(invariant, format string, args ...any) {
		report(Finding{invariant, "certificate:" + c.ID, fmt.Sprintf(format, args...)})
	}
	if h := sha256.Sum256(pre.tbs); string(h[:]) != string(pre.hash) {
		bad("I1", "the stored bytes of its precertificate do not match their hash")
	}
	if pre.der != nil {
		if tbs, err := pki.TBSOf(pre.der); err != nil || string(tbs) != string(pre.tbs) {
			bad("I1", "its precertificate does not hold the bytes that were intended")
		}
	}
	if c.State != StateIssued {
		return
	}
	if pre.der == nil || pre.loggedAt.IsZero() {
		bad("I1", "it was issued before its precertificate was logged")
	}
	final, err := pki.TBSOf(c.DER)
	if err == nil {
		err = pki.SamePrecert(pre.tbs, final)
	}
	if err != nil {
		bad("I1", "%v", err)
	}
}

// judgeLogged holds an issued certificate against what its profile says of logs,
// and against its precertificate.
func (s *Service) judgeLogged(ctx context.Context, j *judgement, p *Profile) error {
	scts, err := pki.SCTsOf(j.cert)
	if err == nil && len(scts) == 0 && p.CT == nil {
		return nil
	}
	switch {
	case err != nil:
		j.bad("profile", "%v", err)
	case p.CT == nil && len(scts) > 0:
		j.bad("profile", "it holds timestamps of logs, %s has none", p.Name)
	case p.CT != nil && len(scts) < p.CT.SCTs:
		j.bad("profile", "it holds %d timestamps of logs, %s demands %d", len(scts), p.Name, p.CT.SCTs)
	}
	stored, err := precertificates(ctx, s.db.Read(), []string{j.c.ID})
	if err != nil {
		return err
	}
	pre := stored[j.c.ID]
	if pre == nil {
		j.bad("I1", "no precertificate of it is stored")
	}
	j.c.checkPrecert(pre, j.report)
	return nil
}
