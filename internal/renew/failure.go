package renew

import (
	"context"
	"errors"
	"time"

	"chancery/internal/fault"
	"chancery/internal/issuer"
)

// unknown is the class of a failure that its issuer did not name. The
// certificate waits, longer each time, and nobody else.
const unknown issuer.Class = "unknown"

// classify returns what an issuer failed with, never nil.
func classify(err error) *issuer.Error {
	var e *issuer.Error
	if errors.As(err, &e) {
		return e
	}
	var f *fault.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &f) && f.Code == fault.Unavailable {
		return &issuer.Error{Class: issuer.Unavailable, Err: err}
	}
	return &issuer.Error{Class: unknown, Err: err}
}

// failure is what decide looks at.
type failure struct {
	class      issuer.Class
	retryAfter time.Duration
	provider   string
	attempts   int           // failures in a row, this one included
	left       time.Duration // life that the live certificate has left; 0 = none, or none left
	trial      bool          // it failed at the staging issuer
	staging    bool          // there is a staging issuer
	random     float64       // in [0,1)
}

// verdict says what has to wait.
type verdict struct {
	wait     time.Duration // of the certificate
	keep     bool          // the issuance goes on; otherwise a new one is begun
	sleep    time.Duration // of the issuer's account; 0 = not at all
	broken   bool          // the issuer's breaker counts it
	provider string        // whose breaker counts it
	stop     bool          // nothing more happens until a person acts
	trial    bool          // the next try is at staging
	blames   bool          // counts as a failure of this certificate
}

// Steps of the ladders.
const (
	validationStep = 15 * time.Minute
	unknownStep    = time.Minute
	ladderCap      = 24 * time.Hour
	minWait        = time.Minute
	trialAfter     = 3 // validation failures in a row
	defaultSleep   = 5 * time.Minute
	outageWait     = 2 * time.Minute // bound of the jitter behind an outage
)

// decide is the whole policy about failures.
func decide(f failure) verdict {
	switch f.class {
	case issuer.Throttled:
		d := f.retryAfter
		if d <= 0 {
			d = defaultSleep
		}
		// The certificate stays where it is; what it waits for is the account.
		return verdict{wait: d + scale(d/10, f.random), keep: true, sleep: d}
	case issuer.Unavailable:
		return verdict{wait: max(f.retryAfter, time.Second) + scale(outageWait, f.random), keep: true, broken: true}
	case issuer.Provider:
		return verdict{wait: minWait + scale(outageWait, f.random), keep: true, provider: f.provider, blames: f.provider == ""}
	case issuer.Validation:
		return verdict{wait: max(ladder(validationStep, f), f.retryAfter), blames: true, trial: f.staging && (f.trial || f.attempts >= trialAfter)}
	case issuer.Permanent, issuer.Mismatch:
		return verdict{stop: true, blames: true}
	}
	return verdict{wait: max(ladder(unknownStep, f), f.retryAfter), blames: true}
}

// ladder is a step that doubles with each failure, with full jitter, up to a
// day; but never so long that a living certificate has fewer than eight tries.
func ladder(step time.Duration, f failure) time.Duration {
	limit := ladderCap
	if f.left > 0 {
		limit = min(limit, f.left/8)
	}
	for n := 1; n < f.attempts && step < limit; n++ {
		step *= 2
	}
	return max(scale(min(step, limit), f.random), minWait)
}

// fallbackAfter is how long an issuer must be down before others do its work.
const fallbackAfter = 15 * time.Minute

// fallback reports whether a certificate leaves an issuer whose lane is l: at
// once when somebody said so, or when it is down for long, or for too long for
// a certificate that has little life left.
func (l *Lane) fallback(now time.Time, left time.Duration, after time.Duration) bool {
	if l.Divert != "" {
		return true
	}
	if !l.open() {
		return false
	}
	down := now.Sub(l.OpenedAt)
	return down >= after || left > 0 && down >= left/8
}
