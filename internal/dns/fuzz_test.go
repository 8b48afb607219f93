package dns

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// FuzzParse feeds hostile messages to the reader of answers: it must not
// panic, must obey its bounds, and must say records or failure, never both.
func FuzzParse(f *testing.F) {
	for _, rr := range []string{"a.test. 60 IN A 192.0.2.1", "a.test. 60 IN CNAME b.test.", `a.test. 60 IN TXT "x\000" "y"`,
		`a.test. 60 IN CAA 128 issue ";"`, "a.test. 60 IN AAAA ::ffff:127.0.0.1", "a.test. 60 IN CNAME a.test."} {
		r, err := dns.NewRR(rr)
		if err != nil {
			f.Fatal(err)
		}
		m := new(dns.Msg).SetQuestion("a.test.", r.Header().Rrtype)
		m.Response = true
		m.Answer = append(m.Answer, r)
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, r.Header().Rrtype)
	}
	f.Fuzz(func(t *testing.T, msg []byte, qtype uint16) {
		q := question{"a.test", qtype}
		newQuery(q, true, true).compare(msg)
		a := parse(msg, q, 100)
		if a.ttl < 0 || a.ttl > maxTTL || a.count() > 100 || len(a.chain) > maxLinks {
			t.Errorf("bounds: %+v", a)
		}
		outcomes := 0
		for _, is := range []bool{a.count() > 0, a.class != "", a.next != ""} {
			if is {
				outcomes++
			}
		}
		if outcomes != 1 {
			t.Errorf("%d outcomes: %+v", outcomes, a)
		}
	})
}

func FuzzUnescape(f *testing.F) {
	f.Add(`a\001\"\\`)
	f.Add(`\99`)
	f.Fuzz(func(t *testing.T, s string) {
		if len(unescape(s)) > len(s) {
			t.Error("longer than before")
		}
	})
}

// The hand-written query must be what miekg/dns would have packed.
func TestQueryIsWellFormed(t *testing.T) {
	longest := strings.Repeat("abcdefg.", 31) + "abcde" // 253 octets
	for _, name := range []string{"test", "www.example.test", "_acme-challenge.a-b.example.test", longest} {
		for _, edns := range []bool{true, false} {
			if normalize(name) != name {
				t.Fatalf("%q is not normal", name)
			}
			got := newQuery(question{name, dns.TypeCAA}, edns, false)
			want := new(dns.Msg).SetQuestion(name+".", dns.TypeCAA)
			want.Id = uint16(got.msg[0])<<8 | uint16(got.msg[1])
			if edns {
				want.SetEdns0(ednsSize, false)
			}
			packed, err := want.Pack()
			if err != nil || !bytes.Equal(packed, got.msg) {
				t.Errorf("%s, edns %v: %x, want %x (%v)", name, edns, got.msg, packed, err)
			}
			var mixed dns.Msg
			if err := mixed.Unpack(newQuery(question{name, dns.TypeCAA}, edns, true).msg); err != nil || plain(mixed.Question[0].Name) != name {
				t.Errorf("mixed %s: %v, %v", name, mixed.Question, err)
			}
		}
	}
}

// An answer is only as good as its question: every other octet string with the
// right id must be ignored or doubted.
func TestCompareAcceptsOnlyTheExactQuestion(t *testing.T) {
	w := newQuery(question{"www.example.test", dns.TypeA}, true, false)
	reply := append([]byte(nil), w.msg...)
	reply[2] |= 0x80
	if got := w.compare(reply); got != good {
		t.Fatalf("the answer itself: %v", got)
	}
	for i := range headerSize + len(w.section) {
		if i == 3 || i >= 6 && i < headerSize { // flags that may differ, counts
			continue
		}
		for bit := range 8 {
			bad := append([]byte(nil), reply...)
			bad[i] ^= 1 << bit
			if got := w.compare(bad); got == good && !(i == 2 && bit != 7 && bit < 3) {
				t.Errorf("octet %d bit %d flipped: taken", i, bit)
			}
		}
	}
}

func TestWornSocketsAreReplaced(t *testing.T) {
	s := &socket{born: time.Now().Add(-socketAge), waiters: map[uint16]*waiter{}}
	w := newQuery(question{"x.test", dns.TypeA}, false, false)
	if s.take(&waiter{query: w}) {
		t.Error("an old socket carries a query")
	}
	s.born, s.sent = time.Now(), socketQueries
	if s.take(&waiter{query: w}) {
		t.Error("a much used socket carries a query")
	}
}
