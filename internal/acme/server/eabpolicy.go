package server

import (
	"context"
	"encoding/json/v2"
	"slices"
	"time"

	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

// EABPolicy is what accounts may do that are bound by a key, on top of what
// their CA allows. It is part of the key and never changes. The zero value
// allows whatever the CA does.
type EABPolicy struct {
	// Profiles that may be ordered, the first when an order names none; nil:
	// any.
	Profiles []string `json:"profiles,omitzero"`

	// Identifiers that may be ordered, as pki.ParsePattern reads them; nil:
	// any, empty: none.
	Identifiers []string `json:"identifiers,omitzero"`

	// OrdersPerDay is how many orders one account may make in 24 hours,
	// renewals too; 0: as many as the rate limits let it.
	OrdersPerDay int `json:"orders_per_day,omitzero"`
}

// boundPolicy is an EABPolicy ready to be asked. Nil allows everything.
type boundPolicy struct {
	EABPolicy
	patterns []pki.Pattern
}

// empty reports whether p allows everything.
func (p *EABPolicy) empty() bool {
	return p.Profiles == nil && p.Identifiers == nil && p.OrdersPerDay == 0
}

// check reports what makes p unusable.
func (p *EABPolicy) check() error {
	if p.OrdersPerDay < 0 || p.OrdersPerDay > 1_000_000 {
		return fault.New(fault.Invalid, "orders per day must be between 0 (no quota) and 1000000")
	}
	if len(p.Profiles) > 100 || len(p.Identifiers) > 1000 || slices.Contains(p.Profiles, "") {
		return fault.New(fault.Invalid, "a key names at most 100 profiles and 1000 identifier patterns, none of them empty")
	}
	_, err := pki.ParsePatterns(p.Identifiers)
	return err
}

// readPolicy reads a stored policy; "" is none. One that cannot be read is an
// error: it must not turn into none.
func readPolicy(text string) (*boundPolicy, error) {
	if text == "" {
		return nil, nil
	}
	p := new(boundPolicy)
	err := json.Unmarshal([]byte(text), &p.EABPolicy)
	if err == nil {
		p.patterns, err = pki.ParsePatterns(p.Identifiers)
	}
	return p, wrap("read policy of a binding key", err)
}

// profile returns the profile to use for an order that names that one, or "".
func (p *boundPolicy) profile(asked string) (string, error) {
	switch {
	case p == nil || p.Profiles == nil:
		return asked, nil
	case asked == "" && len(p.Profiles) > 0:
		return p.Profiles[0], nil
	case slices.Contains(p.Profiles, asked):
		return asked, nil
	}
	return "", fault.New(fault.InvalidProfile, "the account's binding key does not allow profile %.64q; it allows %v", asked, p.Profiles)
}

// permits returns a rejectedIdentifier fault for a name that the key does not
// allow.
func (p *boundPolicy) permits(id pki.Identifier) error {
	if p == nil || p.Identifiers == nil || pki.MatchAny(p.patterns, id) {
		return nil
	}
	return fault.New(fault.RejectedIdentifier, "the account's binding key does not allow %s; ask the operator for another key", id.Value)
}

var qOrdersSince = db.SQL("acme.count_orders_since", `SELECT count(*) FROM (SELECT 1 FROM acme_order WHERE account_id = $1 AND id > $2 LIMIT $3) AS o`,
	db.Scan("what is scanned is the sub-select, which has at most $3 rows"))

// spend refuses an order beyond the account's quota. The account's row is
// locked until the order is stored, so that orders at once cannot share a
// place.
func (p *boundPolicy) spend(ctx context.Context, tx *db.Tx, m *message) error {
	if p == nil || p.OrdersPerDay == 0 {
		return nil
	}
	if n, err := tx.Exec(ctx, qGuard, m.acct.ID, m.key.Thumbprint); err != nil || n != 1 {
		return wrap("lock account", err)
	}
	n, err := db.Get(ctx, tx, qOrdersSince, (*db.Row).Int, m.acct.ID, db.NewID(m.now.Add(-day)), p.OrdersPerDay)
	if err != nil {
		return wrap("count orders", err)
	}
	if n >= p.OrdersPerDay {
		return fault.New(fault.RateLimited, "the account's binding key allows %d orders in 24 hours, and they are made", p.OrdersPerDay).Retry(time.Hour)
	}
	return nil
}
