package ca

import (
	"context"
	"encoding/base64"
	"encoding/json/v2"
	"strings"
	"time"

	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

// MaxPage is the largest page of Find.
const MaxPage = 1000

// scanBudget is how many rows one page may look at. A filter that no index
// serves is applied to the rows of the best path; when the budget is spent the
// page ends, short or empty, with a cursor to go on from. So a page costs the
// same at ten thousand certificates and at ten million.
const scanBudget = 4000

// Page is one page of certificates.
type Page struct {
	// Certificates lack Evidence, TBSHash, TBS and DER; see Get.
	Certificates []Certificate
	// Next is the cursor of the next page, "" at the end.
	Next string
}

// path is a way through the certificates: an index and its order.
type path string

// Paths, the most selective first.
const (
	pathSerial  path = "serial"  // one serial number, under every authority
	pathOrder   path = "order"   // the certificates of one order
	pathKey     path = "key"     // one public key
	pathName    path = "name"    // one name, or the names below a suffix
	pathAccount path = "account" // of one ACME account
	pathIntent  path = "intent"  // open intents, the oldest first
	pathRevoked path = "revoked" // revoked and abandoned, by authority, shard and end
	pathExpiry  path = "expiry"  // issued, the first to end first
	pathNewest  path = "newest"  // all, the newest first
)

// listColumns are what a listing shows of a certificate.
const listColumns = `id, authority_id, serial, state, ca, profile, order_id, account_id, names, key_type, shard,
	not_before, not_after, created_at, issued_at, revoked_at, revoked_reason, revoked_by`

var (
	qListSerial = db.SQL("ca.list_by_serial", `SELECT `+listColumns+` FROM certificate
		WHERE authority_id IN (SELECT id FROM authority) AND serial = $1 AND id > $2 ORDER BY id LIMIT $3`,
		db.Scan("of the authorities, a handful"))
	qListOrder = db.SQL("ca.list_by_order", `SELECT `+listColumns+` FROM certificate
		WHERE order_id = $1 AND id > $2 ORDER BY id LIMIT $3`)
	qListKey = db.SQL("ca.list_by_key", `SELECT `+listColumns+` FROM certificate
		WHERE spki_hash = $1 AND id > $2 ORDER BY id LIMIT $3`)
	qListAccount = db.SQL("ca.list_by_account", `SELECT `+listColumns+` FROM certificate
		WHERE account_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3`)
	qListName = db.SQL("ca.list_by_name", `SELECT `+listColumns+`, rname FROM certificate_name
		JOIN certificate ON id = certificate_id
		WHERE (rname, certificate_id) > ($1, $2) AND rname < $3 ORDER BY rname, certificate_id LIMIT $4`)
	qListIntent = db.SQL("ca.list_intents", `SELECT `+listColumns+` FROM certificate
		WHERE state = 'intent' AND created_at >= $1 AND (created_at, id) > ($1, $2) ORDER BY created_at, id LIMIT $3`)
	qListRevoked = db.SQL("ca.list_revoked", `SELECT `+listColumns+` FROM certificate
		WHERE revoked_at IS NOT NULL AND (authority_id, shard, not_after, id) > ($1, $2, $3, $4)
		ORDER BY authority_id, shard, not_after, id LIMIT $5`)
	qListExpiry = db.SQL("ca.list_by_expiry", `SELECT `+listColumns+` FROM certificate
		WHERE state = 'issued' AND (not_after, id) > ($1, $2) AND not_after < $3 ORDER BY not_after, id LIMIT $4`)
	qListNewest = db.SQL("ca.list_newest", `SELECT `+listColumns+` FROM certificate WHERE id < $1 ORDER BY id DESC LIMIT $2`)

	qCountExpiring = db.SQL("ca.count_expiring", `SELECT count(*) FROM (SELECT 1 FROM certificate
		WHERE state = 'issued' AND not_after >= $1 AND not_after < $2 LIMIT $3) AS counted`, db.Long("it counts up to ten thousand"))
	qCountIntents = db.SQL("ca.count_intents", `SELECT count(*) FROM certificate WHERE state = 'intent'`)
)

func scanListed(r *db.Row) Certificate {
	c := Certificate{ID: r.Text(), AuthorityID: r.Text()}
	serial, err := pki.ParseSerial(r.Text())
	c.Serial, c.State, c.CA, c.Profile, c.OrderID, c.AccountID = serial, State(r.Text()), r.Text(), r.Text(), r.Text(), r.Text()
	names := r.Text()
	c.KeyType, c.Shard = pki.KeyType(r.Text()), r.Int()
	c.NotBefore, c.NotAfter, c.CreatedAt, c.IssuedAt = r.Time(), r.Time(), r.Time(), r.Time()
	c.RevokedAt, c.Reason, c.RevokedBy = r.Time(), pki.Reason(r.Int()), r.Text()
	if err != nil || json.Unmarshal([]byte(names), &c.Names) != nil {
		c.State = State(StatusDamaged) // see scanCertificate
	}
	return c
}

// listed is a row of a listing with the name it was found by, if any.
type listed struct {
	Certificate
	rname string
}

// cursor is a place in the order of a path: rows behind it follow. It is given
// to clients as opaque text and comes back as hostile text.
type cursor struct {
	Path  path   `json:"p"`
	Query uint32 `json:"q"` // hash of the query
	ID    string `json:"i"` // of the last row
	Text  string `json:"t,omitzero"`
	Time  int64  `json:"n,omitzero"` // Unix milliseconds
	Shard int    `json:"s,omitzero"`
}

// encode returns the text form of a cursor.
func (c *cursor) encode() string {
	b, err := json.Marshal(c)
	if err != nil { // plain strings and numbers
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// maxCursor bounds the text form: the longest holds a reversed name.
const maxCursor = 1024

// parseCursor reads text, or returns where the listing of q begins.
func parseCursor(text string, q *Query) (cursor, error) {
	start := startOf(q)
	if text == "" {
		return start, nil
	}
	bad := fault.New(fault.Invalid, "the cursor is not one that this query's last page gave; start again without a cursor")
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(text) > maxCursor {
		return start, bad
	}
	var c cursor
	if err := json.Unmarshal(b, &c, json.RejectUnknownMembers(true)); err != nil {
		return start, bad
	}
	if c.Path != start.Path || c.Query != start.Query || !db.ValidID(c.ID) {
		return start, bad
	}
	if c.Path == pathName && !q.name.holds(c.Text) || strings.ContainsRune(c.Text, 0) { // PostgreSQL refuses NUL
		return start, bad
	}
	return c, nil
}

// startOf returns the place before the first row of q.
func startOf(q *Query) cursor {
	c := cursor{Path: q.path(), Query: q.hash()}
	switch c.Path {
	case pathNewest, pathAccount:
		c.ID = "~" // behind every id
	case pathName:
		c.Text = q.name.from
	case pathExpiry:
		if !q.expires.from.IsZero() {
			c.Time = q.expires.from.UnixMilli()
		}
	}
	return c
}

// move places c at a row.
func (c *cursor) move(row *listed) {
	c.ID = row.ID
	switch c.Path {
	case pathName:
		c.Text = row.rname
	case pathIntent:
		c.Time = row.CreatedAt.UnixMilli()
	case pathRevoked:
		c.Text, c.Shard, c.Time = row.AuthorityID, row.Shard, row.NotAfter.UnixMilli()
	case pathExpiry:
		c.Time = row.NotAfter.UnixMilli()
	}
}

// rows reads up to n rows behind c.
func (c *cursor) rows(ctx context.Context, r db.Q, q *Query, n int) ([]listed, error) {
	plain := func(r *db.Row) listed { return listed{Certificate: scanListed(r)} }
	switch c.Path {
	case pathSerial:
		return db.List(ctx, r, qListSerial, plain, q.serial.Hex(), c.ID, n)
	case pathOrder:
		return db.List(ctx, r, qListOrder, plain, q.fields["order"], c.ID, n)
	case pathKey:
		return db.List(ctx, r, qListKey, plain, q.spki, c.ID, n)
	case pathAccount:
		return db.List(ctx, r, qListAccount, plain, q.fields["account"], c.ID, n)
	case pathName:
		named := func(r *db.Row) listed { return listed{scanListed(r), r.Text()} }
		return db.List(ctx, r, qListName, named, c.Text, c.ID, q.name.to, n)
	case pathIntent:
		return db.List(ctx, r, qListIntent, plain, c.Time, c.ID, n)
	case pathRevoked:
		return db.List(ctx, r, qListRevoked, plain, c.Text, c.Shard, c.Time, c.ID, n)
	case pathExpiry:
		return db.List(ctx, r, qListExpiry, plain, c.Time, c.ID, q.expiryEnd(), n)
	}
	return db.List(ctx, r, qListNewest, plain, c.ID, n)
}

// expiryEnd is where a listing by notAfter stops, in Unix milliseconds.
func (q *Query) expiryEnd() int64 {
	end := int64(1) << 62
	if !q.expires.to.IsZero() {
		end = q.expires.to.UnixMilli()
	}
	if Status(q.fields["status"]) == StatusExpired {
		end = min(end, q.now.UnixMilli())
	}
	return end
}

// done reports that no row behind this one can fit.
func (q *Query) done(row *listed) bool {
	return q.path() == pathNewest && row.CreatedAt.Add(time.Hour).Before(q.issued.from)
}

// keep reports whether a row belongs on the page.
func (q *Query) keep(row *listed) bool {
	return q.matches(&row.Certificate) && (row.rname == "" || q.firstName(&row.Certificate) == row.rname)
}

// Find returns the certificates that fit query, one page of at most limit (1
// to MaxPage) behind the cursor after ("" = from the start). The order follows
// from the query: by name, by notAfter when expires: is asked, newest first
// otherwise. A page may be short, or empty, and still have a Next.
func Find(ctx context.Context, r db.Q, query Query, after string, limit int) (Page, error) {
	if limit < 1 || limit > MaxPage {
		return Page{}, fault.New(fault.Invalid, "limit must be between 1 and %d", MaxPage)
	}
	at, err := parseCursor(after, &query)
	if err != nil {
		return Page{}, err
	}
	var page Page
	chunk := limit + 1
	for looked := 0; looked < scanBudget; {
		n := min(chunk, scanBudget-looked)
		rows, err := at.rows(ctx, r, &query, n)
		if err != nil {
			return Page{}, err
		}
		end, full := page.take(&query, &at, rows, limit)
		switch {
		case end, full && !more(rows, n, &at):
			return page, nil
		case full:
			page.Next = at.encode()
			return page, nil
		case len(rows) < n:
			return page, nil
		}
		looked += len(rows)
		chunk = min(2*chunk, MaxPage)
	}
	page.Next = at.encode()
	return page, nil
}

// take adds the rows that fit, up to limit, and moves at behind the last row
// that it looked at. end means that nothing can follow, full that the page is.
func (p *Page) take(q *Query, at *cursor, rows []listed, limit int) (end, full bool) {
	if p.Certificates == nil {
		p.Certificates = make([]Certificate, 0, min(limit, len(rows)))
	}
	for i := range rows {
		if q.done(&rows[i]) {
			return true, false
		}
		at.move(&rows[i])
		if !q.keep(&rows[i]) {
			continue
		}
		p.Certificates = append(p.Certificates, rows[i].Certificate)
		if len(p.Certificates) == limit {
			return false, true
		}
	}
	return false, false
}

// more reports whether rows may follow the one that at stands on.
func more(rows []listed, asked int, at *cursor) bool {
	return len(rows) == asked || rows[len(rows)-1].ID != at.ID
}

// CountExpiring returns how many issued certificates end within d from now. It
// stops counting at most, and then more is true.
func CountExpiring(ctx context.Context, q db.Q, now time.Time, d time.Duration, most int64) (n int64, more bool, err error) {
	n, err = db.Get(ctx, q, qCountExpiring, (*db.Row).Int64, now, now.Add(d), most+1)
	return min(n, most), n > most, err
}

// CountIntents returns the number of open intents, which are few: those whose
// signature is under way.
func CountIntents(ctx context.Context, q db.Q) (int64, error) {
	return db.Get(ctx, q, qCountIntents, (*db.Row).Int64)
}
