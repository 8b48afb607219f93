// Package catest fills databases with certificates, for benchmarks and for
// tests of what is large.
//
// What it makes is not trusted by anybody: the certificates are well-formed,
// name the right issuer, and have rows as if they had been issued, but all
// carry one signature of a throw-away key. The authority's key, the checks of
// an issuance and the signer's log are not touched, so nothing here can be used
// to get a certificate.
package catest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/json/v2"
	"fmt"
	"time"

	"chancery/internal/audit"
	"chancery/internal/ca"
	"chancery/internal/db"
	"chancery/internal/pki"
)

// Spec says what to make.
type Spec struct {
	Authority *ca.Authority // issuing
	URLs      ca.URLs       // as the authority's certificates point to them
	N         int           // how many certificates

	// Name returns the DNS name of the i-th certificate; nil: "iI.seed.example".
	Name func(i int) string
	// AccountID is whose they are; "": nobody's.
	AccountID string
	// IssuedAt is when they were issued; zero: now. They end Period later (0: 90
	// days).
	IssuedAt time.Time
	Period   time.Duration
	// Revoked makes each of these revoked at IssuedAt, for superseded.
	Revoked bool
	// Names also fills the index of names, which listings and selections by name
	// need, and Journal the journal, which doctor needs.
	Names, Journal bool
}

var (
	insert = db.BulkInsert("catest.insert_certificate", "certificate", false, "id", "authority_id", "serial", "state", "ca", "profile", "profile_hash",
		"account_id", "names", "key_type", "spki_hash", "evidence", "tbs_hash", "der", "fingerprint", "shard", "not_before", "not_after", "created_at", "issued_at",
		"revoked_at", "revoked_reason", "revoked_by")
	insertName = db.BulkInsert("catest.insert_name", "certificate_name", false, "rname", "certificate_id")
)

var (
	ranOut  = db.SQL("catest.delete_walks", `DELETE FROM checker`, db.Scan("a row for each walk"))
	walkNew = db.SQL("catest.insert_new_walk", `INSERT INTO checker (name, position, checked, started_at, due_at)
		SELECT 'new', COALESCE(max(id), ''), 0, $1, $1 FROM certificate`)
	walkAll = db.SQL("catest.insert_full_walk", `INSERT INTO checker (name, position, checked, started_at, due_at, finished_at) VALUES ('all', '', 0, $2, $2, $1)`)
)

// Checked lets the background checker take everything that is stored for
// checked: it begins again a day after now. What Fill makes would be one finding
// each, for no authority has signed it.
func Checked(ctx context.Context, d *db.DB, now time.Time) error {
	err := d.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(ranOut, nil)
		tx.Queue(walkNew, nil, now)
		tx.Queue(walkAll, nil, now, now.Add(24*time.Hour))
		return nil
	})
	if err != nil {
		return fmt.Errorf("fill database with certificates: %w", err)
	}
	return nil
}

// batch is how many certificates one transaction stores.
const batch = 2000

// Fill stores certificates and returns their ids and serials, in order.
func Fill(ctx context.Context, d *db.DB, spec Spec) (ids []string, serials []pki.Serial, err error) {
	m, err := newMaker(&spec)
	if err != nil {
		return nil, nil, err
	}
	for len(ids) < spec.N {
		var rows, names [][]any
		from := len(ids)
		for i := from; i < min(from+batch, spec.N); i++ {
			row, err := m.row(i)
			if err != nil {
				return ids, serials, err
			}
			rows = append(rows, row.columns)
			names = append(names, []any{pki.ReverseName(row.name), row.id})
			ids, serials = append(ids, row.id), append(serials, row.serial)
		}
		err := d.Write(ctx, func(tx *db.Tx) error {
			if err := tx.Insert(ctx, insert, rows); err != nil {
				return err
			}
			if spec.Names {
				if err := tx.Insert(ctx, insertName, names); err != nil {
					return err
				}
			}
			return m.journal(tx, ids[from:], serials[from:])
		})
		if err != nil {
			return ids, serials, fmt.Errorf("fill database with certificates: %w", err)
		}
	}
	return ids, serials, nil
}

// maker makes rows.
type maker struct {
	spec     *Spec
	enc      *pki.Encoder
	leaf     pki.Leaf
	spkiHash [32]byte
	sig      []byte
	evidence []ca.Evidence
}

func newMaker(spec *Spec) (*maker, error) {
	if spec.IssuedAt.IsZero() {
		spec.IssuedAt = time.Now()
	}
	if spec.Period == 0 {
		spec.Period = 90 * 24 * time.Hour
	}
	if spec.Name == nil {
		spec.Name = func(i int) string { return fmt.Sprintf("i%d.seed.example", i) }
	}
	a := spec.Authority
	enc, err := pki.NewEncoder(a.Issuer(), pki.CertSpec{KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []asn1.ObjectIdentifier{pki.EKUServerAuth},
		CommonName: pki.CNNone, BasicConstraints: true, SubjectKeyID: true, OCSPURLs: []string{spec.URLs.OCSP(a)}, IssuerURLs: []string{spec.URLs.Issuer(a)}})
	if err != nil {
		return nil, fmt.Errorf("prepare certificates: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	sig, err := pki.SignTBS(key, []byte("nothing"))
	from, to := pki.Validity(spec.IssuedAt, spec.Period, a.Cert.NotAfter)
	return &maker{spec: spec, enc: enc, sig: sig, spkiHash: pki.SPKIHash(spki),
		leaf:     pki.Leaf{NotBefore: from, NotAfter: to, SPKI: spki},
		evidence: []ca.Evidence{{Method: "operator", Reference: "catest", ValidatedAt: spec.IssuedAt, ExpiresAt: spec.IssuedAt.Add(time.Hour), CAAExempt: true}},
	}, err
}

// made is one row with what others need of it.
type made struct {
	id, name string
	serial   pki.Serial
	columns  []any
}

func (m *maker) row(i int) (made, error) {
	a, s := m.spec.Authority, m.spec
	serial, err := pki.NewSerial(a.SerialPrefix(), s.IssuedAt, rand.Reader)
	if err != nil {
		return made{}, err
	}
	out := made{id: db.NewID(s.IssuedAt), name: s.Name(i), serial: serial}
	leaf, shard := m.leaf, a.Shard(serial)
	leaf.Serial, leaf.CRLShardURL = serial, s.URLs.CRL(a, shard)
	leaf.Identifiers = []pki.Identifier{{Type: pki.DNS, Value: out.name}}
	tbs, err := m.enc.TBS(leaf)
	if err != nil {
		return made{}, fmt.Errorf("make certificate for %s: %w", out.name, err)
	}
	m.evidence[0].Name = leaf.Identifiers[0]
	evidence, err := json.Marshal(m.evidence)
	if err != nil {
		return made{}, err
	}
	der := pki.AssembleCertificate(tbs, a.KeyType, m.sig)
	hash, fp := sha256.Sum256(tbs), pki.Fingerprint(der)
	out.columns = []any{out.id, a.ID, serial.Hex(), ca.StateIssued, a.CA, "tls", "", nil, `["` + out.name + `"]`, pki.P256, m.spkiHash[:], string(evidence),
		hash[:], der, fp[:], shard, leaf.NotBefore, leaf.NotAfter, s.IssuedAt, s.IssuedAt, nil, nil, nil}
	if s.AccountID != "" {
		out.columns[7] = s.AccountID
	}
	if s.Revoked {
		copy(out.columns[20:], []any{s.IssuedAt.Truncate(time.Second), int64(pki.Superseded), "catest"})
	}
	return out, nil
}

// journal adds the entries of an issuance (and of a revocation) to tx.
func (m *maker) journal(tx *db.Tx, ids []string, serials []pki.Serial) error {
	if !m.spec.Journal {
		return nil
	}
	kinds := []audit.Kind{"certificate.intend", "certificate.issue"}
	if m.spec.Revoked {
		kinds = append(kinds, "certificate.revoke")
	}
	for i, id := range ids {
		for _, kind := range kinds {
			err := audit.Append(tx, audit.Entry{At: m.spec.IssuedAt, Kind: kind, Actor: "catest", Subject: "certificate:" + id,
				Data: map[string]string{"serial": serials[i].Hex(), "reason": pki.Superseded.String()}})
			if err != nil {
				return err
			}
		}
	}
	return nil
}
