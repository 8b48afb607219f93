package server_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/acme"
	"chancery/internal/acme/attest"
	"chancery/internal/acme/attest/attesttest"
	"chancery/internal/acme/challenge"
	"chancery/internal/acme/server"
	"chancery/internal/ca"
	"chancery/internal/pki"
)

// forDevices adds a profile "device" that trusts a maker.
func forDevices(t testing.TB, m *attesttest.Maker) option {
	return func(c *server.Config) {
		p := ca.DefaultProfiles()[0]
		p.Name, p.Identifiers, p.CommonName = "device", []pki.IdentifierType{pki.DNS, pki.PermanentIdentifier, pki.HardwareModule}, pki.CNRequested
		registered, err := c.Issuer.Register(context.Background(), []ca.Profile{p})
		if err != nil {
			t.Fatal(err)
		}
		forCA(func(a *server.CA) {
			a.Profiles = append(a.Profiles, server.Profile{Profile: registered["device"], Attestation: m.Policy(attest.Formats...),
				Challenges: []challenge.Type{challenge.HTTP01, challenge.DNS01, challenge.DeviceAttest01}})
		})(c)
	}
}

// deviceOrder orders identifiers of the profile "device".
func (c *client) deviceOrder(ids ...pki.Identifier) (acme.Order, string) {
	c.t.Helper()
	list := []map[string]string{}
	for _, id := range ids {
		list = append(list, map[string]string{"type": string(id.Type), "value": id.Value})
	}
	return c.orderWith(map[string]any{"identifiers": list, "profile": "device"})
}

// respondAttested answers the challenge of an order's device with what object makes of its
// token and key authorization.
func (c *client) respondAttested(o acme.Order, object func(token, keyAuth string) []byte) *answer {
	c.t.Helper()
	for _, u := range o.Authorizations {
		z := c.post(u, nil).want(http.StatusOK).authz()
		if z.Identifier.Type == "dns" {
			continue
		}
		ch := find(c.t, z, challenge.DeviceAttest01)
		return c.post(ch.URL, map[string]any{"attObj": base64.RawURLEncoding.EncodeToString(object(ch.Token, c.keyAuth(ch))), "more": "is ignored"})
	}
	c.t.Fatal("no device in the order")
	return nil
}

// deviceCSR makes a request with a common name and GeneralNames.
func deviceCSR(t testing.TB, key crypto.Signer, cn string, names ...[]byte) string {
	t.Helper()
	tmpl := &x509.CertificateRequest{Subject: pkix.Name{CommonName: cn}}
	if len(names) > 0 {
		var san []byte
		for _, n := range names {
			san = append(san, n...)
		}
		tmpl.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17},
			Value: attesttest.DER(t, asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: san})}}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, tmpl, key)
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(der)
}

// devicesOf returns the devices of a certificate.
func devicesOf(t testing.TB, cert *x509.Certificate) []pki.Identifier {
	t.Helper()
	for _, e := range cert.Extensions {
		if e.Id.String() == "2.5.29.17" {
			list, err := pki.DeviceNames(e.Value)
			if err != nil {
				t.Fatal(err)
			}
			return list
		}
	}
	return nil
}

func serialOf(s string) pki.Identifier {
	return pki.Identifier{Type: pki.PermanentIdentifier, Value: s}
}

func TestDeviceAttest01(t *testing.T) { // draft-ietf-acme-device-attest-10
	m := attesttest.NewMaker(t)
	each(t, func(t *testing.T, w *world) {
		c := w.account(t)
		t.Run("a YubiKey: its serial goes into the certificate, though the request leaves it out", func(t *testing.T) {
			key := attesttest.Key(t)
			o, _ := c.deviceOrder(serialOf("123456"))
			if z := c.post(o.Authorizations[0], nil).authz(); len(z.Challenges) != 1 || z.Challenges[0].Token == "" || z.Identifier.Value != "123456" {
				t.Fatalf("%+v", z)
			}
			ch := c.respondAttested(o, func(_, keyAuth string) []byte { return m.Step(key, keyAuth, 123456) }).want(http.StatusOK).challenge()
			if ch.Status != acme.ChallengeValid {
				t.Fatalf("%+v", ch)
			}
			o = c.post(o.Finalize, map[string]string{"csr": deviceCSR(t, key, "123456")}).want(http.StatusOK).order()
			cert := c.download(o.Certificate)
			if d := cmp.Diff([]pki.Identifier{serialOf("123456")}, devicesOf(t, cert)); d != "" || len(cert.DNSNames) != 0 || cert.Subject.CommonName != "" {
				t.Errorf("%s %v %q", d, cert.DNSNames, cert.Subject.CommonName)
			}
		})
		t.Run("an Apple device with a host name, all in the request", func(t *testing.T) {
			key := attesttest.Key(t)
			w.names("mac.test")
			o, _ := c.deviceOrder(serialOf("C02XK1ZZJGH5"), pki.Identifier{Type: pki.DNS, Value: "mac.test"})
			for _, u := range o.Authorizations {
				if z := c.post(u, nil).authz(); z.Identifier.Type == "dns" {
					c.solve(z, challenge.HTTP01)
				}
			}
			c.respondAttested(o, func(token, _ string) []byte { return m.Apple(key, token, "C02XK1ZZJGH5") }).want(http.StatusOK)
			host := attesttest.DER(t, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 2, Bytes: []byte("mac.test")})
			o = c.post(o.Finalize, map[string]string{"csr": deviceCSR(t, key, "mac.test", host, attesttest.Permanent(t, "C02XK1ZZJGH5"))}).want(http.StatusOK).order()
			cert := c.download(o.Certificate)
			if len(devicesOf(t, cert)) != 1 || len(cert.DNSNames) != 1 || cert.Subject.CommonName != "mac.test" {
				t.Errorf("%v %v %q", devicesOf(t, cert), cert.DNSNames, cert.Subject.CommonName)
			}
		})
		t.Run("the module that holds the key, by its TPM", func(t *testing.T) {
			ak, key := attesttest.Key(t), attesttest.Key(t)
			module := pki.Identifier{Type: pki.HardwareModule, Value: "M1/1.2.3"}
			o, _ := c.deviceOrder(module)
			c.respondAttested(o, func(_, keyAuth string) []byte {
				sum := sha256.Sum256([]byte(keyAuth))
				return attesttest.Object(t, attest.TPM, m.TPMStatement(ak, m.TPMKey(ak.Public(), nil, attesttest.Module(t, "M1")), sum[:],
					attesttest.PubArea(t, &key.PublicKey, attesttest.Attributes)))
			}).want(http.StatusOK)
			o = c.post(o.Finalize, map[string]string{"csr": deviceCSR(t, key, "")}).want(http.StatusOK).order()
			if got := devicesOf(t, c.download(o.Certificate)); !cmp.Equal(got, []pki.Identifier{module}) {
				t.Errorf("%v", got)
			}
		})
		t.Run("the attested key alone may be certified", func(t *testing.T) {
			key := attesttest.Key(t)
			o, url := c.deviceOrder(serialOf("77"))
			c.respondAttested(o, func(_, keyAuth string) []byte { return m.Step(key, keyAuth, 77) }).want(http.StatusOK)
			p := c.post(o.Finalize, map[string]string{"csr": deviceCSR(t, attesttest.Key(t), "")}).problem(http.StatusBadRequest, "badCSR")
			if got := c.post(url, nil).order(); got.Status != acme.OrderReady {
				t.Errorf("%s after %s", got.Status, p.Detail)
			}
			c.post(o.Finalize, map[string]string{"csr": deviceCSR(t, key, "", attesttest.Permanent(t, "78"))}).problem(http.StatusBadRequest, "badCSR")
			c.post(o.Finalize, map[string]string{"csr": deviceCSR(t, key, "")}).want(http.StatusOK)
			if o, _ = c.deviceOrder(serialOf("77")); o.Status != acme.OrderPending {
				t.Errorf("an attestation of one key serves the next order: %s", o.Status)
			}
		})
		t.Run("another device, another account, another token", func(t *testing.T) {
			key := attesttest.Key(t)
			for what, object := range map[string]func(token, keyAuth string) []byte{
				"device": func(_, keyAuth string) []byte { return m.Step(key, keyAuth, 100) },
				"account": func(token, _ string) []byte {
					return m.Step(key, token+".9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI", 99)
				},
				"maker":  func(_, keyAuth string) []byte { return attesttest.NewMaker(t).Step(key, keyAuth, 99) },
				"octets": func(string, string) []byte { return []byte("\xff") },
			} {
				o, url := c.deviceOrder(serialOf("99"))
				ch := c.respondAttested(o, object).want(http.StatusOK).challenge()
				if ch.Status != acme.ChallengeInvalid || ch.Error == nil || ch.Error.Type != "urn:ietf:params:acme:error:badAttestationStatement" {
					t.Errorf("another %s: %+v", what, ch)
				}
				if got := c.post(url, nil).order(); got.Status != acme.OrderInvalid {
					t.Errorf("another %s: the order is %s", what, got.Status)
				}
			}
		})
		t.Run("a response without an object decides nothing", func(t *testing.T) {
			o, _ := c.deviceOrder(serialOf("55"))
			ch := find(t, c.post(o.Authorizations[0], nil).authz(), challenge.DeviceAttest01)
			c.post(ch.URL, map[string]any{}).problem(http.StatusBadRequest, "malformed")
			c.post(ch.URL, map[string]any{"attObj": "a+b="}).problem(http.StatusBadRequest, "malformed")
			if got := c.post(ch.URL, nil).challenge(); got.Status != acme.ChallengePending {
				t.Errorf("%+v", got)
			}
		})
		t.Run("identifiers that break the production rules (sections 3.1, 4.1)", func(t *testing.T) {
			for _, id := range []pki.Identifier{serialOf("a/b"), serialOf(""), {Type: pki.HardwareModule, Value: "a"}} {
				c.post(c.base+"/new-order", map[string]any{"identifiers": []map[string]string{{"type": string(id.Type), "value": id.Value}}, "profile": "device"}).
					problem(http.StatusBadRequest, "malformed")
			}
		})
	}, forDevices(t, m))
}

func TestDeviceAttest01IsOptIn(t *testing.T) {
	m := attesttest.NewMaker(t)
	w := lite(t, forDevices(t, m))
	c := w.account(t)
	c.post(c.base+"/new-order", map[string]any{"identifiers": []map[string]string{{"type": "permanent-identifier", "value": "1"}}}).
		problem(http.StatusBadRequest, "rejectedIdentifier")
	cfg := w.cfg
	forCA(func(a *server.CA) {
		a.Profiles = append([]server.Profile(nil), a.Profiles...)
		a.Profiles[len(a.Profiles)-1].Attestation = nil
	})(&cfg)
	if _, err := server.New(cfg); err == nil {
		t.Error("a profile without roots offers device-attest-01")
	}
}

// Whose attestations count is judged again when the certificate is issued.
func TestAttestationPolicyHoldsAtIssuance(t *testing.T) {
	m, other := attesttest.NewMaker(t), attesttest.NewMaker(t)
	w := lite(t, forDevices(t, m))
	c := w.account(t)
	key := attesttest.Key(t)
	o, _ := c.deviceOrder(serialOf("1"))
	c.respondAttested(o, func(_, keyAuth string) []byte { return m.Step(key, keyAuth, 1) }).want(http.StatusOK)
	cfg := w.cfg
	cfg.Replica, cfg.CAs = 0, map[string]server.CA{"default": w.cfg.CAs["default"]}
	forCA(func(a *server.CA) {
		a.Profiles = append([]server.Profile(nil), a.Profiles...)
		a.Profiles[len(a.Profiles)-1].Attestation = other.Policy(attest.Step)
	})(&cfg)
	d := c.copy()
	d.via = w.handler(w.replica(t, cfg))
	d.post(o.Finalize, map[string]string{"csr": deviceCSR(t, key, "")}).problem(http.StatusForbidden, "unauthorized")
}
