package ca

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

// IncidentPlan is what an incident would do.
type IncidentPlan struct {
	Matched int           // issued, unexpired, unrevoked certificates that fit
	Whole   bool          // all of them were counted
	Digest  string        // names exactly these certificates, in whatever order they were found; "" unless Whole
	Sample  []Certificate // the first 20 of them, as Find returns them
}

// planSample is how many certificates a plan shows.
const planSample = 20

// PlanIncident counts what a selection stands for now, up to most certificates
// (0 = all), or until ctx ends. It reads everything that may fit, one bounded
// page after the other: a query that no index serves takes seconds for each
// million certificates.
func PlanIncident(ctx context.Context, q db.Q, sel Selection, most int, now time.Time) (IncidentPlan, error) {
	var plan IncidentPlan
	var digest planDigest
	for at := ""; ; {
		page, next, err := sel.page(ctx, q, at, MaxPage, now, now)
		if err != nil && ctx.Err() != nil && errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
			return plan, nil
		}
		if err != nil {
			return plan, err
		}
		plan.Matched += len(page)
		plan.Sample = append(plan.Sample, page[:min(len(page), planSample-len(plan.Sample))]...)
		for i := range page {
			digest.add(page[i].ID)
		}
		if at = next; at == "" {
			plan.Whole, plan.Digest = true, digest.text(plan.Matched)
			return plan, nil
		}
		if most > 0 && plan.Matched >= most {
			return plan, nil
		}
	}
}

// DigestOf is the Digest of a plan for these certificates.
func DigestOf(found []Certificate) string {
	var d planDigest
	for i := range found {
		d.add(found[i].ID)
	}
	return d.text(len(found))
}

// planDigest is a hash over a set of ids, whatever their order.
type planDigest [sha256.Size]byte

func (d *planDigest) add(id string) {
	for i, b := range sha256.Sum256([]byte(id)) {
		d[i] ^= b
	}
}

func (d *planDigest) text(n int) string {
	sum := sha256.Sum256(append(d[:], strconv.Itoa(n)...))
	return hex.EncodeToString(sum[:16])
}

// page returns some certificates of a selection that can be revoked, and the
// position behind them, "" at the end. It looks for at most n at a time.
// Relative times in the query count from frozen.
func (sel *Selection) page(ctx context.Context, q db.Q, at string, n int, frozen, now time.Time) (found []Certificate, next string, err error) {
	query, err := sel.query(frozen)
	if err != nil {
		return nil, "", err
	}
	var page Page
	if len(sel.Certificates) > 0 {
		page, err = sel.listed(ctx, q, at, n)
	} else {
		page, err = Find(ctx, q, query, at, n)
	}
	found = slices.DeleteFunc(page.Certificates, func(c Certificate) bool {
		return c.Status(now) != StatusIssued || c.CreatedAt.After(frozen)
	})
	return found, page.Next, err
}

var qListIDs = db.SQL("ca.list_by_ids", `SELECT `+listColumns+` FROM certificate WHERE id = ANY($1::text[])`)

// listed is one page of a list; the position is the last id before it.
func (sel *Selection) listed(ctx context.Context, q db.Q, at string, n int) (page Page, err error) {
	ids := sel.Certificates
	if i := slices.Index(ids, at); i >= 0 {
		ids = ids[i+1:]
	}
	if len(ids) > n {
		ids = ids[:n]
		page.Next = ids[n-1]
	}
	page.Certificates, err = db.List(ctx, q, qListIDs, scanListed, ids)
	return page, err
}

var (
	qKnownIDs     = db.SQL("ca.list_known_ids", `SELECT id FROM certificate WHERE id = ANY($1::text[])`)
	qKnownSerials = db.SQL("ca.list_known_serials", `SELECT serial, id FROM certificate
		WHERE authority_id IN (SELECT id FROM authority) AND serial = ANY($1::text[])`, db.Scan("of the authorities, a handful"))
)

// ResolveCertificates returns the ids, sorted and each once, of the
// certificates that refs name: ids, or serial numbers in hexadecimal with or
// without colons. A serial that several authorities have given stands for all
// its certificates. Any ref that names nothing makes it a notFound fault, which
// says which ones.
func ResolveCertificates(ctx context.Context, q db.Q, refs []string) (ids []string, err error) {
	if len(refs) > maxIncidentList {
		return nil, fault.New(fault.Invalid, "a list holds at most %d certificates; split it, or use a query", maxIncidentList)
	}
	var unknown []string
	for chunk := range slices.Chunk(refs, revokeChunk) {
		found, missing, err := resolveChunk(ctx, q, chunk)
		if err != nil {
			return nil, err
		}
		ids, unknown = append(ids, found...), append(unknown, missing...)
	}
	if n := len(unknown); n > 0 {
		return nil, fault.New(fault.NotFound, "%d of %d list entries name no certificate: %s", n, len(refs), clipList(unknown))
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// clipList prints the first few of a list of strangers' words.
func clipList(words []string) string {
	const most = 5
	shown := make([]string, 0, most+1)
	for _, w := range words[:min(len(words), most)] {
		shown = append(shown, strconv.QuoteToASCII(w[:min(len(w), 64)]))
	}
	if len(words) > most {
		shown = append(shown, "...")
	}
	return strings.Join(shown, ", ")
}

// resolveChunk is ResolveCertificates for a few. What looks like an id may be a
// serial, too.
func resolveChunk(ctx context.Context, q db.Q, refs []string) (ids, unknown []string, err error) {
	known := map[string]bool{}
	var maybe []string
	for _, ref := range refs {
		if db.ValidID(ref) {
			maybe = append(maybe, ref)
		}
	}
	err = q.All(ctx, qKnownIDs, func(r *db.Row) error { id := r.Text(); known[id] = true; ids = append(ids, id); return nil }, maybe)
	if err != nil {
		return nil, nil, err
	}
	serials, bySerial := map[string]bool{}, []string{}
	for _, ref := range refs {
		if known[ref] {
			continue
		}
		if serial, err := pki.ParseSerial(ref); err == nil {
			bySerial = append(bySerial, serial.Hex())
		}
	}
	err = q.All(ctx, qKnownSerials, func(r *db.Row) error { serials[r.Text()] = true; ids = append(ids, r.Text()); return nil }, bySerial)
	for _, ref := range refs {
		serial, bad := pki.ParseSerial(ref)
		if !known[ref] && (bad != nil || !serials[serial.Hex()]) {
			unknown = append(unknown, ref)
		}
	}
	return ids, unknown, err
}
