package server_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"net/http"
	"sync"
	"testing"
	"time"

	"chancery/internal/acme"
	"chancery/internal/acme/server"
	"chancery/internal/ca"
	"chancery/internal/db"
	"chancery/internal/loop"
)

// renewing lets the CA "default" take orders that renew themselves.
var renewing = forCA(func(a *server.CA) {
	a.AutoRenewal = server.AutoRenewal{MinLifetime: time.Hour, MaxDuration: 10 * 24 * time.Hour, AllowGet: true}
})

// stamp writes an instant as clients do.
func stamp(at time.Time) string { return at.UTC().Format(time.RFC3339) }

// starOrder asks for a day's certificate for a name, for three days.
func starOrder(name string, more map[string]any) map[string]any {
	r := map[string]any{"end-date": stamp(time.Now().Add(72 * time.Hour)), "lifetime": 86400}
	for k, v := range more {
		r[k] = v
	}
	return map[string]any{"identifiers": ids(name), "auto-renewal": r}
}

// star makes a valid order that renews itself, and returns it with its URL.
func (c *client) star(name string, more map[string]any) (acme.Order, string) {
	c.t.Helper()
	c.w.names(name)
	o, url := c.orderWith(starOrder(name, more))
	c.authorize(o)
	return c.finish(o, name), url
}

// renew runs the loop at an instant and returns what it did.
func (w *world) renew(t testing.TB, at time.Time) loop.Count {
	t.Helper()
	n, err := w.RenewStar(context.Background(), at)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestStar(t *testing.T) { // RFC 8739
	each(t, func(t *testing.T, w *world) {
		c := w.account(t)
		t.Run("the directory tells the limits (section 3.2)", func(t *testing.T) {
			var d acme.Directory
			c.get(c.base + "/directory").into(&d)
			if got := d.Meta.AutoRenewal; got == nil || *got != (acme.AutoRenewalMeta{MinLifetime: 3600, MaxDuration: 864000, AllowCertificateGet: true}) {
				t.Errorf("%+v", got)
			}
		})
		t.Run("one order, a certificate a day (sections 3.1 to 3.5)", func(t *testing.T) {
			start := time.Now()
			o, url := c.star("a.test", nil)
			if o.Status != acme.OrderValid || o.Certificate != "" || o.StarCertificate == "" || o.AutoRenewal == nil || o.AutoRenewal.Lifetime != 86400 {
				t.Fatalf("%+v", o)
			}
			if !o.Expires.Equal(o.AutoRenewal.EndDate.Time) {
				t.Errorf("the order expires at %s, and ends at %s", o.Expires, o.AutoRenewal.EndDate)
			}
			first := c.rolling(o.StarCertificate)
			if life := first.NotAfter.Sub(start); life > 24*time.Hour+time.Since(start) || life < 24*time.Hour-time.Minute {
				t.Errorf("the first certificate ends in %s", life)
			}
			if n := w.renew(t, start.Add(11*time.Hour)); n.Claimed != 0 {
				t.Errorf("renewed before half of its life: %+v", n)
			}
			if n := w.renew(t, start.Add(12*time.Hour+time.Minute)); n.Done != 1 {
				t.Fatalf("not renewed at half of its life: %+v", n)
			}
			second := c.rolling(o.StarCertificate)
			if second.SerialNumber.Cmp(first.SerialNumber) == 0 || !second.NotAfter.Equal(first.NotAfter.Add(24*time.Hour)) ||
				!bytes.Equal(second.RawSubjectPublicKeyInfo, first.RawSubjectPublicKeyInfo) {
				t.Errorf("second certificate from %s to %s", second.NotBefore, second.NotAfter)
			}
			if n := w.renew(t, start.Add(13*time.Hour)); n.Claimed != 0 {
				t.Errorf("renewed twice: %+v", n)
			}
			if n := w.renew(t, start.Add(70*time.Hour)); n.Done != 1 { // the loop was away
				t.Fatalf("%+v", n)
			}
			last := c.rolling(o.StarCertificate)
			if !last.NotAfter.Equal(o.AutoRenewal.EndDate.Time) {
				t.Errorf("the last certificate ends at %s, the order at %s", last.NotAfter, o.AutoRenewal.EndDate)
			}
			if n := w.renew(t, start.Add(100*time.Hour)); n.Claimed != 0 {
				t.Errorf("renewed after the end: %+v", n)
			}
			if got := c.post(url, nil).order(); got.Status != acme.OrderValid || got.StarCertificate != o.StarCertificate {
				t.Errorf("%+v", got)
			}
		})
		t.Run("the same finalize request gets the same order", func(t *testing.T) {
			w.names("same.test")
			o, _ := c.orderWith(starOrder("same.test", nil))
			c.authorize(o)
			req := map[string]string{"csr": csr(t, nil, "same.test")}
			a, b := c.post(o.Finalize, req).want(http.StatusOK).order(), c.post(o.Finalize, req).want(http.StatusOK).order()
			if a.StarCertificate == "" || a.StarCertificate != b.StarCertificate || b.Certificate != "" {
				t.Errorf("%+v %+v", a, b)
			}
		})
		t.Run("a start in the future (section 3.5)", func(t *testing.T) {
			start := time.Now().Add(2 * time.Hour).UTC().Truncate(time.Second)
			o, _ := c.star("future.test", map[string]any{"start-date": stamp(start)})
			if cert := c.rolling(o.StarCertificate); !cert.NotBefore.Equal(start) || !cert.NotAfter.Equal(start.Add(24*time.Hour)) {
				t.Errorf("from %s to %s", cert.NotBefore, cert.NotAfter)
			}
		})
		t.Run("cancel (section 3.1.2)", func(t *testing.T) {
			o, url := c.star("cancel.test", map[string]any{"allow-certificate-get": true})
			got := c.post(url, map[string]string{"status": "canceled"}).want(http.StatusOK).order()
			if got.Status != acme.OrderCanceled || time.Until(got.Expires.Time) > time.Minute {
				t.Errorf("%+v", got)
			}
			c.post(o.StarCertificate, nil).problem(http.StatusForbidden, "autoRenewalCanceled")
			c.get(o.StarCertificate).problem(http.StatusForbidden, "autoRenewalCanceled")
			w.renew(t, time.Now().Add(13*time.Hour))
			if n := issuedIn(t, w, o); n != 1 {
				t.Errorf("%d certificates, want the first alone", n)
			}
			c.post(o.StarCertificate, nil).problem(http.StatusForbidden, "autoRenewalCanceled")
			c.post(url, map[string]string{"status": "canceled"}).problem(http.StatusBadRequest, "autoRenewalCancellationInvalid")
		})
		t.Run("cancel what cannot be canceled", func(t *testing.T) {
			_, url := c.orderWith(starOrder("pending.test", nil))
			c.post(url, map[string]string{"status": "canceled"}).problem(http.StatusBadRequest, "autoRenewalCancellationInvalid")
			_, url = c.star("odd.test", nil)
			c.post(url, map[string]string{"status": "valid"}).problem(http.StatusBadRequest, "malformed")
			_, url = c.order("normal.test")
			c.post(url, map[string]string{"status": "canceled"}).problem(http.StatusBadRequest, "malformed")
			w.account(t).post(url, map[string]string{"status": "canceled"}).problem(http.StatusForbidden, "unauthorized")
		})
		t.Run("GET for everybody, where the order asks for it (section 3.4)", func(t *testing.T) {
			open, _ := c.star("open.test", map[string]any{"allow-certificate-get": true})
			if !open.AutoRenewal.AllowCertificateGet {
				t.Error("the wish is not reflected")
			}
			a := c.get(open.StarCertificate).want(http.StatusOK)
			if leaf(t, a.body).DNSNames[0] != "open.test" || len(a.links("index")) != 1 {
				t.Errorf("%s", a.body)
			}
			closed, _ := c.star("closed.test", nil)
			for _, u := range []string{closed.StarCertificate, c.base + "/star/nope", closed.StarCertificate + "x"} {
				c.get(u).problem(http.StatusMethodNotAllowed, "malformed")
			}
			w.account(t).post(closed.StarCertificate, nil).problem(http.StatusForbidden, "unauthorized")
		})
		t.Run("revocation is refused (section 3.1.2)", func(t *testing.T) {
			o, _ := c.star("revoke.test", nil)
			cert := c.rolling(o.StarCertificate)
			c.post(c.base+"/revoke-cert", map[string]any{"certificate": base64.RawURLEncoding.EncodeToString(cert.Raw)}).
				problem(http.StatusForbidden, "autoRenewalRevocationNotSupported")
		})
		t.Run("orders that are refused (sections 3.1.1 and 3.2)", func(t *testing.T) {
			day := 24 * time.Hour
			now := time.Now()
			for name, req := range map[string]map[string]any{
				"no end":           {"end-date": nil},
				"an end behind":    {"end-date": stamp(now.Add(-day))},
				"an end too far":   {"end-date": stamp(now.Add(11 * day))},
				"end before start": {"start-date": stamp(now.Add(4 * day))},
				"too short":        {"lifetime": 3599},
				"no lifetime":      {"lifetime": nil},
				"too long":         {"lifetime": 86400 * 80},
				"absurdly long":    {"lifetime": int64(1) << 60},
				"negative adjust":  {"lifetime-adjust": -1},
			} {
				a := c.post(c.base+"/new-order", starOrder("x.test", req))
				if a.StatusCode != http.StatusBadRequest {
					t.Errorf("%s: %d %s", name, a.StatusCode, a.body)
				}
				a.problem(http.StatusBadRequest, "malformed")
			}
			for _, field := range []string{"notBefore", "notAfter"} {
				req := starOrder("x.test", nil)
				req[field] = soon()
				c.post(c.base+"/new-order", req).problem(http.StatusBadRequest, "malformed")
			}
		})
	}, renewing)
}

// rolling downloads the certificate of a self-renewing order and checks the
// header fields of RFC 8739 section 3.3.
func (c *client) rolling(url string) *x509.Certificate {
	c.t.Helper()
	a := c.post(url, nil).want(http.StatusOK)
	cert := leaf(c.t, a.body)
	for name, at := range map[string]time.Time{"Cert-Not-Before": cert.NotBefore, "Cert-Not-After": cert.NotAfter} {
		if got, want := a.Header.Get(name), `"`+at.UTC().Format(http.TimeFormat)+`"`; got != want {
			c.t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if a.Header.Get("Content-Type") != "application/pem-certificate-chain" {
		c.t.Errorf("Content-Type %s", a.Header.Get("Content-Type"))
	}
	return cert
}

func TestStarRenewal(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		later := func() time.Time { return time.Now().Add(12*time.Hour + time.Minute) }
		t.Run("replicas at once renew once", func(t *testing.T) {
			c := w.account(t)
			o, _ := c.star("once.test", nil)
			before := issuedIn(t, w, o)
			other := w.replica(t, w.cfg)
			var wg sync.WaitGroup
			for _, s := range []*server.Server{w.Server, other, w.Server, other} {
				wg.Go(func() {
					if _, err := s.RenewStar(t.Context(), later()); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if n := issuedIn(t, w, o) - before; n != 1 {
				t.Errorf("%d certificates, want 1", n)
			}
		})
		t.Run("an ended authorization stops it", func(t *testing.T) {
			c := w.account(t)
			o, url := c.star("ended.test", nil)
			c.post(o.Authorizations[0], map[string]string{"status": "deactivated"}).want(http.StatusOK)
			w.renew(t, later())
			got := c.post(url, nil).order()
			if got.Error == nil || got.Error.Type != "urn:ietf:params:acme:error:unauthorized" {
				t.Errorf("%+v", got)
			}
			if n := w.renew(t, later().Add(time.Hour)); n.Claimed != 0 {
				t.Errorf("tried again: %+v", n)
			}
		})
		t.Run("a deactivated account stops it", func(t *testing.T) {
			c := w.account(t)
			o, _ := c.star("gone.test", nil)
			before := issuedIn(t, w, o)
			c.post(c.kid, map[string]string{"status": "deactivated"}).want(http.StatusOK)
			w.renew(t, later())
			if n := issuedIn(t, w, o) - before; n != 0 {
				t.Errorf("%d certificates were issued", n)
			}
		})
		t.Run("CAA that forbids is tried again", func(t *testing.T) {
			c := w.account(t)
			o, _ := c.star("caa.test", nil)
			before := issuedIn(t, w, o)
			w.dns.Add(`caa.test. 1 IN CAA 0 issue ";"`)
			w.pass(8 * time.Hour)
			if n := w.renew(t, later()); n.Claimed != 1 {
				t.Errorf("%+v", n)
			}
			if n := issuedIn(t, w, o) - before; n != 0 {
				t.Errorf("%d certificates were issued", n)
			}
			w.dns.Remove("caa.test")
			w.names("caa.test")
			w.pass(8 * time.Hour)
			w.renew(t, later().Add(10*time.Minute))
			if n := issuedIn(t, w, o) - before; n != 1 {
				t.Errorf("%d certificates were issued, want 1", n)
			}
		})
		t.Run("a cancel while it is signed wins", func(t *testing.T) {
			c := w.account(t)
			o, url := c.star("race.test", nil)
			before := issuedIn(t, w, o)
			entered, leave := w.blockSigner()
			done := make(chan loop.Count)
			go func() {
				n, _ := w.RenewStar(context.Background(), later())
				done <- n
			}()
			<-entered
			c.post(url, map[string]string{"status": "canceled"}).want(http.StatusOK)
			close(leave)
			<-done
			if n := issuedIn(t, w, o) - before; n != 0 {
				t.Errorf("%d certificates after the cancel", n)
			}
		})
		t.Run("a process that died while it was signed leaves its serial abandoned", func(t *testing.T) {
			c := w.account(t)
			_, model := c.issue(nil, "template.test")
			o, _ := c.star("crash.test", nil)
			id, intent, now := lastPart(o.StarCertificate), db.NewID(time.Now()), time.Now()
			w.exec(t, qIntent, intent, "7fffffffffffffffffffffffffffffff", id, hashOf("tbs"), []byte("tbs"), now, lastPart(model))
			w.exec(t, qDie, id, intent, later().Add(30*time.Second))
			if n := w.renew(t, later()); n.Claimed != 0 {
				t.Errorf("the lease of another was not respected: %+v", n)
			}
			if n := w.renew(t, later().Add(time.Minute)); n.Done != 1 {
				t.Errorf("%+v", n)
			}
			lost, err := ca.Get(t.Context(), w.db.Read(), intent)
			if err != nil || lost.State != ca.StateAbandoned || lost.RevokedAt.IsZero() {
				t.Errorf("the lost serial is %s, %v", lost.State, err)
			}
			if n := issuedIn(t, w, o); n != 2 {
				t.Errorf("%d certificates, want 2", n)
			}
		})
		t.Run("a key that cannot sign is tried again under a new serial", func(t *testing.T) {
			c := w.account(t)
			o, _ := c.star("key.test", nil)
			before := issuedIn(t, w, o)
			w.signErr.Store(true)
			if _, err := w.RenewStar(t.Context(), later()); err == nil {
				t.Error("no error")
			}
			w.signErr.Store(false)
			w.renew(t, later().Add(10*time.Minute))
			if n := issuedIn(t, w, o) - before; n != 1 {
				t.Errorf("%d certificates, want 1", n)
			}
		})
	}, renewing)
}

// qDie leaves a renewal as a crash between its intent and its result would.
var qDie = db.SQL("servertest.die_renewing", `UPDATE acme_star SET intent_id = $2, lease_until = $3, lease_token = 'lost-process' WHERE order_id = $1`)

var qIssued = db.SQL("servertest.count_issued", `SELECT count(*) FROM certificate WHERE order_id = $1 AND state = 'issued'`)

// issuedIn counts the issued certificates of an order.
func issuedIn(t testing.TB, w *world, o acme.Order) int {
	t.Helper()
	id := lastPart(o.StarCertificate)
	n, err := db.Get(context.Background(), w.db.Read(), qIssued, (*db.Row).Int, id)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestStarIsOptIn(t *testing.T) {
	w := lite(t)
	c := w.account(t)
	c.post(c.base+"/new-order", starOrder("a.test", nil)).problem(http.StatusBadRequest, "malformed")
}

// A proof that policy lets count for a day renews nothing beyond it.
func TestStarNeverOutlivesAuthorizations(t *testing.T) {
	w := lite(t, renewing, forCA(func(a *server.CA) { a.AuthorizationLifetime = 48 * time.Hour }))
	c := w.account(t)
	var d acme.Directory
	c.get(c.base + "/directory").into(&d)
	if d.Meta.AutoRenewal.MaxDuration != 48*3600 {
		t.Errorf("%+v", d.Meta.AutoRenewal)
	}
	c.post(c.base+"/new-order", starOrder("a.test", nil)).problem(http.StatusBadRequest, "malformed")
}
