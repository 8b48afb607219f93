package keys

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"io"
	"math/big"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"chancery/internal/fault"
	"chancery/internal/pki"
)

// This file holds what stores share whose keys are used elsewhere: in a token
// or behind a network. Their keys are crypto.Signers that also have
//
//	SignContext(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error)
//
// which gives up when ctx ends. Signer uses it.

// bound is a key with the deadline of one request.
type bound struct {
	crypto.Signer
	ctx  context.Context
	sign func(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error)
}

// Sign implements crypto.Signer.
func (b *bound) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return b.sign(b.ctx, digest, opts)
}

// withContext returns key with the deadline of ctx, if it can have one.
func withContext(ctx context.Context, key crypto.Signer) crypto.Signer {
	if k, ok := key.(interface {
		SignContext(context.Context, []byte, crypto.SignerOpts) ([]byte, error)
	}); ok {
		return &bound{key, ctx, k.SignContext}
	}
	return key
}

// CheckDigest returns the hash that digest was made with: SHA-256, SHA-384 or
// SHA-512. Anything else, and a padding other than PKCS #1 v1.5, is refused.
func CheckDigest(digest []byte, opts crypto.SignerOpts) (crypto.Hash, error) {
	if _, ok := opts.(*rsa.PSSOptions); ok {
		return 0, fmt.Errorf("RSA-PSS is not supported")
	}
	h := opts.HashFunc()
	if h != crypto.SHA256 && h != crypto.SHA384 && h != crypto.SHA512 {
		return 0, fmt.Errorf("hash %v is not supported", h)
	}
	if len(digest) != h.Size() {
		return 0, fmt.Errorf("digest has %d octets, and %v makes %d", len(digest), h, h.Size())
	}
	return h, nil
}

// DERSignature turns r || s, the form in which tokens and some cloud services
// give an ECDSA signature, into the DER of RFC 3279 section 2.2.3. size is the
// length of one of them: 32 for P-256, 48 for P-384.
func DERSignature(raw []byte, size int) ([]byte, error) {
	if len(raw) != 2*size {
		return nil, fmt.Errorf("the ECDSA signature has %d octets instead of %d", len(raw), 2*size)
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1BigInt(new(big.Int).SetBytes(raw[:size]))
		b.AddASN1BigInt(new(big.Int).SetBytes(raw[size:]))
	})
	return b.Bytes()
}

// NoSuchKeyType is the *fault.Error (invalid) of a store that cannot make keys
// of type kt.
func NoSuchKeyType(store string, kt pki.KeyType) error {
	return fault.New(fault.Invalid, "%s cannot make %s keys; choose another key type", store, kt)
}

// Prove makes key sign a random message and verifies the signature: the key is
// there, may sign, and is the one of its public key. The message cannot be
// taken for a certificate, a CRL or an OCSP answer.
func Prove(ctx context.Context, key crypto.Signer) error {
	message := append([]byte("chancery: proof of a key\x00"), make([]byte, 32)...)
	rand.Read(message[len(message)-32:])
	sig, err := pki.SignTBS(withContext(ctx, key), message)
	if err != nil {
		return err
	}
	return pki.VerifyTBS(key.Public(), message, sig)
}
