package renew

import (
	"context"
	"encoding/json/v2"
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/issuer"
	"chancery/internal/pki"
)

// KeyPolicy says what becomes of the key when a certificate is renewed.
type KeyPolicy string

// Key policies.
const (
	NewKey   KeyPolicy = "new"   // each certificate has a key of its own
	ReuseKey KeyPolicy = "reuse" // the key stays until the key type changes
)

// Valid reports whether p is a known policy.
func (p KeyPolicy) Valid() bool { return p == NewKey || p == ReuseKey }

// Target is where a certificate is put into service.
type Target struct {
	Name   string            `json:"name"`             // of the target in the configuration
	Params map[string]string `json:"params,omitempty"` // what that target wants to know per certificate
}

// Spec is what a user says about a managed certificate.
type Spec struct {
	Name      string // for people and files: 1 to 64 of a-z, 0-9, '.', '-', '_'
	Names     []pki.Identifier
	Owner     string
	Issuer    string
	Fallbacks []string // issuers to use while Issuer is down, in this order
	KeyType   pki.KeyType
	KeyPolicy KeyPolicy
	Profile   string // at the issuer; "" = its default
	Targets   []Target
	Endpoints []string // host:port that should serve it: what the reconciler looks at

	// RenewBefore renews so long before the end, if the issuer's own window is
	// not earlier; 0 = by the window alone.
	RenewBefore time.Duration

	remote bool // the key is elsewhere; see CreateRemote
}

// Managed is one managed certificate.
type Managed struct {
	ID string
	Spec

	State  State
	Paused bool
	Urgent bool // skips collect and maintenance windows

	LiveID        string // issuance that is in use, "" = none yet
	WorkID        string // issuance under way, "" = none
	CertificateID string // of the live certificate in the inventory
	IssuedBy      string // issuer of the live certificate
	ARI           string // RFC 9773 identifier of the live certificate, or ""
	NotBefore     time.Time
	NotAfter      time.Time
	RenewAt       time.Time // the instant of renewal
	AskAt         time.Time // when the issuer is asked for its window again; zero = it has none
	WindowStart   time.Time // the window it was chosen from
	WindowEnd     time.Time
	Explanation   string // URL the issuer gave for its window, or ""

	Provider   string       // that failed last, "" = none
	Attempts   int          // failures since the last success
	ErrorClass issuer.Class // of the last failure, "" = none
	Error      string
	FailedAt   time.Time
	DrillID    string
	CreatedAt  time.Time
	UpdatedAt  time.Time
}

// Bounds of a Spec.
const (
	maxNames     = 100
	maxTargets   = 64
	maxEndpoints = 64
	maxFallbacks = 8
	maxOwner     = 255
)

var (
	namePattern    = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)
	profilePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$`)
)

// normalize checks s and puts it into the one form that is stored.
func (s *Spec) normalize() error {
	s.Names = pki.SortIdentifiers(s.Names)
	switch {
	case len(s.Names) == 0 || len(s.Names) > maxNames:
		return fault.New(fault.Invalid, "a certificate has 1 to %d names", maxNames)
	case len(s.Owner) > maxOwner || strings.ContainsFunc(s.Owner, func(r rune) bool { return r < 0x20 || r == 0xfffd }):
		return fault.New(fault.Invalid, "the owner is a text of at most %d bytes without control characters", maxOwner)
	case s.Issuer == "":
		return fault.New(fault.Invalid, "name the issuer of the certificate")
	case len(s.Fallbacks) > maxFallbacks || slices.Contains(s.Fallbacks, s.Issuer):
		return fault.New(fault.Invalid, "fallbacks are at most %d other issuers", maxFallbacks)
	case s.Profile != "" && !profilePattern.MatchString(s.Profile):
		return fault.New(fault.Invalid, "profile %.64q is not a profile's name", s.Profile)
	case s.RenewBefore < 0:
		return fault.New(fault.Invalid, "renew_before cannot be negative")
	}
	if s.Name == "" {
		s.Name = defaultName(s.Names[0])
	}
	if !namePattern.MatchString(s.Name) {
		return fault.New(fault.Invalid, "%.80q is not a name for a managed certificate: use 1 to 64 of a-z, 0-9, '.', '-' and '_', a letter or digit first", s.Name)
	}
	if _, remote := remoteID(s.Name); remote != s.remote {
		return fault.New(fault.Invalid, "names that begin with %q are those of certificates that agents keep in service; see `chancery agents`", remotePrefix)
	}
	for i, id := range s.Names {
		checked, err := pki.ParseIdentifier(id.Type, id.Value)
		if err != nil {
			return err
		}
		s.Names[i] = checked
	}
	s.Names = pki.SortIdentifiers(s.Names)
	if s.KeyType == "" {
		s.KeyType = pki.P256
	}
	if s.KeyPolicy == "" {
		s.KeyPolicy = NewKey
	}
	if !s.KeyType.Valid() || !s.KeyPolicy.Valid() {
		return fault.New(fault.Invalid, "key type %.20q with key policy %.20q: choose one of %v, and %q or %q", string(s.KeyType), string(s.KeyPolicy), pki.KeyTypes, NewKey, ReuseKey)
	}
	return s.normalizePlaces()
}

// defaultName makes a name of the first identifier.
func defaultName(id pki.Identifier) string {
	name := strings.NewReplacer("*.", "wildcard.", ":", "-").Replace(id.Value)
	return strings.Trim(name[:min(len(name), 64)], ".-_")
}

// normalizePlaces checks where the certificate is to be served.
func (s *Spec) normalizePlaces() error {
	if len(s.Targets) > maxTargets || len(s.Endpoints) > maxEndpoints {
		return fault.New(fault.Invalid, "a certificate has at most %d targets and %d endpoints", maxTargets, maxEndpoints)
	}
	slices.SortFunc(s.Targets, func(a, b Target) int { return strings.Compare(a.Name, b.Name) })
	for i, t := range s.Targets {
		if t.Name == "" || i > 0 && s.Targets[i-1].Name == t.Name {
			return fault.New(fault.Invalid, "name each target once")
		}
	}
	for i, e := range s.Endpoints {
		host, port, err := net.SplitHostPort(e)
		n, perr := strconv.ParseUint(port, 10, 16)
		if err != nil || perr != nil || n == 0 || host == "" {
			return fault.New(fault.Invalid, "endpoint %.80q is not host:port, such as www.example.com:443", e)
		}
		s.Endpoints[i] = strings.ToLower(host) + ":" + port
		if strings.Contains(host, ":") {
			s.Endpoints[i] = net.JoinHostPort(strings.ToLower(host), port)
		}
	}
	slices.Sort(s.Endpoints)
	s.Endpoints = slices.Compact(s.Endpoints)
	return nil
}

// values returns the values of the names.
func (s *Spec) values() []string {
	out := make([]string, len(s.Names))
	for i, n := range s.Names {
		out[i] = n.Value
	}
	return out
}

// encodeNames writes names as they are stored.
func encodeNames(ids []pki.Identifier) string {
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = id.String()
	}
	return strings.Join(out, " ")
}

// decodeNames reads what encodeNames wrote.
func decodeNames(text string) []pki.Identifier {
	var out []pki.Identifier
	for f := range strings.FieldsSeq(text) {
		typ, value, _ := strings.Cut(f, ":")
		out = append(out, pki.Identifier{Type: pki.IdentifierType(typ), Value: value})
	}
	return out
}

// encode writes a list of the row; plain strings and maps always encode.
func encode(v any) string {
	b, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		return "[]"
	}
	return string(b)
}

const managedColumns = `m.id, m.name, m.names, m.owner, m.issuer, m.fallbacks, m.key_type, m.key_policy, m.profile, m.targets, m.endpoints,
	m.renew_before, m.state, m.paused, m.urgent, m.live_id, m.work_id, m.certificate_id, m.issued_by, m.ari_id, m.not_before, m.not_after,
	m.renew_at, m.ask_at, m.window_start, m.window_end, m.explanation, m.provider, m.attempts, m.error_class, m.error, m.failed_at, m.drill_id,
	m.created_at, m.updated_at`

func scanManaged(r *db.Row) Managed {
	m := Managed{ID: r.Text()}
	m.Name, m.Names, m.Owner, m.Issuer = r.Text(), decodeNames(r.Text()), r.Text(), r.Text()
	// Written by this package only; what does not parse is empty.
	_ = json.Unmarshal([]byte(r.Text()), &m.Fallbacks)
	m.KeyType, m.KeyPolicy, m.Profile = pki.KeyType(r.Text()), KeyPolicy(r.Text()), r.Text()
	_ = json.Unmarshal([]byte(r.Text()), &m.Targets)
	_ = json.Unmarshal([]byte(r.Text()), &m.Endpoints)
	m.RenewBefore = time.Duration(r.Int64()) * time.Millisecond
	m.State, m.Paused, m.Urgent = State(r.Text()), r.Bool(), r.Bool()
	m.LiveID, m.WorkID, m.CertificateID, m.IssuedBy, m.ARI = r.Text(), r.Text(), r.Text(), r.Text(), r.Text()
	m.NotBefore, m.NotAfter, m.RenewAt, m.AskAt, m.WindowStart, m.WindowEnd = r.Time(), r.Time(), r.Time(), r.Time(), r.Time(), r.Time()
	m.Explanation, m.Provider, m.Attempts = r.Text(), r.Text(), r.Int()
	m.ErrorClass, m.Error, m.FailedAt, m.DrillID = issuer.Class(r.Text()), r.Text(), r.Time(), r.Text()
	m.CreatedAt, m.UpdatedAt = r.Time(), r.Time()
	return m
}

var (
	qManaged       = db.SQL("renew.get_managed", `SELECT `+managedColumns+` FROM managed m WHERE m.id = $1`)
	qManagedByName = db.SQL("renew.get_managed_by_name", `SELECT `+managedColumns+` FROM managed m WHERE m.name = $1`)
	qManagedOf     = db.SQL("renew.get_managed_of", `SELECT `+managedColumns+` FROM managed m WHERE m.certificate_id = $1 LIMIT 1`)
	qManagedList   = db.SQL("renew.list_managed", `SELECT `+managedColumns+` FROM managed m WHERE m.id > $1 AND m.drill_id IS NULL ORDER BY m.id LIMIT $2`)
	qManagedBy     = db.SQL("renew.list_managed_by_issuer", `SELECT `+managedColumns+` FROM managed m WHERE m.issuer = $1 AND m.id > $2 AND m.drill_id IS NULL ORDER BY m.id LIMIT $3`)
	qManagedOwned  = db.SQL("renew.list_managed_by_owner", `SELECT `+managedColumns+` FROM managed m WHERE m.owner = $1 AND m.id > $2 AND m.drill_id IS NULL ORDER BY m.id LIMIT $3`)
	qTroubled      = db.SQL("renew.list_troubled", `SELECT `+managedColumns+` FROM managed m WHERE m.error_class <> '' AND m.id > $1 AND m.drill_id IS NULL ORDER BY m.id LIMIT $2`)

	putManaged = db.BulkInsert("renew.insert_managed", "managed", false, "id", "name", "names", "owner", "issuer", "fallbacks", "key_type", "key_policy",
		"profile", "targets", "endpoints", "renew_before", "state", "paused", "urgent", "live_id", "certificate_id", "issued_by", "ari_id", "not_before", "not_after",
		"renew_at", "ask_at", "window_start", "window_end", "explanation", "provider", "attempts", "error_class", "error", "drill_id", "created_at", "updated_at")
	putSchedule = db.BulkInsert("renew.insert_schedule", "managed_schedule", false, "managed_id", "due_at", "kind", "ca", "attempt", "lease_token")

	qUpdateSpec = db.SQL("renew.update_spec", `UPDATE managed SET names = $2, owner = $3, issuer = $4, fallbacks = $5, key_type = $6, key_policy = $7,
		profile = $8, targets = $9, endpoints = $10, renew_before = $11, updated_at = $12 WHERE id = $1`)
)

// row is m as putManaged takes it.
func (m *Managed) row() []any {
	return []any{m.ID, m.Name, encodeNames(m.Names), m.Owner, m.Issuer, encode(m.Fallbacks), string(m.KeyType), string(m.KeyPolicy), m.Profile,
		encode(m.Targets), encode(m.Endpoints), m.RenewBefore.Milliseconds(), string(m.State), m.Paused, m.Urgent, orNull(m.LiveID), orNull(m.CertificateID),
		m.IssuedBy, m.ARI, m.NotBefore, m.NotAfter, m.RenewAt, m.AskAt, m.WindowStart, m.WindowEnd, m.Explanation, m.Provider, m.Attempts,
		string(m.ErrorClass), m.Error, orNull(m.DrillID), m.CreatedAt, m.UpdatedAt}
}

// orNull makes "" a NULL.
func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// Get returns a managed certificate by its id, its name, or the inventory id of
// its certificate, or a notFound fault.
func Get(ctx context.Context, q db.Q, ref string) (Managed, error) {
	by := []*db.Stmt{qManagedByName}
	if db.ValidID(ref) {
		by = []*db.Stmt{qManaged, qManagedByName, qManagedOf}
	}
	for _, stmt := range by {
		m, err := db.Get(ctx, q, stmt, scanManaged, ref)
		if !errors.Is(err, db.ErrNotFound) {
			return m, err
		}
	}
	return Managed{}, fault.New(fault.NotFound, "there is no managed certificate %.80q; `chancery renew list` shows them", ref)
}

// ListQuery asks for a page of managed certificates, in the order of their ids.
type ListQuery struct {
	Issuer  string // "" = of any
	Owner   string // "" = of any
	Trouble bool   // only those whose last try failed; at most one of the three
	After   string // id before the page
	Limit   int
}

// List returns up to Limit managed certificates behind After.
func List(ctx context.Context, q db.Q, lq ListQuery) ([]Managed, error) {
	var ms []Managed
	var err error
	switch {
	case lq.Trouble:
		ms, err = db.List(ctx, q, qTroubled, scanManaged, lq.After, lq.Limit)
	case lq.Owner != "":
		ms, err = db.List(ctx, q, qManagedOwned, scanManaged, lq.Owner, lq.After, lq.Limit)
	case lq.Issuer != "":
		ms, err = db.List(ctx, q, qManagedBy, scanManaged, lq.Issuer, lq.After, lq.Limit)
	default:
		ms, err = db.List(ctx, q, qManagedList, scanManaged, lq.After, lq.Limit)
	}
	if err != nil {
		return nil, fmt.Errorf("list managed certificates: %w", err)
	}
	return ms, nil
}
