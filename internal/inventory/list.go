package inventory

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"chancery/internal/db"
	"chancery/internal/fault"
)

// Query asks for one page of certificates.
type Query struct {
	Filter Filter
	Sort   Sort   // "" = SortExpires
	Limit  int    // 1 to MaxLimit; 0 = DefaultLimit
	Cursor string // Next of the page before, with the same Filter text and Sort
	// Text is what the cursor is bound to: the query as the user wrote it, so
	// that its relative times may move on between pages. "" = Filter.String().
	Text string
}

// Page is one page of certificates.
type Page struct {
	Certificates []Certificate
	Sort         Sort   // the order they are in
	Next         string // cursor of the next page; "" = there is none
	// Partial says that List stopped looking before the page was full, because
	// few certificates match and no index finds them. Next goes on from there.
	Partial bool
	// Scanned is how many index entries were looked at.
	Scanned int
}

// Bounds of the work for one page.
const (
	firstWindow = 2 // times the page: enough when half of the entries match
	maxWindow   = 8000
	scanBudget  = 20000 // entries
	probeLimit  = 2000  // entries that choose looks for per path
)

// List returns one page. Rows that are neither added, removed nor moved in the
// order while the pages are read appear exactly once.
func (s *Store) List(ctx context.Context, lq Query) (Page, error) {
	limit, err := checkLimit(lq.Limit)
	if err != nil {
		return Page{}, err
	}
	if lq.Sort, err = ParseSort(string(lq.Sort)); err != nil {
		return Page{}, err
	}
	c, err := s.prepare(ctx, &lq.Filter)
	if err != nil {
		return Page{}, err
	}
	p, err := s.page(ctx, c, &lq, limit)
	if err != nil {
		if fault.Is(err, fault.Invalid) {
			return Page{}, err
		}
		return Page{}, fmt.Errorf("list certificates: %w", err)
	}
	return p, s.label(ctx, p.Certificates)
}

// shape is what a cursor of lq must belong to.
func (lq *Query) shape() string {
	text := lq.Text
	if text == "" {
		text = lq.Filter.String()
	}
	return "certificates\n" + string(lq.Sort) + "\n" + text
}

func (s *Store) page(ctx context.Context, c *conditions, lq *Query, limit int) (Page, error) {
	options := c.candidates(lq.Sort)
	w, at, err := s.resume(options, lq)
	if err != nil {
		return Page{}, err
	}
	p := Page{Sort: w.sort(lq.Sort)}
	if c.never {
		return p, nil
	}
	if at == nil {
		if w, err = s.choose(ctx, c, options); err != nil {
			return p, err
		}
		at = w.start(c)
	}
	f := filler{store: s, conditions: c, walk: w, at: at, end: w.end(c), limit: limit, page: &p}
	if err := f.fill(ctx); err != nil {
		return p, err
	}
	if f.more {
		p.Next = encodeCursor(lq.shape(), append([]any{w.name}, f.at...)...)
	}
	return p, nil
}

// sort is the order in which w yields rows.
func (w walk) sort(asked Sort) Sort {
	if w.first() {
		return SortName
	}
	return asked
}

// resume returns the walk and key of the cursor, or the first option and nil.
func (s *Store) resume(options []walk, lq *Query) (walk, []any, error) {
	if lq.Cursor == "" {
		return options[0], nil, nil
	}
	var first error
	for _, w := range options {
		parts, err := decodeCursor(lq.Cursor, lq.shape(), "t"+string(w.kinds))
		if err == nil && parts[0] == w.name {
			return w, parts[1:], nil
		}
		if first == nil {
			first = err
		}
	}
	if first == nil {
		first = fault.New(fault.Invalid, "the cursor was made for another order of looking; begin again without one")
	}
	return walk{}, nil, first
}

// choose takes the option with the shortest walk: the first that ends within
// few entries, else the preferred one.
func (s *Store) choose(ctx context.Context, c *conditions, options []walk) (walk, error) {
	if len(options) == 1 {
		return options[0], nil
	}
	for _, n := range []int{probeLimit / 10, probeLimit} {
		for _, w := range options {
			_, err := s.horizon(ctx, w, w.start(c), w.end(c), n)
			if errors.Is(err, db.ErrNotFound) {
				return w, nil
			}
			if err != nil {
				return w, err
			}
		}
	}
	return options[0], nil
}

// start is the key before the first row, end the key of the last possible one.
func (w walk) start(c *conditions) []any { return w.edge(c, w.dir == 0) }
func (w walk) end(c *conditions) []any   { return w.edge(c, w.dir == 1) }

func (w walk) edge(c *conditions, low bool) []any {
	switch w.path {
	case pathSuffix:
		lo, hi := c.name.bounds()
		if low {
			return []any{lo, int64(minInstant), ""}
		}
		return []any{hi, int64(minInstant), ""}
	case pathHost:
		lo, hi := c.endpoint.bounds()
		if low {
			return []any{lo, int64(0), "", ""}
		}
		return []any{hi, int64(0), "", ""}
	case pathAdded, pathIDsAdded:
		if low {
			return []any{""}
		}
		return []any{textEnd}
	}
	span := c.expires
	if w.path == pathSeen || w.path == pathIDsSeen {
		span = c.seen
	}
	if low {
		return []any{span[0], ""}
	}
	return []any{span[1], ""}
}

// filler fills a page, window by window.
type filler struct {
	store *Store
	*conditions
	walk
	at, end []any
	limit   int
	page    *Page
	more    bool
}

// fill reads until the page is full, the walk ends or the budget is spent.
func (f *filler) fill(ctx context.Context) error {
	if f.form == plain || f.whole {
		full, err := f.read(ctx, f.end)
		f.more = full
		return err
	}
	for n := firstWindow * (f.limit + 1); ; n = min(4*n, maxWindow) {
		to, err := f.store.horizon(ctx, f.walk, f.at, f.end, n)
		last := errors.Is(err, db.ErrNotFound)
		if last {
			to, err = f.end, nil
		}
		if err != nil {
			return err
		}
		full, err := f.read(ctx, to)
		if err != nil || full || last {
			f.more = full
			return err
		}
		f.at = to
		if f.page.Scanned += n; f.page.Scanned >= scanBudget {
			f.more, f.page.Partial = true, true
			return nil
		}
	}
}

// horizon returns the key of the n-th entry behind at, or db.ErrNotFound when
// there are fewer before end.
func (s *Store) horizon(ctx context.Context, w walk, at, end []any, n int) ([]any, error) {
	var key []any
	args := append(append(append([]any{}, at...), end...), int64(n-1))
	if w.where != "" {
		args = append(args, w.arg)
	}
	err := s.db.Read().One(ctx, w.window[w.dir], func(r *db.Row) {
		key = w.scanKey(r)
	}, args...)
	return key, err
}

// scanKey reads a keyset.
func (p *path) scanKey(r *db.Row) []any {
	key := make([]any, 0, len(p.kinds))
	for _, kind := range p.kinds {
		if kind == 'n' {
			key = append(key, r.Int64())
		} else {
			key = append(key, r.Text())
		}
	}
	return key
}

// read adds the matching rows up to the key to, and reports whether there are
// more of them than fit the page.
func (f *filler) read(ctx context.Context, to []any) (bool, error) {
	room := f.limit - len(f.page.Certificates) + 1
	var args []any
	if f.form == filtered {
		args = f.without(f.path).args()
	}
	args = append(append(args, f.at...), to...)
	args = append(args, int64(room))
	if f.where != "" {
		args = append(args, f.arg)
	}
	if f.form != filtered { // most of what is read is shown
		f.page.Certificates = slices.Grow(f.page.Certificates, room-1)
	}
	var last []any
	got := 0
	err := f.store.db.Read().All(ctx, f.rows[f.dir][f.form], func(r *db.Row) error {
		if got++; got == room {
			return nil // only proves that there is another
		}
		cert := scanCertificate(r)
		if got == room-1 && f.first() {
			last = f.scanKey(r)
		}
		f.page.Certificates = append(f.page.Certificates, cert)
		return nil
	}, args...)
	if got > 0 && got == room {
		if n := len(f.page.Certificates); n > 0 && room > 1 {
			f.at = f.keyOf(&f.page.Certificates[n-1], last)
		}
		return true, err
	}
	return false, err
}

// keyOf is the keyset of a row, which has been read when it is not part of c.
func (f *filler) keyOf(c *Certificate, read []any) []any {
	switch f.path {
	case pathSuffix, pathHost:
		return read
	case pathSeen, pathIDsSeen:
		return []any{millis(c.LastSeenAt), c.ID}
	case pathAdded, pathIDsAdded:
		return []any{c.ID}
	}
	return []any{millis(c.NotAfter), c.ID}
}

// unhex reads a SHA-256.
func unhex(s string) ([]byte, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 32 {
		return nil, fault.New(fault.Invalid, "%.80q is not a SHA-256 in hexadecimal", s)
	}
	return b, nil
}

// Expiring returns the ids and ends of active certificates that end before
// until, soonest first, from the key (from, after): what the renewal engine
// and alerts page through. Pass the last row's values for the next page.
func (s *Store) Expiring(ctx context.Context, from time.Time, after string, until time.Time, limit int) ([]Expiring, error) {
	limit, err := checkLimit(limit)
	if err != nil {
		return nil, err
	}
	return db.List(ctx, s.db.Read(), qExpiring, func(r *db.Row) Expiring {
		return Expiring{r.Time(), r.Text(), r.Text()}
	}, millis(from), after, until, limit)
}

// Expiring is an active certificate near its end.
type Expiring struct {
	NotAfter  time.Time
	ID, Owner string
}

var qExpiring = db.SQL("inventory.list_expiring", `SELECT not_after, id, owner FROM inventory
	WHERE status = 'active' AND (not_after, id) > ($1::bigint, $2::text) AND not_after < $3::bigint ORDER BY not_after, id LIMIT $4`)
