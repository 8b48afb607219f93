package server_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"chancery/internal/acme"
	"chancery/internal/acme/challenge"
	"chancery/internal/acme/server"
	"chancery/internal/ca"
	"chancery/internal/db"
	"chancery/internal/keys"
	"chancery/internal/pki"
)

func TestFinalize(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		c := w.account(t)
		t.Run("the same request gets the same certificate, another an error", func(t *testing.T) {
			o, _ := c.ready("idem.test")
			req := map[string]string{"csr": csr(t, nil, "idem.test")}
			first := c.post(o.Finalize, req).want(http.StatusOK).order()
			again := c.post(o.Finalize, req).want(http.StatusOK).order()
			if first.Certificate == "" || first.Certificate != again.Certificate {
				t.Errorf("%q and %q", first.Certificate, again.Certificate)
			}
			c.post(o.Finalize, map[string]string{"csr": csr(t, nil, "idem.test")}).problem(http.StatusForbidden, "orderNotReady")
		})
		t.Run("a pending order is not ready", func(t *testing.T) {
			o, _ := c.order("pending.test")
			c.post(o.Finalize, map[string]string{"csr": csr(t, nil, "pending.test")}).problem(http.StatusForbidden, "orderNotReady")
		})
		t.Run("many at once make one certificate and agree on it", func(t *testing.T) {
			o, _ := c.ready("race.test")
			req := map[string]string{"csr": csr(t, nil, "race.test")}
			certs := atOnce(8, func(int) string {
				return c.copy().post(o.Finalize, req).want(http.StatusOK).order().Certificate
			})
			for _, u := range certs {
				if u != certs[0] || u == "" {
					t.Errorf("answers %v", certs)
				}
			}
			if n := issuedFor(t, w, "race.test"); n != 1 {
				t.Errorf("%d certificates were issued", n)
			}
		})
		t.Run("two replicas at once make one certificate", func(t *testing.T) {
			o, _ := c.ready("replicas.test")
			req := map[string]string{"csr": csr(t, nil, "replicas.test")}
			cfg := w.cfg
			cfg.Replica = 0
			clients := make([]*client, 6)
			for i := range clients {
				clients[i] = c.copy()
				if i%2 == 1 {
					clients[i].via = w.handler(w.replica(t, cfg))
				}
			}
			certs := atOnce(len(clients), func(i int) string {
				return clients[i].post(o.Finalize, req).want(http.StatusOK).order().Certificate
			})
			for _, u := range certs {
				if u != certs[0] || u == "" {
					t.Errorf("answers %v", certs)
				}
			}
			if n := issuedFor(t, w, "replicas.test"); n != 1 {
				t.Errorf("%d certificates were issued", n)
			}
		})
		t.Run("different requests at once make one certificate", func(t *testing.T) {
			o, _ := c.ready("differ.test")
			codes := atOnce(4, func(int) int {
				return c.copy().post(o.Finalize, map[string]string{"csr": csr(t, nil, "differ.test")}).StatusCode
			})
			won := 0
			for _, code := range codes {
				if code == http.StatusOK {
					won++
				} else if code != http.StatusForbidden {
					t.Errorf("status %d", code)
				}
			}
			if won != 1 || issuedFor(t, w, "differ.test") != 1 {
				t.Errorf("statuses %v, %d certificates", codes, issuedFor(t, w, "differ.test"))
			}
		})
		t.Run("a deactivated account cannot finalize on a replica that knows it as valid", func(t *testing.T) {
			d := w.account(t)
			o, _ := d.ready("deact.test")
			cfg := w.cfg
			cfg.Replica = 0
			other := d.copy()
			other.via = w.handler(w.replica(t, cfg))
			other.post(d.kid, nil).want(http.StatusOK)
			d.post(d.kid, map[string]string{"status": "deactivated"}).want(http.StatusOK)
			if a := other.post(o.Finalize, map[string]string{"csr": csr(t, nil, "deact.test")}); a.StatusCode < 400 {
				t.Errorf("%s", a.body)
			}
			if n := issuedFor(t, w, "deact.test"); n != 0 {
				t.Errorf("%d certificates", n)
			}
		})
	})
}

// issuedFor counts the certificates for a name.
func issuedFor(t *testing.T, w *world, name string) (n int) {
	t.Helper()
	err := ca.Walk(context.Background(), w.db.Read(), func(c *ca.Certificate) error {
		if c.State == ca.StateIssued && len(c.Names) > 0 && c.Names[0] == name {
			n++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestBadCSR(t *testing.T) { // EJBCA 2022: names of the CSR beyond those of the order
	w := lite(t)
	c := w.account(t)
	o, url := c.ready("csr.test", "two.test")
	weak := func() crypto.Signer {
		k, err := keys.Generate(pki.P256)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	template := func(tmpl *x509.CertificateRequest) string {
		der, err := x509.CreateCertificateRequest(rand.Reader, tmpl, weak())
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(der)
	}
	good, _ := base64.RawURLEncoding.DecodeString(csr(t, nil, "csr.test", "two.test"))
	tampered := append([]byte(nil), good...)
	tampered[len(tampered)-1] ^= 1
	for name, text := range map[string]string{
		"empty":                          "",
		"not base64url":                  "%%%",
		"PEM":                            base64.RawURLEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: good})),
		"not DER":                        "AAAA",
		"padded":                         base64.URLEncoding.EncodeToString(append(good, 0)),
		"trailing octets":                base64.RawURLEncoding.EncodeToString(append(append([]byte(nil), good...), 0)),
		"a wrong signature":              base64.RawURLEncoding.EncodeToString(tampered),
		"one name too few":               csr(t, nil, "csr.test"),
		"one name too many":              csr(t, nil, "csr.test", "two.test", "three.test"),
		"another name":                   csr(t, nil, "csr.test", "evil.test"),
		"a wildcard of the name":         csr(t, nil, "*.csr.test", "two.test"),
		"an e-mail address":              template(&x509.CertificateRequest{DNSNames: []string{"csr.test", "two.test"}, EmailAddresses: []string{"a@csr.test"}}),
		"a common name not in the order": commonName(t, "evil.test", "csr.test", "two.test"),
		"too long":                       base64.RawURLEncoding.EncodeToString(make([]byte, 35<<10+1)),
	} {
		t.Run(name, func(t *testing.T) {
			c.post(o.Finalize, map[string]string{"csr": text}).problem(http.StatusBadRequest, "badCSR")
		})
	}
	t.Run("the account's own key (RFC 8555 section 11.1)", func(t *testing.T) {
		key := weak()
		signer, err := acme.NewSigner(key)
		if err != nil {
			t.Fatal(err)
		}
		d := w.client(t)
		d.signer = signer
		d.register()
		o, _ := d.ready("own.test")
		d.post(o.Finalize, map[string]string{"csr": csr(t, key, "own.test")}).problem(http.StatusBadRequest, "badCSR")
	})
	t.Run("the order is still ready for the right one", func(t *testing.T) {
		if got := c.post(url, nil).order(); got.Status != acme.OrderReady {
			t.Fatalf("%+v", got)
		}
		c.post(o.Finalize, map[string]string{"csr": base64.RawURLEncoding.EncodeToString(good)}).want(http.StatusOK)
	})
}

// commonName returns a request with a common name beside its names.
func commonName(t *testing.T, cn string, names ...string) string {
	t.Helper()
	key, err := keys.Generate(pki.P256)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.CertificateRequest{DNSNames: names}
	tmpl.Subject.CommonName = cn
	der, err := x509.CreateCertificateRequest(rand.Reader, tmpl, key)
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(der)
}

var (
	qForget = db.SQL("servertest.age_clearance", `UPDATE acme_authz SET caa = NULL WHERE id = $1`)
	qForge  = db.SQL("servertest.forge_proof", `UPDATE acme_authz SET state = 'valid', method = 'http-01', proof = $2, validated_at = $3, expires_at = $4 WHERE id = $1`)
	qCopy   = db.SQL("servertest.copy_proof", `UPDATE acme_authz SET state = 'valid', method = 'http-01', expires_at = $3,
		proof = (SELECT proof FROM acme_authz WHERE id = $2), caa = (SELECT caa FROM acme_authz WHERE id = $2) WHERE id = $1`)
	qReady  = db.SQL("servertest.force_ready", `UPDATE acme_order SET state = 'ready', authz_pending = 0 WHERE id = $1`)
	qStick  = db.SQL("servertest.stick_order", `UPDATE acme_order SET state = 'processing', csr = $2, certificate_id = $3, claimed_at = $4, claim_token = $5 WHERE id = $1`)
	qIntent = db.SQL("servertest.copy_intent", `INSERT INTO certificate (id, authority_id, serial, state, ca, profile, profile_hash, order_id, account_id, names,
		key_type, spki_hash, evidence, tbs_hash, tbs, shard, not_before, not_after, created_at)
		SELECT $1::text, authority_id, $2::text, 'intent', ca, profile, profile_hash, $3::text, account_id, names, key_type, spki_hash, evidence,
			$4::bytea, $5::bytea, shard, not_before, not_after, $6::bigint FROM certificate WHERE id = $7`)
)

func (w *world) exec(t testing.TB, s *db.Stmt, args ...any) {
	t.Helper()
	defer w.ForgetOrders()
	err := w.db.Write(context.Background(), func(tx *db.Tx) error {
		tx.Queue(s, db.ExactlyOne(fmt.Errorf("%s changed no row", s.Name)), args...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestCAAIsRecheckedForEachNameByItself(t *testing.T) { // Let's Encrypt 2020
	w := lite(t)
	c := w.account(t)
	names := []string{"one.caa.test", "two.caa.test", "three.caa.test"}
	o, url := c.ready(names...)
	for _, u := range o.Authorizations {
		w.exec(t, qForget, lastPart(u))
	}
	w.dns.Add(`three.caa.test. 60 IN CAA 0 issue "other.test"`)
	w.dns.Forget()
	w.pass(6 * time.Second) // the checker takes DNS answers of up to 5 s
	req := map[string]string{"csr": csr(t, nil, names...)}
	c.post(o.Finalize, req).problem(http.StatusForbidden, "caa")
	if w.dns.Count("three.caa.test", "CAA") == 0 {
		t.Error("the name with the refusal was never asked")
	}
	if got := c.post(url, nil).order(); got.Status != acme.OrderReady {
		t.Errorf("the order is %s; its owner may mend the records", got.Status)
	}
	w.dns.Remove("three.caa.test")
	w.names("three.caa.test")
	w.dns.Forget()
	w.pass(6 * time.Second)
	c.post(o.Finalize, req).want(http.StatusOK)
	for _, n := range names {
		if w.dns.Count(n, "CAA") == 0 {
			t.Errorf("CAA of %s was not asked", n)
		}
	}
	w.mustHold(t)
}

func TestProofsCannotBeInvented(t *testing.T) {
	w := lite(t)
	c := w.account(t)
	w.names("a.forge.test", "b.forge.test")
	proved, _ := c.ready("a.forge.test")
	for name, forge := range map[string]func(authz string){
		"a row without a proof": func(id string) {
			w.exec(t, qForge, id, nil, time.Now(), time.Now().Add(time.Hour))
		},
		"an invented proof": func(id string) {
			text := []byte(`{"identifier":{"type":"dns","value":"b.forge.test"},"method":"http-01"}` + strings.Repeat("x", 32))
			w.exec(t, qForge, id, text, time.Now(), time.Now().Add(time.Hour))
		},
		"the proof of another name": func(id string) {
			w.exec(t, qCopy, id, lastPart(proved.Authorizations[0]), time.Now().Add(time.Hour))
		},
	} {
		t.Run(name, func(t *testing.T) {
			o, url := c.order("b.forge.test")
			forge(lastPart(o.Authorizations[0]))
			w.exec(t, qReady, lastPart(url))
			found := 0
			if err := server.Check(t.Context(), w.db.Read(), w.secret, time.Now(), func(ca.Finding) { found++ }); err != nil || found != 1 {
				t.Errorf("the check found %d problems, %v", found, err)
			}
			p := c.post(o.Finalize, map[string]string{"csr": csr(t, nil, "b.forge.test")}).problem(http.StatusForbidden, "unauthorized")
			if len(p.Subproblems) != 1 || p.Subproblems[0].Identifier.Value != "b.forge.test" {
				t.Errorf("%+v", p)
			}
			if got := c.post(url, nil).order(); got.Status != acme.OrderInvalid || got.Error == nil {
				t.Errorf("%+v", got)
			}
			if again, _ := c.order("b.forge.test"); again.Status != acme.OrderPending {
				t.Error("the forged authorization serves the next order")
			}
		})
	}
	if n := issuedFor(t, w, "b.forge.test"); n != 0 {
		t.Errorf("%d certificates", n)
	}
}

func TestStricterPolicyHoldsAtIssuance(t *testing.T) {
	w := lite(t)
	c := w.account(t)
	o, _ := c.ready("strict.test")
	cfg := w.cfg
	cfg.Replica = 0
	a := cfg.CAs["default"]
	a.AuthorizationLifetime = time.Nanosecond
	cfg.CAs = map[string]server.CA{"default": a}
	d := c.copy()
	d.via = w.handler(w.replica(t, cfg))
	d.post(o.Finalize, map[string]string{"csr": csr(t, nil, "strict.test")}).problem(http.StatusForbidden, "unauthorized")
}

func TestRecovery(t *testing.T) { // invariant I6
	each(t, func(t *testing.T, w *world) {
		ctx := context.Background()
		c := w.account(t)
		_, url := c.issue(nil, "template.test")
		model := lastPart(url)
		n := 0
		// stick leaves an order as a crash between the intent and the result would.
		stick := func(t *testing.T, name string, at time.Time) (o acme.Order, orderURL, intent string, req map[string]string) {
			t.Helper()
			o, orderURL = c.ready(name)
			req = map[string]string{"csr": csr(t, nil, name)}
			der, _ := base64.RawURLEncoding.DecodeString(req["csr"])
			n++
			intent = db.NewID(time.Now())
			w.exec(t, qIntent, intent, fmt.Sprintf("7f%030x", n), lastPart(orderURL), hashOf("tbs"), []byte("tbs"), at, model)
			w.exec(t, qStick, lastPart(orderURL), der, intent, at, "lost-process")
			return o, orderURL, intent, req
		}
		old := time.Now().Add(-2 * time.Minute)
		t.Run("the order is issued again under a new serial", func(t *testing.T) {
			o, orderURL, intent, req := stick(t, "crash.test", old)
			found := 0
			if err := server.Check(ctx, w.db.Read(), w.secret, time.Now(), func(f ca.Finding) {
				if f.Invariant == "I6" {
					found++
				}
			}); err != nil || found != 1 {
				t.Errorf("the check found %d stuck orders, %v", found, err)
			}
			if settled, err := w.Recover(ctx, time.Now().Add(-time.Minute)); err != nil || settled != 1 {
				t.Fatalf("settled %d, %v", settled, err)
			}
			got := c.post(orderURL, nil).order()
			if got.Status != acme.OrderValid || lastPart(got.Certificate) == intent {
				t.Fatalf("%+v", got)
			}
			c.download(got.Certificate)
			if again := c.post(o.Finalize, req).want(http.StatusOK).order(); again.Certificate != got.Certificate {
				t.Errorf("finalize after recovery gives %q", again.Certificate)
			}
			lost, err := ca.Get(ctx, w.db.Read(), intent)
			if err != nil || lost.State != ca.StateAbandoned || lost.RevokedAt.IsZero() {
				t.Errorf("the lost serial is %s, %v", lost.State, err)
			}
		})
		t.Run("a young claim is left to its owner", func(t *testing.T) {
			_, orderURL, _, _ := stick(t, "young.test", time.Now())
			if settled, err := w.Recover(ctx, time.Now().Add(-time.Minute)); err != nil || settled != 0 {
				t.Fatalf("settled %d, %v", settled, err)
			}
			a := c.post(orderURL, nil)
			if a.order().Status != acme.OrderProcessing || a.Header.Get("Retry-After") == "" {
				t.Errorf("%s", a.body)
			}
			if settled, err := w.Recover(ctx, time.Now().Add(time.Minute)); err != nil || settled != 1 {
				t.Fatalf("settled %d, %v", settled, err)
			}
		})
		t.Run("replicas at once issue it once", func(t *testing.T) {
			var orders []string
			for i := range 5 {
				_, orderURL, _, _ := stick(t, fmt.Sprintf("many%d.test", i), old)
				orders = append(orders, orderURL)
			}
			replicas := []*server.Server{w.Server, w.replica(t, w.cfg), w.replica(t, w.cfg)}
			var total atomic.Int64
			atOnce(len(replicas), func(i int) bool {
				settled, err := replicas[i].Recover(ctx, time.Now().Add(-time.Minute))
				if err != nil {
					t.Error(err)
				}
				total.Add(int64(settled))
				return true
			})
			if total.Load() != int64(len(orders)) {
				t.Errorf("settled %d orders, want %d", total.Load(), len(orders))
			}
			for i, u := range orders {
				if o := c.post(u, nil).order(); o.Status != acme.OrderValid || issuedFor(t, w, fmt.Sprintf("many%d.test", i)) != 1 {
					t.Errorf("%+v", o)
				}
			}
		})
		t.Run("what may not be issued any more becomes invalid", func(t *testing.T) {
			o, orderURL, _, _ := stick(t, "lost.test", old)
			c.post(o.Authorizations[0], map[string]string{"status": "deactivated"}).want(http.StatusOK)
			if settled, err := w.Recover(ctx, time.Now().Add(-time.Minute)); err != nil || settled != 1 {
				t.Fatalf("settled %d, %v", settled, err)
			}
			if got := c.post(orderURL, nil).order(); got.Status != acme.OrderInvalid || got.Error == nil {
				t.Errorf("%+v", got)
			}
		})
		t.Run("an owner that was only slow cannot complete it", func(t *testing.T) {
			o, orderURL := c.ready("slow.test")
			req := map[string]string{"csr": csr(t, nil, "slow.test")}
			entered, leave := w.blockSigner()
			late := make(chan *answer, 1)
			d := c.copy()
			go func() { late <- d.post(o.Finalize, req) }()
			<-entered
			if settled, err := w.Recover(ctx, time.Now().Add(time.Minute)); err != nil || settled != 1 {
				t.Errorf("settled %d, %v", settled, err)
			}
			want := c.post(orderURL, nil).order()
			close(leave)
			a := <-late
			if a.StatusCode == http.StatusOK && a.order().Certificate != want.Certificate {
				t.Errorf("the late request got %s", a.body)
			}
			if got := c.post(orderURL, nil).order(); got.Certificate != want.Certificate || issuedFor(t, w, "slow.test") != 1 {
				t.Errorf("%+v, want %+v", got, want)
			}
		})
		t.Run("a key that cannot sign makes the order ready again", func(t *testing.T) {
			o, orderURL := c.ready("hsm.test")
			req := map[string]string{"csr": csr(t, nil, "hsm.test")}
			w.signErr.Store(true)
			a := c.post(o.Finalize, req).want(http.StatusServiceUnavailable)
			w.signErr.Store(false)
			if a.Header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
			if got := c.post(orderURL, nil).order(); got.Status != acme.OrderReady {
				t.Fatalf("%+v", got)
			}
			c.post(o.Finalize, req).want(http.StatusOK)
		})
	})
}

func TestProfileIsPinnedInTheOrder(t *testing.T) {
	w := lite(t)
	c := w.account(t)
	o, _ := c.ready("pinned.test")
	p := ca.DefaultProfiles()[0]
	p.Period = 24 * time.Hour
	registered, err := w.ca.Register(t.Context(), []ca.Profile{p})
	if err != nil {
		t.Fatal(err)
	}
	cfg := w.cfg
	cfg.Replica = 0
	a := cfg.CAs["default"]
	a.Profiles = []server.Profile{{Profile: registered["tls"], Challenges: []challenge.Type{challenge.HTTP01}}}
	cfg.CAs = map[string]server.CA{"default": a}
	d := c.copy()
	d.via = w.handler(w.replica(t, cfg))
	got := d.post(o.Finalize, map[string]string{"csr": csr(t, nil, "pinned.test")}).want(http.StatusOK).order()
	cert := d.download(got.Certificate)
	if life := cert.NotAfter.Sub(cert.NotBefore); life != 90*24*time.Hour-time.Second {
		t.Errorf("the certificate lives %s; the order was made for 90 days", life)
	}
}
