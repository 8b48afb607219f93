package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"chancery/internal/acme"
	"chancery/internal/acme/challenge"
	"chancery/internal/acme/perspective"
	"chancery/internal/ca"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

// caaMaxAge is how old the CAA check of a name may be when finalization
// begins. The Baseline Requirements allow 8 h at the signature; what lies
// between is room for queueing.
const caaMaxAge = 7 * time.Hour

// caaAtOnce is how many names of one order are checked at the same time.
const caaAtOnce = 8

var qStoreCAA = db.SQL("acme.store_clearance", `UPDATE acme_authz SET caa = $2 WHERE id = $1`)

// clearedName is a CAA check that was made anew, to be stored.
type clearedName struct {
	name    pki.Identifier
	authzID string
	sealed  []byte
}

// unusable is an authorization that does not support its order.
type unusable struct {
	authz *Authorization           // nil when there is none at all
	state acme.AuthorizationStatus // that it must get, or "" when it may stay
	err   error
}

func (u *unusable) Error() string { return u.err.Error() }
func (u *unusable) Unwrap() error { return u.err }

// evidence collects the right to issue for an order: for each identifier, by
// itself, an authorization of this account whose sealed proof is about exactly
// that identifier and account, and a CAA check of that very name. Nothing
// counts by default; the error is an *unusable if an authorization fails.
func (s *Server) evidence(ctx context.Context, a *authority, o *Order, now time.Time) (ca.Grant, []clearedName, error) {
	if err := s.namedAll(ctx, a, o); err != nil {
		return ca.Grant{}, nil, err
	}
	byName, err := s.authorizations(ctx, a, o, now)
	if err != nil {
		return ca.Grant{}, nil, err
	}
	pieces := make([]ca.Evidence, len(o.Identifiers))
	var stale []int
	for i, id := range o.Identifiers {
		z := supporting(byName, id)
		proof, err := s.support(a, o, z, id, now)
		if err != nil {
			return ca.Grant{}, nil, err
		}
		pieces[i] = ca.Evidence{Name: id, Method: string(proof.Method()), Reference: z.ID, ValidatedAt: proof.At(), ExpiresAt: a.expiry(z, proof, now),
			Remotes: proof.Corroboration().Remotes}
		if d := proof.Attested(); d != nil {
			pieces[i].Key = d.Key
		}
		if caa, err := s.proofs.OpenClearance(z.CAA); err == nil &&
			caa.Covers(id, proof.Method(), a.accountURL(o.owner()), now, caaMaxAge) && confirmed(id, proof, caa) >= a.minRemotes(now) {
			pieces[i].CAAAt, pieces[i].Remotes = caa.At(), confirmed(id, proof, caa)
			continue
		}
		stale = append(stale, i)
	}
	cleared, err := s.recheck(ctx, a, o, pieces, stale)
	cleared = slices.DeleteFunc(cleared, func(c clearedName) bool { return byName[c.name] == nil }) // a parent's row is about the parent
	if err != nil {
		return ca.Grant{}, nil, err
	}
	grant, err := ca.NewGrant(pieces)
	return grant, cleared, err
}

// authorizations returns those that the order stands on, by identifier: its
// own, or those of who delegated the names. Whether they are valid still is
// looked at again in the transaction of the claim.
func (s *Server) authorizations(ctx context.Context, a *authority, o *Order, now time.Time) (map[pki.Identifier]*Authorization, error) {
	o.stands = o.AuthzIDs
	if o.OwnerID != "" {
		var err error
		if o.stands, err = s.ofOwner(ctx, a, o, now); err != nil {
			return nil, err
		}
	}
	byName := make(map[pki.Identifier]*Authorization, len(o.AuthzIDs))
	if known := s.recent.authorizations(o, now); known != nil {
		for i := range known {
			note(byName, &known[i])
		}
		return byName, nil
	}
	err := s.db.Read().All(ctx, qAuthzs, func(r *db.Row) error {
		z, err := scanAuthz(r)
		note(byName, &z)
		return err
	}, o.stands)
	return byName, wrap("read authorizations of order "+o.ID, err)
}

// note adds z to the authorizations by identifier.
func note(byName map[pki.Identifier]*Authorization, z *Authorization) {
	if byName[z.Identifier] == nil || z.Subdomains { // of two for one name the wider
		byName[z.Identifier] = z
	}
}

// expiry is the instant until which z counts: as stored, or earlier if policy
// became stricter since.
func (a *authority) expiry(z *Authorization, proof challenge.Proof, now time.Time) time.Time {
	if end := a.lasts(proof, now); end.Before(z.ExpiresAt) {
		return end
	}
	return z.ExpiresAt
}

// support opens the proof of z and holds it against one identifier.
func (s *Server) support(a *authority, o *Order, z *Authorization, id pki.Identifier, now time.Time) (challenge.Proof, error) {
	bad := func(state acme.AuthorizationStatus, why string) error {
		err := fault.New(fault.Unauthorized, "%s is not authorized: %s; make a new order", id.Value, why).
			WithSub(fault.Sub{Code: fault.Unauthorized, Detail: why, IdentifierType: string(id.Type), IdentifierValue: id.Value})
		return &unusable{z, state, err}
	}
	if z == nil {
		return challenge.Proof{}, bad("", "it has no authorization")
	}
	if z.AccountID != o.owner() || z.CA != o.CA {
		return challenge.Proof{}, bad("", "the authorization is another account's")
	}
	if state := z.StateAt(now); state != acme.AuthorizationValid {
		return challenge.Proof{}, bad("", fmt.Sprintf("the authorization is %s", state))
	}
	proof, err := s.proofs.Open(z.Proof)
	if err != nil || !a.covers(z, proof, id) || proof.Method() != z.Method {
		s.log.Error("stored proof does not support its authorization", "authorization", z.ID, "identifier", id.Value, "error", err)
		return challenge.Proof{}, bad(acme.AuthorizationRevoked, "the stored proof is not about this name and account")
	}
	if !now.Before(a.expiry(z, proof, now)) {
		return challenge.Proof{}, bad(acme.AuthorizationExpired, "the proof is older than policy allows now")
	}
	for _, why := range []string{a.attests(proof, o.Profile), a.vouches(proof, o.Profile)} {
		if why != "" {
			return challenge.Proof{}, bad(acme.AuthorizationExpired, why)
		}
	}
	if need := a.minRemotes(now); networked(id) && proof.Corroboration().Remotes < need {
		return challenge.Proof{}, bad(acme.AuthorizationExpired, fmt.Sprintf("the proof was not confirmed by as many remote network perspectives as policy wants now, %d", need))
	}
	return proof, nil
}

// recheck checks CAA anew for the named pieces, each for its own name, here
// and from the remote perspectives.
func (s *Server) recheck(ctx context.Context, a *authority, o *Order, pieces []ca.Evidence, stale []int) ([]clearedName, error) {
	if len(stale) == 0 {
		return nil, nil
	}
	cleared := make([]clearedName, len(stale))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(caaAtOnce)
	for n, i := range stale {
		g.Go(func() error {
			e := &pieces[i]
			caa, err := s.checkCAA(ctx, a, o, e)
			if err != nil {
				return err
			}
			e.CAAAt = caa.At()
			sealed, err := s.proofs.SealClearance(caa)
			cleared[n] = clearedName{e.Name, e.Reference, sealed}
			return err
		})
	}
	return cleared, g.Wait()
}

// checkCAA checks CAA for one name and lowers Remotes of its evidence to how
// many remote perspectives were asked, too.
func (s *Server) checkCAA(ctx context.Context, a *authority, o *Order, e *ca.Evidence) (challenge.Clearance, error) {
	if err := s.enoughRemotes(a, e.Name, time.Now()); err != nil {
		return challenge.Clearance{}, err
	}
	method, account := challenge.Type(e.Method), a.accountURL(o.owner())
	round := s.cfg.Perspectives.Ask(ctx, perspective.Question{Method: method, CAAOnly: true, Issuers: a.CAAIdentities,
		Request: challenge.Request{Identifier: e.Name, AccountURL: account}})
	defer round.Stop()
	caa, err := a.CAA.Check(ctx, e.Name, method, account)
	if err != nil {
		return challenge.Clearance{}, err
	}
	caa, record, err := round.ConfirmCAA(caa)
	s.keepRecord(e.Reference, e.Name, method, record, "account:"+o.AccountID)
	if e.Name.Type == pki.DNS {
		e.Remotes = min(e.Remotes, caa.Corroboration().Remotes)
	}
	return caa, err
}

// give marks an order invalid because an authorization does not support it,
// and ends that authorization if it never will.
func (s *Server) give(ctx context.Context, o *Order, u *unusable) error {
	defer s.recent.dropAll(o.AccountID)
	err := s.db.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qFailOrder, nil, o.ID, problemText(u.err))
		if u.authz != nil && u.state != "" {
			tx.Queue(qEndAuthz, nil, u.authz.ID, u.state)
		}
		return nil
	})
	return errors.Join(u.err, err)
}
