package keys

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
)

// masterLen is the size of a master key in octets.
const masterLen = 32

// sealVersion is the first octet of a sealed secret: AES-256-GCM, random
// nonce of 12 octets, then ciphertext and tag.
const sealVersion = 1

const (
	gcmNonce = 12
	gcmTag   = 16
)

// SealOverhead is how many octets a sealed secret is longer than its plain
// text.
const SealOverhead = 1 + gcmNonce + gcmTag

// ErrUnseal means that a sealed secret was changed, was sealed for other
// associated data, or under another master key.
var ErrUnseal = errors.New("sealed secret does not open")

// Sealer encrypts small secrets that live outside the key store (EAB keys,
// API tokens of DNS providers) under the store's master key. It is safe for
// concurrent use.
type Sealer struct {
	master [masterLen]byte
	aead   cipher.AEAD
}

func newSealer(master []byte) (*Sealer, error) {
	s := &Sealer{}
	if copy(s.master[:], master) != masterLen || len(master) != masterLen {
		return nil, fmt.Errorf("open sealer: master key has %d octets, want %d", len(master), masterLen)
	}
	key := s.Key("seal")
	aead, err := newGCM(key[:])
	if err != nil {
		return nil, fmt.Errorf("open sealer: %w", err)
	}
	s.aead = aead
	return s, nil
}

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// Seal encrypts secret and binds it to the associated data, which names the
// place it belongs to (for example "eab_key/" + id), so that a sealed value
// cannot be moved to another row.
func (s *Sealer) Seal(secret, associated []byte) []byte { return seal(s.aead, secret, associated) }

// Open returns what Seal was given, or ErrUnseal.
func (s *Sealer) Open(sealed, associated []byte) ([]byte, error) {
	return unseal(s.aead, sealed, associated)
}

// Key derives a key for a purpose that needs one of its own and must be the
// same after a restart and on every node with this store (for example nonces).
// Equal purposes give equal keys.
func (s *Sealer) Key(purpose string) [32]byte {
	key, err := hkdf.Expand(sha256.New, s.master[:], "chancery "+purpose, 32)
	if err != nil {
		panic(err) // only for more than 255 hash lengths
	}
	return [32]byte(key)
}

func seal(aead cipher.AEAD, secret, associated []byte) []byte {
	out := make([]byte, 1+gcmNonce, len(secret)+SealOverhead)
	out[0] = sealVersion
	_, _ = rand.Read(out[1:]) // cannot fail
	return aead.Seal(out, out[1:], secret, associated)
}

func unseal(aead cipher.AEAD, sealed, associated []byte) ([]byte, error) {
	if len(sealed) < SealOverhead || sealed[0] != sealVersion {
		return nil, ErrUnseal
	}
	secret, err := aead.Open(nil, sealed[1:1+gcmNonce], sealed[1+gcmNonce:], associated)
	if err != nil {
		return nil, ErrUnseal
	}
	return secret, nil
}
