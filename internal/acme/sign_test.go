package acme

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"golang.org/x/crypto/acme"

	"chancery/internal/fault"
)

// brokenKey is a key store whose answers are out of order.
type brokenKey struct {
	crypto.Signer
	sig []byte
	err error
}

func (k brokenKey) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return k.sig, k.err }

func TestSignWithBrokenKeyStore(t *testing.T) {
	lost := errors.New("session lost")
	for _, k := range []brokenKey{
		{newKey(t, ES256), nil, lost},
		{newKey(t, EdDSA), nil, lost},
		{newKey(t, ES256), nil, nil},
		{newKey(t, ES256), []byte{0x30, 0}, nil},
		{newKey(t, ES256), append([]byte{0x30, 38, 2, 33, 1}, append(make([]byte, 32), 2, 1, 1)...), nil}, // r of 33 bytes
	} {
		s, err := NewSigner(k)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := s.Sign(Header{URL: testURL}, nil); err == nil || body != nil || k.err != nil && !errors.Is(err, lost) {
			t.Errorf("signature %x, %v: got %s, %v", k.sig, k.err, body, err)
		}
	}
}

func TestNewSignerRefusesKey(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, err = NewSigner(key)
	wantCode(t, err, fault.BadPublicKey)
}

// foreignCA is the least of a CA that golang.org/x/crypto/acme talks to; it
// hands what the client posts to account and keyChange.
func foreignCA(t *testing.T, account, keyChange func(url string, body []byte) error) *acme.Client {
	mux := http.NewServeMux()
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	post := func(path string, status int, check func(string, []byte) error) {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err == nil {
				err = check(srv.URL+path, body)
			}
			if err != nil {
				t.Errorf("%s: %v", path, err)
			}
			w.Header().Set("Replay-Nonce", testNonce)
			w.Header().Set("Location", srv.URL+"/account/1")
			w.WriteHeader(status)
			_, _ = w.Write([]byte(`{"status":"valid"}`))
		})
	}
	post("/new-account", http.StatusCreated, account)
	post("/key-change", http.StatusOK, keyChange)
	mux.HandleFunc("/nonce", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Replay-Nonce", testNonce) })
	mux.HandleFunc("/dir", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(Directory{
			NewNonce: srv.URL + "/nonce", NewAccount: srv.URL + "/new-account", NewOrder: srv.URL + "/new-order", RevokeCert: srv.URL + "/revoke", KeyChange: srv.URL + "/key-change",
		})
	})
	return &acme.Client{DirectoryURL: srv.URL + "/dir"}
}

// A client that is not ours must be understood: account with external binding
// (RFC 8555 sections 7.3 and 7.3.4), then key roll-over (7.3.5).
func TestForeignClientIsUnderstood(t *testing.T) {
	for _, alg := range []Algorithm{ES256, ES384, RS256} {
		t.Run(string(alg), func(t *testing.T) {
			mac, oldKey, nextKey := macKey(32), newKey(t, alg), newKey(t, ES256)
			var current *PublicKey
			bound, changed := false, false
			account := func(url string, body []byte) error {
				j, err := ParseJWS(body)
				if err != nil {
					return err
				}
				if j.Header.URL != url || j.Header.KID != "" {
					return nil // the client looks its account up again by a kid
				}
				if current, err = j.Header.JWK.PublicKey(); err != nil {
					return err
				}
				if err := j.Verify(current); err != nil {
					return err
				}
				req, err := Decode[NewAccount](j.Payload)
				if err != nil || req.ExternalAccountBinding == nil {
					return err
				}
				kid, err := VerifyEAB(j, current, req.ExternalAccountBinding, func(string) ([]byte, error) { return mac, nil })
				bound = kid == "kid-1"
				return err
			}
			keyChange := func(_ string, body []byte) error {
				j, err := ParseJWS(body)
				if err != nil {
					return err
				}
				if err := j.Verify(current); err != nil {
					return err
				}
				next, err := VerifyKeyChange(j, j.Header.KID, current)
				if err != nil {
					return err
				}
				changed = next.Key.(*ecdsa.PublicKey).Equal(nextKey.Public())
				return nil
			}
			client := foreignCA(t, account, keyChange)
			client.Key = oldKey
			binding := &acme.ExternalAccountBinding{KID: "kid-1", Key: mac}
			if _, err := client.Register(t.Context(), &acme.Account{ExternalAccountBinding: binding}, acme.AcceptTOS); err != nil {
				t.Fatal(err)
			}
			if err := client.AccountKeyRollover(t.Context(), nextKey); err != nil {
				t.Fatal(err)
			}
			if !bound || !changed {
				t.Errorf("account bound %v, key changed %v; want both", bound, changed)
			}
		})
	}
}
