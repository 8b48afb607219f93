package inventory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"chancery/internal/db"
	"chancery/internal/fault"
)

// Store is the inventory in a database. All methods are safe for concurrent
// use, by any number of replicas.
type Store struct {
	db       *db.DB
	issuers  issuers
	policies atomic.Pointer[[]enforced] // those in force; nil: not loaded yet
}

// New returns the inventory of d.
func New(d *db.DB) *Store { return &Store{db: d} }

// Certificate is one known certificate.
type Certificate struct {
	ID          string
	Fingerprint string // SHA-256, lower-case hexadecimal
	Status      Status
	Source      Source
	Managed     bool   // the renewal engine looks after it
	Owner       string // "" = nobody yet; likewise Team and Environment
	Team        string
	Environment string
	IssuerID    int64
	Issuer      string // label of the issuer
	KeyType     string // pki.KeyDescription
	Signature   string // signature algorithm as crypto/x509 names it
	Serial      string // hexadecimal
	CommonName  string
	Names       []string // the first ones, as far as a list shows them
	NameCount   int      // how many the certificate has
	CA          bool
	NotBefore   time.Time
	NotAfter    time.Time
	FirstSeenAt time.Time
	LastSeenAt  time.Time // moves at most once an hour; endpoints have the exact instants
	RevokedAt   time.Time // zero = not known to be revoked
	RetiredAt   time.Time // zero = not retired
	SuccessorID string    // the next certificate of the same names, key kind and owner, or ""
}

// shown are the columns of a Certificate, of inventory c. The last sighting is
// a subquery rather than a join: it is asked for rows of the page alone, and no
// planner can begin with it.
const shown = `c.id, c.fingerprint, c.status, c.source, c.managed, c.owner, c.team, c.environment, c.issuer_id, c.key_type,
	c.signature, c.serial, c.subject_cn, c.names, c.name_count, c.is_ca, c.not_before, c.not_after, c.first_seen_at,
	(SELECT s.last_seen_at FROM inventory_seen s WHERE s.inventory_id = c.id),
	c.revoked_at, c.retired_at, c.successor_id`

func scanCertificate(r *db.Row) Certificate {
	return Certificate{ID: r.Text(), Fingerprint: r.Text(), Status: Status(r.Word()), Source: Source(r.Int64()), Managed: r.Bool(),
		Owner: r.Text(), Team: r.Text(), Environment: r.Word(), IssuerID: r.Int64(), KeyType: r.Word(), Signature: r.Word(),
		Serial: r.Text(), CommonName: r.Text(), Names: strings.Fields(r.Text()), NameCount: r.Int(), CA: r.Bool(),
		NotBefore: r.Time(), NotAfter: r.Time(), FirstSeenAt: r.Time(), LastSeenAt: r.Time(), RevokedAt: r.Time(), RetiredAt: r.Time(),
		SuccessorID: r.Text()}
}

var (
	qByIDs           = db.SQL("inventory.list_by_ids", `SELECT `+shown+` FROM inventory c WHERE c.id = ANY($1::text[]) ORDER BY c.id`)
	qKeyHashes       = db.SQL("inventory.list_key_hashes", `SELECT id, spki_hash FROM inventory WHERE id = ANY($1::text[])`)
	qIDByFingerprint = db.SQL("inventory.read_id", `SELECT id FROM inventory WHERE fingerprint = $1`)
	qDER             = db.SQL("inventory.read_der", `SELECT der FROM inventory_der WHERE inventory_id = $1`)
	qNames           = db.SQL("inventory.list_names", `SELECT rname FROM inventory_name WHERE inventory_id = $1 AND rname > $2 ORDER BY rname LIMIT $3`)
	qTags            = db.SQL("inventory.list_tags", `SELECT tag FROM inventory_tag WHERE inventory_id = $1 ORDER BY tag`)
	qPredecessors    = db.SQL("inventory.list_predecessors", `SELECT id FROM inventory WHERE successor_id = $1 ORDER BY id LIMIT 100`)
)

// Detail is everything about one certificate.
type Detail struct {
	Certificate
	AllNames     []string // DNS names and addresses, at most MaxNames, in no useful order
	Tags         []string // "name=value", sorted
	Predecessors []string // ids of the certificates that this one succeeded
}

// Get returns the certificate with an id or a fingerprint (hexadecimal, colons
// allowed), or a *fault.Error (notFound).
func (s *Store) Get(ctx context.Context, ref string) (Detail, error) {
	id, err := s.resolve(ctx, ref)
	if err != nil {
		return Detail{}, err
	}
	found, err := s.byIDs(ctx, []string{id})
	if err != nil || len(found) == 0 {
		return Detail{}, orNotFound(ref, err)
	}
	d := Detail{Certificate: found[0]}
	q := s.db.Read()
	if d.AllNames, err = db.List(ctx, q, qNames, func(r *db.Row) string { return reversed(r.Text()) }, id, "", MaxNames); err != nil {
		return d, fmt.Errorf("read names: %w", err)
	}
	if d.Tags, err = db.List(ctx, q, qTags, (*db.Row).Text, id); err != nil {
		return d, fmt.Errorf("read tags: %w", err)
	}
	if d.Predecessors, err = db.List(ctx, q, qPredecessors, (*db.Row).Text, id); err != nil {
		return d, fmt.Errorf("read predecessors: %w", err)
	}
	return d, nil
}

func orNotFound(ref string, err error) error {
	if err == nil || errors.Is(err, db.ErrNotFound) {
		return fault.New(fault.NotFound, "the inventory has no certificate %.80q", ref)
	}
	return fmt.Errorf("read certificate: %w", err)
}

// resolve returns the id that ref, an id or a fingerprint, stands for.
func (s *Store) resolve(ctx context.Context, ref string) (string, error) {
	if db.ValidID(ref) {
		return ref, nil
	}
	fp := strings.ToLower(strings.ReplaceAll(ref, ":", ""))
	if !ValidFingerprint(fp) {
		return "", fault.New(fault.Invalid, "%.80q is neither the id of a certificate nor a SHA-256 fingerprint", ref)
	}
	id, err := db.Get(ctx, s.db.Read(), qIDByFingerprint, (*db.Row).Text, fp)
	if err != nil {
		return "", orNotFound(ref, err)
	}
	return id, nil
}

// byIDs returns the certificates with ids, ordered by id.
func (s *Store) byIDs(ctx context.Context, ids []string) ([]Certificate, error) {
	found, err := db.List(ctx, s.db.Read(), qByIDs, scanCertificate, ids)
	if err != nil {
		return nil, fmt.Errorf("read certificates: %w", err)
	}
	return found, s.label(ctx, found)
}

// label fills in the labels of issuers.
func (s *Store) label(ctx context.Context, certs []Certificate) error {
	ids := make([]int64, 0, 8)
	last := int64(0)
	for i := range certs {
		if id := certs[i].IssuerID; id != last {
			ids, last = append(ids, id), id
		}
	}
	labels, err := s.issuers.of(ctx, s.db.Read(), ids)
	if err != nil {
		return fmt.Errorf("read issuers: %w", err)
	}
	for i := range certs {
		certs[i].Issuer = labels[certs[i].IssuerID]
	}
	return nil
}

// DER returns the bytes of a certificate by id or fingerprint, or a
// *fault.Error (notFound), also when only its description is known.
func (s *Store) DER(ctx context.Context, ref string) ([]byte, error) {
	id, err := s.resolve(ctx, ref)
	if err != nil {
		return nil, err
	}
	der, err := db.Get(ctx, s.db.Read(), qDER, (*db.Row).Bytes, id)
	if errors.Is(err, db.ErrNotFound) {
		return nil, fault.New(fault.NotFound, "the inventory does not have the bytes of certificate %.80q", ref)
	}
	return der, err
}

// List names with a version of their own.
const (
	certificates = "certificates"
	endpoints    = "endpoints"
)

var (
	qVersion = db.SQL("inventory.read_version", `SELECT version FROM inventory_version WHERE list = $1`)
	qMove    = db.SQL("inventory.move_version", `INSERT INTO inventory_version (list, version) VALUES ($1, 1)
		ON CONFLICT (list) DO UPDATE SET version = inventory_version.version + 1`)
)

// Version returns a number that moves with every change of what certificate
// lists show. Read it before the list it is to stand for.
func (s *Store) Version(ctx context.Context) (int64, error) { return s.version(ctx, certificates) }

// EndpointVersion is Version for endpoint lists.
func (s *Store) EndpointVersion(ctx context.Context) (int64, error) { return s.version(ctx, endpoints) }

func (s *Store) version(ctx context.Context, list string) (int64, error) {
	v, err := db.Get(ctx, s.db.Read(), qVersion, (*db.Row).Int64, list)
	if err != nil && !errors.Is(err, db.ErrNotFound) {
		return 0, fmt.Errorf("read version: %w", err)
	}
	return v, nil
}

// change is a structural change under way: it holds the lock of all of them,
// and gathers what happens to the roll-ups.
type change struct {
	tx     *db.Tx
	counts ledger
}

// change runs fn as the only structural change of the fleet. fn may run more
// than once. The version moves first: its row is the lock.
func (s *Store) change(ctx context.Context, fn func(context.Context, *change) error) error {
	return s.db.Write(ctx, func(tx *db.Tx) error {
		if _, err := tx.Exec(ctx, qMove, certificates); err != nil {
			return err
		}
		c := &change{tx: tx, counts: ledger{}}
		if err := fn(ctx, c); err != nil {
			return err
		}
		c.counts.flush(tx)
		return nil
	})
}

// member is a certificate as a change needs it.
type member struct {
	id, fingerprint string
	dims
	notBefore, notAfter int64
	revokedAt           int64
	retired             bool
	lineage             int64
	successor           string
	hasDER              bool
}

// memberColumns are those of a member, of inventory c.
const memberColumns = `c.id, c.fingerprint, c.status, c.issuer_id, c.key_type, c.owner, c.team, c.environment, c.source, c.managed,
	c.not_before, c.not_after, c.revoked_at, c.retired_at, c.lineage, c.successor_id,
	CASE WHEN EXISTS (SELECT 1 FROM inventory_der d WHERE d.inventory_id = c.id) THEN 1 ELSE 0 END::bigint`

func scanMember(r *db.Row) *member {
	m := &member{id: r.Text(), fingerprint: r.Text(), dims: dims{status: Status(r.Text()), issuer: r.Int64(), key: r.Text(),
		owner: r.Text(), team: r.Text(), environment: r.Text(), source: Source(r.Int64()), managed: r.Int64()},
		notBefore: r.Int64(), notAfter: r.Int64(), revokedAt: r.Int64(), retired: r.Int64() != 0, lineage: r.Int64(), successor: r.Text(), hasDER: r.Bool()}
	m.day = dayOf(m.notAfter)
	return m
}

// facts are what the status of m follows from.
func (m *member) facts() facts {
	return facts{retired: m.retired, revoked: m.revokedAt != 0, notAfter: m.notAfter, successor: m.successor != ""}
}

var qMembers = db.SQL("inventory.list_members", `SELECT `+memberColumns+` FROM inventory c WHERE c.id = ANY($1::text[]) ORDER BY c.id`)

// members reads certificates by id.
func (c *change) members(ctx context.Context, ids []string) ([]*member, error) {
	return db.List(ctx, c.tx, qMembers, scanMember, ids)
}

// recount runs edit and books the difference it makes to m.
func (c *change) recount(m *member, edit func()) {
	before := m.dims
	edit()
	if m.dims != before {
		c.counts.add(before, -1)
		c.counts.add(m.dims, 1)
	}
}

var qSetStatus = db.SQL("inventory.update_status", `UPDATE inventory SET status = $2 WHERE id = ANY($1::text[])`)

// setStatus gives m the status that its facts ask for at now.
func (c *change) setStatus(m *member, now int64) {
	want := m.facts().status(now)
	if !slices.Contains(transitions[m.status], want) {
		return // the same, or another replica's clock is ahead of ours
	}
	c.recount(m, func() { m.status = want })
	c.tx.Queue(qSetStatus, nil, []string{m.id}, want)
}

// KeyHashes returns the SHA-256 of the public keys of certificates by id.
func (s *Store) KeyHashes(ctx context.Context, ids []string) (map[string][]byte, error) {
	out := make(map[string][]byte, len(ids))
	err := s.db.Read().All(ctx, qKeyHashes, func(r *db.Row) error {
		id := r.Text()
		out[id] = r.Bytes()
		return nil
	}, ids)
	if err != nil {
		return nil, fmt.Errorf("read keys: %w", err)
	}
	return out, nil
}
