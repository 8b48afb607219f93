package verdict_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"encoding/asn1"
	"slices"
	"testing"

	"chancery/internal/scan/verdict"
)

// The library no longer makes SHA-1 signatures: the algorithm of a finished
// certificate is exchanged and the rest signed again.
func TestWeakSignature(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	root := issue(t, nil, "root", ca)
	mid := issueFor(t, root, "mid", key, ca)
	sha256WithRSA, sha1WithRSA := []byte("\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b"), []byte("\x2a\x86\x48\x86\xf7\x0d\x01\x01\x05")
	tbs := bytes.ReplaceAll(issue(t, mid, "x", leaf).cert.RawTBSCertificate, sha256WithRSA, sha1WithRSA)
	sum := sha1.Sum(tbs)
	sig, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA1, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	algorithm := append([]byte("\x30\x0d\x06\x09"), append(sha1WithRSA, 5, 0)...)
	der, err := asn1.Marshal([]any{asn1.RawValue{FullBytes: tbs}, asn1.RawValue{FullBytes: algorithm}, asn1.BitString{Bytes: sig, BitLength: 8 * len(sig)}})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	j := verdict.New(verdict.Config{Roots: []verdict.Roots{{Name: "ours", Pool: pool(root)}}})
	if v := j.Judge([]*x509.Certificate{cert, mid.cert}, "a.test", 0, now); !slices.Equal(v.Problems, []verdict.Problem{verdict.WeakSignature}) {
		t.Errorf("%v, want only the weak signature", v.Problems)
	}
}
