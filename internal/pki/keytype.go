package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/mldsa"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"chancery/internal/fault"
)

// KeyType names a kind of key pair as users write it in flags and config.
type KeyType string

// Key types for authorities and subjects.
const (
	P256    KeyType = "p256"
	P384    KeyType = "p384"
	RSA2048 KeyType = "rsa2048"
	RSA3072 KeyType = "rsa3072"
	RSA4096 KeyType = "rsa4096"
	Ed25519 KeyType = "ed25519"
	MLDSA44 KeyType = "ml-dsa-44"
	MLDSA65 KeyType = "ml-dsa-65"
	MLDSA87 KeyType = "ml-dsa-87"
)

// KeyTypes lists every key type, in the order shown to users.
var KeyTypes = []KeyType{P256, P384, RSA2048, RSA3072, RSA4096, Ed25519, MLDSA44, MLDSA65, MLDSA87}

// Valid reports whether t is a known key type.
func (t KeyType) Valid() bool { return slices.Contains(KeyTypes, t) }

// RSA reports whether t is an RSA key of any size.
func (t KeyType) RSA() bool { return t == RSA2048 || t == RSA3072 || t == RSA4096 }

// PostQuantum reports whether t is an ML-DSA key of any size.
func (t KeyType) PostQuantum() bool { return t == MLDSA44 || t == MLDSA65 || t == MLDSA87 }

// KeyTypeOf returns the key type of a public key as crypto/x509 parses it, or
// a *fault.Error (badPublicKey) that says which keys are accepted.
func KeyTypeOf(pub crypto.PublicKey) (KeyType, error) {
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		switch pub.Curve {
		case elliptic.P256():
			return P256, nil
		case elliptic.P384():
			return P384, nil
		}
	case *rsa.PublicKey:
		switch pub.N.BitLen() {
		case 2048:
			return RSA2048, nil
		case 3072:
			return RSA3072, nil
		case 4096:
			return RSA4096, nil
		}
	case ed25519.PublicKey:
		return Ed25519, nil
	case *mldsa.PublicKey:
		return mldsaType(pub.Parameters()), nil
	}
	return "", fault.New(fault.BadPublicKey, "%s keys are not accepted; use ECDSA P-256 or P-384, RSA of 2048, 3072 or 4096 bits, Ed25519 or ML-DSA", KeyDescription(pub))
}

func mldsaType(p mldsa.Parameters) KeyType {
	switch p {
	case mldsa.MLDSA44():
		return MLDSA44
	case mldsa.MLDSA65():
		return MLDSA65
	}
	return MLDSA87
}

// KeyDescription names any public key in the style of KeyType ("p521",
// "rsa1024"), including those that Chancery would never certify; inventories
// show it. Kinds of key that crypto/x509 does not know are "unknown".
func KeyDescription(pub crypto.PublicKey) string {
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		switch size := pub.Curve.Params().BitSize; size {
		case 256:
			return string(P256)
		case 384:
			return string(P384)
		default:
			return fmt.Sprintf("p%d", size)
		}
	case *rsa.PublicKey:
		return fmt.Sprintf("rsa%d", pub.N.BitLen())
	case ed25519.PublicKey:
		return string(Ed25519)
	case *mldsa.PublicKey:
		return string(mldsaType(pub.Parameters()))
	}
	return "unknown"
}

// SPKIHash returns the SHA-256 of a DER SubjectPublicKeyInfo: the name of a
// key in block lists and the inventory.
func SPKIHash(spki []byte) [32]byte { return sha256.Sum256(spki) }

// Fingerprint returns the SHA-256 of a DER certificate.
func Fingerprint(der []byte) [32]byte { return sha256.Sum256(der) }

// KeyID returns a subject key identifier for a DER SubjectPublicKeyInfo: the
// left-most 160 bits of the SHA-256 of the key bits (RFC 7093 method 1).
func KeyID(spki []byte) ([]byte, error) {
	bits, err := keyBits(spki)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(bits)
	return sum[:20], nil
}

// keyBits returns the content of the BIT STRING in a SubjectPublicKeyInfo,
// without the octet that counts unused bits.
func keyBits(spki []byte) ([]byte, error) {
	var info, algorithm cryptobyte.String
	var bits []byte
	in := cryptobyte.String(spki)
	if !in.ReadASN1(&info, asn1.SEQUENCE) || !in.Empty() ||
		!info.ReadASN1(&algorithm, asn1.SEQUENCE) || !info.ReadASN1BitStringAsBytes(&bits) || !info.Empty() {
		return nil, fault.New(fault.BadPublicKey, "the public key is not a DER SubjectPublicKeyInfo")
	}
	return bits, nil
}
