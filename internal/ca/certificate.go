package ca

import (
	"context"
	"crypto/x509"
	"encoding/json/v2"
	"errors"
	"fmt"
	"time"

	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

// State is where a serial number stands.
type State string

// States of a serial number.
const (
	StateIntent    State = "intent"    // the bytes to sign are stored; a signature may be under way
	StateIssued    State = "issued"    // the certificate is stored
	StateAbandoned State = "abandoned" // will never be issued; counts as revoked, in case a signature was made
)

// Valid reports whether s is a known state.
func (s State) Valid() bool { return s == StateIntent || s == StateIssued || s == StateAbandoned }

// Certificate is a serial number and what became of it.
type Certificate struct {
	ID          string
	AuthorityID string
	Serial      pki.Serial
	State       State
	CA          string
	Profile     string
	ProfileHash string
	OrderID     string // "" unless ordered through ACME
	AccountID   string
	Names       []string
	KeyType     pki.KeyType
	Evidence    []Evidence
	TBSHash     []byte
	TBS         []byte // until issued
	DER         []byte // once issued
	Shard       int
	NotBefore   time.Time
	NotAfter    time.Time
	CreatedAt   time.Time
	IssuedAt    time.Time
	RevokedAt   time.Time // zero: not revoked
	Reason      pki.Reason
	RevokedBy   string
	IncidentID  string // "" unless an Incident wants it renewed early
}

const certificateColumns = `id, authority_id, serial, state, ca, profile, profile_hash, order_id, account_id, names, key_type,
	evidence, tbs_hash, tbs, der, shard, not_before, not_after, created_at, issued_at, revoked_at, revoked_reason, revoked_by,
	incident_id`

func scanCertificate(r *db.Row) Certificate {
	c := Certificate{ID: r.Text(), AuthorityID: r.Text()}
	serial, err := pki.ParseSerial(r.Text())
	c.Serial, c.State, c.CA, c.Profile, c.ProfileHash = serial, State(r.Text()), r.Text(), r.Text(), r.Text()
	c.OrderID, c.AccountID = r.Text(), r.Text()
	names := r.Text()
	c.KeyType = pki.KeyType(r.Text())
	evidence := r.Text()
	c.TBSHash, c.TBS, c.DER, c.Shard = r.Bytes(), r.Bytes(), r.Bytes(), r.Int()
	c.NotBefore, c.NotAfter, c.CreatedAt, c.IssuedAt = r.Time(), r.Time(), r.Time(), r.Time()
	c.RevokedAt, c.Reason, c.RevokedBy, c.IncidentID = r.Time(), pki.Reason(r.Int()), r.Text(), r.Text()
	// The three columns below are written by this package only; a row that does
	// not parse was tampered with, and `doctor issuance` says so.
	err = errors.Join(err, json.Unmarshal([]byte(names), &c.Names), json.Unmarshal([]byte(evidence), &c.Evidence))
	if err != nil {
		c.State = "damaged"
	}
	return c
}

var (
	qInsertIntent = db.SQL("ca.insert_intent", `INSERT INTO certificate (id, authority_id, serial, state, ca, profile, profile_hash,
		order_id, account_id, names, key_type, spki_hash, evidence, tbs_hash, tbs, shard, not_before, not_after, created_at)
		SELECT $1::text, $2::text, $3::text, 'intent', $4::text, $5::text, $6::text, $7::text, $8::text, $9::text, $10::text, $11::bytea,
			$12::text, $13::bytea, $14::bytea, $15::bigint, $16::bigint, $17::bigint, $18::bigint
		WHERE NOT EXISTS (SELECT 1 FROM blocked_key WHERE spki_hash = $11)`)
	qComplete = db.SQL("ca.complete_certificate", `UPDATE certificate SET state = 'issued', der = $2, fingerprint = $3, issued_at = $4, tbs = NULL
		WHERE id = $1 AND state = 'intent'`)
	qInsertName = db.SQL("ca.insert_name", `INSERT INTO certificate_name (rname, certificate_id) VALUES ($1, $2) ON CONFLICT DO NOTHING`)
	qAbandon    = db.SQL("ca.abandon_serial", `UPDATE certificate SET state = 'abandoned', revoked_at = $2, revoked_reason = 5, revoked_by = 'system'
		WHERE id = $1 AND state = 'intent'`)
	qOldIntents = db.SQL("ca.list_old_intents", `SELECT id, order_id FROM certificate WHERE state = 'intent' AND created_at < $1 ORDER BY created_at LIMIT $2`)
	qByID       = db.SQL("ca.get_certificate", `SELECT `+certificateColumns+` FROM certificate WHERE id = $1`)
	qBySerial   = db.SQL("ca.get_by_serial", `SELECT `+certificateColumns+` FROM certificate WHERE authority_id = $1 AND serial = $2`)
	qBlocked    = db.SQL("ca.get_blocked_key", `SELECT reason FROM blocked_key WHERE spki_hash = $1`)
	qBlock      = db.SQL("ca.block_key", `INSERT INTO blocked_key (spki_hash, reason, created_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`)
)

// Get returns the certificate with id, or a notFound fault.
func Get(ctx context.Context, q db.Q, id string) (Certificate, error) {
	return found(db.Get(ctx, q, qByID, scanCertificate, id))
}

// Delivery is what it takes to hand a certificate to its subscriber.
type Delivery struct {
	AuthorityID, CA, AccountID string
	OrderID                    string // "" unless ordered through ACME
	State                      State
	DER                        []byte
}

var qDelivery = db.SQL("ca.get_delivery", `SELECT authority_id, ca, account_id, order_id, state, der FROM certificate WHERE id = $1`)

// Deliver returns the certificate with id for delivery, or a notFound fault.
func Deliver(ctx context.Context, q db.Q, id string) (d Delivery, err error) {
	err = q.One(ctx, qDelivery, func(r *db.Row) {
		d = Delivery{r.Text(), r.Text(), r.Text(), r.Text(), State(r.Text()), r.Bytes()}
	}, id)
	if errors.Is(err, db.ErrNotFound) {
		return d, fault.New(fault.NotFound, "no such certificate")
	}
	return d, err
}

// BySerial returns the certificate of a serial under an authority, or a
// notFound fault.
func BySerial(ctx context.Context, q db.Q, authorityID string, serial pki.Serial) (Certificate, error) {
	return found(db.Get(ctx, q, qBySerial, scanCertificate, authorityID, serial.Hex()))
}

func found(c Certificate, err error) (Certificate, error) {
	if errors.Is(err, db.ErrNotFound) {
		return c, fault.New(fault.NotFound, "no such certificate")
	}
	return c, err
}

// X509 parses the stored certificate.
func (c *Certificate) X509() (*x509.Certificate, error) {
	if c.State != StateIssued {
		return nil, fmt.Errorf("certificate %s is %s, not issued", c.ID, c.State)
	}
	return x509.ParseCertificate(c.DER)
}

// Blocked returns a badPublicKey fault if the key with this SPKI hash may not
// be certified. Issue asks the same in the transaction of the intent.
func Blocked(ctx context.Context, q db.Q, spkiHash [32]byte) error {
	_, err := db.Get(ctx, q, qBlocked, (*db.Row).Text, spkiHash[:])
	if errors.Is(err, db.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return notBlocked(0)
}

// notBlocked checks the number of rows that qInsertIntent made: none if the key
// may not be certified.
func notBlocked(n int64) error {
	if n == 1 {
		return nil
	}
	return fault.New(fault.BadPublicKey, "this key is blocked, it was reported as compromised; make a new key")
}

// BlockKey adds a key to those that may never be certified again.
func BlockKey(tx *db.Tx, spkiHash [32]byte, reason string, now time.Time) {
	tx.Queue(qBlock, nil, spkiHash[:], reason, now)
}
