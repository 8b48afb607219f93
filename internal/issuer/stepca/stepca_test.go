package stepca_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery/internal/acme"
	"chancery/internal/issuer"
	"chancery/internal/issuer/issuertest"
	"chancery/internal/issuer/stepca"
)

// fake answers as step-ca does, tokens included.
type fake struct {
	*issuertest.Backend
	key  *ecdsa.PublicKey
	kid  string
	base string
	used map[string]bool
}

type claims struct {
	Aud, Iss, Sub, Jti string
	Sans               []string
	Nbf, Exp           int64
}

// verify checks a one-time token as step-ca does.
func (f *fake) verify(token, path string) *claims {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil
	}
	var raw [3][]byte
	for i, p := range parts {
		raw[i], _ = base64.RawURLEncoding.DecodeString(p)
	}
	var h struct{ Alg, Kid string }
	var c claims
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if json.Unmarshal(raw[0], &h) != nil || json.Unmarshal(raw[1], &c) != nil || h.Alg != "ES256" || h.Kid != f.kid || len(raw[2]) != 64 ||
		!ecdsa.Verify(f.key, sum[:], new(big.Int).SetBytes(raw[2][:32]), new(big.Int).SetBytes(raw[2][32:])) {
		return nil
	}
	now := time.Now().Unix()
	if c.Aud != f.base+path || c.Iss != "chancery" || c.Nbf > now || c.Exp < now || c.Exp > now+300 || f.used[c.Jti] {
		return nil
	}
	f.used[c.Jti] = true
	return &c
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var in struct{ CSR, Ott, Serial, NotAfter string }
	if r.Method == http.MethodPost && json.NewDecoder(r.Body).Decode(&in) != nil {
		http.Error(w, `{"status": 400, "message": "bad request"}`, http.StatusBadRequest)
		return
	}
	f.Lock()
	defer f.Unlock()
	if r.URL.Path == "/1.0/provisioners" {
		json.NewEncoder(w).Encode(map[string]any{"provisioners": []any{map[string]any{"type": "JWK", "name": "chancery", "key": map[string]string{"kid": f.kid}}}})
		return
	}
	c := f.verify(in.Ott, r.URL.Path)
	if c == nil {
		http.Error(w, `{"status": 401, "message": "The request lacked necessary authorization to be completed."}`, http.StatusUnauthorized)
		return
	}
	switch r.URL.Path {
	case "/1.0/sign":
		n, err := f.Submit(in.CSR, "")
		if err != nil {
			http.Error(w, `{"status": 400, "message": "bad csr"}`, http.StatusBadRequest)
			return
		}
		req, _ := x509.ParseCertificateRequest(f.Orders[n-1].CSR)
		if want := slices.Sorted(slices.Values(req.DNSNames)); !slices.Equal(want, slices.Sorted(slices.Values(c.Sans))) || in.NotAfter != "24h0m0s" {
			http.Error(w, `{"status": 403, "message": "names differ"}`, http.StatusForbidden)
			return
		}
		chain := f.Orders[n-1].Chain
		out := map[string]any{"crt": issuertest.PEM(chain[0]), "ca": issuertest.PEM(f.Inter.Raw)}
		if len(chain) > 1 {
			out["certChain"] = []string{issuertest.PEM(chain[0]), issuertest.PEM(chain[1])}
		}
		w.WriteHeader(http.StatusCreated)
		json.NewEncoder(w).Encode(out)
	case "/1.0/revoke":
		n, _ := new(big.Int).SetString(in.Serial, 10)
		serial := issuertest.Serial(&x509.Certificate{SerialNumber: n})
		if f.RevokedBy[serial]++; f.RevokedBy[serial] > 1 {
			http.Error(w, `{"status": 400, "message": "certificate with serial number is already revoked"}`, http.StatusBadRequest)
			return
		}
		w.Write([]byte(`{"status": "ok"}`))
	}
}

func keyFile(t testing.TB) (*ecdsa.PrivateKey, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return key, issuertest.File(t, string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})))
}

func TestSuite(t *testing.T) {
	key, path := keyFile(t)
	_, other := keyFile(t)
	pub, err := acme.NewPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{Backend: issuertest.NewBackend(t), key: &key.PublicKey, kid: pub.Thumbprint, used: map[string]bool{}}
	front := issuertest.NewFront(t, f)
	f.base = front.URL
	issuertest.Run(t, issuertest.Suite{Backend: f.Backend, Front: front, Revokes: true, Checks: true,
		Open: func(t testing.TB, deadline time.Duration, bad bool) (issuer.Issuer, error) {
			c := stepca.Kind.Config().(*stepca.Config)
			c.URL, c.Provisioner, c.KeyFile, c.Lifetime = front.URL+"/", "chancery", map[bool]string{false: path, true: other}[bad], 24*time.Hour
			return stepca.Kind.Open(issuertest.Env(deadline), c)
		}})
}

func TestMistakesAreFoundEarly(t *testing.T) {
	_, path := keyFile(t)
	for name, c := range map[string]stepca.Config{"no URL": {}, "no provisioner": {URL: "https://ca.example", KeyFile: path}, "no key": {URL: "https://ca.example", Provisioner: "p"},
		"not PEM": {URL: "https://ca.example", Provisioner: "p", KeyFile: issuertest.File(t, "x")}} {
		if _, err := stepca.Kind.Open(issuertest.Env(0), &c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
