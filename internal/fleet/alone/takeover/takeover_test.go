package takeover

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chancery/internal/config"
	"chancery/internal/deploy"
	"chancery/internal/deploy/deploytest"
	"chancery/internal/fault"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func enc(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// Account keys of certbot are JWKs; what is not one is refused and quotes
// nothing.
func TestAccountKeys(t *testing.T) {
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	e, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	must(t, err)
	raw, err := e.Bytes()
	must(t, err)
	text, err := json.Marshal(map[string]string{"kty": "RSA", "n": enc(r.N.Bytes()), "e": "AQAB", "d": enc(r.D.Bytes()), "p": enc(r.Primes[0].Bytes()), "q": enc(r.Primes[1].Bytes())})
	must(t, err)
	if k, err := parseKey(text); err != nil || !r.PublicKey.Equal(k.Public()) {
		t.Errorf("RSA: %v", err)
	}
	text, err = json.Marshal(map[string]string{"kty": "EC", "crv": "P-384", "d": enc(raw)})
	must(t, err)
	if k, err := parseKey(text); err != nil || !e.PublicKey.Equal(k.Public()) {
		t.Errorf("EC: %v", err)
	}
	for _, bad := range []string{``, `{}`, `{"kty":"oct","k":"secret"}`, `{"kty":"EC","crv":"P-224","d":"AQ"}`, `{"kty":"EC","crv":"P-256","d":"AA"}`, `{"kty":"RSA","n":"AQAB","e":"AQAB","d":"AQ","p":"AQ","q":"AQ"}`, `{"kty":"RSA","n":"!"}`} {
		if _, err := parseKey([]byte(bad)); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// FuzzParseKey: whatever a file holds, there is a key that works or an error.
func FuzzParseKey(f *testing.F) {
	f.Add([]byte(`{"kty":"EC","crv":"P-256","d":"AQ"}`))
	f.Add([]byte(`{"kty":"RSA","n":"","e":"AQAB","d":"AQ","p":"AQ","q":"AQ"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if k, err := parseKey(text); err == nil && k.Public() == nil {
			t.Error("a key without a public key")
		}
	})
}

// FuzzLineage: no file of certbot makes the reader fail otherwise than by an
// error, and durations stay within bounds.
func FuzzLineage(f *testing.F) {
	f.Add([]byte("version = 2.1.0\nrenew_before_expiry = 30 days\n[renewalparams]\nserver = https://ca.test/dir\n[[webroot_map]]\na.test = /var/www\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		l := parseLineage(text)
		if d := days(l.top["renew_before_expiry"]); d < 0 || d > 3650*7*24*time.Hour {
			t.Errorf("%s", d)
		}
		found := &Found{DNS: map[string]string{}, Secrets: map[string][]byte{}}
		l.params["dns_rfc2136_credentials"] = ""
		found.challenges(&l, "x", map[string]bool{})
		found.installer(&l)
	})
}

// letsencrypt writes a directory of certbot with lineages of the given
// parameters.
func letsencrypt(t *testing.T, lineages map[string]string) string {
	t.Helper()
	dir, ca := t.TempDir(), deploytest.NewCA(t)
	for name, params := range lineages {
		item := ca.Item(t, "x", name, "www."+name)
		chain, key := pair(t, &item)
		deploytest.WriteFile(t, filepath.Join(dir, "live", name, "fullchain.pem"), chain)
		deploytest.WriteFile(t, filepath.Join(dir, "live", name, "privkey.pem"), key)
		deploytest.WriteFile(t, filepath.Join(dir, "renewal", name+".conf"), params)
	}
	return dir
}

// Every way of proving names becomes a configuration that the agent reads, or
// a note to a person.
func TestCertbotParameters(t *testing.T) {
	creds := deploytest.WriteFile(t, filepath.Join(t.TempDir(), "rfc2136.ini"), "dns_rfc2136_server = 192.0.2.1\ndns_rfc2136_name = key.\ndns_rfc2136_secret = c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTEyMzQ=\ndns_rfc2136_algorithm = HMAC-SHA256\n")
	cloud := deploytest.WriteFile(t, filepath.Join(t.TempDir(), "cf.ini"), "dns_cloudflare_api_token = abcdef\n")
	const server = "server = https://acme-v02.api.letsencrypt.org/directory\n"
	dir := letsencrypt(t, map[string]string{
		"a.test": "renew_before_expiry = 20 days\n[renewalparams]\nauthenticator = webroot\n" + server + "reuse_key = True\npreferred_chain = ISRG Root X1\n[[webroot_map]]\na.test = /srv/www\nwww.a.test = /srv/www\n",
		"b.test": "[renewalparams]\nauthenticator = dns-rfc2136\ndns_rfc2136_credentials = " + creds + "\n" + server,
		"c.test": "[renewalparams]\nauthenticator = dns-cloudflare\ndns_cloudflare_credentials = " + cloud + "\n" + server,
		"d.test": "[renewalparams]\nauthenticator = nginx\ninstaller = nginx\naccount = 0123\n" + server,
		"e.test": "[renewalparams]\nauthenticator = manual\n" + server,
	})
	if err := os.Remove(filepath.Join(dir, "live", "e.test", "privkey.pem")); err != nil {
		t.Fatal(err)
	}
	f, err := Certbot(dir)
	must(t, err)
	out := t.TempDir()
	path := filepath.Join(out, "agent.toml")
	must(t, f.Write(t.Context(), Options{Config: path, State: filepath.Join(out, "state")}))
	c, err := config.Load(path, nil)
	must(t, err)
	for _, p := range c.Check() {
		t.Error(p)
	}
	if len(c.Certificate) != 4 || c.Issuer["letsencrypt"].Staging != "letsencrypt-staging" || c.Challenges.HTTP01Webroot != "/srv/www" || c.Target["host"].Kind != "nginx" {
		t.Errorf("%+v %+v", c.Certificate, c.Challenges)
	}
	if a, b := c.Certificate["a-test"], c.Certificate["b-test"]; !a.ReuseKey || a.RenewBefore != 20*24*time.Hour || b.Challenge != "dns-01" || c.DNS["rfc2136"].Kind == "" || c.DNS["cloudflare"].Kind == "" {
		t.Errorf("%+v %+v", a, b)
	}
	for name, want := range map[string]string{"rfc2136.key": "hmac-sha256", "cloudflare.token": "abcdef"} {
		info, err := os.Stat(filepath.Join(out, name))
		must(t, err)
		text, err := os.ReadFile(filepath.Join(out, name))
		must(t, err)
		if info.Mode().Perm() != 0o600 || !strings.Contains(string(text), want) {
			t.Errorf("%s: mode %o", name, info.Mode().Perm())
		}
	}
	notes := strings.Join(f.Notes, "\n")
	for _, want := range []string{"e.test has no certificate", "d.test is proved through nginx", "the account at"} {
		if !strings.Contains(notes, want) {
			t.Errorf("no note %q in\n%s", want, notes)
		}
	}
	if err := f.Write(t.Context(), Options{Config: path, State: filepath.Join(out, "state")}); !fault.Is(err, fault.Conflict) {
		t.Errorf("written twice: %v", err)
	}
}

// A key of another certificate is never taken over, and neither is a directory
// of something else.
func TestWhatIsNotOneIsRefused(t *testing.T) {
	dir := letsencrypt(t, map[string]string{"a.test": "[renewalparams]\nserver = https://ca.test/dir\nauthenticator = standalone\n"})
	other := deploytest.NewCA(t).Item(t, "x", "a.test")
	_, key := pair(t, &other)
	must(t, os.Remove(filepath.Join(dir, "live", "a.test", "privkey.pem")))
	deploytest.WriteFile(t, filepath.Join(dir, "live", "a.test", "privkey.pem"), key)
	if _, err := Certbot(dir); err == nil || !strings.Contains(err.Error(), "is not that of the certificate") {
		t.Errorf("%v", err)
	}
	for _, f := range []func(string) error{func(d string) error { _, err := Certbot(d); return err }, func(d string) error { _, err := Lego(d, ""); return err }} {
		if err := f(t.TempDir()); !fault.Is(err, fault.NotFound) {
			t.Errorf("an empty directory: %v", err)
		}
	}
}

// pair returns the PEM of an item.
func pair(t *testing.T, i *deploy.Item) (chain, key string) {
	t.Helper()
	var b strings.Builder
	for _, der := range i.Chain {
		b.WriteString(block("CERTIFICATE", der))
	}
	return b.String(), block("PRIVATE KEY", pkcs8(t, i.Key))
}

func block(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func pkcs8(t *testing.T, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	return der
}
