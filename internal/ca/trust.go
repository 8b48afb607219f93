package ca

import (
	"time"

	"chancery/internal/fault"
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
}

const day = 24 * time.Hour

// webPKI are the terms of public-webpki (Baseline Requirements sections 6.3.2
// and 4.2.1, ballot SC-081v3), each from its instant on.
var webPKI = []struct {
	from  time.Time
	terms Terms
}{
	{time.Time{}, Terms{MaxPeriod: 398 * day, MaxReuse: 398 * day}},
	{time.Date(2026, 3, 15, 0, 0, 0, 0, time.UTC), Terms{MaxPeriod: 200 * day, MaxReuse: 200 * day}},
	{time.Date(2027, 3, 15, 0, 0, 0, 0, time.UTC), Terms{MaxPeriod: 100 * day, MaxReuse: 100 * day}},
	{time.Date(2029, 3, 15, 0, 0, 0, 0, time.UTC), Terms{MaxPeriod: 47 * day, MaxReuse: 10 * day}},
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

// check reports evidence in g that is older than the terms allow at now. What
// this program certifies for itself was not validated and has no age.
func (m Terms) check(g Grant, now time.Time) error {
	if m.MaxReuse == 0 {
		return nil
	}
	for i := range g.evidence {
		if e := &g.evidence[i]; now.After(e.ValidatedAt.Add(m.MaxReuse)) {
			return fault.New(fault.Unauthorized, "control of %s was shown more than %d days ago, too long for this authority; validate it again", e.Name.Value, m.MaxReuse/day)
		}
	}
	return nil
}
