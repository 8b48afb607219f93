package server

import (
	"context"
	"slices"
	"strings"
	"time"

	"chancery/internal/acme"
	"chancery/internal/acme/challenge"
	"chancery/internal/audit"
	"chancery/internal/db"
	"chancery/internal/fault"
)

// JustInTime says for whom new authorizations are tried by dns-persist-01 when
// they are made, before anybody responds to a challenge.
type JustInTime string

// Choices of just-in-time validation.
const (
	JustInTimeKnown JustInTime = "known" // accounts that completed the method before, as the draft advises
	JustInTimeAll   JustInTime = "all"   // every account
	JustInTimeOff   JustInTime = "off"   // nobody
)

// justInTimeWait is how long a new order may wait for just-in-time validation;
// what is not proved by then is pending.
const justInTimeWait = 3 * time.Second

var (
	qKeepKey = db.SQL("acme.keep_account_key", `INSERT INTO acme_old_key (account_id, thumbprint, replaced_at) VALUES ($1, $2, $3)
		ON CONFLICT (account_id, thumbprint) DO UPDATE SET replaced_at = excluded.replaced_at`)
	qOldKeys = db.SQL("acme.list_account_keys", `SELECT thumbprint FROM acme_old_key WHERE account_id = $1 AND thumbprint <> $2
		ORDER BY replaced_at DESC`)
	qPersisted = db.SQL("acme.note_persist", `UPDATE acme_account SET persist_at = $2 WHERE id = $1 AND persist_at IS NULL`)
)

// accountHashPrefix is the directory's accountHashPrefix
// (draft-ietf-acme-dns-persist-02 section 4.1). It is part of records that
// stay for years: like account URLs it never changes.
func (a *authority) accountHashPrefix() string { return a.base + "/account-hash/" }

// persists reports whether a profile of the CA offers dns-persist-01.
func (a *authority) persists() bool {
	for _, p := range a.profiles {
		if slices.Contains(p.Challenges, challenge.DNSPersist01) {
			return true
		}
	}
	return false
}

// checkPersist holds the CA's names against section 3: clients compare them
// byte for byte.
func (a *authority) checkPersist() error {
	if !a.persists() {
		return nil
	}
	if n := len(a.CAAIdentities); n == 0 || n > challenge.MaxIssuers {
		return fault.New(fault.Invalid, "CA %s offers dns-persist-01 and has %d CAA identities; 1 to %d can be its issuer domain names", a.name, n, challenge.MaxIssuers)
	}
	for _, d := range a.CAAIdentities {
		if d != strings.ToLower(d) || strings.HasSuffix(d, ".") || len(d) > 253 {
			return fault.New(fault.Invalid, "CAA identity %q of CA %s must be in lower case without a trailing dot to be an issuer domain name", d, a.name)
		}
	}
	return nil
}

// present adds to o what the challenge object of dns-persist-01 has (section
// 3.1), under the names of draft 02 and under those of the drafts before it.
func (a *authority) present(o *acme.Challenge, account string) {
	o.IssuerDomainNames = a.CAAIdentities
	if a.PersistAccountURL {
		o.IssuerDomainNamesOld, o.AccountURI = a.CAAIdentities, a.accountURL(account)
	}
}

// persistTerms returns what a record must say for an account, whose present
// key has the thumbprint current.
func (s *Server) persistTerms(ctx context.Context, a *authority, account, current string) (*challenge.Persist, error) {
	old, err := db.List(ctx, s.db.Read(), qOldKeys, (*db.Row).Text, account, current)
	if err != nil {
		return nil, wrap("read earlier keys of account", err)
	}
	return &challenge.Persist{Issuers: a.CAAIdentities, HashPrefix: a.accountHashPrefix(), Thumbprints: append([]string{current}, old...),
		PlainURL: a.PersistAccountURL, Ancestors: a.Subdomains}, nil
}

// mayJustInTime reports whether new authorizations of the signer are tried at
// once.
func (m *message) mayJustInTime() bool {
	switch m.ca.JustInTime {
	case JustInTimeAll:
		return true
	case JustInTimeKnown:
		return !m.acct.persistAt.IsZero()
	}
	return false
}

// justInTime tries new authorizations that offer dns-persist-01 (section 4.4)
// and makes those valid whose record is there. Whatever goes wrong leaves them
// pending, as if nobody had looked; so does a proof that does not count beyond
// need.
func (s *Server) justInTime(m *message, fresh []Authorization, need time.Time) {
	if !m.mayJustInTime() {
		return
	}
	ctx, cancel := context.WithTimeout(m.ctx, justInTimeWait)
	defer cancel()
	type result struct {
		of int
		z  *Authorization
	}
	results, running := make(chan result, len(fresh)), 0
	for i := range fresh {
		t := &trial{ca: m.ca, authz: fresh[i], index: fresh[i].find(challenge.DNSPersist01), thumbprint: m.key.Thumbprint}
		if t.index < 0 || s.limits.lookup(t.authz.Identifier, m.now) != nil {
			continue
		}
		if s.pool.TrySubmit(m.acct.ID, func() { results <- result{i, s.proved(ctx, t, need)} }) == nil {
			running++
		}
	}
	for ; running > 0; running-- {
		select {
		case r := <-results:
			if r.z != nil {
				fresh[r.of] = *r.z
			}
		case <-ctx.Done():
			return
		}
	}
}

// proved returns the authorization of a trial that succeeds and counts beyond
// need, else nil.
func (s *Server) proved(ctx context.Context, t *trial, need time.Time) *Authorization {
	proof, caa, err := s.prove(ctx, t)
	if err != nil {
		s.keepRecord(t.authz.ID, t.authz.Identifier, challenge.DNSPersist01, t.record, t.actor())
		s.log.DebugContext(ctx, "not proved just in time", "authorization", t.authz.ID, "identifier", t.authz.Identifier.Value, "error", err)
		return nil
	}
	z := t.authz
	z.Challenges = slices.Clone(z.Challenges)
	if z.Proof, err = s.proofs.Seal(proof); err == nil {
		z.CAA, err = s.proofs.SealClearance(caa)
	}
	if err != nil {
		s.log.ErrorContext(ctx, "proof cannot be sealed", "authorization", z.ID, "error", err)
		return nil
	}
	c := &z.Challenges[t.index]
	c.State, c.Validated = acme.ChallengeValid, proof.At()
	z.State, z.Method, z.Validated, z.ExpiresAt = acme.AuthorizationValid, proof.Method(), proof.At(), t.ca.lasts(proof, proof.At())
	if !z.ExpiresAt.After(need) {
		return nil
	}
	z.record = t.record
	return &z
}

// reuse returns for how long a proof may be used, by what holds at now.
func (a *authority) reuse(now time.Time) time.Duration {
	return a.Trust.At(now).Reuse(a.AuthorizationLifetime)
}

// lasts returns until when a proof counts by what holds at now: as long as
// policy lets it, and no longer than the owner of the name wants.
func (a *authority) lasts(p challenge.Proof, now time.Time) time.Time {
	end := p.At().Add(a.reuse(now))
	if until := p.Until(); !until.IsZero() && until.Before(end) {
		return until
	}
	return end
}

// noteProved adds what follows from z having been proved when it was made.
func (z *Authorization) noteProved(tx *db.Tx, actor string, now time.Time) error {
	if z.State != acme.AuthorizationValid {
		return nil
	}
	tx.Queue(qPersisted, nil, z.AccountID, now)
	if err := noteRecord(tx, z.ID, z.Identifier, z.Method, z.record, actor); err != nil {
		return err
	}
	return audit.Append(tx, audit.Entry{At: now, Kind: "authorization.just_in_time", Actor: actor, Subject: "authorization:" + z.ID,
		Data: map[string]string{"identifier": z.Identifier.Value, "method": string(z.Method)}})
}
