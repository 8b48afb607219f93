// Package challenge proves that whoever asks for a certificate controls the
// identifier: http-01 and dns-01 (RFC 8555 section 8), tls-alpn-01 (RFC 8737),
// dns-account-01 and dns-persist-01 (drafts), IP identifiers (RFC 8738), and the CAA check (RFC 8659, RFC 8657) that goes
// with every issuance.
//
// Everything that arrives here is hostile: the identifier's own servers, its
// DNS, and the applicant. Answers are bounded, compared byte for byte, and
// never repeated to the applicant but escaped and shortened. A Proof can only
// be made by a validator of this package, so code that issues on a Proof
// cannot be reached with an invented one.
package challenge

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"time"

	"chancery/internal/fault"
	"chancery/internal/pki"
)

// Type is an ACME validation method (IANA registry "ACME Validation Methods").
type Type string

// Validation methods of this package, in the order in which an authorization
// must list them: some clients give up at the first challenge they do not know.
const (
	HTTP01    Type = "http-01"     // RFC 8555 section 8.3
	DNS01     Type = "dns-01"      // RFC 8555 section 8.4
	TLSALPN01 Type = "tls-alpn-01" // RFC 8737

	DNSAccount01 Type = "dns-account-01" // draft-ietf-acme-dns-account-label-03
	DNSPersist01 Type = "dns-persist-01" // draft-ietf-acme-dns-persist-02

	DeviceAttest01 Type = "device-attest-01" // draft-ietf-acme-device-attest-10

	TKAuth01 Type = "tkauth-01" // RFC 9447

	EmailReply00 Type = "email-reply-00" // RFC 8823
)

// Late reports whether t must follow, in an authorization, the methods that
// every client knows.
func (t Type) Late() bool { return t == DNSAccount01 || t == DNSPersist01 }

// Zone reports whether t shows control of a whole domain, by a record in its
// zone, and may thus prove what is below it too (RFC 9444).
func (t Type) Zone() bool { return t == DNS01 || t == DNSAccount01 || t == DNSPersist01 }

// Request is one challenge that the applicant says is fulfilled.
type Request struct {
	Identifier       pki.Identifier // as in the order: a DNS name may begin with "*."
	Token            string         // of the challenge, base64url
	KeyAuthorization string         // Token + "." + base64url(SHA-256 JWK thumbprint)
	AccountURL       string         // whose account; becomes part of the Proof
	Subdomains       bool           // the proof is to cover what is below the name too; Type.Zone only
	Persist          *Persist       // dns-persist-01 only, in place of the two above
	Device           *Device        // device-attest-01 only

	Authority *AuthorityToken // tkauth-01 only
	Reply     *MailReply      // email-reply-00 only
}

// Validator checks one validation method.
type Validator interface {
	// Type is the method's registered name.
	Type() Type
	// Supports reports whether the method may prove id at all.
	Supports(id pki.Identifier) bool
	// Validate returns a Proof, or an error that wraps a *fault.Error whose text
	// the applicant may read, and has StepsOf. It never returns both: on error
	// the Proof is the zero value, which covers nothing.
	Validate(ctx context.Context, req Request) (Proof, error)
}

// Step is one contact made during a validation, for the record.
type Step struct {
	URL      string       `json:"url,omitempty"`               // http-01: what was fetched
	Hostname string       `json:"hostname,omitempty"`          // name resolved, or SNI
	Port     uint16       `json:"port,omitempty"`              // TCP port dialled
	Resolved []netip.Addr `json:"addressesResolved,omitempty"` // every address DNS gave
	Tried    []netip.Addr `json:"addressesTried,omitempty"`    // dialled in vain before Used
	Used     netip.Addr   `json:"addressUsed,omitzero"`        // the one that answered
	Query    string       `json:"query,omitempty"`             // DNS methods: the name asked
	Chain    []string     `json:"cnames,omitempty"`            // CNAME targets followed
}

// failure is a failed validation with what was contacted until then.
type failure struct {
	err   error // a *fault.Error
	steps []Step
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// StepsOf returns the validation record of a failed validation, for the log
// and the owner of the name: nil if nothing was contacted.
func StepsOf(err error) []Step {
	var f *failure
	if errors.As(err, &f) {
		return f.steps
	}
	return nil
}

// Proof is evidence that an account controls an identifier. Its zero value
// proves nothing; only validators of this package (and Sealer.Open) make others.
type Proof struct{ p *proof }

type proof struct {
	Identifier  pki.Identifier `json:"identifier"` // base name, never "*."
	Wildcard    bool           `json:"wildcard,omitempty"`
	Subdomains  bool           `json:"subdomains,omitempty"`
	Method      Type           `json:"method"`
	AccountURL  string         `json:"account"`
	At          time.Time      `json:"validatedAt"`
	Perspective string         `json:"perspective"`
	Until       time.Time      `json:"persistUntil,omitzero"` // when the owner of the name ends it
	Steps       []Step         `json:"validationRecord"`

	Corroboration *Corroboration `json:"corroboration,omitempty"` // nil: no remote perspective was asked
	Device        *Attested      `json:"device,omitempty"`        // nil unless Method is device-attest-01
	Token         *Vouched       `json:"token,omitempty"`         // nil unless Method is tkauth-01
}

// Valid reports whether p proves anything.
func (p Proof) Valid() bool { return p.p != nil }

// Identifier returns what was proved, without "*.".
func (p Proof) Identifier() pki.Identifier {
	if p.p == nil {
		return pki.Identifier{}
	}
	return p.p.Identifier
}

// Covers reports whether p is about exactly id (wildcard or not) and account.
func (p Proof) Covers(id pki.Identifier, accountURL string) bool {
	if p.p == nil {
		return false
	}
	base, wild := split(id)
	return p.p.Identifier == base && p.p.Wildcard == wild && p.p.AccountURL == accountURL
}

// CoversBelow reports whether p is about a domain above id, which is no
// wildcard, and was made to cover subdomains of it for this account.
func (p Proof) CoversBelow(id pki.Identifier, accountURL string) bool {
	if p.p == nil || !p.p.Subdomains || p.p.Wildcard || p.p.Identifier.Type != pki.DNS {
		return false
	}
	return id.Type == pki.DNS && !id.Wildcard() && p.p.AccountURL == accountURL && strings.HasSuffix(id.Value, "."+p.p.Identifier.Value)
}

// Subdomains reports whether p covers what is below its identifier.
func (p Proof) Subdomains() bool { return p.p != nil && p.p.Subdomains }

// Method returns the validation method used, or "".
func (p Proof) Method() Type {
	if p.p == nil {
		return ""
	}
	return p.p.Method
}

// At returns the instant of validation; DCV reuse counts from here.
func (p Proof) At() time.Time {
	if p.p == nil {
		return time.Time{}
	}
	return p.p.At
}

// Until returns the instant after which the owner of the name wants the proof
// not to count (persistUntil), zero if there is none.
func (p Proof) Until() time.Time {
	if p.p == nil {
		return time.Time{}
	}
	return p.p.Until
}

// AccountURL returns whose account was validated for, or "".
func (p Proof) AccountURL() string {
	if p.p == nil {
		return ""
	}
	return p.p.AccountURL
}

// Perspective returns where the validation ran.
func (p Proof) Perspective() string {
	if p.p == nil {
		return ""
	}
	return p.p.Perspective
}

// Steps returns the validation record; do not modify it.
func (p Proof) Steps() []Step {
	if p.p == nil {
		return nil
	}
	return p.p.Steps
}

// MarshalJSON returns the proof for a journal or a page. The text is not
// evidence: only a sealed proof can be read back (Sealer).
func (p Proof) MarshalJSON() ([]byte, error) { return json.Marshal(p.p) }

// split returns id without "*." and whether it had it.
func split(id pki.Identifier) (base pki.Identifier, wildcard bool) {
	if id.Type == pki.DNS {
		if rest, ok := strings.CutPrefix(id.Value, "*."); ok {
			return pki.Identifier{Type: pki.DNS, Value: rest}, true
		}
	}
	return id, false
}

// Registry is the validators that a server runs. Anything not in it is denied.
type Registry struct{ list []Validator }

// NewRegistry returns a registry of exactly these validators, offered in this
// order. Two validators of one type are an error: one method has one code path.
func NewRegistry(list ...Validator) (*Registry, error) {
	seen := make(map[Type]bool, len(list))
	for _, v := range list {
		if v == nil || v.Type() == "" || seen[v.Type()] {
			return nil, fault.New(fault.Invalid, "challenge types must be named, and each may be registered once")
		}
		seen[v.Type()] = true
	}
	return &Registry{list: list}, nil
}

// Offers returns the methods that may prove id, in order of registration.
func (r *Registry) Offers(id pki.Identifier) []Type {
	var types []Type
	for _, v := range r.list {
		if v.Supports(id) {
			types = append(types, v.Type())
		}
	}
	return types
}

// Supports reports whether the method t is registered and may prove id.
func (r *Registry) Supports(t Type, id pki.Identifier) bool {
	for _, v := range r.list {
		if v.Type() == t {
			return v.Supports(id)
		}
	}
	return false
}

// Validate runs the method t on req. An unknown method, or one that cannot
// prove this identifier, is refused before anything is sent.
func (r *Registry) Validate(ctx context.Context, t Type, req Request) (Proof, error) {
	for _, v := range r.list {
		if v.Type() != t {
			continue
		}
		p, err := v.Validate(ctx, req)
		if err != nil {
			return Proof{}, err
		}
		if !p.Covers(req.Identifier, req.AccountURL) || p.Method() != t || p.Subdomains() && !req.Subdomains {
			return Proof{}, fault.New(fault.ServerInternal, "the validator's result is about something else than was asked")
		}
		return p, nil
	}
	return Proof{}, fault.New(fault.Malformed, "this server has no challenge type %s", quote(string(t)))
}
