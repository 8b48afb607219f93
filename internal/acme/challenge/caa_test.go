package challenge_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/acme/challenge"
	"chancery/internal/dns/dnstest"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

// record returns a CAA record of example.test in zone-file form.
func record(flags int, tag, value string) string {
	var escaped strings.Builder
	for _, c := range []byte(value) {
		if c < ' ' || c > '~' || c == '"' || c == '\\' {
			fmt.Fprintf(&escaped, `\%03d`, c)
			continue
		}
		escaped.WriteByte(c)
	}
	return fmt.Sprintf(`example.test. 60 IN CAA %d %s "%s"`, flags, tag, escaped.String())
}

func checker(t testing.TB, w *world, domains ...string) *challenge.CAAChecker {
	t.Helper()
	k, err := challenge.NewCAA(challenge.CAAConfig{Resolver: w.cfg.Resolver, Domains: domains})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func issue(v string) string     { return record(0, "issue", v) }
func issueWild(v string) string { return record(0, "issuewild", v) }

func TestCAADecisions(t *testing.T) {
	for label, c := range map[string]struct {
		zone       []string
		name, wild bool // is example.test, is *.example.test permitted
	}{
		"no records":              {nil, true, true},
		"ours":                    {[]string{issue("ca.test")}, true, true},
		"our other domain":        {[]string{issue("alias.test")}, true, true},
		"ours in other case":      {[]string{record(0, "ISSUE", "CA.Test")}, true, true},
		"ours among others":       {[]string{issue("other.test"), issue("ca.test")}, true, true},
		"ours with white space":   {[]string{issue(" \tca.test\t ; \t")}, true, true},
		"another CA":              {[]string{issue("other.test")}, false, false},
		"longer domain":           {[]string{issue("x.ca.test")}, false, false},
		"shorter domain":          {[]string{issue("test")}, false, false},
		"nobody":                  {[]string{issue(";")}, false, false},
		"nobody, empty value":     {[]string{issue("")}, false, false},
		"nobody, with parameters": {[]string{issue("; a=b")}, false, false},
		"nobody and ours":         {[]string{issue(";"), issue("ca.test")}, true, true},
		"wild nobody":             {[]string{issueWild(";")}, true, false},
		"wild ours":               {[]string{issueWild("ca.test")}, true, true},
		"wild another":            {[]string{issueWild("other.test")}, true, false},
		"ours, wild nobody":       {[]string{issue("ca.test"), issueWild(";")}, true, false},
		"nobody, wild ours":       {[]string{issue(";"), issueWild("ca.test")}, false, true},
		"another, wild ours":      {[]string{issue("other.test"), issueWild("ca.test")}, false, true},
		"only iodef":              {[]string{record(0, "iodef", "mailto:a@b.test")}, true, true},
		"critical iodef":          {[]string{record(128, "iodef", "mailto:a@b.test")}, true, true},
		"critical issue":          {[]string{record(128, "issue", "ca.test")}, true, true},
		"only mail":               {[]string{record(128, "issuemail", ";")}, true, true},
		"unknown":                 {[]string{record(0, "tbs", "x")}, true, true},
		"unknown, reserved bit":   {[]string{record(1, "tbs", "x")}, true, true},
		"unknown critical":        {[]string{record(128, "tbs", "x")}, false, false},
		"unknown critical, ours":  {[]string{issue("ca.test"), record(128, "tbs", "x")}, false, false},
		"unknown crit. and bits":  {[]string{issue("ca.test"), record(255, "tbs", "x")}, false, false},
		"account":                 {[]string{issue("ca.test; accounturi=" + account)}, true, true},
		"account, spaces":         {[]string{issue("ca.test ; accounturi \t= \t" + account + " ")}, true, true},
		"account, tag case":       {[]string{issue("ca.test; AccountURI=" + account)}, true, true},
		"other account":           {[]string{issue("ca.test; accounturi=" + account + "1")}, false, false},
		"account in other case":   {[]string{issue("ca.test; accounturi=" + strings.ToUpper(account))}, false, false},
		"empty account":           {[]string{issue("ca.test; accounturi=")}, false, false},
		"account twice":           {[]string{issue("ca.test; accounturi=" + account + "; accounturi=" + account)}, false, false},
		"other account, plain":    {[]string{issue("ca.test; accounturi=x"), issue("ca.test")}, true, true},
		"method":                  {[]string{issue("ca.test; validationmethods=dns-01")}, true, true},
		"methods":                 {[]string{issue("ca.test; validationmethods=http-01,dns-01")}, true, true},
		"other method":            {[]string{issue("ca.test; validationmethods=http-01")}, false, false},
		"method prefix":           {[]string{issue("ca.test; validationmethods=dns-011")}, false, false},
		"no method":               {[]string{issue("ca.test; validationmethods=")}, false, false},
		"methods twice":           {[]string{issue("ca.test; validationmethods=dns-01; validationmethods=dns-01")}, false, false},
		"account and method":      {[]string{issue("ca.test; accounturi=" + account + "; validationmethods=dns-01")}, true, true},
		"account, other method":   {[]string{issue("ca.test; accounturi=" + account + "; validationmethods=http-01")}, false, false},
		"split conditions":        {[]string{issue("ca.test; accounturi=x; validationmethods=dns-01"), issue("ca.test; accounturi=" + account + "; validationmethods=http-01")}, false, false},
		"foreign parameter":       {[]string{issue("ca.test; policy=ev")}, true, true},
		"wild with account":       {[]string{issue("ca.test"), issueWild("ca.test; accounturi=x")}, true, false},
		// RFC 8659 section 4.2: what does not follow the grammar permits nobody.
		"no equals sign":        {[]string{issue("ca.test; accounturi")}, false, false},
		"no semicolon":          {[]string{issue("ca.test accounturi=" + account)}, false, false},
		"trailing semicolon":    {[]string{issue("ca.test; a=b;")}, false, false},
		"comma":                 {[]string{issue("ca.test, other.test")}, false, false},
		"space in value":        {[]string{issue("ca.test; a=b c")}, false, false},
		"tag with underscore":   {[]string{issue("ca.test; a_b=c")}, false, false},
		"quoted":                {[]string{issue(`"ca.test"`)}, false, false},
		"final dot":             {[]string{issue("ca.test.")}, false, false},
		"hyphen at the end":     {[]string{issue("ca.test-")}, false, false},
		"malformed beside ours": {[]string{issue("%%%"), issue("ca.test")}, true, true},
	} {
		t.Run(label, func(t *testing.T) {
			w := newWorld(t)
			w.dns.Add(c.zone...)
			k := checker(t, w, "ca.test", "Alias.test")
			for id, want := range map[pki.Identifier]bool{name("example.test"): c.name, name("*.example.test"): c.wild, name("a.b.example.test"): c.name} {
				got, err := k.Check(t.Context(), id, challenge.DNS01, account)
				if want && (err != nil || !got.Covers(id, challenge.DNS01, account, time.Now(), time.Hour)) {
					t.Errorf("%s: %v, want it permitted", id, err)
				}
				if !want && (!fault.Is(err, fault.CAA) || got.Covers(id, challenge.DNS01, account, time.Now(), time.Hour)) {
					t.Errorf("%s: %v, want it refused", id, err)
				}
			}
		})
	}
}

// EJBCA: issue ";" was ignored when there was no issuewild.
func TestHistoryIssueNobodyWithoutIssueWild(t *testing.T) {
	w := newWorld(t)
	w.dns.Add(issue(";"))
	k := checker(t, w, "ca.test")
	for _, n := range []string{"example.test", "*.example.test", "www.example.test", "*.www.example.test"} {
		if _, err := k.Check(t.Context(), name(n), challenge.DNS01, account); !fault.Is(err, fault.CAA) {
			t.Errorf("%s: %v, want it refused", n, err)
		}
	}
}

// OpenBao 2024, for CAA: an empty list of own domains must not mean every domain.
func TestCAAWithoutOwnDomainsRefusesEveryIssue(t *testing.T) {
	w := newWorld(t)
	w.dns.Add(issue(""))
	k := checker(t, w)
	if _, err := k.Check(t.Context(), name("example.test"), challenge.DNS01, account); !fault.Is(err, fault.CAA) {
		t.Errorf("%v, want it refused: an empty domain matches nobody", err)
	}
	if _, err := k.Check(t.Context(), name("free.test"), challenge.DNS01, account); err != nil {
		t.Errorf("a name without records: %v", err)
	}
}

// SERVFAIL and silence are never permission.
func TestCAALookupFailureRefuses(t *testing.T) {
	for label, f := range map[string]dnstest.Fault{"servfail": {Rcode: 2}, "refused": {Rcode: 5}, "notimp": {Rcode: 4}, "silent": {Drop: true}} {
		for _, at := range []string{"www.example.test", "example.test", "test"} {
			w := newWorld(t)
			w.dns.Add("www.example.test. 60 IN A 127.0.0.1")
			w.dns.Fail(at, "CAA", f)
			got, err := checker(t, w, "ca.test").Check(t.Context(), name("www.example.test"), challenge.HTTP01, account)
			if !fault.Is(err, fault.DNS) || got.Covers(name("www.example.test"), challenge.HTTP01, account, time.Now(), time.Hour) {
				t.Errorf("%s at %s: %v", label, at, err)
			}
		}
	}
}

func TestCAARefusalNamesTheRecords(t *testing.T) {
	w := newWorld(t)
	w.dns.Add(issue("<other>.test"), record(0, "issuewild", "x\x1by"))
	_, err := checker(t, w, "ca.test").Check(t.Context(), name("www.example.test"), challenge.DNS01, account)
	var f *fault.Error
	if !errors.As(err, &f) {
		t.Fatal(err)
	}
	for _, part := range []string{"records at example.test", "www.example.test", `0 issue "\x3cother\x3e.test"`, `"x\x1by"`, "no issue property names this CA"} {
		if !strings.Contains(f.Detail, part) {
			t.Errorf("detail %q lacks %q", f.Detail, part)
		}
	}
}

func TestCAAManyRecords(t *testing.T) {
	w := newWorld(t)
	for i := range 300 {
		w.dns.Add(issue(fmt.Sprintf("other%d.test", i)))
	}
	k := checker(t, w, "ca.test")
	_, err := k.Check(t.Context(), name("example.test"), challenge.DNS01, account)
	if !fault.Is(err, fault.CAA) || len(fault.As(err).Detail) > 1000 {
		t.Errorf("%v", err)
	}
}

func TestCAAClearance(t *testing.T) {
	w := newWorld(t)
	w.dns.Add(issue("ca.test"))
	at := time.Unix(1_800_000_000, 0)
	k, err := challenge.NewCAA(challenge.CAAConfig{Resolver: w.cfg.Resolver, Domains: []string{"ca.test"}, Now: func() time.Time { return at }})
	if err != nil {
		t.Fatal(err)
	}
	c, err := k.Check(t.Context(), name("www.example.test"), challenge.DNS01, account)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{`0 issue "ca.test"`}, c.Records()); diff != "" || c.Found() != "example.test" || !c.At().Equal(at) {
		t.Errorf("clearance of %q at %v (-want +got):\n%s", c.Found(), c.At(), diff)
	}
	const h = time.Hour
	www := name("www.example.test")
	for label, ok := range map[string]bool{
		"itself":         c.Covers(www, challenge.DNS01, account, at.Add(7*h), 7*h),
		"too old":        !c.Covers(www, challenge.DNS01, account, at.Add(7*h+1), 7*h),
		"in the future":  !c.Covers(www, challenge.DNS01, account, at.Add(-1), 7*h),
		"other name":     !c.Covers(name("example.test"), challenge.DNS01, account, at, h),
		"wildcard":       !c.Covers(name("*.www.example.test"), challenge.DNS01, account, at, h),
		"other method":   !c.Covers(www, challenge.HTTP01, account, at, h),
		"other account":  !c.Covers(www, challenge.DNS01, account+"1", at, h),
		"zero clearance": !challenge.Clearance{}.Covers(pki.Identifier{}, "", "", time.Time{}, h),
	} {
		if !ok {
			t.Errorf("%s: covers wrongly", label)
		}
	}
	s, err := challenge.NewSealer(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := s.SealClearance(c)
	if err != nil {
		t.Fatal(err)
	}
	back, err := s.OpenClearance(sealed)
	if err != nil || !back.Covers(www, challenge.DNS01, account, at, h) {
		t.Errorf("opened: %v", err)
	}
	if p, err := s.Open(sealed); err == nil || p.Valid() {
		t.Error("a clearance opened as a proof")
	}
	if b, err := json.Marshal(c); err != nil || !strings.Contains(string(b), `"found":"example.test"`) {
		t.Errorf("%s, %v", b, err)
	}
}

// RFC 8738 section 7: addresses have no CAA records.
func TestCAAForAddresses(t *testing.T) {
	w := newWorld(t)
	k := checker(t, w, "ca.test")
	if c, err := k.Check(t.Context(), ip("192.0.2.1"), challenge.HTTP01, account); err != nil || !c.Covers(ip("192.0.2.1"), challenge.HTTP01, account, time.Now(), time.Hour) {
		t.Errorf("%v", err)
	}
	if n := len(w.dns.Queries()); n != 0 {
		t.Errorf("%d queries", n)
	}
	if _, err := k.Check(t.Context(), pki.Identifier{Type: "uri", Value: "a@b.test"}, challenge.DNS01, account); !fault.Is(err, fault.UnsupportedIdentifier) {
		t.Errorf("unknown type: %v", err)
	}
}

func TestNewCAARefusesBadDomains(t *testing.T) {
	for _, d := range []string{"", "ca.test.", "ca test", "ca;test", "-ca.test"} {
		if _, err := challenge.NewCAA(challenge.CAAConfig{Domains: []string{d}}); err == nil {
			t.Errorf("%q accepted", d)
		}
	}
}
