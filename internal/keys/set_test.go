package keys

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"math/big"
	"testing"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/fault"
	"chancery/internal/pki"
)

// TestSet: new keys are made at home, and every key is opened where it is.
func TestSet(t *testing.T) {
	here, there := openTestStore(t, newDir(t)), openTestStore(t, newDir(t))
	old, err := there.Create(t.Context(), "old", pki.P256)
	if err != nil {
		t.Fatal(err)
	}
	s := NewSet("file", map[string]Store{"file": here, "token": renamed{there}})
	ref, err := s.Create(t.Context(), "new", pki.P256)
	if err != nil || ref != "file:new" {
		t.Fatalf("%s, %v", ref, err)
	}
	refs, err := s.List(t.Context())
	if diff := cmp.Diff([]string{"file:new", "file:old"}, refs); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
	if _, err := s.Open(t.Context(), ref); err != nil {
		t.Error(err)
	}
	if _, err := s.Open(t.Context(), old); !fault.Is(err, fault.NotFound) {
		t.Errorf("a key of the other store by the scheme of this one: %v", err)
	}
	if _, err := s.Open(t.Context(), "token:old"); !fault.Is(err, fault.NotFound) {
		t.Errorf("the other store is asked: %v", err)
	}
	if _, err := s.Open(t.Context(), "pkcs11:object=x"); !fault.Is(err, fault.NotFound) {
		t.Errorf("a store that is not configured: %v", err)
	}
}

// renamed is a store that is reached by another scheme.
type renamed struct{ *FileStore }

// TestDERSignature compares with the standard library, for halves with and
// without leading zeros and high bits.
func TestDERSignature(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("message"))
	for range 600 { // one half in 256 begins with a zero
		r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
		if err != nil {
			t.Fatal(err)
		}
		raw := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
		der, err := DERSignature(raw, 32)
		if err != nil || !ecdsa.VerifyASN1(&key.PublicKey, digest[:], der) {
			t.Fatalf("%x: %x, %v", raw, der, err)
		}
	}
	got, err := DERSignature(append(big.NewInt(1).FillBytes(make([]byte, 32)), big.NewInt(0x80).FillBytes(make([]byte, 32))...), 32)
	if want := []byte{0x30, 7, 2, 1, 1, 2, 2, 0, 0x80}; err != nil || !bytes.Equal(got, want) {
		t.Errorf("%x, %v", got, err)
	}
	for _, n := range []int{0, 63, 65, 96} {
		if _, err := DERSignature(make([]byte, n), 32); err == nil {
			t.Errorf("%d octets are a signature", n)
		}
	}
}

func TestCheckDigest(t *testing.T) {
	if h, err := CheckDigest(make([]byte, 48), crypto.SHA384); err != nil || h != crypto.SHA384 {
		t.Errorf("%v, %v", h, err)
	}
	for _, bad := range []struct {
		n    int
		opts crypto.SignerOpts
	}{{31, crypto.SHA256}, {32, crypto.SHA384}, {20, crypto.SHA1}, {32, crypto.Hash(0)}, {32, &rsa.PSSOptions{Hash: crypto.SHA256}}} {
		if _, err := CheckDigest(make([]byte, bad.n), bad.opts); err == nil {
			t.Errorf("%d octets of %v are signed", bad.n, bad.opts)
		}
	}
}
