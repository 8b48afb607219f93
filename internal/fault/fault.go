// Package fault holds the one error type that Chancery shows to its users.
//
// Any layer may return a *fault.Error; only the edge (HTTP, CLI) turns it into
// a problem document (RFC 7807) or an exit code. What a user may read (Detail)
// and what only the log may hold (the wrapped cause) are different fields, so
// no internal text and no secret can leak by accident. An error that is not a
// *fault.Error is shown as a bare internal error.
package fault

import (
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Code names a class of failure. Codes that RFC 8555 section 6.7 (and its
// extensions) define keep exactly the registered spelling, so the ACME edge
// prepends "urn:ietf:params:acme:error:" and nothing else.
type Code string

// ACME error types (RFC 8555 section 6.7, RFC 9773 section 7.4, profiles draft).
const (
	AccountDoesNotExist     Code = "accountDoesNotExist"
	AlreadyReplaced         Code = "alreadyReplaced"
	AlreadyRevoked          Code = "alreadyRevoked"
	AutoRenewalCanceled     Code = "autoRenewalCanceled" // RFC 8739, and the next three
	AutoRenewalExpired      Code = "autoRenewalExpired"
	BadAttestationStatement Code = "badAttestationStatement" // draft-ietf-acme-device-attest
	BadCSR                  Code = "badCSR"
	BadNonce                Code = "badNonce"
	BadPublicKey            Code = "badPublicKey"
	BadRevocationReason     Code = "badRevocationReason"
	BadSignatureAlgorithm   Code = "badSignatureAlgorithm"
	CAA                     Code = "caa"
	Compound                Code = "compound"
	Connection              Code = "connection"
	DNS                     Code = "dns"
	ExternalAccountRequired Code = "externalAccountRequired"
	IncorrectResponse       Code = "incorrectResponse"
	InvalidContact          Code = "invalidContact"
	InvalidProfile          Code = "invalidProfile"
	Malformed               Code = "malformed"
	OrderNotReady           Code = "orderNotReady"
	RateLimited             Code = "rateLimited"
	RejectedIdentifier      Code = "rejectedIdentifier"
	ServerInternal          Code = "serverInternal"
	TLS                     Code = "tls"
	Unauthorized            Code = "unauthorized"
	UnknownDelegation       Code = "unknownDelegation" // RFC 9115
	UnsupportedContact      Code = "unsupportedContact"
	UnsupportedIdentifier   Code = "unsupportedIdentifier"
	UserActionRequired      Code = "userActionRequired"

	AutoRenewalCancellationInvalid    Code = "autoRenewalCancellationInvalid"
	AutoRenewalRevocationNotSupported Code = "autoRenewalRevocationNotSupported"
)

// Codes of our own, for everything that is not ACME.
const (
	NotFound     Code = "notFound"
	Conflict     Code = "conflict"
	Forbidden    Code = "forbidden"
	Invalid      Code = "invalid"     // bad input outside ACME
	Unavailable  Code = "unavailable" // try again later; always carries RetryAfter
	Precondition Code = "preconditionFailed"
	TooLarge     Code = "tooLarge"
	BadMethod    Code = "methodNotAllowed"
	BadMediaType Code = "unsupportedMediaType"
)

// status is the HTTP status of each code; absent means 400.
var status = map[Code]int{
	AlreadyReplaced:     http.StatusConflict,
	AutoRenewalCanceled: http.StatusForbidden,
	AutoRenewalExpired:  http.StatusForbidden,
	BadMediaType:        http.StatusUnsupportedMediaType,
	BadMethod:           http.StatusMethodNotAllowed,
	CAA:                 http.StatusForbidden,
	Conflict:            http.StatusConflict,
	Forbidden:           http.StatusForbidden,
	NotFound:            http.StatusNotFound,
	OrderNotReady:       http.StatusForbidden,
	Precondition:        http.StatusPreconditionFailed,
	RateLimited:         http.StatusTooManyRequests,
	ServerInternal:      http.StatusInternalServerError,
	TooLarge:            http.StatusRequestEntityTooLarge,
	Unauthorized:        http.StatusForbidden,
	Unavailable:         http.StatusServiceUnavailable,
	UnknownDelegation:   http.StatusForbidden,
	UserActionRequired:  http.StatusForbidden,
	RejectedIdentifier:  http.StatusBadRequest,
	AccountDoesNotExist: http.StatusBadRequest,

	AutoRenewalRevocationNotSupported: http.StatusForbidden,
}

// Error is a failure with a public face and a private cause.
type Error struct {
	Code       Code
	Detail     string        // public: what is wrong, why, and what to do next
	RetryAfter time.Duration // > 0: the caller should try again after this long
	Sub        []Sub         // RFC 8555 section 6.7.1 subproblems
	HTTPStatus int           // 0: derived from Code

	// Algorithms is set on BadSignatureAlgorithm (RFC 8555 section 6.2).
	Algorithms []string

	// Instance is a URL the user must visit (RFC 8555 section 7.3.3), or "".
	Instance string

	cause error
}

// Sub is one subproblem of a compound failure, tied to an identifier.
type Sub struct {
	Code            Code
	Detail          string
	IdentifierType  string // "dns", "ip", ...; may be empty
	IdentifierValue string
}

// New returns an error whose text is public.
func New(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Detail: fmt.Sprintf(format, args...)}
}

// Wrap returns an error with a public text and a private cause for the log.
func Wrap(cause error, code Code, format string, args ...any) *Error {
	return &Error{Code: code, Detail: fmt.Sprintf(format, args...), cause: cause}
}

// Retry returns e with RetryAfter set.
func (e *Error) Retry(after time.Duration) *Error { e.RetryAfter = after; return e }

// WithSub returns e with one more subproblem.
func (e *Error) WithSub(s Sub) *Error { e.Sub = append(e.Sub, s); return e }

// Error returns the text for logs: code, public detail and the private cause.
func (e *Error) Error() string {
	if e.cause == nil {
		return string(e.Code) + ": " + e.Detail
	}
	return string(e.Code) + ": " + e.Detail + ": " + e.cause.Error()
}

// Unwrap returns the private cause.
func (e *Error) Unwrap() error { return e.cause }

// Status returns the HTTP status code that stands for e.
func (e *Error) Status() int {
	if e.HTTPStatus != 0 {
		return e.HTTPStatus
	}
	if s, ok := status[e.Code]; ok {
		return s
	}
	return http.StatusBadRequest
}

// As returns the *Error in err's chain, or an internal error that wraps err
// and says nothing about it in public. As(nil) is nil.
func As(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Code: ServerInternal, Detail: "internal error; the server's log has the cause under this request's id", cause: err}
}

// Is reports whether err is a *Error with the given code.
func Is(err error, code Code) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == code
}
