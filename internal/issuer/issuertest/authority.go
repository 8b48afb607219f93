// Package issuertest has what tests of issuers need: a certificate authority
// in a few lines, an ACME CA and a frame for REST CAs that misbehave on
// demand, and the suite that every kind of issuer passes.
package issuertest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"chancery/internal/issuer"
	"chancery/internal/pki"
)

// Authority signs what it is asked to: a root, an issuing CA below it, and a
// second root that has certified the same issuing CA.
type Authority struct {
	Root, Inter   *x509.Certificate
	Other         *x509.Certificate // the second root
	InterByOther  *x509.Certificate
	key, otherKey *ecdsa.PrivateKey
	serial        atomic.Int64
}

// Sabotage is what an authority does wrong.
type Sabotage struct {
	Key   bool // certify another key
	Names bool // certify another name
	Chain bool // return something that is no certificate
	Long  bool // return more certificates than anybody needs
}

// NewAuthority makes an authority with new keys.
func NewAuthority(t testing.TB) *Authority {
	t.Helper()
	a := &Authority{}
	rootKey, interKey, otherKey := newKey(t), newKey(t), newKey(t)
	a.key, a.otherKey = interKey, otherKey
	a.Root = a.make(t, "Test Root", nil, rootKey.Public(), rootKey, "Test Root")
	a.Other = a.make(t, "Other Root", nil, otherKey.Public(), otherKey, "Other Root")
	a.Inter = a.make(t, "Test Issuing CA", a.Root, interKey.Public(), rootKey, "Test Issuing CA")
	a.InterByOther = a.make(t, "Test Issuing CA", a.Other, interKey.Public(), otherKey, "Test Issuing CA")
	return a
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (a *Authority) make(t testing.TB, cn string, parent *x509.Certificate, pub crypto.PublicKey, by crypto.Signer, id string) *x509.Certificate {
	t.Helper()
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(a.serial.Add(1)), Subject: pkix.Name{CommonName: cn}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(1000 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, SubjectKeyId: []byte(id)}
	if parent == nil {
		parent = tmpl
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, by)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Sign certifies a request: the leaf and the issuing CA.
func (a *Authority) Sign(csr []byte, s Sabotage) ([][]byte, error) {
	req, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, err
	}
	if err := req.CheckSignature(); err != nil {
		return nil, err
	}
	return a.Certify(req.PublicKey, req.DNSNames, req.IPAddresses, s)
}

// Certify makes a leaf for a key and names, and returns it with the issuing CA.
func (a *Authority) Certify(pub crypto.PublicKey, names []string, ips []net.IP, s Sabotage) ([][]byte, error) {
	if s.Chain {
		return [][]byte{[]byte("no certificate")}, nil
	}
	if s.Key {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		pub = k.Public()
	}
	if s.Names {
		names = append(slices.Clone(names), "www.attacker.test")
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(a.serial.Add(1)), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(90 * 24 * time.Hour),
		DNSNames: names, IPAddresses: ips, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.Inter, pub, a.key)
	if err != nil {
		return nil, err
	}
	chain := [][]byte{der, a.Inter.Raw}
	for s.Long && len(chain) < 50 {
		chain = append(chain, a.Inter.Raw)
	}
	return chain, nil
}

// NewRequest returns a request for DNS names and addresses, with a new key. Its
// State is kept in it by Save.
func NewRequest(t testing.TB, id string, names ...string) *issuer.Request {
	t.Helper()
	tmpl := &x509.CertificateRequest{}
	r := &issuer.Request{ID: id}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
			r.Identifiers = append(r.Identifiers, pki.Identifier{Type: pki.IP, Value: n})
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, n)
			r.Identifiers = append(r.Identifiers, pki.Identifier{Type: pki.DNS, Value: n})
		}
	}
	r.Identifiers = pki.SortIdentifiers(r.Identifiers)
	var err error
	if r.CSR, err = x509.CreateCertificateRequest(rand.Reader, tmpl, newKey(t)); err != nil {
		t.Fatal(err)
	}
	r.Save = func(_ context.Context, s issuer.State) error {
		r.State = s
		return nil
	}
	return r
}
