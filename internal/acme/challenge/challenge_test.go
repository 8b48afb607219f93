package challenge_test

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"chancery/internal/acme/challenge"
	"chancery/internal/dns"
	"chancery/internal/dns/dnstest"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

// sameAddr compares addresses, whose fields are hidden.
var sameAddr = cmpopts.EquateComparable(netip.Addr{})

const (
	token   = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"
	keyAuth = token + ".9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"
	account = "https://ca.test/acme/acct/1"
)

func name(s string) pki.Identifier { return pki.Identifier{Type: pki.DNS, Value: s} }
func ip(s string) pki.Identifier   { return pki.Identifier{Type: pki.IP, Value: s} }

func request(id pki.Identifier) challenge.Request {
	return challenge.Request{Identifier: id, Token: token, KeyAuthorization: keyAuth, AccountURL: account}
}

// world is a DNS server and a configuration that may contact loopback.
type world struct {
	dns *dnstest.Server
	cfg challenge.Config
}

func newWorld(t testing.TB) *world {
	t.Helper()
	s := dnstest.Start(t)
	r, err := dns.New(dns.Config{Servers: []string{s.Addr()}, Timeout: 600 * time.Millisecond, Attempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	policy, err := challenge.NewPolicy([]string{"127.0.0.0/8", "::1/128"})
	if err != nil {
		t.Fatal(err)
	}
	return &world{s, challenge.Config{Resolver: r, Policy: policy, StepTimeout: time.Second, Timeout: 3 * time.Second}}
}

// port returns the port of a listener's address.
func port(t testing.TB, a net.Addr) uint16 {
	t.Helper()
	p, err := netip.ParseAddrPort(a.String())
	if err != nil {
		t.Fatal(err)
	}
	return p.Port()
}

// wantFault checks that a validation failed with code and a text that has each part.
func wantFault(t *testing.T, p challenge.Proof, err error, code fault.Code, parts ...string) {
	t.Helper()
	if p.Valid() || p.Covers(name("example.test"), account) {
		t.Errorf("a proof came with an error")
	}
	var f *fault.Error
	if !errors.As(err, &f) {
		t.Fatalf("error %v, want a fault of code %s", err, code)
	}
	if f.Code != code {
		t.Errorf("code %s (%s), want %s", f.Code, f.Detail, code)
	}
	for _, part := range parts {
		if !strings.Contains(f.Detail, part) {
			t.Errorf("detail %q lacks %q", f.Detail, part)
		}
	}
	for _, c := range f.Detail {
		if c < ' ' || c > '~' || c == '<' {
			t.Errorf("detail %q has a raw foreign character", f.Detail)
			break
		}
	}
}

// all returns every validator of the package.
func all(w *world) []challenge.Validator {
	return []challenge.Validator{challenge.NewHTTP01(w.cfg), challenge.NewDNS01(w.cfg), challenge.NewTLSALPN01(w.cfg), challenge.NewDNSAccount01(w.cfg), challenge.NewDNSPersist01(w.cfg)}
}

func TestOffersFollowTheIdentifier(t *testing.T) {
	w := newWorld(t)
	r, err := challenge.NewRegistry(all(w)...)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		id   pki.Identifier
		want []challenge.Type
	}{
		{name("example.test"), []challenge.Type{challenge.HTTP01, challenge.DNS01, challenge.TLSALPN01, challenge.DNSAccount01, challenge.DNSPersist01}},
		{name("*.example.test"), []challenge.Type{challenge.DNS01, challenge.DNSAccount01, challenge.DNSPersist01}}, // RFC 8555 section 7.4.1, RFC 8737 section 3
		{ip("192.0.2.1"), []challenge.Type{challenge.HTTP01, challenge.TLSALPN01}},
		{pki.Identifier{Type: "permanent-identifier", Value: "x"}, nil},
		{pki.Identifier{}, nil},
	} {
		if diff := cmp.Diff(c.want, r.Offers(c.id)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.id, diff)
		}
	}
}

// DigiCert 2024: a second code path to a method lacked a check of the first.
func TestHistorySecondCodePathToOneMethod(t *testing.T) {
	w := newWorld(t)
	if _, err := challenge.NewRegistry(challenge.NewDNS01(w.cfg), challenge.NewDNS01(w.cfg)); err == nil {
		t.Error("two validators of one method were accepted")
	}
	if _, err := challenge.NewRegistry(nil); err == nil {
		t.Error("a nil validator was accepted")
	}
}

// step-ca 2026: an unknown type skipped authorization.
func TestHistoryUnknownTypeIsDenied(t *testing.T) {
	w := newWorld(t)
	r, err := challenge.NewRegistry(challenge.NewDNS01(w.cfg))
	if err != nil {
		t.Fatal(err)
	}
	for _, typ := range []challenge.Type{"", "http-01", "DNS-01", "device-attest-01", "<b>\n"} {
		p, err := r.Validate(t.Context(), typ, request(name("example.test")))
		wantFault(t, p, err, fault.Malformed)
	}
	if n := len(w.dns.Queries()); n != 0 {
		t.Errorf("%d queries were sent", n)
	}
}

// lying is a validator from outside the package: it can return only what others proved.
type lying struct {
	challenge.Validator
	proof challenge.Proof
	err   error
}

func (l lying) Validate(context.Context, challenge.Request) (challenge.Proof, error) {
	return l.proof, l.err
}

// OpenBao 2026: a value returned together with an error was used.
func TestHistoryValueWithErrorIsNotUsed(t *testing.T) {
	w := newWorld(t)
	w.dns.Add("_acme-challenge.example.test. 60 IN TXT " + challenge.DNS01Value(keyAuth))
	v := challenge.NewDNS01(w.cfg)
	good, err := v.Validate(t.Context(), request(name("example.test")))
	if err != nil {
		t.Fatal(err)
	}
	r, _ := challenge.NewRegistry(lying{v, good, fault.New(fault.DNS, "failed after all")})
	p, err := r.Validate(t.Context(), challenge.DNS01, request(name("example.test")))
	wantFault(t, p, err, fault.DNS)
	r, _ = challenge.NewRegistry(lying{v, good, nil})
	for _, id := range []pki.Identifier{name("other.test"), name("*.example.test"), name("www.example.test"), ip("192.0.2.1")} {
		p, err = r.Validate(t.Context(), challenge.DNS01, request(id))
		wantFault(t, p, err, fault.ServerInternal)
	}
	r, _ = challenge.NewRegistry(lying{v, challenge.Proof{}, nil})
	p, err = r.Validate(t.Context(), challenge.DNS01, request(name("example.test")))
	wantFault(t, p, err, fault.ServerInternal)
	r, _ = challenge.NewRegistry(lying{challenge.NewHTTP01(w.cfg), good, nil})
	p, err = r.Validate(t.Context(), challenge.HTTP01, request(name("example.test")))
	wantFault(t, p, err, fault.ServerInternal)
}

// uacme, Vault, autocert: tokens and identifiers became paths.
func TestHistoryTokenIsNotAPath(t *testing.T) {
	w := newWorld(t)
	for _, tok := range []string{"", "short", "../../../../../../etc/passwd", token + "/", token + "?x", token + "\r\nX: y", strings.Repeat("a", 129), token + "="} {
		for _, v := range all(w) {
			req := request(name("example.test"))
			req.Token, req.KeyAuthorization = tok, tok+keyAuth[len(token):]
			p, err := v.Validate(t.Context(), req)
			wantFault(t, p, err, fault.Malformed)
		}
	}
	for _, ka := range []string{"", token, token + ".", token + ".short", "x" + keyAuth, keyAuth + "x", keyAuth + "\n", strings.Replace(keyAuth, ".", "-", 1)} {
		for _, v := range all(w) {
			req := request(name("example.test"))
			req.KeyAuthorization = ka
			p, err := v.Validate(t.Context(), req)
			wantFault(t, p, err, fault.Malformed)
		}
	}
	if n := len(w.dns.Queries()); n != 0 {
		t.Errorf("%d queries were sent", n)
	}
}

// An identifier is a name or an address and nothing that only looks like one.
func TestIdentifiersAreChecked(t *testing.T) {
	w := newWorld(t)
	for _, n := range []string{"Example.test", "example.test.", "a..test", "*.*.test", "<b>.test", "a b.test", "127.0.0.1", "127.1", "0x7f.1", "ex\u00e4mple.test", "a.test/x", "a.test:80", "*."} {
		for _, v := range all(w) {
			p, err := v.Validate(t.Context(), request(name(n)))
			wantFault(t, p, err, fault.Malformed)
		}
	}
	for _, a := range []string{"", "example.test", "127.0.0.1:80", "[::1]", "127.1"} {
		p, err := challenge.NewHTTP01(w.cfg).Validate(t.Context(), request(ip(a)))
		wantFault(t, p, err, fault.Malformed)
	}
	if n := len(w.dns.Queries()); n != 0 {
		t.Errorf("%d queries were sent", n)
	}
}

func TestProofNamesItsAccount(t *testing.T) {
	w := newWorld(t)
	req := request(name("example.test"))
	req.AccountURL = ""
	p, err := challenge.NewDNS01(w.cfg).Validate(t.Context(), req)
	wantFault(t, p, err, fault.Malformed)
}

func TestZeroProofProvesNothing(t *testing.T) {
	var p challenge.Proof
	if p.Valid() || p.Covers(pki.Identifier{}, "") || p.Method() != "" || !p.At().IsZero() || p.Perspective() != "" || p.Steps() != nil || p.Identifier() != (pki.Identifier{}) {
		t.Error("the zero proof says something")
	}
	if b, err := json.Marshal(p); err != nil || string(b) != "null" {
		t.Errorf("as JSON: %s, %v", b, err)
	}
}

func TestSealedProofs(t *testing.T) {
	w := newWorld(t)
	w.dns.Add("_acme-challenge.example.test. 60 IN TXT " + challenge.DNS01Value(keyAuth))
	proof, err := challenge.NewDNS01(w.cfg).Validate(t.Context(), request(name("*.example.test")))
	if err != nil {
		t.Fatal(err)
	}
	s, err := challenge.NewSealer([]byte(strings.Repeat("k", 32)))
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := s.Seal(proof)
	if err != nil {
		t.Fatal(err)
	}
	back, err := s.Open(sealed)
	if err != nil || !back.Covers(name("*.example.test"), account) || back.Covers(name("example.test"), account) {
		t.Errorf("opened proof: %+v, %v", back, err)
	}
	if !back.At().Equal(proof.At()) || back.Method() != challenge.DNS01 || len(back.Steps()) != 1 {
		t.Error("opened proof differs")
	}
	for i := range sealed {
		bad := append([]byte(nil), sealed...)
		bad[i] ^= 1
		if p, err := s.Open(bad); err == nil || p.Valid() {
			t.Fatalf("octet %d changed: opened", i)
		}
	}
	if c, err := s.OpenClearance(sealed); err == nil || c.Covers(name("*.example.test"), challenge.DNS01, account, time.Now(), time.Hour) {
		t.Error("a proof opened as a clearance")
	}
	other, _ := challenge.NewSealer([]byte(strings.Repeat("x", 32)))
	for _, bad := range [][]byte{nil, sealed[:31], sealed[:len(sealed)-1]} {
		if _, err := s.Open(bad); err == nil {
			t.Errorf("opened %d octets", len(bad))
		}
	}
	if _, err := other.Open(sealed); err == nil {
		t.Error("another key opened it")
	}
	if _, err := s.Seal(challenge.Proof{}); err == nil {
		t.Error("the zero proof was sealed")
	}
	if _, err := s.SealClearance(challenge.Clearance{}); err == nil {
		t.Error("the zero clearance was sealed")
	}
	if _, err := challenge.NewSealer([]byte("short")); err == nil {
		t.Error("a short key was accepted")
	}
}

// A proof covers what is below its name only if it was asked for, by a method
// that uses the zone, and never for wildcards (RFC 9444).
func TestProofsOfSubdomains(t *testing.T) {
	w := newWorld(t)
	w.dns.Add("_acme-challenge.example.test. 60 IN TXT " + challenge.DNS01Value(keyAuth))
	w.persist("example.test", "ca.test; accounturi="+uri("example.test"))
	w.persist("wide.test", "ca.test; accounturi="+uri("wide.test")+"; policy=wildcard")
	v := challenge.NewDNS01(w.cfg)
	narrow, err := v.Validate(t.Context(), request(name("example.test")))
	if err != nil || narrow.Subdomains() || narrow.CoversBelow(name("a.example.test"), account) {
		t.Errorf("%+v, %v", narrow, err)
	}
	req := request(name("example.test"))
	req.Subdomains = true
	wide, err := v.Validate(t.Context(), req)
	if err != nil || !wide.Subdomains() || !wide.Covers(name("example.test"), account) {
		t.Fatalf("%+v, %v", wide, err)
	}
	for id, want := range map[pki.Identifier]bool{
		name("a.example.test"): true, name("b.a.example.test"): true,
		name("example.test"): false, name("*.example.test"): false, name("*.a.example.test"): false,
		name("aexample.test"): false, name("test"): false, ip("192.0.2.1"): false,
	} {
		if wide.CoversBelow(id, account) != want || wide.CoversBelow(id, account+"1") {
			t.Errorf("%s: want %v", id, want)
		}
	}
	r, _ := challenge.NewRegistry(lying{v, wide, nil})
	p, err := r.Validate(t.Context(), challenge.DNS01, request(name("example.test")))
	wantFault(t, p, err, fault.ServerInternal)
	for _, v := range all(w) {
		req := persistent(name("*.example.test"))
		req.Token, req.KeyAuthorization, req.Subdomains = token, keyAuth, true
		p, err := v.Validate(t.Context(), req)
		wantFault(t, p, err, fault.Malformed)
		if v.Type().Zone() {
			continue
		}
		req.Identifier = name("example.test")
		p, err = v.Validate(t.Context(), req)
		wantFault(t, p, err, fault.Malformed, "below")
	}
	req = persistent(name("example.test"))
	req.Subdomains = true
	p, err = challenge.NewDNSPersist01(w.cfg).Validate(t.Context(), req)
	wantFault(t, p, err, fault.Unauthorized, "policy=wildcard")
	req.Identifier = name("wide.test")
	if p, err = challenge.NewDNSPersist01(w.cfg).Validate(t.Context(), req); err != nil || !p.CoversBelow(name("a.wide.test"), account) {
		t.Errorf("%+v, %v", p, err)
	}
}
