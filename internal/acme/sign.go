package acme

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Signer signs messages with an account key, or with the key of a certificate
// that is to be revoked. It is safe for concurrent use when its key is.
type Signer struct {
	key crypto.Signer
	pub *PublicKey
}

// NewSigner returns a Signer over key, whose public half must be one that
// NewPublicKey accepts.
func NewSigner(key crypto.Signer) (*Signer, error) {
	pub, err := NewPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	return &Signer{key: key, pub: pub}, nil
}

// PublicKey returns the public half of the key.
func (s *Signer) PublicKey() *PublicKey { return s.pub }

// Sign returns a flattened JWS over payload (nil for POST-as-GET). The header
// holds the URL, the nonce unless it is "", and either KID or, when that is
// "", the public key. Alg and JWK of h are ignored: they follow from the key.
func (s *Signer) Sign(h Header, payload []byte) ([]byte, error) {
	h.Alg, h.JWK = s.pub.Algs[0], s.pub.canonical
	if h.KID != "" {
		h.JWK = nil
	}
	msg := newMessage(h, payload)
	sig, err := s.signature(msg.signed)
	if err != nil {
		return nil, fmt.Errorf("sign message for %s: %w", h.URL, err)
	}
	return msg.seal(sig), nil
}

// KeyChange returns the inner message of a roll-over of the account's key from
// old to s (RFC 8555 section 7.3.5): signed by the new key, without a nonce.
// It becomes the payload of a message to url that old signs.
func (s *Signer) KeyChange(url, account string, old *PublicKey) ([]byte, error) {
	w := begin(nil)
	w.str("account", account)
	w.name("oldKey")
	w.dst = append(w.dst, old.canonical...)
	return s.Sign(Header{URL: url}, w.end())
}

func (s *Signer) signature(signed []byte) ([]byte, error) {
	switch pub := s.pub.Key.(type) {
	case *ecdsa.PublicKey:
		return s.signECDSA(pub, signed)
	case *rsa.PublicKey:
		return s.key.Sign(rand.Reader, digest(crypto.SHA256, signed), crypto.SHA256)
	default: // Ed25519 and ML-DSA sign the message itself
		return s.key.Sign(rand.Reader, signed, crypto.Hash(0))
	}
}

// signECDSA signs and turns the DER of crypto.Signer into the two halves of
// full length that RFC 7518 section 3.4 asks for.
func (s *Signer) signECDSA(pub *ecdsa.PublicKey, signed []byte) ([]byte, error) {
	size, hash := 32, crypto.SHA256
	if pub.Curve.Params().BitSize == 384 {
		size, hash = 48, crypto.SHA384
	}
	der, err := s.key.Sign(rand.Reader, digest(hash, signed), hash)
	if err != nil {
		return nil, err
	}
	var seq cryptobyte.String
	var r, t []byte
	in := cryptobyte.String(der)
	if !in.ReadASN1(&seq, asn1.SEQUENCE) || !seq.ReadASN1Integer(&r) || !seq.ReadASN1Integer(&t) || len(r) > size || len(t) > size {
		return nil, errors.New("key store returned a malformed ECDSA signature")
	}
	out := make([]byte, 2*size)
	copy(out[size-len(r):size], r)
	copy(out[2*size-len(t):], t)
	return out, nil
}

func digest(hash crypto.Hash, data []byte) []byte {
	h := hash.New()
	h.Write(data)
	return h.Sum(nil)
}

// SignEAB returns an external account binding (RFC 8555 section 7.3.4): the
// account's public key, under the MAC key that the CA handed out as kid. url
// is the new-account URL. The result is NewAccount.ExternalAccountBinding.
func SignEAB(url, kid string, macKey []byte, alg Algorithm, account *PublicKey) ([]byte, error) {
	hash, ok := alg.mac()
	if !ok {
		return nil, fmt.Errorf("sign external account binding: %q is not a MAC algorithm", alg)
	}
	if len(macKey) == 0 || kid == "" {
		return nil, errors.New("sign external account binding: key id or MAC key is empty")
	}
	msg := newMessage(Header{Alg: alg, URL: url, KID: kid}, account.canonical)
	mac := hmac.New(hash.New, macKey)
	mac.Write(msg.signed)
	return msg.seal(mac.Sum(nil)), nil
}

// message is a JWS that waits for its signature.
type message struct {
	signed []byte
	dot    int // where the header ends in signed
}

func newMessage(h Header, payload []byte) message {
	w := begin(make([]byte, 0, 64+len(h.KID)+len(h.JWK)+len(h.Nonce)+len(h.URL)))
	w.str("alg", string(h.Alg))
	if h.JWK != nil {
		w.name("jwk")
		w.dst = append(w.dst, h.JWK...)
	}
	w.strIf("kid", h.KID)
	w.strIf("nonce", h.Nonce)
	w.str("url", h.URL)
	header := w.end()

	enc := base64.RawURLEncoding
	buf := make([]byte, 0, enc.EncodedLen(len(header))+1+enc.EncodedLen(len(payload)))
	buf = enc.AppendEncode(buf, header)
	dot := len(buf)
	return message{signed: enc.AppendEncode(append(buf, '.'), payload), dot: dot}
}

func (m message) seal(sig []byte) []byte {
	const frame = len(`{"protected":"","payload":"","signature":""}`)
	enc := base64.RawURLEncoding
	out := make([]byte, 0, frame+len(m.signed)+enc.EncodedLen(len(sig)))
	out = append(out, `{"protected":"`...)
	out = append(out, m.signed[:m.dot]...)
	out = append(out, `","payload":"`...)
	out = append(out, m.signed[m.dot+1:]...)
	out = append(out, `","signature":"`...)
	out = enc.AppendEncode(out, sig)
	return append(out, `"}`...)
}
