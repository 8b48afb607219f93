package server_test

import (
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/acme"
	"chancery/internal/acme/challenge"
	"chancery/internal/pki"
)

func TestIssuance(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		c := w.account(t)
		t.Run("one name takes five signed requests and no poll", func(t *testing.T) {
			w.names("www.example.test")
			o, orderURL := c.order("www.example.test")                        // 1
			z := c.post(o.Authorizations[0], nil).want(http.StatusOK).authz() // 2
			if ch := c.solve(z, challenge.HTTP01); ch.Status != acme.ChallengeValid || ch.Validated.IsZero() {
				t.Fatalf("the challenge's own answer is %+v, want valid", ch) // 3
			}
			a := c.post(o.Finalize, map[string]string{"csr": csr(t, nil, "www.example.test")}).want(http.StatusOK) // 4
			if a.Header.Get("Location") != orderURL {
				t.Errorf("Location %q, want %q (RFC 8555 section 7.4)", a.Header.Get("Location"), orderURL)
			}
			if o = a.order(); o.Status != acme.OrderValid {
				t.Fatalf("finalize answered %+v", o)
			}
			got := c.post(o.Certificate, nil).want(http.StatusOK) // 5
			if ct := got.Header.Get("Content-Type"); ct != "application/pem-certificate-chain" {
				t.Errorf("Content-Type %q", ct)
			}
			verify(t, w, got.body, "www.example.test")
		})
		t.Run("many names, wildcards and addresses", func(t *testing.T) {
			cert, _ := c.issue(nil, "many.example.test", "*.many.example.test", "other.test", "127.0.0.1")
			if diff := cmp.Diff([]string{"*.many.example.test", "many.example.test", "other.test"}, slices.Sorted(slices.Values(cert.DNSNames))); diff != "" {
				t.Error(diff)
			}
			if len(cert.IPAddresses) != 1 || cert.IPAddresses[0].String() != "127.0.0.1" {
				t.Errorf("addresses %v", cert.IPAddresses)
			}
		})
		t.Run("a valid authorization serves the next order", func(t *testing.T) {
			o, _ := c.orderWith(map[string]any{"identifiers": ids("www.example.test"), "notAfter": soon()})
			if o.Status != acme.OrderReady {
				t.Fatalf("order %+v, want ready at once", o)
			}
			a := c.post(o.Finalize, map[string]string{"csr": csr(t, nil, "www.example.test")}).want(http.StatusOK)
			if a.order().Status != acme.OrderValid {
				t.Errorf("%s", a.body)
			}
		})
	})
}

// verify checks a chain against the root of the world.
func verify(t *testing.T, w *world, chain []byte, name string) {
	t.Helper()
	var certs []*x509.Certificate
	for block, rest := pem.Decode(chain); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		certs = append(certs, cert)
	}
	roots, inter := x509.NewCertPool(), x509.NewCertPool()
	for _, a := range w.ca.Authorities() {
		if a.ParentID == "" {
			roots.AddCert(a.Cert)
		}
	}
	for _, c := range certs[1:] {
		inter.AddCert(c)
	}
	if _, err := certs[0].Verify(x509.VerifyOptions{DNSName: name, Roots: roots, Intermediates: inter}); err != nil {
		t.Error(err)
	}
}

func TestEveryAccountKeyType(t *testing.T) {
	w := lite(t)
	w.names("keys.example.test")
	for _, kt := range pki.KeyTypes {
		t.Run(string(kt), func(t *testing.T) {
			c := w.clientWith(t, kt)
			c.register()
			o, _ := c.order("keys.example.test")
			c.authorize(o)
		})
	}
}

func TestWireRules(t *testing.T) {
	w := lite(t)
	c := w.account(t)
	w.names("wire.example.test")

	t.Run("every answer to a POST carries a fresh nonce, errors too (RFC 8555 section 6.5)", func(t *testing.T) {
		seen := map[string]bool{}
		for _, a := range []*answer{
			c.post(c.base+"/new-order", map[string]any{"identifiers": ids("wire.example.test")}).want(http.StatusCreated),
			c.post(c.base+"/new-order", map[string]any{}).want(http.StatusBadRequest),
			c.send(c.base+"/new-order", []byte("{")).want(http.StatusBadRequest),
			c.post(c.base+"/order/nope", nil).want(http.StatusNotFound),
		} {
			n := a.Header.Get("Replay-Nonce")
			if n == "" || seen[n] {
				t.Errorf("%s: nonce %q is missing or was seen", a.Request.URL, n)
			}
			seen[n] = true
			if a.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s: Cache-Control %q", a.Request.URL, a.Header.Get("Cache-Control"))
			}
			if len(a.links("index")) != 1 {
				t.Errorf("%s: no index link", a.Request.URL)
			}
		}
	})
	t.Run("new-nonce answers HEAD with 200 and GET with 204 (RFC 8555 section 7.2)", func(t *testing.T) {
		for method, status := range map[string]int{http.MethodHead: 200, http.MethodGet: 204} {
			a := c.plain(method, c.base+"/new-nonce").want(status)
			if a.Header.Get("Replay-Nonce") == "" || a.Header.Get("Cache-Control") != "no-store" || len(a.links("index")) != 1 {
				t.Errorf("%s: headers %v", method, a.Header)
			}
		}
	})
	t.Run("challenges stand as http-01, dns-01, tls-alpn-01", func(t *testing.T) {
		o, _ := c.order("order.wire.test")
		z := c.post(o.Authorizations[0], nil).want(http.StatusOK).authz()
		var got []string
		for _, ch := range z.Challenges {
			got = append(got, ch.Type)
			if len(ch.Token) < 22 {
				t.Errorf("token %q has less than 128 bits", ch.Token)
			}
		}
		if diff := cmp.Diff([]string{"http-01", "dns-01", "tls-alpn-01"}, got); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("a wildcard offers dns-01 alone", func(t *testing.T) {
		o, _ := c.order("*.wild.test")
		z := c.post(o.Authorizations[0], nil).want(http.StatusOK).authz()
		if len(z.Challenges) != 1 || z.Challenges[0].Type != "dns-01" || !z.Wildcard || z.Identifier.Value != "wild.test" {
			t.Errorf("%+v", z)
		}
	})
	t.Run("a challenge links up to its authorization (RFC 8555 section 7.1)", func(t *testing.T) {
		o, _ := c.order("up.wire.test")
		z := c.post(o.Authorizations[0], nil).want(http.StatusOK).authz()
		a := c.post(z.Challenges[0].URL, nil).want(http.StatusOK)
		if diff := cmp.Diff([]string{o.Authorizations[0]}, a.links("up")); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("Retry-After is a whole number of seconds", func(t *testing.T) {
		cert, _ := c.issue(nil, "ari.wire.test")
		id, err := pki.CertID(cert)
		if err != nil {
			t.Fatal(err)
		}
		a := c.get(c.base + "/renewal-info/" + id).want(http.StatusOK)
		n, err := strconv.Atoi(a.Header.Get("Retry-After"))
		if err != nil || n < 19440 || n > 23760 {
			t.Errorf("Retry-After %q, want 6 h give or take a tenth", a.Header.Get("Retry-After"))
		}
	})
	t.Run("a fresh nonce is never refused", func(t *testing.T) {
		for range 200 {
			c.post(c.kid, nil).want(http.StatusOK)
		}
	})
	t.Run("a nonce is good once, and badNonce brings another (RFC 8555 section 6.5)", func(t *testing.T) {
		msg := c.sign(c.kid, nil)
		c.send(c.kid, msg).want(http.StatusOK)
		c.send(c.kid, msg).problem(http.StatusBadRequest, "badNonce")
		c.post(c.kid, nil).want(http.StatusOK)
	})
}
