package rule

import (
	"context"
	"errors"
	"time"

	"chancery/internal/fault"
	"chancery/internal/issuer"
)

// Unknown is the class of a failure that its issuer did not name. The
// certificate waits, longer each time, and nobody else.
const Unknown issuer.Class = "unknown"

// Classify returns what an issuer failed with, never nil.
func Classify(err error) *issuer.Error {
	var e *issuer.Error
	if errors.As(err, &e) {
		return e
	}
	var f *fault.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &f) && f.Code == fault.Unavailable {
		return &issuer.Error{Class: issuer.Unavailable, Err: err}
	}
	return &issuer.Error{Class: Unknown, Err: err}
}

// Failure is what Decide looks at.
type Failure struct {
	*issuer.Error
	Attempts int           // failures in a row, this one included
	Left     time.Duration // life that the live certificate has left; 0 = none, or none left
	Trial    bool          // it failed at the staging issuer
	Staging  bool          // there is a staging issuer
	Random   float64       // in [0,1)
}

// Verdict says what has to wait.
type Verdict struct {
	Wait     time.Duration // of the certificate
	Keep     bool          // the issuance goes on; otherwise a new one is begun
	Sleep    time.Duration // of the issuer's account; 0 = not at all
	Broken   bool          // the issuer's breaker counts it
	Provider string        // whose breaker counts it
	Stop     bool          // nothing more happens until a person acts
	Trial    bool          // the next try is at staging
	Blames   bool          // counts as a failure of this certificate
}

// Steps of the ladders.
const (
	validationStep = 15 * time.Minute
	unknownStep    = time.Minute
	ladderCap      = 24 * time.Hour
	minWait        = time.Minute
	TrialAfter     = 3 // validation failures in a row
	defaultSleep   = 5 * time.Minute
	OutageWait     = 2 * time.Minute // bound of the jitter behind an outage
)

// Decide is the whole policy about failures.
func Decide(f Failure) Verdict {
	switch f.Class {
	case issuer.Throttled:
		d := f.RetryAfter
		if d <= 0 {
			d = defaultSleep
		}
		// The certificate stays where it is; what it waits for is the account.
		return Verdict{Wait: d + Scale(d/10, f.Random), Keep: true, Sleep: d}
	case issuer.Unavailable:
		return Verdict{Wait: max(f.RetryAfter, time.Second) + Scale(OutageWait, f.Random), Keep: true, Broken: true}
	case issuer.Provider:
		return Verdict{Wait: minWait + Scale(OutageWait, f.Random), Keep: true, Provider: f.Provider, Blames: f.Provider == ""}
	case issuer.Validation:
		return Verdict{Wait: max(ladder(validationStep, f), f.RetryAfter), Blames: true, Trial: f.Staging && (f.Trial || f.Attempts >= TrialAfter)}
	case issuer.Permanent, issuer.Mismatch:
		// An order that the CA is still at work on is asked for again when
		// somebody starts the certificate again: it is not ordered twice.
		return Verdict{Stop: true, Blames: true, Keep: f.Pending}
	}
	return Verdict{Wait: max(ladder(unknownStep, f), f.RetryAfter), Blames: true}
}

// ladder is a step that doubles with each failure, with full jitter, up to a
// day; but never so long that a living certificate has fewer than eight tries.
func ladder(step time.Duration, f Failure) time.Duration {
	limit := ladderCap
	if f.Left > 0 {
		limit = min(limit, f.Left/8)
	}
	for n := 1; n < f.Attempts && step < limit; n++ {
		step *= 2
	}
	return max(Scale(min(step, limit), f.Random), minWait)
}
