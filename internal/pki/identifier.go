// Package pki holds the pure vocabulary of certificates: identifiers, serial
// numbers, key types, CSR checks, and the DER encoders of certificates, CRLs
// and OCSP answers. Nothing here does I/O or asks for the time.
package pki

// IdentifierType is an ACME identifier type (RFC 8555 section 9.7.7).
type IdentifierType string

// Identifier types that Chancery issues for.
const (
	DNS IdentifierType = "dns" // RFC 8555; value is a lower-case A-label name, "*." allowed at the left
	IP  IdentifierType = "ip"  // RFC 8738; value is the canonical text form (RFC 5952 for IPv6)
)

// Valid reports whether t is a known identifier type.
func (t IdentifierType) Valid() bool { return t == DNS || t == IP }

// Identifier is one subject that a certificate speaks for.
type Identifier struct {
	Type  IdentifierType `json:"type"`
	Value string         `json:"value"`
}

// String returns "type:value".
func (id Identifier) String() string { return string(id.Type) + ":" + id.Value }
