package challenge_test

import (
	"crypto/tls"
	"io"
	"net/http"
	"testing"

	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"

	"chancery/internal/acme/challenge"
	"chancery/internal/pki"
)

// What a foreign client (acmez, the one in Caddy) presents for each method is
// what the validators accept.
func TestForeignClientIsAccepted(t *testing.T) {
	foreign := func(id pki.Identifier) acme.Challenge {
		return acme.Challenge{
			Token: token, KeyAuthorization: keyAuth,
			Identifier: acme.Identifier{Type: string(id.Type), Value: id.Value},
		}
	}
	w := newWeb(t, "example.test")
	id := name("example.test")
	c := foreign(id)
	w.mux.HandleFunc(c.HTTP01ResourcePath(), func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, c.KeyAuthorization) })
	w.dns.Add(c.DNS01TXTRecordName() + ". 60 IN TXT " + c.DNS01KeyAuthorization())
	for _, v := range []challenge.Validator{w.v, challenge.NewDNS01(w.cfg)} {
		if _, err := v.Validate(t.Context(), request(id)); err != nil {
			t.Errorf("%s: %v", v.Type(), err)
		}
	}
	for _, id := range []pki.Identifier{id, ip("127.0.0.1")} {
		cert, err := acmez.TLSALPN01ChallengeCert(foreign(id))
		if err != nil {
			t.Fatal(err)
		}
		l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{*cert}, NextProtos: []string{acmez.ACMETLS1Protocol}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			if conn, err := l.Accept(); err == nil {
				io.Copy(io.Discard, conn)
				conn.Close()
			}
		}()
		w.cfg.TLSALPN01Port = port(t, l.Addr())
		if _, err := challenge.NewTLSALPN01(w.cfg).Validate(t.Context(), request(id)); err != nil {
			t.Errorf("tls-alpn-01 of %s: %v", id, err)
		}
	}
}
