package renew

import (
	"crypto/sha256"
	"encoding/binary"
	"time"

	"chancery/internal/pki"
)

// Bounds of how often an issuer is asked for renewal information (RFC 9773
// section 4.3.2: a client must not fail on strange values of Retry-After).
const (
	minAsk     = time.Minute
	maxAsk     = 24 * time.Hour
	defaultAsk = 6 * time.Hour
)

// heartbeat is the longest that a certificate is not looked at, whatever its
// plans: rows that a clock ahead of time wrote come back, and every look checks
// that a certificate has a plan at all.
const heartbeat = 24 * time.Hour

// fraction maps a text to [0,1), the same everywhere and for ever.
func fraction(parts ...string) float64 {
	h := sha256.New()
	for _, p := range parts {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		h.Write(n[:])
		h.Write([]byte(p))
	}
	return float64(binary.BigEndian.Uint64(h.Sum(nil))>>11) / (1 << 53)
}

// scale returns f of d.
func scale(d time.Duration, f float64) time.Duration { return time.Duration(float64(d) * f) }

// within is the instant of renewal inside a window (RFC 9773 section 4.2 asks
// for a random one): chosen by a hash of the certificate and the window, so
// that a repeated look, another replica or a restart choose the same.
func within(id string, start, end time.Time) time.Time {
	if !end.After(start) {
		return start
	}
	f := fraction(id, start.UTC().Format(time.RFC3339), end.UTC().Format(time.RFC3339))
	return start.Add(scale(end.Sub(start), f)).Truncate(time.Second)
}

// nextAsk is when to ask for renewal information again: after what the issuer
// said, within bounds, give or take a tenth, so that what was issued together
// does not ask together for ever. random is in [0,1).
func nextAsk(now, retryAfter time.Time, random float64) time.Time {
	d := defaultAsk
	if !retryAfter.IsZero() {
		d = min(max(retryAfter.Sub(now), minAsk), maxAsk)
	}
	return now.Add(scale(d, 0.9+0.2*random))
}

// firstAsk is the phase of a certificate's first question.
func firstAsk(id string, now time.Time) time.Time {
	return now.Add(scale(defaultAsk, fraction("ask", id)))
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

// soonest returns the earliest instant that is set.
func soonest(at ...time.Time) time.Time {
	var out time.Time
	for _, t := range at {
		if !t.IsZero() && (out.IsZero() || t.Before(out)) {
			out = t
		}
	}
	return out
}
