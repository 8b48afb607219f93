package ca

import (
	"context"
	"crypto/x509"
	"encoding/json/v2"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	zx509 "github.com/zmap/zcrypto/x509"

	"chancery/internal/audit"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

// Judge re-reads one certificate as a stranger would: what is stored, what was
// signed, what the profile and the rules demand, what the journal remembers. It
// calls report for everything that is wrong. Beside the invariants of Check
// there are the findings
//
//	signature  the authority did not sign these bytes
//	lint       a rule of the profile's set is broken, by the rules as they are now
//	profile    the certificate is not what its profile allows
//	journal    the journal does not tell of its intent and issuance
//	key        its key is blocked, and it is neither revoked nor expired
//
// records are the entries of the journal about c. An error means that c could
// not be judged. Only issued certificates are.
func (s *Service) Judge(ctx context.Context, c *Certificate, records []audit.Record, now time.Time, report func(Finding)) error {
	if c.State != StateIssued {
		return nil
	}
	j := &judgement{c: c, report: report}
	c.check(report)
	cert, err := c.X509()
	if err != nil {
		return nil // check reported it
	}
	j.cert = cert
	j.signature(s.Authority(c.AuthorityID))
	j.journal(records)
	if err := s.judgeKey(ctx, j, now); err != nil {
		return err
	}
	if c.internal() { // made by and for Chancery itself: no profile of the configuration
		return nil
	}
	p, err := s.Profile(ctx, c.ProfileHash)
	if ctx.Err() != nil || fault.Is(err, fault.Unavailable) {
		return err
	}
	if err != nil { // for good: the walk goes on
		j.bad("profile", "its profile cannot be had: %v", err)
		return nil
	}
	j.profile(p)
	j.lint(p.Lint)
	return s.judgeLogged(ctx, j, p)
}

// internal reports whether c is a certificate of an authority or responder of
// our own.
func (c *Certificate) internal() bool {
	return len(c.Evidence) == 1 && c.Evidence[0].Method == "internal" && c.Evidence[0].Name.Value == ""
}

// judgement is what is known while one certificate is judged.
type judgement struct {
	c      *Certificate
	cert   *x509.Certificate
	report func(Finding)
}

// maxProblem bounds what is said about one finding, in bytes: a certificate may
// have a hundred names.
const maxProblem = 800

func (j *judgement) bad(kind, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if len(text) > maxProblem {
		text = strings.ToValidUTF8(text[:maxProblem], "") + "..."
	}
	j.report(Finding{kind, "certificate:" + j.c.ID, text})
}

func (j *judgement) signature(a *Authority) {
	if a == nil || a.Cert == nil {
		j.bad("signature", "its authority %s is unknown", j.c.AuthorityID)
		return
	}
	if err := pki.VerifyTBS(a.Cert.PublicKey, j.cert.RawTBSCertificate, j.cert.Signature); err != nil {
		j.bad("signature", "%v", err)
	}
	if string(j.cert.RawIssuer) != string(a.Cert.RawSubject) {
		j.bad("signature", "it names another issuer")
	}
}

// journal looks for an intent and an issuance with the right serial and bytes.
func (j *judgement) journal(records []audit.Record) {
	intended, issued := false, false
	fp := pki.Fingerprint(j.c.DER)
	for i := range records {
		var data struct {
			issueData
			TBSHash string `json:"tbs_sha256"`
		}
		if json.Unmarshal([]byte(records[i].Data), &data) != nil || data.Serial != j.c.Serial.Hex() {
			continue
		}
		switch records[i].Kind {
		case "certificate.intend":
			intended = intended || data.TBSHash == hexText(j.c.TBSHash)
		case "certificate.issue":
			issued = issued || data.Fingerprint == hexText(fp[:])
		case "certificate.abandon":
			j.bad("journal", "its serial was abandoned, and yet it was issued")
		}
	}
	if !intended {
		j.bad("journal", "no entry says that these bytes were intended")
	}
	if !issued {
		j.bad("journal", "no entry says that this certificate was issued")
	}
}

func (s *Service) judgeKey(ctx context.Context, j *judgement, now time.Time) error {
	if j.c.Status(now) != StatusIssued {
		return nil
	}
	_, err := db.Get(ctx, s.db.Read(), qBlocked, (*db.Row).Text, pki.SPKIHash(j.cert.RawSubjectPublicKeyInfo))
	if errors.Is(err, db.ErrNotFound) {
		return nil
	}
	if err == nil {
		j.bad("key", "its key is blocked; revoke it")
	}
	return err
}

// lint runs every lint of the set.
func (j *judgement) lint(set LintSet) {
	build := linters[set]
	if build == nil {
		j.bad("lint", "its lint set %q is unknown", set)
		return
	}
	l, err := build()
	if err != nil {
		j.bad("lint", "%v", err)
		return
	}
	cert, err := zx509.ParseCertificate(j.c.DER)
	if err != nil {
		j.bad("lint", "it does not parse: %v", err)
		return
	}
	for _, text := range run(l.all, cert) {
		j.bad("lint", "%s", text)
	}
}

// profile compares the certificate with what its profile allows.
func (j *judgement) profile(p *Profile) {
	c := j.cert
	bad := func(format string, args ...any) { j.bad("profile", format, args...) }
	if life := c.NotAfter.Sub(c.NotBefore) + time.Second; life > p.Period {
		bad("it lives for %s, %s allows %s", life, p.Name, p.Period)
	}
	kt, err := pki.KeyTypeOf(c.PublicKey)
	if err != nil || kt != j.c.KeyType || !slices.Contains(p.KeyTypes, kt) {
		bad("its key is %q", kt)
	}
	if c.KeyUsage&^p.KeyUsage != 0 {
		bad("its key usage is %b, %s allows %b", c.KeyUsage, p.Name, p.KeyUsage)
	}
	if c.IsCA != p.Authority {
		bad("whether it is an authority is %v", c.IsCA)
	}
	if got := len(c.ExtKeyUsage) + len(c.UnknownExtKeyUsage); got != len(p.ExtKeyUsage) {
		bad("it has %d extended key usages, %s has %d", got, p.Name, len(p.ExtKeyUsage))
	}
	j.names(p)
}

// names holds the names in the certificate against its row and its profile.
func (j *judgement) names(p *Profile) {
	want := slices.Sorted(slices.Values(j.c.Names))
	got, err := pki.CertifiedNames(j.cert)
	if err != nil || !slices.Equal(got, slices.Compact(want)) {
		j.bad("profile", "it certifies %v, its row says %v", got, want)
	}
	var ids []pki.Identifier
	for i := range j.c.Evidence {
		if err := p.Permits(j.c.Evidence[i].Name); err != nil {
			j.bad("profile", "%v", err)
		}
		ids = append(ids, j.c.Evidence[i].Name)
	}
	if cn := j.cert.Subject.CommonName; cn != "" && !slices.Contains(j.c.Names, cn) && cn != pki.TelephonySubject(ids) {
		j.bad("profile", "its common name %q is none of its names", cn)
	}
}

var (
	qFindings      = db.SQL("ca.list_findings", `SELECT certificate_id, invariant, problem, found_at FROM finding WHERE (certificate_id, invariant, problem) > ($1, $2, $3) ORDER BY certificate_id, invariant, problem LIMIT $4`)
	qFindingsOf    = db.SQL("ca.list_findings_of", `SELECT certificate_id, invariant, problem, found_at FROM finding WHERE certificate_id = ANY($1::text[])`)
	qInsertFinding = db.SQL("ca.insert_finding", `INSERT INTO finding (certificate_id, invariant, problem, found_at) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`)
	qDeleteFinding = db.SQL("ca.delete_finding", `DELETE FROM finding WHERE certificate_id = $1 AND invariant = $2 AND problem = $3`)
	qCountFindings = db.SQL("ca.count_findings", `SELECT count(*) FROM finding`, db.Scan("none, as a rule"))
)

// Found is a finding that is kept until a later look no longer has it.
type Found struct {
	Finding
	CertificateID string
	FoundAt       time.Time
}

func scanFound(r *db.Row) Found {
	f := Found{CertificateID: r.Text()}
	f.Finding = Finding{Invariant: r.Text(), Subject: "certificate:" + f.CertificateID, Problem: r.Text()}
	f.FoundAt = r.Time()
	return f
}

// Findings returns up to limit findings behind after (the zero value: from the
// first), ordered by certificate.
func Findings(ctx context.Context, q db.Q, after Found, limit int) ([]Found, error) {
	return db.List(ctx, q, qFindings, scanFound, after.CertificateID, after.Invariant, after.Problem, limit)
}

// FindingsOf returns what is wrong with one certificate.
func FindingsOf(ctx context.Context, q db.Q, id string) ([]Found, error) {
	return db.List(ctx, q, qFindingsOf, scanFound, []string{id})
}

// examine judges a page of certificates and returns a function that stores the
// result in a transaction.
func (s *Service) examine(ctx context.Context, page []Certificate, now time.Time) (store func(*db.Tx), err error) {
	ids, subjects := make([]string, len(page)), make([]string, len(page))
	for i := range page {
		ids[i], subjects[i] = page[i].ID, "certificate:"+page[i].ID
	}
	records, err := audit.BySubjects(ctx, s.db.Read(), subjects)
	if err != nil {
		return nil, err
	}
	gone := map[Finding]Found{}
	err = s.db.Read().All(ctx, qFindingsOf, func(r *db.Row) error { f := scanFound(r); gone[f.Finding] = f; return nil }, ids)
	if err != nil {
		return nil, err
	}
	var fresh []Found
	for i := range page {
		report := func(f Finding) {
			if _, known := gone[f]; known {
				delete(gone, f)
				return
			}
			fresh = append(fresh, Found{Finding: f, CertificateID: ids[i], FoundAt: now})
		}
		if err := s.Judge(ctx, &page[i], records[subjects[i]], now, report); err != nil {
			return nil, fmt.Errorf("check certificate %s: %w", ids[i], err)
		}
	}
	for _, f := range fresh {
		s.log.ErrorContext(ctx, "certificate is not as it should be", slog.String("certificate", f.CertificateID), slog.String("finding", f.Invariant), slog.String("problem", f.Problem))
	}
	return func(tx *db.Tx) {
		for _, f := range fresh {
			tx.Queue(qInsertFinding, nil, f.CertificateID, f.Invariant, f.Problem, f.FoundAt)
		}
		for _, f := range gone {
			tx.Queue(qDeleteFinding, nil, f.CertificateID, f.Invariant, f.Problem)
		}
	}, nil
}
