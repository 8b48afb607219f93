package status

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"chancery/internal/ca"
	"chancery/internal/pki"
)

// signer is one key that signs answers for one authority: a delegated
// responder, or the authority itself.
type signer struct {
	auth *ca.Authority
	enc  *pki.OCSPEncoder
	end  uint32 // Unix minutes: its certificate ends, and answers with it
	half int    // ECDSA: octets of r and of s; 0 = signatures are kept as they are
}

func newSigner(a *ca.Authority, delegated bool) (*signer, error) {
	enc, err := pki.NewOCSPEncoder(a.Cert, delegated)
	if err != nil {
		return nil, fmt.Errorf("use OCSP responder %s: %w", a.Name, err)
	}
	g := &signer{auth: a, enc: enc, end: minutes(a.Cert.NotAfter)}
	switch enc.KeyType() {
	case pki.P256:
		g.half = 32
	case pki.P384:
		g.half = 48
	}
	return g, nil
}

// choose returns the authority whose key signs answers about a now: its newest
// delegate if that can, otherwise a itself, nil if neither can.
func (s *Service) choose(a *ca.Authority, now time.Time) (signing *ca.Authority, delegated bool) {
	if r, ok := s.ca.Responder(a); ok && !s.cfg.Direct && r.CanSign() && valid(r.Cert, now) {
		return r, true
	}
	if a.CanSign() && valid(a.Cert, now) {
		return a, false
	}
	return nil, false
}

func valid(c *x509.Certificate, now time.Time) bool {
	return !now.Before(c.NotBefore) && now.Before(c.NotAfter)
}

// sign signs an answer and returns the signature in the form that is kept.
func (g *signer) sign(ctx context.Context, tbs []byte) ([]byte, error) {
	sig, err := g.auth.SignTBS(ctx, tbs)
	if err != nil || g.half == 0 {
		return sig, err
	}
	return packECDSA(sig, g.half)
}

// appendSignature appends the DER signature that a kept one stands for.
func (g *signer) appendSignature(dst, kept []byte) []byte {
	if g.half == 0 {
		return append(dst, kept...)
	}
	return appendECDSA(dst, kept)
}

var errSignature = errors.New("the key made a signature that is not ECDSA-Sig-Value")

// packECDSA turns a DER ECDSA-Sig-Value into r and s of fixed size.
func packECDSA(der []byte, half int) ([]byte, error) {
	out := make([]byte, 2*half)
	var seq cryptobyte.String
	in := cryptobyte.String(der)
	if !in.ReadASN1(&seq, cbasn1.SEQUENCE) || !in.Empty() {
		return nil, errSignature
	}
	for _, half := range [][]byte{out[:half], out[half:]} {
		var n cryptobyte.String
		if !seq.ReadASN1(&n, cbasn1.INTEGER) {
			return nil, errSignature
		}
		for len(n) > 0 && n[0] == 0 {
			n = n[1:]
		}
		if len(n) > len(half) {
			return nil, errSignature
		}
		copy(half[len(half)-len(n):], n)
	}
	return out, nil
}

// appendECDSA is the reverse of packECDSA: DER has one form for each pair.
func appendECDSA(dst, kept []byte) []byte {
	r, s := trimInteger(kept[:len(kept)/2]), trimInteger(kept[len(kept)/2:])
	dst = append(dst, 0x30, byte(len(r)+len(s)+4+int(r[0]>>7)+int(s[0]>>7))) // at most 104: one octet of length
	return appendInteger(appendInteger(dst, r), s)
}

// trimInteger drops leading zeros but leaves one octet.
func trimInteger(n []byte) []byte {
	for len(n) > 1 && n[0] == 0 {
		n = n[1:]
	}
	return n
}

func appendInteger(dst, n []byte) []byte {
	dst = append(dst, 0x02, byte(len(n)+int(n[0]>>7)))
	if n[0]&0x80 != 0 {
		dst = append(dst, 0)
	}
	return append(dst, n...)
}
