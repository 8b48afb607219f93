// Package rule holds the decisions of renewal that need neither a database nor
// a network: when a certificate is renewed, when its issuer is asked again, and
// what has to wait after a failure. The engine of a server (package renew) and
// an agent that works alone (package fleet/alone) decide by the same rules.
package rule

import (
	"crypto/sha256"
	"encoding/binary"
	"time"

	"chancery/internal/issuer"
	"chancery/internal/pki"
)

// Bounds of how often an issuer is asked for renewal information (RFC 9773
// section 4.3.2: a client must not fail on strange values of Retry-After).
const (
	minAsk     = time.Minute
	MaxAsk     = 24 * time.Hour
	DefaultAsk = 6 * time.Hour
)

// latest is the part of its life after which a certificate is renewed whatever
// its issuer says.
const latest = 0.9

// Fraction maps a text to [0,1), the same everywhere and for ever.
func Fraction(parts ...string) float64 {
	h := sha256.New()
	for _, p := range parts {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		h.Write(n[:])
		h.Write([]byte(p))
	}
	return float64(binary.BigEndian.Uint64(h.Sum(nil))>>11) / (1 << 53)
}

// Scale returns f of d.
func Scale(d time.Duration, f float64) time.Duration { return time.Duration(float64(d) * f) }

// within is the instant of renewal inside a window (RFC 9773 section 4.2 asks
// for a random one): chosen by a hash of the certificate and the window, so
// that a repeated look, another replica or a restart choose the same.
func within(id string, start, end time.Time) time.Time {
	if !end.After(start) {
		return start
	}
	f := Fraction(id, start.UTC().Format(time.RFC3339), end.UTC().Format(time.RFC3339))
	return start.Add(Scale(end.Sub(start), f)).Truncate(time.Second)
}

// NextAsk is when to ask for renewal information again: after what the issuer
// said, within bounds, give or take a tenth, so that what was issued together
// does not ask together for ever. random is in [0,1).
func NextAsk(now, retryAfter time.Time, random float64) time.Time {
	d := DefaultAsk
	if !retryAfter.IsZero() {
		d = min(max(retryAfter.Sub(now), minAsk), MaxAsk)
	}
	return now.Add(Scale(d, 0.9+0.2*random))
}

// FirstAsk is the phase of a certificate's first question.
func FirstAsk(id string, now time.Time) time.Time {
	return now.Add(Scale(DefaultAsk, Fraction("ask", id)))
}

// window is what a certificate's life alone says: from two thirds on, or half
// under ten days (see pki.RenewalWindow), or so long before its end if that is
// earlier.
func window(notBefore, notAfter time.Time, before time.Duration) (start, end time.Time) {
	start, end = pki.RenewalWindow(notBefore, notAfter)
	if at := notAfter.Add(-before); before > 0 && at.Before(start) {
		start, end = at, at.Add(end.Sub(start))
	}
	return start, end
}

// earlier returns the earlier of two windows; a zero one never is.
func earlier(s1, e1, s2, e2 time.Time) (start, end time.Time) {
	if s1.IsZero() || !s2.IsZero() && s2.Before(s1) {
		return s2, e2
	}
	return s1, e1
}

// Life is the certificate that a plan is for.
type Life struct {
	ID                  string // hex SHA-256 of the certificate
	NotBefore, NotAfter time.Time
	Before              time.Duration // renew so long before the end, if that is earlier; 0 = by the window alone
}

// Plan is when a certificate is renewed, and the window it was chosen from.
type Plan struct{ At, Start, End time.Time }

// ByLife plans a certificate by its life alone.
func ByLife(l Life) Plan {
	start, end := window(l.NotBefore, l.NotAfter, l.Before)
	return Plan{within(l.ID, start, end), start, end}
}

// ByIssuer plans a certificate by what its issuer says. ok is false for what is
// not a window.
func ByIssuer(l Life, info issuer.RenewalInfo) (p Plan, ok bool) {
	// RFC 9773 section 4.2: an end that is not after the start is not a window.
	if info.Start.IsZero() || !info.End.After(info.Start) {
		return p, false
	}
	p.Start, p.End = info.Start.UTC(), info.End.UTC()
	if l.Before > 0 {
		s, e := window(l.NotBefore, l.NotAfter, l.Before)
		p.Start, p.End = earlier(p.Start, p.End, s, e)
	}
	p.At = within(l.ID, p.Start, p.End)
	if last := l.NotBefore.Add(Scale(l.NotAfter.Sub(l.NotBefore), latest)); p.At.After(last) {
		p.At = last
	}
	return p, true
}

// Soonest returns the earliest instant that is set.
func Soonest(at ...time.Time) time.Time {
	var out time.Time
	for _, t := range at {
		if !t.IsZero() && (out.IsZero() || t.Before(out)) {
			out = t
		}
	}
	return out
}
