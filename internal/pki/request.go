package pki

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"fmt"
)

// CreateRequest makes a PKCS #10 request (RFC 2986), in DER, for DNS names and
// addresses. There is no common name: RFC 5280 section 4.2.1.6 has the names in
// subjectAltName, and no CA needs more.
func CreateRequest(key crypto.Signer, names []Identifier) ([]byte, error) {
	t := &x509.CertificateRequest{}
	for _, n := range names {
		if n.Type == IP {
			t.IPAddresses = append(t.IPAddresses, n.Addr().AsSlice())
		} else {
			t.DNSNames = append(t.DNSNames, n.Value)
		}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, t, key)
	if err != nil {
		return nil, fmt.Errorf("make certificate request: %w", err)
	}
	return der, nil
}
