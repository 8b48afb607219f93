package fleet

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"time"
)

// Keys made for each kind; endpoints draw from them.
const (
	pooledEC  = 64
	pooledRSA = 8
)

// pki makes the certificates of a fleet.
type authority struct {
	now          time.Time
	root, issuer *x509.Certificate
	rootKey      crypto.Signer
	issuerKey    crypto.Signer
	stranger     *x509.Certificate // an issuer below a root that nobody knows
	strangerKey  crypto.Signer
	crlURL       string
	serial       int64
	p256, p384   []crypto.Signer
	rsa, weak    []crypto.Signer
	revoked      []x509.RevocationListEntry
	shared       *tls.Certificate // the wildcard in use
	sharedFor    int
}

// newAuthority makes keys, two roots and two issuers.
func newAuthority(now time.Time, crlURL string) (*authority, error) {
	a := &authority{now: now, crlURL: crlURL, serial: 1 << 32}
	var err error
	ec := func(c elliptic.Curve, n int) (out []crypto.Signer) {
		for range n {
			k, e := ecdsa.GenerateKey(c, rand.Reader)
			err = firstError(err, e)
			out = append(out, k)
		}
		return out
	}
	bits := func(size, n int) (out []crypto.Signer) {
		for range n {
			k, e := rsa.GenerateKey(rand.Reader, size)
			err = firstError(err, e)
			out = append(out, k)
		}
		return out
	}
	a.p256, a.p384, a.rsa, a.weak = ec(elliptic.P256(), pooledEC), ec(elliptic.P384(), pooledEC/8), bits(2048, pooledRSA), bits(1024, 1)
	keys := ec(elliptic.P256(), 4)
	if err != nil {
		return nil, fmt.Errorf("make fleet keys: %w", err)
	}
	a.rootKey, a.issuerKey, a.strangerKey = keys[0], keys[1], keys[2]
	if a.root, err = a.ca("Fleet Root", nil, a.rootKey, a.rootKey); err != nil {
		return nil, err
	}
	if a.issuer, err = a.ca("Fleet Issuing CA", a.root, a.issuerKey, a.rootKey); err != nil {
		return nil, err
	}
	strange, err := a.ca("Unknown Root", nil, keys[3], keys[3])
	if err != nil {
		return nil, err
	}
	a.stranger, err = a.ca("Unknown Issuing CA", strange, a.strangerKey, keys[3])
	return a, err
}

func firstError(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// ca makes a CA certificate; a nil parent makes a root.
func (a *authority) ca(name string, parent *x509.Certificate, key, signer crypto.Signer) (*x509.Certificate, error) {
	a.serial++
	t := &x509.Certificate{
		SerialNumber: big.NewInt(a.serial), Subject: pkix.Name{CommonName: name}, NotBefore: a.now.AddDate(-1, 0, 0), NotAfter: a.now.AddDate(9, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	if parent == nil {
		parent = t
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, key.Public(), signer)
	if err != nil {
		return nil, fmt.Errorf("make fleet CA: %w", err)
	}
	return x509.ParseCertificate(der)
}

// certificates returns what an endpoint of the kind serves, or nil.
func (a *authority) certificates(kind Kind, i int, name string) ([]*tls.Certificate, error) {
	ec := a.p256[i%len(a.p256)]
	switch kind {
	case Wildcard:
		return a.wildcard(ec)
	case Dual:
		return a.leaves(name, ec, a.rsa[i%len(a.rsa)])
	case RSA2048:
		return a.leaves(name, a.rsa[i%len(a.rsa)])
	case P384:
		return a.leaves(name, a.p384[i%len(a.p384)])
	case WeakKey:
		return a.leaves(name, a.weak[0])
	}
	t := a.template(name)
	parent, signer, above := a.issuer, a.issuerKey, [][]byte{a.issuer.Raw}
	switch kind {
	case Expired:
		t.NotBefore, t.NotAfter = a.now.AddDate(0, 0, -100), a.now.AddDate(0, 0, -1-i%60)
	case NotYetValid:
		t.NotBefore = a.now.AddDate(0, 0, 1+i%30)
	case SelfSigned:
		t.Subject, t.CRLDistributionPoints = pkix.Name{CommonName: name}, nil
		parent, signer, above = t, ec, nil
	case WrongHost:
		t.DNSNames = []string{"other-" + name}
	case NoIntermediate:
		above = nil
	case UnknownRoot:
		t.CRLDistributionPoints = nil
		parent, signer, above = a.stranger, a.strangerKey, [][]byte{a.stranger.Raw}
	case Revoked:
		a.revoked = append(a.revoked, x509.RevocationListEntry{SerialNumber: t.SerialNumber, RevocationTime: a.now.Add(-time.Hour), ReasonCode: 4})
	}
	return a.sign(t, parent, ec, signer, above)
}

// template is a sound leaf.
func (a *authority) template(names ...string) *x509.Certificate {
	a.serial++
	return &x509.Certificate{
		SerialNumber: big.NewInt(a.serial), DNSNames: names, NotBefore: a.now.AddDate(0, 0, -10), NotAfter: a.now.AddDate(0, 0, 37+int(a.serial%40)),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
		CRLDistributionPoints: []string{a.crlURL},
	}
}

// leaves makes a sound certificate for each key.
func (a *authority) leaves(name string, keys ...crypto.Signer) (out []*tls.Certificate, err error) {
	for _, k := range keys {
		one, err := a.sign(a.template(name), a.issuer, k, a.issuerKey, [][]byte{a.issuer.Raw})
		if err != nil {
			return nil, err
		}
		out = append(out, one...)
	}
	return out, nil
}

// wildcard returns a certificate that wildcardNames endpoints share.
func (a *authority) wildcard(key crypto.Signer) ([]*tls.Certificate, error) {
	if a.shared == nil || a.sharedFor == wildcardNames {
		one, err := a.leaves("*."+wildcardZone, key)
		if err != nil {
			return nil, err
		}
		a.shared, a.sharedFor = one[0], 0
	}
	a.sharedFor++
	return []*tls.Certificate{a.shared}, nil
}

// sign makes the certificate of a template.
func (a *authority) sign(t, parent *x509.Certificate, key, signer crypto.Signer, above [][]byte) ([]*tls.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, t, parent, key.Public(), signer)
	if err != nil {
		return nil, fmt.Errorf("make fleet certificate: %w", err)
	}
	return []*tls.Certificate{{Certificate: append([][]byte{der}, above...), PrivateKey: key}}, nil
}

// crl is the issuer's CRL.
func (a *authority) crl() ([]byte, error) {
	t := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: a.now.Add(-time.Hour), NextUpdate: a.now.AddDate(0, 0, 7), RevokedCertificateEntries: a.revoked}
	der, err := x509.CreateRevocationList(rand.Reader, t, a.issuer, a.issuerKey)
	if err != nil {
		return nil, fmt.Errorf("make fleet CRL: %w", err)
	}
	return der, nil
}
