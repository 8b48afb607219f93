package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/mldsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"io"
)

// ErrSignature means that a signature does not fit the key and the bytes.
var ErrSignature = errors.New("signature does not verify")

// DER AlgorithmIdentifiers, one per kind of signing key. The parameters are
// NULL for RSA (RFC 4055) and absent for all others (RFC 5758, 8410, 9881).
const (
	algECDSA256 = "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02"
	algECDSA384 = "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x03"
	algRSA256   = "\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b\x05\x00"
	algEd25519  = "\x30\x05\x06\x03\x2b\x65\x70"
	algMLDSA44  = "\x30\x0b\x06\x09\x60\x86\x48\x01\x65\x03\x04\x03\x11"
	algMLDSA65  = "\x30\x0b\x06\x09\x60\x86\x48\x01\x65\x03\x04\x03\x12"
	algMLDSA87  = "\x30\x0b\x06\x09\x60\x86\x48\x01\x65\x03\x04\x03\x13"
)

// SignatureAlgorithm returns the DER AlgorithmIdentifier of the one signature
// algorithm that keys of type t make, or "" for an unknown t.
func (t KeyType) SignatureAlgorithm() string {
	switch t {
	case P256:
		return algECDSA256
	case P384:
		return algECDSA384
	case RSA2048, RSA3072, RSA4096:
		return algRSA256
	case Ed25519:
		return algEd25519
	case MLDSA44:
		return algMLDSA44
	case MLDSA65:
		return algMLDSA65
	case MLDSA87:
		return algMLDSA87
	}
	return ""
}

// Hash returns the hash that a signature of type t is made over, or 0 when
// the key signs the message itself (Ed25519, ML-DSA).
func (t KeyType) Hash() crypto.Hash {
	switch t {
	case P256, RSA2048, RSA3072, RSA4096:
		return crypto.SHA256
	case P384:
		return crypto.SHA384
	}
	return 0
}

// SignTBS signs tbs with the algorithm that belongs to the signer's key (see
// KeyType.SignatureAlgorithm), hashing first where the algorithm says so.
func SignTBS(signer crypto.Signer, tbs []byte) ([]byte, error) {
	return signTBS(signer, tbs, rand.Reader)
}

// SignRepeatable does what SignTBS does, but an ECDSA key signs the same bytes
// the same way each time (RFC 6979), unless a token holds it. Such a
// signature needs no entropy and a fifth less time.
func SignRepeatable(signer crypto.Signer, tbs []byte) ([]byte, error) {
	if _, ok := signer.(*ecdsa.PrivateKey); ok {
		return signTBS(signer, tbs, nil)
	}
	return signTBS(signer, tbs, rand.Reader)
}

func signTBS(signer crypto.Signer, tbs []byte, random io.Reader) ([]byte, error) {
	kt, err := KeyTypeOf(signer.Public())
	if err != nil {
		return nil, err
	}
	sig, err := signer.Sign(random, digest(kt, tbs), kt.Hash())
	if err != nil {
		return nil, fmt.Errorf("sign with %s key: %w", kt, err)
	}
	return sig, nil
}

// digest returns what a key of type kt signs for the message tbs.
func digest(kt KeyType, tbs []byte) []byte {
	switch kt.Hash() {
	case crypto.SHA256:
		sum := sha256.Sum256(tbs)
		return sum[:]
	case crypto.SHA384:
		sum := sha512.Sum384(tbs)
		return sum[:]
	}
	return tbs
}

// VerifyTBS checks a signature that SignTBS would make. It returns
// ErrSignature when the signature is wrong and a badPublicKey fault when the
// key is of no known type.
func VerifyTBS(pub crypto.PublicKey, tbs, sig []byte) error {
	kt, err := KeyTypeOf(pub)
	if err != nil {
		return err
	}
	ok := false
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		ok = ecdsa.VerifyASN1(pub, digest(kt, tbs), sig)
	case *rsa.PublicKey:
		ok = rsa.VerifyPKCS1v15(pub, crypto.SHA256, digest(kt, tbs), sig) == nil
	case ed25519.PublicKey:
		ok = len(pub) == ed25519.PublicKeySize && ed25519.Verify(pub, tbs, sig)
	case *mldsa.PublicKey:
		ok = mldsa.Verify(pub, tbs, sig, nil) == nil
	}
	if !ok {
		return ErrSignature
	}
	return nil
}
