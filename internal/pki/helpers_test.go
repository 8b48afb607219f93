package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/mldsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"chancery/internal/fault"
)

// keyCache makes each kind of key once per test binary; RSA takes a while.
var keyCache sync.Map

func testKey(t testing.TB, kt KeyType) crypto.Signer {
	t.Helper()
	once, _ := keyCache.LoadOrStore(kt, sync.OnceValues(func() (crypto.Signer, error) { return makeKey(kt) }))
	key, err := once.(func() (crypto.Signer, error))()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func makeKey(kt KeyType) (crypto.Signer, error) {
	switch kt {
	case P256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case P384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case RSA2048:
		return rsa.GenerateKey(rand.Reader, 2048)
	case RSA3072:
		return rsa.GenerateKey(rand.Reader, 3072)
	case RSA4096:
		return rsa.GenerateKey(rand.Reader, 4096)
	case MLDSA44:
		return mldsa.GenerateKey(mldsa.MLDSA44())
	case MLDSA65:
		return mldsa.GenerateKey(mldsa.MLDSA65())
	case MLDSA87:
		return mldsa.GenerateKey(mldsa.MLDSA87())
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	return key, err
}

func testSPKI(t testing.TB, pub crypto.PublicKey) []byte {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return spki
}

// testNow is an instant with a fraction of a second, away from UTC.
var testNow = time.Date(2026, 11, 20, 14, 3, 7, 123456789, time.FixedZone("CET", 3600))

// testCA is a self-signed authority.
type testCA struct {
	key  crypto.Signer
	cert *x509.Certificate
	info IssuerInfo
}

// newTestCA makes a root with this package's own encoder.
func newTestCA(t testing.TB, kt KeyType) *testCA {
	t.Helper()
	key := testKey(t, kt)
	name, err := MarshalName(pkix.Name{Country: []string{"CH"}, Organization: []string{"Chancery & Test*"}, CommonName: "Root " + string(kt)})
	if err != nil {
		t.Fatal(err)
	}
	enc, err := NewEncoder(IssuerInfo{Name: name, KeyType: kt}, CertSpec{
		CA: true, PathLen: -1, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
	})
	if err != nil {
		t.Fatal(err)
	}
	from, to := Validity(testNow, 10*365*24*time.Hour, testNow.AddDate(20, 0, 0))
	spki := testSPKI(t, key.Public())
	cert := issue(t, enc, key, Leaf{Serial: "\x01", NotBefore: from, NotAfter: to, SPKI: spki, Subject: name})
	return &testCA{key, cert, IssuerInfo{Name: cert.RawSubject, KeyID: cert.SubjectKeyId, KeyType: kt}}
}

// issue encodes and signs leaf and parses the result.
func issue(t testing.TB, enc *Encoder, key crypto.Signer, leaf Leaf) *x509.Certificate {
	t.Helper()
	tbs, err := enc.TBS(leaf)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := SignTBS(key, tbs)
	if err != nil {
		t.Fatal(err)
	}
	kt, err := KeyTypeOf(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(AssembleCertificate(tbs, kt, sig))
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// wantFault checks the class of an error.
func wantFault(t *testing.T, err error, code fault.Code) {
	t.Helper()
	if !fault.Is(err, code) {
		t.Errorf("error is %v, want a fault %s", err, code)
	}
}

// openssl runs the foreign implementation that a test compares with.
func openssl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(opensslPath(t), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("openssl %v: %v\n%s", args, err, out)
	}
	return string(out)
}

func opensslPath(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("SKIPPED: the openssl binary is not installed; apt-get install openssl")
	}
	return path
}

// writeFile writes a file into the test's directory and returns its path.
func writeFile(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func bigInt(t *testing.T, text string) *big.Int {
	t.Helper()
	n, ok := new(big.Int).SetString(text, 0)
	if !ok {
		t.Fatalf("bad number %s", text)
	}
	return n
}
