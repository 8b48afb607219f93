package verdict

import (
	"crypto/dsa"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"

	"chancery/internal/pki"
)

// Keys below these sizes are weak (NIST SP 800-131A).
const (
	minRSABits   = 2048
	minCurveBits = 256
)

// weakKey reports whether the key of cert is too short, of a kind that is no
// longer sound, or known to be made badly. Keys that our own CA would refuse
// for their rarity alone, such as P-521, are not weak.
func weakKey(cert *x509.Certificate) bool {
	switch key := cert.PublicKey.(type) {
	case *rsa.PublicKey:
		if key.N.BitLen() < minRSABits {
			return true
		}
		if _, err := pki.KeyTypeOf(key); err != nil {
			return false // an unusual size
		}
		return pki.CheckKey(key) != nil
	case *ecdsa.PublicKey:
		return key.Curve.Params().BitSize < minCurveBits
	case *dsa.PublicKey:
		return true
	}
	return false
}
