package status

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"chancery/internal/ca"
	"chancery/internal/db"
	"chancery/internal/loop"
	"chancery/internal/pki"
)

// crl is one CRL of an authority: the published list, and the entries that the
// next one will have.
type crl struct {
	shard     int
	published atomic.Pointer[publishedCRL]

	mu      sync.Mutex
	entries []byte   // pre-encoded, in the order in which they became known
	expires []uint32 // of each entry: Unix minutes, rounded up
	covered int      // so many of the first entries are on the published list

	// Of whoever holds crlMu:
	retryAt  time.Time
	failures int

	written uint64 // number of the list in Config.Directory; of the directory loop alone
}

// publishedCRL is a CRL as the database has it.
type publishedCRL struct {
	number                 uint64
	thisUpdate, nextUpdate time.Time
	der                    []byte
	etag                   string
}

// setDER sets the list. It ends with the signature over all the rest, of which
// the last octets identify the whole.
func (p *publishedCRL) setDER(der []byte) {
	p.der, p.etag = der, `"`+hex.EncodeToString(der[max(len(der)-16, 0):])+`"`
}

// add enters a revoked serial.
func (c *crl) add(f *fact) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entries = pki.AppendCRLEntry(c.entries, pki.Serial(f.key()), time.Unix(int64(f.revokedAt), 0), pki.Reason(f.reason))
	c.expires = append(c.expires, f.expires)
}

// lacks reports whether the published list is missing an entry.
func (c *crl) lacks() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.covered < len(c.expires)
}

// due reports whether a new list is needed. The refreshes of shards that were
// first made together drift apart by up to a tenth.
func (c *crl) due(now time.Time, refresh time.Duration) bool {
	p := c.published.Load()
	if now.Before(c.retryAt) {
		return false
	}
	early := refresh / 10 * time.Duration(c.shard*31%97) / 97
	return p == nil || c.lacks() || !now.Before(p.thisUpdate.Add(refresh-early))
}

// drop removes the entries that need not be on the list after prev: those whose
// certificates had expired when it was published (RFC 5280 section 3.3). The
// caller holds mu.
func (c *crl) drop(prev *publishedCRL) {
	if prev != nil {
		c.filter(func(_ []byte, expires uint32) bool { return expires >= minutes(prev.thisUpdate) })
	}
}

// filter keeps the entries for which keep is true, in their order. The caller
// holds mu.
func (c *crl) filter(keep func(entry []byte, expires uint32) bool) {
	from, to, n, covered := 0, 0, 0, 0
	for i, expires := range c.expires {
		entry := c.entries[from : from+entryLen(c.entries[from:])]
		from += len(entry)
		if !keep(entry, expires) {
			continue
		}
		if i < c.covered {
			covered++
		}
		to += copy(c.entries[to:], entry)
		c.expires[n] = expires
		n++
	}
	c.entries, c.expires, c.covered = c.entries[:to], c.expires[:n], covered
}

// cover finds out which known entries are on a list that this process did not
// make. Those come first from now on; those that have rightly left are dropped.
func (c *crl) cover(p *publishedCRL) {
	on := newEntrySet(crlEntries(p.der)) // of a damaged list, entries are missing, and a new one is due
	c.mu.Lock()
	defer c.mu.Unlock()
	var missing []byte
	var missingExpires []uint32
	c.filter(func(entry []byte, expires uint32) bool {
		if bytes.Equal(on.find(entry), entry) {
			return true
		}
		if expires >= minutes(p.thisUpdate) {
			missing, missingExpires = append(missing, entry...), append(missingExpires, expires)
		}
		return false
	})
	c.covered = len(c.expires)
	c.entries, c.expires = append(c.entries, missing...), append(c.expires, missingExpires...)
}

// install makes a list that this process built the published one; the first
// known entries are on it.
func (c *crl) install(p *publishedCRL, known int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.covered = known
	c.published.Store(p)
}

var (
	qCRLs = db.SQL("status.list_crls", `SELECT authority_id, shard, number FROM crl`,
		db.Scan("one short row per shard; whatever another replica published must be seen"))
	qCRL = db.SQL("status.get_crl", `SELECT number, this_update, next_update, der FROM crl WHERE authority_id = $1 AND shard = $2`)

	qFirstCRL = db.SQL("status.insert_crl", `INSERT INTO crl (authority_id, shard, number, this_update, next_update, der)
		VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING`)
	// A mark made after the list was built stays, for doctor to see.
	qNextCRL = db.SQL("status.replace_crl", `UPDATE crl SET number = $3, this_update = $4, next_update = $5, der = $6,
		dirty_at = CASE WHEN dirty_at > $4 THEN dirty_at END
		WHERE authority_id = $1 AND shard = $2 AND number = $7`)
)

// syncCRLs takes over the lists that other replicas published. The caller
// holds crlMu.
func (s *Service) syncCRLs(ctx context.Context) error {
	type key struct {
		authority string
		shard     int
		number    int64
	}
	all, err := db.List(ctx, s.db.Read(), qCRLs, func(r *db.Row) key { return key{r.Text(), r.Int(), r.Int64()} })
	if err != nil {
		return fmt.Errorf("list CRLs: %w", err)
	}
	for _, k := range all {
		b := s.book(k.authority)
		if b == nil || k.shard < 0 || k.shard >= len(b.crls) {
			continue
		}
		c := b.crls[k.shard]
		if p := c.published.Load(); p != nil && p.number >= uint64(k.number) {
			continue
		}
		p, err := db.Get(ctx, s.db.Read(), qCRL, func(r *db.Row) *publishedCRL {
			p := &publishedCRL{number: uint64(r.Int64()), thisUpdate: r.Time(), nextUpdate: r.Time()}
			p.setDER(r.Bytes())
			return p
		}, k.authority, k.shard)
		if err != nil {
			return fmt.Errorf("read CRL: %w", err)
		}
		c.cover(p)
		c.published.Store(p)
	}
	return nil
}

// crlBatch is the most lists that one tick publishes, in one transaction.
const crlBatch = 256

// staleJournal is how old the last look at the journal may be for a CRL to be
// built on it.
const staleJournal = time.Minute

// candidate is a list that was built and checked, and is not published yet.
type candidate struct {
	crl   *crl
	auth  *ca.Authority
	prev  *publishedCRL // nil: the first list
	next  *publishedCRL
	known int
	won   bool
}

// publishCRLs is one tick of the CRL loop.
func (s *Service) publishCRLs(ctx context.Context) (n loop.Count, err error) {
	if !s.loaded.Load() {
		return n, nil
	}
	s.crlMu.Lock()
	defer s.crlMu.Unlock()
	if err := s.syncCRLs(ctx); err != nil {
		return n, err
	}
	now := s.now().UTC()
	if now.Sub(time.Unix(s.asOf.Load(), 0)) > staleJournal {
		return n, nil // the follow loop says why
	}
	var list []*candidate
	for _, b := range *s.books.Load() {
		if len(list) >= crlBatch {
			break
		}
		list = s.buildDue(ctx, b, now, list, &n)
	}
	if err := s.publish(ctx, list, &n); err != nil {
		return n, err
	}
	n.More = len(list) >= crlBatch
	s.measureCRLs()
	return n, nil
}

// buildDue builds the lists of one authority that are due.
func (s *Service) buildDue(ctx context.Context, b *book, now time.Time, list []*candidate, n *loop.Count) []*candidate {
	a := b.auth.Load()
	if !b.loaded.Load() || a.KeyRef == "" || !valid(a.Cert, now) {
		return list
	}
	var signer *ca.Authority
	for _, c := range b.crls {
		if len(list) >= crlBatch || !c.due(now, s.crlRefresh(b)) {
			continue
		}
		n.Claimed++
		var err error
		if signer == nil { // a root's key is opened for this tick only
			signer, err = s.ca.StatusSigner(ctx, a.ID)
		}
		var next *candidate
		if err == nil {
			next, err = s.build(ctx, b, c, signer, now)
		}
		if errors.Is(err, errBehind) {
			continue // the next tick knows more
		}
		if err != nil {
			n.Failed++
			c.failed(now)
			s.log.ErrorContext(ctx, "crl cannot be made", "authority", a.Name, "shard", c.shard, "error", err.Error())
			continue
		}
		list = append(list, next)
	}
	return list
}

// failed puts the next try off: a second, then twice as long each time, up to
// an hour.
func (c *crl) failed(now time.Time) {
	c.retryAt = now.Add(time.Second << min(c.failures, 12))
	c.failures++
}

func (s *Service) crlRefresh(b *book) time.Duration {
	if b.role == ca.RoleRoot {
		return s.cfg.RootCRLValidity / 2
	}
	return s.cfg.CRLRefresh
}

func (s *Service) crlValidity(b *book) time.Duration {
	if b.role == ca.RoleRoot {
		return s.cfg.RootCRLValidity
	}
	return s.cfg.CRLValidity
}

// build makes, signs, verifies and checks the next list of a shard.
func (s *Service) build(ctx context.Context, b *book, c *crl, signer *ca.Authority, now time.Time) (*candidate, error) {
	prev := c.published.Load()
	p := &publishedCRL{thisUpdate: now.Truncate(time.Second)}
	// Unix time as the number grows by itself, even over a database that was
	// restored from a backup and has forgotten the last lists.
	p.number = uint64(now.Unix())
	if prev != nil {
		p.number = max(p.number, prev.number+1)
		if p.thisUpdate.Before(prev.thisUpdate) {
			p.thisUpdate = prev.thisUpdate
		}
	}
	p.nextUpdate = p.thisUpdate.Add(s.crlValidity(b))
	list := pki.CRL{Number: p.number, ThisUpdate: p.thisUpdate, NextUpdate: p.nextUpdate,
		IDPURL: s.ca.URLs().CRL(signer, c.shard), OnlyUserCerts: b.role == ca.RoleIssuing}
	der, known, err := c.sign(ctx, signer, list, prev)
	if err != nil {
		return nil, err
	}
	p.setDER(der)
	next := &candidate{crl: c, auth: signer, prev: prev, next: p, known: known}
	err = s.checkNext(ctx, next)
	if errors.Is(err, errLost) && now.Sub(prev.thisUpdate) < behind {
		return nil, errBehind
	}
	if err != nil {
		s.metrics.crlRefused.Inc()
		return nil, err
	}
	return next, nil
}

// sign makes the DER of the list after prev, with all known entries, and says
// how many those are. It verifies the signature.
func (c *crl) sign(ctx context.Context, signer *ca.Authority, list pki.CRL, prev *publishedCRL) (der []byte, known int, err error) {
	c.mu.Lock()
	unlock := sync.OnceFunc(c.mu.Unlock)
	defer unlock()
	c.drop(prev)
	list.Entries, known = c.entries, len(c.expires)
	der, err = pki.SignCRL(signer.Issuer(), list, func(tbs []byte) ([]byte, error) {
		unlock() // the entries were copied, and a key may be slow
		sig, err := signer.SignTBS(ctx, tbs)
		if err != nil {
			return nil, err
		}
		if err := pki.VerifyTBS(signer.Cert.PublicKey, tbs, sig); err != nil {
			return nil, fmt.Errorf("verify own CRL: %w", err)
		}
		return sig, nil
	})
	return der, known, err
}

// behind is how long this process may take to hear of a revocation that is on
// a list of another replica already. A list of its own would lack it, so it
// waits; what is still missing after that was lost.
const behind = 10 * time.Second

var (
	errLost   = errors.New("refuse CRL: it lost entries that have not expired")
	errBehind = errors.New("another replica published what is not known here yet")
)

var qExpiry = db.SQL("status.list_expiry", `SELECT serial, not_after FROM certificate WHERE authority_id = $1 AND serial = ANY($2::text[])`)

// checkNext compares a list with the one it replaces, before anybody sees it:
// an entry may be missing only if the last list was published after its
// certificate expired. It trusts the database for that, not the table that the
// list was built from.
func (s *Service) checkNext(ctx context.Context, n *candidate) error {
	if n.prev == nil {
		return nil
	}
	lost, err := lostEntries(n.prev.der, n.next.der)
	if err != nil || len(lost) == 0 {
		return err
	}
	missing := make(map[string]bool, len(lost))
	serials := make([]string, len(lost))
	for i, serial := range lost {
		serials[i], missing[serial.Hex()] = serial.Hex(), true
	}
	err = s.db.Read().All(ctx, qExpiry, func(r *db.Row) error {
		if serial, notAfter := r.Text(), r.Time(); notAfter.Before(n.prev.thisUpdate) {
			delete(missing, serial)
		}
		return nil
	}, n.auth.ID, serials)
	if err != nil {
		return fmt.Errorf("read expiry of entries: %w", err)
	}
	for serial := range missing {
		return fmt.Errorf("%w: %d, serial %s among them", errLost, len(missing), serial)
	}
	return nil
}

// lostEntries returns the serials that stand on the list was but not on is.
// Usually the entries of was are the first of is, and a comparison is enough.
func lostEntries(was, is []byte) (lost []pki.Serial, err error) {
	before, err := pki.CRLEntryBytes(was)
	if err != nil {
		return nil, fmt.Errorf("read last CRL: %w", err)
	}
	all, err := pki.CRLEntryBytes(is)
	if err != nil || bytes.HasPrefix(all, before) {
		return nil, err
	}
	var on *entrySet
	for rest := all; ; {
		entry, ok := cutEntry(&before)
		switch {
		case !ok:
			return nil, errors.New("read last CRL: an entry is damaged")
		case entry == nil:
			return lost, nil
		case bytes.HasPrefix(rest, entry): // in the same order as before
			rest = rest[len(entry):]
			continue
		case on == nil:
			on = newEntrySet(all)
		}
		if on.find(entry) == nil {
			lost = append(lost, pki.Serial(entrySerial(entry)))
		}
	}
}

// publish stores lists in one transaction. A list whose predecessor was
// replaced meanwhile by another replica is dropped; the next tick sees why.
func (s *Service) publish(ctx context.Context, list []*candidate, n *loop.Count) error {
	if len(list) == 0 {
		return nil
	}
	err := s.db.Write(ctx, func(tx *db.Tx) error {
		for _, c := range list {
			var err error
			if c.won, err = c.store(ctx, tx); err != nil {
				return err
			}
			if c.won {
				s.put(tx, fmt.Sprintf("crl/%s/%d", c.auth.ID, c.crl.shard), s.now(), sinkBucket, sinkPurge)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("publish CRLs: %w", err)
	}
	for _, c := range list {
		c.crl.retryAt, c.crl.failures = time.Time{}, 0
		if !c.won {
			s.metrics.crlLost.Inc()
			continue
		}
		c.crl.install(c.next, c.known)
		s.metrics.crlBuilt.Inc()
		n.Done++
	}
	return nil
}

func (n *candidate) store(ctx context.Context, tx *db.Tx) (won bool, err error) {
	p := n.next
	args := []any{n.auth.ID, n.crl.shard, int64(p.number), p.thisUpdate, p.nextUpdate, p.der}
	stmt := qFirstCRL
	if n.prev != nil {
		stmt, args = qNextCRL, append(args, int64(n.prev.number))
	}
	changed, err := tx.Exec(ctx, stmt, args...)
	return changed == 1, err
}

// measureCRLs sets the gauges.
func (s *Service) measureCRLs() {
	entries, oldest := 0, int64(0)
	for _, b := range *s.books.Load() {
		for _, c := range b.crls {
			c.mu.Lock()
			entries += c.covered
			c.mu.Unlock()
			if p := c.published.Load(); p != nil && (oldest == 0 || p.thisUpdate.Unix() < oldest) && b.role != ca.RoleRoot {
				oldest = p.thisUpdate.Unix()
			}
		}
	}
	s.metrics.crlEntries.Set(float64(entries))
	s.metrics.oldestCRL.Store(oldest)
}
