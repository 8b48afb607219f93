// Package keys makes, stores, loads and uses private keys. Nothing outside it
// sees key material: others hold a reference string and a Signer.
//
// The default store is a directory of PKCS #8 files encrypted with one
// passphrase (FileStore). The same passphrase protects a master key, with
// which small secrets that live in the database are sealed (Sealer).
package keys

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/mldsa"
	"crypto/rand"
	"crypto/rsa"
	"fmt"

	"chancery/internal/pki"
)

// Generate returns a new private key. The concrete types are those of the
// standard library; ML-DSA is crypto/mldsa.
func Generate(kt pki.KeyType) (crypto.Signer, error) {
	signer, err := generate(kt)
	if err != nil {
		return nil, fmt.Errorf("generate %s key: %w", kt, err)
	}
	return signer, nil
}

func generate(kt pki.KeyType) (crypto.Signer, error) {
	switch kt {
	case pki.P256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case pki.P384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case pki.RSA2048:
		return rsa.GenerateKey(rand.Reader, 2048)
	case pki.RSA3072:
		return rsa.GenerateKey(rand.Reader, 3072)
	case pki.RSA4096:
		return rsa.GenerateKey(rand.Reader, 4096)
	case pki.Ed25519:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	case pki.MLDSA44:
		return mldsa.GenerateKey(mldsa.MLDSA44())
	case pki.MLDSA65:
		return mldsa.GenerateKey(mldsa.MLDSA65())
	case pki.MLDSA87:
		return mldsa.GenerateKey(mldsa.MLDSA87())
	}
	return nil, fmt.Errorf("unknown key type %q", string(kt))
}
