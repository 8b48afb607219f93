package alert

import (
	"context"
	"encoding/json/v2"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"chancery/internal/audit"
	"chancery/internal/db"
)

var (
	qAuthorities = db.SQL("alert.list_authorities", `SELECT id, ca, name, role, created_at, not_after FROM authority
		WHERE id > $1 AND state = 'active' AND not_after IS NOT NULL ORDER BY id LIMIT $2`)
	qCRLs = db.SQL("alert.list_crls", `SELECT c.authority_id, c.shard, a.name, c.this_update, c.next_update, c.dirty_at, a.not_after FROM crl c JOIN authority a ON a.id = c.authority_id
		WHERE (c.authority_id, c.shard) > ($1::text, $2::bigint) ORDER BY c.authority_id, c.shard LIMIT $3`, db.Scan("one row per shard of an authority; the other table has a handful"))
	qOutbox   = db.SQL("alert.read_outbox", `SELECT since, target, COALESCE(error, '') FROM status_outbox WHERE sink = $1 ORDER BY since LIMIT 1`)
	qFindings = db.SQL("alert.list_findings", `SELECT certificate_id, invariant, problem, found_at FROM finding
		WHERE (certificate_id, invariant, problem) > ($1::text, $2::text, $3::text) ORDER BY certificate_id, invariant, problem LIMIT $4`)
	qLate = db.SQL("alert.list_late", `SELECT id, name, site, next_at FROM scan_schedule s
		WHERE id > $1 AND enabled = 1 AND next_at < $2 AND NOT EXISTS (SELECT 1 FROM scan_pass p WHERE p.schedule_id = s.id AND p.state = 'running')
		ORDER BY id LIMIT $3`)
)

// authorities finds CA certificates near their end. OCSP signers replace
// themselves, so they are found when half of the share is left.
func authorities(ctx context.Context, in *looking) (found []Match, next string, err error) {
	n := 0
	err = in.db.Read().All(ctx, qAuthorities, func(r *db.Row) error {
		id, ca, name, role, begin, end := r.Text(), r.Text(), r.Text(), r.Text(), r.Time(), r.Time()
		n++
		next = id
		p := in.rule.Params
		if role == "ocsp" {
			p.Share /= 2
		}
		if ending(begin, end, in.now, &p) {
			found = append(found, Match{Subject: "authority:" + name, Summary: "the " + role + " authority " + name + " " + endsText(end, in.now),
				Labels: map[string]string{"authority": name, "ca": ca, "role": role}})
		}
		return nil
	}, in.at, in.limit)
	if n < in.limit {
		next = ""
	}
	return found, next, err
}

// sinks of the status service's outbox; the last page of a pass looks at them.
var sinks = []string{"bucket", "purge"}

// outboxPage is the position of the page after the CRLs.
const outboxPage = "outbox"

// stale finds what revocation has not reached, and CRLs that are not renewed.
func stale(ctx context.Context, in *looking) (found []Match, next string, err error) {
	if in.at == outboxPage {
		found, err = outbox(ctx, in)
		return found, "", err
	}
	at, n := splitCursor(in.at, 2), 0
	shard := -1
	if at[1] != "" {
		shard, _ = strconv.Atoi(at[1])
	}
	err = in.db.Read().All(ctx, qCRLs, func(r *db.Row) error {
		id, shard, name, this, due, dirty, end := r.Text(), r.Int(), r.Text(), r.Time(), r.Time(), r.Time(), r.Time()
		n++
		next = joinCursor(id, strconv.Itoa(shard))
		m := Match{Subject: fmt.Sprintf("crl:%s/%d", name, shard), Labels: map[string]string{"authority": name, "shard": strconv.Itoa(shard)}}
		left, life := due.Sub(in.now), due.Sub(this)
		switch {
		case !end.IsZero() && !end.After(in.now): // nobody needs it any more
		case float64(left) <= in.rule.Share*float64(life):
			m.Summary, m.Since = fmt.Sprintf("CRL %d of %s was not renewed and %s", shard, name, endsText(due, in.now)), due.Add(-time.Duration(in.rule.Share*float64(life)))
			found = append(found, m)
		case !dirty.IsZero():
			m.Summary, m.Since = fmt.Sprintf("CRL %d of %s lacks a revocation from %s", shard, name, dirty.Format(time.RFC3339)), dirty
			found = append(found, m)
		}
		return nil
	}, at[0], shard, in.limit)
	if n < in.limit {
		next = outboxPage
	}
	return found, next, err
}

func outbox(ctx context.Context, in *looking) (found []Match, err error) {
	for _, sink := range sinks {
		err = in.db.Read().One(ctx, qOutbox, func(r *db.Row) {
			since, target, text := r.Time(), r.Text(), r.Text()
			found = append(found, Match{Subject: "outbox:" + sink, Since: since, Labels: map[string]string{"sink": sink},
				Summary: fmt.Sprintf("%.200s waits for the %s since %s: %.200s", target, sink, since.Format(time.RFC3339), text)})
		}, sink)
		if err != nil && !errors.Is(err, db.ErrNotFound) {
			return found, err
		}
	}
	return found, nil
}

// findings finds what the background checker found; one subject per
// certificate and kind of finding.
func findings(ctx context.Context, in *looking) (found []Match, next string, err error) {
	at, n := splitCursor(in.at, 3), 0
	err = in.db.Read().All(ctx, qFindings, func(r *db.Row) error {
		id, kind, problem, since := r.Text(), r.Text(), r.Text(), r.Time()
		n++
		next = joinCursor(id, kind, problem)
		found = append(found, Match{Subject: "certificate:" + id + "/" + kind, Summary: kind + ": " + problem, Since: since,
			Labels: map[string]string{"certificate": id, "finding": kind}})
		return nil
	}, at[0], at[1], at[2], in.limit)
	if n < in.limit {
		next = ""
	}
	return found, next, err
}

// late finds schedules that did not begin.
func late(ctx context.Context, in *looking) (found []Match, next string, err error) {
	n := 0
	err = in.db.Read().All(ctx, qLate, func(r *db.Row) error {
		id, name, site, due := r.Text(), r.Text(), r.Text(), r.Time()
		n++
		next = id
		found = append(found, Match{Subject: "schedule:" + name, Since: due, Labels: map[string]string{"schedule": name, "site": site},
			Summary: fmt.Sprintf("the scan %s was due at %s and did not begin; does a process with the role scan run for its site %q?", name, due.Format(time.RFC3339), site)})
		return nil
	}, in.at, in.now, in.limit)
	if n < in.limit {
		next = ""
	}
	return found, next, err
}

// mismatch verifies the end of the journal, and one more part of it each pass:
// kept is where that part begins.
func mismatch(ctx context.Context, in *looking) (found []Match, next string, err error) {
	head, err := audit.Head(ctx, in.db.Read())
	if err != nil {
		return nil, "", err
	}
	tail := max(head-1, 0) / audit.VerifyStep * audit.VerifyStep
	part, _ := strconv.ParseInt(in.kept, 10, 64)
	if part >= tail || part%audit.VerifyStep != 0 {
		part = 0
	}
	for _, after := range slices.Compact([]int64{part, tail}) {
		rep, err := audit.VerifyPart(ctx, in.db, after)
		if err != nil {
			return nil, "", err
		}
		if rep.Problem != "" {
			return []Match{{Subject: "journal", Summary: "the journal was changed: " + rep.Problem, Labels: map[string]string{}}}, "", nil // and look at the same part again
		}
	}
	in.kept = strconv.FormatInt(part+audit.VerifyStep, 10)
	return nil, "", nil
}

// lookBack is how many entries of the journal a preview looks at.
const lookBack = 5000

// entries follows the journal; kept is the number of the last entry.
func entries(ctx context.Context, in *looking) (found []Match, next string, err error) {
	seq, err := strconv.ParseInt(in.kept, 10, 64)
	if err != nil || in.dry { // the first time: what was before is history
		if seq, err = audit.Head(ctx, in.db.Read()); err != nil {
			return nil, "", err
		}
		if in.dry {
			seq = max(seq-lookBack, 0)
			if in.at != "" {
				seq, _ = strconv.ParseInt(in.at, 10, 64)
			}
		}
	}
	fits := func(patterns []string, kind audit.Kind) bool {
		return slices.ContainsFunc(patterns, func(p string) bool { return glob(p, string(kind)) })
	}
	wanted := func(k audit.Kind) bool { return fits(in.rule.Entries, k) || fits(in.rule.Clears, k) }
	n, seq, err := audit.Skim(ctx, in.db.Read(), seq, in.limit, wanted, func(rec *audit.Record) error {
		fires, clears := fits(in.rule.Entries, rec.Kind), fits(in.rule.Clears, rec.Kind)
		if fires || clears {
			found = append(found, Match{Subject: rec.Subject, Since: rec.At, Clear: clears && !fires, Summary: fmt.Sprintf("%s: %s by %s%s", rec.Kind, rec.Subject, rec.Actor, detail(rec.Data)),
				Labels: map[string]string{"entry": string(rec.Kind), "actor": rec.Actor}})
		}
		return nil
	})
	if err != nil {
		return nil, "", err
	}
	in.kept = strconv.FormatInt(seq, 10)
	if n == in.limit {
		next = in.kept
	}
	return found, next, nil
}

// detail is what people want to know of the data of an entry: whom it is about,
// what went wrong, and where it is explained.
func detail(data string) string {
	var d struct {
		Name        string `json:"name"`
		Target      string `json:"target"`
		Error       string `json:"error"`
		Explanation string `json:"explanation"`
	}
	if json.Unmarshal([]byte(data), &d) != nil {
		return "" // its members are of other types
	}
	text := ""
	for _, part := range []string{d.Name, d.Target, d.Error, d.Explanation} {
		if part != "" {
			text += "; " + part
		}
	}
	return text[:min(len(text), 500)]
}
