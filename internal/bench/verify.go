package bench

import (
	"crypto"
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"chancery/internal/pki"
)

// verifyChain checks a downloaded chain: it leads to a root, and the leaf is
// for exactly our names and our key. Errors are errVerify.
func verifyChain(text []byte, key crypto.PublicKey, names []string, roots *x509.CertPool, now time.Time) error {
	ders, err := pki.DecodeChain(text, 1<<20, 10)
	if err != nil {
		return fmt.Errorf("%w: %w", errVerify, err)
	}
	certs := make([]*x509.Certificate, 0, len(ders))
	for _, der := range ders {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("%w: %w", errVerify, err)
		}
		certs = append(certs, c)
	}
	leaf, intermediates := certs[0], x509.NewCertPool()
	for _, c := range certs[1:] {
		intermediates.AddCert(c)
	}
	// CAs backdate, none postdates: a clock that is a little off is no finding.
	opts := x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: now.Add(time.Minute), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	if _, err := leaf.Verify(opts); err != nil {
		return fmt.Errorf("%w: %w", errVerify, err)
	}
	if pub, ok := key.(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(leaf.PublicKey) {
		return fmt.Errorf("%w: the certificate is for another key", errVerify)
	}
	if !slices.Equal(slices.Sorted(slices.Values(names)), slices.Sorted(slices.Values(leaf.DNSNames))) {
		return fmt.Errorf("%w: the certificate is for %v, not for %v", errVerify, leaf.DNSNames, names)
	}
	return nil
}
