package pkcs11

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/fault"
)

func TestParseURI(t *testing.T) {
	slot := uint(327)
	for text, want := range map[string]URI{
		"pkcs11:": {},
		// Examples of RFC 7512 section 3, of what is supported.
		"pkcs11:object=my-pubkey;type=public": {Object: "my-pubkey", Type: "public"},
		"pkcs11:slot-id=327":                  {Slot: &slot},
		"pkcs11:token=Software%20PKCS%2311%20softtoken;manufacturer=Snake%20Oil,%20Inc.;model=1.0":     {Token: "Software PKCS#11 softtoken", Manufacturer: "Snake Oil, Inc.", Model: "1.0"},
		"pkcs11:token=My%20token%25%20created%20by%20Joe;object=my-certificate;type=cert;id=%69%95%3E": {Token: "My token% created by Joe", Object: "my-certificate", Type: "cert", ID: []byte{0x69, 0x95, 0x3e}},
		"pkcs11:token=a%3Bb;id=%00%ff":            {Token: "a;b", ID: []byte{0, 0xff}},
		"pkcs11:object=%C3%A9;serial=DECC0401648": {Object: "é", Serial: "DECC0401648"},
	} {
		got, err := ParseURI(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if diff := cmp.Diff(want, *got); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
	}
}

func TestParseURIRefuses(t *testing.T) {
	for _, bad := range []string{
		"", "object=x", "PKCS11:object=x", "pkcs11:object", "pkcs11:object=", "pkcs11:object=a;object=b", "pkcs11:;object=a", "pkcs11:object=a;",
		"pkcs11:object=a b", "pkcs11:object=a/b", "pkcs11:object=%", "pkcs11:object=%4", "pkcs11:object=%zz", "pkcs11:object=%+1", "pkcs11:object=a#b",
		"pkcs11:object=é", "pkcs11:object=%ff", "pkcs11:type=key", "pkcs11:slot-id=-1", "pkcs11:slot-id=x", "pkcs11:slot-id=99999999999",
		"pkcs11:library-version=3", "pkcs11:vendor=x", "pkcs11:Object=x", "pkcs11:object=a?module-path=/lib.so",
		"pkcs11:object=" + strings.Repeat("a", 256), "pkcs11:object=" + strings.Repeat("%61", 1000),
	} {
		if u, err := ParseURI(bad); !fault.Is(err, fault.Invalid) {
			t.Errorf("%.60q is %+v, %v", bad, u, err)
		}
	}
}

// TestPINNeverRepeated: a PIN that somebody wrote into a URI is not in the
// message about it.
func TestPINNeverRepeated(t *testing.T) {
	for _, bad := range []string{"pkcs11:token=x?pin-value=s3cret-pin", "pkcs11:pin-value=s3cret-pin", "pkcs11:token=x?pin-source=/s3cret-pin", "pkcs11:token=x?a=s3cret-pin&pin-value=s3cret-pin"} {
		_, err := ParseURI(bad)
		if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "PIN") || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// FuzzParseURI: whatever is accepted is written and read again as the same,
// and has no place for a PIN.
func FuzzParseURI(f *testing.F) {
	for _, seed := range []string{"pkcs11:", "pkcs11:token=a%20b;object=x;id=%01%02;type=private", "pkcs11:slot-id=3;serial=4;model=m;manufacturer=Snake%20Oil,%20Inc.",
		"pkcs11:object=%ff", "pkcs11:object=a;object=b", "pkcs11:x?pin-value=1", "pkcs11:id=%"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		u, err := ParseURI(text)
		if err != nil {
			if !fault.Is(err, fault.Invalid) {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		if strings.Contains(text, "?") || strings.Contains(text, "pin-") && !strings.Contains(text, "=") {
			t.Errorf("%q is accepted", text)
		}
		again, err := ParseURI(u.String())
		if err != nil {
			if len(u.String()) > maxURI { // escaping made it longer than may be
				return
			}
			t.Fatalf("%q is written as %q: %v", text, u, err)
		}
		if diff := cmp.Diff(u, again); diff != "" {
			t.Errorf("%q: %s", text, diff)
		}
	})
}

func TestParseToken(t *testing.T) {
	if u, err := parseToken("my token"); err != nil || u.Token != "my token" {
		t.Errorf("a label: %+v, %v", u, err)
	}
	if u, err := parseToken("pkcs11:serial=12"); err != nil || u.Serial != "12" || u.Token != "" {
		t.Errorf("a URI: %+v, %v", u, err)
	}
	for _, bad := range []string{"", "pkcs11:object=x", "pkcs11:id=%01", "pkcs11:type=private", "pkcs11:x"} {
		if _, err := parseToken(bad); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestClassify(t *testing.T) {
	for code, want := range map[uint]class{0: fine, ckrSessionHandleInvalid: onSession, ckrKeyHandleInvalid: onKey, ckrNotLoggedIn: onLogin,
		ckrSessionCount: onBusy, ckrDeviceRemoved: onDevice, ckrTokenNotPresent: onDevice, ckrPINLocked: onPIN,
		0x70 /* mechanism invalid */ : permanent, 0x80000001: onDevice, 0x1d0 /* unknown to the table */ : permanent} {
		if got := classify(fmt.Errorf("wrapped: %w", &returned{"C_Sign", code, "x"})); got != want {
			t.Errorf("%#x is of class %d, want %d", code, got, want)
		}
	}
	if classify(nil) != fine || classify(errors.New("other")) != permanent {
		t.Error("what is no return value")
	}
}

// TestPublicKeys: points with and without their wrapping, and what is none.
func TestPublicKeys(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), nil)
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	wrapped := append([]byte{4, 65}, point...)
	for _, p := range [][]byte{point, wrapped} {
		got, err := ecKey([]byte(paramsP256), p)
		if err != nil || !key.PublicKey.Equal(got) {
			t.Errorf("%x: %v, %v", p, got, err)
		}
	}
	for _, params := range []string{paramsEd25519, paramsEd25519OID} {
		if got, err := ecKey([]byte(params), append([]byte{4, 32}, make([]byte, 32)...)); err != nil || len(got.(ed25519.PublicKey)) != 32 {
			t.Errorf("Ed25519: %v, %v", got, err)
		}
	}
	for _, bad := range [][2]string{{paramsP256, string(point[:64])}, {paramsP256, ""}, {paramsP384, string(point)}, {paramsP256, string(make([]byte, 65))},
		{paramsEd25519, "short"}, {"", string(point)}, {"\x06\x05\x2b\x81\x04\x00\x23", string(point)}} {
		if got, err := ecKey([]byte(bad[0]), []byte(bad[1])); !errors.Is(err, errKey) {
			t.Errorf("%q: %v, %v", bad, got, err)
		}
	}
	if got, err := rsaKey(make([]byte, 256), []byte{1, 0, 1}); err != nil || got.(*rsa.PublicKey).E != 65537 {
		t.Errorf("RSA: %v, %v", got, err)
	}
	for _, e := range [][]byte{{}, {1}, make([]byte, 20), {1, 0, 0, 0, 0}, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}} {
		if _, err := rsaKey(make([]byte, 256), e); !errors.Is(err, errKey) {
			t.Errorf("the exponent %x: %v", e, err)
		}
	}
}

// FuzzECKey: no description of a key by a token makes us fall over.
func FuzzECKey(f *testing.F) {
	f.Add([]byte(paramsP256), []byte{4, 65, 4})
	f.Add([]byte(paramsEd25519), make([]byte, 32))
	f.Fuzz(func(t *testing.T, params, point []byte) {
		if key, err := ecKey(params, point); err == nil && key == nil {
			t.Error("neither a key nor an error")
		}
	})
}
