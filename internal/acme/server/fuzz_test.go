package server_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"chancery/internal/acme/server"
)

// FuzzPost sends mutated messages to every resource: nothing panics, and
// nothing is our fault.
func FuzzPost(f *testing.F) {
	w := lite(f, func(c *server.Config) { c.Limits = &server.Limits{} })
	c := w.account(f)
	o, orderURL := c.order("fuzz.test")
	z := c.post(o.Authorizations[0], nil).authz()
	h := w.handler(w.Server)
	paths := []string{"/new-account", "/new-order", "/new-authz", "/revoke-cert", "/key-change"}
	for _, u := range []string{c.kid, c.kid + "/orders", orderURL, o.Finalize, o.Authorizations[0], z.Challenges[1].URL, c.base + "/certificate/" + lastPart(orderURL)} {
		paths = append(paths, strings.TrimPrefix(u, c.base))
	}
	for i := range paths {
		for _, payload := range []string{"", "{}", `{"csr":"AAAA"}`, `{"status":"deactivated"}`, `{"identifiers":[{"type":"dns","value":"a.test"}]}`,
			`{"certificate":"MAA","reason":1}`, `{"onlyReturnExisting":true,"contact":["mailto:a@b.test"]}`} {
			f.Add(i, []byte(payload), []byte(nil), true)
		}
	}
	f.Add(1, []byte("{}"), []byte(`{"protected":"e30","payload":"","signature":"AA"}`), false)
	f.Fuzz(func(t *testing.T, i int, payload, raw []byte, signed bool) {
		path := paths[uint(i)%uint(len(paths))]
		if strings.HasSuffix(path, "/account/"+lastPart(c.kid)) && bytes.Contains(payload, []byte("deactivated")) {
			return // it would end the account that the others need
		}
		body := raw
		if signed {
			d := c.copy()
			d.t, d.via = t, h
			if path == "/new-account" {
				d.kid = ""
			}
			body = d.sign(c.base+path, payload)
			if len(raw) > 0 { // a message with a changed octet
				body[int(raw[0])*len(body)/256] ^= raw[len(raw)-1]
			}
		}
		r := httptest.NewRequest(http.MethodPost, c.base+path, bytes.NewReader(body))
		r.Header.Set("Content-Type", "application/jose+json")
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		if rec.Code >= 500 && rec.Code != http.StatusServiceUnavailable {
			t.Errorf("%s: %d %s", path, rec.Code, rec.Body)
		}
		if rec.Header().Get("Replay-Nonce") == "" {
			t.Errorf("%s: no nonce", path)
		}
	})
}
