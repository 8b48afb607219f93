package acme

import (
	"crypto"
	"slices"
)

// Algorithm is a JWS "alg" value (RFC 7518 section 3.1, RFC 8037, RFC 9864,
// RFC 9964).
type Algorithm string

// Signature algorithms for account and certificate keys (RFC 8555 section 6.2).
const (
	ES256   Algorithm = "ES256"
	ES384   Algorithm = "ES384"
	RS256   Algorithm = "RS256"
	EdDSA   Algorithm = "EdDSA"   // Ed25519 under its first name (RFC 8037)
	Ed25519 Algorithm = "Ed25519" // the same under its precise name (RFC 9864)
	MLDSA44 Algorithm = "ML-DSA-44"
	MLDSA65 Algorithm = "ML-DSA-65"
	MLDSA87 Algorithm = "ML-DSA-87"
)

// MAC algorithms, valid only inside an external account binding (RFC 8555
// section 7.3.4) and refused everywhere else.
const (
	HS256 Algorithm = "HS256"
	HS384 Algorithm = "HS384"
	HS512 Algorithm = "HS512"
)

// Algorithms returns the signature algorithms that Valid accepts, in the order
// shown to clients in a badSignatureAlgorithm problem.
func Algorithms() []Algorithm {
	return []Algorithm{ES256, ES384, EdDSA, Ed25519, RS256, MLDSA44, MLDSA65, MLDSA87}
}

// Valid reports whether a is a signature algorithm for an account key. It is
// false for MAC algorithms and for "none".
func (a Algorithm) Valid() bool {
	switch a {
	case ES256, ES384, RS256, EdDSA, Ed25519, MLDSA44, MLDSA65, MLDSA87:
		return true
	}
	return false
}

// mac returns the hash of a MAC algorithm; ok is false for any other.
func (a Algorithm) mac() (h crypto.Hash, ok bool) {
	switch a {
	case HS256:
		return crypto.SHA256, true
	case HS384:
		return crypto.SHA384, true
	case HS512:
		return crypto.SHA512, true
	}
	return 0, false
}

// algorithmNames renders algs for a public error or problem document.
func algorithmNames(algs []Algorithm) []string {
	names := make([]string, 0, len(algs))
	for _, a := range algs {
		names = append(names, string(a))
	}
	return slices.Clip(names)
}
