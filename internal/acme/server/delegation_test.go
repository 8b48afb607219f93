package server_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/acme"
	"chancery/internal/acme/server"
	"chancery/internal/fault"
	"chancery/internal/keys"
	"chancery/internal/pki"
)

// delegating lets the CA "default" take orders under delegations, also such
// that renew themselves.
var delegating = forCA(func(a *server.CA) {
	a.Delegation = true
	a.AutoRenewal = server.AutoRenewal{MinLifetime: time.Hour, MaxDuration: 10 * 24 * time.Hour}
})

// templateFor is a CSR template for names.
func templateFor(names ...string) string {
	return `{"keyTypes":[{"PublicKeyType":"id-ecPublicKey","namedCurve":"secp256r1","SignatureType":"ecdsa-with-SHA256"}],
		"extensions":{"subjectAltName":{"DNS":["` + strings.Join(names, `","`) + `"]}}}`
}

// delegate lets c order what owner has authorized, and returns the delegation
// and its URL.
func (c *client) delegate(owner *client, template string, cnames map[string]string) (server.Delegation, string) {
	c.t.Helper()
	d, err := c.w.CreateDelegation(context.Background(), server.Delegation{CA: "default", AccountID: lastPart(c.kid), OwnerID: lastPart(owner.kid),
		Template: template, CNAMEs: cnames}, "test")
	if err != nil {
		c.t.Fatal(err)
	}
	return d, c.base + "/delegation/" + d.ID
}

// delegated asks for names under a delegation.
func delegated(url string, names ...string) map[string]any {
	return map[string]any{"identifiers": ids(names...), "delegation": url, "allow-certificate-get": true}
}

func TestDelegation(t *testing.T) { // RFC 9115
	each(t, func(t *testing.T, w *world) {
		owner, ndc := w.account(t), w.account(t)
		owner.issue(nil, "abc.ido.test") // the owner authorizes its name
		template := templateFor("abc.ido.test")
		cnames := map[string]string{"abc.ido.test.": "abc.ndc.test."}
		d, url := ndc.delegate(owner, template, cnames)

		t.Run("the directory says so (section 2.3.4)", func(t *testing.T) {
			var dir acme.Directory
			ndc.get(ndc.base + "/directory").into(&dir)
			if !dir.Meta.DelegationEnabled || !dir.Meta.AllowCertificateGet || !dir.Meta.AutoRenewal.AllowCertificateGet {
				t.Errorf("%+v", dir.Meta)
			}
		})
		t.Run("account, list, object (section 2.3.1)", func(t *testing.T) {
			var a acme.Account
			ndc.post(ndc.kid, nil).want(http.StatusOK).into(&a)
			if a.Delegations != ndc.kid+"/delegations" {
				t.Fatalf("%+v", a)
			}
			var list acme.DelegationList
			ndc.post(a.Delegations, nil).want(http.StatusOK).into(&list)
			if diff := cmp.Diff([]string{url}, list.Delegations); diff != "" {
				t.Error(diff)
			}
			var got acme.Delegation
			ndc.post(url, nil).want(http.StatusOK).into(&got)
			if _, err := acme.ParseTemplate(got.CSRTemplate); err != nil || !cmp.Equal(got.CNAMEMap, cnames) {
				t.Errorf("%s %v: %v", got.CSRTemplate, got.CNAMEMap, err)
			}
			ndc.post(url, map[string]any{}).problem(http.StatusBadRequest, "malformed") // read-only
			ndc.post(a.Delegations, map[string]any{}).problem(http.StatusBadRequest, "malformed")
			owner.post(a.Delegations, nil).problem(http.StatusForbidden, "unauthorized")
			owner.post(url, nil).problem(http.StatusNotFound, "malformed")
			var none acme.DelegationList
			if owner.post(owner.kid+"/delegations", nil).want(http.StatusOK).into(&none); none.Delegations == nil || len(none.Delegations) != 0 {
				t.Errorf("%+v", none)
			}
		})
		t.Run("order, finalize, GET by anybody (sections 2.3.3 and 2.3.5)", func(t *testing.T) {
			o, orderURL := ndc.orderWith(delegated(url, "abc.ido.test"))
			if o.Status != acme.OrderReady || o.Authorizations == nil || len(o.Authorizations) != 0 || o.Delegation != url || !o.AllowCertificateGet {
				t.Fatalf("%+v", o)
			}
			key := newKey(t)
			o = ndc.post(o.Finalize, map[string]string{"csr": csr(t, key, "abc.ido.test")}).want(http.StatusOK).order()
			if o.Status != acme.OrderValid || o.Certificate == "" || o.Delegation != url {
				t.Fatalf("%+v", o)
			}
			byPost := ndc.download(o.Certificate)
			byGet := ndc.get(o.Certificate).want(http.StatusOK)
			if !leaf(t, byGet.body).Equal(byPost) || !byPost.PublicKey.(interface{ Equal(crypto.PublicKey) bool }).Equal(key.Public()) {
				t.Error("GET and POST-as-GET differ, or the key is another")
			}
			ndc.plain(http.MethodHead, o.Certificate).want(http.StatusOK)
			if got := ndc.post(orderURL, nil).order(); !got.Expires.Equal(byPost.NotAfter) {
				t.Errorf("the order expires at %s, the certificate at %s", got.Expires, byPost.NotAfter)
			}
		})
		t.Run("only what asks for it is open (section 2.3.5)", func(t *testing.T) {
			_, cert := owner.issue(nil, "closed.ido.test")
			for _, u := range []string{cert, cert + "/1", owner.base + "/certificate/nope"} {
				owner.get(u).problem(http.StatusMethodNotAllowed, "malformed")
			}
			o, _ := owner.orderWith(map[string]any{"identifiers": ids("closed.ido.test"), "allow-certificate-get": true})
			if !o.AllowCertificateGet {
				t.Fatal("the wish is not reflected")
			}
			o = owner.post(o.Finalize, map[string]string{"csr": csr(t, nil, "closed.ido.test")}).want(http.StatusOK).order()
			owner.get(o.Certificate).want(http.StatusOK)
		})
		t.Run("orders that are refused (sections 2.3.1.3, 2.3.2 and 2.3.3)", func(t *testing.T) {
			order := func(c *client, change func(map[string]any)) *answer {
				req := delegated(url, "abc.ido.test")
				change(req)
				return c.post(c.base+"/new-order", req)
			}
			for _, u := range []string{url + "x", "https://elsewhere.test/1", ndc.base + "/delegation/" + lastPart(owner.kid)} {
				order(ndc, func(r map[string]any) { r["delegation"] = u }).problem(http.StatusForbidden, "unknownDelegation")
			}
			order(owner, func(map[string]any) {}).problem(http.StatusForbidden, "unknownDelegation") // another account's
			order(ndc, func(r map[string]any) { delete(r, "allow-certificate-get") }).problem(http.StatusBadRequest, "malformed")
			order(ndc, func(r map[string]any) { r["profile"] = "short" }).problem(http.StatusBadRequest, "invalidProfile")
			p := order(ndc, func(r map[string]any) { r["identifiers"] = ids("abc.ido.test", "xyz.ido.test") }).problem(http.StatusForbidden, "rejectedIdentifier")
			if len(p.Subproblems) != 1 || p.Subproblems[0].Identifier.Value != "xyz.ido.test" {
				t.Errorf("%+v", p)
			}
			order(ndc, func(r map[string]any) { r["identifiers"] = ids("xyz.ido.test") }).problem(http.StatusForbidden, "rejectedIdentifier")
			for _, field := range []string{"notBefore", "notAfter"} { // STAR
				order(ndc, func(r map[string]any) {
					r["auto-renewal"] = map[string]any{"end-date": stamp(time.Now().Add(72 * time.Hour)), "lifetime": 86400, "allow-certificate-get": true}
					r[field] = soon()
				}).problem(http.StatusBadRequest, "malformed")
			}
			order(ndc, func(r map[string]any) {
				r["auto-renewal"] = map[string]any{"end-date": stamp(time.Now().Add(72 * time.Hour)), "lifetime": 86400}
			}).problem(http.StatusBadRequest, "malformed")
			ndc.post(ndc.base+"/new-order", map[string]any{"identifiers": ids("abc.ido.test")}).want(http.StatusCreated)
		})
		t.Run("a request outside the template ends the order with 403 (sections 2.2, 2.3.2)", func(t *testing.T) {
			rsa, err := keys.Generate(pki.RSA2048)
			if err != nil {
				t.Fatal(err)
			}
			for name, bad := range map[string]struct {
				typ string
				csr string
			}{
				"another kind of key":     {"badCSR", csr(t, rsa, "abc.ido.test")},
				"a subject of its own":    {"badCSR", csrOf(t, &x509.CertificateRequest{DNSNames: []string{"abc.ido.test"}, Subject: pkix.Name{Organization: []string{"NDC"}}})},
				"an extension of its own": {"badCSR", csrOf(t, &x509.CertificateRequest{DNSNames: []string{"abc.ido.test"}, ExtraExtensions: []pkix.Extension{{Id: []int{2, 5, 29, 15}, Value: []byte{3, 2, 7, 0x80}}}})},
			} {
				o, orderURL := ndc.orderWith(delegated(url, "abc.ido.test"))
				ndc.post(o.Finalize, map[string]string{"csr": bad.csr}).problem(http.StatusForbidden, bad.typ)
				if o = ndc.post(orderURL, nil).order(); o.Status != acme.OrderInvalid || o.Error == nil {
					t.Errorf("%s: %+v", name, o)
				}
			}
			o, orderURL := ndc.orderWith(delegated(url, "abc.ido.test")) // names that are not the order's are no matter of the template
			ndc.post(o.Finalize, map[string]string{"csr": csr(t, nil, "xyz.ido.test")}).problem(http.StatusBadRequest, "badCSR")
			if o = ndc.post(orderURL, nil).order(); o.Status != acme.OrderReady {
				t.Errorf("%+v", o)
			}
		})
		t.Run("names that the client chooses must be the owner's (section 4.1)", func(t *testing.T) {
			_, free := ndc.delegate(owner, templateFor("**"), nil)
			p := ndc.post(ndc.base+"/new-order", delegated(free, "victim.test")).problem(http.StatusForbidden, "unauthorized")
			if len(p.Subproblems) != 1 || p.Subproblems[0].Identifier.Value != "victim.test" {
				t.Errorf("%+v", p)
			}
			o, _ := ndc.orderWith(delegated(free, "abc.ido.test"))
			ndc.post(o.Finalize, map[string]string{"csr": csr(t, nil, "abc.ido.test")}).want(http.StatusOK)
		})
		t.Run("the owner revokes, others do not (section 2.3.6.2)", func(t *testing.T) {
			o, _ := ndc.orderWith(delegated(url, "abc.ido.test"))
			o = ndc.post(o.Finalize, map[string]string{"csr": csr(t, nil, "abc.ido.test")}).want(http.StatusOK).order()
			req := map[string]any{"certificate": base64.RawURLEncoding.EncodeToString(ndc.download(o.Certificate).Raw)}
			w.account(t).post(ndc.base+"/revoke-cert", req).problem(http.StatusForbidden, "unauthorized")
			owner.post(ndc.base+"/revoke-cert", req).want(http.StatusOK)
		})
		t.Run("an owner that takes its authorization back", func(t *testing.T) {
			other := w.account(t)
			o, _ := other.ready("gone.ido.test")
			_, gone := ndc.delegate(other, templateFor("gone.ido.test"), nil)
			n, orderURL := ndc.orderWith(delegated(gone, "gone.ido.test"))
			other.post(o.Authorizations[0], map[string]string{"status": "deactivated"}).want(http.StatusOK)
			ndc.post(n.Finalize, map[string]string{"csr": csr(t, nil, "gone.ido.test")}).problem(http.StatusForbidden, "unauthorized")
			if n = ndc.post(orderURL, nil).order(); n.Status != acme.OrderInvalid {
				t.Errorf("%+v", n)
			}
			ndc.post(ndc.base+"/new-order", delegated(gone, "gone.ido.test")).problem(http.StatusForbidden, "unauthorized")
		})
		t.Run("the end of a delegation (section 2.3.6)", func(t *testing.T) {
			o, orderURL := ndc.orderWith(delegated(url, "abc.ido.test"))
			if err := w.EndDelegation(t.Context(), d.ID, "test"); err != nil {
				t.Fatal(err)
			}
			ndc.post(o.Finalize, map[string]string{"csr": csr(t, nil, "abc.ido.test")}).problem(http.StatusForbidden, "orderNotReady")
			if o = ndc.post(orderURL, nil).order(); o.Status != acme.OrderInvalid || o.Error == nil {
				t.Errorf("%+v", o)
			}
			ndc.post(ndc.base+"/new-order", delegated(url, "abc.ido.test")).problem(http.StatusForbidden, "unknownDelegation")
			ndc.post(url, nil).problem(http.StatusNotFound, "malformed")
			if err := w.EndDelegation(t.Context(), d.ID, "test"); !fault.Is(err, fault.NotFound) {
				t.Errorf("ended twice: %v", err)
			}
		})
	}, delegating)
}

func TestDelegationOfStar(t *testing.T) { // RFC 9115 section 2.3.2, RFC 8739
	each(t, func(t *testing.T, w *world) {
		owner, ndc := w.account(t), w.account(t)
		owner.issue(nil, "star.ido.test")
		d, url := ndc.delegate(owner, templateFor("star.ido.test"), nil)
		start := time.Now()
		req := starOrder("star.ido.test", map[string]any{"allow-certificate-get": true})
		req["delegation"] = url
		o, orderURL := ndc.orderWith(req)
		if o.Status != acme.OrderReady || len(o.Authorizations) != 0 || o.Delegation != url || o.AutoRenewal == nil || !o.AutoRenewal.AllowCertificateGet || !o.NotBefore.IsZero() || !o.NotAfter.IsZero() {
			t.Fatalf("%+v", o)
		}
		o = ndc.post(o.Finalize, map[string]string{"csr": csr(t, nil, "star.ido.test")}).want(http.StatusOK).order()
		if o.Status != acme.OrderValid || o.StarCertificate == "" || o.Certificate != "" {
			t.Fatalf("%+v", o)
		}
		first := leaf(t, ndc.get(o.StarCertificate).want(http.StatusOK).body)
		if n := w.renew(t, start.Add(12*time.Hour+time.Minute)); n.Done != 1 {
			t.Fatalf("%+v", n)
		}
		if second := leaf(t, ndc.get(o.StarCertificate).want(http.StatusOK).body); second.SerialNumber.Cmp(first.SerialNumber) == 0 {
			t.Error("not renewed")
		}
		// Cancellation is the owner's (section 2.3.6.1), who ends the delegation.
		ndc.post(orderURL, map[string]string{"status": "canceled"}).problem(http.StatusForbidden, "unauthorized")
		if err := w.EndDelegation(t.Context(), d.ID, "test"); err != nil {
			t.Fatal(err)
		}
		ndc.get(o.StarCertificate).problem(http.StatusForbidden, "autoRenewalCanceled")
		if n := w.renew(t, start.Add(37*time.Hour)); n.Claimed != 0 {
			t.Errorf("renewed after the end: %+v", n)
		}
	}, delegating)
}

// A delegation that ends while its certificate is signed for wins: the claim
// looks at it in its own transaction.
func TestDelegationEndsWithTheClaim(t *testing.T) {
	w := lite(t, delegating)
	owner, ndc := w.account(t), w.account(t)
	owner.issue(nil, "late.ido.test")
	d, url := ndc.delegate(owner, templateFor("late.ido.test"), nil)
	req := starOrder("late.ido.test", map[string]any{"allow-certificate-get": true})
	req["delegation"] = url
	o, _ := ndc.orderWith(req)
	entered, leave := w.blockSigner()
	done := make(chan *answer)
	go func() { done <- ndc.copy().post(o.Finalize, map[string]string{"csr": csr(t, nil, "late.ido.test")}) }()
	<-entered
	if err := w.EndDelegation(t.Context(), d.ID, "test"); err != nil {
		t.Fatal(err)
	}
	close(leave)
	<-done
	if n, err := w.RenewStar(t.Context(), time.Now().Add(13*time.Hour)); err != nil || n.Failed != 0 {
		t.Errorf("%+v %v", n, err)
	}
	if n := issuedIn(t, w, acme.Order{StarCertificate: strings.TrimSuffix(o.Finalize, "/finalize")}); n > 1 {
		t.Errorf("%d certificates, more than the one that was being signed", n)
	}
}

func TestDelegationsAreChecked(t *testing.T) {
	w := lite(t, delegating)
	owner, ndc := w.account(t), w.account(t)
	good := server.Delegation{CA: "default", AccountID: lastPart(ndc.kid), OwnerID: lastPart(owner.kid), Template: templateFor("a.test")}
	for name, change := range map[string]func(*server.Delegation){
		"no such account":     func(d *server.Delegation) { d.AccountID = "nobody" },
		"no such owner":       func(d *server.Delegation) { d.OwnerID = "nobody" },
		"oneself":             func(d *server.Delegation) { d.OwnerID = d.AccountID },
		"another CA":          func(d *server.Delegation) { d.CA = "other" },
		"no such profile":     func(d *server.Delegation) { d.Profile = "nope" },
		"a bad template":      func(d *server.Delegation) { d.Template = "{}" },
		"a CNAME without dot": func(d *server.Delegation) { d.CNAMEs = map[string]string{"a.test": "b.test."} },
		"usages not delegated": func(d *server.Delegation) {
			d.Template = strings.Replace(d.Template, `"extensions":{`, `"extensions":{"extendedKeyUsage":["clientAuth"],`, 1)
		},
	} {
		d := good
		change(&d)
		if got, err := w.CreateDelegation(t.Context(), d, "test"); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if _, err := w.CreateDelegation(t.Context(), good, "test"); err != nil {
		t.Error(err)
	}
}

func TestDelegationIsOptIn(t *testing.T) {
	w := lite(t)
	c := w.account(t)
	c.post(c.base+"/new-order", delegated(c.base+"/delegation/x", "a.test")).problem(http.StatusBadRequest, "malformed")
	c.post(c.kid+"/delegations", nil).problem(http.StatusNotFound, "malformed")
	var a acme.Account
	if c.post(c.kid, nil).into(&a); a.Delegations != "" {
		t.Errorf("%+v", a)
	}
	w.names("a.test")
	o, _ := c.orderWith(map[string]any{"identifiers": ids("a.test"), "allow-certificate-get": true})
	if o.AllowCertificateGet {
		t.Error("GET is allowed where the CA does not offer it")
	}
	_, cert := c.issue(nil, "a.test")
	c.get(cert).problem(http.StatusMethodNotAllowed, "malformed")
	if _, err := w.CreateDelegation(t.Context(), server.Delegation{CA: "default", Template: templateFor("a.test")}, "test"); !fault.Is(err, fault.Invalid) {
		t.Error(err)
	}
}

// csrOf signs a request with a new key.
func csrOf(t testing.TB, tmpl *x509.CertificateRequest) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, tmpl, newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(der)
}
