package tkauth_test

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"chancery/internal/acme/tkauth"
	"chancery/internal/acme/tkauth/tkauthtest"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

// A list of one service provider code, 709J, and the key of RFC 7638's example.
const (
	list       = "MAigBhYENzA5Sg"
	thumbprint = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
)

var want = tkauth.Want{Identifier: pki.Identifier{Type: pki.TNAuthList, Value: list}, Thumbprint: thumbprint}

func TestFingerprintOfTheRFC(t *testing.T) { // section 5.4: SHA256, then octets in hexadecimal with colons
	const expect = "SHA256 37:36:CB:B1:78:7C:B8:30:9C:77:EE:8C:37:05:C5:E1:6F:FB:9E:85:97:15:90:1F:1E:4C:59:B1:11:82:F5:7B"
	if got := tkauth.Fingerprint(thumbprint); got != expect {
		t.Error(got)
	}
	if got := tkauth.Fingerprint("!"); got != "" {
		t.Error(got)
	}
}

// RFC 9448 section 6, step by step.
func TestTokens(t *testing.T) {
	a, other := tkauthtest.New(t), tkauthtest.New(t)
	now := time.Now()
	good := a.Token(list, thumbprint, "1")
	got, err := tkauth.Verify(t.Context(), good, want, a.Policy(), now)
	if err != nil || got.ID != "1" || got.ExpiresAt.Before(now) || !a.Policy().Trusts(got.Root[:]) || other.Policy().Trusts(got.Root[:]) {
		t.Fatalf("%+v, %v", got, err)
	}
	parts := strings.Split(good, ".")
	cert := base64.StdEncoding.EncodeToString(a.Cert.Raw)
	token := func(c ...tkauthtest.Change) string { return a.Token(list, thumbprint, "2", c...) }
	claims := func(k string, v any) string { return token(tkauthtest.Change{Claims: map[string]any{k: v}}) }
	atc := func(k string, v any) string { return token(tkauthtest.Change{ATC: map[string]any{k: v}}) }
	header := func(k string, v any) string { return token(tkauthtest.Change{Header: map[string]any{k: v}}) }
	for name, text := range map[string]string{
		"nothing":                          "",
		"two parts":                        parts[0] + "." + parts[1],
		"four parts":                       good + ".x",
		"no base64url":                     "=." + parts[1] + "." + parts[2],
		"no JSON":                          "AAAA." + parts[1] + "." + parts[2],
		"too long":                         good + strings.Repeat("x", tkauth.MaxToken),
		"step 1: no atc":                   claims("atc", nil),
		"step 1: atc is no object":         claims("atc", "x"),
		"step 1: no tktype":                atc("tktype", nil),
		"step 1: no tkvalue":               atc("tkvalue", nil),
		"step 1: no fingerprint":           atc("fingerprint", nil),
		"step 1: ca is no boolean":         atc("ca", "false"),
		"steps 2 and 3: no certificate":    header("x5c", nil),
		"step 2: a URL, none is fetched":   header("x5u", "https://authority.test/cert"),
		"step 3: a stranger's certificate": other.Token(list, thumbprint, "3"),
		"step 3: no certificate in it":     header("x5c", []string{"AAAA"}),
		"step 3: no base64 in it":          header("x5c", []string{"*"}),
		"step 3: too many":                 header("x5c", []string{cert, cert, cert, cert, cert, cert, cert}),
		"step 4: another's signature":      parts[0] + "." + parts[1] + "." + strings.Split(other.Token(list, thumbprint, "1"), ".")[2],
		"step 4: no signature":             parts[0] + "." + parts[1] + ".",
		"step 4: other claims":             parts[0] + "." + strings.Split(claims("jti", "9"), ".")[1] + "." + parts[2],
		"alg none":                         header("alg", "none"),
		"alg HS256":                        header("alg", "HS256"),
		"crit":                             header("crit", []string{"exp"}),
		"another typ":                      header("typ", "at+jwt"),
		"step 5: another tktype":           atc("tktype", "dns"),
		"step 6: another tkvalue":          atc("tkvalue", "MAigBhYENzA5Sw"),
		"step 7: expired":                  claims("exp", now.Add(-time.Second).Unix()),
		"step 7: no exp":                   claims("exp", nil),
		"step 7: exp is text":              claims("exp", "soon"),
		"step 7: not yet":                  claims("nbf", now.Add(time.Hour).Unix()),
		"step 7: no jti":                   claims("jti", nil),
		"step 7: a long jti":               claims("jti", strings.Repeat("x", 257)),
		"step 8: another key":              atc("fingerprint", tkauth.Fingerprint("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")),
		"step 8: lower case":               atc("fingerprint", strings.ToLower(tkauth.Fingerprint(thumbprint))),
		"step 9: a CA certificate":         atc("ca", true),
	} {
		if got, err := tkauth.Verify(t.Context(), text, want, a.Policy(), now); !fault.Is(err, fault.IncorrectResponse) || got != nil {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	t.Run("ca may be left out (section 5.4)", func(t *testing.T) {
		if _, err := tkauth.Verify(t.Context(), atc("ca", nil), want, a.Policy(), now); err != nil {
			t.Error(err)
		}
	})
	t.Run("a policy without roots trusts nobody", func(t *testing.T) {
		for _, p := range []*tkauth.Policy{nil, {}} {
			if _, err := tkauth.Verify(t.Context(), good, want, p, now); !fault.Is(err, fault.IncorrectResponse) {
				t.Error(err)
			}
		}
	})
	t.Run("an authority whose certificate has ended", func(t *testing.T) {
		if _, err := tkauth.Verify(t.Context(), claims("exp", now.Add(40*time.Hour).Unix()), want, a.Policy(), now.Add(20*time.Hour)); !fault.Is(err, fault.IncorrectResponse) {
			t.Error(err)
		}
	})
}

// x5u leads to known origins alone, and what comes back is bounded.
func TestFetchedCertificates(t *testing.T) {
	a, other := tkauthtest.New(t), tkauthtest.New(t)
	answer := func(path string) []byte {
		switch path {
		case "/pem":
			return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Cert.Raw})
		case "/der":
			return a.Cert.Raw
		case "/other":
			return other.Cert.Raw
		case "/long":
			return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Cert.Raw}), make([]byte, 65<<10)...)
		case "/key":
			return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: a.Cert.Raw})
		}
		return nil
	}
	hits := 0
	front := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hits++
		body := answer(r.URL.Path)
		switch {
		case r.URL.Path == "/moved":
			http.Redirect(w, r, "/pem", http.StatusFound)
		case body == nil:
			http.NotFound(w, r)
		default:
			w.Write(body)
		}
	}))
	defer front.Close()
	pool := x509.NewCertPool()
	pool.AddCert(front.Certificate())
	p := a.Policy()
	var err error
	if p.Fetcher, err = tkauth.NewFetcher([]string{front.URL}, pool); err != nil {
		t.Fatal(err)
	}
	verify := func(x5u string, x5c any) error {
		text := a.Token(list, thumbprint, "1", tkauthtest.Change{Header: map[string]any{"x5u": x5u, "x5c": x5c}})
		_, err := tkauth.Verify(t.Context(), text, want, p, time.Now())
		return err
	}
	mine := []string{base64.StdEncoding.EncodeToString(a.Cert.Raw)}
	for _, path := range []string{"/pem", "/der"} {
		if err := verify(front.URL+path, nil); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	if err := verify(front.URL+"/pem", mine); err != nil {
		t.Errorf("the same in x5u and x5c: %v", err)
	}
	for path, code := range map[string]fault.Code{"/other": fault.IncorrectResponse, "/long": fault.IncorrectResponse, "/key": fault.IncorrectResponse,
		"/none": fault.Connection, "/moved": fault.Connection} {
		if err := verify(front.URL+path, nil); !fault.Is(err, code) {
			t.Errorf("%s: %v, want %s", path, err, code)
		}
	}
	before := hits
	for _, u := range []string{"http" + strings.TrimPrefix(front.URL, "https") + "/pem", "https://elsewhere.test/pem", front.URL + "/pem#x",
		"https://user@" + strings.TrimPrefix(front.URL, "https://") + "/pem", front.URL + ".evil.test/pem", "file:///etc/passwd", "::"} {
		if err := verify(u, nil); !fault.Is(err, fault.IncorrectResponse) {
			t.Errorf("%s: %v", u, err)
		}
	}
	text := a.Token(list, thumbprint, "1", tkauthtest.Change{Header: map[string]any{"x5u": front.URL + "/pem", "x5c": nil}, ATC: map[string]any{"tktype": "dns"}})
	if _, err := tkauth.Verify(t.Context(), text, want, p, time.Now()); !fault.Is(err, fault.IncorrectResponse) {
		t.Error(err)
	}
	if hits != before {
		t.Errorf("%d requests for tokens that nothing needed to be fetched for", hits-before)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := tkauth.Verify(gone, a.Token(list, thumbprint, "1", tkauthtest.Change{Header: map[string]any{"x5u": front.URL + "/pem"}}), want, p, time.Now()); !fault.Is(err, fault.Connection) {
		t.Error(err)
	}
	for _, bad := range []string{"http://a.test", "https://a.test/", "https://a.test/x", "a.test", "https://", "https://A.test"} {
		if _, err := tkauth.NewFetcher([]string{bad}, nil); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func FuzzVerify(f *testing.F) {
	a := tkauthtest.New(f)
	f.Add(a.Token(list, thumbprint, "1"))
	f.Add("e30.e30.")
	sum := sha256.Sum256(a.Root.Raw)
	f.Fuzz(func(t *testing.T, text string) {
		got, err := tkauth.Verify(context.Background(), text, want, a.Policy(), time.Now())
		if err == nil && got.Root != sum {
			t.Errorf("%+v", got)
		}
		if err != nil && !fault.Is(err, fault.IncorrectResponse) {
			t.Error(err)
		}
	})
}
