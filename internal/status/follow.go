package status

import (
	"context"
	"fmt"
	"slices"
	"time"

	"chancery/internal/audit"
	"chancery/internal/ca"
	"chancery/internal/db"
	"chancery/internal/loop"
	"chancery/internal/pki"
)

const rowColumns = `serial, authority_id, shard, state, issued_at, not_after, revoked_at, revoked_reason`

var (
	qLoad = db.SQL("status.load_serials", `SELECT `+rowColumns+` FROM certificate
		WHERE authority_id = $1 AND serial > $2 AND not_after >= $3 AND state <> 'intent' ORDER BY serial LIMIT $4`)
	qChanged = db.SQL("status.list_changed", `SELECT `+rowColumns+` FROM certificate WHERE id = ANY($1::text[]) AND state <> 'intent'`)
)

// row is what the table needs of a certificate row.
type row struct {
	serial, authority             string
	shard                         int
	state                         ca.State
	issuedAt, notAfter, revokedAt time.Time
	reason                        pki.Reason
}

func scanRow(r *db.Row) row {
	return row{serial: r.Text(), authority: r.Text(), shard: r.Int(), state: ca.State(r.Text()),
		issuedAt: r.Time(), notAfter: r.Time(), revokedAt: r.Time(), reason: pki.Reason(r.Int())}
}

// learnRow takes over one row. What does not add up is left out, and so is
// never called good; `doctor issuance` says what is wrong with it.
func (s *Service) learnRow(r *row) {
	serial, err := pki.ParseSerial(r.serial)
	sound := r.state == ca.StateIssued && !r.issuedAt.IsZero() || r.state == ca.StateAbandoned && !r.revokedAt.IsZero()
	if err != nil || !sound || !r.reason.Valid() {
		s.log.Error("certificate row is damaged", "authority", r.authority, "serial", r.serial)
		return
	}
	s.learn(r.authority, r.shard, serial, r.issuedAt, r.notAfter, r.revokedAt, r.reason)
}

const (
	loadPage   = 5000
	followPage = 1000
)

// follow is one look at the journal; the first one loads everything.
func (s *Service) follow(ctx context.Context) (n loop.Count, err error) {
	started := s.now()
	if s.seq < 0 {
		return n, s.load(ctx, started)
	}
	page, err := ca.ReadChanges(ctx, s.db.Read(), s.seq, followPage, "certificate.issue", "certificate.revoke", "certificate.abandon")
	if err != nil {
		return n, fmt.Errorf("follow journal: %w", err)
	}
	if err := s.apply(ctx, &page); err != nil {
		return n, err
	}
	s.seq = page.Last
	n.More = page.Entries == followPage
	if !n.More {
		s.asOf.Store(started.Unix())
	}
	return n, nil
}

// load reads all books. The journal is followed from where it stood before,
// so nothing that is committed during the load is missed.
func (s *Service) load(ctx context.Context, started time.Time) error {
	head, err := audit.Head(ctx, s.db.Read())
	if err != nil {
		return fmt.Errorf("read head of journal: %w", err)
	}
	if err := s.reload(ctx); err != nil {
		return err
	}
	s.seq = head
	s.asOf.Store(started.Unix())
	s.loaded.Store(true)
	for _, wake := range []chan struct{}{s.wakeCRL, s.wakeSign, s.wakeResponder} {
		loop.Nudge(wake)
	}
	s.log.InfoContext(ctx, "certificate status loaded", "serials", s.Serials(), "duration_ms", s.now().Sub(started).Milliseconds())
	return nil
}

// reload takes over the authorities and reads the rows of those that are new.
func (s *Service) reload(ctx context.Context) error {
	if err := s.ca.Reload(ctx); err != nil {
		return fmt.Errorf("reload authorities: %w", err)
	}
	if err := s.syncBooks(); err != nil {
		return err
	}
	s.crlMu.Lock()
	defer s.crlMu.Unlock()
	if err := s.syncCRLs(ctx); err != nil {
		return err
	}
	for _, b := range *s.books.Load() {
		if err := s.loadBook(ctx, b); err != nil {
			return err
		}
	}
	return nil
}

// loadBook reads the rows of one authority, once.
func (s *Service) loadBook(ctx context.Context, b *book) error {
	if b.loaded.Load() {
		return nil
	}
	cutoff := b.cutoff(s.now())
	for after, more := "", true; more; {
		n := 0
		err := s.db.Read().All(ctx, qLoad, func(r *db.Row) error {
			row := scanRow(r)
			s.learnRow(&row)
			after, n = row.serial, n+1
			return nil
		}, b.id, after, cutoff, loadPage)
		if err != nil {
			return fmt.Errorf("load status of authority %s: %w", b.id, err)
		}
		more = n == loadPage
	}
	for _, c := range b.crls {
		if p := c.published.Load(); p != nil {
			c.cover(p)
		}
	}
	b.loaded.Store(true)
	return nil
}

// cutoff is the notAfter before which no certificate matters any more: nobody
// asks about it, and every CRL it was on has a successor that was published
// after it expired.
func (b *book) cutoff(now time.Time) time.Time {
	t := now.Add(-keepExpired)
	for _, c := range b.crls {
		if p := c.published.Load(); p != nil && p.thisUpdate.Before(t) {
			t = p.thisUpdate
		}
	}
	return t
}

// apply takes over what the journal says has happened.
func (s *Service) apply(ctx context.Context, page *ca.Changes) error {
	if page.Authorities {
		if err := s.reload(ctx); err != nil {
			return err
		}
	}
	for chunk := range slices.Chunk(page.IDs, followPage) {
		if err := s.relearn(ctx, chunk); err != nil {
			return err
		}
	}
	if len(page.IDs) > 0 {
		s.nudge(len(page.IDs))
	}
	return nil
}

// relearn reads the rows with these ids.
func (s *Service) relearn(ctx context.Context, ids []string) error {
	err := s.db.Read().All(ctx, qChanged, func(r *db.Row) error {
		row := scanRow(r)
		s.learnRow(&row)
		return nil
	}, ids)
	if err != nil {
		return fmt.Errorf("read changed certificates: %w", err)
	}
	return nil
}

// nudge wakes what has work after the status of n certificates was learned.
// The signer looks at every answer, so it is not woken for a few: they are
// signed when they are first asked for, or by its next tick.
func (s *Service) nudge(n int) {
	if n >= signChunk {
		loop.Nudge(s.wakeSign)
	}
	for _, b := range *s.books.Load() {
		for _, c := range b.crls {
			if c.lacks() {
				loop.Nudge(s.wakeCRL)
				return
			}
		}
	}
}
