package ca

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"time"

	"chancery/internal/db"
	"chancery/internal/keys"
	"chancery/internal/pki"
)

var (
	qWalk = db.SQL("ca.walk_certificates", `SELECT `+certificateColumns+` FROM certificate WHERE id > $1 ORDER BY id LIMIT $2`)
	qTBS  = db.SQL("ca.list_tbs_hashes", `SELECT tbs_hash FROM certificate`, db.Scan("doctor reads every hash once"))
	qTwin = db.SQL("ca.list_twin_serials", `SELECT authority_id, serial, count(*) FROM certificate GROUP BY authority_id, serial HAVING count(*) > 1`,
		db.Scan("doctor only"))
)

// Finding is a broken invariant.
type Finding struct {
	Invariant string `json:"invariant"` // "I1".."I6" (docs/design/issuance.md)
	Subject   string `json:"subject"`   // "certificate:ID", "order:ID", ...
	Problem   string `json:"problem"`
}

// Walk calls f for every serial in order of creation.
func Walk(ctx context.Context, q db.Q, f func(*Certificate) error) error {
	return walkPages(ctx, q, func(page []Certificate) error {
		for i := range page {
			if err := f(&page[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

func walkPages(ctx context.Context, q db.Q, f func([]Certificate) error) error {
	after := ""
	for {
		page, err := db.List(ctx, q, qWalk, scanCertificate, after, 500)
		if err != nil || len(page) == 0 {
			return err
		}
		if err := f(page); err != nil {
			return err
		}
		after = page[len(page)-1].ID
	}
}

// Check verifies I1 to I4 over one state of the database and the signer's log
// (nil: no log) and calls report for every violation. It returns the number of
// serials and of logged signatures it looked at.
func Check(ctx context.Context, q db.Q, signerLog io.Reader, report func(Finding)) (serials, signatures int, err error) {
	if signatures, err = checkSignerLog(ctx, q, signerLog, report); err != nil {
		return 0, signatures, err
	}
	err = q.All(ctx, qTwin, func(r *db.Row) error {
		report(Finding{"I2", "authority:" + r.Text(), "serial " + r.Text() + " was allotted more than once"})
		return nil
	})
	if err != nil {
		return 0, signatures, err
	}
	err = walkPages(ctx, q, func(page []Certificate) error {
		ids := make([]string, len(page))
		for i := range page {
			ids[i] = page[i].ID
		}
		announced, err := precertificates(ctx, q, ids)
		for i := range page {
			page[i].check(report)
			page[i].checkPrecert(announced[ids[i]], report)
		}
		serials += len(page)
		return err
	})
	return serials, signatures, err
}

// checkSignerLog is I1 from the witness's side: whatever was signed has a
// stored intent.
func checkSignerLog(ctx context.Context, q db.Q, signerLog io.Reader, report func(Finding)) (n int, err error) {
	if signerLog == nil {
		return 0, nil
	}
	known := map[[32]byte]bool{}
	for _, list := range []*db.Stmt{qTBS, qPrecertHashes} {
		err = q.All(ctx, list, func(r *db.Row) error { known[[32]byte(append(r.Bytes(), make([]byte, 32)...))] = true; return nil })
		if err != nil {
			return 0, err
		}
	}
	seen := map[[32]byte]bool{}
	err = keys.ReadSignerLog(signerLog, func(h [32]byte) error {
		n++
		if !known[h] {
			report(Finding{"I1", fmt.Sprintf("signature:%x", h), "something was signed whose bytes were never stored"})
		}
		if seen[h] {
			report(Finding{"I2", fmt.Sprintf("signature:%x", h), "the same serial was signed twice"})
		}
		seen[h] = true
		return nil
	})
	return n, err
}

func (c *Certificate) check(report func(Finding)) {
	bad := func(invariant, format string, args ...any) {
		report(Finding{invariant, "certificate:" + c.ID, fmt.Sprintf(format, args...)})
	}
	switch c.State {
	case StateIssued:
		if err := c.checkIssued(); err != nil {
			bad("I1", "%v", err)
		}
		c.checkEvidence(bad)
	case StateIntent, StateAbandoned:
		if h := sha256.Sum256(c.TBS); string(h[:]) != string(c.TBSHash) {
			bad("I1", "the stored bytes do not match their hash")
		}
		if c.State == StateAbandoned && c.RevokedAt.IsZero() {
			bad("I4", "an abandoned serial does not count as revoked")
		}
		if c.State == StateIntent && !c.RevokedAt.IsZero() {
			bad("I4", "a serial was revoked before it was issued")
		}
	default:
		bad("I1", "the row is damaged")
	}
}

// checkIssued compares a stored certificate with its intent.
func (c *Certificate) checkIssued() error {
	tbs, err := pki.TBSOf(c.DER)
	if err != nil {
		return fmt.Errorf("the stored certificate does not parse: %w", err)
	}
	if h := sha256.Sum256(tbs); string(h[:]) != string(c.TBSHash) {
		return errors.New("the certificate does not hold the bytes that were intended")
	}
	cert, err := c.X509()
	if err != nil {
		return err
	}
	if pki.SerialFromBig(cert.SerialNumber) != c.Serial {
		return errors.New("the certificate has another serial than its row")
	}
	if c.IssuedAt.Before(c.CreatedAt.Truncate(time.Millisecond)) {
		return errors.New("the certificate was issued before it was intended")
	}
	return nil
}

// checkEvidence is I3: every name had evidence that counted when it was signed.
func (c *Certificate) checkEvidence(bad func(string, string, ...any)) {
	have := map[string]bool{}
	for i := range c.Evidence {
		if err := c.Evidence[i].check(c.CreatedAt); err != nil {
			bad("I3", "%v", err)
		}
		have[c.Evidence[i].Name.Value] = true
	}
	if len(c.Evidence) == 0 {
		bad("I3", "no evidence is stored")
	}
	if len(c.Evidence) == 1 && c.Evidence[0].Method == "internal" && c.Evidence[0].Name.Value == "" {
		return // an authority or responder of our own: no subscriber names
	}
	for _, n := range c.Names {
		if !have[n] {
			bad("I3", "%s was certified without authorization", n)
		}
	}
}
