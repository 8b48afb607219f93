package server_test

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/acme"
	"chancery/internal/acme/server"
	"chancery/internal/ca"
	"chancery/internal/keys"
	"chancery/internal/pki"
)

func newKey(t testing.TB) crypto.Signer {
	t.Helper()
	k, err := keys.Generate(pki.P256)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// revocation is the payload of revoke-cert.
func revocation(cert *x509.Certificate, reason any) map[string]any {
	m := map[string]any{"certificate": base64.RawURLEncoding.EncodeToString(cert.Raw)}
	if reason != nil {
		m["reason"] = reason
	}
	return m
}

func (w *world) row(t testing.TB, certURL string) ca.Certificate {
	t.Helper()
	c, err := ca.Get(context.Background(), w.db.Read(), lastPart(certURL))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestRevocation(t *testing.T) { // RFC 8555 section 7.6
	each(t, func(t *testing.T, w *world) {
		url := w.base + "/revoke-cert"
		owner, stranger := w.account(t), w.account(t)
		t.Run("by the account that ordered it, with a reason of its choice", func(t *testing.T) {
			cert, at := owner.issue(nil, "mine.test")
			for _, reason := range []int{2, 6, 7, 8, 10, 11, -1, 99} {
				owner.post(url, revocation(cert, reason)).problem(http.StatusBadRequest, "badRevocationReason")
			}
			if a := owner.post(url, revocation(cert, 4)).want(http.StatusOK); len(a.body) != 0 {
				t.Errorf("body %s", a.body)
			}
			if got := w.row(t, at); got.Reason != pki.Superseded || got.RevokedAt.IsZero() || got.RevokedBy != "account:"+lastPart(owner.kid) {
				t.Errorf("%+v", got)
			}
			owner.post(url, revocation(cert, 4)).problem(http.StatusBadRequest, "alreadyRevoked")
		})
		t.Run("by nobody else", func(t *testing.T) {
			cert, at := owner.issue(nil, "other.test", "second.test")
			stranger.post(url, revocation(cert, nil)).problem(http.StatusForbidden, "unauthorized")
			stranger.ready("other.test") // one of two names
			stranger.post(url, revocation(cert, nil)).problem(http.StatusForbidden, "unauthorized")
			if !w.row(t, at).RevokedAt.IsZero() {
				t.Fatal("revoked")
			}
			t.Run("but an account that is authorized for all its names, as cessationOfOperation", func(t *testing.T) {
				stranger.ready("second.test")
				stranger.post(url, revocation(cert, 1)).want(http.StatusOK)
				if got := w.row(t, at); got.Reason != pki.CessationOfOperation {
					t.Errorf("reason %v", got.Reason)
				}
			})
		})
		t.Run("by the certificate's key, which is blocked", func(t *testing.T) {
			key := newKey(t)
			cert, at := owner.issue(key, "key.test")
			holder := w.client(t)
			holder.post(url, revocation(cert, nil)).problem(http.StatusForbidden, "unauthorized")
			var err error
			if holder.signer, err = acme.NewSigner(key); err != nil {
				t.Fatal(err)
			}
			holder.post(url, revocation(cert, 4)).want(http.StatusOK)
			if got := w.row(t, at); got.Reason != pki.KeyCompromise {
				t.Errorf("reason %v", got.Reason)
			}
			o, _ := owner.ready("key2.test")
			owner.post(o.Finalize, map[string]string{"csr": csr(t, key, "key2.test")}).problem(http.StatusBadRequest, "badPublicKey")
		})
		t.Run("twice at once has one winner", func(t *testing.T) {
			cert, _ := owner.issue(nil, "race.test")
			codes := atOnce(4, func(int) int { return owner.copy().post(url, revocation(cert, nil)).StatusCode })
			won := 0
			for _, c := range codes {
				if c == http.StatusOK {
					won++
				} else if c != http.StatusBadRequest {
					t.Errorf("status %d", c)
				}
			}
			if won != 1 {
				t.Errorf("statuses %v", codes)
			}
		})
		t.Run("what is no certificate of this CA", func(t *testing.T) {
			cert, _ := owner.issue(nil, "altered.test")
			owner.post(url, map[string]any{"certificate": "%"}).problem(http.StatusBadRequest, "malformed")
			owner.post(url, map[string]any{"certificate": "AAAA"}).problem(http.StatusBadRequest, "malformed")
			owner.post(url, map[string]any{}).problem(http.StatusBadRequest, "malformed")
			altered := append([]byte(nil), cert.Raw...)
			altered[len(altered)-1] ^= 1 // same serial and issuer, other bytes
			owner.post(url, map[string]any{"certificate": base64.RawURLEncoding.EncodeToString(altered)}).problem(http.StatusNotFound, "malformed")
			issuing, err := w.ca.Issuing("default")
			if err != nil {
				t.Fatal(err)
			}
			owner.post(url, revocation(issuing.Cert, nil)).problem(http.StatusNotFound, "malformed")
		})
	})
}

func TestHooks(t *testing.T) {
	var issued, revoked []string
	w := lite(t, func(c *server.Config) {
		c.OnIssue = func(_ context.Context, c *ca.Certificate) { issued = append(issued, c.ID) }
		c.OnRevoke = func(_ context.Context, c *ca.Certificate) { revoked = append(revoked, c.ID) }
	})
	c := w.account(t)
	cert, url := c.issue(nil, "hook.test")
	c.post(w.base+"/revoke-cert", revocation(cert, nil)).want(http.StatusOK)
	want := []string{lastPart(url)}
	if diff := cmp.Diff([][]string{want, want}, [][]string{issued, revoked}); diff != "" {
		t.Error(diff)
	}
}

func TestRenewalInfo(t *testing.T) { // RFC 9773
	const why = "https://ca.test/incident"
	w := lite(t, forCA(func(a *server.CA) { a.ExplanationURL = why }))
	c := w.account(t)
	cert, _ := c.issue(nil, "ari.test")
	id, err := pki.CertID(cert)
	if err != nil {
		t.Fatal(err)
	}
	info := func() (i acme.RenewalInfo) {
		t.Helper()
		c.get(w.base + "/renewal-info/" + id).want(http.StatusOK).into(&i)
		return i
	}
	start, end := pki.RenewalWindow(cert.NotBefore, cert.NotAfter)
	if got := info(); !got.SuggestedWindow.Start.Equal(start) || !got.SuggestedWindow.End.Equal(end) || got.ExplanationURL != "" {
		t.Errorf("%+v, want %s to %s", got, start, end)
	}
	c.post(w.base+"/revoke-cert", revocation(cert, nil)).want(http.StatusOK)
	if got := info(); !got.SuggestedWindow.End.Before(time.Now()) || !got.SuggestedWindow.Start.Before(got.SuggestedWindow.End.Time) || got.ExplanationURL != why {
		t.Errorf("of a revoked certificate: %+v", got)
	}
	keyID, _, _ := strings.Cut(id, ".")
	c.get(w.base+"/renewal-info/"+keyID+".AQIDBA").problem(http.StatusNotFound, "malformed")
	c.get(w.base+"/renewal-info/nope").problem(http.StatusBadRequest, "malformed")
	c.get(w.base+"/renewal-info/"+strings.Repeat("A", 5000)).problem(http.StatusBadRequest, "malformed")
}

func TestReplaces(t *testing.T) { // RFC 9773 section 5
	each(t, func(t *testing.T, w *world) {
		c := w.account(t)
		url := w.base + "/new-order"
		cert, _ := c.issue(nil, "old.test", "shared.test")
		id, err := pki.CertID(cert)
		if err != nil {
			t.Fatal(err)
		}
		order := func(names ...string) map[string]any {
			return map[string]any{"identifiers": ids(names...), "replaces": id}
		}
		w.account(t).post(url, order("old.test")).problem(http.StatusForbidden, "unauthorized")
		c.post(url, order("unrelated.test")).problem(http.StatusBadRequest, "malformed")
		o, at := c.orderWith(order("shared.test", "new.test"))
		if o.Replaces != id {
			t.Errorf("the order does not repeat replaces: %+v", o)
		}
		c.post(url, order("old.test")).problem(http.StatusConflict, "alreadyReplaced")
		if _, again := c.orderWith(order("shared.test", "new.test")); again != at {
			t.Error("the same order again is another order")
		}
		t.Run("an order that became invalid gives the certificate free", func(t *testing.T) {
			z := c.post(o.Authorizations[0], nil).authz()
			if z.Status == acme.AuthorizationPending {
				c.post(z.Challenges[0].URL, map[string]any{}).want(http.StatusOK)
			} else {
				c.post(o.Authorizations[0], map[string]string{"status": "deactivated"}).want(http.StatusOK)
			}
			c.post(url, order("old.test")).want(http.StatusCreated)
		})
		t.Run("so does one that expired", func(t *testing.T) {
			cert, _ := c.issue(nil, "exp.test")
			id, _ := pki.CertID(cert)
			_, at := c.orderWith(map[string]any{"identifiers": ids("exp.test"), "replaces": id})
			more := map[string]any{"identifiers": ids("exp.test", "more.exp.test"), "replaces": id}
			c.post(url, more).problem(http.StatusConflict, "alreadyReplaced")
			w.exec(t, qExpireOrder, lastPart(at), time.Now().Add(-time.Second))
			c.post(url, more).want(http.StatusCreated)
		})
		t.Run("of several at once, one replaces", func(t *testing.T) {
			cert, _ := c.issue(nil, "r.test")
			id, _ := pki.CertID(cert)
			codes := atOnce(4, func(i int) int {
				return c.copy().post(url, map[string]any{"identifiers": ids("r.test", string(rune('a'+i))+".r.test"), "replaces": id}).StatusCode
			})
			won := 0
			for _, code := range codes {
				if code == http.StatusCreated {
					won++
				} else if code != http.StatusConflict {
					t.Errorf("status %d", code)
				}
			}
			if won != 1 {
				t.Errorf("statuses %v", codes)
			}
		})
	})
}

func TestDownload(t *testing.T) {
	w := lite(t)
	c := w.account(t)
	cert, url := c.issue(nil, "dl.test")
	issuing, err := w.ca.Issuing("default")
	if err != nil {
		t.Fatal(err)
	}
	t.Run("the chain ends below the root (RFC 8555 section 9.1)", func(t *testing.T) {
		a := c.post(url, nil).want(http.StatusOK)
		if diff := cmp.Diff(string(pki.EncodeChain(cert.Raw, issuing.DER)), string(a.body)); diff != "" {
			t.Error(diff)
		}
		if len(a.links("alternate")) != 0 {
			t.Errorf("links %v", a.Header.Values("Link"))
		}
	})
	t.Run("other chains are alternates (RFC 8555 section 7.4.2)", func(t *testing.T) {
		issuing.Chains = append(issuing.Chains, []byte("-----BEGIN OTHER-----\n"))
		defer func() { issuing.Chains = issuing.Chains[:1] }()
		a := c.post(url, nil)
		if diff := cmp.Diff([]string{url + "/1"}, a.links("alternate")); diff != "" {
			t.Fatal(diff)
		}
		b := c.post(url+"/1", nil).want(http.StatusOK)
		if !strings.HasSuffix(string(b.body), "OTHER-----\n") || leaf(t, b.body).SerialNumber.Cmp(cert.SerialNumber) != 0 {
			t.Errorf("%s", b.body)
		}
		if diff := cmp.Diff([]string{url}, b.links("alternate")); diff != "" {
			t.Error(diff)
		}
	})
	for _, n := range []string{"/0", "/1", "/01", "/-1", "/x", "/999999999999999999999"} {
		c.post(url+n, nil).problem(http.StatusNotFound, "malformed")
	}
	t.Run("Accept", func(t *testing.T) {
		for accept, want := range map[string]string{
			"":                                  "application/pem-certificate-chain",
			"*/*":                               "application/pem-certificate-chain",
			"application/pem-certificate-chain": "application/pem-certificate-chain",
			"application/pkix-cert":             "application/pkix-cert",
			"application/pkix-cert, */*;q=0.1":  "application/pem-certificate-chain",
			"garbage;;;":                        "application/pem-certificate-chain",
			"text/html":                         "",
			"application/pkcs7-mime":            "",
		} {
			r, _ := http.NewRequest(http.MethodPost, url, strings.NewReader(string(c.sign(url, nil))))
			r.Header.Set("Content-Type", "application/jose+json")
			r.Header.Set("Accept", accept)
			a := c.do(r)
			if want == "" {
				a.problem(http.StatusNotAcceptable, "malformed")
			} else if got := a.want(http.StatusOK).Header.Get("Content-Type"); got != want {
				t.Errorf("Accept %q: %q, want %q", accept, got, want)
			}
		}
	})
	c.post(url, map[string]any{}).problem(http.StatusBadRequest, "malformed")
	w.account(t).post(url, nil).problem(http.StatusForbidden, "unauthorized")
	c.post(w.base+"/certificate/..%2f..%2fetc", nil).problem(http.StatusNotFound, "malformed")
}

func certID(t testing.TB, cert *x509.Certificate) string {
	t.Helper()
	id, err := pki.CertID(cert)
	if err != nil {
		t.Fatal(err)
	}
	return id
}
