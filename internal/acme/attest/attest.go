// Package attest verifies what a device says about itself and its key: the
// WebAuthn attestation objects of device-attest-01
// (draft-ietf-acme-device-attest-10), in the formats apple, tpm, android-key
// and step. It is pure: bytes, roots and an instant in, a result or a refusal
// out.
//
// Objects come from whoever asks for a certificate. They are bounded, read
// strictly (no indefinite lengths, no tags, no key twice), and a format whose
// roots the operator did not name is refused.
package attest

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/asn1"
	"slices"
	"time"

	"github.com/fxamacker/cbor/v2"

	"chancery/internal/fault"
	"chancery/internal/pki"
)

// Format is an attestation statement format (IANA registry "WebAuthn
// Attestation Statement Format Identifiers", and step's own).
type Format string

// Formats of this package.
const (
	Apple      Format = "apple"       // Managed Device Attestation
	TPM        Format = "tpm"         // WebAuthn section 8.3
	AndroidKey Format = "android-key" // WebAuthn section 8.4
	Step       Format = "step"        // certificate chain and signature, as step-ca's clients send
)

// Formats lists all of them.
var Formats = []Format{Apple, TPM, AndroidKey, Step}

// Policy says whose attestations count: the trust anchors of each format. A
// format that is absent is refused.
type Policy struct {
	Roots map[Format][]*x509.Certificate
}

// Trusts reports whether p has a root with this SHA-256 for a format. Nil
// trusts nothing.
func (p *Policy) Trusts(f Format, root [32]byte) bool {
	return p != nil && slices.ContainsFunc(p.Roots[f], func(c *x509.Certificate) bool { return sha256.Sum256(c.Raw) == root })
}

// Challenge is what an attestation must be about.
type Challenge struct {
	Token            string
	KeyAuthorization string // Token + "." + thumbprint of the account's key
}

// Result is an attestation that verified.
type Result struct {
	Format Format
	Key    [32]byte // SHA-256 of the attested key's SubjectPublicKeyInfo
	Root   [32]byte // SHA-256 of the trust anchor
	Names  []pki.Identifier
}

// Attests reports whether the attestation says that the device, or the module
// that holds the key, is id: octet for octet, assigner and all.
func (r *Result) Attests(id pki.Identifier) bool { return slices.Contains(r.Names, id) }

// Bounds of an object. A TPM's, with a chain of RSA certificates, takes 6 KB.
const (
	MaxObject = 48 << 10
	maxCerts  = 8
)

// decoding is strict CTAP2-like CBOR.
var decoding = func() cbor.DecMode {
	m, err := cbor.DecOptions{DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden,
		MaxNestedLevels: 8, MaxArrayElements: 64, MaxMapPairs: 64, UTF8: cbor.UTF8RejectInvalid,
		FieldNameMatching: cbor.FieldNameMatchingCaseSensitive}.DecMode()
	if err != nil {
		return nil // the options are constants, and a test decodes with them
	}
	return m
}()

// object is a WebAuthn attestation object. authData has no meaning here
// (section 5) and is not looked at.
type object struct {
	Format    Format          `cbor:"fmt"`
	Statement cbor.RawMessage `cbor:"attStmt"`
}

// statement has the members of every format's attStmt.
type statement struct {
	Version  string   `cbor:"ver"`
	Alg      int64    `cbor:"alg"`
	Chain    [][]byte `cbor:"x5c"`
	Sig      []byte   `cbor:"sig"`
	CertInfo []byte   `cbor:"certInfo"`
	PubArea  []byte   `cbor:"pubArea"`
}

// bad is a refusal that the applicant may read.
func bad(format string, args ...any) error {
	return fault.New(fault.BadAttestationStatement, "the attestation is not acceptable: "+format, args...)
}

// Verify checks an attestation object at now. Every error is a *fault.Error of
// code badAttestationStatement.
func Verify(obj []byte, c Challenge, p *Policy, now time.Time) (*Result, error) {
	if len(obj) == 0 || len(obj) > MaxObject {
		return nil, bad("it has %d octets; 1 to %d are allowed", len(obj), MaxObject)
	}
	var o object
	var s statement
	if err := decoding.Unmarshal(obj, &o); err != nil {
		return nil, bad("it is not a CBOR map with fmt and attStmt in definite lengths")
	}
	if p == nil || len(p.Roots[o.Format]) == 0 {
		return nil, bad("the format %.32q is not accepted here", string(o.Format))
	}
	if err := decoding.Unmarshal(o.Statement, &s); err != nil {
		return nil, bad("its attStmt does not have the members of the format %s", o.Format)
	}
	chain, err := s.chain()
	if err != nil {
		return nil, err
	}
	root, err := trust(chain, p.Roots[o.Format], now)
	if err != nil {
		return nil, err
	}
	r := &Result{Format: o.Format, Root: root}
	switch o.Format {
	case Apple:
		err = r.apple(chain, c)
	case TPM:
		err = r.tpm(&s, chain, c)
	case AndroidKey:
		err = r.android(&s, chain, c)
	case Step:
		err = r.step(&s, chain, c)
	default:
		err = bad("the format %.32q is not known", string(o.Format))
	}
	if err != nil {
		return nil, err
	}
	if len(r.Names) == 0 {
		return nil, bad("it names no device")
	}
	return r, nil
}

// chain parses x5c, the leaf first.
func (s *statement) chain() ([]*x509.Certificate, error) {
	if len(s.Chain) == 0 || len(s.Chain) > maxCerts {
		return nil, bad("x5c has %d certificates; 1 to %d are allowed", len(s.Chain), maxCerts)
	}
	list := make([]*x509.Certificate, len(s.Chain))
	for i, der := range s.Chain {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, bad("certificate %d of x5c cannot be parsed", i+1)
		}
		list[i] = cert
	}
	return list, nil
}

var oidSAN = asn1.ObjectIdentifier{2, 5, 29, 17}

// trust verifies a chain and returns the hash of the trust anchor.
func trust(chain, roots []*x509.Certificate, now time.Time) (root [32]byte, err error) {
	leaf := *chain[0]
	// Attestation keys of TPMs have a critical subjectAltName of names that
	// package x509 does not know, and we read.
	leaf.UnhandledCriticalExtensions = slices.DeleteFunc(slices.Clone(leaf.UnhandledCriticalExtensions), oidSAN.Equal)
	opts := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	for _, c := range roots {
		opts.Roots.AddCert(c)
	}
	for _, c := range chain[1:] {
		opts.Intermediates.AddCert(c)
	}
	if slices.ContainsFunc(roots, leaf.Equal) {
		return root, bad("its certificate is a trust anchor itself")
	}
	chains, err := leaf.Verify(opts)
	if err != nil {
		return root, bad("its certificate does not chain to a root that is accepted for the format, or is not valid now")
	}
	return sha256.Sum256(chains[0][len(chains[0])-1].Raw), nil
}

// extension returns the value of an extension of a certificate, or nil.
func extension(c *x509.Certificate, oid asn1.ObjectIdentifier) []byte {
	for _, e := range c.Extensions {
		if e.Id.Equal(oid) {
			return e.Value
		}
	}
	return nil
}

// same compares without telling where two texts differ.
func same(a, b []byte) bool { return subtle.ConstantTimeCompare(a, b) == 1 }

// permanent adds the identity of a device, unless it is none that could be
// ordered.
func (r *Result) permanent(value string) {
	if id, err := pki.ParseIdentifier(pki.PermanentIdentifier, value); err == nil {
		r.Names = append(r.Names, id)
	}
}
