package server

import (
	"strings"
	"time"

	"golang.org/x/net/publicsuffix"

	"chancery/internal/acme"
	"chancery/internal/acme/challenge"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

// held are the valid authorizations of an account that bear on a set of names.
type held struct {
	exact map[pki.Identifier]Authorization // for the identifier itself
	above map[pki.Identifier]Authorization // for whatever is below it (RFC 9444)
}

// find returns the authorization that lasts longest for exactly id, or else
// the one of its nearest parent that covers subdomains.
func (h held) find(id pki.Identifier) (Authorization, bool) {
	if z, ok := h.exact[id]; ok {
		return z, true
	}
	for _, parent := range parents(id) {
		if z, ok := h.above[parent]; ok {
			return z, true
		}
	}
	return Authorization{}, false
}

// keep adds z unless what is there lasts longer.
func keepLonger(into map[pki.Identifier]Authorization, z Authorization) {
	if z.ExpiresAt.After(into[z.Identifier].ExpiresAt) {
		into[z.Identifier] = z
	}
}

// parents returns the domains above a name up to the registered one, the
// nearest first. Wildcards and addresses have none: only an authorization of
// their own speaks for them.
func parents(id pki.Identifier) []pki.Identifier {
	if id.Type != pki.DNS || id.Wildcard() {
		return nil
	}
	top, err := publicsuffix.EffectiveTLDPlusOne(id.Value)
	if err != nil {
		return nil
	}
	var out []pki.Identifier
	for name := id.Value; name != top; {
		_, name, _ = strings.Cut(name, ".")
		out = append(out, pki.Identifier{Type: pki.DNS, Value: name})
	}
	return out
}

// ancestor returns the domain to challenge in place of id (RFC 9444 section
// 4.3), or id itself if the client names none or this CA does not let domains
// speak for what is below them. A public suffix speaks for nobody.
func (a *authority) ancestor(asked acme.Identifier, id pki.Identifier) (pki.Identifier, error) {
	if asked.AncestorDomain == "" {
		return id, nil
	}
	up, err := pki.ParseIdentifier(pki.DNS, asked.AncestorDomain)
	if err != nil || up.Wildcard() || id.Type != pki.DNS || !strings.HasSuffix(id.Base().Value, "."+up.Value) {
		return id, fault.New(fault.Malformed, "ancestorDomain %.80q is not a domain above %s", asked.AncestorDomain, id.Value)
	}
	if !a.speaksBelow(up) || id.Wildcard() {
		return id, nil
	}
	return up, nil
}

// speaksBelow reports whether an authorization for id may cover subdomains.
func (a *authority) speaksBelow(id pki.Identifier) bool {
	if !a.Subdomains || id.Type != pki.DNS || id.Wildcard() {
		return false
	}
	_, err := publicsuffix.EffectiveTLDPlusOne(id.Value)
	return err == nil
}

// covers reports whether proof supports z for exactly id: it is about id, or
// about a domain above it and this CA lets that count (RFC 9444).
func (a *authority) covers(z *Authorization, proof challenge.Proof, id pki.Identifier) bool {
	account := a.accountURL(z.AccountID)
	return proof.Covers(id, account) || z.Subdomains && a.Subdomains && proof.CoversBelow(id, account)
}

// supporting returns the authorization among those of an order that is for id:
// its own, or that of its nearest parent.
func supporting(byName map[pki.Identifier]*Authorization, id pki.Identifier) *Authorization {
	if z := byName[id]; z != nil {
		return z
	}
	for _, parent := range parents(id) {
		if z := byName[parent]; z != nil && z.Subdomains {
			return z
		}
	}
	return nil
}

// fresh returns a new authorization of the signer for id, as wide as asked for
// and as this profile can prove.
func (s *Server) fresh(m *message, p *Profile, id pki.Identifier, below bool, expires time.Time) Authorization {
	types := s.offers(p, id)
	if below {
		if wide := zoneTypes(types); len(wide) > 0 {
			z := newAuthorization(m, id, wide, expires)
			z.Subdomains = true
			return z
		}
	}
	return newAuthorization(m, id, types, expires)
}

// zoneTypes returns those of types that show control of a whole domain.
func zoneTypes(types []challenge.Type) []challenge.Type {
	var out []challenge.Type
	for _, t := range types {
		if t.Zone() {
			out = append(out, t)
		}
	}
	return out
}
