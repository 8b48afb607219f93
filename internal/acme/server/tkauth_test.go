package server_test

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"net/http"
	"testing"
	"time"

	"chancery/internal/acme"
	"chancery/internal/acme/challenge"
	"chancery/internal/acme/server"
	"chancery/internal/acme/tkauth"
	"chancery/internal/acme/tkauth/tkauthtest"
	"chancery/internal/ca"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

// Lists of one service provider code each.
const (
	code709J = "MAigBhYENzA5Sg"
	code709K = "MAigBhYENzA5Sw"
)

var oidTNAuthList = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 26}

// forPhones adds a profile "phone" that trusts a token authority.
func forPhones(t testing.TB, a *tkauthtest.Authority) option {
	return func(c *server.Config) {
		p := ca.DefaultProfiles()[0]
		p.Name, p.Identifiers, p.KeyUsage, p.ExtKeyUsage = "phone", []pki.IdentifierType{pki.TNAuthList}, x509.KeyUsageDigitalSignature, nil
		p.Lint = ca.LintRFC // the others take a certificate without purposes for a server's
		registered, err := c.Issuer.Register(context.Background(), []ca.Profile{p})
		if err != nil {
			t.Fatal(err)
		}
		forCA(func(d *server.CA) {
			d.TokenAuthority = "https://authority.test/token"
			d.Profiles = append(d.Profiles, server.Profile{Profile: registered["phone"], Challenges: []challenge.Type{challenge.TKAuth01}, Tokens: a.Policy()})
		})(c)
	}
}

// phone orders a list and returns its order and its challenge.
func (c *client) phone(list string) (acme.Order, string, acme.Challenge) {
	c.t.Helper()
	o, url := c.orderWith(map[string]any{"profile": "phone", "identifiers": []map[string]string{{"type": "TNAuthList", "value": list}}})
	z := c.post(o.Authorizations[0], nil).want(http.StatusOK).authz()
	if len(z.Challenges) != 1 {
		c.t.Fatalf("%+v", z)
	}
	return o, url, z.Challenges[0]
}

// phoneCSR is a request for a list.
func phoneCSR(t testing.TB, list string, more ...pkix.Extension) string {
	t.Helper()
	der, err := base64.RawURLEncoding.DecodeString(list)
	if err != nil {
		t.Fatal(err)
	}
	return csrOf(t, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "SHAKEN 709J", Country: []string{"US"}},
		ExtraExtensions: append([]pkix.Extension{{Id: oidTNAuthList, Value: der}}, more...)})
}

func TestTKAuth01(t *testing.T) { // RFC 9447, RFC 9448
	authority := tkauthtest.New(t)
	each(t, func(t *testing.T, w *world) {
		c := w.account(t)
		thumb := c.signer.PublicKey().Thumbprint
		id := 0
		token := func(list string, changes ...tkauthtest.Change) map[string]string {
			id++
			return map[string]string{"tkauth": authority.Token(list, thumb, string(rune('a'+id))+t.Name(), changes...)}
		}
		t.Run("challenge, token, certificate", func(t *testing.T) {
			o, _, ch := c.phone(code709J)
			if ch.Type != "tkauth-01" || ch.TKAuthType != "atc" || ch.TokenAuthority != "https://authority.test/token" || ch.Token == "" {
				t.Errorf("%+v", ch)
			}
			if got := c.post(ch.URL, token(code709J)).want(http.StatusOK).challenge(); got.Status != acme.ChallengeValid {
				t.Fatalf("%+v", got)
			}
			o = c.post(o.Finalize, map[string]string{"csr": phoneCSR(t, code709J)}).want(http.StatusOK).order()
			if o.Status != acme.OrderValid {
				t.Fatalf("%+v", o)
			}
			cert := c.download(o.Certificate)
			found := 0
			for _, x := range cert.Extensions {
				if x.Id.Equal(oidTNAuthList) {
					found++
					if x.Critical || base64.RawURLEncoding.EncodeToString(x.Value) != code709J {
						t.Errorf("%+v", x)
					}
				}
			}
			if found != 1 || cert.IsCA || len(cert.DNSNames) != 0 || cert.Subject.String() != "CN=SHAKEN 709J" || len(cert.ExtKeyUsage) != 0 {
				t.Errorf("%d lists, subject %s", found, cert.Subject)
			}
		})
		t.Run("the authorization ends with its token, and serves until then", func(t *testing.T) {
			o, _ := c.orderWith(map[string]any{"profile": "phone", "identifiers": []map[string]string{{"type": "TNAuthList", "value": code709J}}, "notAfter": soon()})
			if o.Status != acme.OrderReady {
				t.Errorf("%+v", o)
			}
			z := c.post(o.Authorizations[0], nil).authz()
			if left := time.Until(z.Expires.Time); left > time.Hour || left < 50*time.Minute {
				t.Errorf("it lasts for %s, its token for an hour", left)
			}
		})
		t.Run("a token counts once (jti)", func(t *testing.T) {
			text := token(code709K)
			_, _, ch := c.phone(code709K)
			if got := c.post(ch.URL, text).challenge(); got.Status != acme.ChallengeValid {
				t.Fatalf("%+v", got)
			}
			c.post(w.authzOf(t, ch), map[string]string{"status": "deactivated"}).want(http.StatusOK)
			o, orderURL, again := c.phone(code709K)
			got := c.post(again.URL, text).want(http.StatusOK).challenge()
			if got.Status != acme.ChallengeInvalid || got.Error == nil || got.Error.Type != "urn:ietf:params:acme:error:incorrectResponse" {
				t.Errorf("%+v", got)
			}
			if o = c.post(orderURL, nil).order(); o.Status != acme.OrderInvalid {
				t.Errorf("%+v", o)
			}
		})
		t.Run("a token of another account's key", func(t *testing.T) {
			d := w.account(t)
			_, _, ch := d.phone(code709J)
			if got := d.post(ch.URL, token(code709J)).challenge(); got.Status != acme.ChallengeInvalid || got.Error == nil {
				t.Errorf("%+v", got)
			}
		})
		t.Run("a token for a CA certificate (section 6, step 9)", func(t *testing.T) {
			d := w.account(t)
			_, _, ch := d.phone(code709J)
			text := authority.Token(code709J, d.signer.PublicKey().Thumbprint, "ca", tkauthtest.Change{ATC: map[string]any{"ca": true}})
			if got := d.post(ch.URL, map[string]string{"tkauth": text}).challenge(); got.Status != acme.ChallengeInvalid {
				t.Errorf("%+v", got)
			}
		})
		t.Run("responses without token leave it pending", func(t *testing.T) {
			d := w.account(t)
			_, _, ch := d.phone(code709J)
			d.post(ch.URL, map[string]any{}).problem(http.StatusBadRequest, "malformed")
			if got := d.post(ch.URL, nil).challenge(); got.Status != acme.ChallengePending {
				t.Errorf("%+v", got)
			}
		})
		t.Run("requests for something else", func(t *testing.T) {
			o, _ := c.orderWith(map[string]any{"profile": "phone", "identifiers": []map[string]string{{"type": "TNAuthList", "value": code709J}}})
			for name, bad := range map[string]string{
				"another list":       phoneCSR(t, code709K),
				"no list":            csrOf(t, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "SHAKEN 709J"}}),
				"a host too":         phoneCSR(t, code709J, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: []byte("\x30\x08\x82\x06a.test")}),
				"a CA (step 9)":      phoneCSR(t, code709J, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}}),
				"a list that is not": csrOf(t, &x509.CertificateRequest{ExtraExtensions: []pkix.Extension{{Id: oidTNAuthList, Value: []byte{0x30, 0}}}}),
			} {
				if a := c.post(o.Finalize, map[string]string{"csr": bad}); a.StatusCode != http.StatusBadRequest {
					t.Errorf("%s: %d %s", name, a.StatusCode, a.body)
				}
			}
			w.names("a.test")
			host, _ := c.ready("a.test")
			c.post(host.Finalize, map[string]string{"csr": csrOf(t, &x509.CertificateRequest{DNSNames: []string{"a.test"},
				ExtraExtensions: []pkix.Extension{{Id: oidTNAuthList, Value: []byte("\x30\x08\xa0\x06\x16\x04709J")}}})}).problem(http.StatusBadRequest, "badCSR")
		})
		t.Run("orders that are refused", func(t *testing.T) {
			order := func(profile string, ids ...map[string]string) *answer {
				return c.post(c.base+"/new-order", map[string]any{"profile": profile, "identifiers": ids})
			}
			list := map[string]string{"type": "TNAuthList", "value": code709J}
			order("phone", list, map[string]string{"type": "TNAuthList", "value": code709K}).problem(http.StatusBadRequest, "malformed")
			order("phone", map[string]string{"type": "TNAuthList", "value": code709J + "=="}).problem(http.StatusBadRequest, "malformed")
			order("phone", map[string]string{"type": "dns", "value": "a.test"}).problem(http.StatusBadRequest, "rejectedIdentifier")
			order("tls", list).problem(http.StatusBadRequest, "rejectedIdentifier")
		})
	}, forPhones(t, authority))
}

// authzOf returns the URL of the authorization of a challenge.
func (w *world) authzOf(t testing.TB, ch acme.Challenge) string {
	t.Helper()
	return w.base + "/authz/" + lastPart(ch.URL[:len(ch.URL)-len("/tkauth-01")])
}

// A policy that lost the root of a token's authority holds for proofs made
// before.
func TestTokenPolicyHoldsAtIssuance(t *testing.T) {
	authority := tkauthtest.New(t)
	w := lite(t, forPhones(t, authority))
	c := w.account(t)
	o, _, ch := c.phone(code709J)
	text := authority.Token(code709J, c.signer.PublicKey().Thumbprint, "1")
	if got := c.post(ch.URL, map[string]string{"tkauth": text}).challenge(); got.Status != acme.ChallengeValid {
		t.Fatalf("%+v", got)
	}
	stricter := w.cfg
	d := stricter.CAs["default"]
	d.Profiles = append([]server.Profile{}, d.Profiles...)
	d.Profiles[len(d.Profiles)-1].Tokens = tkauthtest.New(t).Policy()
	stricter.CAs = map[string]server.CA{"default": d}
	c.via = w.handler(w.replica(t, stricter))
	c.nonce = ""
	c.post(o.Finalize, map[string]string{"csr": phoneCSR(t, code709J)}).problem(http.StatusForbidden, "unauthorized")
}

func TestTKAuth01IsOptIn(t *testing.T) {
	w := lite(t)
	c := w.account(t)
	c.post(c.base+"/new-order", map[string]any{"identifiers": []map[string]string{{"type": "TNAuthList", "value": code709J}}}).
		problem(http.StatusBadRequest, "rejectedIdentifier")
	cfg := w.cfg
	for _, p := range []*tkauth.Policy{nil, {}} {
		d := cfg.CAs["default"]
		d.Profiles = append([]server.Profile{}, d.Profiles...)
		d.Profiles[0].Challenges, d.Profiles[0].Tokens = []challenge.Type{challenge.TKAuth01}, p
		cfg.CAs = map[string]server.CA{"default": d}
		if s, err := server.New(cfg); !fault.Is(err, fault.Invalid) {
			t.Errorf("%v, %v", s, err)
		}
	}
}
