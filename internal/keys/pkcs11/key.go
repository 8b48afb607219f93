//go:build pkcs11 && cgo

package pkcs11

import (
	"bytes"
	"context"
	"crypto"
	"fmt"
	"io"
	"sync/atomic"

	lib "github.com/miekg/pkcs11"

	"chancery/internal/fault"
	"chancery/internal/keys"
	"chancery/internal/pki"
)

// Key is a private key in a token: a crypto.Signer that is safe for concurrent
// use and signs in several sessions at once.
type Key struct {
	m      *module
	uri    *URI
	public crypto.PublicKey
	kt     pki.KeyType
	handle atomic.Pointer[handle] // as found last
}

// handle is the key's handle in one generation of the module.
type handle struct {
	gen int
	o   lib.ObjectHandle
}

// Public returns the public key.
func (k *Key) Public() crypto.PublicKey { return k.public }

// Sign implements crypto.Signer; it waits at most Config.Timeout.
func (k *Key) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return k.SignContext(context.Background(), digest, opts)
}

// digestInfo are the prefixes of RFC 8017 section 9.2, note 1.
var digestInfo = map[crypto.Hash]string{
	crypto.SHA256: "\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20",
	crypto.SHA384: "\x30\x41\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x02\x05\x00\x04\x30",
	crypto.SHA512: "\x30\x51\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x03\x05\x00\x04\x40",
}

// SignContext signs a digest; with Ed25519, a whole message (opts.HashFunc is
// 0). RSA keys sign by PKCS #1 v1.5, ECDSA signatures are DER.
func (k *Key) SignContext(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	input := digest
	if k.kt == pki.Ed25519 {
		if opts.HashFunc() != 0 {
			return nil, fmt.Errorf("sign: Ed25519 signs messages, not digests")
		}
	} else {
		h, err := keys.CheckDigest(digest, opts)
		if err != nil {
			return nil, fmt.Errorf("sign: %w", err)
		}
		if k.kt.RSA() {
			input = append([]byte(digestInfo[h]), digest...)
		}
	}
	var sig []byte
	err := k.m.do(ctx, func(s session) (err error) {
		sig, err = k.sign(s, input)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("sign in token: %w", err)
	}
	switch k.kt {
	case pki.P256:
		return keys.DERSignature(sig, 32)
	case pki.P384:
		return keys.DERSignature(sig, 48)
	}
	return sig, nil
}

// sign makes one signature in one session.
func (k *Key) sign(s session, input []byte) ([]byte, error) {
	o, err := k.find(s)
	if err != nil {
		return nil, err
	}
	if err := k.m.lib.SignInit(s.handle, []*lib.Mechanism{lib.NewMechanism(kinds[k.kt].sign, nil)}, o); err != nil {
		k.forget(err)
		return nil, ret("C_SignInit", err)
	}
	sig, err := k.m.lib.Sign(s.handle, input)
	k.forget(err)
	return sig, ret("C_Sign", err)
}

// forget drops the handle when the token does not know it any more.
func (k *Key) forget(err error) {
	if classify(ret("", err)) == onKey {
		k.handle.Store(nil)
	}
}

// find returns the handle of the key, which holds for a generation.
func (k *Key) find(s session) (lib.ObjectHandle, error) {
	if h := k.handle.Load(); h != nil && h.gen == s.gen {
		return h.o, nil
	}
	o, err := k.m.one(s.handle, lib.CKO_PRIVATE_KEY, k.uri)
	if err != nil {
		return 0, err
	}
	k.handle.Store(&handle{s.gen, o})
	return o, nil
}

// one finds exactly one object.
func (m *module) one(h lib.SessionHandle, class uint, u *URI) (lib.ObjectHandle, error) {
	found, err := m.search(h, class, u, 2)
	switch {
	case err != nil:
		return 0, err
	case len(found) == 0:
		return 0, fault.New(fault.NotFound, "the PKCS #11 token %q has no key %s", m.cfg.Token, u)
	case len(found) > 1:
		return 0, fault.New(fault.Invalid, "the PKCS #11 token %q has several keys %s; name the one that is meant by its id, too", m.cfg.Token, u)
	}
	return found[0], nil
}

// load finds the key and reads its public half. From then on it goes by its
// id, whatever else the token gets.
func (k *Key) load(s session) error {
	o, err := k.m.one(s.handle, lib.CKO_PRIVATE_KEY, k.uri)
	if err != nil {
		return err
	}
	label, id, err := k.m.names(s.handle, o)
	if err != nil {
		return err
	}
	if pub, err := k.m.publicKey(s.handle, o, label, id); err != nil {
		return err
	} else if k.kt, err = pki.KeyTypeOf(pub); err != nil {
		return err
	} else {
		k.public = pub
	}
	if auth, err := k.m.attribute(s.handle, o, lib.CKA_ALWAYS_AUTHENTICATE); err == nil && bytes.Equal(auth, []byte{1}) {
		return fault.New(fault.Invalid, "the key %s asks for the PIN before each signature, so it cannot serve; make one without CKA_ALWAYS_AUTHENTICATE", k.uri)
	}
	if len(id) > 0 {
		k.uri = &URI{Token: k.uri.Token, Object: label, ID: id}
	}
	k.handle.Store(&handle{s.gen, o})
	return nil
}

// publicKey reads the public half of a private key: from the public key object
// with the same id, or from what the private one shows of it.
func (m *module) publicKey(h lib.SessionHandle, priv lib.ObjectHandle, label string, id []byte) (crypto.PublicKey, error) {
	from := priv
	u := &URI{ID: id}
	if len(id) == 0 {
		u = &URI{Object: label}
	}
	found, err := m.search(h, lib.CKO_PUBLIC_KEY, u, 1)
	if err != nil {
		return nil, err
	}
	if len(found) > 0 {
		from = found[0]
	}
	rsa, err := m.isRSA(h, priv)
	if err != nil {
		return nil, err
	}
	first, second := uint(lib.CKA_EC_PARAMS), uint(lib.CKA_EC_POINT)
	if rsa {
		first, second = lib.CKA_MODULUS, lib.CKA_PUBLIC_EXPONENT
	}
	a, err := m.attribute(h, from, first)
	var b []byte
	if err == nil {
		b, err = m.attribute(h, from, second)
	}
	if c := classify(err); err != nil && c != permanent {
		return nil, err // the token is at fault, not the key
	}
	var pub crypto.PublicKey
	switch {
	case err != nil: // it does not say
	case rsa:
		pub, err = rsaKey(a, b)
	default:
		pub, err = ecKey(a, b)
	}
	if err != nil {
		return nil, fault.Wrap(err, fault.Invalid, "the public half of the key %q in the PKCS #11 token %q cannot be read; the token needs a public key object with the same id", label, m.cfg.Token)
	}
	return pub, nil
}

// isRSA reports whether a key is one of RSA rather than of a curve.
func (m *module) isRSA(h lib.SessionHandle, o lib.ObjectHandle) (bool, error) {
	kt, err := m.attribute(h, o, lib.CKA_KEY_TYPE)
	rsa := lib.NewAttribute(lib.CKA_KEY_TYPE, lib.CKK_RSA)
	return bytes.Equal(kt, rsa.Value), err
}

// attribute reads one attribute.
func (m *module) attribute(h lib.SessionHandle, o lib.ObjectHandle, typ uint) ([]byte, error) {
	got, err := m.lib.GetAttributeValue(h, o, []*lib.Attribute{lib.NewAttribute(typ, nil)})
	if err != nil {
		return nil, ret("C_GetAttributeValue", err)
	}
	return got[0].Value, nil
}
