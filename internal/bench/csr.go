package bench

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"chancery/internal/pki"
)

// DER of the parts of a request that never change.
const (
	p256SPKI     = "\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00"
	oidExtReq    = "\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x09\x0e" // extensionRequest (RFC 2985)
	oidSAN       = "\x06\x03\x55\x1d\x11"
	emptySubject = "\x30\x00"
)

// newCSR returns a PKCS #10 request (RFC 2986) for DNS names: an empty
// subject, the names as subjectAltName. x509.CreateCertificateRequest spends
// twice the signature on reflection and on checking itself.
func newCSR(key crypto.Signer, names []string) ([]byte, error) {
	kt, err := pki.KeyTypeOf(key.Public())
	if err != nil {
		return nil, err
	}
	spki, err := marshalSPKI(key.Public())
	if err != nil {
		return nil, err
	}
	tbs, err := csrInfo(spki, names)
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	sig, err := pki.SignTBS(key, tbs)
	if err != nil {
		return nil, err
	}
	// A request has the outer form of a certificate: content, algorithm, signature.
	return pki.AssembleCertificate(tbs, kt, sig), nil
}

// marshalSPKI is x509.MarshalPKIXPublicKey with a short cut for P-256.
func marshalSPKI(pub crypto.PublicKey) ([]byte, error) {
	if key, ok := pub.(*ecdsa.PublicKey); ok && key.Curve == elliptic.P256() {
		point, err := key.Bytes()
		if err != nil {
			return nil, fmt.Errorf("encode public key: %w", err)
		}
		return append([]byte(p256SPKI), point...), nil
	}
	return x509.MarshalPKIXPublicKey(pub)
}

// csrInfo encodes the CertificationRequestInfo.
func csrInfo(spki []byte, names []string) ([]byte, error) {
	b := cryptobyte.NewBuilder(make([]byte, 0, len(spki)+64+48*len(names)))
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(0)
		b.AddBytes([]byte(emptySubject))
		b.AddBytes(spki)
		b.AddASN1(asn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) { // Attribute
				b.AddBytes([]byte(oidExtReq))
				b.AddASN1(asn1.SET, func(b *cryptobyte.Builder) {
					b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) { // Extensions
						addSAN(b, names)
					})
				})
			})
		})
	})
	return b.Bytes()
}

// addSAN adds the subjectAltName extension.
func addSAN(b *cryptobyte.Builder, names []string) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes([]byte(oidSAN))
		b.AddASN1(asn1.OCTET_STRING, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				for _, n := range names {
					b.AddASN1(asn1.Tag(2).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes([]byte(n)) })
				}
			})
		})
	})
}
