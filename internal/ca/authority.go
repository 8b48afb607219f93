package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"sync"
	"time"

	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/keys"
	"chancery/internal/pki"
)

// Role is what an authority's key may sign.
type Role string

// Roles.
const (
	RoleRoot    Role = "root"    // authorities
	RoleIssuing Role = "issuing" // subscribers
	RoleOCSP    Role = "ocsp"    // OCSP answers on behalf of its parent
)

// Valid reports whether r is a known role.
func (r Role) Valid() bool { return r == RoleRoot || r == RoleIssuing || r == RoleOCSP }

// AuthorityState is where an authority stands in its life.
type AuthorityState string

// States of an authority.
const (
	Pending AuthorityState = "pending" // has a key and a request, waits for its certificate
	Active  AuthorityState = "active"
	Retired AuthorityState = "retired" // issues no more; its status is still answered
)

// Valid reports whether s is a known state.
func (s AuthorityState) Valid() bool { return s == Pending || s == Active || s == Retired }

// Authority is one key with its certificate: a root, an issuing authority or
// an OCSP responder. Several generations may share the same CA name.
type Authority struct {
	ID        string
	CA        string // name in the configuration and in ACME paths
	Name      string // unique, of this generation
	Role      Role
	State     AuthorityState
	ParentID  string // "" for a root, or a parent that is not ours
	KeyType   pki.KeyType
	KeyRef    string // reference in the key store; "" if the key is elsewhere
	CSR       []byte // DER, while pending
	DER       []byte // certificate, unless pending
	Shards    int    // CRL shards, fixed for life
	CreatedAt time.Time

	Cert *x509.Certificate // parsed DER

	// Chains are the PEM chains above (and without) a leaf: the first is served
	// by default, the others as RFC 8555 section 7.4.2 alternates.
	Chains [][]byte

	signer   *keys.Signer // of certificates, witnessed; nil when the key is not here
	status   *keys.Signer // the same key for CRLs and OCSP answers
	encoders sync.Map     // profile hash -> *pki.Encoder
}

const authorityColumns = `id, ca, name, role, state, parent_id, key_type, key_ref, csr, der, shards, created_at`

var (
	qAuthorities = db.SQL("ca.list_authorities", `SELECT `+authorityColumns+` FROM authority ORDER BY id`,
		db.Scan("a handful of rows, read at start and on change"))
	qInsertAuthority = db.SQL("ca.insert_authority", `INSERT INTO authority (id, ca, name, role, state, parent_id, key_type, key_ref, csr, der, not_after, shards, created_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)`)
	qActivate = db.SQL("ca.activate_authority", `UPDATE authority SET state = 'active', der = $2, not_after = $3, parent_id = $4
		WHERE id = $1 AND state = 'pending'`)
	qRetire = db.SQL("ca.retire_authority", `UPDATE authority SET state = 'retired' WHERE id = $1 AND state = 'active'`)
	qChains = db.SQL("ca.list_chains", `SELECT authority_id, pem FROM authority_chain ORDER BY authority_id, position`,
		db.Scan("a handful of rows, read at start and on change"))
	qInsertChain = db.SQL("ca.insert_chain", `INSERT INTO authority_chain (authority_id, position, pem, created_at)
		VALUES ($1, (SELECT COALESCE(max(position), -1) + 1 FROM authority_chain WHERE authority_id = $1), $2, $3)`)
)

func scanAuthority(r *db.Row) *Authority {
	return &Authority{ID: r.Text(), CA: r.Text(), Name: r.Text(), Role: Role(r.Text()), State: AuthorityState(r.Text()),
		ParentID: r.Text(), KeyType: pki.KeyType(r.Text()), KeyRef: r.Text(), CSR: r.Bytes(), DER: r.Bytes(),
		Shards: r.Int(), CreatedAt: r.Time()}
}

// insert adds a to the transaction.
func (a *Authority) insert(tx *db.Tx) {
	var end time.Time
	if a.Cert != nil {
		end = a.Cert.NotAfter
	}
	tx.Queue(qInsertAuthority, nil, a.ID, a.CA, a.Name, a.Role, a.State, orNull(&a.ParentID), a.KeyType, a.KeyRef,
		a.CSR, a.DER, end, a.Shards, a.CreatedAt)
}

// parse fills Cert from DER.
func (a *Authority) parse() error {
	if a.DER == nil {
		return nil
	}
	var err error
	if a.Cert, err = x509.ParseCertificate(a.DER); err != nil {
		return fmt.Errorf("parse certificate of authority %s: %w", a.Name, err)
	}
	return nil
}

// CanSign reports whether the authority's key is at hand.
func (a *Authority) CanSign() bool { return a.status != nil }

// SignTBS signs a CRL or an OCSP answer with the authority's key. The same
// bytes get the same signature where the key allows it, so that replicas give
// one answer with one entity tag. Certificates are signed by Issue alone: bytes
// that begin like a TBSCertificate are refused.
func (a *Authority) SignTBS(ctx context.Context, tbs []byte) ([]byte, error) {
	if a.status == nil {
		return nil, fault.New(fault.Unavailable, "the key of authority %s is not on this machine", a.Name).Retry(time.Hour)
	}
	if pki.IsTBSCertificate(tbs) {
		return nil, fmt.Errorf("sign status of authority %s: the bytes are a certificate", a.Name)
	}
	return a.status.SignRepeatable(ctx, tbs)
}

// Issuer returns what certificates and CRLs of a say about it.
func (a *Authority) Issuer() pki.IssuerInfo {
	return pki.IssuerInfo{Name: a.Cert.RawSubject, KeyID: a.Cert.SubjectKeyId, KeyType: a.KeyType}
}

// SerialPrefix is the first octet of the serials of a (0x01..0x7f), so that
// serials of different generations are told apart at a glance.
func (a *Authority) SerialPrefix() byte {
	var sum byte
	for i := range len(a.ID) {
		sum = sum*31 + a.ID[i]
	}
	return sum%0x7f + 1
}

// Shard returns the CRL shard of a serial: its value modulo Shards.
func (a *Authority) Shard(serial pki.Serial) int {
	if a.Shards <= 1 {
		return 0
	}
	return int(new(big.Int).Mod(serial.Big(), big.NewInt(int64(a.Shards))).Int64())
}

// end is the latest notAfter that a may give: its own, or, for a root that is
// just being made, the given instant.
func (a *Authority) end(otherwise time.Time) time.Time {
	if a.Cert == nil {
		return otherwise
	}
	return a.Cert.NotAfter
}

// encoder returns the encoder of certificates under profile, made once.
func (a *Authority) encoder(p *Profile, urls URLs) (*pki.Encoder, error) {
	hash := p.Hash()
	if e, ok := a.encoders.Load(hash); ok {
		return e.(*pki.Encoder), nil
	}
	spec := pki.CertSpec{KeyUsage: p.KeyUsage, ExtKeyUsage: p.ExtKeyUsage, Policies: p.Policies, CommonName: p.CommonName,
		MustStaple: p.MustStaple, CA: p.Authority, PathLen: p.PathLen, BasicConstraints: true, SubjectKeyID: true, NoCheck: p.NoCheck}
	if !p.NoOCSP {
		spec.OCSPURLs = []string{urls.OCSP(a)}
	}
	if a.State == Active && a.DER != nil { // a root that is being made has no issuer to fetch
		spec.IssuerURLs = []string{urls.Issuer(a)}
	}
	e, err := pki.NewEncoder(a.Issuer(), spec)
	if err != nil {
		return nil, fmt.Errorf("profile %s: %w", p.Name, err)
	}
	a.encoders.Store(hash, e)
	return e, nil
}

// KeyChecks tries the key of every authority that has one here: it opens, it
// belongs to the certificate, and it signs. report is called for each, with nil
// when all is well; it changes nothing.
func KeyChecks(ctx context.Context, q db.Q, store keys.Store, report func(a *Authority, problem error)) error {
	all, err := loadAuthorities(ctx, q)
	if err != nil {
		return err
	}
	for _, a := range all {
		if a.KeyRef != "" {
			report(a, a.tryKey(ctx, store))
		}
	}
	return nil
}

// tryKey opens the key of a and signs with it.
func (a *Authority) tryKey(ctx context.Context, store keys.Store) error {
	key, err := a.openKey(ctx, store)
	if err != nil {
		return err
	}
	return keys.Prove(ctx, key)
}

// openKey opens the key of a, and makes sure that it is the certificate's.
func (a *Authority) openKey(ctx context.Context, store keys.Store) (crypto.Signer, error) {
	key, err := store.Open(ctx, a.KeyRef)
	if err != nil {
		return nil, fmt.Errorf("open key of authority %s: %w", a.Name, err)
	}
	if eq, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); a.Cert != nil && (!ok || !eq.Equal(a.Cert.PublicKey)) {
		return nil, fault.New(fault.Precondition, "the key %s does not belong to the certificate of authority %s; restore the right key store", a.KeyRef, a.Name)
	}
	return key, nil
}

// loadAuthorities reads all authorities and their chains.
func loadAuthorities(ctx context.Context, q db.Q) ([]*Authority, error) {
	all, err := db.List(ctx, q, qAuthorities, scanAuthority)
	if err != nil {
		return nil, fmt.Errorf("read authorities: %w", err)
	}
	byID := make(map[string]*Authority, len(all))
	for _, a := range all {
		byID[a.ID] = a
		err = errors.Join(err, a.parse())
	}
	if err != nil {
		return nil, err
	}
	for _, a := range all {
		if a.Role == RoleIssuing && a.Cert != nil {
			a.Chains = [][]byte{chainAbove(a, byID)}
		}
	}
	err = q.All(ctx, qChains, func(r *db.Row) error {
		if a := byID[r.Text()]; a != nil && len(a.Chains) > 0 {
			a.addChain([]byte(r.Text()))
		}
		return nil
	})
	return all, err
}

// addChain adds a stored chain: one that begins with a's own certificate knows
// what lies above it and is served first, any other is an alternate.
func (a *Authority) addChain(chain []byte) {
	if bytes.HasPrefix(chain, pki.EncodeChain(a.DER)) {
		a.Chains[0] = chain
		return
	}
	a.Chains = append(a.Chains, chain)
}

// chainAbove is the PEM of a and of the authorities between it and its root.
func chainAbove(a *Authority, byID map[string]*Authority) []byte {
	var ders [][]byte
	for range 8 { // a bound, should the rows ever form a ring
		if a == nil || a.Role == RoleRoot || a.DER == nil {
			break
		}
		ders = append(ders, a.DER)
		a = byID[a.ParentID]
	}
	return pki.EncodeChain(ders...)
}
