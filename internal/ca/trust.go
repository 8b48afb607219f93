package ca

import (
	"time"

	"chancery/internal/fault"
	"chancery/internal/pki"
)

// Trust is the policy that holds for an authority on top of its profiles. Who
// trusts it decides: an operator alone, or everybody's browsers.
type Trust string

// Trust profiles.
const (
	Private      Trust = "private"       // the operator's own rules; no more than the profiles say
	PublicWebPKI Trust = "public-webpki" // the Baseline Requirements of the CA/Browser Forum
)

// Valid reports whether t is a known trust profile.
func (t Trust) Valid() bool { return t == Private || t == PublicWebPKI }

// Terms are what a trust profile demands of a certificate at one instant. Zero
// means that it demands nothing.
type Terms struct {
	MaxPeriod time.Duration // longest life of a certificate, notBefore and notAfter included
	MaxReuse  time.Duration // how old a proof of control may be at issuance

	// MinRemotes is the fewest remote network perspectives that must have been
	// asked for each name's proof and CAA check, and have made a quorum.
	MinRemotes int
}

const day = 24 * time.Hour

// webPKI are the terms of public-webpki (Baseline Requirements sections 6.3.2
// and 4.2.1, ballot SC-081v3; section 3.2.2.9, ballot SC-067v3), each from its
// instant on.
var webPKI = []struct {
	from  time.Time
	terms Terms
}{
	{time.Time{}, Terms{MaxPeriod: 398 * day, MaxReuse: 398 * day}},
	{date(2025, 9, 15), Terms{MaxPeriod: 398 * day, MaxReuse: 398 * day, MinRemotes: 2}},
	{date(2026, 3, 15), Terms{MaxPeriod: 200 * day, MaxReuse: 200 * day, MinRemotes: 3}},
	{date(2026, 6, 15), Terms{MaxPeriod: 200 * day, MaxReuse: 200 * day, MinRemotes: 4}},
	{date(2026, 12, 15), Terms{MaxPeriod: 200 * day, MaxReuse: 200 * day, MinRemotes: 5}},
	{date(2027, 3, 15), Terms{MaxPeriod: 100 * day, MaxReuse: 100 * day, MinRemotes: 5}},
	{date(2029, 3, 15), Terms{MaxPeriod: 47 * day, MaxReuse: 10 * day, MinRemotes: 5}},
}

func date(year int, month time.Month, day int) time.Time {
	return time.Date(year, month, day, 0, 0, 0, 0, time.UTC)
}

// At returns the terms that hold for what is issued at now. It is a function
// of now alone: a process that runs over a date follows it.
func (t Trust) At(now time.Time) (terms Terms) {
	if t != PublicWebPKI {
		return Terms{}
	}
	for _, step := range webPKI {
		if !now.Before(step.from) {
			terms = step.terms
		}
	}
	return terms
}

// Period returns the life that a profile's period comes to under the terms.
func (m Terms) Period(period time.Duration) time.Duration { return tighter(period, m.MaxPeriod) }

// Reuse returns for how long a proof may be used under the terms when the
// operator says reuse.
func (m Terms) Reuse(reuse time.Duration) time.Duration { return tighter(reuse, m.MaxReuse) }

func tighter(own, limit time.Duration) time.Duration {
	if limit > 0 && limit < own {
		return limit
	}
	return own
}

// check reports evidence in g that the terms do not allow at now. What this
// program certifies for itself was not validated: it has no age, and nobody
// else could see it.
func (m Terms) check(g Grant, now time.Time) error {
	for i := range g.evidence {
		e := &g.evidence[i]
		if m.MaxReuse > 0 && now.After(e.ValidatedAt.Add(m.MaxReuse)) {
			return fault.New(fault.Unauthorized, "control of %s was shown more than %d days ago, too long for this authority; validate it again", e.Name.Value, m.MaxReuse/day)
		}
		if e.networked() && e.Remotes < m.MinRemotes {
			return fault.New(fault.Unauthorized, "control of %s was confirmed by %d remote network perspectives; this authority needs %d; validate it again", e.Name.Value, e.Remotes, m.MinRemotes)
		}
	}
	return nil
}

// networked reports whether control was shown over the network.
func (e *Evidence) networked() bool {
	return (e.Name.Type == pki.DNS || e.Name.Type == pki.IP) && e.Method != MethodInternal && e.Method != MethodOperator
}
