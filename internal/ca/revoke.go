package ca

import (
	"context"
	"time"

	"chancery/internal/audit"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

var qRevoke = db.SQL("ca.revoke_certificate", `UPDATE certificate SET revoked_at = $2, revoked_reason = $3, revoked_by = $4
	WHERE id = $1 AND state = 'issued' AND revoked_at IS NULL`)

var qDirty = db.SQL("ca.mark_crl_dirty", `UPDATE crl SET dirty_at = $3 WHERE authority_id = $1 AND shard = $2 AND dirty_at IS NULL`)

// Revocation asks to revoke one certificate.
type Revocation struct {
	CertificateID string
	Reason        pki.Reason
	Actor         string // for the journal
	// BlockKey also forbids the certificate's key for ever; set for
	// keyCompromise that its holder has proved.
	BlockKey bool
}

// subscriberReasons may be given for an end-entity certificate (RFC 5280
// section 5.3.1; the others concern authorities, holds and delta CRLs).
var subscriberReasons = map[pki.Reason]bool{
	pki.Unspecified: true, pki.KeyCompromise: true, pki.AffiliationChanged: true,
	pki.Superseded: true, pki.CessationOfOperation: true, pki.PrivilegeWithdrawn: true,
}

// CheckReason returns a badRevocationReason fault for a code that may not be
// given for a subscriber's certificate.
func CheckReason(code int) (pki.Reason, error) {
	r := pki.Reason(code)
	if !subscriberReasons[r] {
		return r, fault.New(fault.BadRevocationReason, "reason %d cannot be used; use 0, 1, 3, 4, 5 or 9", code)
	}
	return r, nil
}

// Revoke revokes a certificate. The row, the CRL mark, the blocked key and the
// journal entry are one transaction; of two at once, one gets alreadyRevoked.
// The change can never be undone.
func (s *Service) Revoke(ctx context.Context, r Revocation) (*Certificate, error) {
	if _, err := CheckReason(int(r.Reason)); err != nil {
		return nil, err
	}
	c, err := Get(ctx, s.db.Read(), r.CertificateID)
	if err != nil {
		return nil, err
	}
	if c.State != StateIssued {
		return nil, fault.New(fault.NotFound, "no such certificate")
	}
	spki, err := c.spki()
	if err != nil {
		return nil, err
	}
	now := time.Now().UTC().Truncate(time.Second) // the precision of CRL and OCSP
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qRevoke, db.ExactlyOne(fault.New(fault.AlreadyRevoked, "the certificate is already revoked")), c.ID, now, int64(r.Reason), r.Actor)
		tx.Queue(qDirty, nil, c.AuthorityID, c.Shard, now)
		if r.BlockKey {
			BlockKey(tx, spki, "keyCompromise of certificate "+c.ID, now)
		}
		return audit.Append(tx, audit.Entry{At: time.Now(), Kind: "certificate.revoke", Actor: r.Actor, Subject: "certificate:" + c.ID,
			Data: map[string]any{"serial": c.Serial.Hex(), "reason": r.Reason.String()}})
	})
	if err != nil {
		return nil, err
	}
	fault.Point("ca.after_revoke")
	c.RevokedAt, c.Reason, c.RevokedBy = now, r.Reason, r.Actor
	return &c, nil
}

// spki returns the hash of the certificate's key.
func (c *Certificate) spki() ([32]byte, error) {
	cert, err := c.X509()
	if err != nil {
		return [32]byte{}, err
	}
	return pki.SPKIHash(cert.RawSubjectPublicKeyInfo), nil
}
