package renew

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"chancery/internal/audit"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/inventory"
	"chancery/internal/pki"
	"chancery/internal/renew/rule"
)

var (
	qPause      = db.SQL("renew.update_paused", `UPDATE managed SET paused = $2, updated_at = $3 WHERE id = $1`)
	qReschedule = db.SQL("renew.reschedule", `UPDATE managed_schedule SET due_at = $2, kind = $3, ca = $4, attempt = 0, lease_token = '' WHERE managed_id = $1`)
	qRestart    = db.SQL("renew.update_restart", `UPDATE managed SET state = CASE WHEN state = 'stopped' THEN 'due' ELSE state END, urgent = $2, attempts = 0, error_class = '', error = '',
		provider = '', failed_at = NULL, updated_at = $3 WHERE id = $1`)
	// What a batch is at work on is left to it.
	qTargetsNow = db.SQL("renew.targets_now", `UPDATE managed_target SET due_at = $2, urgent = 1, lease_token = ''
		WHERE managed_id = $1 AND (live_id IS NULL OR live_id <> want_id) AND (lease_token = '' OR due_at <= $2)`)
	qRemove        = db.SQL("renew.delete_managed", `DELETE FROM managed WHERE id = $1`)
	qRemoveRow     = db.SQL("renew.delete_schedule", `DELETE FROM managed_schedule WHERE managed_id = $1`)
	qRemoveWork    = db.SQL("renew.delete_issuances", `DELETE FROM managed_issuance WHERE managed_id = $1`)
	qRemoveTargets = db.SQL("renew.delete_targets", `DELETE FROM managed_target WHERE managed_id = $1`)
	qRemoveEvents  = db.SQL("renew.delete_all_events", `DELETE FROM managed_event WHERE managed_id = $1`)
)

// known refuses a spec that names an issuer or target that does not exist.
func (e *Engine) known(s *Spec) error {
	for _, name := range append([]string{s.Issuer}, s.Fallbacks...) {
		if e.issuers[name] == nil {
			return fault.New(fault.Invalid, "there is no issuer %.64q; %s", name, e.choices())
		}
	}
	for _, t := range s.Targets {
		if e.targets[t.Name] == nil {
			return fault.New(fault.Invalid, "there is no target %.64q; add a [target.%.64s] to the configuration", t.Name, t.Name)
		}
	}
	return nil
}

// choices says which issuers there are.
func (e *Engine) choices() string {
	if len(e.issuers) == 0 {
		return "the configuration has no [issuer.NAME] section"
	}
	var names []string
	for name := range e.issuers {
		names = append(names, name)
	}
	slices.Sort(names)
	return "there are " + strings.Join(names, ", ")
}

// IssuerNames lists the configured issuers.
func (e *Engine) IssuerNames() []string {
	var names []string
	for name := range e.issuers {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// check completes and checks a spec.
func (e *Engine) checkSpec(s *Spec) error {
	if s.Issuer == "" && len(e.issuers) == 1 {
		s.Issuer = e.IssuerNames()[0]
	}
	if err := s.normalize(); err != nil {
		return err
	}
	return e.known(s)
}

// Create begins to manage a certificate; the first one is ordered at once.
func (e *Engine) Create(ctx context.Context, spec Spec, actor string) (Managed, error) {
	if err := e.checkSpec(&spec); err != nil {
		return Managed{}, err
	}
	now := e.now().UTC().Truncate(time.Millisecond)
	m := Managed{ID: db.NewID(now), Spec: spec, State: Due, CreatedAt: now, UpdatedAt: now}
	return m, e.insert(ctx, []*Managed{&m}, now, issue, actor)
}

// insert stores new managed certificates, each due at the instant of its plan.
func (e *Engine) insert(ctx context.Context, ms []*Managed, at time.Time, k kind, actor string) error {
	now := e.now()
	err := e.db.Write(ctx, func(tx *db.Tx) error {
		var rows, due [][]any
		for _, m := range ms {
			rows = append(rows, m.row())
			ca, when := m.Issuer, at
			if k == check {
				ca, when = m.IssuedBy, rule.Soonest(m.RenewAt, m.AskAt, now.Add(heartbeat))
			}
			due = append(due, []any{m.ID, when, string(k), ca, 0, ""})
		}
		if err := tx.Insert(ctx, putManaged, rows); err != nil {
			return err
		}
		if err := tx.Insert(ctx, putSchedule, due); err != nil {
			return err
		}
		for _, m := range ms {
			record(tx, m.ID, now, "manage", "managed from now on, by "+actor)
			if err := audit.Append(tx, audit.Entry{At: now, Kind: "managed.create", Actor: actor, Subject: "managed:" + m.ID,
				Data: map[string]any{"name": m.Name, "names": m.values(), "issuer": m.Issuer}}); err != nil {
				return err
			}
		}
		return nil
	})
	if errors.Is(err, db.ErrConflict) {
		return fault.New(fault.Conflict, "there is a managed certificate %q already; choose another name", ms[0].Name)
	}
	if err != nil {
		return fmt.Errorf("store managed certificate: %w", err)
	}
	e.Wake()
	return nil
}

// Adopt begins to manage the successors of a certificate of the inventory: its
// names, and its owner unless spec says otherwise. The first renewal comes when
// the certificate's own life says so, not at once.
func (e *Engine) Adopt(ctx context.Context, ref string, spec Spec, actor string) (Managed, error) {
	c, err := e.inventory.Get(ctx, ref)
	if err != nil {
		return Managed{}, err
	}
	if c.CA {
		return Managed{}, fault.New(fault.Invalid, "certificate %s is one of an authority; it cannot be renewed like a subscriber's", c.ID)
	}
	if m, err := db.Get(ctx, e.db.Read(), qManagedOf, scanManaged, c.ID); err == nil {
		return Managed{}, fault.New(fault.Conflict, "certificate %s is managed already, as %q", c.ID, m.Name)
	} else if !errors.Is(err, db.ErrNotFound) {
		return Managed{}, err
	}
	if err := e.adoptInto(ctx, &spec, &c.Certificate); err != nil {
		return Managed{}, err
	}
	if err := e.checkSpec(&spec); err != nil {
		return Managed{}, err
	}
	now := e.now().UTC().Truncate(time.Millisecond)
	m := Managed{ID: db.NewID(now), Spec: spec, State: Idle, CertificateID: c.ID, IssuedBy: spec.Issuer, NotBefore: c.NotBefore, NotAfter: c.NotAfter,
		CreatedAt: now, UpdatedAt: now}
	p := rule.ByLife(rule.Life{ID: c.Fingerprint, NotBefore: c.NotBefore, NotAfter: c.NotAfter, Before: m.RenewBefore})
	m.RenewAt, m.AskAt, m.WindowStart, m.WindowEnd = p.At, e.firstAsk(&m, spec.Issuer, now), p.Start, p.End
	return m, e.insert(ctx, []*Managed{&m}, now, check, actor)
}

// adoptInto takes over what spec leaves open.
func (e *Engine) adoptInto(ctx context.Context, spec *Spec, c *inventory.Certificate) error {
	if spec.Owner == "" {
		spec.Owner = c.Owner
	}
	if kt := pki.KeyType(c.KeyType); spec.KeyType == "" && kt.Valid() {
		spec.KeyType = kt
	}
	if len(spec.Names) > 0 {
		return nil
	}
	names := c.Names
	if der, err := e.inventory.DER(ctx, c.ID); err == nil {
		if cert, err := x509.ParseCertificate(der); err == nil {
			names = pki.MetadataOf(cert).Names
		}
	} else if !fault.Is(err, fault.NotFound) {
		return err
	} else if len(names) < c.NameCount {
		return fault.New(fault.Precondition, "the inventory does not know all %d names of certificate %s; name them", c.NameCount, c.ID)
	}
	ids, err := pki.ParseNames(names)
	spec.Names = ids
	return err
}

// alter changes a managed certificate by a person's wish.
func (e *Engine) alter(ctx context.Context, ref, actor string, what audit.Kind, why string, edit func(tx *db.Tx, m *Managed, now time.Time) error) (Managed, error) {
	m, err := Get(ctx, e.db.Read(), ref)
	if err != nil {
		return m, err
	}
	now := e.now()
	err = e.db.Write(ctx, func(tx *db.Tx) error {
		if err := edit(tx, &m, now); err != nil {
			return err
		}
		record(tx, m.ID, now, strings.TrimPrefix(string(what), "managed."), why+", by "+actor)
		return audit.Append(tx, audit.Entry{At: now, Kind: what, Actor: actor, Subject: "managed:" + m.ID, Data: map[string]any{"name": m.Name}})
	})
	if err != nil {
		return m, fmt.Errorf("change managed certificate: %w", err)
	}
	e.Wake()
	return Get(ctx, e.db.Read(), m.ID)
}

// RenewNow orders the next certificate at once, or repeats what failed.
func (e *Engine) RenewNow(ctx context.Context, ref, actor string) (Managed, error) {
	return e.alter(ctx, ref, actor, "managed.renew", "renewed at once", func(tx *db.Tx, m *Managed, now time.Time) error {
		if m.Paused {
			return fault.New(fault.Conflict, "%s is paused; resume it first", m.Name)
		}
		tx.Queue(qRestart, nil, m.ID, true, now)
		if m.State == Deploying {
			tx.Queue(qTargetsNow, nil, m.ID, now)
			return nil
		}
		tx.Queue(qReschedule, nil, m.ID, now, string(issue), m.Issuer)
		return nil
	})
}

// Pause stops everything about a certificate until it is resumed. What its
// issuer is doing at this moment is not used.
func (e *Engine) Pause(ctx context.Context, ref, actor string) (Managed, error) {
	return e.alter(ctx, ref, actor, "managed.pause", "paused", func(tx *db.Tx, m *Managed, now time.Time) error {
		tx.Queue(qPause, nil, m.ID, true, now)
		tx.Queue(qReschedule, nil, m.ID, now, string(hold), m.Issuer)
		return nil
	})
}

// Resume ends a pause; what was under way goes on.
func (e *Engine) Resume(ctx context.Context, ref, actor string) (Managed, error) {
	return e.alter(ctx, ref, actor, "managed.resume", "resumed", func(tx *db.Tx, m *Managed, now time.Time) error {
		if !m.Paused {
			return fault.New(fault.Conflict, "%s is not paused", m.Name)
		}
		k, ca := check, m.IssuedBy
		if m.NotAfter.IsZero() || m.WorkID != "" {
			k, ca = issue, m.Issuer
		}
		tx.Queue(qPause, nil, m.ID, false, now)
		tx.Queue(qReschedule, nil, m.ID, now, string(k), ca)
		return nil
	})
}

// Update changes what is wanted. Another name, key type, profile or issuer is
// in force from the next renewal on, which RenewNow brings about at once; other
// targets get the live certificate.
func (e *Engine) Update(ctx context.Context, ref string, spec Spec, actor string) (Managed, error) {
	if err := e.checkSpec(&spec); err != nil {
		return Managed{}, err
	}
	before, err := Get(ctx, e.db.Read(), ref)
	if err != nil {
		return before, err
	}
	after, err := e.alter(ctx, ref, actor, "managed.update", "changed", func(tx *db.Tx, m *Managed, now time.Time) error {
		if spec.Name != m.Name {
			return fault.New(fault.Invalid, "the name of a managed certificate cannot be changed; it is %q", m.Name)
		}
		was := m.Targets
		m.Spec = spec
		tx.Queue(qUpdateSpec, nil, m.ID, encodeNames(m.Names), m.Owner, m.Issuer, encode(m.Fallbacks), string(m.KeyType), string(m.KeyPolicy), m.Profile,
			encode(m.Targets), encode(m.Endpoints), m.RenewBefore.Milliseconds(), now)
		if m.LiveID == "" || encode(was) == encode(m.Targets) {
			return nil
		}
		if err := e.wantTargets(tx, m, m.LiveID, now); err != nil {
			return err
		}
		if m.State == Idle && len(m.Targets) > 0 {
			tx.Queue(qState, nil, m.ID, string(Deploying), now)
		}
		return nil
	})
	if err != nil {
		return after, err
	}
	if err := e.desire(ctx, before.Endpoints, ""); err != nil {
		return after, err
	}
	return after, e.desire(ctx, after.Endpoints, after.CertificateID)
}

// Remove stops managing a certificate and forgets its keys. The certificate
// itself, and what targets serve, stay as they are.
func (e *Engine) Remove(ctx context.Context, ref, actor string) error {
	m, err := Get(ctx, e.db.Read(), ref)
	if err != nil {
		return err
	}
	if err := e.desire(ctx, m.Endpoints, ""); err != nil {
		return err
	}
	now := e.now()
	return e.db.Write(ctx, func(tx *db.Tx) error {
		for _, q := range []*db.Stmt{qRemoveRow, qRemoveWork, qRemoveTargets, qRemoveEvents, qRemove} {
			tx.Queue(q, nil, m.ID)
		}
		return audit.Append(tx, audit.Entry{At: now, Kind: "managed.remove", Actor: actor, Subject: "managed:" + m.ID, Data: map[string]any{"name": m.Name}})
	})
}

// Material returns the live certificate of a managed one and its key, for
// whoever may have both: a file of the operator, a test.
func (e *Engine) Material(ctx context.Context, m *Managed) (chain [][]byte, key []byte, err error) {
	if m.LiveID == "" {
		return nil, nil, fault.New(fault.NotFound, "%s has no certificate yet, or none that was obtained here", m.Name)
	}
	w, err := db.Get(ctx, e.db.Read(), qIssuance, scanIssuance, m.LiveID)
	if err != nil {
		return nil, nil, fmt.Errorf("read live certificate: %w", err)
	}
	signer, err := e.openKey(&w)
	if err != nil {
		return nil, nil, err
	}
	key, err = x509.MarshalPKCS8PrivateKey(signer)
	return w.Chain, key, err
}

// CreateMany is Create for many certificates; those are ordered as fast as
// their issuers' caps and budgets let them. Nothing is stored if one of the
// specs cannot be used; chunks of 5,000 are stored one by one.
func (e *Engine) CreateMany(ctx context.Context, specs []Spec, actor string) error {
	now := e.now().UTC().Truncate(time.Millisecond)
	ms := make([]*Managed, len(specs))
	for i := range specs {
		if err := e.checkSpec(&specs[i]); err != nil {
			return err
		}
		ms[i] = &Managed{ID: db.NewID(now), Spec: specs[i], State: Due, CreatedAt: now, UpdatedAt: now}
	}
	for chunk := range slices.Chunk(ms, seedChunk) {
		if err := e.insert(ctx, chunk, now, issue, actor); err != nil {
			return err
		}
	}
	return nil
}
