package bench

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"chancery/internal/fault"
	"chancery/internal/pki"
)

// testCA is an authority made by the standard library.
type testCA struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pool *x509.CertPool
	next int64
}

func newTestCA(t *testing.T) *testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test Root"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(48 * time.Hour), KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c := &testCA{key: key, pool: x509.NewCertPool(), next: 100}
	if c.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	c.pool.AddCert(c.cert)
	return c
}

// issue returns the PEM chain of a new certificate.
func (c *testCA) issue(t *testing.T, pub crypto.PublicKey, names ...string) []byte {
	t.Helper()
	c.next++
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(c.next), DNSNames: names, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, OCSPServer: []string{"http://ocsp.example/r"}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, c.cert, pub, c.key)
	if err != nil {
		t.Fatal(err)
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw})...)
}

// What is kept of an issuance run is enough to ask its responder: an issuer,
// every serial, a URL.
func TestKeptCertificatesAreOCSPTargets(t *testing.T) {
	c := newTestCA(t)
	var file bytes.Buffer
	k := NewKeeper(&file)
	for range 3 {
		k.add(c.issue(t, c.key.Public(), "a.example"))
	}
	if err := k.Flush(); err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(file.Bytes(), []byte("BEGIN CERTIFICATE")); n != 4 {
		t.Errorf("%d certificates in the file, want three and their issuer once", n)
	}
	issuer, serials, responder, err := OCSPTargets(file.Bytes())
	if err != nil || !issuer.Equal(c.cert) || len(serials) != 3 || serials[2] != pki.SerialFromBig(big.NewInt(103)) || responder != "http://ocsp.example/r" {
		t.Errorf("%v, %d serials, %s, %v", issuer, len(serials), responder, err)
	}
	leafOnly, _, _ := bytes.Cut(file.Bytes(), []byte("-----BEGIN CERTIFICATE-----\nZZ"))
	other := append(bytes.Clone(leafOnly), newTestCA(t).issue(t, c.key.Public(), "b.example")...)
	for name, text := range map[string][]byte{"nothing": nil, "no leaf": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw}),
		"not DER": []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")} {
		if _, _, _, err := OCSPTargets(text); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, serials, _, err := OCSPTargets(other); err != nil || len(serials) != 4 { // same name, so the same issuer as far as PEM tells
		t.Errorf("%d serials, %v", len(serials), err)
	}
}

// The questions are understood by an independent parser, by GET and POST, and
// wrong answers are found.
func TestOCSPQuestionsAndAnswers(t *testing.T) {
	c := newTestCA(t)
	mode := "good"
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		der, err := io.ReadAll(r.Body)
		if r.Method == http.MethodGet {
			text, _ := url.PathUnescape(r.URL.EscapedPath()[len("/r/"):])
			der, err = base64.StdEncoding.DecodeString(text)
		}
		req, err2 := ocsp.ParseRequest(der)
		if err := errors.Join(err, err2); err != nil {
			t.Errorf("%s: %v", r.Method, err)
			return
		}
		serial := req.SerialNumber
		switch mode {
		case "refuse":
			w.Write(ocsp.UnauthorizedErrorResponse)
			return
		case "other":
			serial = big.NewInt(7)
		case "broken":
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		answer, err := ocsp.CreateResponse(c.cert, c.cert, ocsp.Response{Status: ocsp.Good, SerialNumber: serial, ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour)}, c.key)
		if err != nil {
			t.Error(err)
		}
		w.Write(answer)
	}))
	t.Cleanup(srv.Close)
	for _, method := range []string{"GET", "POST"} {
		for _, sha256 := range []bool{false, true} {
			o, err := NewOCSP(OCSPConfig{URL: srv.URL + "/r/", Issuer: c.cert, Serials: []pki.Serial{pki.SerialFromBig(big.NewInt(1 << 40))}, Method: method, SHA256: sha256, Verify: true,
				Transport: Transport{Timeout: 5 * time.Second}})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { o.Close() })
			w := o.Workload()
			if err := w.Open(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
			for m, class := range map[string]string{"good": "", "refuse": "verify", "other": "verify", "broken": "502"} {
				mode = m
				if err := w.Do(t.Context(), 0, &Sample{}); (err == nil) != (class == "") || err != nil && classOf(err) != class {
					t.Errorf("%s, SHA-256 %v, %s: %v", method, sha256, m, err)
				}
			}
		}
	}
	if _, err := NewOCSP(OCSPConfig{Method: "GET"}); !fault.Is(err, fault.Invalid) {
		t.Errorf("nothing to ask: %v", err)
	}
}

// The pages of a Chancery API become serials of one authority.
func TestSerialsComeFromTheAPI(t *testing.T) {
	c := newTestCA(t)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Authorization") != "Bearer secret":
			w.WriteHeader(http.StatusUnauthorized)
		case r.URL.Path == "/certs/c2/download":
			w.Write(c.issue(t, c.key.Public(), "a.example"))
		case r.URL.Query().Get("cursor") == "":
			io.WriteString(w, `{"items":[{"id":"c1","serial":"aa","status":"intent","authority":"A"},{"id":"c2","serial":"0b","status":"issued","authority":"A"},{"id":"c3","serial":"0c","status":"issued","authority":"B"}],"next":"p2"}`)
		default:
			io.WriteString(w, `{"items":[{"id":"c4","serial":"0d","status":"revoked","authority":"A"},{"id":"c5","serial":"0e","status":"issued","authority":"A"}]}`)
		}
	}))
	t.Cleanup(srv.Close)
	tr := &Transport{Timeout: 5 * time.Second}
	issuer, serials, responder, err := ListOCSPTargets(t.Context(), tr, srv.URL, "secret", 10)
	if err != nil || !issuer.Equal(c.cert) || responder != "http://ocsp.example/r" || len(serials) != 3 || serials[1].Hex() != "0d" {
		t.Errorf("%v %v %s %v", issuer, serials, responder, err)
	}
	if _, serials, _, _ := ListOCSPTargets(t.Context(), tr, srv.URL, "secret", 2); len(serials) != 2 {
		t.Errorf("%d serials, want the limit", len(serials))
	}
	if _, _, _, err := ListOCSPTargets(t.Context(), tr, srv.URL, "wrong", 2); err == nil {
		t.Error("a refused list was accepted")
	}
}
