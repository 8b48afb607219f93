package dnstest_test

import (
	"testing"
	"time"

	"github.com/miekg/dns"

	"chancery/internal/dns/dnstest"
)

const secret = "c2VjcmV0IG9mIHRoZSB0ZXN0IHNlcnZlcg=="

// ask sends one question over UDP.
func ask(t *testing.T, s *dnstest.Server, name string, qtype uint16) *dns.Msg {
	t.Helper()
	m, err := dns.Exchange(new(dns.Msg).SetQuestion(name, qtype), s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestAnswers(t *testing.T) {
	s := dnstest.Start(t)
	s.Add("example.test. 60 IN SOA ns.example.test. a.example.test. 1 2 3 4 5", "www.a.example.test. 60 IN A 192.0.2.1")
	for _, c := range []struct {
		name    string
		qtype   uint16
		rcode   int
		answers int
		soa     string
	}{
		{"WWW.a.example.test.", dns.TypeA, dns.RcodeSuccess, 1, ""},
		{"www.a.example.test.", dns.TypeAAAA, dns.RcodeSuccess, 0, "example.test."},
		{"a.example.test.", dns.TypeA, dns.RcodeSuccess, 0, "example.test."}, // an empty non-terminal exists
		{"b.example.test.", dns.TypeA, dns.RcodeNameError, 0, "example.test."},
		{"example.test.", dns.TypeSOA, dns.RcodeSuccess, 1, ""},
		{"other.", dns.TypeA, dns.RcodeNameError, 0, "."},
	} {
		m := ask(t, s, c.name, c.qtype)
		soa := ""
		if len(m.Ns) > 0 {
			soa = m.Ns[0].Header().Name
		}
		if m.Rcode != c.rcode || len(m.Answer) != c.answers || soa != c.soa {
			t.Errorf("%s %s: rcode %d, %d answers, SOA of %q", c.name, dns.TypeToString[c.qtype], m.Rcode, len(m.Answer), soa)
		}
	}
	if n := s.Count("www.a.example.test", "*"); n != 2 {
		t.Errorf("%d questions counted", n)
	}
}

// update sends a dynamic update, signed if key is not empty.
func update(t *testing.T, s *dnstest.Server, key string, fill func(*dns.Msg)) int {
	t.Helper()
	m := new(dns.Msg).SetUpdate("example.test.")
	fill(m)
	c := new(dns.Client)
	if key != "" {
		c.TsigSecret = map[string]string{"key.": key}
		m.SetTsig("key.", dns.HmacSHA256, 300, time.Now().Unix())
	}
	r, _, err := c.Exchange(m, s.Addr())
	if r == nil {
		t.Fatal(err)
	}
	return r.Rcode
}

// The DNS plug-ins of ACME clients publish by RFC 2136 with a TSIG key.
func TestDynamicUpdates(t *testing.T) {
	s, err := dnstest.New(dnstest.Options{TSIGs: map[string]string{"key.": secret}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	one, _ := dns.NewRR("_acme-challenge.example.test. 60 IN TXT one")
	two, _ := dns.NewRR("_acme-challenge.example.test. 60 IN TXT two")
	count := func() int { return len(ask(t, s, one.Header().Name, dns.TypeTXT).Answer) }
	add := func(m *dns.Msg) { m.Insert([]dns.RR{one, two}) }
	if rcode := update(t, s, "", add); rcode != dns.RcodeRefused || count() != 0 {
		t.Errorf("without a key: rcode %d, %d records", rcode, count())
	}
	if rcode := update(t, s, "d3Jvbmc=", add); rcode == dns.RcodeSuccess || count() != 0 {
		t.Errorf("wrong key: rcode %d, %d records", rcode, count())
	}
	if rcode := update(t, s, secret, add); rcode != dns.RcodeSuccess || count() != 2 {
		t.Errorf("add: rcode %d, %d records", rcode, count())
	}
	if rcode := update(t, s, secret, func(m *dns.Msg) { m.Remove([]dns.RR{dns.Copy(one)}) }); rcode != dns.RcodeSuccess || count() != 1 {
		t.Errorf("remove one: rcode %d, %d records", rcode, count())
	}
	if rcode := update(t, s, secret, func(m *dns.Msg) { m.RemoveRRset([]dns.RR{dns.Copy(two)}) }); rcode != dns.RcodeSuccess || count() != 0 {
		t.Errorf("remove all: rcode %d, %d records", rcode, count())
	}
}

func TestFaultsEnd(t *testing.T) {
	s := dnstest.Start(t)
	s.Add("x.test. 60 IN A 192.0.2.1")
	s.Fail("x.test", "A", dnstest.Fault{Rcode: dns.RcodeServerFailure, Times: 2})
	for i, want := range []int{dns.RcodeServerFailure, dns.RcodeServerFailure, dns.RcodeSuccess, dns.RcodeSuccess} {
		if m := ask(t, s, "x.test.", dns.TypeA); m.Rcode != want {
			t.Errorf("question %d: rcode %d, want %d", i, m.Rcode, want)
		}
	}
	s.Fail("x.test", "*", dnstest.Fault{Truncate: true})
	if m := ask(t, s, "x.test.", dns.TypeA); !m.Truncated || len(m.Answer) != 0 {
		t.Errorf("truncated %v with %d answers", m.Truncated, len(m.Answer))
	}
	s.Fail("x.test", "*", dnstest.Fault{})
	if m := ask(t, s, "x.test.", dns.TypeA); m.Truncated || len(m.Answer) != 1 {
		t.Errorf("after the fault: truncated %v, %d answers", m.Truncated, len(m.Answer))
	}
}
