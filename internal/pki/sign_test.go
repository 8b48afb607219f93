package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/mldsa"
	"crypto/rand"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"io"
	"testing"

	"chancery/internal/fault"
)

func TestSignVerify(t *testing.T) {
	message := []byte("to be signed")
	for _, kt := range KeyTypes {
		key := testKey(t, kt)
		sig, err := SignTBS(key, message)
		if err != nil {
			t.Fatal(err)
		}
		if err := VerifyTBS(key.Public(), message, sig); err != nil {
			t.Errorf("%s: %v", kt, err)
		}
		for _, other := range KeyTypes {
			if other != kt {
				if err := VerifyTBS(testKey(t, other).Public(), message, sig); !errors.Is(err, ErrSignature) {
					t.Errorf("signature of %s under a key of %s: %v", kt, other, err)
				}
			}
		}
		sig[len(sig)/2] ^= 1
		for _, bad := range [][]byte{sig, nil, sig[:len(sig)-1], append(sig, 0)} {
			if err := VerifyTBS(key.Public(), message, bad); !errors.Is(err, ErrSignature) {
				t.Errorf("%s: a broken signature of %d octets: %v", kt, len(bad), err)
			}
		}
	}
}

// TestSignatureAlgorithms compares the constants with the registered OIDs.
func TestSignatureAlgorithms(t *testing.T) {
	type identifier struct {
		ID     asn1.ObjectIdentifier
		Params asn1.RawValue `asn1:"optional"`
	}
	for kt, want := range map[KeyType]string{
		P256: "1.2.840.10045.4.3.2", P384: "1.2.840.10045.4.3.3", RSA2048: "1.2.840.113549.1.1.11", RSA3072: "1.2.840.113549.1.1.11", RSA4096: "1.2.840.113549.1.1.11",
		Ed25519: "1.3.101.112", MLDSA44: "2.16.840.1.101.3.4.3.17", MLDSA65: "2.16.840.1.101.3.4.3.18", MLDSA87: "2.16.840.1.101.3.4.3.19",
	} {
		var got identifier
		rest, err := asn1.Unmarshal([]byte(kt.SignatureAlgorithm()), &got)
		if err != nil || len(rest) > 0 || got.ID.String() != want {
			t.Errorf("%s: %v, %v", kt, got.ID, err)
		}
		if wantParams := map[bool]string{true: "0500", false: ""}[kt.RSA()]; hex.EncodeToString(got.Params.FullBytes) != wantParams {
			t.Errorf("%s: parameters %x", kt, got.Params.FullBytes)
		}
	}
	if KeyType("dsa").SignatureAlgorithm() != "" {
		t.Error("an unknown type has an algorithm")
	}
}

func TestKeyTypeWords(t *testing.T) {
	for _, kt := range KeyTypes {
		pub := testKey(t, kt).Public()
		if got, err := KeyTypeOf(pub); err != nil || got != kt || !kt.Valid() || KeyDescription(pub) != string(kt) {
			t.Errorf("%s: recognised as %s (%s), %v", kt, got, KeyDescription(pub), err)
		}
		_, isMLDSA := pub.(*mldsa.PublicKey)
		if kt.PostQuantum() != isMLDSA {
			t.Errorf("%s: post-quantum is %v", kt, kt.PostQuantum())
		}
	}
	if KeyType("p521").Valid() || !DNS.Valid() || IdentifierType("uri").Valid() {
		t.Error("Valid is wrong")
	}
	key, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if KeyDescription(key.Public()) != "p521" {
		t.Errorf("described as %s", KeyDescription(key.Public()))
	}
	_, err = SignTBS(key, nil)
	wantFault(t, err, fault.BadPublicKey)
	wantFault(t, VerifyTBS(key.Public(), nil, nil), fault.BadPublicKey)
}

// TestSignRepeatable: two replicas make one answer of one entity tag, but for
// keys whose algorithm is random by itself.
func TestSignRepeatable(t *testing.T) {
	message := []byte("to be signed")
	for _, kt := range KeyTypes {
		key := testKey(t, kt)
		var sigs [2][]byte
		for i := range sigs {
			var err error
			if sigs[i], err = SignRepeatable(key, message); err != nil {
				t.Fatal(err)
			}
			if err := VerifyTBS(key.Public(), message, sigs[i]); err != nil {
				t.Errorf("%s: %v", kt, err)
			}
		}
		if ec := kt == P256 || kt == P384; ec && !bytes.Equal(sigs[0], sigs[1]) {
			t.Errorf("%s: two signatures over the same bytes", kt)
		}
	}
}

// awaySigner is a device that has gone away.
type awaySigner struct{ crypto.Signer }

func (awaySigner) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, io.ErrClosedPipe
}

func TestSignTBSKeepsTheCause(t *testing.T) {
	if _, err := SignTBS(awaySigner{testKey(t, P256)}, nil); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("%v", err)
	}
}

func TestReasonNames(t *testing.T) {
	for reason, want := range map[Reason]string{0: "unspecified", 1: "keyCompromise", 5: "cessationOfOperation", 10: "aACompromise", 7: "reason 7", 11: "reason 11", -1: "reason -1"} {
		if reason.String() != want || reason.Valid() != (want[:3] != "rea") {
			t.Errorf("%d: %q, valid %v", int(reason), reason, reason.Valid())
		}
	}
	if OCSPGood.String() != "good" || OCSPRevoked.String() != "revoked" || OCSPUnknown.String() != "unknown" {
		t.Error("OCSP statuses have other names")
	}
}

func TestKeyIDRefuses(t *testing.T) {
	for _, spki := range [][]byte{nil, {0x30, 0}, append(testSPKI(t, testKey(t, P256).Public()), 0)} {
		_, err := KeyID(spki)
		wantFault(t, err, fault.BadPublicKey)
		if _, err := NewCertIDHashes(nil, spki); err == nil {
			t.Errorf("%x was hashed", spki)
		}
	}
}
