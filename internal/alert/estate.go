package alert

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"chancery/internal/db"
)

// afterEnd is how long a certificate that ended is still found.
const afterEnd = 7 * 24 * time.Hour

var (
	qEnding = db.SQL("alert.list_ending", `SELECT id, subject_cn, names, owner, team, environment, managed, not_before, not_after, is_ca, successor_id FROM inventory
		WHERE status = $1 AND (not_after, id) > ($2::bigint, $3::text) AND not_after <= $4 ORDER BY not_after, id LIMIT $5`)
	// The literals are those of the index inventory_stranger. What is known
	// under the same serial is the same issuance: logs hold precertificates.
	// Findings that somebody dismissed are few.
	qStrangers = db.SQL("alert.list_strangers", `SELECT id, subject_cn, names, owner, team, environment, managed, not_before, not_after,
			(SELECT i.label FROM inventory_issuer i WHERE i.id = inventory.issuer_id),
			(SELECT o.id FROM inventory o WHERE o.serial_key = inventory.serial_key AND o.serial = inventory.serial AND o.spki_hash = inventory.spki_hash AND (o.source & 67) <> 0 LIMIT 1)
		FROM inventory WHERE (source & 8) <> 0 AND (source & 67) = 0 AND status IN ('active', 'superseded') AND inventory.id > $1
			AND NOT EXISTS (SELECT 1 FROM ct_finding f WHERE f.state = 'acknowledged' AND f.serial = inventory.serial AND f.spki_hash = inventory.spki_hash)
		ORDER BY inventory.id LIMIT $2`)
	qFailing = db.SQL("alert.list_failing", `SELECT rhost, port, sni, address, failure, failed_since, last_seen_at, last_ok_at, desired_id FROM endpoint
		WHERE failed_since IS NOT NULL AND (failed_since, rhost, port, sni, address) > ($1::bigint, $2::text, $3::bigint, $4::text, $5::text)
		ORDER BY failed_since, rhost, port, sni, address LIMIT $6`)
	qDrift = db.SQL("alert.list_drift", `SELECT rhost, port, sni, address, inventory_id, desired_id, last_seen_at FROM endpoint
		WHERE desired_id IS NOT NULL AND (inventory_id IS NULL OR inventory_id <> desired_id)
			AND (rhost, port, sni, address) > ($1::text, $2::bigint, $3::text, $4::text)
		ORDER BY rhost, port, sni, address LIMIT $5`)
)

// listed is what alerts say of a certificate of the inventory.
type listed struct {
	id, name            string
	labels              map[string]string
	notBefore, notAfter time.Time
}

func scanListed(r *db.Row) listed {
	l := listed{id: r.Text()}
	cn, names := r.Text(), strings.Fields(r.Text())
	l.name = cn
	if len(names) > 0 {
		l.name = names[0]
	}
	if l.name == "" {
		l.name = l.id
	}
	l.labels = map[string]string{"certificate": l.id, "name": l.name, "owner": r.Text(), "team": r.Text(), "environment": r.Text()}
	l.labels["managed"] = strconv.FormatBool(r.Bool())
	l.notBefore, l.notAfter = r.Time(), r.Time()
	return l
}

// certificates finds certificates near their end: those that are active, and
// then those that ended with nothing in their place.
func certificates(ctx context.Context, in *looking) (found []Match, next string, err error) {
	at := splitCursor(in.at, 3)
	status, until := "active", in.now.Add(time.Duration(in.rule.Within))
	if at[0] == "expired" {
		status, until = "expired", in.now
	}
	after, _ := strconv.ParseInt(at[1], 10, 64) // 0 at the beginning
	if after == 0 {
		after = in.now.Add(-afterEnd).UnixMilli()
	}
	n, last := 0, ""
	err = in.db.Read().All(ctx, qEnding, func(r *db.Row) error {
		l := scanListed(r)
		isCA, successor := r.Bool(), r.Text()
		n, last = n+1, joinCursor(status, strconv.FormatInt(l.notAfter.UnixMilli(), 10), l.id)
		if !isCA && successor == "" && ending(l.notBefore, l.notAfter, in.now, &in.rule.Params) {
			found = append(found, Match{Subject: "certificate:" + l.id, Labels: l.labels, Summary: "the certificate of " + l.name + " " + endsText(l.notAfter, in.now),
				Since: l.notAfter.Add(-time.Duration(min(in.rule.Share*float64(l.notAfter.Sub(l.notBefore)), float64(in.rule.Within))))})
		}
		return nil
	}, status, after, at[2], until, in.limit)
	switch {
	case n == in.limit:
		next = last
	case status == "active":
		next = "expired"
	}
	return found, next, err
}

// unknown finds certificates that logs know and we do not.
func unknown(ctx context.Context, in *looking) (found []Match, next string, err error) {
	n := 0
	err = in.db.Read().All(ctx, qStrangers, func(r *db.Row) error {
		l := scanListed(r)
		issuer, ours := r.Text(), r.Text()
		n++
		next = l.id
		if ours == "" && l.notAfter.After(in.now) {
			l.labels["issuer"] = issuer
			found = append(found, Match{Subject: "certificate:" + l.id, Labels: l.labels,
				Summary: fmt.Sprintf("a certificate for %s by %q was logged, and nobody here asked for it", l.name, issuer)})
		}
		return nil
	}, in.at, in.limit)
	if n < in.limit {
		next = ""
	}
	return found, next, err
}

// place is the key of an endpoint as it is read.
type place struct {
	rhost, sni, address string
	port                int
}

func scanPlace(r *db.Row) place {
	p := place{rhost: r.Text(), port: r.Int()}
	p.sni, p.address = r.Text(), r.Text()
	return p
}

// host is the name as people write it.
func (p *place) host() string {
	if net.ParseIP(p.rhost) != nil {
		return p.rhost
	}
	labels := strings.Split(p.rhost, ".")
	slices.Reverse(labels)
	return strings.Join(labels, ".")
}

// match describes the endpoint.
func (p *place) match(format string, args ...any) Match {
	at := net.JoinHostPort(p.host(), strconv.Itoa(p.port))
	subject := "endpoint:" + at
	if p.sni != "" && p.sni != p.host() {
		subject += "/" + p.sni
	}
	if p.address != "" && p.address != p.host() {
		subject += "@" + p.address
	}
	return Match{Subject: subject, Summary: at + " " + fmt.Sprintf(format, args...),
		Labels: map[string]string{"host": p.host(), "port": strconv.Itoa(p.port), "sni": p.sni, "address": p.address}}
}

// cursor is the place as parts of a position.
func (p *place) cursor() []string {
	return []string{p.rhost, strconv.Itoa(p.port), p.sni, p.address}
}

// failing finds endpoints whose last probe failed.
func failing(ctx context.Context, in *looking) (found []Match, next string, err error) {
	at := splitCursor(in.at, 5)
	since, _ := strconv.ParseInt(at[0], 10, 64)
	port, _ := strconv.Atoi(at[2])
	n := 0
	err = in.db.Read().All(ctx, qFailing, func(r *db.Row) error {
		p := scanPlace(r)
		failure, from, seen, ok, desired := r.Text(), r.Time(), r.Time(), r.Time(), r.Text()
		n++
		next = joinCursor(append([]string{strconv.FormatInt(from.UnixMilli(), 10)}, p.cursor()...)...)
		if ok.IsZero() && desired == "" {
			return nil // it never served anything, and nobody said that it should
		}
		m := p.match("cannot be reached: %s", failure)
		m.Since, m.Sample, m.Labels["failure"] = from, seen, failure
		found = append(found, m)
		return nil
	}, since, at[1], port, at[3], at[4], in.limit)
	if n < in.limit {
		next = ""
	}
	return found, next, err
}

// drift finds endpoints that serve something else than they should.
func drift(ctx context.Context, in *looking) (found []Match, next string, err error) {
	at := splitCursor(in.at, 4)
	port, _ := strconv.Atoi(at[1])
	n := 0
	err = in.db.Read().All(ctx, qDrift, func(r *db.Row) error {
		p := scanPlace(r)
		served, desired := r.Text(), r.Text()
		n++
		next = joinCursor(p.cursor()...)
		if served == "" {
			served = "nothing that was seen"
		}
		m := p.match("serves %s, and should serve %s", served, desired)
		m.Labels["certificate"] = desired
		found = append(found, m)
		return nil
	}, at[0], port, at[2], at[3], in.limit)
	if n < in.limit {
		next = ""
	}
	return found, next, err
}
