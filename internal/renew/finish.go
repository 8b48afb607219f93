package renew

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"chancery/internal/audit"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/inventory"
	"chancery/internal/issuer"
	"chancery/internal/obs"
	"chancery/internal/pki"
	"chancery/internal/renew/rule"
)

var (
	qFailed = db.SQL("renew.update_failed", `UPDATE managed SET state = $2, work_id = $3, attempts = $4, error_class = $5, error = $6, failed_at = $7,
		provider = $8, updated_at = $7 WHERE id = $1`)
	qLive = db.SQL("renew.update_live", `UPDATE managed SET state = $2, live_id = $3, work_id = NULL, certificate_id = $4, issued_by = $5, ari_id = $6,
		not_before = $7, not_after = $8, renew_at = $9, ask_at = $10, window_start = $11, window_end = $12, explanation = '', provider = '', attempts = 0,
		error_class = '', error = '', failed_at = NULL, urgent = $14, updated_at = $13 WHERE id = $1`)
	qWindow  = db.SQL("renew.update_window", `UPDATE managed SET renew_at = $2, ask_at = $3, window_start = $4, window_end = $5, explanation = $6, urgent = $7 WHERE id = $1`)
	qSettle  = db.SQL("renew.update_idle", `UPDATE managed SET state = 'idle', urgent = 0, updated_at = $2 WHERE id = $1 AND state IN ('verified', 'deploying')`)
	qTrialed = db.SQL("renew.update_trialed", `UPDATE managed SET state = 'due', work_id = NULL, attempts = $2, updated_at = $3 WHERE id = $1`)
)

// fail does what the rules say about a failure.
func (e *Engine) fail(ctx context.Context, l lease, m *Managed, w *issuance, cause *issuer.Error) error {
	now := e.now()
	v := rule.Decide(rule.Failure{Error: cause, Attempts: m.Attempts + 1, Left: m.left(now),
		Trial: w.Trial, Staging: e.issuer(l.ca).Staging != "", Random: random()})
	if m.DrillID != "" && v.Blames {
		v.Stop = true // a rehearsal counts it and goes on
	}
	fault.Point("renew.before_fail")
	err := e.db.Write(ctx, func(tx *db.Tx) error {
		lane, err := e.bookFailure(ctx, tx, w.Issuer, v, cause, now)
		if err != nil {
			return err
		}
		return e.storeFailure(ctx, tx, l, m, w, v, cause, lane, now)
	})
	if err != nil {
		return fmt.Errorf("store failure: %w", err)
	}
	fault.Point("renew.after_fail")
	e.log.WarnContext(ctx, "certificate not obtained", "managed", m.Name, "issuer", w.Issuer, "class", string(cause.Class), "stopped", v.Stop, "error", clip(cause.Err.Error()))
	return nil
}

// bookFailure tells the lanes that a failure concerns. It locks their rows
// before that of the certificate, as every claim does.
func (e *Engine) bookFailure(ctx context.Context, tx *db.Tx, ca string, v rule.Verdict, cause *issuer.Error, now time.Time) (provider Lane, err error) {
	if v.Broken || v.Sleep > 0 {
		lane, err := lockLane(ctx, tx, IssuerLane, ca, now)
		if err != nil {
			return provider, err
		}
		if v.Broken {
			lane.failed(now, cause.Err.Error())
		}
		if v.Sleep > 0 {
			lane.sleep(now, v.Sleep, cause.Err.Error())
		}
		lane.save(tx, now)
	}
	if v.Provider != "" {
		if provider, err = lockLane(ctx, tx, ProviderLane, v.Provider, now); err != nil {
			return provider, err
		}
		provider.failed(now, cause.Err.Error())
		provider.save(tx, now)
	}
	return provider, nil
}

// storeFailure writes the certificate's side of a failure.
func (e *Engine) storeFailure(ctx context.Context, tx *db.Tx, l lease, m *Managed, w *issuance, v rule.Verdict, cause *issuer.Error, provider Lane, now time.Time) error {
	attempts, state, work, k, at := m.Attempts, m.State, orNull(w.ID), issue, now.Add(v.Wait)
	if v.Blames {
		attempts++
	}
	if !v.Keep {
		state, work = Due, nil
		tx.Queue(qDrop, nil, w.ID)
	}
	if v.Stop {
		state, k = Stopped, hold
	}
	if until := provider.until(now); until.After(at) {
		at = until.Add(rule.Scale(rule.OutageWait, random()))
	}
	l.release(tx, at, k, l.ca, attempts)
	tx.Queue(qFailed, nil, m.ID, string(state), work, attempts, string(cause.Class), clip(cause.Err.Error()), now, v.Provider)
	what := fmt.Sprintf("%s at %s: %s", cause.Class, w.Issuer, clip(cause.Err.Error()))
	if v.Stop && m.DrillID != "" {
		return nil
	}
	if v.Stop {
		record(tx, m.ID, now, "stop", what+"; nothing more happens until somebody changes something and says `chancery renew now "+m.Name+"`")
		return audit.Append(tx, audit.Entry{At: now, Kind: "managed.stop", Actor: "system", Subject: "managed:" + m.ID,
			Data: map[string]any{"name": m.Name, "class": string(cause.Class), "issuer": w.Issuer, "error": clip(cause.Err.Error())}})
	}
	record(tx, m.ID, now, "retry", what+"; next try at "+at.UTC().Format(time.RFC3339))
	if cause.Class == issuer.Validation && !w.Trial {
		names := m.Names
		if cause.Identifier != "" {
			names = []pki.Identifier{{Type: pki.DNS, Value: cause.Identifier}}
		}
		return spendFailures(ctx, tx, w.Issuer, e.issuer(w.Issuer).budgets(), names, now)
	}
	return nil
}

// spendFailures books a failed validation; a budget that is used up stays so.
func spendFailures(ctx context.Context, tx *db.Tx, name string, budgets []Budget, names []pki.Identifier, now time.Time) error {
	for _, c := range failureCharges(budgets, names) {
		err := spend(ctx, tx, name, []charge{c}, now)
		var over *overspent
		if err != nil && !errors.As(err, &over) {
			return err
		}
	}
	return nil
}

// passed ends a rehearsal that went well: the real thing follows at once.
func (e *Engine) passed(ctx context.Context, l lease, m *Managed, w *issuance) error {
	now := e.now()
	return e.db.Write(ctx, func(tx *db.Tx) error {
		l.release(tx, now, issue, l.ca, rule.TrialAfter-1)
		tx.Queue(qTrialed, nil, m.ID, rule.TrialAfter-1, now)
		tx.Queue(qDrop, nil, w.ID)
		record(tx, m.ID, now, "rehearsal", "the rehearsal at "+w.Issuer+" went well: one try at "+l.ca)
		return nil
	})
}

// postpone releases a certificate that could not begin.
func (e *Engine) postpone(ctx context.Context, l lease, m *Managed, at time.Time, rule, why string) error {
	now := e.now()
	at = now.Add(min(max(at.Sub(now), time.Second), heartbeat))
	return e.db.Write(ctx, func(tx *db.Tx) error {
		l.release(tx, at, issue, l.ca, m.Attempts)
		record(tx, m.ID, now, rule, why+"; next try at "+at.UTC().Format(time.RFC3339))
		return nil
	})
}

// rest releases a certificate that has nothing to do.
func (e *Engine) rest(ctx context.Context, l lease, m *Managed, k kind, at time.Time) error {
	return e.db.Write(ctx, func(tx *db.Tx) error {
		l.release(tx, at, k, l.ca, m.Attempts)
		return nil
	})
}

// firstAsk is when the issuer of a new certificate is asked for its window;
// zero = it has none to give.
func (e *Engine) firstAsk(m *Managed, by string, now time.Time) time.Time {
	if _, ok := e.issuer(by).Issuer.(issuer.Informer); !ok {
		return time.Time{}
	}
	return rule.FirstAsk(m.ID, now)
}

// handOver makes a stored chain the live certificate: it goes into the
// inventory, to its targets, and gets its next date.
func (e *Engine) handOver(ctx context.Context, l lease, m *Managed, w *issuance) error {
	leaf, err := x509.ParseCertificate(w.Chain[0])
	if err != nil {
		return fmt.Errorf("read stored certificate: %w", err)
	}
	if m.DrillID != "" {
		return e.endDrillItem(ctx, l, m, w)
	}
	source := e.issuer(w.Issuer).source()
	id, err := e.stock.put(ctx, inventory.Observation{DER: w.Chain[0], Source: source, SeenAt: e.now(), Owner: m.Owner, Managed: true})
	if err != nil {
		return fmt.Errorf("put certificate into the inventory: %w", err)
	}
	fault.Point("renew.after_inventory")
	now := e.now()
	ari, err := pki.CertID(leaf)
	if err != nil {
		ari = ""
	}
	p, askAt := rule.ByLife(lifeOf(leaf, m.RenewBefore)), e.firstAsk(m, w.Issuer, now)
	state, at := Idle, rule.Soonest(p.At, askAt, now.Add(heartbeat))
	switch {
	case len(m.Targets) > 0:
		state = Deploying
	case len(m.Endpoints) > 0:
		state, at = Verified, now
	}
	err = e.db.Write(ctx, func(tx *db.Tx) error {
		l.release(tx, at, check, w.Issuer, 0)
		tx.Queue(qLive, nil, m.ID, string(state), w.ID, orNull(id), w.Issuer, ari, leaf.NotBefore, leaf.NotAfter, p.At, askAt, p.Start, p.End, now, m.Urgent && state == Deploying)
		record(tx, m.ID, now, "issued", fmt.Sprintf("%s issued a certificate until %s; renewal at %s (window %s to %s)", w.Issuer,
			leaf.NotAfter.UTC().Format(time.RFC3339), p.At.UTC().Format(time.RFC3339), p.Start.Format(time.RFC3339), p.End.Format(time.RFC3339)))
		if state == Idle {
			tx.Queue(qPrune, nil, m.ID, w.ID, w.ID)
			prune(tx, m.ID)
		}
		return e.wantTargets(tx, m, w.ID, now)
	})
	if err != nil {
		return fmt.Errorf("hand certificate over: %w", err)
	}
	m.State = state
	fault.Point("renew.after_handover")
	if id, ok := remoteID(m.Name); ok && e.remote.Issued != nil {
		e.remote.Issued(ctx, id)
	}
	return nil
}

// source is how certificates of an issuer come to be known.
func (i *Issuer) source() inventory.Source {
	if i.Own {
		return inventory.FromCA
	}
	return inventory.FromRenew
}

// check looks whether it is time for a certificate.
func (e *Engine) check(ctx context.Context, l lease, m *Managed) error {
	switch {
	case m.Paused || m.State == Stopped:
		return e.rest(ctx, l, m, hold, e.now())
	case m.State == Verified:
		if err := e.settle(ctx, m); err != nil {
			return err
		}
	case m.LiveID == "" && m.NotAfter.IsZero() || m.WorkID != "":
		return e.rest(ctx, l, m, issue, e.now())
	}
	if err := e.ask(ctx, m); err != nil {
		return err
	}
	now := e.now()
	if !now.Before(m.RenewAt) {
		why := fmt.Sprintf("its instant of renewal, %s in the window %s to %s, has come", m.RenewAt.Format(time.RFC3339), m.WindowStart.Format(time.RFC3339), m.WindowEnd.Format(time.RFC3339))
		fault.Point("renew.before_due")
		tell := m.Urgent && m.Explanation != "" && e.tellOnce(m)
		err := e.db.Write(ctx, func(tx *db.Tx) error {
			l.release(tx, now, issue, m.Issuer, m.Attempts)
			e.storeWindow(tx, m)
			record(tx, m.ID, now, "due", why)
			if !tell {
				return nil
			}
			return audit.Append(tx, audit.Entry{At: now, Kind: "managed.hurry", Actor: "issuer:" + m.IssuedBy, Subject: "issuer:" + m.IssuedBy,
				Data: map[string]any{"explanation": m.Explanation, "first": m.Name, "window_end": m.WindowEnd.UTC().Format(time.RFC3339)}})
		})
		if err != nil && tell {
			e.untold(m)
		}
		fault.Point("renew.after_due")
		return err
	}
	return e.db.Write(ctx, func(tx *db.Tx) error {
		l.release(tx, rule.Soonest(m.RenewAt, m.AskAt, now.Add(heartbeat)), check, l.ca, 0)
		e.storeWindow(tx, m)
		return nil
	})
}

// tellOnce reports whether nobody here has said yet that an issuer wants
// certificates replaced at once for a reason that it explains (RFC 9773 section
// 4.2): a mass revocation is one entry of the journal, not one per certificate.
func (e *Engine) tellOnce(m *Managed) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.told) > 1000 {
		clear(e.told)
	}
	first := !e.told[reason(m)]
	e.told[reason(m)] = true
	return first
}

// untold takes tellOnce back, because the entry was not written: the lease was
// lost, say. The next certificate tells, or this one when it is looked at again.
func (e *Engine) untold(m *Managed) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.told, reason(m))
}

// reason is what a hurry is known by.
func reason(m *Managed) string { return m.IssuedBy + "\n" + m.Explanation }

func (e *Engine) storeWindow(tx *db.Tx, m *Managed) {
	tx.Queue(qWindow, nil, m.ID, m.RenewAt, m.AskAt, m.WindowStart, m.WindowEnd, m.Explanation, m.Urgent)
}

// desire tells the inventory what endpoints should serve; an id of "" takes the
// opinion back.
func (e *Engine) desire(ctx context.Context, endpoints []string, id string) error {
	var want []inventory.Desired
	for _, ep := range endpoints {
		host, port, err := net.SplitHostPort(ep)
		n, perr := strconv.Atoi(port)
		if err != nil || perr != nil {
			continue // checked when it was stored
		}
		d := inventory.Desired{Host: host, Port: n, CertificateID: id}
		if net.ParseIP(host) == nil {
			d.SNI = host
		}
		want = append(want, d)
	}
	if len(want) == 0 {
		return nil
	}
	if err := e.inventory.Desire(ctx, want, e.now()); err != nil {
		return fmt.Errorf("say what endpoints should serve: %w", err)
	}
	return nil
}

// settle ends a deployment: the inventory learns what every endpoint should
// serve, and what came before is forgotten.
func (e *Engine) settle(ctx context.Context, m *Managed) error {
	now := e.now()
	if err := e.desire(ctx, m.Endpoints, m.CertificateID); err != nil {
		return err
	}
	fault.Point("renew.after_desire")
	err := e.db.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qSettle, nil, m.ID, now)
		tx.Queue(qPrune, nil, m.ID, m.LiveID, m.WorkID)
		prune(tx, m.ID)
		if len(m.Endpoints) > 0 {
			record(tx, m.ID, now, "serve", "these should serve it from now on: "+strings.Join(m.Endpoints, " "))
		}
		return nil
	})
	m.State, m.Urgent = Idle, false
	fault.Point("renew.after_settle")
	return err
}

// ask asks the issuer of m for its window if it is time, and sets the plan of
// m. An issuer that does not answer changes nothing: the plan stays.
func (e *Engine) ask(ctx context.Context, m *Managed) error {
	now := e.now()
	informer, ok := e.issuer(m.IssuedBy).Issuer.(issuer.Informer)
	if !ok {
		m.AskAt = time.Time{}
		return nil
	}
	// A date further away than any answer may put it came from a clock ahead of time.
	if !m.AskAt.IsZero() && now.Before(m.AskAt) && m.AskAt.Sub(now) <= 2*rule.MaxAsk {
		return nil
	}
	m.AskAt = rule.NextAsk(now, time.Time{}, random())
	leaf, err := e.liveLeaf(ctx, m)
	if err != nil || leaf == nil {
		return err
	}
	call, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	timer := e.meters.ask.start(e.now())
	call, span := obs.Step(call, "issuer.renewal_info")
	span.Str("issuer.name", m.IssuedBy)
	info, err := informer.RenewalInfo(call, leaf)
	span.End(err)
	timer.end(e.now(), err)
	if err != nil {
		e.log.DebugContext(ctx, "renewal information not read", "managed", m.Name, "issuer", m.IssuedBy, "error", err)
		return nil
	}
	m.AskAt = rule.NextAsk(now, info.RetryAfter, random())
	e.suggest(m, leaf, info, now)
	return nil
}

// suggest takes a window over from the issuer.
func (e *Engine) suggest(m *Managed, leaf *x509.Certificate, info issuer.RenewalInfo, now time.Time) {
	p, ok := rule.ByIssuer(lifeOf(leaf, m.RenewBefore), info)
	if !ok {
		return
	}
	m.Urgent = m.Urgent || !p.End.After(now)
	m.RenewAt, m.WindowStart, m.WindowEnd, m.Explanation = p.At, p.Start, p.End, clip(info.Explanation)
}

// lifeOf is what the rules look at in a certificate.
func lifeOf(leaf *x509.Certificate, before time.Duration) rule.Life {
	return rule.Life{ID: fmt.Sprintf("%x", pki.Fingerprint(leaf.Raw)), NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter, Before: before}
}

// liveLeaf returns the live certificate, or nil if its bytes are not known.
func (e *Engine) liveLeaf(ctx context.Context, m *Managed) (*x509.Certificate, error) {
	var der []byte
	live, err := db.Get(ctx, e.db.Read(), qIssuance, scanIssuance, m.LiveID)
	switch {
	case err == nil && len(live.Chain) > 0:
		der = live.Chain[0]
	case err != nil && !errors.Is(err, db.ErrNotFound):
		return nil, err
	case m.CertificateID != "": // adopted
		if der, err = e.inventory.DER(ctx, m.CertificateID); fault.Is(err, fault.NotFound) {
			return nil, nil
		} else if err != nil {
			return nil, err
		}
	default:
		return nil, nil
	}
	return x509.ParseCertificate(der)
}
