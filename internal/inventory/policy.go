package inventory

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"chancery/internal/audit"
	"chancery/internal/db"
	"chancery/internal/fault"
)

// PolicyMode says what a policy does.
type PolicyMode string

// Modes of a policy.
const (
	Shadow  PolicyMode = "shadow"  // reports
	Enforce PolicyMode = "enforce" // reports, and our own authorities refuse what would violate it
)

// Valid reports whether m is a known mode.
func (m PolicyMode) Valid() bool { return m == Shadow || m == Enforce }

// Policy is a rule about certificates: what its query finds violates it.
type Policy struct {
	ID        string
	Name      string // unique
	Query     string // without a status it means active certificates
	Severity  string // info, warning or critical
	Mode      PolicyMode
	Note      string // for those who are refused
	CreatedBy string
	CreatedAt time.Time
	UpdatedBy string
	UpdatedAt time.Time
}

// PolicyReport is what a policy finds in the whole inventory.
type PolicyReport struct {
	Query      string // as it was looked for
	Violations Count
	Of         Count         // active certificates altogether
	Owners     Facet         // of the violations
	Issuers    Facet         // likewise
	Sample     []Certificate // those that end first
}

// Bounds of policies.
const (
	maxPolicies  = 200
	policySample = 20
)

// policyName is what the name of a policy looks like.
var policyName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)

// severities of a policy.
var severities = []string{"info", "warning", "critical"}

const policyColumns = `id, name, query, severity, mode, note, created_by, created_at, updated_by, updated_at`

var (
	qPolicies  = db.SQL("inventory.list_policies", `SELECT `+policyColumns+` FROM inventory_policy WHERE name > $1 ORDER BY name LIMIT $2`)
	qPolicy    = db.SQL("inventory.get_policy", `SELECT `+policyColumns+` FROM inventory_policy WHERE name = $1`)
	qPutPolicy = db.SQL("inventory.upsert_policy", `INSERT INTO inventory_policy (`+policyColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8::bigint, $7, $8::bigint)
		ON CONFLICT (name) DO UPDATE SET query = excluded.query, severity = excluded.severity, mode = excluded.mode, note = excluded.note,
		updated_by = excluded.updated_by, updated_at = excluded.updated_at`)
	qDropPolicy = db.SQL("inventory.delete_policy", `DELETE FROM inventory_policy WHERE name = $1`)
	errNoPolicy = errors.New("no such policy")
)

func scanPolicy(r *db.Row) Policy {
	return Policy{r.Text(), r.Text(), r.Text(), r.Text(), PolicyMode(r.Text()), r.Text(), r.Text(), r.Time(), r.Text(), r.Time()}
}

// Policies returns up to limit policies in the order of their names, after the
// name after ("" = from the first).
func (s *Store) Policies(ctx context.Context, after string, limit int) ([]Policy, error) {
	all, err := db.List(ctx, s.db.Read(), qPolicies, scanPolicy, after, limit)
	if err != nil {
		return nil, fmt.Errorf("list policies: %w", err)
	}
	return all, nil
}

// Policy returns the policy with a name, or a *fault.Error (notFound).
func (s *Store) Policy(ctx context.Context, name string) (Policy, error) {
	p, err := db.Get(ctx, s.db.Read(), qPolicy, scanPolicy, name)
	if errors.Is(err, db.ErrNotFound) {
		return p, fault.New(fault.NotFound, "there is no policy %.80q; `chancery certs policy list` shows them", name)
	}
	return p, err
}

// violations reads a query of a policy. One that everything would violate is
// refused: it is more likely a slip than a wish.
func violations(query string, now time.Time) (Filter, error) {
	f, err := Parse(query, now)
	if err != nil {
		return f, err
	}
	if f.String() == "" {
		return f, fault.New(fault.Invalid, "the query of a policy says what violates it; this one is empty, and every certificate would")
	}
	if len(f.Statuses) == 0 {
		f.Statuses = []Status{Active}
	}
	return f, nil
}

// check returns a *fault.Error (invalid) that says what is wrong with p.
func (p *Policy) check(now time.Time) error {
	if !policyName.MatchString(p.Name) {
		return fault.New(fault.Invalid, "name: a name is 1 to 64 lower-case letters, digits and hyphens")
	}
	if !slices.Contains(severities, p.Severity) {
		return fault.New(fault.Invalid, "severity: must be one of %v", severities)
	}
	if !p.Mode.Valid() {
		return fault.New(fault.Invalid, "mode: must be %s or %s", Shadow, Enforce)
	}
	if p.Note != "" {
		if err := checkText("note", p.Note); err != nil {
			return err
		}
	}
	f, err := violations(p.Query, now)
	if err != nil || p.Mode == Shadow {
		return err
	}
	if term := f.undecidable(); term != "" {
		return fault.New(fault.Invalid, "a policy with %s: cannot be enforced: nothing is known of that when a certificate is issued; known are key, name, issuer, expires and words in the names", term)
	}
	return nil
}

// PutPolicy stores a policy, in place of the one of its name, and journals who
// did it. This process goes by it at once, others within seconds.
func (s *Store) PutPolicy(ctx context.Context, p Policy, actor string, now time.Time) (Policy, error) {
	if err := p.check(now); err != nil {
		return p, err
	}
	all, err := s.Policies(ctx, "", maxPolicies)
	if err != nil {
		return p, err
	}
	if len(all) >= maxPolicies && !slices.ContainsFunc(all, func(o Policy) bool { return o.Name == p.Name }) {
		return p, fault.New(fault.Conflict, "there are %d policies already; delete some", len(all))
	}
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qPutPolicy, nil, db.NewID(now), p.Name, p.Query, p.Severity, string(p.Mode), p.Note, actor, now)
		return audit.Append(tx, audit.Entry{At: now, Kind: "policy.put", Actor: actor, Subject: "policy:" + p.Name,
			Data: map[string]any{"query": p.Query, "severity": p.Severity, "mode": string(p.Mode), "note": p.Note}})
	})
	if err != nil {
		return p, fmt.Errorf("store policy: %w", err)
	}
	if err := s.LoadPolicies(ctx, now); err != nil {
		return p, err
	}
	return s.Policy(ctx, p.Name)
}

// DropPolicy deletes a policy; a missing one is a *fault.Error (notFound).
func (s *Store) DropPolicy(ctx context.Context, name, actor string, now time.Time) error {
	err := s.db.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qDropPolicy, db.ExactlyOne(errNoPolicy), name)
		return audit.Append(tx, audit.Entry{At: now, Kind: "policy.delete", Actor: actor, Subject: "policy:" + name})
	})
	if errors.Is(err, errNoPolicy) {
		return fault.New(fault.NotFound, "there is no policy %.80q", name)
	}
	if err != nil {
		return fmt.Errorf("delete policy: %w", err)
	}
	return s.LoadPolicies(ctx, now)
}

// CheckPolicy says what a query finds, stored or not, and changes nothing. Its
// cost does not grow with the inventory: counts come from roll-ups, or say that
// they are lower bounds.
func (s *Store) CheckPolicy(ctx context.Context, query string, now time.Time) (PolicyReport, error) {
	f, err := violations(query, now)
	if err != nil {
		return PolicyReport{}, err
	}
	r := PolicyReport{Query: f.String()}
	if r.Violations, err = s.Count(ctx, f); err != nil {
		return r, err
	}
	if r.Of, err = s.Count(ctx, Filter{Statuses: []Status{Active}}); err != nil {
		return r, err
	}
	facets, err := s.Facets(ctx, f, ByOwner, ByIssuer)
	if err != nil {
		return r, err
	}
	r.Owners, r.Issuers = facets[0], facets[1]
	page, err := s.List(ctx, Query{Filter: f, Limit: policySample})
	r.Sample = page.Certificates
	return r, err
}

// Proposal is a certificate that is about to be issued.
type Proposal struct {
	Issuer    string // common name of the authority
	Key       string // pki.KeyDescription
	Names     []string
	NotBefore time.Time
	NotAfter  time.Time
}

// enforced is a policy in force, ready to be asked.
type enforced struct {
	Policy
	filter Filter
}

// LoadPolicies makes this process go by the policies as they are stored now.
func (s *Store) LoadPolicies(ctx context.Context, now time.Time) error {
	all, err := s.Policies(ctx, "", maxPolicies)
	if err != nil {
		return err
	}
	set := []enforced{}
	for _, p := range all {
		if p.Mode != Enforce {
			continue
		}
		f, err := violations(p.Query, now)
		if err != nil {
			return fmt.Errorf("read policy %s: %w", p.Name, err)
		}
		set = append(set, enforced{p, f})
	}
	s.policies.Store(&set)
	return nil
}

// Refuse returns a *fault.Error (badCSR) that names the first policy in force
// which the proposal would violate.
func (s *Store) Refuse(p *Proposal) error {
	set := s.policies.Load()
	if set == nil {
		return fault.New(fault.Unavailable, "the policies are not loaded yet").Retry(time.Second)
	}
	for i := range *set {
		if e := &(*set)[i]; e.filter.fits(p) {
			why := ""
			if e.Note != "" {
				why = ": " + e.Note
			}
			return fault.New(fault.BadCSR, "policy %s refuses this certificate%s", e.Name, why)
		}
	}
	return nil
}

// undecidable returns the first term of f that an issuance cannot be held
// against, "" if there is none.
func (f *Filter) undecidable() string {
	for _, t := range []struct {
		is   bool
		term string
	}{{len(f.Owners) > 0, "owner"}, {len(f.Teams) > 0, "team"}, {len(f.Environments) > 0, "env"}, {f.Source != 0, "source"}, {f.Managed != nil, "managed"},
		{f.CA != nil && *f.CA, "ca"}, {f.Seen.set(), "seen"}, {f.Endpoint.Name != "", "endpoint"}, {len(f.Tags) > 0, "tag"}, {f.Serial != "", "serial"},
		{f.Fingerprint != "", "fingerprint"}, {f.SPKI != "", "spki"}, {f.ID != "", "id"}, {!slices.Contains(f.statuses(), Active), "status"}} {
		if t.is {
			return t.term
		}
	}
	return ""
}

// fits reports whether a proposal, once issued, would be found by f.
func (f *Filter) fits(p *Proposal) bool {
	in := func(text, part string) bool { return strings.Contains(lower(text), lower(part)) }
	lo, hi := f.Expires.millis()
	end := p.NotAfter.UnixMilli()
	return end >= lo && end < hi &&
		(len(f.Keys) == 0 || isKey(f.Keys, p.Key)) &&
		(len(f.Issuers) == 0 || slices.ContainsFunc(f.Issuers, func(i string) bool { return in(p.Issuer, i) })) &&
		(f.Name.Name == "" || slices.ContainsFunc(p.Names, f.Name.fits)) &&
		!slices.ContainsFunc(f.Words, func(w string) bool {
			return !slices.ContainsFunc(p.Names, func(n string) bool { return in(n, w) })
		})
}

// fits reports whether a name is one that h means.
func (h Host) fits(name string) bool {
	name = lower(name)
	return h.Exact && name == h.Name || h.Below && strings.HasSuffix(name, "."+h.Name)
}
