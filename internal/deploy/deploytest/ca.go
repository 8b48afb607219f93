package deploytest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"testing"
	"time"

	"chancery/internal/deploy"
)

// CA issues certificates for tests: a root, and an intermediate that signs.
type CA struct {
	Root         *x509.Certificate
	intermediate *x509.Certificate
	key          crypto.Signer
}

// NewCA returns a CA with fresh keys.
func NewCA(t testing.TB) *CA {
	t.Helper()
	rootKey, key := NewKey(t), NewKey(t)
	template := func(name string) *x509.Certificate {
		return &x509.Certificate{SerialNumber: serial(t), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
			NotAfter: time.Now().Add(1000 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	}
	root := sign(t, template("Test Root"), template("Test Root"), rootKey.Public(), rootKey)
	return &CA{Root: root, key: key, intermediate: sign(t, template("Test Intermediate"), root, key.Public(), rootKey)}
}

// NewKey returns a P-256 key.
func NewKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func serial(t testing.TB) *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func sign(t testing.TB, template, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// Item returns a new certificate with a new P-256 key; every call another one.
func (ca *CA) Item(t testing.TB, id string, names ...string) deploy.Item {
	t.Helper()
	return ca.ItemWith(t, NewKey(t), id, names...)
}

// ItemWith is Item with a key of the caller's choice.
func (ca *CA) ItemWith(t testing.TB, key crypto.Signer, id string, names ...string) deploy.Item {
	t.Helper()
	leaf := &x509.Certificate{SerialNumber: serial(t), Subject: pkix.Name{CommonName: id}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(900 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			leaf.IPAddresses = append(leaf.IPAddresses, ip)
		} else {
			leaf.DNSNames = append(leaf.DNSNames, name)
		}
	}
	cert := sign(t, leaf, ca.intermediate, key.Public(), ca.key)
	return deploy.Item{ID: id, Names: names, Chain: [][]byte{cert.Raw, ca.intermediate.Raw}, Key: key}
}

// Items returns n certificates c000, c001, ... for c000.test, c001.test, ...
func (ca *CA) Items(t testing.TB, n int) []deploy.Item {
	t.Helper()
	items := make([]deploy.Item, n)
	for i := range items {
		items[i] = ca.Item(t, Name(i), Name(i)+".test")
	}
	return items
}
