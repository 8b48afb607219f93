package client

import (
	"context"
	"errors"
	"net"
	"net/http"
	"regexp"
	"time"

	"chancery/internal/fault"
	"chancery/internal/issuer"
)

// classes says what has to wait after a refusal with each ACME error type. What
// is missing is decided by the HTTP status.
var classes = map[fault.Code]issuer.Class{
	fault.RateLimited:             issuer.Throttled,
	fault.ServerInternal:          issuer.Unavailable,
	fault.BadNonce:                issuer.Unavailable, // again and again: the CA loses its own nonces
	fault.CAA:                     issuer.Validation,
	fault.Connection:              issuer.Validation,
	fault.DNS:                     issuer.Validation,
	fault.IncorrectResponse:       issuer.Validation,
	fault.TLS:                     issuer.Validation,
	fault.Compound:                issuer.Validation,
	fault.OrderNotReady:           issuer.Validation,
	fault.Unauthorized:            issuer.Permanent, // of a request; of a challenge see validationClass
	fault.AccountDoesNotExist:     issuer.Permanent,
	fault.BadCSR:                  issuer.Permanent,
	fault.BadPublicKey:            issuer.Permanent,
	fault.BadSignatureAlgorithm:   issuer.Permanent,
	fault.ExternalAccountRequired: issuer.Permanent,
	fault.InvalidContact:          issuer.Permanent,
	fault.InvalidProfile:          issuer.Permanent,
	fault.Malformed:               issuer.Permanent,
	fault.RejectedIdentifier:      issuer.Permanent,
	fault.UnsupportedContact:      issuer.Permanent,
	fault.UnsupportedIdentifier:   issuer.Permanent,
	fault.UserActionRequired:      issuer.Permanent,
}

// classOf returns the class of a refusal. The status wins where it is about
// the server and not about the request: Boulder answers an overload with
// serverInternal or rateLimited and 503.
func classOf(r *Refusal) issuer.Class {
	switch {
	case r.Status == http.StatusTooManyRequests:
		return issuer.Throttled
	case r.Status == http.StatusServiceUnavailable && r.Code() == fault.RateLimited:
		return issuer.Unavailable
	case r.Status == http.StatusRequestTimeout:
		return issuer.Unavailable
	}
	if c, ok := classes[r.Code()]; ok {
		return c
	}
	if r.Status >= 500 || r.Status < 400 {
		return issuer.Unavailable
	}
	return issuer.Permanent
}

// validationClass is classOf for the error of a challenge or an order: there
// "unauthorized" means that the proof was wrong.
func validationClass(r *Refusal) issuer.Class {
	switch r.Code() {
	case fault.RateLimited:
		return issuer.Throttled
	case fault.ServerInternal:
		return issuer.Unavailable
	case fault.RejectedIdentifier, fault.UnsupportedIdentifier, fault.BadCSR, fault.BadPublicKey:
		return issuer.Permanent
	}
	return issuer.Validation
}

// classify gives err its class. What already has one keeps it, and so does the
// end of the caller's own context.
func classify(ctx context.Context, err error, now time.Time) error {
	var known *issuer.Error
	var refused *Refusal
	var f *fault.Error
	var network net.Error
	switch {
	case err == nil || errors.As(err, &known):
		return err
	case ctx.Err() != nil:
		return err
	case errors.As(err, &refused):
		return refusalError(refused, classOf(refused), now)
	case errors.As(err, &network), errors.Is(err, net.ErrClosed):
		return &issuer.Error{Class: issuer.Unavailable, Err: err}
	case errors.As(err, &f) && f.Code == fault.NotFound: // the CA does not offer it
		return err
	case errors.As(err, &f): // a reply that is not what it should be
		return &issuer.Error{Class: issuer.Unavailable, RetryAfter: f.RetryAfter, Err: err}
	}
	return err
}

func refusalError(r *Refusal, class issuer.Class, now time.Time) *issuer.Error {
	e := &issuer.Error{Class: class, RetryAfter: r.RetryAfter, Err: r}
	if e.RetryAfter == 0 {
		e.RetryAfter = retryText(r.Detail, now)
	}
	if r.Identifier != nil {
		e.Identifier = r.Identifier.Value
	}
	for i := range r.Subproblems {
		if id := r.Subproblems[i].Identifier; id != nil && e.Identifier == "" {
			e.Identifier = id.Value
		}
	}
	return e
}

// retryAt finds the instant in texts such as "too many certificates (50)
// already issued for "example.com" in the last 168h0m0s, retry after
// 2025-03-03 14:21:33 UTC: see https://...".
var retryAt = regexp.MustCompile(`(?i)\b(?:retry|try again) (?:after|at|on) (\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?: ?(?:UTC|Z))?)`)

// retryIn finds a span, as in "retry after 1h30m0s" or "try again in 90s".
var retryIn = regexp.MustCompile(`(?i)\b(?:retry after|retry in|try again in|wait) ((?:\d+(?:\.\d+)?(?:h|ms|m|s))+)\b`)

// retryText reads what a CA says in words only (Let's Encrypt does so beside
// the header; others leave the header out). 0 = nothing was found.
func retryText(detail string, now time.Time) time.Duration {
	if m := retryAt.FindStringSubmatch(detail); m != nil {
		for _, layout := range []string{time.RFC3339, "2006-01-02 15:04:05 MST", "2006-01-02 15:04:05", "2006-01-02T15:04:05"} {
			if at, err := time.Parse(layout, m[1]); err == nil {
				return min(max(at.Sub(now), 0), maxRetryAfter)
			}
		}
	}
	if m := retryIn.FindStringSubmatch(detail); m != nil {
		if d, err := time.ParseDuration(m[1]); err == nil {
			return min(max(d, 0), maxRetryAfter)
		}
	}
	return 0
}
