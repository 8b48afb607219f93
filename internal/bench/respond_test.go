package bench

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"chancery/internal/acme/challenge"
	"chancery/internal/dns"
	"chancery/internal/fault"
	"chancery/internal/keys"
	"chancery/internal/pki"
)

const (
	testToken   = "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0"
	testKeyAuth = testToken + ".9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"
)

// portOf returns the port of HOST:PORT.
func portOf(t *testing.T, addr string) uint16 {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	return uint16(n)
}

// Each responder convinces the validator of the product, which finds it
// through the built-in DNS server, and convinces it no more once the
// challenge is forgotten.
func TestRespondersConvinceValidators(t *testing.T) {
	server, err := ListenDNS("127.0.0.1:0", netip.MustParseAddr("127.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	resolver, err := dns.New(dns.Config{Servers: []string{server.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resolver.Close() })
	policy, err := challenge.NewPolicy([]string{"127.0.0.0/8"})
	if err != nil {
		t.Fatal(err)
	}
	cfg := IssueConfig{HTTP01Listen: "127.0.0.1:0", TLSALPN01Listen: "127.0.0.1:0", DNS: server}
	for _, kind := range []challenge.Type{challenge.HTTP01, challenge.TLSALPN01, challenge.DNS01} {
		r, err := newResponder(kind, &cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.close() })
		port := portOf(t, r.addr)
		vc := challenge.Config{Resolver: resolver, Policy: policy, HTTP01Port: port, TLSALPN01Port: port, Timeout: 5 * time.Second}
		validators := map[challenge.Type]challenge.Validator{challenge.HTTP01: challenge.NewHTTP01(vc), challenge.TLSALPN01: challenge.NewTLSALPN01(vc), challenge.DNS01: challenge.NewDNS01(vc)}
		for _, name := range []string{"a.bench.example.com", "B.bench.example.com"} {
			id := pki.Identifier{Type: pki.DNS, Value: strings.ToLower(name)}
			req := challenge.Request{Identifier: id, Token: testToken, KeyAuthorization: testKeyAuth, AccountURL: "https://ca.example/acct/1"}
			r.present(name, testToken, testKeyAuth)
			if _, err := validators[kind].Validate(t.Context(), req); err != nil {
				t.Errorf("%s of %s: %v", kind, name, err)
			}
			r.forget(name, testToken)
			req.Identifier.Value = "gone." + req.Identifier.Value // not in any cache
			if _, err := validators[kind].Validate(t.Context(), req); err == nil {
				t.Errorf("%s: valid without being presented", kind)
			}
		}
	}
}

func TestDNSServerKeepsValuesApart(t *testing.T) {
	s := &DNSServer{txt: map[string][]string{}}
	r, err := newDNS01(s)
	if err != nil {
		t.Fatal(err)
	}
	r.present("*.example.com", "t1", "t1.x")
	r.present("example.com", "t2", "t2.x") // a wildcard and its base share the name
	if got := len(s.records("_acme-challenge.Example.com.", 16)); got != 2 {
		t.Errorf("%d values, want 2", got)
	}
	r.forget("*.example.com", "t1")
	r.forget("example.com", "t2")
	if len(s.txt) != 0 {
		t.Errorf("left over: %v", s.txt)
	}
	if _, err := newResponder(challenge.DNS01, &IssueConfig{}); !fault.Is(err, fault.Invalid) {
		t.Errorf("dns-01 without a server: %v", err)
	}
}

func TestHTTP01AnswersOnlyWhatIsAsked(t *testing.T) {
	r, err := newHTTP01("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.close() })
	r.present("a.example", testToken, testKeyAuth)
	for path, want := range map[string]int{wellKnown + testToken: 200, wellKnown + "other": 404, "/" + testToken: 404, "/": 404} {
		res, err := http.Get("http://" + r.addr + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != want || (want == 200) != (string(body) == testKeyAuth) {
			t.Errorf("%s: %d %q", path, res.StatusCode, body)
		}
	}
	conn, err := net.Dial("tcp", r.addr) // a request without end is cut off
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET / HTTP/1.1\r\nA: "+strings.Repeat("b", 2*maxProbe))
	if n, err := io.Copy(io.Discard, conn); n > 0 {
		t.Errorf("answered %d bytes, %v", n, err)
	}
}

func TestTLSALPN01RefusesOtherNames(t *testing.T) {
	r, err := newTLSALPN01("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.close() })
	_, err = tls.Dial("tcp", r.addr, &tls.Config{ServerName: "other.example", NextProtos: []string{acmeProtocol}, InsecureSkipVerify: true})
	if err == nil {
		t.Error("a name without a challenge got a certificate")
	}
}

func TestAPortInUseIsSaidPlainly(t *testing.T) {
	r, err := newHTTP01("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.close() })
	if _, err := newHTTP01(r.addr); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), r.addr) {
		t.Errorf("%v", err)
	}
}

// The request that is made by hand is read alike by the standard library and
// by our own parser, for every key type.
func TestCSRsAreSound(t *testing.T) {
	names := []string{"b1.example.com", "b2.example.com"}
	for _, kt := range pki.KeyTypes {
		key, err := keys.Generate(kt)
		if err != nil {
			t.Fatal(err)
		}
		der, err := newCSR(key, names)
		if err != nil {
			t.Fatal(err)
		}
		std, err := x509.ParseCertificateRequest(der)
		if err != nil {
			t.Fatalf("%s: %v", kt, err)
		}
		if err := std.CheckSignature(); err != nil || strings.Join(std.DNSNames, " ") != strings.Join(names, " ") || std.Subject.String() != "" {
			t.Errorf("%s: %v, names %v, subject %q", kt, err, std.DNSNames, std.Subject)
		}
		if own, err := pki.ParseCSR(der, 64<<10); err != nil || len(own.Identifiers) != 2 || own.KeyType != kt {
			t.Errorf("%s: %+v, %v", kt, own, err)
		}
	}
}
