package keys

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"sync"

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

// Throwaways holds one key per type whose only use is to sign certificates
// that a linter looks at and nobody trusts. Keys are made on first use and
// live as long as the process. The zero value is ready, and safe for
// concurrent use.
type Throwaways struct {
	mu   sync.Mutex
	made map[pki.KeyType]func() (*Signer, error)
}

// Signer returns the throw-away key of type kt. Concurrent first calls wait
// for one generation, which takes a while for RSA.
func (t *Throwaways) Signer(kt pki.KeyType) (*Signer, error) {
	t.mu.Lock()
	if t.made == nil {
		t.made = make(map[pki.KeyType]func() (*Signer, error))
	}
	once, ok := t.made[kt]
	if !ok {
		once = sync.OnceValues(func() (*Signer, error) { return newThrowaway(kt) })
		t.made[kt] = once
	}
	t.mu.Unlock()
	return once()
}

func newThrowaway(kt pki.KeyType) (*Signer, error) {
	key, err := Generate(kt)
	if err != nil {
		return nil, err
	}
	return NewSigner(key, nil)
}
