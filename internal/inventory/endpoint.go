package inventory

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"chancery/internal/db"
	"chancery/internal/fault"
)

// sight is a Sighting on its way into the table.
type sight struct {
	*Sighting
	fingerprint string // "": none was given
	at          int64
	index       int
}

// Endpoint is a place where a certificate is, or should be, served.
type Endpoint struct {
	Host, SNI, Address string
	Port               int
	CertificateID      string // last seen there, "" = none ever
	DesiredID          string // what should be there, "" = nobody says
	Probe              string // kind of the last probe, "" = never probed
	Problems           []string
	Failure            string    // class of failure of the last probe, "" = it went well
	FailedSince        time.Time // first of the failures in a row
	FirstSeenAt        time.Time
	LastSeenAt         time.Time // last probe, good or bad
	LastOKAt           time.Time // last good probe
	ChangedAt          time.Time // when CertificateID was first seen there
}

// Drift reports whether something else is served than should be.
func (e *Endpoint) Drift() bool { return e.DesiredID != "" && e.DesiredID != e.CertificateID }

const endpointColumns = `rhost, port, sni, address, inventory_id, desired_id, probe, problems, failure, failed_since,
	first_seen_at, last_seen_at, last_ok_at, changed_at`

func scanEndpoint(r *db.Row) Endpoint {
	return Endpoint{Host: reversed(r.Text()), Port: r.Int(), SNI: r.Text(), Address: r.Text(), CertificateID: r.Text(), DesiredID: r.Text(),
		Probe: r.Text(), Problems: strings.Fields(r.Text()), Failure: r.Text(), FailedSince: r.Time(), FirstSeenAt: r.Time(),
		LastSeenAt: r.Time(), LastOKAt: r.Time(), ChangedAt: r.Time()}
}

var (
	// A failed probe keeps the certificate that was there before; an
	// observation older than what is stored changes nothing. A new address of
	// a known endpoint inherits what should be served there.
	qSight = db.SQL("inventory.upsert_endpoint", `INSERT INTO endpoint (rhost, port, sni, address, inventory_id, probe, problems, failure, failed_since,
			first_seen_at, last_seen_at, last_ok_at, changed_at, desired_id)
		VALUES ($1::text, $2::bigint, $3::text, $4::text, $5::text, $6::text, $7::text, $8::text, $9::bigint, $10::bigint, $10::bigint, $11::bigint, $10::bigint,
			(SELECT d.desired_id FROM endpoint d WHERE d.rhost = $1::text AND d.port = $2::bigint AND d.sni = $3::text AND d.desired_id IS NOT NULL LIMIT 1))
		ON CONFLICT (rhost, port, sni, address) DO UPDATE SET
			inventory_id = COALESCE(excluded.inventory_id, endpoint.inventory_id),
			probe = excluded.probe, problems = excluded.problems, failure = excluded.failure,
			failed_since = CASE WHEN excluded.failure = '' THEN NULL ELSE COALESCE(endpoint.failed_since, excluded.failed_since) END,
			last_seen_at = excluded.last_seen_at,
			last_ok_at = COALESCE(excluded.last_ok_at, endpoint.last_ok_at),
			changed_at = CASE WHEN excluded.inventory_id IS NULL OR excluded.inventory_id = endpoint.inventory_id
				THEN endpoint.changed_at ELSE excluded.last_seen_at END
		WHERE endpoint.last_seen_at <= excluded.last_seen_at`)
	// The place that Desire made before anybody had probed it.
	qDropUnprobed = db.SQL("inventory.delete_unprobed", `DELETE FROM endpoint WHERE rhost = $1 AND port = $2 AND sni = $3 AND address = '' AND probe = ''`)

	qDesire = db.SQL("inventory.update_desired", `UPDATE endpoint SET desired_id = $4 WHERE rhost = $1 AND port = $2 AND sni = $3`)
	qExpect = db.SQL("inventory.insert_expected", `INSERT INTO endpoint (rhost, port, sni, address, desired_id, probe, problems, failure, first_seen_at, last_seen_at, changed_at)
		VALUES ($1, $2, $3, '', $4, '', '', '', $5::bigint, 0, $5::bigint) ON CONFLICT DO NOTHING`)
)

// endpoints queues the sightings of b in the order of their keys, so that two
// batches lock rows in the same order.
func (b *batch) endpoints(tx *db.Tx) {
	slices.SortStableFunc(b.sights, func(x, y sight) int {
		return cmp.Or(strings.Compare(reversed(lower(x.Host)), reversed(lower(y.Host))), cmp.Compare(x.Port, y.Port),
			strings.Compare(x.SNI, y.SNI), strings.Compare(x.Address, y.Address), cmp.Compare(x.at, y.at))
	})
	for _, g := range b.sights {
		id := b.ids[g.fingerprint]
		if g.fingerprint != "" && id == "" {
			continue // refused
		}
		var ok, failed any
		if g.Failure == "" {
			ok = g.at
		} else {
			failed = g.at
		}
		problems := slices.Clone(g.Problems)
		slices.Sort(problems)
		rhost, sni := reversed(lower(g.Host)), lower(g.SNI)
		tx.Queue(qSight, nil, rhost, g.Port, sni, g.Address, nullable(id), g.Probe, strings.Join(problems, " "), g.Failure, failed, g.at, ok)
		if g.Address != "" {
			tx.Queue(qDropUnprobed, nil, rhost, g.Port, sni)
		}
	}
}

// Desired says which certificate an endpoint should serve.
type Desired struct {
	Host          string
	Port          int
	SNI           string
	CertificateID string // "" = no opinion any more
}

// Desire records what endpoints should serve, at all their addresses. An
// endpoint that nobody has probed is recorded too, and is drift until a probe
// finds the certificate there.
func (s *Store) Desire(ctx context.Context, want []Desired, now time.Time) error {
	for _, w := range want {
		g := Sighting{Host: w.Host, Port: w.Port, SNI: w.SNI, Probe: "deploy"}
		if err := g.check(false); err != nil {
			return err
		}
		if w.CertificateID != "" && !db.ValidID(w.CertificateID) {
			return fault.New(fault.Invalid, "%.80q is not the id of a certificate", w.CertificateID)
		}
	}
	err := s.db.Write(ctx, func(tx *db.Tx) error {
		for _, w := range want {
			rhost, sni := reversed(lower(w.Host)), lower(w.SNI)
			n, err := tx.Exec(ctx, qDesire, rhost, w.Port, sni, nullable(w.CertificateID))
			if err != nil {
				return err
			}
			if n == 0 && w.CertificateID != "" {
				tx.Queue(qExpect, nil, rhost, w.Port, sni, w.CertificateID, now)
			}
		}
		tx.Queue(qMove, nil, endpoints)
		return nil
	})
	if err != nil {
		return fmt.Errorf("store desired certificates: %w", err)
	}
	return nil
}

// EndpointQuery asks for endpoints. At most one of Certificate, Failing and
// Drift is set; with none, the order is that of the reversed host.
type EndpointQuery struct {
	// Host is a name, an address, or "*.example.com" for every host below
	// example.com; "" = all. Not together with Certificate or Failing.
	Host        string
	Certificate string // id: those that serve it
	Failing     bool   // those whose last probe failed, longest first
	Drift       bool   // those that serve something else than they should
	Limit       int    // 1 to MaxLimit; 0 = DefaultLimit
	Cursor      string // Next of the page before
}

// EndpointPage is one page of endpoints.
type EndpointPage struct {
	Endpoints []Endpoint
	Next      string // "" = this was the last page
}

// endpointKey is the keyset of every endpoint list.
const endpointKey = `(rhost, port, sni, address)`

var (
	qEndpoints = db.SQL("inventory.list_endpoints", `SELECT `+endpointColumns+` FROM endpoint
		WHERE `+endpointKey+` > ($1::text, $2::bigint, $3::text, $4::text) AND rhost >= $5 AND rhost < $6
		ORDER BY rhost, port, sni, address LIMIT $7`)
	qEndpointsOf = db.SQL("inventory.list_endpoints_of", `SELECT `+endpointColumns+` FROM endpoint
		WHERE inventory_id = $5 AND `+endpointKey+` > ($1::text, $2::bigint, $3::text, $4::text)
		ORDER BY rhost, port, sni, address LIMIT $6`)
	qFailing = db.SQL("inventory.list_failing", `SELECT `+endpointColumns+` FROM endpoint
		WHERE failed_since IS NOT NULL AND (failed_since, rhost, port, sni, address) > ($5::bigint, $1::text, $2::bigint, $3::text, $4::text)
		ORDER BY failed_since, rhost, port, sni, address LIMIT $6`)
	qDrift = db.SQL("inventory.list_drift", `SELECT `+endpointColumns+` FROM endpoint
		WHERE desired_id IS NOT NULL AND (inventory_id IS NULL OR inventory_id <> desired_id) AND rhost >= $5 AND rhost < $6
			AND `+endpointKey+` > ($1::text, $2::bigint, $3::text, $4::text)
		ORDER BY rhost, port, sni, address LIMIT $7`)
)

// Endpoints returns one page of endpoints.
func (s *Store) Endpoints(ctx context.Context, eq EndpointQuery) (EndpointPage, error) {
	limit, err := checkLimit(eq.Limit)
	if err != nil {
		return EndpointPage{}, err
	}
	shape, err := eq.shape()
	if err != nil {
		return EndpointPage{}, err
	}
	at := []any{"", int64(0), "", "", int64(-1 << 63)}
	if eq.Cursor != "" {
		if at, err = decodeCursor(eq.Cursor, shape, "tnttn"); err != nil {
			return EndpointPage{}, err
		}
	}
	found, err := s.endpointRows(ctx, &eq, at, limit+1)
	if err != nil {
		return EndpointPage{}, fmt.Errorf("list endpoints: %w", err)
	}
	p := EndpointPage{Endpoints: found}
	if len(found) > limit {
		p.Endpoints = found[:limit]
		last := &found[limit-1]
		p.Next = encodeCursor(shape, reversed(last.Host), int64(last.Port), last.SNI, last.Address, millis(last.FailedSince))
	}
	return p, nil
}

// millis is 0 for the zero time.
func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// shape is what a cursor must belong to.
func (eq *EndpointQuery) shape() (string, error) {
	set := 0
	for _, is := range []bool{eq.Certificate != "", eq.Failing, eq.Drift} {
		if is {
			set++
		}
	}
	switch {
	case set > 1 || eq.Host != "" && (eq.Certificate != "" || eq.Failing):
		return "", fault.New(fault.Invalid, "ask for endpoints by one of certificate, failing, drift and host (drift and host go together)")
	case eq.Certificate != "" && !db.ValidID(eq.Certificate):
		return "", fault.New(fault.Invalid, "%.80q is not the id of a certificate", eq.Certificate)
	}
	if _, err := parseHost(eq.Host); eq.Host != "" && err != nil {
		return "", err
	}
	return fmt.Sprintf("endpoints\n%s\n%s\n%t\n%t", eq.Host, eq.Certificate, eq.Failing, eq.Drift), nil
}

func (s *Store) endpointRows(ctx context.Context, eq *EndpointQuery, at []any, limit int) ([]Endpoint, error) {
	lo, hi := "", textEnd
	if eq.Host != "" {
		h, err := parseHost(eq.Host)
		if err != nil {
			return nil, err
		}
		lo, hi = h.bounds()
	}
	key, q := at[:4], s.db.Read()
	switch {
	case eq.Certificate != "":
		return db.List(ctx, q, qEndpointsOf, scanEndpoint, append(slices.Clone(key), eq.Certificate, limit)...)
	case eq.Failing:
		return db.List(ctx, q, qFailing, scanEndpoint, append(slices.Clone(key), at[4], limit)...)
	case eq.Drift:
		return db.List(ctx, q, qDrift, scanEndpoint, append(slices.Clone(key), lo, hi, limit)...)
	}
	return db.List(ctx, q, qEndpoints, scanEndpoint, append(slices.Clone(key), lo, hi, limit)...)
}
