package challenge

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"sync"

	"chancery/internal/fault"
)

// Sealer keeps proofs and clearances outside the process: in the database,
// between validation and finalization. A sealed value is JSON followed by an
// HMAC-SHA256, so a row that anything but a validator wrote, or that was
// copied to another account or identifier, does not open as a proof of it.
type Sealer struct {
	macs     sync.Pool // of hash.Hash: HMAC-SHA256 with the key
	encoders sync.Pool // of *encoder
}

// encoder writes JSON into memory of its own.
type encoder struct {
	text bytes.Buffer
	json *json.Encoder
}

// minSealKey is the shortest key a Sealer takes, in octets.
const minSealKey = 32

// NewSealer returns a sealer with a secret of at least 32 random octets. All
// replicas of one CA share it.
func NewSealer(key []byte) (*Sealer, error) {
	if len(key) < minSealKey {
		return nil, fmt.Errorf("make sealer: the key has %d octets, fewer than %d", len(key), minSealKey)
	}
	s, key := new(Sealer), append([]byte(nil), key...)
	s.macs.New = func() any { return hmac.New(sha256.New, key) }
	s.encoders.New = func() any {
		e := new(encoder)
		e.json = json.NewEncoder(&e.text)
		return e
	}
	return s, nil
}

// Kinds keep one sealed value from opening as another.
const (
	kindProof     = "chancery proof v1\x00"
	kindClearance = "chancery caa clearance v1\x00"
)

// Seal returns p for storage. A Proof of nothing cannot be sealed.
func (s *Sealer) Seal(p Proof) ([]byte, error) {
	if p.p == nil {
		return nil, fault.New(fault.ServerInternal, "there is no proof to seal")
	}
	return s.seal(kindProof, p.p)
}

// Open returns the proof that Seal stored, or an error and no proof.
func (s *Sealer) Open(sealed []byte) (Proof, error) {
	p := new(proof)
	if err := s.open(kindProof, sealed, p); err != nil {
		return Proof{}, err
	}
	return Proof{p}, nil
}

// SealClearance returns c for storage. A Clearance of nothing cannot be sealed.
func (s *Sealer) SealClearance(c Clearance) ([]byte, error) {
	if c.c == nil {
		return nil, fault.New(fault.ServerInternal, "there is no clearance to seal")
	}
	return s.seal(kindClearance, c.c)
}

// OpenClearance returns what SealClearance stored, or an error and nothing.
func (s *Sealer) OpenClearance(sealed []byte) (Clearance, error) {
	c := new(clearance)
	if err := s.open(kindClearance, sealed, c); err != nil {
		return Clearance{}, err
	}
	return Clearance{c}, nil
}

func (s *Sealer) seal(kind string, v any) ([]byte, error) {
	e := s.encoders.Get().(*encoder)
	e.text.Reset()
	if err := e.json.Encode(v); err != nil { // and e is not used again
		return nil, fmt.Errorf("seal: %w", err)
	}
	defer s.encoders.Put(e)
	text := bytes.TrimSuffix(e.text.Bytes(), []byte{'\n'})
	sealed := append(make([]byte, 0, len(text)+sha256.Size), text...)
	return s.appendSum(sealed, kind, text), nil
}

func (s *Sealer) open(kind string, sealed []byte, v any) error {
	n := len(sealed) - sha256.Size
	var sum [sha256.Size]byte
	if n < 0 || !hmac.Equal(sealed[n:], s.appendSum(sum[:0], kind, sealed[:n])) {
		return fault.New(fault.ServerInternal, "a stored validation result was not written by this CA's validators")
	}
	if err := json.Unmarshal(sealed[:n], v); err != nil {
		return fmt.Errorf("open sealed value: %w", err)
	}
	return nil
}

// appendSum appends the sum of kind and text to dst.
func (s *Sealer) appendSum(dst []byte, kind string, text []byte) []byte {
	m := s.macs.Get().(hash.Hash)
	defer s.macs.Put(m)
	m.Reset()
	io.WriteString(m, kind) // a hash never fails
	m.Write(text)
	return m.Sum(dst)
}
