package perspective

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"chancery/internal/fault"
)

// Pin names a public key: "sha256/" and the base64url SHA-256 of its
// SubjectPublicKeyInfo, without padding.
type Pin string

const pinPrefix = "sha256/"

// ParsePin reads a pin.
func ParsePin(s string) (Pin, error) {
	digest, ok := strings.CutPrefix(s, pinPrefix)
	raw, err := base64.RawURLEncoding.Strict().DecodeString(digest)
	if !ok || err != nil || len(raw) != sha256.Size {
		return "", fault.New(fault.Invalid, "%q is not a key pin; `chancery agent key FILE` prints one such as sha256/47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU", s)
	}
	return Pin(s), nil
}

// pinOf returns the pin of a SubjectPublicKeyInfo in DER.
func pinOf(spki []byte) Pin {
	sum := sha256.Sum256(spki)
	return Pin(pinPrefix + base64.RawURLEncoding.EncodeToString(sum[:]))
}

// Key is the key by which one end knows the other.
type Key struct {
	signer crypto.Signer
	pin    Pin
}

// Pin returns what the other end is told to expect.
func (k *Key) Pin() Pin { return k.pin }

// OpenKey reads a key file (PKCS #8, PEM). If there is none it makes one, with
// mode 0600.
func OpenKey(path string) (*Key, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return makeKey(path)
	}
	if err != nil {
		return nil, fault.Wrap(err, fault.Invalid, "the key file %s cannot be read", path)
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fault.New(fault.Invalid, "%s is not a private key in PEM (PKCS #8)", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fault.New(fault.Invalid, "%s is not a private key in PEM (PKCS #8)", path)
	}
	signer, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, fault.New(fault.Invalid, "the key in %s cannot sign", path)
	}
	return newKey(signer)
}

// NewKey makes a key that is kept in memory alone.
func NewKey() (*Key, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	return newKey(private)
}

func newKey(signer crypto.Signer) (*Key, error) {
	spki, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return nil, fmt.Errorf("encode public key: %w", err)
	}
	return &Key{signer, pinOf(spki)}, nil
}

// makeKey writes a new key. The file appears whole or not at all; of two
// processes that make one at once, one loses and reads what the other wrote.
func makeKey(path string) (*Key, error) {
	k, err := NewKey()
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(k.signer)
	if err != nil {
		return nil, fmt.Errorf("encode private key: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".key-*") // mode 0600
	if err != nil {
		return nil, fault.Wrap(err, fault.Invalid, "the key file %s cannot be made", path)
	}
	defer os.Remove(f.Name())
	err = pem.Encode(f, &pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, fmt.Errorf("write key file: %w", err)
	}
	if err := os.Link(f.Name(), path); errors.Is(err, fs.ErrExist) {
		return OpenKey(path)
	} else if err != nil {
		return nil, fault.Wrap(err, fault.Invalid, "the key file %s cannot be made", path)
	}
	return k, nil
}

// certificate returns a certificate that carries the key. Nobody looks at
// anything but the key in it.
func (k *Key) certificate() (tls.Certificate, error) {
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "chancery perspective"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.signer.Public(), k.signer)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make certificate of perspective key: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k.signer}, nil
}

// errPin ends a handshake with a peer that has another key than the pinned.
var errPin = errors.New("the peer's key is not the pinned one")

// tlsConfig returns the configuration of either end: TLS 1.3, our key, and a
// peer that shows one of the pinned keys and proves to have it. It says
// nothing about names or certificate chains, which are not looked at.
func (k *Key) tlsConfig(peers ...Pin) (*tls.Config, error) {
	cert, err := k.certificate()
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert,
		SessionTicketsDisabled: true,
		InsecureSkipVerify:     true, // VerifyConnection is stricter: one key, whatever certificate it comes in
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 || !slices.Contains(peers, pinOf(s.PeerCertificates[0].RawSubjectPublicKeyInfo)) {
				return errPin
			}
			return nil
		},
	}, nil
}
