package server

import (
	"time"

	"chancery/internal/acme"
	"chancery/internal/fault"
)

// AutoRenewal are the limits of orders that renew themselves (RFC 8739 section
// 3.2). The zero value offers none.
type AutoRenewal struct {
	// MinLifetime is the shortest life of one certificate; 0: not offered.
	MinLifetime time.Duration

	// MaxDuration is the longest time from now to the end of an order. No
	// certificate is issued on a proof that policy does not let count any more,
	// so it is never longer than the lifetime of authorizations, which is also
	// what 0 stands for.
	MaxDuration time.Duration

	// AllowGet lets orders ask that anybody may fetch their certificate.
	AllowGet bool
}

// schedule says when which certificate of a self-renewing order is due (RFC
// 8739 section 3.5). It is arithmetic alone.
type schedule struct {
	start    time.Time     // nominal renewal date of the first certificate
	end      time.Time     // no certificate is valid beyond
	lifetime time.Duration // T
	adjust   time.Duration // lifetime-adjust, at most T
}

// padding is how long before its nominal renewal date a certificate becomes
// valid and is published: half the lifetime, or what the client wants more.
func (p schedule) padding() time.Duration { return max(min(p.lifetime, p.adjust), p.lifetime/2) }

// nominal returns the nominal renewal date of the i-th certificate.
func (p schedule) nominal(i int64) time.Time { return p.start.Add(time.Duration(i) * p.lifetime) }

// due returns the instant at which the i-th certificate is published, which is
// also when it becomes valid.
func (p schedule) due(i int64) time.Time {
	if i == 0 {
		return p.start
	}
	return p.nominal(i).Add(-p.padding())
}

// last is the number of the last certificate.
func (p schedule) last() int64 { return int64((p.end.Sub(p.start) - 1) / p.lifetime) }

// at returns the number of the newest certificate that is due at now; ok is
// false before the first is and after the end.
func (p schedule) at(now time.Time) (i int64, ok bool) {
	if now.Before(p.start) || !now.Before(p.end) {
		return 0, false
	}
	return min(int64((now.Sub(p.start)+p.padding())/p.lifetime), p.last()), true
}

// window returns the life of the i-th certificate.
func (p schedule) window(i int64) (from, to time.Time) {
	to = p.nominal(i + 1)
	if to.After(p.end) {
		to = p.end
	}
	return p.due(i), to
}

// next returns when the certificate after the i-th is due, zero if there is none.
func (p schedule) next(i int64) time.Time {
	if i >= p.last() {
		return time.Time{}
	}
	return p.due(i + 1)
}

// soonest returns when a certificate is due after now, zero if none is.
func (p schedule) soonest(now time.Time) time.Time {
	if !now.Before(p.end) {
		return time.Time{}
	}
	i, _ := p.at(now)
	return p.next(i)
}

// maxDuration is the longest that an order of a, made at now, may renew itself.
func (a *authority) maxDuration(now time.Time) time.Duration {
	reuse := a.reuse(now)
	if d := a.AutoRenewal.MaxDuration; d > 0 && d < reuse {
		return d
	}
	return reuse
}

// autoRenewalMeta is the directory's "auto-renewal" (RFC 8739 section 3.2), nil
// when not offered.
func (a *authority) autoRenewalMeta(now time.Time) *acme.AutoRenewalMeta {
	if a.AutoRenewal.MinLifetime <= 0 {
		return nil
	}
	return &acme.AutoRenewalMeta{MinLifetime: seconds(a.AutoRenewal.MinLifetime), MaxDuration: seconds(a.maxDuration(now)),
		AllowCertificateGet: a.AutoRenewal.AllowGet}
}

func seconds(d time.Duration) int64 { return int64(d / time.Second) }

// maxSeconds bounds durations that clients send, far below overflow.
const maxSeconds = 100 * 366 * 24 * 3600

// planStar checks the "auto-renewal" of a new order (RFC 8739 section 3.1.1)
// and returns it as the order will show it.
func (a *authority) planStar(req *acme.NewOrder, p *Profile, now time.Time) (*acme.AutoRenewal, error) {
	r := *req.AutoRenewal
	start := now
	if r.StartDate.After(now) {
		start = r.StartDate.Time
	}
	bad := func(format string, args ...any) (*acme.AutoRenewal, error) {
		return nil, fault.New(fault.Malformed, "auto-renewal: "+format, args...)
	}
	longest := a.Trust.At(now).Period(p.Period) - p.Backdate
	switch {
	case a.AutoRenewal.MinLifetime <= 0:
		return bad("this server does not offer it (RFC 8739); see the directory's meta")
	case !req.NotBefore.IsZero() || !req.NotAfter.IsZero():
		return bad("notBefore and notAfter have no place in an order that renews itself")
	case req.Replaces != "":
		return bad("such an order replaces its certificates itself; leave out replaces")
	case r.EndDate.IsZero() || !r.EndDate.After(start):
		return bad("end-date must be after now and after start-date")
	case r.EndDate.Sub(now) > a.maxDuration(now):
		return bad("end-date is further away than max-duration, %d seconds from now", seconds(a.maxDuration(now)))
	case r.Lifetime < seconds(a.AutoRenewal.MinLifetime) || r.Lifetime > maxSeconds:
		return bad("lifetime is shorter than min-lifetime, %d seconds", seconds(a.AutoRenewal.MinLifetime))
	case r.LifetimeAdjust < 0 || r.LifetimeAdjust > maxSeconds:
		return bad("lifetime-adjust must not be negative")
	}
	plan := scheduleOf(&r, start)
	if start.Sub(now)+plan.lifetime+plan.padding() > longest {
		return bad("start, lifetime and lifetime-adjust exceed what profile %s allows, %s in all", p.Name, longest)
	}
	r.AllowCertificateGet = r.AllowCertificateGet && a.AutoRenewal.AllowGet
	return &r, nil
}

// scheduleOf returns the schedule of an order whose first certificate is made
// at now: it begins at start-date, or now if that has passed (section 3.5).
func scheduleOf(r *acme.AutoRenewal, now time.Time) schedule {
	p := schedule{start: now.UTC().Truncate(time.Second), end: r.EndDate.Time,
		lifetime: time.Duration(r.Lifetime) * time.Second, adjust: time.Duration(r.LifetimeAdjust) * time.Second}
	if r.StartDate.After(p.start) {
		p.start = r.StartDate.Time
	}
	return p
}
