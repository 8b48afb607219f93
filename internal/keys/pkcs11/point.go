package pkcs11

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"math/big"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Curves as CKA_EC_PARAMS holds them. Ed25519 is a name in PKCS #11 v3.0 and
// an object identifier (RFC 8410) in v3.1; tokens have one or the other.
const (
	paramsP256       = "\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07"
	paramsP384       = "\x06\x05\x2b\x81\x04\x00\x22"
	paramsEd25519    = "\x13\x0cedwards25519"
	paramsEd25519OID = "\x06\x03\x2b\x65\x70"
)

// errKey means that the token describes a key in a way that is not understood.
var errKey = errors.New("the token's description of the public key is not understood")

// ecKey makes a public key of CKA_EC_PARAMS and CKA_EC_POINT. The point is a
// DER OCTET STRING; some tokens leave the wrapping away.
func ecKey(params, point []byte) (crypto.PublicKey, error) {
	raw := point
	s, inner := cryptobyte.String(point), cryptobyte.String(nil)
	if s.ReadASN1(&inner, asn1.OCTET_STRING) && s.Empty() {
		raw = inner
	}
	switch string(params) {
	case paramsP256:
		return ecPoint(elliptic.P256(), raw)
	case paramsP384:
		return ecPoint(elliptic.P384(), raw)
	case paramsEd25519, paramsEd25519OID:
		if len(raw) != ed25519.PublicKeySize {
			return nil, errKey
		}
		return ed25519.PublicKey(raw), nil
	}
	return nil, errKey
}

func ecPoint(curve elliptic.Curve, raw []byte) (crypto.PublicKey, error) {
	key, err := ecdsa.ParseUncompressedPublicKey(curve, raw)
	if err != nil {
		return nil, errors.Join(errKey, err)
	}
	return key, nil
}

// rsaKey makes a public key of CKA_MODULUS and CKA_PUBLIC_EXPONENT.
func rsaKey(modulus, exponent []byte) (crypto.PublicKey, error) {
	e := new(big.Int).SetBytes(exponent)
	if !e.IsInt64() || e.Int64() < 3 || e.Int64() > 1<<31-1 || len(modulus) > 1024 {
		return nil, errKey
	}
	return &rsa.PublicKey{N: new(big.Int).SetBytes(modulus), E: int(e.Int64())}, nil
}
