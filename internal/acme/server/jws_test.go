package server_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/acme"
	"chancery/internal/acme/challenge"
	"chancery/internal/acme/server"
)

func TestSignedRequests(t *testing.T) { // RFC 8555 section 6
	w := lite(t)
	c, other := w.account(t), w.account(t)
	url := c.base + "/new-order"
	// craft signs anything at all with the key of c.
	craft := func(h acme.Header, payload string) []byte {
		t.Helper()
		if h.Nonce == "" {
			c.plain(http.MethodHead, c.base+"/new-nonce")
			h.Nonce = c.nonce
		}
		msg, err := c.signer.Sign(h, []byte(payload))
		if err != nil {
			t.Fatal(err)
		}
		return msg
	}
	for _, tc := range []struct {
		name, problem string
		status        int
		msg           func() []byte
	}{
		{"an empty body", "malformed", 400, func() []byte { return nil }},
		{"no JSON", "malformed", 400, func() []byte { return []byte("hello") }},
		{"an array of signatures", "malformed", 400, func() []byte { return []byte(`{"payload":"","signatures":[]}`) }},
		{"the URL of another resource (section 6.4)", "unauthorized", 403, func() []byte { return craft(acme.Header{URL: c.base + "/new-authz", KID: c.kid}, "{}") }},
		{"the URL of another host", "unauthorized", 403, func() []byte {
			return craft(acme.Header{URL: "https://evil.test/acme/default/new-order", KID: c.kid}, "{}")
		}},
		{"a URL with a query more", "unauthorized", 403, func() []byte { return craft(acme.Header{URL: url + "?a=b", KID: c.kid}, "{}") }},
		{"an invented nonce (section 6.5)", "badNonce", 400, func() []byte {
			return craft(acme.Header{URL: url, KID: c.kid, Nonce: "AAAAAAAAAAAAAAAAAAAAAAAAAAA"}, "{}")
		}},
		{"a key where an account must sign (section 6.2)", "malformed", 400, func() []byte { return craft(acme.Header{URL: url}, "{}") }},
		{"an account of another CA", "accountDoesNotExist", 400, func() []byte {
			return craft(acme.Header{URL: url, KID: strings.Replace(c.kid, "/default/", "/other/", 1)}, "{}")
		}},
		{"an account that does not exist", "accountDoesNotExist", 400, func() []byte {
			return craft(acme.Header{URL: url, KID: c.base + "/account/" + strings.Repeat("0", 26)}, "{}")
		}},
		{"a key id that is no URL of an account", "accountDoesNotExist", 400, func() []byte {
			return craft(acme.Header{URL: url, KID: c.base + "/account/../../etc/passwd"}, "{}")
		}},
		{"another account's key id", "malformed", 400, func() []byte { return craft(acme.Header{URL: url, KID: other.kid}, "{}") }},
	} {
		t.Run("refused: "+tc.name, func(t *testing.T) { c.send(url, tc.msg()).problem(tc.status, tc.problem) })
	}
	t.Run("refused: a changed payload", func(t *testing.T) {
		var f map[string]string
		if err := json.Unmarshal(c.sign(url, []byte("{}")), &f); err != nil {
			t.Fatal(err)
		}
		f["payload"] = base64.RawURLEncoding.EncodeToString([]byte(`{"identifiers":[]}`))
		msg, _ := json.Marshal(f)
		c.send(url, msg).problem(400, "malformed")
	})
	t.Run("refused: an algorithm that is none, with those that are (section 6.2)", func(t *testing.T) {
		var f map[string]string
		if err := json.Unmarshal(c.sign(url, []byte("{}")), &f); err != nil {
			t.Fatal(err)
		}
		header, _ := base64.RawURLEncoding.DecodeString(f["protected"])
		f["protected"] = base64.RawURLEncoding.EncodeToString(bytes.Replace(header, []byte("ES256"), []byte("none"), 1))
		msg, _ := json.Marshal(f)
		if p := c.send(url, msg).problem(400, "badSignatureAlgorithm"); len(p.Algorithms) == 0 {
			t.Errorf("%+v", p)
		}
	})
	t.Run("refused: another media type (section 6.2)", func(t *testing.T) {
		r, _ := http.NewRequest(http.MethodPost, url, bytes.NewReader(c.sign(url, []byte("{}"))))
		r.Header.Set("Content-Type", "application/json")
		c.do(r).problem(http.StatusUnsupportedMediaType, "malformed")
	})
	t.Run("refused: a body beyond the cap", func(t *testing.T) {
		c.send(url, make([]byte, acme.MaxBody+1)).problem(http.StatusRequestEntityTooLarge, "malformed")
	})
	t.Run("refused: a GET of what is signed (section 6.3)", func(t *testing.T) {
		c.get(c.kid).problem(http.StatusMethodNotAllowed, "malformed")
	})
	t.Run("refused: a CA that does not exist", func(t *testing.T) {
		c.get(w.cfg.BaseURL+"/acme/nope/directory").problem(http.StatusNotFound, "malformed")
		c.send(w.cfg.BaseURL+"/acme/nope/new-order", []byte("{}")).problem(http.StatusNotFound, "malformed")
	})
	t.Run("refused: an account where a key must sign", func(t *testing.T) {
		c.post(c.base+"/new-account", map[string]any{}).problem(400, "malformed")
	})
	t.Run("an unusable message does not use up the nonce before it is read", func(t *testing.T) {
		good := c.sign(c.kid, nil)
		c.send(url, good).problem(http.StatusForbidden, "unauthorized") // the wrong URL
		c.send(c.kid, good).want(http.StatusOK)
	})
}

func TestNoncesOfOtherReplicas(t *testing.T) {
	w := lite(t)
	c := w.account(t)
	cfg := w.cfg
	cfg.Replica = 77
	cfg.RedeemForeign = func(_ context.Context, _ uint32, nonce string) (bool, error) { return w.RedeemNonce(nonce), nil }
	d := c.copy()
	d.via = w.handler(w.replica(t, cfg))
	c.plain(http.MethodHead, c.base+"/new-nonce")
	d.nonce = c.nonce
	msg := d.sign(c.kid, nil)
	d.send(c.kid, msg).want(http.StatusOK)
	d.send(c.kid, msg).problem(400, "badNonce")

	cfg.RedeemForeign = nil
	alone := c.copy()
	alone.via = w.handler(w.replica(t, cfg))
	c.plain(http.MethodHead, c.base+"/new-nonce")
	alone.nonce = c.nonce
	alone.post(c.kid, nil).problem(400, "badNonce")
	alone.post(c.kid, nil).want(http.StatusOK)
}

func TestDirectory(t *testing.T) { // RFC 8555 section 7.1.1
	w := lite(t, func(c *server.Config) {
		second := c.CAs["default"]
		second.EABRequired, second.Website, second.TermsOfService = true, "https://second.test", "https://second.test/terms"
		c.CAs["second"] = second
	}, func(c *server.Config) { c.CORS = true })
	c := w.client(t)
	a := c.get(w.base + "/directory").want(http.StatusOK)
	var got acme.Directory
	a.into(&got)
	want := acme.Directory{NewNonce: w.base + "/new-nonce", NewAccount: w.base + "/new-account", NewOrder: w.base + "/new-order",
		NewAuthz: w.base + "/new-authz", RevokeCert: w.base + "/revoke-cert", KeyChange: w.base + "/key-change", RenewalInfo: w.base + "/renewal-info",
		Meta: acme.Meta{CAAIdentities: []string{"ca.test"}, Profiles: map[string]string{"tls": "TLS servers, 90 days", "short": "TLS servers, 6 days"}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if a.Header.Get("Access-Control-Allow-Origin") != "*" {
		t.Error("CORS is on, but the answer does not say so")
	}
	c.plain(http.MethodOptions, w.base+"/new-order").want(http.StatusNoContent)
	var second acme.Directory
	c.get(w.cfg.BaseURL + "/acme/second/directory").want(http.StatusOK).into(&second)
	if !second.Meta.ExternalAccountRequired || second.Meta.TermsOfService == "" || second.Meta.Website == "" {
		t.Errorf("%+v", second)
	}
	t.Run("an account of one CA is none of another", func(t *testing.T) {
		c := w.account(t)
		d := c.copy()
		d.base = w.cfg.BaseURL + "/acme/second"
		d.post(d.base+"/new-order", map[string]any{"identifiers": ids("a.test")}).problem(400, "accountDoesNotExist")
	})
}

func TestConfigIsChecked(t *testing.T) {
	w := lite(t)
	for name, change := range map[string]func(*server.Config){
		"no database":        func(c *server.Config) { c.DB = nil },
		"no CA":              func(c *server.Config) { c.CAs = nil },
		"a final slash":      func(c *server.Config) { c.BaseURL += "/" },
		"no scheme":          func(c *server.Config) { c.BaseURL = "ca.test" },
		"a bad name of a CA": func(c *server.Config) { c.CAs = map[string]server.CA{"a/b": c.CAs["default"]} },
		"no profile":         func(c *server.Config) { c.CAs = map[string]server.CA{"a": {}} },
		"an unknown default profile": func(c *server.Config) {
			a := c.CAs["default"]
			a.DefaultProfile = "nope"
			c.CAs = map[string]server.CA{"a": a}
		},
		"a challenge type that must be last, first": func(c *server.Config) {
			a := c.CAs["default"]
			a.Profiles = []server.Profile{{Profile: a.Profiles[0].Profile, Challenges: []challenge.Type{challenge.DNSAccount01, challenge.DNS01}}}
			c.CAs = map[string]server.CA{"a": a}
		},
		"dns-persist-01 without an issuer domain name": func(c *server.Config) {
			offer(challenge.DNSPersist01)(c)
			forCA(func(a *server.CA) { a.CAAIdentities = nil })(c)
		},
		"dns-persist-01 with an issuer domain name that is not normal": func(c *server.Config) {
			offer(challenge.DNSPersist01)(c)
			forCA(func(a *server.CA) { a.CAAIdentities = []string{"CA.test"} })(c)
		},
		"dns-persist-01 with more issuer domain names than a challenge may have": func(c *server.Config) {
			offer(challenge.DNSPersist01)(c)
			forCA(func(a *server.CA) { a.CAAIdentities = strings.Split(strings.Repeat("ca.test ", 11), " ")[:11] })(c)
		},
		"no CAA checker": func(c *server.Config) {
			a := c.CAs["default"]
			a.CAA = nil
			c.CAs = map[string]server.CA{"a": a}
		},
	} {
		cfg := w.cfg
		cfg.CAs = maps.Clone(w.cfg.CAs)
		change(&cfg)
		if s, err := server.New(cfg); err == nil {
			s.Close()
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestAccountKeysAreJudged(t *testing.T) {
	w := lite(t)
	c := w.client(t)
	url := c.base + "/new-account"
	for name, jwk := range map[string]string{
		"a symmetric key": `{"kty":"oct","k":"AAAA"}`,
		"a short RSA key": `{"kty":"RSA","e":"AQAB","n":"AAAA"}`,
		"a private key":   `{"kty":"EC","crv":"P-256","x":"AAAA","y":"AAAA","d":"AAAA"}`,
		"an unknown kind": `{"kty":"XYZ"}`,
	} {
		t.Run(name, func(t *testing.T) {
			c.plain(http.MethodHead, c.base+"/new-nonce")
			header, _ := json.Marshal(map[string]any{"alg": "ES256", "nonce": c.nonce, "url": url, "jwk": json.RawMessage(jwk)})
			enc := base64.RawURLEncoding.EncodeToString
			msg, _ := json.Marshal(map[string]string{"protected": enc(header), "payload": enc([]byte("{}")), "signature": enc(make([]byte, 64))})
			if a := c.send(url, msg); a.StatusCode != 400 {
				t.Errorf("%s", a.body)
			}
		})
	}
}
