package server

import (
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/publicsuffix"

	"chancery/internal/acme"
	"chancery/internal/fault"
	"chancery/internal/limit"
	"chancery/internal/pki"
)

// Limits are the rate limits of the protocol; a nil limiter does not limit.
// Orders that replace a certificate (RFC 9773) are exempt from those on orders
// and certificates. Each replica counts for itself.
type Limits struct {
	AccountsPerIP          *limit.Limiter // new accounts of one IPv4 address or IPv6 /64
	AccountsPerNet         *limit.Limiter // new accounts of one IPv4 /24 or IPv6 /48
	OrdersPerAccount       *limit.Limiter // new orders and pre-authorizations
	FailuresPerName        *limit.Limiter // failed validations of one account for one identifier
	CertificatesPerDomain  *limit.Limiter // certificates under one registered domain, of all accounts
	CertificatesPerNameSet *limit.Limiter // certificates for exactly the same names
	LookupsPerName         *limit.Limiter // just-in-time validations of one name, of all accounts
	VerificationsPerIP     *limit.Limiter // cost of signature checks, one unit about that of P-256

	// PendingOrders is how many orders of one account may be open at once;
	// 0: any number.
	PendingOrders int
}

// DefaultLimits returns the limits of a fresh installation.
func DefaultLimits() *Limits {
	set, err := limit.NewSet(
		limit.Definition{Name: "accounts-per-ip", Scope: limit.PerIP, Rate: limit.Rate{Count: 50, Per: 3 * time.Hour}},
		limit.Definition{Name: "accounts-per-net", Scope: limit.PerNet, Rate: limit.Rate{Count: 500, Per: 3 * time.Hour}},
		limit.Definition{Name: "orders-per-account", Scope: limit.PerAccount, Rate: limit.Rate{Count: 3000, Per: 3 * time.Hour}},
		limit.Definition{Name: "failures-per-name", Scope: limit.PerName, Rate: limit.Rate{Count: 5, Per: time.Hour}},
		limit.Definition{Name: "certificates-per-domain", Scope: limit.PerDomain, Rate: limit.Rate{Count: 10000, Per: 7 * day}},
		limit.Definition{Name: "certificates-per-name-set", Scope: limit.PerNameSet, Rate: limit.Rate{Count: 25, Per: 7 * day}},
		limit.Definition{Name: "lookups-per-name", Scope: limit.PerDomain, Rate: limit.Rate{Count: 60, Per: time.Hour}},
		limit.Definition{Name: "verifications-per-ip", Scope: limit.PerIP, Rate: limit.Rate{Count: 30000, Per: time.Minute, Burst: 10000}},
	)
	if err != nil {
		panic("acme/server: " + err.Error()) // constants above
	}
	return &Limits{
		AccountsPerIP: set.Get("accounts-per-ip"), AccountsPerNet: set.Get("accounts-per-net"),
		OrdersPerAccount: set.Get("orders-per-account"), FailuresPerName: set.Get("failures-per-name"),
		CertificatesPerDomain: set.Get("certificates-per-domain"), CertificatesPerNameSet: set.Get("certificates-per-name-set"),
		LookupsPerName: set.Get("lookups-per-name"), VerificationsPerIP: set.Get("verifications-per-ip"), PendingOrders: 1000,
	}
}

// longestRetry bounds Retry-After: what can never succeed is told to come back
// tomorrow, by when an operator may have changed the limit.
const longestRetry = day

// limited is the error of a refusal (RFC 8555 section 6.6).
func limited(l *limit.Limiter, key string, retry time.Duration) error {
	return fault.New(fault.RateLimited, "rate limit %s (%s) is exceeded; try again after the time in Retry-After", l.Name(), l.Rate(key)).
		Retry(min(max(retry, time.Second), longestRetry))
}

// charges spends all of them, or none.
func charges(now time.Time, list []limit.Charge) error {
	if refused, retry := limit.AllowAll(now, list...); refused != nil {
		return limited(refused.Limit, refused.Key, retry)
	}
	return nil
}

// with adds a charge unless there is no such limit.
func with(list []limit.Charge, l *limit.Limiter, key string, cost int) []limit.Charge {
	if l == nil {
		return list
	}
	return append(list, limit.Charge{Limit: l, Key: key, Cost: cost})
}

// verification charges the cost of a signature check with key.
func (l *Limits) verification(m *message, with *acme.PublicKey) error {
	if l.VerificationsPerIP == nil {
		return nil
	}
	key := prefix(m.ClientIP, 32, 64)
	if ok, retry := l.VerificationsPerIP.Allow(key, weight(with), m.now); !ok {
		return limited(l.VerificationsPerIP, key, retry)
	}
	return nil
}

// newAccount charges for a new account.
func (l *Limits) newAccount(ip netip.Addr, now time.Time) error {
	list := with(nil, l.AccountsPerIP, prefix(ip, 32, 64), 1)
	return charges(now, with(list, l.AccountsPerNet, prefix(ip, 24, 48), 1))
}

// newOrder charges for an order, and asks whether its certificate could be had.
func (l *Limits) newOrder(accountID string, ids []pki.Identifier, now time.Time) error {
	for _, c := range l.certificateCharges(ids, 0) {
		if ok, retry := c.Limit.Peek(c.Key, now); !ok {
			return limited(c.Limit, c.Key, retry)
		}
	}
	if err := charges(now, with(nil, l.OrdersPerAccount, accountID, 1)); err != nil {
		return ofAccount{err}
	}
	return nil
}

// certificate charges for a certificate; refund gives it back if none was made.
func (l *Limits) certificate(ids []pki.Identifier, now time.Time) (refund func(), err error) {
	list := l.certificateCharges(ids, 1)
	if err := charges(now, list); err != nil {
		return nil, err
	}
	return func() {
		for _, c := range list {
			c.Limit.Refund(c.Key, c.Cost, now)
		}
	}, nil
}

func (l *Limits) certificateCharges(ids []pki.Identifier, cost int) []limit.Charge {
	list := make([]limit.Charge, 0, 2)
	if l.CertificatesPerNameSet != nil {
		list = with(list, l.CertificatesPerNameSet, nameSet(ids), cost)
	}
	if l.CertificatesPerDomain == nil {
		return list
	}
	seen := make(map[string]bool, 1)
	for _, id := range ids {
		if d := registered(id); !seen[d] {
			seen[d] = true
			list = with(list, l.CertificatesPerDomain, d, cost)
		}
	}
	return list
}

// failure asks, before a validation, whether too many failed; failed counts one.
func (l *Limits) failure(accountID string, id pki.Identifier, now time.Time) error {
	if l.FailuresPerName == nil {
		return nil
	}
	key := accountID + " " + id.Value
	if ok, retry := l.FailuresPerName.Peek(key, now); !ok {
		return limited(l.FailuresPerName, key, retry)
	}
	return nil
}

func (l *Limits) failed(accountID string, id pki.Identifier, now time.Time) {
	if l.FailuresPerName != nil {
		l.FailuresPerName.Allow(accountID+" "+id.Value, 1, now)
	}
}

// lookup charges for a just-in-time validation of a name.
func (l *Limits) lookup(id pki.Identifier, now time.Time) error {
	return charges(now, with(nil, l.LookupsPerName, id.Base().Value, 1))
}

// nameSet is the key of an exact set of names, which are sorted.
func nameSet(ids []pki.Identifier) string {
	if len(ids) == 1 {
		return ids[0].Value
	}
	values := make([]string, len(ids))
	for i, id := range ids {
		values[i] = id.Value
	}
	return strings.Join(values, " ")
}

// registered returns the registered domain of a name (one label below a public
// suffix), or the network of an address.
func registered(id pki.Identifier) string {
	if id.Type == pki.IP {
		return prefix(id.Addr(), 32, 64)
	}
	name := id.Base().Value
	if d, err := publicsuffix.EffectiveTLDPlusOne(name); err == nil {
		return d
	}
	return name // a public suffix itself
}

// prefix is the key of an address: its leading bits.
func prefix(ip netip.Addr, bits4, bits6 int) string {
	if !ip.IsValid() {
		return "local" // a unix socket has no address
	}
	ip = ip.Unmap()
	bits := bits6
	if ip.Is4() {
		if bits = bits4; bits == 32 {
			return ip.String()
		}
	}
	p, err := ip.Prefix(bits)
	if err != nil {
		return ip.String()
	}
	return p.String()
}
