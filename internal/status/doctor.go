package status

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json/v2"
	"fmt"
	"strings"
	"time"

	"chancery/internal/audit"
	"chancery/internal/ca"
	"chancery/internal/db"
	"chancery/internal/pki"
)

// CRLDelay is how long after a revocation the published CRL may lack it: what
// Check allows before it reports a list that disagrees with OCSP.
const CRLDelay = time.Minute

var (
	qDoctorAuthorities = db.SQL("status.list_authorities", `SELECT id, role, shards, key_ref, der FROM authority WHERE state <> 'pending' ORDER BY id`,
		db.Scan("a handful of rows, doctor only"))
	qDoctorCRLs = db.SQL("status.list_crl_bodies", `SELECT shard, number, next_update, der FROM crl WHERE authority_id = $1 ORDER BY shard`)
	qDoctorRows = db.SQL("status.walk_certificates", `SELECT id, `+rowColumns+` FROM certificate WHERE id > $1 ORDER BY id LIMIT $2`)
)

// Check verifies what OCSP and CRLs rest on, over one state of the database,
// and calls report for every violation:
//
//   - I4: every serial that was issued or abandoned has a row to answer from,
//     its revocation is what the journal says, and none is missing;
//   - I5: every CRL is current, bears its authority's signature, and lists
//     exactly the serials that OCSP calls revoked, but for the last CRLDelay.
func Check(ctx context.Context, q db.Q, now time.Time, report func(ca.Finding)) error {
	c := &checker{ctx: ctx, q: q, now: now, report: report, authorities: map[string]*checkedAuthority{}}
	for _, step := range []func() error{c.readJournal, c.readAuthorities, c.walk, c.finish} {
		if err := step(); err != nil {
			return fmt.Errorf("check status: %w", err)
		}
	}
	return nil
}

// checker is one run of Check.
type checker struct {
	ctx         context.Context
	q           db.Q
	now         time.Time
	report      func(ca.Finding)
	journal     map[string]history // certificate id -> what the journal says
	authorities map[string]*checkedAuthority
}

// history is what the journal says about one serial.
type history struct {
	issued, revoked, abandoned bool
	reason                     string // with revoked
}

// checkedAuthority is an authority with its CRLs, by shard. An entry is taken
// out of the list when its row is met, so what remains has none.
type checkedAuthority struct {
	cert *x509.Certificate
	role ca.Role
	crls map[int]*checkedCRL
}

type checkedCRL struct {
	thisUpdate time.Time
	entries    map[pki.Serial]pki.RevokedEntry
}

func (c *checker) bad(invariant, subject, format string, args ...any) {
	c.report(ca.Finding{Invariant: invariant, Subject: subject, Problem: fmt.Sprintf(format, args...)})
}

// note adds a journal entry about a certificate to what is known of it.
func (h *history) note(rec *audit.Record) {
	switch rec.Kind {
	case "certificate.issue":
		h.issued = true
	case "certificate.abandon":
		h.abandoned = true
	case "certificate.revoke":
		var data struct {
			Reason string `json:"reason"`
		}
		if json.Unmarshal([]byte(rec.Data), &data) == nil {
			h.reason = data.Reason
		}
		h.revoked = true
	}
}

// readJournal collects the history of every serial.
func (c *checker) readJournal() error {
	c.journal = map[string]history{}
	for seq := int64(0); ; {
		page, err := audit.Follow(c.ctx, c.q, seq, 1000)
		if err != nil || len(page) == 0 {
			return err
		}
		for i := range page {
			if id, ok := strings.CutPrefix(page[i].Subject, "certificate:"); ok {
				h := c.journal[id]
				h.note(&page[i])
				c.journal[id] = h
			}
		}
		seq = page[len(page)-1].Seq
	}
}

// readAuthorities reads the authorities and checks each CRL by itself.
func (c *checker) readAuthorities() error {
	type found struct {
		id, role, keyRef string
		shards           int
		der              []byte
	}
	all, err := db.List(c.ctx, c.q, qDoctorAuthorities, func(r *db.Row) found {
		f := found{id: r.Text(), role: r.Text(), shards: r.Int()}
		f.keyRef, f.der = r.Text(), r.Bytes()
		return f
	})
	if err != nil {
		return err
	}
	for _, f := range all {
		if ca.Role(f.role) == ca.RoleOCSP {
			continue
		}
		cert, err := x509.ParseCertificate(f.der)
		if err != nil {
			c.bad("I4", "authority:"+f.id, "its certificate does not parse, so nothing can be answered for it")
			continue
		}
		a := &checkedAuthority{cert: cert, role: ca.Role(f.role), crls: map[int]*checkedCRL{}}
		c.authorities[f.id] = a
		if err := c.readCRLs(f.id, a); err != nil {
			return err
		}
		for shard := range f.shards {
			if a.crls[shard] == nil && a.role == ca.RoleIssuing && f.keyRef != "" && c.now.Sub(cert.NotBefore) > time.Hour && c.now.Before(cert.NotAfter) {
				c.bad("I5", fmt.Sprintf("crl:%s/%d", f.id, shard), "there is no such CRL")
			}
		}
	}
	return nil
}

// readCRLs reads the lists of one authority.
func (c *checker) readCRLs(id string, a *checkedAuthority) error {
	return c.q.All(c.ctx, qDoctorCRLs, func(r *db.Row) error {
		shard, number, next, der := r.Int(), r.Int64(), r.Time(), r.Bytes()
		subject := fmt.Sprintf("crl:%s/%d", id, shard)
		list := &checkedCRL{entries: map[pki.Serial]pki.RevokedEntry{}}
		a.crls[shard] = list
		parsed, err := x509.ParseRevocationList(der)
		if err == nil {
			err = parsed.CheckSignatureFrom(a.cert)
		}
		if err != nil {
			c.bad("I5", subject, "the published list is damaged: %v", err)
			return nil
		}
		list.thisUpdate = parsed.ThisUpdate
		if parsed.Number == nil || !parsed.Number.IsInt64() || parsed.Number.Int64() != number || !parsed.NextUpdate.Equal(next) {
			c.bad("I5", subject, "the published list is not the one its row describes")
		}
		if !c.now.Before(next) && c.now.Before(a.cert.NotAfter) {
			c.bad("I5", subject, "the published list ended at %s", next.Format(time.RFC3339))
		}
		for e, err := range pki.CRLEntries(der) {
			if err != nil {
				c.bad("I5", subject, "%v", err)
				return nil
			}
			e.DER = bytes.Clone(e.DER)
			list.entries[e.Serial] = e
		}
		return nil
	}, id)
}

// walk holds every row against the journal and against its CRL.
func (c *checker) walk() error {
	for after, more := "", true; more; {
		type numbered struct {
			id string
			row
		}
		page, err := db.List(c.ctx, c.q, qDoctorRows, func(r *db.Row) numbered { return numbered{r.Text(), scanRow(r)} }, after, 500)
		if err != nil {
			return err
		}
		for i := range page {
			after = page[i].id
			if err := c.checkRow(after, &page[i].row); err != nil {
				return err
			}
			delete(c.journal, after)
		}
		more = len(page) == 500
	}
	return nil
}

// checkRow is I4 and I5 for one serial.
func (c *checker) checkRow(id string, r *row) error {
	h, err := c.history(id, r)
	if err != nil {
		return err
	}
	subject := "certificate:" + id
	serial, err := pki.ParseSerial(r.serial)
	if err != nil {
		c.bad("I4", subject, "its serial %q does not parse", r.serial)
		return nil
	}
	switch {
	case c.authorities[r.authority] == nil && r.state != ca.StateIssued:
		// A root whose making was interrupted: neither it nor its serial came
		// to be, and nobody can ask for it.
	case c.authorities[r.authority] == nil:
		c.bad("I4", subject, "nobody answers for it: there is no authority %s", r.authority)
	case r.state == ca.StateIntent && (h.issued || h.abandoned || h.revoked):
		c.bad("I4", subject, "the journal says it was issued, abandoned or revoked; its row does not")
	case r.state == ca.StateIssued && (!h.issued || h.abandoned):
		c.bad("I4", subject, "OCSP would call it good or revoked, but the journal does not say that it was issued")
	case r.state == ca.StateAbandoned && (!h.abandoned || h.issued):
		c.bad("I4", subject, "its row says that it was abandoned, the journal does not")
	case r.state == ca.StateIssued && h.revoked && r.revokedAt.IsZero():
		c.bad("I4", subject, "it was revoked, and is good again")
	case r.state == ca.StateIssued && !h.revoked && !r.revokedAt.IsZero():
		c.bad("I4", subject, "its row says that it was revoked, the journal does not")
	case h.revoked && h.reason != r.reason.String():
		c.bad("I4", subject, "it was revoked for %s, its row says %s", h.reason, r.reason)
	case r.state == ca.StateIssued && r.issuedAt.IsZero():
		c.bad("I4", subject, "its row does not say when it was issued")
	}
	c.checkListed(subject, serial, r)
	return nil
}

// history returns what the journal says about a row. Entries that wait for
// their place are looked up one by one, and only when they matter.
func (c *checker) history(id string, r *row) (history, error) {
	h := c.journal[id]
	whole := r.state == ca.StateIntent || r.state == ca.StateIssued && h.issued && h.revoked == !r.revokedAt.IsZero() ||
		r.state == ca.StateAbandoned && h.abandoned
	if whole {
		return h, nil
	}
	recs, err := audit.BySubject(c.ctx, c.q, "certificate:"+id, "", 100)
	for i := range recs {
		h.note(&recs[i])
	}
	return h, err
}

// checkListed is I5 for one serial: OCSP answers from the row, and the CRL of
// its shard must say the same.
func (c *checker) checkListed(subject string, serial pki.Serial, r *row) {
	a := c.authorities[r.authority]
	if a == nil || a.crls[r.shard] == nil {
		return // reported already, or a root whose key never was here
	}
	list := a.crls[r.shard]
	e, listed := list.entries[serial]
	delete(list.entries, serial)
	revoked := r.state != ca.StateIntent && !r.revokedAt.IsZero()
	switch {
	case listed && !revoked:
		c.bad("I5", subject, "the CRL calls it revoked, OCSP does not")
	case listed && (e.Reason != r.reason || e.RevokedAt.Unix() != r.revokedAt.Unix()):
		c.bad("I5", subject, "CRL and OCSP differ in the time or the reason of its revocation")
	case revoked && !listed && c.now.Sub(r.revokedAt) > CRLDelay && !r.notAfter.Before(list.thisUpdate):
		c.bad("I5", subject, "it was revoked at %s and the CRL does not list it", r.revokedAt.Format(time.RFC3339))
	}
}

// finish reports what the journal and the CRLs have and the rows do not.
func (c *checker) finish() error {
	for id, h := range c.journal {
		if h.issued || h.revoked || h.abandoned {
			c.bad("I4", "certificate:"+id, "the journal knows it, its row is gone: nothing can be answered for it")
		}
	}
	for id, a := range c.authorities {
		for shard, list := range a.crls {
			for serial := range list.entries {
				c.bad("I5", fmt.Sprintf("crl:%s/%d", id, shard), "serial %s is listed, and is not one of this shard", serial.Hex())
			}
		}
	}
	return nil
}
