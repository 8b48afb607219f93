package acme

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/mldsa"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json/jsontext"
	json "encoding/json/v2"
	"fmt"
	"math/big"
	"slices"

	"chancery/internal/fault"
)

// Bounds of RSA keys. Exponents below 65537 have a history of broken padding
// checks; above 2^31-1 they only make verification slow.
const (
	minRSABits     = 2048
	maxRSABits     = 4096
	minRSAExponent = 65537
	maxRSAExponent = 1<<31 - 1
	maxJWK         = 8 << 10 // bytes; an ML-DSA-87 key takes 3.5 KB
)

// JWK is a public key as it stood in a JWS header: one JSON value, not yet
// judged. It is nil when the header had none.
type JWK []byte

// PublicKey parses and checks the key. It is ParseJWK under another name, so
// that cheap checks of a request may run before this costlier one.
func (k JWK) PublicKey() (*PublicKey, error) { return ParseJWK(k) }

// PublicKey is a checked public key that may sign ACME requests.
type PublicKey struct {
	// Key is *ecdsa.PublicKey, *rsa.PublicKey, ed25519.PublicKey or *mldsa.PublicKey.
	Key crypto.PublicKey
	// Thumbprint is the base64url SHA-256 of the canonical key (RFC 7638).
	Thumbprint string
	// Algs are the signature algorithms that fit the key, preferred one first.
	Algs []Algorithm

	canonical []byte
}

// JWK returns the key as canonical JSON: required members only, in order,
// without white space (RFC 7638 section 3). The caller must not change it.
func (k *PublicKey) JWK() []byte { return k.canonical }

// Fits reports whether a signature of algorithm a may be checked with k.
func (k *PublicKey) Fits(a Algorithm) bool { return slices.Contains(k.Algs, a) }

// Equal reports whether k and other are the same key.
func (k *PublicKey) Equal(other *PublicKey) bool {
	return other != nil && k.Thumbprint == other.Thumbprint
}

// KeyAuthorization returns token "." thumbprint (RFC 8555 section 8.1).
func KeyAuthorization(token, thumbprint string) string { return token + "." + thumbprint }

// NewPublicKey checks the structure of key and derives its JWK, thumbprint and
// algorithms. Errors are fault.BadPublicKey. It does not look for weak keys
// (shared primes, ROCA, known leaks): pki does.
func NewPublicKey(key crypto.PublicKey) (*PublicKey, error) {
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		return newECKey(key)
	case *rsa.PublicKey:
		return newRSAKey(key)
	case ed25519.PublicKey:
		return newEd25519Key(key)
	case *mldsa.PublicKey:
		return newMLDSAKey(key)
	}
	return nil, fault.New(fault.BadPublicKey, "key type %T is not supported", key)
}

// ParseJWK parses a public JWK (RFC 7517): EC P-256 and P-384 (RFC 7518
// section 6.2), RSA of 2048 to 4096 bits (6.3), Ed25519 (RFC 8037) and ML-DSA
// (RFC 9964). Coordinates must have their full length, integers no leading
// zero, and private members are refused: a client that sends its private key
// has lost it. Errors are fault.BadPublicKey, or fault.Malformed for bad JSON.
func ParseJWK(raw []byte) (*PublicKey, error) {
	if len(raw) > maxJWK {
		return nil, fault.New(fault.Malformed, "JWK is longer than %d bytes", maxJWK)
	}
	var f jwkFields
	if len(raw) == 0 || raw[0] != '{' {
		return nil, fault.New(fault.Malformed, "JWK is not a JSON object")
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		return nil, malformedJSON(err, "JWK")
	}
	key, err := f.key()
	if err != nil {
		return nil, err
	}
	if f.Use != "" && f.Use != "sig" {
		return nil, fault.New(fault.BadPublicKey, `JWK "use" is %q; an account key needs "sig" or no "use"`, clip(f.Use))
	}
	// "sign" stands for the pair: a browser's exported key keeps it when its
	// private member is dropped.
	if f.KeyOps != nil && !slices.Contains(f.KeyOps, "verify") && !slices.Contains(f.KeyOps, "sign") {
		return nil, fault.New(fault.BadPublicKey, `JWK "key_ops" does not allow signatures`)
	}
	if f.Alg != "" && !key.Fits(f.Alg) {
		return nil, fault.New(fault.BadPublicKey, `JWK "alg" %q does not fit this key`, clip(string(f.Alg)))
	}
	return key, nil
}

// jwkFields are the members of a JWK that matter here; others are ignored as
// RFC 7517 section 4 asks.
type jwkFields struct {
	Kty string    `json:"kty"`
	Alg Algorithm `json:"alg"`
	Use string    `json:"use"`
	Crv string    `json:"crv"`
	X   string    `json:"x"`
	Y   string    `json:"y"`
	N   string    `json:"n"`
	E   string    `json:"e"`
	Pub string    `json:"pub"`

	KeyOps []string `json:"key_ops"`

	D    jsontext.Value `json:"d"`
	P    jsontext.Value `json:"p"`
	Q    jsontext.Value `json:"q"`
	DP   jsontext.Value `json:"dp"`
	DQ   jsontext.Value `json:"dq"`
	QI   jsontext.Value `json:"qi"`
	Oth  jsontext.Value `json:"oth"`
	K    jsontext.Value `json:"k"`
	Priv jsontext.Value `json:"priv"`
}

// secret reports whether any member of a private or symmetric key is present.
func (f *jwkFields) secret() bool {
	for _, v := range [...]jsontext.Value{f.D, f.P, f.Q, f.DP, f.DQ, f.QI, f.Oth, f.K, f.Priv} {
		if v != nil {
			return true
		}
	}
	return false
}

func (f *jwkFields) key() (*PublicKey, error) {
	if f.secret() {
		return nil, fault.New(fault.BadPublicKey, "JWK holds private or symmetric key material; make a new key, send only its public part, and never use this one again")
	}
	switch f.Kty {
	case "EC":
		return f.ec()
	case "RSA":
		return f.rsa()
	case "OKP":
		return f.okp()
	case "AKP":
		return f.akp()
	}
	return nil, fault.New(fault.BadPublicKey, `JWK "kty" %q is not supported; use EC, RSA, OKP or AKP`, clip(f.Kty))
}

func (f *jwkFields) ec() (*PublicKey, error) {
	curve, size := elliptic.P256(), 32
	switch f.Crv {
	case "P-256":
	case "P-384":
		curve, size = elliptic.P384(), 48
	default:
		return nil, fault.New(fault.BadPublicKey, `JWK "crv" %q is not supported; use P-256 or P-384`, clip(f.Crv))
	}
	x, errX := decodeBase64(f.X)
	y, errY := decodeBase64(f.Y)
	if errX != nil || errY != nil || len(x) != size || len(y) != size {
		return nil, fault.New(fault.BadPublicKey, `JWK "x" and "y" must each be %d bytes in base64url`, size)
	}
	point := append(append(append(make([]byte, 0, 1+2*size), 4), x...), y...)
	key, err := ecdsa.ParseUncompressedPublicKey(curve, point)
	if err != nil {
		return nil, fault.Wrap(err, fault.BadPublicKey, "JWK is not a point on %s", f.Crv)
	}
	return newECKey(key)
}

func newECKey(key *ecdsa.PublicKey) (*PublicKey, error) {
	alg, crv := ES256, "P-256"
	switch key.Curve {
	case elliptic.P256():
	case elliptic.P384():
		alg, crv = ES384, "P-384"
	default:
		return nil, fault.New(fault.BadPublicKey, "elliptic curve is not supported; use P-256 or P-384")
	}
	point, err := key.Bytes()
	if err != nil {
		return nil, fault.Wrap(err, fault.BadPublicKey, "key is not a point on %s", crv)
	}
	half := 1 + len(point)/2
	return finishKey(key, []Algorithm{alg}, "crv", crv, "kty", "EC", "x", encodeBase64(point[1:half]), "y", encodeBase64(point[half:])), nil
}

func (f *jwkFields) rsa() (*PublicKey, error) {
	n, errN := decodeBase64(f.N)
	e, errE := decodeBase64(f.E)
	if errN != nil || errE != nil || len(n) == 0 || len(e) == 0 || n[0] == 0 || e[0] == 0 {
		return nil, fault.New(fault.BadPublicKey, `JWK "n" and "e" must be positive integers in base64url without leading zeros`)
	}
	if len(e) > 4 || len(n) > maxRSABits/8 {
		return nil, rsaRange()
	}
	var exp [4]byte
	copy(exp[4-len(e):], e)
	return newRSAKey(&rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(binary.BigEndian.Uint32(exp[:]))})
}

func newRSAKey(key *rsa.PublicKey) (*PublicKey, error) {
	bits := key.N.BitLen()
	if bits < minRSABits || bits > maxRSABits || key.E < minRSAExponent || key.E > maxRSAExponent {
		return nil, rsaRange()
	}
	if key.N.Bit(0) == 0 || key.E&1 == 0 {
		return nil, fault.New(fault.BadPublicKey, "RSA modulus and exponent must be odd")
	}
	e := big.NewInt(int64(key.E)).Bytes()
	return finishKey(key, []Algorithm{RS256}, "e", encodeBase64(e), "kty", "RSA", "n", encodeBase64(key.N.Bytes())), nil
}

func rsaRange() error {
	return fault.New(fault.BadPublicKey, "RSA key must have %d to %d bits and an exponent from %d to %d", minRSABits, maxRSABits, minRSAExponent, maxRSAExponent)
}

func (f *jwkFields) okp() (*PublicKey, error) {
	if f.Crv != "Ed25519" {
		return nil, fault.New(fault.BadPublicKey, `JWK "crv" %q is not supported for OKP; use Ed25519`, clip(f.Crv))
	}
	x, err := decodeBase64(f.X)
	if err != nil || len(x) != ed25519.PublicKeySize {
		return nil, fault.New(fault.BadPublicKey, `JWK "x" must be %d bytes in base64url`, ed25519.PublicKeySize)
	}
	return newEd25519Key(x)
}

func newEd25519Key(key ed25519.PublicKey) (*PublicKey, error) {
	if len(key) != ed25519.PublicKeySize || !canonicalEd25519(key) {
		return nil, fault.New(fault.BadPublicKey, "key is not a canonical Ed25519 point of large order")
	}
	return finishKey(key, []Algorithm{EdDSA, Ed25519}, "crv", "Ed25519", "kty", "OKP", "x", encodeBase64(key)), nil
}

func (f *jwkFields) akp() (*PublicKey, error) {
	params, ok := mldsaParams(f.Alg)
	if !ok {
		return nil, fault.New(fault.BadPublicKey, `JWK "alg" %q is not supported for AKP; use ML-DSA-44, ML-DSA-65 or ML-DSA-87`, clip(string(f.Alg)))
	}
	pub, err := decodeBase64(f.Pub)
	if err != nil || len(pub) != params.PublicKeySize() {
		return nil, fault.New(fault.BadPublicKey, `JWK "pub" must be %d bytes in base64url`, params.PublicKeySize())
	}
	key, err := mldsa.NewPublicKey(params, pub)
	if err != nil {
		return nil, fault.Wrap(err, fault.BadPublicKey, "JWK is not a public key of %s", f.Alg)
	}
	return newMLDSAKey(key)
}

func newMLDSAKey(key *mldsa.PublicKey) (*PublicKey, error) {
	alg := Algorithm(key.Parameters().String())
	if _, ok := mldsaParams(alg); !ok {
		return nil, fault.New(fault.BadPublicKey, "ML-DSA parameter set %q is not supported", alg)
	}
	return finishKey(key, []Algorithm{alg}, "alg", string(alg), "kty", "AKP", "pub", encodeBase64(key.Bytes())), nil
}

func mldsaParams(a Algorithm) (mldsa.Parameters, bool) {
	switch a {
	case MLDSA44:
		return mldsa.MLDSA44(), true
	case MLDSA65:
		return mldsa.MLDSA65(), true
	case MLDSA87:
		return mldsa.MLDSA87(), true
	}
	return mldsa.Parameters{}, false
}

// finishKey renders name, value pairs as the canonical object and hashes it.
// No value needs escaping: all are base64url or registered names.
func finishKey(key crypto.PublicKey, algs []Algorithm, pairs ...string) *PublicKey {
	size := 2
	for _, s := range pairs {
		size += len(s) + 3
	}
	doc := append(make([]byte, 0, size), '{')
	for i := 0; i < len(pairs); i += 2 {
		if i > 0 {
			doc = append(doc, ',')
		}
		doc = fmt.Appendf(doc, `"%s":"%s"`, pairs[i], pairs[i+1])
	}
	doc = append(doc, '}')
	sum := sha256.Sum256(doc)
	return &PublicKey{Key: key, Thumbprint: encodeBase64(sum[:]), Algs: algs, canonical: doc}
}

func encodeBase64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
