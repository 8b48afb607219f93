package challenge_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"io"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"chancery/internal/acme/challenge"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

var (
	oidACME    = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 31}
	oidOldACME = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 30, 1} // drafts before RFC 8737
	oidSAN     = asn1.ObjectIdentifier{2, 5, 29, 17}
)

// digest returns the right content of the acmeIdentifier extension.
func digest() []byte {
	sum := sha256.Sum256([]byte(keyAuth))
	return append([]byte{4, 32}, sum[:]...)
}

// answer is what a tls-alpn-01 responder shows; its fields begin right.
type answer struct {
	template *x509.Certificate
	parent   *x509.Certificate // nil: itself
	signer   crypto.Signer     // nil: its own key
	protos   []string
	min, max uint16
	extra    [][]byte // more certificates
}

func rightAnswer(t testing.TB, id pki.Identifier) *answer {
	t.Helper()
	a := &answer{
		template: &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "acme"},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			ExtraExtensions: []pkix.Extension{{Id: oidACME, Critical: true, Value: digest()}},
		},
		protos: []string{"acme-tls/1"},
	}
	if id.Type == pki.IP {
		a.template.IPAddresses = []net.IP{net.ParseIP(id.Value)}
	} else {
		a.template.DNSNames = []string{id.Value}
	}
	return a
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// serve starts a TLS server that answers so, and returns its port and the
// server names it is asked for.
func (a *answer) serve(t testing.TB, addr string) (uint16, <-chan string) {
	t.Helper()
	key := newKey(t)
	parent, signer := a.parent, a.signer
	if parent == nil {
		parent = a.template
	}
	if signer == nil {
		signer = key
	}
	der, err := x509.CreateCertificate(rand.Reader, a.template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	names := make(chan string, 10)
	cert := tls.Certificate{Certificate: append([][]byte{der}, a.extra...), PrivateKey: key}
	l, err := tls.Listen("tcp", addr, &tls.Config{
		GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
			names <- h.ServerName
			return &cert, nil
		},
		NextProtos: a.protos, MinVersion: a.min, MaxVersion: a.max,
	})
	if err != nil {
		t.Skipf("no %s here: %v", addr, err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(io.Discard, c); c.Close() }()
		}
	}()
	return port(t, l.Addr()), names
}

// tlsValidate runs the validator against the answer.
func tlsValidate(t *testing.T, id pki.Identifier, a *answer) (challenge.Proof, error) {
	t.Helper()
	w := newWorld(t)
	w.dns.Add("example.test. 60 IN A 127.0.0.1")
	w.cfg.TLSALPN01Port, _ = a.serve(t, "127.0.0.1:0")
	return challenge.NewTLSALPN01(w.cfg).Validate(t.Context(), request(id))
}

func TestTLSALPN01(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		w := newWorld(t)
		w.dns.Add("example.test. 60 IN A 127.0.0.1")
		a := rightAnswer(t, name("Example.test"))
		a.min, a.max = version, version
		var names <-chan string
		w.cfg.TLSALPN01Port, names = a.serve(t, "127.0.0.1:0")
		p, err := challenge.NewTLSALPN01(w.cfg).Validate(t.Context(), request(name("example.test")))
		if err != nil {
			t.Fatalf("%x: %v", version, err)
		}
		if !p.Covers(name("example.test"), account) || p.Method() != challenge.TLSALPN01 {
			t.Errorf("%x: proof %+v", version, p)
		}
		if sni := <-names; sni != "example.test" {
			t.Errorf("server name %q", sni)
		}
	}
}

// RFC 8738 section 6: the server name is the reverse name, the certificate has an iPAddress.
func TestTLSALPN01Address(t *testing.T) {
	for addr, reverse := range map[string]string{
		"127.0.0.1": "1.0.0.127.in-addr.arpa",
		"::1":       "1" + strings.Repeat(".0", 31) + ".ip6.arpa",
	} {
		t.Run(addr, func(t *testing.T) {
			w := newWorld(t)
			var names <-chan string
			w.cfg.TLSALPN01Port, names = rightAnswer(t, ip(addr)).serve(t, net.JoinHostPort(addr, "0"))
			p, err := challenge.NewTLSALPN01(w.cfg).Validate(t.Context(), request(ip(addr)))
			if err != nil || !p.Covers(ip(addr), account) {
				t.Fatal(err)
			}
			if sni := <-names; sni != reverse {
				t.Errorf("server name %q, want %q", sni, reverse)
			}
			if p.Steps()[0].Used != netip.MustParseAddr(addr) {
				t.Errorf("record %+v", p.Steps())
			}
		})
	}
}

// Each MUST of RFC 8737 section 3, violated alone.
func TestTLSALPN01WrongAnswers(t *testing.T) {
	id := name("example.test")
	ext := func(e ...pkix.Extension) func(*answer) {
		return func(a *answer) { a.template.ExtraExtensions = e }
	}
	acme := func(value []byte) pkix.Extension { return pkix.Extension{Id: oidACME, Critical: true, Value: value} }
	san := func(der ...byte) func(*answer) {
		return func(a *answer) {
			a.template.DNSNames = nil
			a.template.ExtraExtensions = append(a.template.ExtraExtensions, pkix.Extension{Id: oidSAN, Value: der})
		}
	}
	wrongSum := sha256.Sum256([]byte("other"))
	for label, c := range map[string]struct {
		spoil func(*answer)
		code  fault.Code
		part  string
	}{
		"no protocol":        {func(a *answer) { a.protos = nil }, fault.TLS, "did not negotiate the protocol acme-tls/1"},
		"other protocol":     {func(a *answer) { a.protos = []string{"h2", "http/1.1"} }, fault.TLS, "no application protocol"},
		"no extension":       {ext(), fault.IncorrectResponse, "must have one acmeIdentifier"},
		"not critical":       {ext(pkix.Extension{Id: oidACME, Value: digest()}), fault.IncorrectResponse, "must be critical"},
		"other digest":       {ext(acme(append([]byte{4, 32}, wrongSum[:]...))), fault.IncorrectResponse, "another key authorization"},
		"no octet string":    {ext(acme(digest()[2:])), fault.IncorrectResponse, "OCTET STRING"},
		"short digest":       {ext(acme(append([]byte{4, 31}, digest()[2:33]...))), fault.IncorrectResponse, "OCTET STRING"},
		"trailing octet":     {ext(acme(append(digest(), 0))), fault.IncorrectResponse, "OCTET STRING"},
		"long form length":   {ext(acme(append([]byte{4, 0x81, 32}, digest()[2:]...))), fault.IncorrectResponse, "OCTET STRING"},
		"other type":         {ext(acme(append([]byte{3, 32}, digest()[2:]...))), fault.IncorrectResponse, "OCTET STRING"},
		"empty extension":    {ext(acme(nil)), fault.IncorrectResponse, "OCTET STRING"},
		"no name":            {func(a *answer) { a.template.DNSNames = nil }, fault.IncorrectResponse, "one subjectAltName"},
		"common name only":   {func(a *answer) { a.template.DNSNames, a.template.Subject.CommonName = nil, "example.test" }, fault.IncorrectResponse, "one subjectAltName"},
		"other name":         {func(a *answer) { a.template.DNSNames = []string{"example.com"} }, fault.IncorrectResponse, "not the dNSName example.test"},
		"parent name":        {func(a *answer) { a.template.DNSNames = []string{"test"} }, fault.IncorrectResponse, "not the dNSName"},
		"wildcard":           {func(a *answer) { a.template.DNSNames = []string{"*.test"} }, fault.IncorrectResponse, "not the dNSName"},
		"two names":          {func(a *answer) { a.template.DNSNames = []string{"example.test", "www.example.test"} }, fault.IncorrectResponse, "one name only"},
		"same name twice":    {func(a *answer) { a.template.DNSNames = []string{"example.test", "example.test"} }, fault.IncorrectResponse, "one name only"},
		"name and address":   {func(a *answer) { a.template.IPAddresses = []net.IP{{127, 0, 0, 1}} }, fault.IncorrectResponse, "one name only"},
		"name and mail":      {func(a *answer) { a.template.EmailAddresses = []string{"a@example.test"} }, fault.IncorrectResponse, "one name only"},
		"address for a name": {func(a *answer) { a.template.DNSNames, a.template.IPAddresses = nil, []net.IP{{127, 0, 0, 1}} }, fault.IncorrectResponse, "not the dNSName"},
		// crypto/x509 skips registeredID [8]; it is a name all the same.
		"name and registered id": {san(append([]byte{0x30, 14 + 4, 0x82, 12}, append([]byte("example.test"), 0x88, 2, 0x2a, 3)...)...), fault.IncorrectResponse, "one name only"},
		"name as mail":           {san(append([]byte{0x30, 14, 0x81, 12}, "example.test"...)...), fault.IncorrectResponse, "not the dNSName"},
		"not self-signed":        {func(a *answer) { a.signer = newKey(t) }, fault.IncorrectResponse, "not self-signed"},
		"other issuer": {func(a *answer) {
			a.parent = &x509.Certificate{Subject: pkix.Name{CommonName: "ca"}}
		}, fault.IncorrectResponse, "not self-signed"},
		"a chain":         {func(a *answer) { a.extra = [][]byte{chainCert(t)} }, fault.IncorrectResponse, "2 certificates"},
		"extension twice": {ext(acme(digest()), acme(digest())), fault.TLS, ""},
	} {
		t.Run(label, func(t *testing.T) {
			a := rightAnswer(t, id)
			c.spoil(a)
			p, err := tlsValidate(t, id, a)
			wantFault(t, p, err, c.code, c.part, "127.0.0.1")
		})
	}
}

// chainCert is some other certificate.
func chainCert(t *testing.T) []byte {
	key := newKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(2)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// Let's Encrypt 2022: the draft's OID and TLS before 1.2 were accepted.
func TestHistoryTLSALPNWithOldOIDOrOldTLS(t *testing.T) {
	id := name("example.test")
	a := rightAnswer(t, id)
	a.template.ExtraExtensions = []pkix.Extension{{Id: oidOldACME, Critical: true, Value: digest()}}
	p, err := tlsValidate(t, id, a)
	wantFault(t, p, err, fault.IncorrectResponse, "1.3.6.1.5.5.7.1.31")
	for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS11} {
		a := rightAnswer(t, id)
		a.min, a.max = version, version
		p, err := tlsValidate(t, id, a)
		wantFault(t, p, err, fault.TLS, "TLS 1.2 or later")
	}
}

// An address certificate must carry the address, in its own form.
func TestTLSALPN01WrongAddress(t *testing.T) {
	for label, spoil := range map[string]func(*x509.Certificate){
		"other address": func(c *x509.Certificate) { c.IPAddresses = []net.IP{{127, 0, 0, 2}} },
		"reverse name":  func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"1.0.0.127.in-addr.arpa"} },
		"address as name": func(c *x509.Certificate) {
			c.IPAddresses = nil
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: oidSAN, Value: append([]byte{0x30, 11, 0x82, 9}, "127.0.0.1"...)})
		},
		// crypto/x509 refuses this one already in the handshake.
		"mapped": func(c *x509.Certificate) {
			c.IPAddresses = nil
			mapped := netip.MustParseAddr("::ffff:127.0.0.1").As16()
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: oidSAN, Value: append([]byte{0x30, 18, 0x87, 16}, mapped[:]...)})
		},
	} {
		t.Run(label, func(t *testing.T) {
			a := rightAnswer(t, ip("127.0.0.1"))
			spoil(a.template)
			p, err := tlsValidate(t, ip("127.0.0.1"), a)
			if label == "mapped" {
				wantFault(t, p, err, fault.TLS)
				return
			}
			wantFault(t, p, err, fault.IncorrectResponse, "not the iPAddress 127.0.0.1")
		})
	}
}

func TestTLSALPN01NoTLS(t *testing.T) {
	for label, c := range map[string]struct {
		serve func(net.Conn)
		code  fault.Code
		part  string
	}{
		"plain text": {func(c net.Conn) { io.WriteString(c, "220 smtp.example.test ESMTP\r\n"); io.Copy(io.Discard, c) }, fault.TLS, "does not speak TLS"},
		"closes":     {func(c net.Conn) {}, fault.TLS, ""},
		"silent":     {func(c net.Conn) { io.Copy(io.Discard, c) }, fault.Connection, "in time"},
	} {
		t.Run(label, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			serve := c.serve
			go func() {
				c, err := l.Accept()
				if err != nil {
					return
				}
				defer c.Close()
				c.Read(make([]byte, 4096)) // the hello
				serve(c)
			}()
			w := newWorld(t)
			w.cfg.StepTimeout = 200 * time.Millisecond
			w.dns.Add("example.test. 60 IN A 127.0.0.1")
			w.cfg.TLSALPN01Port = port(t, l.Addr())
			p, err := challenge.NewTLSALPN01(w.cfg).Validate(t.Context(), request(name("example.test")))
			wantFault(t, p, err, c.code, c.part)
		})
	}
}

func TestTLSALPN01Policy(t *testing.T) {
	w := newWorld(t)
	w.dns.Add("example.test. 60 IN A 192.168.1.1")
	v := challenge.NewTLSALPN01(w.cfg)
	p, err := v.Validate(t.Context(), request(name("example.test")))
	wantFault(t, p, err, fault.Connection, "192.168.1.1 is private use")
	p, err = v.Validate(t.Context(), request(ip("10.0.0.1")))
	wantFault(t, p, err, fault.Connection, "private use")
	p, err = v.Validate(t.Context(), request(name("*.example.test")))
	wantFault(t, p, err, fault.Malformed)
	p, err = v.Validate(t.Context(), request(name("absent.test")))
	wantFault(t, p, err, fault.DNS, "NXDOMAIN")
}
