package keys

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"fmt"

	"chancery/internal/pki"
)

// Signer is a private key that signs TBSCertificates, CRLs and OCSP answers.
// It is safe for concurrent use.
type Signer struct {
	key     crypto.Signer
	keyType pki.KeyType
	spki    []byte
	log     func(tbsHash [32]byte) error
}

// NewSigner wraps a key. The log function, unless nil, is called with the
// SHA-256 of the signed bytes after every signature and before it is handed
// out: a signature that could not be logged does not leave the process. It
// must be safe for concurrent use.
func NewSigner(key crypto.Signer, log func(tbsHash [32]byte) error) (*Signer, error) {
	kt, err := pki.KeyTypeOf(key.Public())
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("encode public key: %w", err)
	}
	return &Signer{key: key, keyType: kt, spki: spki, log: log}, nil
}

// Public returns the public key.
func (s *Signer) Public() crypto.PublicKey { return s.key.Public() }

// KeyType returns the type of the key.
func (s *Signer) KeyType() pki.KeyType { return s.keyType }

// SPKI returns the DER SubjectPublicKeyInfo, which must not be changed.
func (s *Signer) SPKI() []byte { return s.spki }

// SignTBS signs tbs as pki.SignTBS does and logs the signature. It does not
// verify it; that is a step of its own in issuance (pki.VerifyTBS).
func (s *Signer) SignTBS(ctx context.Context, tbs []byte) ([]byte, error) {
	return s.sign(ctx, tbs, pki.SignTBS)
}

// SignRepeatable does the same as pki.SignRepeatable does.
func (s *Signer) SignRepeatable(ctx context.Context, tbs []byte) ([]byte, error) {
	return s.sign(ctx, tbs, pki.SignRepeatable)
}

func (s *Signer) sign(ctx context.Context, tbs []byte, with func(crypto.Signer, []byte) ([]byte, error)) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	sig, err := with(withContext(ctx, s.key), tbs)
	if err != nil {
		return nil, err
	}
	if s.log != nil {
		if err := s.log(sha256.Sum256(tbs)); err != nil {
			return nil, fmt.Errorf("log signature: %w", err)
		}
	}
	return sig, nil
}
