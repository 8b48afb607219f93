package inventory

import (
	"context"
	"fmt"
	"slices"
	"time"

	"chancery/internal/db"
	"chancery/internal/fault"
)

// Result is what became of a batch.
type Result struct {
	New     int         // certificates that were not known
	Changed int         // known ones that the batch told something new about
	Known   int         // known ones that were only seen again
	IDs     []string    // by position in the batch; "" without a certificate or when refused
	Refused []ItemError // the rest of the batch is stored
}

var (
	putRows = db.BulkInsert("inventory.insert_rows", "inventory", false, "id", "fingerprint", "status", "source", "managed", "owner", "team",
		"environment", "issuer_id", "key_type", "signature", "serial", "serial_key", "spki_hash", "spki_key", "subject_cn", "names", "name_count", "is_ca",
		"not_before", "not_after", "first_seen_at", "revoked_at", "lineage")
	putDERs  = db.BulkInsert("inventory.insert_ders", "inventory_der", false, "inventory_id", "der")
	putDER   = db.BulkInsert("inventory.insert_missing_ders", "inventory_der", true, "inventory_id", "der")
	putSeen  = db.BulkInsert("inventory.insert_seen", "inventory_seen", false, "inventory_id", "last_seen_at")
	putNames = db.BulkInsert("inventory.insert_names", "inventory_name", false, "rname", "not_after", "inventory_id")
	putTags  = db.BulkInsert("inventory.insert_tags", "inventory_tag", true, "tag", "not_after", "inventory_id")

	qKnown = db.SQL("inventory.list_known", `SELECT `+memberColumns+` FROM inventory c WHERE c.fingerprint = ANY($1::text[])`)
	qBump  = db.SQL("inventory.bump_seen", `UPDATE inventory_seen SET last_seen_at = $2
		WHERE inventory_id = ANY($1::text[]) AND last_seen_at < $3`)
	qMerge = db.SQL("inventory.update_merged", `UPDATE inventory SET source = $2, managed = $3, owner = $4, team = $5, environment = $6,
		revoked_at = $7 WHERE id = $1`)
	qTagSet = db.SQL("inventory.list_tag_set", `SELECT inventory_id, tag FROM inventory_tag WHERE inventory_id = ANY($1::text[])`)
)

// seenStep is how far LastSeenAt may lag: a certificate behind a thousand
// endpoints is written once per step, not a thousand times per pass.
const seenStep = int64(time.Hour / time.Millisecond)

// batch is a checked Put.
type batch struct {
	now      int64
	records  []*record // one per fingerprint
	sights   []sight
	position [][]int // by record: positions of the observations that it stands for
	refused  []ItemError
	size     int

	// set by each run of the transaction
	ids   map[string]string // by fingerprint
	known map[string]*member
	res   Result
}

// Put stores a batch of at most MaxBatch observations in one transaction.
// Items that cannot be stored are refused one by one; an error means that
// nothing was stored. Repeating a batch changes nothing.
func (s *Store) Put(ctx context.Context, obs []Observation, now time.Time) (Result, error) {
	if len(obs) > MaxBatch {
		return Result{}, fault.New(fault.TooLarge, "a batch has at most %d observations, this one has %d", MaxBatch, len(obs))
	}
	b := newBatch(obs, now)
	if len(b.records) == 0 && len(b.sights) == 0 {
		return Result{IDs: make([]string, len(obs)), Refused: b.refused}, nil
	}
	if err := s.put(ctx, b); err != nil {
		return Result{}, fmt.Errorf("store observations: %w", err)
	}
	return b.res, nil
}

// newBatch checks every observation and merges those of one certificate.
func newBatch(obs []Observation, now time.Time) *batch {
	b := &batch{now: now.UnixMilli(), size: len(obs)}
	at, known := map[string]int{}, map[int64]issuer{}
	for i := range obs {
		r, err := newRecord(i, &obs[i], known)
		if err != nil {
			b.refused = append(b.refused, ItemError{Index: i, Err: err})
			continue
		}
		fp := ""
		if r != nil {
			fp = r.fingerprint
			if j, again := at[fp]; again {
				b.records[j].merge(r)
				b.position[j] = append(b.position[j], i)
			} else {
				at[fp] = len(b.records)
				b.records, b.position = append(b.records, r), append(b.position, []int{i})
			}
		}
		if g := obs[i].Endpoint; g != nil {
			b.sights = append(b.sights, sight{Sighting: g, fingerprint: fp, at: obs[i].SeenAt.UnixMilli(), index: i})
		}
	}
	return b
}

// merge adds what another observation of the same certificate says.
func (r *record) merge(o *record) {
	if r.meta == nil && o.meta != nil {
		o.merge(r)
		*r = *o
		return
	}
	if r.der == nil {
		r.der = o.der
	}
	r.id = first(r.id, o.id)
	r.source |= o.source
	r.seenAt = max(r.seenAt, o.seenAt)
	r.managed = r.managed || o.managed
	r.owner, r.team, r.environment = first(r.owner, o.owner), first(r.team, o.team), first(r.environment, o.environment)
	if r.revokedAt == 0 {
		r.revokedAt = o.revokedAt
	}
	r.tags = append(r.tags, o.tags...)
	slices.Sort(r.tags)
	r.tags = slices.Compact(r.tags)
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func (b *batch) fingerprints() []string {
	fps := make([]string, len(b.records))
	for i, r := range b.records {
		fps[i] = r.fingerprint
	}
	return fps
}

// look reads which certificates of b are known.
func (b *batch) look(ctx context.Context, q db.Q) error {
	b.known = make(map[string]*member, len(b.records))
	return q.All(ctx, qKnown, func(r *db.Row) error {
		m := scanMember(r)
		b.known[m.fingerprint] = m
		return nil
	}, b.fingerprints())
}

// structural reports whether b changes more than the time of a sighting.
func (b *batch) structural() bool {
	return slices.ContainsFunc(b.records, func(r *record) bool {
		m := b.known[r.fingerprint]
		return m == nil && r.meta != nil || m != nil && r.news(m)
	})
}

// news reports whether r knows something that m does not.
func (r *record) news(m *member) bool {
	return r.source&^m.source != 0 || r.managed && m.managed == 0 || r.der != nil && !m.hasDER ||
		r.owner != "" && m.owner == "" || r.team != "" && m.team == "" || r.environment != "" && m.environment == "" ||
		r.revokedAt != 0 && m.revokedAt == 0 || len(r.tags) > 0
}

func (s *Store) put(ctx context.Context, b *batch) error {
	if err := b.look(ctx, s.db.Read()); err != nil {
		return err
	}
	if b.structural() {
		return s.change(ctx, func(ctx context.Context, c *change) error {
			if err := b.look(ctx, c.tx); err != nil {
				return err
			}
			if err := b.apply(ctx, c); err != nil {
				return err
			}
			return b.sighted(ctx, c.tx)
		})
	}
	return s.db.Write(ctx, func(tx *db.Tx) error {
		b.begin()
		for _, r := range b.records {
			b.settle(r, b.known[r.fingerprint])
		}
		return b.sighted(ctx, tx)
	})
}

// begin resets what a run of the transaction sets.
func (b *batch) begin() {
	b.ids = make(map[string]string, len(b.records))
	b.res = Result{IDs: make([]string, b.size), Refused: slices.Clone(b.refused)}
}

// settle books a record that only bumps a known certificate, or that names an
// unknown one by fingerprint.
func (b *batch) settle(r *record, m *member) {
	if m == nil {
		b.res.Refused = append(b.res.Refused, ItemError{Index: r.index,
			Err: fault.New(fault.NotFound, "no certificate with fingerprint %s is known; send the certificate itself", r.fingerprint)})
		return
	}
	b.ids[r.fingerprint] = m.id
	b.res.Known++
}

// apply stores the new certificates and what is new about known ones.
func (b *batch) apply(ctx context.Context, c *change) error {
	b.begin()
	var fresh []*record
	for _, r := range b.records {
		m := b.known[r.fingerprint]
		switch {
		case m == nil && r.meta != nil:
			fresh = append(fresh, r)
		case m != nil && r.news(m):
			changed, err := c.merge(ctx, m, r, b.now)
			if err != nil {
				return err
			}
			b.ids[r.fingerprint] = m.id
			if changed {
				b.res.Changed++
			} else {
				b.res.Known++
			}
		default:
			b.settle(r, m)
		}
	}
	b.res.New = len(fresh)
	return b.insert(ctx, c, fresh)
}

// merge writes what r adds to m.
func (c *change) merge(ctx context.Context, m *member, r *record, now int64) (bool, error) {
	changed, err := c.addTags(ctx, m, r.tags)
	if err != nil {
		return false, err
	}
	if r.der != nil && !m.hasDER {
		changed = true
		if err := c.tx.Insert(ctx, putDER, [][]any{{m.id, r.der}}); err != nil {
			return false, err
		}
	}
	before, revoked := m.dims, m.revokedAt
	moves := m.owner == "" && r.owner != "" || r.revokedAt != 0 && m.revokedAt == 0
	if moves { // leaves its chain before it belongs to another
		if err := c.unlink(ctx, m, now); err != nil {
			return false, err
		}
	}
	c.recount(m, func() {
		m.source |= r.source
		if r.managed {
			m.managed = 1
		}
		m.owner, m.team, m.environment = first(m.owner, r.owner), first(m.team, r.team), first(m.environment, r.environment)
	})
	if m.revokedAt == 0 {
		m.revokedAt = r.revokedAt
	}
	if m.dims == before && m.revokedAt == revoked {
		return changed, nil
	}
	c.tx.Queue(qMerge, nil, m.id, int64(m.source), m.managed, m.owner, m.team, m.environment, instant(m.revokedAt))
	c.setStatus(m, now)
	if moves {
		return true, c.link(ctx, m, now)
	}
	return true, nil
}

// addTags adds tags to m and drops those with the same name and another value.
func (c *change) addTags(ctx context.Context, m *member, tags []string) (bool, error) {
	if len(tags) == 0 {
		return false, nil
	}
	have, err := c.tagSets(ctx, []string{m.id})
	if err != nil {
		return false, err
	}
	return c.setTags(ctx, m, have[m.id], tags, nil)
}

// instant is nil for 0.
func instant(ms int64) any {
	if ms == 0 {
		return nil
	}
	return ms
}

// unlessZero is nil for a pointer to 0.
func unlessZero(ms *int64) *int64 {
	if *ms == 0 {
		return nil
	}
	return ms
}

// insert stores new certificates, each table in one bulk write.
func (b *batch) insert(ctx context.Context, c *change, fresh []*record) error {
	if len(fresh) == 0 {
		return nil
	}
	if err := c.tx.Insert(ctx, putIssuer, issuerRows(fresh, time.UnixMilli(b.now))); err != nil {
		return err
	}
	relatives, err := c.relatives(ctx, fresh)
	if err != nil {
		return err
	}
	var t tables
	var chained []*member
	for _, r := range fresh {
		m := r.member(first(r.id, db.NewID(time.UnixMilli(b.now))), b.now)
		b.ids[r.fingerprint] = m.id
		t.add(r, m)
		c.counts.add(m.dims, 1)
		if relatives[m.lineage] {
			chained = append(chained, m)
		}
	}
	if err := t.store(ctx, c.tx); err != nil {
		return err
	}
	for _, m := range chained {
		// A neighbour that was linked before may have changed the row.
		again, err := c.members(ctx, []string{m.id})
		if err != nil {
			return err
		}
		if err := c.link(ctx, again[0], b.now); err != nil {
			return err
		}
	}
	return nil
}

// relatives returns the lineages among fresh that have more than one member.
func (c *change) relatives(ctx context.Context, fresh []*record) (map[int64]bool, error) {
	many := map[int64]bool{}
	var asked []int64
	for _, r := range fresh {
		if r.lineage == 0 {
			continue
		}
		if _, again := many[r.lineage]; again {
			many[r.lineage] = true
			continue
		}
		many[r.lineage] = false
		asked = append(asked, r.lineage)
	}
	err := c.tx.All(ctx, qLineages, func(row *db.Row) error { many[row.Int64()] = true; return nil }, asked)
	return many, err
}

// member is the row of a new certificate.
func (r *record) member(id string, now int64) *member {
	m := &member{id: id, fingerprint: r.fingerprint, notBefore: r.meta.NotBefore.UnixMilli(), notAfter: r.meta.NotAfter.UnixMilli(),
		revokedAt: r.revokedAt, lineage: r.lineage}
	m.dims = dims{day: dayOf(m.notAfter), issuer: r.issuer.id, key: clean(r.meta.Key, maxToken), owner: r.owner, team: r.team,
		environment: r.environment, source: r.source}
	if r.managed {
		m.managed = 1
	}
	m.status = m.facts().status(now)
	return m
}

// tables are the rows of new certificates, by table.
type tables struct{ rows, ders, seen, names, tags [][]any }

func (t *tables) add(r *record, m *member) {
	// Pointers, for an interface would copy each value to memory of its own.
	x := &struct {
		algorithm, serial, commonName string
		serialKey, spkiKey            int64
		spki                          []byte
	}{algorithm: clean(r.meta.SignatureAlgo, maxToken), serial: r.meta.Serial.Hex(), commonName: clean(r.meta.CommonName, maxText),
		spkiKey: prefix64(r.meta.SPKIHash[:]), spki: r.meta.SPKIHash[:]}
	x.serialKey = serialKey(x.serial)
	t.rows = append(t.rows, []any{&m.id, &m.fingerprint, (*string)(&m.status), int64(m.source), m.managed, &m.owner, &m.team, &m.environment, &m.issuer,
		&m.key, &x.algorithm, &x.serial, &x.serialKey, &x.spki, &x.spkiKey, &x.commonName, &r.shown,
		len(r.meta.Names), r.meta.CA, &m.notBefore, &m.notAfter, &r.seenAt, unlessZero(&m.revokedAt), unlessZero(&m.lineage)})
	if r.der != nil {
		t.ders = append(t.ders, []any{&m.id, &r.der})
	}
	t.seen = append(t.seen, []any{&m.id, &r.seenAt})
	for _, name := range r.names {
		t.names = append(t.names, []any{reversed(name), &m.notAfter, &m.id})
	}
	for _, tag := range r.tags {
		t.tags = append(t.tags, []any{tag, &m.notAfter, &m.id})
	}
}

func (t *tables) store(ctx context.Context, tx *db.Tx) error {
	for _, part := range []struct {
		into *db.Bulk
		rows [][]any
	}{{putRows, t.rows}, {putDERs, t.ders}, {putSeen, t.seen}, {putNames, t.names}, {putTags, t.tags}} {
		if err := tx.Insert(ctx, part.into, part.rows); err != nil {
			return err
		}
	}
	return nil
}

// sighted writes when and where certificates were seen. It takes no lock but
// those of its rows until the versions move, last.
func (b *batch) sighted(ctx context.Context, tx *db.Tx) error {
	for i, r := range b.records {
		for _, at := range b.position[i] {
			b.res.IDs[at] = b.ids[r.fingerprint]
		}
	}
	bumps := map[int64][]string{} // by minute: few statements, and no sighting moves by more
	for _, r := range b.records {
		if id := b.ids[r.fingerprint]; id != "" && b.known[r.fingerprint] != nil {
			minute := r.seenAt - r.seenAt%60000
			bumps[minute] = append(bumps[minute], id)
		}
	}
	for minute, ids := range bumps {
		slices.Sort(ids)
		tx.Queue(qBump, nil, ids, minute, minute-seenStep)
	}
	b.endpoints(tx)
	if len(b.sights) > 0 {
		tx.Queue(qMove, nil, endpoints)
	}
	if len(bumps) > 0 {
		tx.Queue(qMove, nil, certificates)
	}
	return nil
}
