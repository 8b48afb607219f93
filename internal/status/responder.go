package status

import (
	"context"
	"errors"
	"fmt"
	"time"

	"chancery/internal/ca"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/loop"
)

// responderLease is how long a replica has to make a responder before another
// one may try.
const responderLease = 2 * time.Minute

var qClaimResponder = db.SQL("status.claim_responder", `INSERT INTO setting (name, value, updated_at) VALUES ($1, 'claimed', $2)
	ON CONFLICT (name) DO UPDATE SET updated_at = excluded.updated_at WHERE setting.updated_at < $3`)

// renewResponders makes a delegated OCSP responder for every issuing authority
// that has none, or whose responder is half through its life.
func (s *Service) renewResponders(ctx context.Context) (n loop.Count, err error) {
	if s.cfg.Direct || !s.loaded.Load() {
		return n, nil
	}
	var errs []error
	for _, a := range s.ca.Authorities() {
		if !s.needsResponder(a) {
			continue
		}
		n.Claimed++
		made, err := s.makeResponder(ctx, a)
		if made {
			n.Done++
		}
		if err != nil {
			n.Failed++
			errs = append(errs, fmt.Errorf("make OCSP responder of %s: %w", a.Name, err))
		}
	}
	errs = append(errs, s.retireResponders(ctx))
	if n.Done > 0 {
		errs = append(errs, s.syncBooks())
		loop.Nudge(s.wakeSign)
	}
	return n, errors.Join(errs...)
}

// retireResponders retires those whose certificate has ended: no answer of
// theirs can be served any more.
func (s *Service) retireResponders(ctx context.Context) error {
	var errs []error
	for _, a := range s.ca.Authorities() {
		if a.Role != ca.RoleOCSP || a.State != ca.Active || a.Cert == nil || s.now().Before(a.Cert.NotAfter) {
			continue
		}
		err := s.ca.Retire(ctx, a.ID, "system")
		if err != nil && !fault.Is(err, fault.Conflict) { // another replica did it
			errs = append(errs, fmt.Errorf("retire OCSP responder %s: %w", a.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (s *Service) needsResponder(a *ca.Authority) bool {
	now := s.now()
	if a.Role != ca.RoleIssuing || a.Cert == nil || !a.CanSign() || !valid(a.Cert, now) {
		return false
	}
	r, ok := s.ca.Responder(a)
	if !ok {
		return true
	}
	if !r.Cert.NotAfter.Before(a.Cert.NotAfter) {
		return false // another would end no later
	}
	half := r.Cert.NotBefore.Add(r.Cert.NotAfter.Sub(r.Cert.NotBefore) / 2)
	return !now.Before(half)
}

// makeResponder makes one unless another replica does or just did.
func (s *Service) makeResponder(ctx context.Context, a *ca.Authority) (made bool, err error) {
	now := s.now()
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		n, err := tx.Exec(ctx, qClaimResponder, "status.responder."+a.ID, now, now.Add(-responderLease))
		made = n == 1
		return err
	})
	if err != nil || !made {
		return false, err
	}
	if err := s.ca.Reload(ctx); err != nil {
		return false, err
	}
	if a = s.ca.Authority(a.ID); a == nil || !s.needsResponder(a) {
		return false, nil
	}
	_, err = s.ca.CreateResponder(ctx, a.ID, "system")
	return err == nil, err
}
