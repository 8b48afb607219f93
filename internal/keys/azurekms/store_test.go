//go:build azurekms

package azurekms

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json/v2"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"chancery/internal/fault"
	"chancery/internal/keys"
	"chancery/internal/keys/keystest"
	"chancery/internal/pki"
)

// vault answers as Key Vault does, over TLS, with real keys.
type vault struct {
	t   *testing.T
	url string

	mu    sync.Mutex
	keys  map[string]*entry // by name
	calls map[string]int    // by method and operation
	fail  func(op string, n int) int
	hang  bool
}

type entry struct {
	key     crypto.Signer
	version string
	kty     string
	tags    map[string]string
}

// token is a credential that needs no Azure.
type token struct{}

func (token) GetToken(_ context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	if !slices.Contains(o.Scopes, "https://vault.azure.net/.default") {
		return azcore.AccessToken{}, fmt.Errorf("token for %v", o.Scopes)
	}
	return azcore.AccessToken{Token: "test-token", ExpiresOn: time.Now().Add(time.Hour)}, nil
}

func newVault(t *testing.T) (*vault, func(change func(*Config)) *Store) {
	v := &vault{t: t, keys: map[string]*entry{}, calls: map[string]int{}}
	srv := httptest.NewTLSServer(v)
	t.Cleanup(srv.Close)
	v.url = srv.URL
	return v, func(change func(*Config)) *Store {
		cfg := Config{VaultURL: srv.URL, Timeout: time.Minute}
		if change != nil {
			change(&cfg)
		}
		s, err := open(cfg, token{}, &azkeys.ClientOptions{DisableChallengeResourceVerification: true,
			ClientOptions: azcore.ClientOptions{Transport: srv.Client()}})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
}

func (v *vault) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer test-token" {
		w.Header().Set("WWW-Authenticate", `Bearer authorization="https://login.microsoftonline.com/tenant", resource="https://vault.azure.net"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if v.hang {
		_, _ = io.Copy(io.Discard, r.Body) // a server sees the end of a client only after its request
		<-r.Context().Done()
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	op := r.Method
	if r.Method == http.MethodPost {
		op = parts[len(parts)-1]
	}
	v.calls[op]++
	if v.fail != nil {
		if status := v.fail(op, v.calls[op]); status != 0 {
			v.reply(w, status, map[string]any{"error": map[string]string{"code": "Test", "message": "as the test wants it"}})
			return
		}
	}
	v.route(w, r, op, parts)
}

func (v *vault) reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.MarshalWrite(w, body); err != nil {
		v.t.Error(err)
	}
}

func (v *vault) route(w http.ResponseWriter, r *http.Request, op string, parts []string) {
	switch {
	case op == "create":
		v.create(w, r, parts[1])
	case op == "GET" && len(parts) == 1:
		v.list(w, r)
	case v.keys[parts[1]] == nil || len(parts) > 2 && parts[2] != v.keys[parts[1]].version:
		v.reply(w, 404, map[string]any{"error": map[string]string{"code": "KeyNotFound"}})
	case op == "GET":
		v.reply(w, 200, v.bundle(parts[1]))
	case op == "sign":
		v.sign(w, r, v.keys[parts[1]])
	default:
		v.t.Errorf("unexpected %s %s", r.Method, r.URL)
	}
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func (v *vault) bundle(name string) any {
	e := v.keys[name]
	jwk := map[string]any{"kid": v.url + "/keys/" + name + "/" + e.version, "kty": e.kty, "key_ops": []string{"sign", "verify"}}
	switch pub := e.key.Public().(type) {
	case *ecdsa.PublicKey:
		point, err := pub.Bytes()
		if err != nil {
			v.t.Error(err)
		}
		half := len(point) / 2
		jwk["crv"], jwk["x"], jwk["y"] = pub.Params().Name, b64(point[1:1+half]), b64(point[1+half:])
	case *rsa.PublicKey:
		jwk["n"], jwk["e"] = b64(pub.N.Bytes()), b64(big.NewInt(int64(pub.E)).Bytes())
	}
	return map[string]any{"key": jwk, "attributes": map[string]any{"enabled": true}, "tags": e.tags}
}

func (v *vault) create(w http.ResponseWriter, r *http.Request, name string) {
	var req struct {
		Kty  string            `json:"kty"`
		Crv  string            `json:"crv"`
		Size int               `json:"key_size"`
		Ops  []string          `json:"key_ops"`
		Tags map[string]string `json:"tags"`
	}
	if err := json.UnmarshalRead(r.Body, &req); err != nil {
		v.t.Error(err)
	}
	kt := map[string]pki.KeyType{"ECP-2560": pki.P256, "ECP-3840": pki.P384, "RSA2048": pki.RSA2048, "RSA3072": pki.RSA3072, "RSA4096": pki.RSA4096}[strings.TrimSuffix(req.Kty, "-HSM")+req.Crv+fmt.Sprint(req.Size)]
	key, err := keys.Generate(kt)
	if err != nil {
		v.t.Errorf("%+v: %v", req, err)
		return
	}
	v.keys[name] = &entry{key, fmt.Sprintf("%032x", len(v.keys)+1), req.Kty, req.Tags}
	v.reply(w, 200, v.bundle(name))
}

// list gives two pages, with a key that is not ours.
func (v *vault) list(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("page") == "" {
		v.reply(w, 200, map[string]any{"value": []any{map[string]any{"kid": v.url + "/keys/other"}}, "nextLink": v.url + "/keys?page=2&api-version=7.6"})
		return
	}
	items := []any{}
	for name, e := range v.keys {
		items = append(items, map[string]any{"kid": v.url + "/keys/" + name, "tags": e.tags})
	}
	v.reply(w, 200, map[string]any{"value": items})
}

func (v *vault) sign(w http.ResponseWriter, r *http.Request, e *entry) {
	var req struct{ Alg, Value string }
	if err := json.UnmarshalRead(r.Body, &req, json.MatchCaseInsensitiveNames(true)); err != nil {
		v.t.Error(err)
	}
	hash := map[string]crypto.Hash{"ES256": crypto.SHA256, "ES384": crypto.SHA384, "RS256": crypto.SHA256, "RS384": crypto.SHA384, "RS512": crypto.SHA512}[req.Alg]
	digest, err := base64.RawURLEncoding.DecodeString(req.Value)
	if err != nil || len(digest) != hash.Size() {
		v.reply(w, 400, map[string]any{"error": map[string]string{"code": "BadParameter"}})
		return
	}
	sig, err := e.key.Sign(rand.Reader, digest, hash)
	if err != nil {
		v.t.Error(err)
	}
	if pub, ok := e.key.Public().(*ecdsa.PublicKey); ok { // r || s, as RFC 7518 section 3.4
		var rs struct{ R, S *big.Int }
		if _, err := asn1.Unmarshal(sig, &rs); err != nil {
			v.t.Error(err)
		}
		size := pub.Params().BitSize / 8
		sig = append(rs.R.FillBytes(make([]byte, size)), rs.S.FillBytes(make([]byte, size))...)
	}
	v.reply(w, 200, map[string]any{"value": b64(sig)})
}

func TestSuite(t *testing.T) {
	_, open := newVault(t)
	keystest.Run(t, func(*testing.T) keys.Store { return open(nil) })
}

func TestHSM(t *testing.T) {
	v, open := newVault(t)
	s := open(func(c *Config) { c.HSM = true })
	for _, kt := range []pki.KeyType{pki.P256, pki.RSA2048} {
		ref, err := s.Create(t.Context(), "hsm-"+string(kt), kt)
		if err != nil {
			t.Fatal(err)
		}
		key, err := s.Open(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		if err := keys.Prove(t.Context(), key); err != nil {
			t.Error(err)
		}
	}
	if a, b := v.keys["hsm-p256"].kty, v.keys["hsm-rsa2048"].kty; a != "EC-HSM" || b != "RSA-HSM" {
		t.Errorf("keys of type %s and %s", a, b)
	}
}

// withKey is a store with one key.
func withKey(t *testing.T, change func(*Config)) (*vault, *Store, crypto.Signer) {
	t.Helper()
	v, open := newVault(t)
	s := open(change)
	ref, err := s.Create(t.Context(), "key", pki.P256)
	if err != nil {
		t.Fatal(err)
	}
	key, err := s.Open(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	return v, s, key
}

// TestThrottling: a request that the vault refuses for its rate is repeated, a
// bounded number of times, and then the caller is told to come back.
func TestThrottling(t *testing.T) {
	v, _, key := withKey(t, func(c *Config) { c.Attempts = 3 })
	v.fail = func(op string, n int) int {
		if op == "sign" && n < 3 {
			return http.StatusTooManyRequests
		}
		return 0
	}
	if err := keys.Prove(t.Context(), key); err != nil || v.calls["sign"] != 3 {
		t.Errorf("two refusals: %v after %d requests", err, v.calls["sign"])
	}
	v.fail = func(string, int) int { return http.StatusTooManyRequests }
	err := keys.Prove(t.Context(), key)
	if f, ok := errors.AsType[*fault.Error](err); !ok || f.Status() != 503 || f.RetryAfter <= 0 {
		t.Errorf("nothing but refusals: %v", err)
	}
	if n := v.calls["sign"]; n != 6 {
		t.Errorf("%d requests, want 3 and 3", n)
	}
}

func TestAnswersOfTheVault(t *testing.T) {
	v, s, key := withKey(t, func(c *Config) { c.Attempts = 1 })
	for status, want := range map[int]fault.Code{403: fault.Precondition, 404: fault.NotFound, 409: fault.Conflict, 400: fault.Invalid, 500: fault.Unavailable} {
		v.fail = func(string, int) int { return status }
		if err := keys.Prove(t.Context(), key); !fault.Is(err, want) {
			t.Errorf("%d: %v", status, err)
		}
	}
	if n := v.calls["sign"]; n != 5 {
		t.Errorf("%d requests for 5 answers: one attempt is one attempt", n)
	}
	v.fail = func(string, int) int { return 403 }
	if err := keys.Prove(t.Context(), key); err == nil || !strings.Contains(err.Error(), `permission "sign"`) {
		t.Errorf("access denied: %v", err)
	}
	v.fail = nil
	for _, ref := range []string{"azure-kms:", "azure-kms:key", "azure-kms:key/", "azure-kms:../x/1", "azure-kms:key/0123", "file:x"} {
		if _, err := s.Open(t.Context(), ref); !fault.Is(err, fault.NotFound) {
			t.Errorf("%s: %v", ref, err)
		}
	}
	if _, err := s.Create(t.Context(), "with_underscore", pki.P256); !fault.Is(err, fault.Invalid) {
		t.Errorf("a name that the vault cannot have: %v", err)
	}
}

// TestDeadlines: a vault that does not answer costs no more than the timeout,
// and no more than the caller has.
func TestDeadlines(t *testing.T) {
	v, _, key := withKey(t, func(c *Config) { c.Timeout = 2 * time.Second })
	v.hang = true
	began := time.Now()
	if err := keys.Prove(t.Context(), key); !fault.Is(err, fault.Unavailable) || time.Since(began) > 10*time.Second {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began = time.Now()
	if err := keys.Prove(ctx, key); err == nil || time.Since(began) > 1900*time.Millisecond {
		t.Errorf("a deadline of 50 ms ended after %s: %v", time.Since(began), err)
	}
}

func TestVaultIsNeeded(t *testing.T) {
	if _, err := Open(t.Context(), Config{}); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "keys.azure_kms.vault_url") {
		t.Error(err)
	}
}
