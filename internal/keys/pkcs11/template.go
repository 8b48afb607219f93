//go:build pkcs11 && cgo

package pkcs11

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"fmt"
	"math/big"

	lib "github.com/miekg/pkcs11"
	"golang.org/x/crypto/cryptobyte"

	"chancery/internal/fault"
	"chancery/internal/pki"
)

// Of PKCS #11 v3.0, which the headers of the Go module lack.
const (
	ckkECEdwards       = 0x40
	ckmECEdwardsKeyGen = 0x1055
	ckmEdDSA           = 0x1057
)

// kind is how keys of a type are made and used in a token.
type kind struct {
	generate uint
	sign     uint
	params   string // CKA_EC_PARAMS; "" for RSA
	bits     int    // of RSA
}

var kinds = map[pki.KeyType]kind{
	pki.P256:    {lib.CKM_EC_KEY_PAIR_GEN, lib.CKM_ECDSA, paramsP256, 0},
	pki.P384:    {lib.CKM_EC_KEY_PAIR_GEN, lib.CKM_ECDSA, paramsP384, 0},
	pki.RSA2048: {lib.CKM_RSA_PKCS_KEY_PAIR_GEN, lib.CKM_RSA_PKCS, "", 2048},
	pki.RSA3072: {lib.CKM_RSA_PKCS_KEY_PAIR_GEN, lib.CKM_RSA_PKCS, "", 3072},
	pki.RSA4096: {lib.CKM_RSA_PKCS_KEY_PAIR_GEN, lib.CKM_RSA_PKCS, "", 4096},
	pki.Ed25519: {ckmECEdwardsKeyGen, ckmEdDSA, paramsEd25519, 0},
}

// identity is what names an object for good.
func identity(name string, id []byte) []*lib.Attribute {
	return []*lib.Attribute{lib.NewAttribute(lib.CKA_TOKEN, true), lib.NewAttribute(lib.CKA_LABEL, name), lib.NewAttribute(lib.CKA_ID, id)}
}

// private are the attributes of a private key that signs and stays.
func private(name string, id []byte) []*lib.Attribute {
	return append(identity(name, id), lib.NewAttribute(lib.CKA_PRIVATE, true), lib.NewAttribute(lib.CKA_SENSITIVE, true),
		lib.NewAttribute(lib.CKA_EXTRACTABLE, false), lib.NewAttribute(lib.CKA_SIGN, true))
}

// public are the attributes of its public half.
func public(name string, id []byte) []*lib.Attribute {
	return append(identity(name, id), lib.NewAttribute(lib.CKA_PRIVATE, false), lib.NewAttribute(lib.CKA_VERIFY, true))
}

// shape are the attributes of a new public key that say how large it is.
func (k kind) shape() []*lib.Attribute {
	if k.params != "" {
		return []*lib.Attribute{lib.NewAttribute(lib.CKA_EC_PARAMS, []byte(k.params))}
	}
	return []*lib.Attribute{lib.NewAttribute(lib.CKA_MODULUS_BITS, k.bits), lib.NewAttribute(lib.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1})}
}

// object are the attributes of class and type of an imported key.
func object(class, keyType uint) []*lib.Attribute {
	return []*lib.Attribute{lib.NewAttribute(lib.CKA_CLASS, class), lib.NewAttribute(lib.CKA_KEY_TYPE, keyType)}
}

// halves returns the attributes of both halves of a key to import, without
// those that name it.
func halves(key crypto.Signer) (priv, pub []*lib.Attribute, err error) {
	switch key := key.(type) {
	case *ecdsa.PrivateKey:
		return ecHalves(key)
	case *rsa.PrivateKey:
		key.Precompute()
		if len(key.Primes) != 2 {
			return nil, nil, fault.New(fault.Invalid, "an RSA key with %d primes cannot be imported", len(key.Primes))
		}
		n := lib.NewAttribute(lib.CKA_MODULUS, key.N.Bytes())
		e := lib.NewAttribute(lib.CKA_PUBLIC_EXPONENT, big.NewInt(int64(key.E)).Bytes())
		priv = append(object(lib.CKO_PRIVATE_KEY, lib.CKK_RSA), n, e,
			lib.NewAttribute(lib.CKA_PRIVATE_EXPONENT, key.D.Bytes()),
			lib.NewAttribute(lib.CKA_PRIME_1, key.Primes[0].Bytes()), lib.NewAttribute(lib.CKA_PRIME_2, key.Primes[1].Bytes()),
			lib.NewAttribute(lib.CKA_EXPONENT_1, key.Precomputed.Dp.Bytes()), lib.NewAttribute(lib.CKA_EXPONENT_2, key.Precomputed.Dq.Bytes()),
			lib.NewAttribute(lib.CKA_COEFFICIENT, key.Precomputed.Qinv.Bytes()))
		return priv, append(object(lib.CKO_PUBLIC_KEY, lib.CKK_RSA), n, e), nil
	case ed25519.PrivateKey:
		params := lib.NewAttribute(lib.CKA_EC_PARAMS, []byte(paramsEd25519))
		point := lib.NewAttribute(lib.CKA_EC_POINT, octets(key.Public().(ed25519.PublicKey)))
		return append(object(lib.CKO_PRIVATE_KEY, ckkECEdwards), params, lib.NewAttribute(lib.CKA_VALUE, key.Seed())),
			append(object(lib.CKO_PUBLIC_KEY, ckkECEdwards), params, point), nil
	}
	return nil, nil, fault.New(fault.Invalid, "keys of this type cannot be imported into a PKCS #11 token")
}

func ecHalves(key *ecdsa.PrivateKey) (priv, pub []*lib.Attribute, err error) {
	kt, err := pki.KeyTypeOf(key.Public())
	if err != nil {
		return nil, nil, err
	}
	value, err := key.Bytes()
	if err != nil {
		return nil, nil, fmt.Errorf("import key: %w", err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		return nil, nil, fmt.Errorf("import key: %w", err)
	}
	params := lib.NewAttribute(lib.CKA_EC_PARAMS, []byte(kinds[kt].params))
	return append(object(lib.CKO_PRIVATE_KEY, lib.CKK_EC), params, lib.NewAttribute(lib.CKA_VALUE, value)),
		append(object(lib.CKO_PUBLIC_KEY, lib.CKK_EC), params, lib.NewAttribute(lib.CKA_EC_POINT, octets(point))), nil
}

// octets wraps b in a DER OCTET STRING, as CKA_EC_POINT wants it.
func octets(b []byte) []byte {
	var out cryptobyte.Builder
	out.AddASN1OctetString(b)
	return out.BytesOrPanic() // a point is short
}
