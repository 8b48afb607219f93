package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json/v2"
	"fmt"
	"slices"
	"time"

	"chancery/internal/acme"
	"chancery/internal/acme/challenge"
	"chancery/internal/ca"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

// planOrder turns what a client asks for into an order that could be
// fulfilled, or says why not. Nothing is stored.
func (s *Server) planOrder(m *message, req *acme.NewOrder) (*Order, *Profile, error) {
	var d Delegation
	if req.Delegation != "" {
		var err error
		if d, err = s.delegate(m, req); err != nil {
			return nil, nil, err
		}
	}
	name, err := m.acct.policy.profile(req.Profile)
	if err != nil {
		return nil, nil, err
	}
	profile, err := m.ca.profile(name)
	if err != nil {
		return nil, nil, err
	}
	ids, ancestors, err := s.identifiers(m, req.Identifiers, profile)
	if err != nil {
		return nil, nil, err
	}
	if err := checkPeriod(req.NotBefore.Time, req.NotAfter.Time, m.now, m.ca.Trust.At(m.now).Period(profile.Period)); err != nil {
		return nil, nil, err
	}
	var renewal *acme.AutoRenewal
	if req.AutoRenewal != nil {
		if renewal, err = m.ca.planStar(req, profile, m.now); err != nil {
			return nil, nil, err
		}
	}
	o := &Order{ID: db.NewID(m.now), AccountID: m.acct.ID, CA: m.ca.name, Profile: profile.Name, ProfileHash: profile.Hash(),
		Identifiers: ids, ancestors: ancestors, NotBefore: req.NotBefore.Time, NotAfter: req.NotAfter.Time, Replaces: req.Replaces, AutoRenewal: renewal,
		ExpiresAt: m.now.Add(s.cfg.OrderLifetime), CreatedAt: m.now, Open: req.AllowCertificateGet && m.ca.CertificateGet && renewal == nil}
	if d.ID != "" {
		if err := s.under(m, o, &d, profile); err != nil {
			return nil, nil, err
		}
	}
	if req.Replaces != "" {
		err = s.checkReplaces(m.ctx, m, req.Replaces, ids)
	}
	return o, profile, err
}

// profile returns the profile of that name, or the default one for "".
func (a *authority) profile(name string) (*Profile, error) {
	if name == "" {
		return a.standard, nil
	}
	if p := a.profiles[name]; p != nil {
		return p, nil
	}
	return nil, fault.New(fault.InvalidProfile, "there is no profile %.64q; the directory's meta lists those there are", name)
}

// identifiers checks each name and returns them sorted, each once. Every name
// that is refused gets its own subproblem (RFC 8555 section 6.7.1). ancestors
// are the domains to challenge in place of names (RFC 9444 section 4.3).
func (s *Server) identifiers(m *message, asked []acme.Identifier, p *Profile) (ids []pki.Identifier, ancestors map[pki.Identifier]pki.Identifier, err error) {
	if len(asked) == 0 {
		return nil, nil, fault.New(fault.Malformed, "an order needs at least one identifier")
	}
	if len(asked) > s.cfg.MaxNames {
		return nil, nil, fault.New(fault.Malformed, "an order may have at most %d identifiers; use several orders", s.cfg.MaxNames)
	}
	ids = make([]pki.Identifier, 0, len(asked))
	var subs []fault.Sub
	for _, a := range asked {
		id, err := s.identifier(m, a.PKI(), p)
		up := id
		if err == nil {
			up, err = m.ca.ancestor(a, id)
		}
		if err != nil {
			f := fault.As(err)
			subs = append(subs, fault.Sub{Code: f.Code, Detail: f.Detail, IdentifierType: string(a.Type), IdentifierValue: a.Value})
			continue
		}
		ids = append(ids, id)
		if up != id {
			if ancestors == nil {
				ancestors = map[pki.Identifier]pki.Identifier{}
			}
			ancestors[id] = up
		}
	}
	if len(subs) > 0 {
		return nil, nil, refusal(subs)
	}
	if len(ids) > 1 {
		ids = pki.SortIdentifiers(ids)
	}
	if slices.ContainsFunc(ids, func(id pki.Identifier) bool { return person(id) && id.Type != ids[0].Type }) || person(ids[0]) && ids[0].Type != ids[len(ids)-1].Type {
		return nil, nil, fault.New(fault.Malformed, "mailboxes and telephone numbers share no certificate with other names; use several orders")
	}
	if len(ids) > 1 && ids[0].Type == pki.TNAuthList {
		return nil, nil, fault.New(fault.Malformed, "a TNAuthList must be the only identifier of its order; a certificate has one such list, and no other names")
	}
	return ids, ancestors, nil
}

// refusal is one error for several names.
func refusal(subs []fault.Sub) error {
	e := fault.New(subs[0].Code, "%s", subs[0].Detail)
	if len(subs) == 1 {
		e.Sub = subs
		return e
	}
	for _, sub := range subs {
		if sub.Code != e.Code {
			e.Code = fault.Compound
		}
	}
	e.Detail, e.Sub = "several identifiers were refused, see the subproblems", subs
	return e
}

// identifier checks one name against the rules of a profile, of the key that
// bound the account, and of the CA.
func (s *Server) identifier(m *message, asked pki.Identifier, p *Profile) (pki.Identifier, error) {
	id, err := pki.ParseIdentifier(asked.Type, asked.Value)
	if err == nil {
		err = p.Permits(id)
	}
	if err == nil {
		err = m.acct.policy.permits(id)
	}
	if err == nil {
		err = s.named(m.ctx, m.ca, p, id)
	}
	switch {
	case err != nil:
		return id, err
	case !slices.ContainsFunc(p.Challenges, func(t challenge.Type) bool { return s.cfg.Validators.Supports(t, id) }):
		return id, fault.New(fault.RejectedIdentifier, "profile %s has no way to validate %s", p.Name, id.Value)
	}
	return id, nil
}

// checkPeriod refuses what the profile could not give, so that the client
// learns it before it proves anything. Issuance checks again.
func checkPeriod(from, to, now time.Time, period time.Duration) error {
	switch {
	case !to.IsZero() && !to.After(now):
		return fault.New(fault.Malformed, "notAfter is in the past")
	case !from.IsZero() && from.After(now.Add(period)):
		return fault.New(fault.Malformed, "notBefore is too far in the future")
	case !from.IsZero() && !to.IsZero() && !to.After(from):
		return fault.New(fault.Malformed, "notAfter must be after notBefore")
	case !to.IsZero() && to.After(now.Add(period)):
		return fault.New(fault.Malformed, "notAfter is later than the profile's period of %s allows", period)
	}
	return nil
}

// requestHash is equal for two orders that ask for the same.
func (o *Order) requestHash() string {
	b := make([]byte, 0, 256)
	for _, part := range []string{o.CA, o.ProfileHash, o.Replaces, unixText(o.NotBefore), unixText(o.NotAfter)} {
		b = append(append(b, part...), '\n')
	}
	b = appendIdentifiers(b, o.Identifiers)
	if r := o.AutoRenewal; r != nil {
		b = fmt.Appendf(b, "\n%s %s %d %d %t", unixText(r.StartDate.Time), unixText(r.EndDate.Time), r.Lifetime, r.LifetimeAdjust, r.AllowCertificateGet)
	}
	if o.Open || o.DelegationID != "" {
		b = fmt.Appendf(b, "\n%s %t", o.DelegationID, o.Open)
	}
	for _, id := range o.Identifiers {
		if up, ok := o.ancestors[id]; ok {
			b = append(append(append(append(b, '\n'), id.Value...), ' '), up.Value...)
		}
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func unixText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// checkReplaces holds an order against the certificate that it replaces (RFC
// 9773 section 5): issued by this CA to this account, with a name in common.
// That no other order replaces it is for the unique index to see.
func (s *Server) checkReplaces(ctx context.Context, m *message, text string, ids []pki.Identifier) error {
	c, err := s.byCertID(ctx, m.ca, text)
	if err != nil {
		if fault.Is(err, fault.NotFound) {
			return fault.New(fault.Malformed, `"replaces" names a certificate that this CA did not issue`)
		}
		return err
	}
	if c.AccountID != m.acct.ID {
		return fault.New(fault.Unauthorized, `"replaces" names a certificate of another account`)
	}
	for _, name := range c.Names {
		if slices.ContainsFunc(ids, func(id pki.Identifier) bool { return id.Value == name }) {
			return nil
		}
	}
	return fault.New(fault.Malformed, `"replaces" names a certificate that has no identifier in common with the order`)
}

// byCertID finds an issued certificate by its RFC 9773 identifier.
func (s *Server) byCertID(ctx context.Context, a *authority, text string) (ca.Certificate, error) {
	keyID, serial, err := pki.ParseCertID(text)
	if err != nil {
		return ca.Certificate{}, err
	}
	return s.bySerial(ctx, a, keyID, serial)
}

// bySerial finds an issued certificate by the key identifier of its issuer,
// which must be an authority of this CA, and its serial.
func (s *Server) bySerial(ctx context.Context, a *authority, keyID []byte, serial pki.Serial) (ca.Certificate, error) {
	for _, auth := range s.cfg.Issuer.Authorities() {
		if auth.CA != a.name || auth.Role != ca.RoleIssuing || auth.Cert == nil || string(auth.Cert.SubjectKeyId) != string(keyID) {
			continue
		}
		c, err := ca.BySerial(ctx, s.db.Read(), auth.ID, serial)
		if err != nil && !fault.Is(err, fault.NotFound) {
			return c, err
		}
		if err == nil && c.State == ca.StateIssued {
			return c, nil
		}
	}
	return ca.Certificate{}, fault.New(fault.NotFound, "there is no such certificate of this CA")
}

// decodeText reads JSON that this package stored.
func decodeText(text string, into any) error { return json.Unmarshal([]byte(text), into) }
