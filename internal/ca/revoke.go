package ca

import (
	"cmp"
	"context"
	"encoding/json/v2"
	"fmt"
	"maps"
	"slices"
	"time"

	"chancery/internal/audit"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

var qRevoke = db.SQL("ca.revoke_certificate", `UPDATE certificate SET revoked_at = $2, revoked_reason = $3, revoked_by = $4
	WHERE id = $1 AND state = 'issued' AND revoked_at IS NULL`)

var qDirty = db.SQL("ca.mark_crl_dirty", `UPDATE crl SET dirty_at = $3 WHERE authority_id = $1 AND shard = $2 AND dirty_at IS NULL`)

// Revocation asks to revoke one certificate (or, for RevokeMany, several).
type Revocation struct {
	CertificateID string // not used by RevokeMany
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

// Changed is what a revocation of many changed about one certificate: what its
// OCSP answer and its CRL need.
type Changed struct {
	ID          string
	AuthorityID string
	Serial      pki.Serial
	Shard       int
	IssuedAt    time.Time
	NotAfter    time.Time
	RevokedAt   time.Time
	Reason      pki.Reason
}

var (
	qRevokeMany = db.SQL("ca.revoke_many", `UPDATE certificate SET revoked_at = $2, revoked_reason = $3, revoked_by = $4
		WHERE id = ANY($1::text[]) AND state = 'issued' AND revoked_at IS NULL
		RETURNING id, authority_id, serial, shard, issued_at, not_after`)
	qBlockMany = db.SQL("ca.block_keys", `INSERT INTO blocked_key (spki_hash, reason, created_at)
		SELECT DISTINCT spki_hash, $2::text, $3::bigint FROM certificate WHERE id = ANY($1::text[]) ON CONFLICT DO NOTHING`)
)

// RevokeBatch is the kind of a journal entry that stands for the revocation of
// several certificates; see BatchOf.
const RevokeBatch audit.Kind = "certificate.revoke_batch"

// BatchOf returns the ids of the certificates that an entry of kind RevokeBatch
// is about, and the name of the reason for which they were revoked.
func BatchOf(r *audit.Record) (ids []string, reason string, err error) {
	var data struct {
		Reason       string   `json:"reason"`
		Certificates []string `json:"certificates"`
	}
	if err := json.Unmarshal([]byte(r.Data), &data); err != nil {
		return nil, "", fmt.Errorf("read journal entry %s: %w", r.ID, err)
	}
	return data.Certificates, data.Reason, nil
}

// revokeChunk is how many certificates one transaction revokes: enough to make
// the commit cheap, few enough that an issuance behind it hardly waits.
const revokeChunk = 500

// RevokeMany revokes the certificates with these ids and returns those that
// were not revoked before; unknown ids are passed over. They become revoked in
// chunks, each a transaction with an entry of the journal for every
// certificate. After an error, what is returned is revoked; the same call again
// takes up the rest. For more than some thousands, make an Incident.
func (s *Service) RevokeMany(ctx context.Context, ids []string, r Revocation) (revoked []Changed, err error) {
	if _, err := CheckReason(int(r.Reason)); err != nil {
		return nil, err
	}
	for chunk := range slices.Chunk(ids, revokeChunk) {
		var done []Changed
		err := s.db.Write(ctx, func(tx *db.Tx) (err error) {
			if done, err = revokeIn(ctx, tx, chunk, r, "keyCompromise of its certificate"); err != nil {
				return err
			}
			for i := range done {
				c := &done[i]
				err = audit.Append(tx, audit.Entry{At: time.Now(), Kind: "certificate.revoke", Actor: r.Actor, Subject: "certificate:" + c.ID,
					Data: map[string]any{"serial": c.Serial.Hex(), "reason": c.Reason.String()}})
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return revoked, fmt.Errorf("revoke certificates: %w", err)
		}
		revoked = append(revoked, done...)
	}
	return revoked, nil
}

// revokeIn revokes certificates within a transaction, but for the journal. why
// is the reason for which their keys are blocked, if they are.
func revokeIn(ctx context.Context, tx *db.Tx, ids []string, r Revocation, why string) ([]Changed, error) {
	now := time.Now().UTC().Truncate(time.Second) // the precision of CRL and OCSP
	done, err := db.List(ctx, tx, qRevokeMany, func(row *db.Row) Changed {
		c := Changed{ID: row.Text(), AuthorityID: row.Text(), RevokedAt: now, Reason: r.Reason}
		c.Serial, _ = pki.ParseSerial(row.Text()) // what does not parse is nobody's serial, and `doctor issuance` says so
		c.Shard, c.IssuedAt, c.NotAfter = row.Int(), row.Time(), row.Time()
		return c
	}, ids, now, int64(r.Reason), r.Actor)
	if err != nil {
		return nil, err
	}
	if r.BlockKey {
		tx.Queue(qBlockMany, nil, ids, why, now)
	}
	markLists(tx, done, now)
	return done, nil
}

// markLists marks the CRLs that lack what was revoked, in an order that all
// transactions share.
func markLists(tx *db.Tx, done []Changed, now time.Time) {
	type list struct {
		authority string
		shard     int
	}
	touched := map[list]bool{}
	for i := range done {
		touched[list{done[i].AuthorityID, done[i].Shard}] = true
	}
	order := slices.SortedFunc(maps.Keys(touched), func(a, b list) int {
		return cmp.Or(cmp.Compare(a.authority, b.authority), cmp.Compare(a.shard, b.shard))
	})
	for _, l := range order {
		tx.Queue(qDirty, nil, l.authority, l.shard, now)
	}
}

// spki returns the hash of the certificate's key.
func (c *Certificate) spki() ([32]byte, error) {
	cert, err := c.X509()
	if err != nil {
		return [32]byte{}, err
	}
	return pki.SPKIHash(cert.RawSubjectPublicKeyInfo), nil
}
