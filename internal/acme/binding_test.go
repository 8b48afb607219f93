package acme

import (
	"crypto/rand"
	"errors"
	"strings"
	"testing"

	"chancery/internal/fault"
)

const (
	newAccountURL = "https://ca.test/acme/main/new-account"
	keyChangeURL  = "https://ca.test/acme/main/key-change"
)

// outer is a verified message of s to url with payload.
func outer(t testing.TB, s *Signer, url, kid string, payload []byte) *JWS {
	t.Helper()
	body, err := s.Sign(Header{Nonce: testNonce, URL: url, KID: kid}, payload)
	if err != nil {
		t.Fatal(err)
	}
	j, err := ParseJWS(body)
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Verify(s.PublicKey()); err != nil {
		t.Fatal(err)
	}
	return j
}

func macKey(size int) []byte {
	key := make([]byte, size)
	rand.Read(key)
	return key
}

func bind(t testing.TB, url, kid string, key []byte, alg Algorithm, account *PublicKey) []byte {
	t.Helper()
	b, err := SignEAB(url, kid, key, alg, account)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestExternalAccountBinding(t *testing.T) { // RFC 8555 section 7.3.4
	account, other := newSigner(t, ES256), newSigner(t, ES256)
	key := macKey(64)
	request := outer(t, account, newAccountURL, "", []byte("{}"))
	lookup := func(kid string) ([]byte, error) {
		if kid == "kid-1" {
			return key, nil
		}
		return nil, nil
	}
	for _, alg := range []Algorithm{HS256, HS384, HS512} {
		kid, err := VerifyEAB(request, account.PublicKey(), bind(t, newAccountURL, "kid-1", key, alg, account.PublicKey()), lookup)
		if err != nil || kid != "kid-1" {
			t.Errorf("%s: kid %q, error %v", alg, kid, err)
		}
	}
	good := string(bind(t, newAccountURL, "kid-1", key, HS256, account.PublicKey()))
	signed := string(sign(t, account, Header{URL: newAccountURL, KID: "kid-1"}, string(account.PublicKey().JWK())))
	for _, tt := range []struct {
		name, binding string
		code          fault.Code
	}{
		{"url of another resource", string(bind(t, newAccountURL+"x", "kid-1", key, HS256, account.PublicKey())), fault.Malformed},
		{"another account key", string(bind(t, newAccountURL, "kid-1", key, HS256, other.PublicKey())), fault.Malformed},
		{"wrong MAC key", string(bind(t, newAccountURL, "kid-1", macKey(64), HS256, account.PublicKey())), fault.Unauthorized},
		{"unknown kid", string(bind(t, newAccountURL, "kid-2", key, HS256, account.PublicKey())), fault.Unauthorized},
		{"signature instead of MAC", signed, fault.BadSignatureAlgorithm},
		{"cut MAC", strings.Replace(good, `"signature":"`, `"signature":"AAAA`, 1), fault.Unauthorized},
		{"not a JWS", "{}", fault.Malformed},
		{"none at all", "", fault.Malformed},
		{"with a nonce", rawJWS(`{"alg":"HS256","nonce":"AAAA","kid":"kid-1","url":"`+newAccountURL+`"}`, "{}"), fault.Malformed},
		{"with a jwk", rawJWS(`{"alg":"HS256","jwk":{},"url":"`+newAccountURL+`"}`, "{}"), fault.Malformed},
		{"payload not a JWK", rawJWS(`{"alg":"HS256","kid":"kid-1","url":"`+newAccountURL+`"}`, "[]"), fault.Malformed},
		{"alg none", rawJWS(`{"alg":"none","kid":"kid-1","url":"`+newAccountURL+`"}`, "{}"), fault.BadSignatureAlgorithm},
	} {
		t.Run(tt.name, func(t *testing.T) {
			kid, err := VerifyEAB(request, account.PublicKey(), []byte(tt.binding), lookup)
			wantCode(t, err, tt.code)
			if kid != "" {
				t.Errorf("kid %q returned with an error", kid)
			}
		})
	}
}

func TestExternalAccountBindingHidesWhichKidExists(t *testing.T) {
	account := newSigner(t, ES256)
	request := outer(t, account, newAccountURL, "", nil)
	binding := bind(t, newAccountURL, "kid-1", macKey(32), HS256, account.PublicKey())
	_, unknown := VerifyEAB(request, account.PublicKey(), binding, func(string) ([]byte, error) { return nil, nil })
	_, short := VerifyEAB(request, account.PublicKey(), binding, func(string) ([]byte, error) { return macKey(31), nil })
	_, wrong := VerifyEAB(request, account.PublicKey(), binding, func(string) ([]byte, error) { return macKey(32), nil })
	if unknown == nil || wrong == nil || short == nil || unknown.Error() != wrong.Error() || short.Error() != wrong.Error() {
		t.Errorf("unknown kid %v, wrong MAC %v, short key %v; want the same error", unknown, wrong, short)
	}
}

func TestExternalAccountBindingKeyLength(t *testing.T) { // RFC 7518 section 3.2
	account := newSigner(t, ES256)
	request := outer(t, account, newAccountURL, "", nil)
	for alg, size := range map[Algorithm]int{HS256: 32, HS384: 48, HS512: 64} {
		for _, n := range []int{size - 1, size, size + 1, 3 * size} {
			key := macKey(n)
			binding := bind(t, newAccountURL, "k", key, alg, account.PublicKey())
			_, err := VerifyEAB(request, account.PublicKey(), binding, func(string) ([]byte, error) { return key, nil })
			if n >= size && err != nil {
				t.Errorf("%s with %d bytes: %v", alg, n, err)
			}
			if n < size {
				wantCode(t, err, fault.Unauthorized)
			}
		}
	}
}

func TestExternalAccountBindingLookupFails(t *testing.T) {
	account := newSigner(t, ES256)
	cause := errors.New("database is away")
	binding := bind(t, newAccountURL, "k", macKey(32), HS256, account.PublicKey())
	_, err := VerifyEAB(outer(t, account, newAccountURL, "", nil), account.PublicKey(), binding, func(string) ([]byte, error) { return nil, cause })
	if !errors.Is(err, cause) {
		t.Errorf("error %v, want the one of lookup", err)
	}
}

func TestSignEABRefuses(t *testing.T) {
	pub := newSigner(t, ES256).PublicKey()
	for _, tt := range []struct {
		kid string
		key []byte
		alg Algorithm
	}{{"", macKey(32), HS256}, {"k", nil, HS256}, {"k", macKey(32), ES256}} {
		if _, err := SignEAB(newAccountURL, tt.kid, tt.key, tt.alg, pub); err == nil {
			t.Errorf("kid %q, %d bytes, %s: accepted", tt.kid, len(tt.key), tt.alg)
		}
	}
}

func TestKeyChange(t *testing.T) { // RFC 8555 section 7.3.5
	old, next := newSigner(t, ES256), newSigner(t, EdDSA)
	inner, err := next.KeyChange(keyChangeURL, testKID, old.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	key, err := VerifyKeyChange(outer(t, old, keyChangeURL, testKID, inner), testKID, old.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	if !key.Equal(next.PublicKey()) {
		t.Errorf("new key %s, want %s", key.Thumbprint, next.PublicKey().Thumbprint)
	}
}

func TestKeyChangeIgnoresInnerNonce(t *testing.T) { // RFC 8555 section 7.3.5
	old, next := newSigner(t, ES256), newSigner(t, ES256)
	inner := sign(t, next, Header{URL: keyChangeURL, Nonce: "of-no-matter"}, `{"account":"`+testKID+`","oldKey":`+string(old.PublicKey().JWK())+`}`)
	if _, err := VerifyKeyChange(outer(t, old, keyChangeURL, testKID, inner), testKID, old.PublicKey()); err != nil {
		t.Error(err)
	}
}

func TestKeyChangeRefuses(t *testing.T) { // RFC 8555 section 7.3.5, the numbered checks
	old, next, third := newSigner(t, ES256), newSigner(t, ES256), newSigner(t, ES256)
	oldJWK := string(old.PublicKey().JWK())
	payload := `{"account":"` + testKID + `","oldKey":` + oldJWK + `}`
	good := sign(t, next, Header{URL: keyChangeURL}, payload)
	forged := strings.Replace(string(good), `"signature":"`, `"signature":"AAAA`, 1)
	for _, tt := range []struct {
		name  string
		inner []byte
		code  fault.Code
	}{
		{"inner message not a JWS", []byte("{}"), fault.Malformed},
		{"empty payload", nil, fault.Malformed},
		{"inner message with a kid", sign(t, next, Header{URL: keyChangeURL, KID: testKID}, payload), fault.Malformed},
		{"inner signature wrong", []byte(forged), fault.Malformed},
		{"inner url differs", sign(t, next, Header{URL: keyChangeURL + "x"}, payload), fault.Malformed},
		{"account differs", sign(t, next, Header{URL: keyChangeURL}, strings.Replace(payload, testKID, testKID+"1", 1)), fault.Malformed},
		{"account missing", sign(t, next, Header{URL: keyChangeURL}, `{"oldKey":`+oldJWK+`}`), fault.Malformed},
		{"oldKey is another key", sign(t, next, Header{URL: keyChangeURL}, `{"account":"`+testKID+`","oldKey":`+string(third.PublicKey().JWK())+`}`), fault.Malformed},
		{"oldKey missing", sign(t, next, Header{URL: keyChangeURL}, `{"account":"`+testKID+`"}`), fault.Malformed},
		{"inner payload an array", sign(t, next, Header{URL: keyChangeURL}, `[]`), fault.Malformed},
		{"new key is weak", []byte(rawJWS(`{"alg":"RS256","url":"`+keyChangeURL+`","jwk":{"kty":"RSA","n":"AQ","e":"AQAB"}}`, payload)), fault.BadPublicKey},
		{"new key of another algorithm", []byte(rawJWS(`{"alg":"ES384","url":"`+keyChangeURL+`","jwk":`+oldJWK+`}`, payload)), fault.BadSignatureAlgorithm},
	} {
		t.Run(tt.name, func(t *testing.T) {
			key, err := VerifyKeyChange(outer(t, old, keyChangeURL, testKID, tt.inner), testKID, old.PublicKey())
			wantCode(t, err, tt.code)
			if key != nil {
				t.Error("a key was returned with an error")
			}
		})
	}
}

func FuzzVerifyEAB(f *testing.F) {
	account := newSigner(f, ES256)
	request := outer(f, account, newAccountURL, "", nil)
	f.Add(bind(f, newAccountURL, "k", macKey(32), HS256, account.PublicKey()))
	f.Add([]byte(rawJWS(`{"alg":"HS256","kid":"k","url":"`+newAccountURL+`"}`, "{}")))
	key := macKey(32)
	f.Fuzz(func(t *testing.T, binding []byte) {
		kid, err := VerifyEAB(request, account.PublicKey(), binding, func(string) ([]byte, error) { return key, nil })
		if err == nil || kid != "" {
			t.Errorf("a binding under an unknown key was accepted for %q", kid)
		}
	})
}
