package renew

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/issuer"
	"chancery/internal/keys"
	"chancery/internal/obs"
	"chancery/internal/pki"
	"chancery/internal/renew/rule"
)

// issuance is one try to get a certificate.
type issuance struct {
	ID          string
	ManagedID   string
	Issuer      string
	Trial       bool   // at a staging issuer: nothing of it is used
	Key         []byte // sealed PKCS #8
	CSR         []byte
	Replaces    []byte // DER of the predecessor, if the same issuer made it
	Step        string // the issuer's own word
	Data        []byte // the issuer's own state
	Chain       [][]byte
	Fingerprint string
	CreatedAt   time.Time
	IssuedAt    time.Time
}

const issuanceColumns = `id, managed_id, issuer, trial, key, csr, replaces, step, data, chain, fingerprint, created_at, issued_at`

func scanIssuance(r *db.Row) issuance {
	w := issuance{ID: r.Text(), ManagedID: r.Text(), Issuer: r.Text(), Trial: r.Bool(), Key: r.Bytes(), CSR: r.Bytes(), Replaces: r.Bytes(),
		Step: r.Text(), Data: r.Bytes()}
	w.Chain = splitDER(r.Bytes())
	w.Fingerprint, w.CreatedAt, w.IssuedAt = r.Text(), r.Time(), r.Time()
	return w
}

// splitDER takes a stored chain apart: certificates one behind the other.
func splitDER(b []byte) [][]byte {
	certs, err := x509.ParseCertificates(b)
	if err != nil {
		return nil
	}
	out := make([][]byte, len(certs))
	for i, c := range certs {
		out[i] = c.Raw
	}
	return out
}

var (
	qIssuance       = db.SQL("renew.get_issuance", `SELECT `+issuanceColumns+` FROM managed_issuance WHERE id = $1`)
	qInsertIssuance = db.SQL("renew.insert_issuance", `INSERT INTO managed_issuance (id, managed_id, issuer, trial, key, csr, replaces, step, created_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, '', $8)`)
	qBegin = db.SQL("renew.begin_issuance", `UPDATE managed SET state = 'due', work_id = $2, updated_at = $3 WHERE id = $1`)
	qStep  = db.SQL("renew.update_step", `UPDATE managed_issuance SET step = $2, data = $3 WHERE id = $1`)
	qState = db.SQL("renew.update_state", `UPDATE managed SET state = $2, updated_at = $3 WHERE id = $1`)
	qChain = db.SQL("renew.update_chain", `UPDATE managed_issuance SET chain = $2, fingerprint = $3, issued_at = $4, data = NULL WHERE id = $1`)
	qDrop  = db.SQL("renew.delete_issuance", `DELETE FROM managed_issuance WHERE id = $1`)
	qPrune = db.SQL("renew.delete_old_issuances", `DELETE FROM managed_issuance WHERE managed_id = $1 AND id <> $2 AND id <> $3`)
)

// sealPlace binds a sealed key to its row.
func sealPlace(id string) []byte { return []byte("managed_issuance/" + id) }

// issue drives the issuance of a managed certificate as far as it goes.
func (e *Engine) issue(ctx context.Context, l lease, m *Managed) error {
	if m.Paused {
		return e.rest(ctx, l, m, hold, e.now())
	}
	w, err := e.current(ctx, l, m)
	if err != nil || w == nil {
		return err
	}
	if len(w.Chain) == 0 {
		if err := e.obtain(ctx, l, m, w); err != nil || len(w.Chain) == 0 {
			return err
		}
	}
	fault.Point("renew.before_handover")
	return e.handOver(ctx, l, m, w)
}

// current returns the issuance under way, or begins one. nil means that the
// certificate has to wait and its lease is released.
func (e *Engine) current(ctx context.Context, l lease, m *Managed) (*issuance, error) {
	if m.WorkID != "" {
		w, err := db.Get(ctx, e.db.Read(), qIssuance, scanIssuance, m.WorkID)
		if err != nil {
			return nil, fmt.Errorf("read issuance %s: %w", m.WorkID, err)
		}
		if len(w.Chain) > 0 {
			return &w, nil // it is used, wherever it came from
		}
		if why := e.forbidden(m); why != nil {
			why.Pending = true // if it may go on some day, nothing is ordered twice
			return nil, e.fail(ctx, l, m, &w, why)
		}
		if w.Issuer == l.ca || w.Trial {
			return &w, nil
		}
		e.log.InfoContext(ctx, "order given up for another issuer", "managed", m.Name, "issuer", w.Issuer, "now", l.ca)
	}
	if p := m.Provider; p != "" {
		if lane, err := laneOf(ctx, e.db.Read(), ProviderLane, p); err == nil && lane.open() && !lane.until(e.now()).IsZero() {
			return nil, e.postpone(ctx, l, m, lane.until(e.now()).Add(rule.Scale(rule.OutageWait, random())), "provider", "the DNS provider "+p+" keeps failing; it is tried again later")
		}
	}
	return e.begin(ctx, l, m)
}

// begin makes key and request, spends the budgets and stores the issuance, all
// before anything is ordered.
func (e *Engine) begin(ctx context.Context, l lease, m *Managed) (*issuance, error) {
	if why := e.forbidden(m); why != nil {
		return nil, e.fail(ctx, l, m, &issuance{Issuer: l.ca}, why)
	}
	now := e.now()
	name, trial := l.ca, false
	if s := e.issuer(l.ca).Staging; s != "" && e.issuers[s] != nil && m.ErrorClass == issuer.Validation && m.Attempts >= rule.TrialAfter {
		name, trial = s, true
	}
	w := &issuance{ID: db.NewID(now), ManagedID: m.ID, Issuer: name, Trial: trial, CreatedAt: now}
	err := e.prepare(ctx, m, w)
	if errors.Is(err, errNobody) {
		return nil, e.Remove(ctx, m.ID, "system")
	}
	if errors.Is(err, errNoRequest) {
		return nil, e.postpone(ctx, l, m, now.Add(heartbeat), "request", err.Error())
	}
	if err != nil {
		return nil, err
	}
	err = e.db.Write(ctx, func(tx *db.Tx) error {
		l.touch(tx, now.Add(e.leaseFor))
		if !trial {
			cs := charges(e.issuer(name).budgets(), m.Names, w.Replaces != nil, m.LiveID != "" && m.IssuedBy == name)
			if err := spend(ctx, tx, name, cs, now); err != nil {
				return err
			}
		}
		tx.Queue(qInsertIssuance, nil, w.ID, w.ManagedID, w.Issuer, w.Trial, w.Key, w.CSR, w.Replaces, now)
		tx.Queue(qBegin, nil, m.ID, w.ID, now)
		if m.WorkID != "" {
			tx.Queue(qDrop, nil, m.WorkID)
		}
		record(tx, m.ID, now, "order", "a certificate is ordered from "+name+map[bool]string{true: ", as a rehearsal"}[trial])
		return nil
	})
	var over *overspent
	if errors.As(err, &over) {
		return nil, e.postpone(ctx, l, m, now.Add(over.retry+rule.Scale(over.retry/20, random())), "budget", over.Error())
	}
	if err != nil {
		return nil, fmt.Errorf("begin issuance: %w", err)
	}
	m.State, m.WorkID = Due, w.ID
	fault.Point("renew.after_begin")
	return w, nil
}

// prepare makes what an issuance needs: its key, its request, its predecessor.
func (e *Engine) prepare(ctx context.Context, m *Managed, w *issuance) error {
	var der []byte // none where the key is elsewhere
	if id, ok := remoteID(m.Name); ok {
		csr, err := e.remoteRequest(ctx, m, id)
		if err != nil {
			return err
		}
		w.CSR = csr
	} else {
		key, err := e.keyFor(ctx, m)
		if err != nil {
			return err
		}
		if w.CSR, err = pki.CreateRequest(key, m.Names); err != nil {
			return fmt.Errorf("make certificate request: %w", err)
		}
		if der, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
			return fmt.Errorf("encode key: %w", err)
		}
	}
	w.Key = e.secrets.Seal(der, sealPlace(w.ID))
	// RFC 9773 section 5: only the CA that issued it can replace it.
	if m.LiveID != "" && m.IssuedBy == w.Issuer && !w.Trial && m.DrillID == "" {
		live, err := db.Get(ctx, e.db.Read(), qIssuance, scanIssuance, m.LiveID)
		if err == nil && len(live.Chain) > 0 {
			w.Replaces = live.Chain[0]
		} else if err != nil && !errors.Is(err, db.ErrNotFound) {
			return err
		}
	}
	return nil
}

// keyFor returns the key of the next certificate.
func (e *Engine) keyFor(ctx context.Context, m *Managed) (crypto.Signer, error) {
	if m.KeyPolicy == ReuseKey && m.LiveID != "" {
		live, err := db.Get(ctx, e.db.Read(), qIssuance, scanIssuance, m.LiveID)
		if err != nil && !errors.Is(err, db.ErrNotFound) {
			return nil, err
		}
		if len(live.Key) > 0 {
			key, err := e.openKey(&live)
			if err != nil {
				return nil, err
			}
			if kt, err := pki.KeyTypeOf(key.Public()); err == nil && kt == m.KeyType {
				return key, nil
			}
		}
	}
	return keys.Generate(m.KeyType)
}

// openKey returns the key of an issuance.
func (e *Engine) openKey(w *issuance) (crypto.Signer, error) {
	der, err := e.secrets.Open(w.Key, sealPlace(w.ID))
	if err != nil {
		return nil, fmt.Errorf("open key of issuance %s: %w", w.ID, err)
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("read key of issuance %s: %w", w.ID, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("read key of issuance %s: it cannot sign", w.ID)
	}
	return signer, nil
}

// obtain asks the issuer. On return w has a chain, or the lease is released
// and the certificate waits.
func (e *Engine) obtain(ctx context.Context, l lease, m *Managed, w *issuance) error {
	iss := e.issuer(w.Issuer)
	timeout := iss.Timeout
	if timeout <= 0 {
		timeout = 2 * time.Minute
	}
	call, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var lost error
	r := &issuer.Request{ID: w.ID, CSR: w.CSR, Identifiers: m.Names, Profile: m.Profile, Replaces: w.Replaces,
		State: issuer.State{Step: w.Step, Data: w.Data},
		Save: func(ctx context.Context, s issuer.State) error {
			err := e.saveStep(ctx, l, m, w, s)
			if err != nil {
				lost = err
			}
			return err
		}}
	fault.Point("renew.before_issue")
	timer := e.meters.obtain.start(e.now())
	call, span := obs.Step(call, "issuer.issue")
	span.Str("issuer.name", w.Issuer)
	reply, err := iss.Issue(call, r)
	span.End(err)
	timer.end(e.now(), err)
	fault.Point("renew.after_issue")
	switch {
	case lost != nil:
		return lost // a write failed: whatever the issuer made of it, the row is the truth
	case ctx.Err() != nil:
		return ctx.Err() // told to stop: the row comes back
	case err != nil:
		return e.fail(ctx, l, m, w, rule.Classify(err))
	case len(reply.Chain) == 0 && reply.PollAt.IsZero():
		return e.fail(ctx, l, m, w, &issuer.Error{Class: rule.Unknown, Err: errors.New("the issuer gave neither a certificate nor an instant to ask again")})
	case len(reply.Chain) == 0:
		return e.poll(ctx, l, m, reply.PollAt)
	}
	return e.accept(ctx, l, m, w, reply.Chain)
}

// maxState bounds what an issuer may store, in octets.
const maxState = 64 << 10

// saveStep commits what an issuer is about to do.
func (e *Engine) saveStep(ctx context.Context, l lease, m *Managed, w *issuance, s issuer.State) error {
	if len(s.Step) > 64 || len(s.Data) > maxState {
		return fmt.Errorf("store step of issuance %s: it has more than %d octets", w.ID, maxState)
	}
	now, to := e.now(), stateOf(s.Step)
	if !m.State.may(to) {
		return fmt.Errorf("store step of issuance %s: %s does not follow %s", w.ID, to, m.State)
	}
	fault.Point("renew.before_save_" + string(to))
	err := e.db.Write(ctx, func(tx *db.Tx) error {
		l.touch(tx, now.Add(e.leaseFor))
		tx.Queue(qStep, nil, w.ID, s.Step, s.Data)
		if to != m.State {
			tx.Queue(qState, nil, m.ID, string(to), now)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("store step of issuance %s: %w", w.ID, err)
	}
	m.State, w.Step, w.Data = to, s.Step, s.Data
	fault.Point("renew.after_save_" + string(to))
	return nil
}

// maxPoll bounds how long an issuer may have itself be left alone.
const maxPoll = 24 * time.Hour

// poll releases the lease until the issuer wants to be asked again.
func (e *Engine) poll(ctx context.Context, l lease, m *Managed, at time.Time) error {
	now := e.now()
	at = now.Add(min(max(at.Sub(now), 100*time.Millisecond), maxPoll))
	fault.Point("renew.before_poll")
	return e.db.Write(ctx, func(tx *db.Tx) error {
		l.release(tx, at, issue, l.ca, m.Attempts)
		return nil
	})
}

// errEnded means that a new certificate has ended already: the CA's clock is
// wrong, or more likely ours, and both pass.
var errEnded = errors.New("the certificate that was issued has ended already; compare the clocks of this machine and of the CA")

// verify holds what a CA returned against what was asked for: the key is ours,
// the names are exactly those, it is valid now, and each certificate is signed
// by the next.
func verify(chain [][]byte, csr []byte, names []pki.Identifier, now time.Time) (*x509.Certificate, error) {
	if len(chain) > 10 {
		return nil, errors.New("the chain has more than 10 certificates")
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil, fmt.Errorf("the certificate cannot be read: %w", err)
	}
	req, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, fmt.Errorf("the stored request cannot be read: %w", err)
	}
	want := make([]string, len(names))
	for i, n := range names {
		want[i] = n.Value
	}
	slices.Sort(want)
	switch got := pki.MetadataOf(leaf).Names; {
	case !bytes.Equal(leaf.RawSubjectPublicKeyInfo, req.RawSubjectPublicKeyInfo):
		return nil, errors.New("the certificate is for another key")
	case !slices.Equal(got, slices.Compact(want)):
		return nil, fmt.Errorf("the certificate is for %.300q, not for %.300q", got, want)
	case leaf.IsCA:
		return nil, errors.New("the certificate is one of an authority")
	case !now.Before(leaf.NotAfter):
		return leaf, errEnded
	}
	below := leaf
	for _, der := range chain[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("the chain cannot be read: %w", err)
		}
		if err := below.CheckSignatureFrom(c); err != nil {
			return nil, fmt.Errorf("the chain is broken at %q: %w", c.Subject.String(), err)
		}
		below = c
	}
	return leaf, nil
}

// accept checks and stores a chain.
func (e *Engine) accept(ctx context.Context, l lease, m *Managed, w *issuance, chain [][]byte) error {
	now := e.now()
	_, err := verify(chain, w.CSR, m.Names, now)
	if errors.Is(err, errEnded) {
		return e.fail(ctx, l, m, w, &issuer.Error{Class: rule.Unknown, Err: err})
	}
	if err != nil {
		return e.fail(ctx, l, m, w, &issuer.Error{Class: issuer.Mismatch, Err: err})
	}
	if w.Trial {
		return e.passed(ctx, l, m, w)
	}
	fp := pki.Fingerprint(chain[0])
	fault.Point("renew.before_store_chain")
	err = e.db.Write(ctx, func(tx *db.Tx) error {
		l.touch(tx, now.Add(e.leaseFor))
		tx.Queue(qChain, nil, w.ID, bytes.Join(chain, nil), fmt.Sprintf("%x", fp[:]), now)
		tx.Queue(qState, nil, m.ID, string(Issued), now)
		return nil
	})
	if err != nil {
		return fmt.Errorf("store chain: %w", err)
	}
	fault.Point("renew.after_store_chain")
	m.State, w.Chain, w.Fingerprint, w.IssuedAt = Issued, chain, fmt.Sprintf("%x", fp[:]), now
	return e.recovered(ctx, l.ca)
}

// recovered closes the breaker of a lane that was not calm.
func (e *Engine) recovered(ctx context.Context, ca string) error {
	if !e.uneasy(ca) {
		return nil
	}
	return editLane(ctx, e.db, IssuerLane, ca, e.now(), func(_ *db.Tx, l *Lane) error { l.succeeded(); return nil })
}
