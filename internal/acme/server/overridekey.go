package server

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"chancery/internal/fault"
	"chancery/internal/limit"
	"chancery/internal/pki"
)

// Limit is one rate limit, for people.
type Limit struct {
	Name string
	By   string     // what it counts by: account, address, domain, ...
	Rate limit.Rate // as configured
}

// counted is a limit that l has.
type counted struct {
	limiter *limit.Limiter
	by      string
	key     func(text string) (string, bool) // what a person writes, as the limit counts it
}

// counted are the limits that l has.
func (l *Limits) counted() []counted {
	all := []counted{
		{l.AccountsPerIP, "address", addressKey(32, 64)},
		{l.AccountsPerNet, "network", addressKey(24, 48)},
		{l.OrdersPerAccount, "account", accountKey},
		{l.FailuresPerName, "account and name", failureKey},
		{l.CertificatesPerDomain, "registered domain", domainKey},
		{l.CertificatesPerNameSet, "set of names", nameSetKey},
		{l.LookupsPerName, "name", lookupKey},
		{l.VerificationsPerIP, "address", addressKey(32, 64)},
	}
	return slices.DeleteFunc(all, func(c counted) bool { return c.limiter == nil })
}

// limiters are those of counted.
func (l *Limits) limiters() (out []*limit.Limiter) {
	for _, c := range l.counted() {
		out = append(out, c.limiter)
	}
	return out
}

// find returns the limit with this name.
func (l *Limits) find(name string) (counted, error) {
	all := l.counted()
	i := slices.IndexFunc(all, func(c counted) bool { return c.limiter.Name() == name })
	if i >= 0 {
		return all[i], nil
	}
	if len(all) == 0 {
		return counted{}, fault.New(fault.Invalid, "limits are switched off (limits.enabled)")
	}
	return counted{}, fault.New(fault.Invalid, "there is no limit %.64q; there are %s", name, strings.Join(l.Names(), ", "))
}

// List returns the limits there are, by name.
func (l *Limits) List() []Limit {
	var out []Limit
	for _, c := range l.counted() {
		out = append(out, Limit{c.limiter.Name(), c.by, c.limiter.Rate("")})
	}
	slices.SortFunc(out, func(x, y Limit) int { return strings.Compare(x.Name, y.Name) })
	return out
}

// OverrideKey turns what a person writes into the key that the limit counts by:
// an override with any other key would never hold. An address becomes its
// network, a name its registered domain, the URL of an account its id; the
// account must exist.
func (s *Server) OverrideKey(ctx context.Context, name, text string) (string, error) {
	c, err := s.limits.find(name)
	if err != nil {
		return "", err
	}
	if len(text) > maxOverrideKey {
		return "", fault.New(fault.Invalid, "the key is longer than %d characters", maxOverrideKey)
	}
	key, ok := c.key(strings.TrimSpace(text))
	if !ok {
		return "", fault.New(fault.Invalid, "limit %s counts by %s, and %.80q is none", name, c.by, text)
	}
	if c.limiter != s.limits.OrdersPerAccount && c.limiter != s.limits.FailuresPerName {
		return key, nil
	}
	id, _, _ := strings.Cut(key, " ")
	if _, err := GetAccount(ctx, s.db.Read(), id); err != nil {
		return "", err
	}
	return key, nil
}

// addressKey reads an address, or the very network that the limit counts by.
func addressKey(bits4, bits6 int) func(string) (string, bool) {
	return func(text string) (string, bool) {
		if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" {
			return prefix(addr, bits4, bits6), true
		}
		p, err := netip.ParsePrefix(text)
		if err != nil || p.Addr().Is4In6() {
			return "", false
		}
		bits := bits6
		if p.Addr().Is4() {
			bits = bits4
		}
		return prefix(p.Addr(), bits4, bits6), p.Bits() == bits
	}
}

// accountKey reads the id or the URL of an account.
func accountKey(text string) (string, bool) {
	id := text[strings.LastIndexByte(text, '/')+1:]
	return id, id != "" && !strings.ContainsAny(id, " \t")
}

// failureKey reads an account and a name.
func failureKey(text string) (string, bool) {
	f := strings.Fields(text)
	if len(f) != 2 {
		return "", false
	}
	account, ok := accountKey(f[0])
	id, err := identifier(f[1])
	return account + " " + id.Value, ok && err == nil
}

// domainKey reads a name or an address of the domain or network.
func domainKey(text string) (string, bool) {
	id, err := identifier(text)
	if err != nil {
		return "", false
	}
	return registered(id), true
}

// nameSetKey reads names, separated by spaces or commas.
func nameSetKey(text string) (string, bool) {
	var ids []pki.Identifier
	for _, name := range strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == ',' }) {
		id, err := identifier(name)
		if err != nil {
			return "", false
		}
		ids = append(ids, id)
	}
	return nameSet(pki.SortIdentifiers(ids)), len(ids) > 0
}

// lookupKey reads a name.
func lookupKey(text string) (string, bool) {
	id, err := identifier(text)
	return id.Base().Value, err == nil
}

// identifier reads a DNS name or an address.
func identifier(text string) (pki.Identifier, error) {
	if _, err := netip.ParseAddr(text); err == nil {
		return pki.ParseIdentifier(pki.IP, text)
	}
	return pki.ParseIdentifier(pki.DNS, text)
}
