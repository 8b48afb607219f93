package challenge

import (
	"bufio"
	"crypto/sha256"
	"net/netip"
	"strings"
	"testing"
	"time"

	"chancery/internal/dns"
)

// FuzzReadResponse feeds hostile octets to the reader of http-01 responses.
func FuzzReadResponse(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
		"HTTP/1.1 302 Found\r\nLocation: http://a.test/\r\n\r\n",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 OK\r\n\r\nx",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := readResponse(bufio.NewReader(strings.NewReader(s)))
		if err != nil && (r.body != nil || r.next != "" || r.status != 0) {
			t.Error("a response came with an error")
		}
		if len(r.body) > maxBody+1 {
			t.Errorf("%d octets of body", len(r.body))
		}
		if r.matches("key", Step{}) == nil && (r.status != 200 || strings.TrimRight(string(r.body), trailingAllowed) != "key") {
			t.Errorf("%+v matches", r)
		}
	})
}

// FuzzRedirect checks what may be dialled after a redirect: names, two ports,
// a request line of one line.
func FuzzRedirect(f *testing.F) {
	for _, s := range []string{"/x", "//b.test/", "https://b.test:443/x?y#z", "http://127.0.0.1/", "http://[::1]/", "http://u@b.test", "http://a\r\n.test"} {
		f.Add(s)
	}
	v := NewHTTP01(Config{})
	at := location{scheme: "http", host: host{name: "a.test"}, port: 80, uri: "/"}
	f.Fuzz(func(t *testing.T, raw string) {
		to, err := v.redirect(at, raw, host{name: "a.test"})
		if err != nil {
			for _, c := range err.Error() {
				if c < ' ' || c > '~' || c == '<' {
					t.Errorf("error text %q", err)
				}
			}
			return
		}
		if to.port != 80 && to.port != 443 || to.scheme != "http" && to.scheme != "https" || to.host.addr.IsValid() {
			t.Errorf("%q leads to %+v", raw, to)
		}
		if _, err := netip.ParseAddr(to.host.name); err == nil || !isHostName(to.host.name) {
			t.Errorf("%q leads to the host %q", raw, to.host.name)
		}
		if n := strings.Count(v.request(to), "\r\n"); n != 7 || strings.Count(v.request(to), "\n") != 7 {
			t.Errorf("%q makes a request of %d lines", raw, n)
		}
	})
}

// FuzzParseIssue checks that the CAA reader never finds a domain that is not
// there, and that a record of another CA never permits.
func FuzzParseIssue(f *testing.F) {
	for _, s := range []string{"ca.test", ";", "ca.test; accounturi=x", " ca.test ;validationmethods=a,b;", "ca.test;=", "ca.test\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, ok := parseIssue(s)
		if !ok && (v.domain != "" || v.params != nil) {
			t.Errorf("%q: a value came with a refusal", s)
		}
		if ok && v.domain != "" && !strings.Contains(strings.ToLower(s), v.domain) {
			t.Errorf("%q names %q", s, v.domain)
		}
		set := []dns.CAARecord{{Tag: "issue", Value: s}}
		if refusal(set, []string{"ca.test"}, "issue", HTTP01, "x") == "" && !strings.HasPrefix(strings.Trim(strings.ToLower(s), wsp), "ca.test") {
			t.Errorf("%q permits", s)
		}
	})
}

// FuzzACMEIdentifier checks that exactly one encoding of a digest is taken.
func FuzzACMEIdentifier(f *testing.F) {
	sum := sha256.Sum256(nil)
	f.Add(append([]byte{4, 32}, sum[:]...))
	f.Add([]byte{4, 0x81, 32})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, der []byte) {
		got, ok := parseACMEIdentifier(der)
		if want := len(der) == 34 && der[0] == 4 && der[1] == 32; ok != want || ok && string(got) != string(der[2:]) {
			t.Errorf("%x: %v", der, ok)
		}
	})
}

func FuzzQuote(f *testing.F) {
	f.Add("<b>\x1b\u202e\"")
	f.Fuzz(func(t *testing.T, s string) {
		q := quote(s)
		if len(q) > 10*maxQuote+5 {
			t.Errorf("%d octets", len(q))
		}
		for _, c := range q {
			if c < ' ' || c > '~' || c == '<' || c == '>' || c == '&' {
				t.Errorf("%q", q)
			}
		}
	})
}

// FuzzPersistRecord feeds hostile records to the judge of dns-persist-01: only
// the one accounturi authorizes, and only as long as the record says.
func FuzzPersistRecord(f *testing.F) {
	terms := &Persist{Issuers: []string{"ca.test"}, HashPrefix: "https://ca.test/h/", Thumbprints: []string{"k"}}
	uri := AccountHashURI(terms.HashPrefix, "a.test", "k", "https://ca.test/1")
	for _, s := range []string{
		"ca.test; accounturi=" + uri, "ca.test; accounturi=" + uri + "; policy=wildcard; persistUntil=1", "ca.test;persistUntil=-1",
		"ca.test; accounturi=" + uri + "; accounturi=" + uri, ";;=;", "ca.test; accounturi = " + uri + " ; persistUntil=99999999999999999999",
	} {
		f.Add(s)
	}
	now := time.Unix(2_000_000_000, 0)
	f.Fuzz(func(t *testing.T, s string) {
		r, ok := parseIssue(s)
		if !ok {
			return
		}
		until, err := r.persists(terms, terms.accountURIs("a.test", "https://ca.test/1"), true, now)
		if err != nil {
			if !until.IsZero() {
				t.Error("an instant came with an error")
			}
			return
		}
		lower := strings.ToLower(s)
		if !strings.Contains(s, uri) || !strings.Contains(lower, "wildcard") || !until.IsZero() && now.After(until) {
			t.Errorf("%q authorizes", s)
		}
		if _, err := until.MarshalJSON(); err != nil {
			t.Error(err)
		}
	})
}
