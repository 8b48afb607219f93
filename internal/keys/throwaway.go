package keys

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/mldsa"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"math/big"
	"sync"

	"chancery/internal/pki"
)

// Throwaways holds one key per type whose only use is to sign certificates
// that a linter looks at and nobody trusts. Keys are made on first use and
// live as long as the process. The zero value is ready, and safe for
// concurrent use.
//
// Nothing is secret about such a key, so its signatures may be made in ways
// that would give any other key away: ECDSA with one nonce for all, RSA with
// the two exponents exchanged. Both are signatures of the bytes they stand
// under, at a thirtieth of the cost. For ML-DSA there is no such way; there
// one signature stands under all, which has the length of every other and no
// structure to lint.
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
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		key, err = newOneNonce(k)
	case *rsa.PrivateKey:
		key = &exchanged{k}
	case *mldsa.PrivateKey:
		key, err = newOneSignature(k)
	}
	if err != nil {
		return nil, fmt.Errorf("make throw-away key: %w", err)
	}
	return NewSigner(key, nil)
}

// oneNonce is an ECDSA key that uses one nonce k for all its signatures, so
// that what costs, the point k*G and the inverse of k, is computed once.
// Whoever sees two signatures knows the key.
type oneNonce struct {
	pub   *ecdsa.PublicKey
	order *big.Int
	r     *big.Int // x of k*G
	rd    *big.Int // r times the private key
	inv   *big.Int // of k
}

func newOneNonce(key *ecdsa.PrivateKey) (*oneNonce, error) {
	nonce, err := ecdsa.GenerateKey(key.Curve, rand.Reader)
	if err != nil {
		return nil, err
	}
	d, err := key.Bytes()
	if err != nil {
		return nil, err
	}
	k, err := nonce.Bytes()
	if err != nil {
		return nil, err
	}
	point, err := nonce.PublicKey.Bytes() // 4, x, y
	if err != nil {
		return nil, err
	}
	n := order(key.Curve)
	o := &oneNonce{pub: &key.PublicKey, order: n}
	o.r = new(big.Int).SetBytes(point[1 : 1+len(point)/2])
	o.r.Mod(o.r, n)
	o.rd = new(big.Int).Mul(o.r, new(big.Int).SetBytes(d))
	o.inv = new(big.Int).ModInverse(new(big.Int).SetBytes(k), n)
	return o, nil
}

// order returns the order of a curve's base point.
func order(c elliptic.Curve) *big.Int { return c.Params().N }

// Public implements crypto.Signer.
func (o *oneNonce) Public() crypto.PublicKey { return o.pub }

// Sign implements crypto.Signer: s = (e + r*d) / k (FIPS 186-5 section 6.4.1).
// The digest is no longer than the order.
func (o *oneNonce) Sign(_ io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	s := new(big.Int).SetBytes(digest)
	s.Add(s, o.rd).Mul(s, o.inv).Mod(s, o.order)
	if s.Sign() == 0 {
		return nil, errors.New("the throw-away key cannot sign this")
	}
	// SEQUENCE of two INTEGERs, each with room for a leading zero: of P-384,
	// the largest curve here, it has at most 102 octets, so one octet tells.
	size := (o.order.BitLen() + 7) / 8
	der, half := make([]byte, 2, 2+2*(3+size)), make([]byte, size)
	der = appendInteger(appendInteger(der, o.r.FillBytes(half)), s.FillBytes(half))
	der[0], der[1] = 0x30, byte(len(der)-2)
	return der, nil
}

// appendInteger appends the DER INTEGER of a big-endian number that is not 0 and
// has fewer than 127 octets.
func appendInteger(der, b []byte) []byte {
	for b[0] == 0 {
		b = b[1:]
	}
	if b[0]&0x80 == 0 {
		return append(append(der, 2, byte(len(b))), b...)
	}
	return append(append(der, 2, byte(len(b)+1), 0), b...)
}

// exchanged is an RSA key whose short exponent is the private one and whose
// long exponent is the public one. Anybody can guess the former.
type exchanged struct{ key *rsa.PrivateKey }

// Public implements crypto.Signer. Only the modulus is right: an exponent of
// that length has no place in the type, and nobody asks for it.
func (x *exchanged) Public() crypto.PublicKey { return &x.key.PublicKey }

// sha256Info is the DER of a DigestInfo up to the hash (RFC 8017 section 9.2).
const sha256Info = "\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20"

// Sign implements crypto.Signer: RSASSA-PKCS1-v1_5 with SHA-256 (RFC 8017
// section 8.2.1).
func (x *exchanged) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	em := make([]byte, x.key.Size())
	pad := len(em) - len(sha256Info) - len(digest)
	if opts.HashFunc() != crypto.SHA256 || pad < 11 {
		return nil, fmt.Errorf("the throw-away key does not sign %v", opts.HashFunc())
	}
	em[1] = 1
	for i := 2; i < pad-1; i++ {
		em[i] = 0xff
	}
	copy(em[pad:], sha256Info)
	copy(em[pad+len(sha256Info):], digest)
	m := new(big.Int).SetBytes(em)
	return m.Exp(m, big.NewInt(int64(x.key.E)), x.key.N).FillBytes(em), nil
}

// oneSignature gives one signature to everything.
type oneSignature struct {
	pub crypto.PublicKey
	sig []byte
}

func newOneSignature(key *mldsa.PrivateKey) (*oneSignature, error) {
	sig, err := key.Sign(rand.Reader, []byte("nobody trusts this key"), crypto.Hash(0))
	return &oneSignature{key.Public(), sig}, err
}

// Public implements crypto.Signer.
func (o *oneSignature) Public() crypto.PublicKey { return o.pub }

// Sign implements crypto.Signer.
func (o *oneSignature) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return o.sig, nil }
