// Package issuer obtains certificates from certificate authorities of any
// kind: our own, any ACME CA, step-ca, Vault, commercial APIs, a program.
//
// A kind is a folder below this one that exports a Kind and one line in
// internal/app/kinds.go. Kinds hold no tables and no schedule: the renewal
// engine decides when to ask, keeps the state of every issuance, and accounts
// for the limits of each CA. A kind knows how to talk to its CA, and says what
// went wrong in the words of Class.
package issuer

import (
	"context"
	"crypto/x509"
	"log/slog"
	"time"

	"chancery/internal/pki"
)

// Issuer is one configured CA account. Its methods are safe for concurrent
// use.
type Issuer interface {
	// Issue drives one issuance as far as it goes without waiting longer than
	// the context and a short poll allow. It returns the chain, or a Reply
	// that says when to ask again (an asynchronous CA, a slow validation), or
	// an error, an *Error where the class is known. It resumes from
	// Request.State: the same state twice never makes two certificates where
	// the CA lets that be told.
	Issue(ctx context.Context, r *Request) (Reply, error)
}

// Informer is an Issuer whose CA says when to renew (RFC 9773).
type Informer interface {
	// RenewalInfo returns the window of a certificate that this issuer made.
	RenewalInfo(ctx context.Context, leaf *x509.Certificate) (RenewalInfo, error)
}

// Revoker is an Issuer that can revoke what it issued.
type Revoker interface {
	// Revoke revokes leaf for an RFC 5280 section 5.3.1 reason. Revoking twice
	// is no error.
	Revoke(ctx context.Context, leaf *x509.Certificate, reason int) error
}

// Checker is an Issuer that can say, without issuing anything, whether its
// configuration works (credentials, reachability, account).
type Checker interface {
	Check(ctx context.Context) error
}

// Request is one certificate to be issued.
type Request struct {
	// ID names this issuance for ever: the idempotency key at CAs that know
	// one. 1 to 64 characters of [a-z0-9-].
	ID          string
	CSR         []byte           // PKCS #10, DER; signed by the subject's key
	Identifiers []pki.Identifier // what the CSR asks for, in canonical form, sorted
	Profile     string           // profile or product at the CA; "" = its default
	NotAfter    time.Time        // zero = as long as the CA gives
	Replaces    []byte           // DER of the predecessor if this issuer made it, or nil (RFC 9773 section 5)
	Urgent      bool             // somebody waits: nothing is delayed to be batched with others

	// State is what an earlier, interrupted call saved last; zero at first.
	State State
	// Save commits the state durably. An Issuer calls it before each side
	// effect that a repetition must know of, and stops with its error: the
	// lease was lost.
	Save func(ctx context.Context, s State) error
}

// State is where an issuance stands: a word for people and an opaque text, at
// most 64 KB, for the kind that wrote it. It never holds a private key.
type State struct {
	Step string // e.g. "ordered", "posted", "ready", "finalizing", "pending"
	Data []byte // JSON of the kind
}

// Reply is the outcome of Issue: exactly one of Chain and PollAt is set.
type Reply struct {
	Chain  [][]byte  // DER, leaf first, without the root when it is known to be one
	PollAt time.Time // not ready: call again then, with the saved state
}

// RenewalInfo is a CA's answer about one certificate (RFC 9773 section 4.2).
type RenewalInfo struct {
	Start, End  time.Time // of the suggested window
	Explanation string    // URL for people, or ""
	RetryAfter  time.Time // ask again then; zero = the caller's default
}

// Class says what has to wait after a failure.
type Class string

// The classes of failure.
const (
	Throttled   Class = "throttled"   // the CA limits this account: its budget waits, not the certificate alone
	Unavailable Class = "unavailable" // the CA is down or unreachable: breaker, then the fallback CA
	Validation  Class = "validation"  // the CA could not validate a name: this certificate waits, longer each time
	Provider    Class = "provider"    // our DNS provider or responder failed: breaker of that provider
	Permanent   Class = "permanent"   // it will not work until somebody changes something: stop and alert
	Mismatch    Class = "mismatch"    // the certificate is not for our key or names: never deployed
)

// Error is a failure whose class is known.
type Error struct {
	Class      Class
	RetryAfter time.Duration // what the CA asked for; 0 = not said
	Provider   string        // with class Provider: whose account, e.g. "dns/route53-main"
	Identifier string        // with class Validation: the name, if known
	Pending    bool          // with class Permanent: the CA may issue yet; the state is kept until somebody asks again
	Err        error         // the cause
}

// Error implements error.
func (e *Error) Error() string { return string(e.Class) + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Kind is a plug-in: how to describe, configure and open issuers of one sort.
type Kind struct {
	Name   string // as configuration writes it, e.g. "acme"
	Doc    string // one sentence
	Config func() any
	// Open checks a configuration that came from Config and returns the
	// issuer. It does no I/O over the network.
	Open func(env Env, config any) (Issuer, error)
}

// Env is what the program gives every issuer.
type Env struct {
	Name string       // of the issuer in the configuration: labels, errors
	Log  *slog.Logger // never nil
	// Keep and Kept store a small secret or document of this issuer (an ACME
	// account key and URL), sealed at rest. Kept returns nil when there is
	// none.
	Keep func(ctx context.Context, name string, value []byte) error
	Kept func(ctx context.Context, name string) ([]byte, error)
	// Solver presents challenges for kinds that need it; nil when none is
	// configured.
	Solver Solver
	// Deadline is how long a CA that answers later may take, for issuers that
	// do not say so themselves; 0 = DefaultDeadline.
	Deadline time.Duration
}

// DefaultDeadline is how long a CA may take when nobody says otherwise.
const DefaultDeadline = 10 * time.Minute

// Solver presents the responses to ACME challenges of many orders together.
// One value serves all issuers, so that names of one DNS zone share a change.
type Solver interface {
	// Present makes every response visible to the CA's validators and waits
	// until it is, or fails as a whole. The returned function removes them;
	// it may be called later and does its work in the background.
	Present(ctx context.Context, responses []Response) (clean func(), err error)
	// Methods returns the challenge types that can be presented for id, best
	// first.
	Methods(id pki.Identifier) []string
}

// Response is what one challenge wants to be seen.
type Response struct {
	Type             string // "http-01", "dns-01", "tls-alpn-01", "dns-account-01", "dns-persist-01"
	Identifier       pki.Identifier
	Token            string // RFC 8555 section 8.3
	KeyAuthorization string // RFC 8555 section 8.1
	// Record is the full DNS name and Value the TXT value for the DNS types;
	// both are "" otherwise. For dns-persist-01 Value has one record that would
	// do per line.
	Record, Value string
	Urgent        bool // do not wait for others to share a change with
}
