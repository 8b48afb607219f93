package ctwatch

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"math/big"
	"testing"
	"time"
)

// benchTile is a data tile of 256 entries, half of them precertificates, with
// certificates of the size that public logs have (RSA issuer, two names, the
// usual extensions).
func benchTile(b *testing.B) []byte {
	b.Helper()
	issuer, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		b.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	parent := &x509.Certificate{Subject: pkix.Name{Country: []string{"US"}, Organization: []string{"Somebody Encrypts"}, CommonName: "E7"}}
	template := &x509.Certificate{SerialNumber: new(big.Int).Lsh(big.NewInt(7), 130), Subject: pkix.Name{CommonName: "www.somewhere.example"}, DNSNames: []string{"somewhere.example", "www.somewhere.example"},
		NotBefore: time.Now(), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		SubjectKeyId: make([]byte, 20), AuthorityKeyId: make([]byte, 20), CRLDistributionPoints: []string{"http://c.somebody.example/7.crl"}, IssuingCertificateURL: []string{"http://i.somebody.example/"},
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}, Value: make([]byte, 240)}}}
	cert, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), issuer)
	if err != nil {
		b.Fatal(err)
	}
	var out []byte
	field := func(v []byte) { out = append(append(out, byte(len(v)>>16), byte(len(v)>>8), byte(len(v))), v...) }
	for i := range window {
		out = binary.BigEndian.AppendUint64(out, uint64(time.Now().UnixMilli()))
		if i%2 == 0 {
			out = append(out, 0, 0)
			field(cert)
			out = append(out, 0, 0)
		} else {
			out = append(append(out, 0, 1), make([]byte, 32)...)
			field(tbsOf(cert))
			out = append(out, 0, 0)
			field(cert)
		}
		out = append(append(out, 0, 64), make([]byte, 64)...) // two fingerprints
	}
	return out
}
