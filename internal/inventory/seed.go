package inventory

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"chancery/internal/db"
	"chancery/internal/pki"
)

// seedChunk is how many certificates of an invented estate share a
// transaction: large, because each commit rewrites the pages of every index.
const seedChunk = 20000

// Seed fills the inventory with n invented certificates, the same ones for the
// same n and now: some hundred owners of uneven size, the usual mix of
// issuers, keys and lifetimes, renewals that overlap, endpoints that mostly
// answer. They have no DER. It is for demonstrations and measurements, on an
// inventory that nobody else writes to; if it is interrupted, call Rebuild.
func Seed(ctx context.Context, d *db.DB, n int, now time.Time) error {
	return seed(ctx, d, n, now, func(int) {})
}

// estateSetting is the row that says what became of an Estate.
const estateSetting = "inventory.estate"

var (
	qSetting    = db.SQL("inventory.get_setting", `SELECT value FROM setting WHERE name = $1`)
	qSetSetting = db.SQL("inventory.set_setting", `INSERT INTO setting (name, value, updated_at) VALUES ($1, $2, $3)
		ON CONFLICT (name) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at`)
)

// Estate is Seed for an installation that is started again and again: there is
// one estate, made once, and one that was interrupted is counted as it is.
// progress, if not nil, is told how many certificates there are. made is false
// when there was an estate already.
func Estate(ctx context.Context, d *db.DB, n int, now time.Time, progress func(made int)) (made bool, err error) {
	if progress == nil {
		progress = func(int) {}
	}
	mark := func(state string) error {
		return d.Write(ctx, func(tx *db.Tx) error {
			_, err := tx.Exec(ctx, qSetSetting, estateSetting, state, now)
			return err
		})
	}
	switch state, err := db.Get(ctx, d.Read(), qSetting, (*db.Row).Text, estateSetting); {
	case err == nil && state == "done":
		return false, nil
	case err == nil:
		if err := New(d).Rebuild(ctx); err != nil {
			return false, err
		}
		return false, mark("done")
	case !errors.Is(err, db.ErrNotFound):
		return false, fmt.Errorf("read estate: %w", err)
	}
	if err := mark("seeding"); err != nil {
		return false, err
	}
	if err := seed(ctx, d, n, now, progress); err != nil {
		return false, err
	}
	return true, mark("done")
}

func seed(ctx context.Context, d *db.DB, n int, now time.Time, progress func(made int)) error {
	e := newEstate(n, now)
	s := New(d)
	counts := ledger{}
	for made := 0; made < n; {
		size := min(seedChunk, n-made)
		e.make(size, counts)
		err := s.change(ctx, func(ctx context.Context, c *change) error { return e.store(ctx, c.tx, made == 0) })
		if err != nil {
			return fmt.Errorf("seed inventory: %w", err)
		}
		made += size
		progress(made)
	}
	cells := counts.sorted()
	for len(cells) > 0 {
		part := cells[:min(len(cells), seedChunk)]
		err := s.change(ctx, func(ctx context.Context, c *change) error {
			for _, cell := range part {
				c.counts[cell] = counts[cell]
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("seed roll-ups: %w", err)
		}
		cells = cells[len(part):]
	}
	return nil
}

// Shares of an invented estate.
var (
	seedTrades  = []string{"pay", "shop", "search", "mail", "data", "auth", "edge", "build", "video", "chat", "maps", "ads", "bank", "care", "fleet", "labs", "news", "ops", "play", "ride"}
	seedEnvs    = []string{"prod", "prod", "prod", "staging", "test", "dev"}
	seedIssuers = []string{"Example Issuing CA 1", "Example Issuing CA 2", "R11", "E6", "WE1", "DigiCert Global G2 TLS RSA SHA256 2020 CA1", "Sectigo RSA DV", "Corp Internal CA"}
	seedKeys    = []string{"p256", "p256", "p256", "rsa2048", "rsa2048", "p384", "rsa4096", "ed25519", "rsa1024", "ml-dsa-65"}
	seedSources = []Source{FromCA, FromCA | FromScan, FromCA | FromScan, FromScan, FromImport | FromCT, FromImport, FromCloud, FromAgent | FromScan}
)

// seedOwners is the number of owners.
const seedOwners = 200

// renewalAhead is how much later the successor of a certificate ends.
const renewalAhead = 60 * dayMillis

// estate makes certificates in the order of their end: every index but those
// of hashes then grows at a few places only, which is what makes it fast.
type estate struct {
	n, made int
	now     int64
	rnd     *rand.Rand
	hosts   [seedOwners]int // names given out per owner
	pending []heir          // successors to come, in the order of their end

	parts  tables
	places [][]any
}

// heir is a certificate that will succeed one that was made.
type heir struct {
	id       string
	owner    int
	host     string
	key      string
	notAfter int64
}

func newEstate(n int, now time.Time) *estate {
	return &estate{n: n, now: now.UnixMilli(), rnd: rand.New(rand.NewPCG(uint64(n), 0x63686e63))}
}

var (
	putSeeds = db.BulkInsert("inventory.insert_seeds", "inventory", false, "id", "fingerprint", "status", "source", "managed", "owner", "team",
		"environment", "issuer_id", "key_type", "signature", "serial", "serial_key", "spki_hash", "spki_key", "subject_cn", "names", "name_count", "is_ca",
		"not_before", "not_after", "first_seen_at", "revoked_at", "lineage", "successor_id")
	putPlaces = db.BulkInsert("inventory.insert_places", "endpoint", false, "rhost", "port", "sni", "address", "inventory_id", "probe",
		"problems", "failure", "failed_since", "first_seen_at", "last_seen_at", "last_ok_at", "changed_at")
)

func (e *estate) store(ctx context.Context, tx *db.Tx, first bool) error {
	if first {
		var issuers [][]any
		for _, label := range seedIssuers {
			issuers = append(issuers, []any{sum64(label), "CN=" + label + ",O=Example", label, nil, e.now})
		}
		if err := tx.Insert(ctx, putIssuer, issuers); err != nil {
			return err
		}
	}
	if err := tx.Insert(ctx, putSeeds, e.parts.rows); err != nil {
		return err
	}
	rest := e.parts
	rest.rows = nil
	if err := rest.store(ctx, tx); err != nil {
		return err
	}
	return tx.Insert(ctx, putPlaces, e.places)
}

// make replaces the rows of e by those of the next size certificates.
func (e *estate) make(size int, counts ledger) {
	e.parts, e.places = tables{}, nil
	for range size {
		notAfter := e.end()
		if len(e.pending) > 0 && e.pending[0].notAfter <= notAfter {
			h := e.pending[0]
			e.pending = e.pending[1:]
			e.one(h, counts)
		} else {
			owner := int(e.rnd.Float64() * e.rnd.Float64() * seedOwners)
			e.hosts[owner]++
			host := fmt.Sprintf("app-%06d.%s.example.com", e.hosts[owner], ownerName(owner))
			e.one(heir{db.NewID(time.UnixMilli(e.now)), owner, host, seedKeys[(owner+e.rnd.IntN(4)*e.rnd.IntN(4))%len(seedKeys)], notAfter}, counts)
		}
		e.made++
	}
}

// end is the end of the next certificate: 6 % have ended within 60 days, 70 %
// end within 90 days, the others within a year.
func (e *estate) end() int64 {
	u := float64(e.made) / float64(e.n)
	day := float64(dayMillis)
	switch {
	case u < 0.06:
		return e.now - int64((0.06-u)/0.06*60*day)
	case u < 0.76:
		return e.now + int64((u-0.06)/0.70*90*day)
	}
	return e.now + int64((90+(u-0.76)/0.24*308)*day)
}

func ownerName(i int) string {
	if i < len(seedTrades) {
		return seedTrades[i]
	}
	return fmt.Sprintf("%s-%d", seedTrades[i%len(seedTrades)], i/len(seedTrades))
}

// hash is a hash-like value that grows with the position, so that the indexes
// of hashes grow at their end.
func (e *estate) hash(salt uint64, size int) []byte {
	b := make([]byte, 32)
	binary.BigEndian.PutUint32(b, uint32(uint64(e.made)<<32/uint64(e.n)))
	binary.BigEndian.PutUint64(b[4:], salt^uint64(e.made)*0x9e3779b97f4a7c15)
	binary.BigEndian.PutUint64(b[12:], e.rnd.Uint64())
	binary.BigEndian.PutUint64(b[20:], e.rnd.Uint64())
	return b[:size]
}

// one adds the rows of a certificate.
func (e *estate) one(h heir, counts ledger) {
	lifetime := int64(90)
	if h.notAfter > e.now+90*dayMillis {
		lifetime = 398
	}
	issuer := seedIssuers[(h.owner*3+e.rnd.IntN(2))%len(seedIssuers)]
	var successor any
	if e.rnd.IntN(12) == 0 {
		next := h
		next.id, next.notAfter = db.NewID(time.UnixMilli(e.now)), h.notAfter+renewalAhead
		e.pending = append(e.pending, next)
		successor = next.id
	}
	m := member{id: h.id, notBefore: h.notAfter - lifetime*dayMillis, notAfter: h.notAfter, dims: dims{day: dayOf(h.notAfter), issuer: sum64(issuer),
		key: h.key, owner: ownerName(h.owner), team: fmt.Sprintf("team-%02d", h.owner%23), environment: seedEnvs[e.rnd.IntN(len(seedEnvs))],
		source: seedSources[e.rnd.IntN(len(seedSources))]}}
	if e.rnd.IntN(2000) == 0 {
		m.source = FromScan | FromCT // nobody here asked for it: what alerts are for
	}
	if m.source&FromCA != 0 {
		m.managed = 1
	}
	if e.rnd.IntN(100) == 0 {
		m.revokedAt, successor = m.notBefore+dayMillis, nil
	}
	if e.rnd.IntN(20) == 0 {
		m.owner, m.team = "", ""
	}
	if m.owner == "" { // its heir has an owner, and is another lineage
		successor = nil
	}
	m.successor, _ = successor.(string)
	m.status = m.facts().status(e.now)
	counts.add(m.dims, 1)
	e.rows(&m, h, successor)
}

// rows adds what is stored about m.
func (e *estate) rows(m *member, h heir, successor any) {
	meta := pki.Metadata{Names: []string{h.host}, Key: h.key}
	serial, spki := hex.EncodeToString(e.hash(2, 16)), e.hash(3, 32)
	e.parts.rows = append(e.parts.rows, []any{m.id, hex.EncodeToString(e.hash(1, 32)), m.status, int64(m.source), m.managed, m.owner, m.team,
		m.environment, m.issuer, m.key, "ECDSA-SHA256", serial, serialKey(serial), spki, prefix64(spki), h.host, h.host, 1, 0,
		m.notBefore, m.notAfter, m.notBefore, instant(m.revokedAt), lineageOf(&meta), successor})
	seen := e.now - int64(e.rnd.IntN(3*24*60))*60000
	if m.status == Expired {
		seen = m.notAfter - m.notAfter%60000
	}
	e.parts.seen = append(e.parts.seen, []any{m.id, seen})
	e.parts.names = append(e.parts.names, []any{reversed(h.host), m.notAfter, m.id})
	if e.rnd.IntN(4) == 0 {
		e.parts.tags = append(e.parts.tags, []any{"app=" + seedTrades[e.rnd.IntN(len(seedTrades))], m.notAfter, m.id})
	}
	if m.source&FromScan != 0 && m.successor == "" {
		e.place(m, h, seen)
	}
}

// place adds an endpoint that serves m.
func (e *estate) place(m *member, h heir, seen int64) {
	failure, since, ok := "", any(nil), any(seen)
	if e.rnd.IntN(50) == 0 {
		failure, since, ok = "timeout-connect", seen-dayMillis, any(seen-2*dayMillis)
	}
	e.places = append(e.places, []any{reversed(h.host), 443, h.host, fmt.Sprintf("10.%d.%d.%d", e.rnd.IntN(256), e.rnd.IntN(256), e.rnd.IntN(256)),
		m.id, "observe", "", failure, since, m.notBefore, seen, ok, m.notBefore})
}
