package dns_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	mdns "github.com/miekg/dns"

	"chancery/internal/dns"
	"chancery/internal/dns/dnstest"
)

// clock is a settable time, so that a TTL runs out without waiting.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// start returns a server, a resolver that asks it, and the resolver's clock.
func start(t testing.TB, cfg dns.Config) (*dnstest.Server, *dns.Resolver, *clock) {
	t.Helper()
	s := dnstest.Start(t)
	c := &clock{now: time.Unix(1_800_000_000, 0)}
	cfg.Servers = append([]string{s.Addr()}, cfg.Servers...)
	cfg.Now = c.Now
	r, err := dns.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return s, r, c
}

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

var sameAddr = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func TestAddrsAsksBothFamiliesAndPutsIPv6First(t *testing.T) {
	s, r, _ := start(t, dns.Config{})
	s.Add("www.example.test. 300 IN A 192.0.2.1", "www.example.test. 120 IN AAAA 2001:db8::1", "www.example.test. 300 IN A 192.0.2.2")
	got, err := r.Addrs(t.Context(), "WWW.Example.test.")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(addrs("2001:db8::1", "192.0.2.1", "192.0.2.2"), got.Addrs, sameAddr); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
	if got.TTL != 120*time.Second {
		t.Errorf("TTL = %v, want the smaller one of both families, 2m", got.TTL)
	}
}

func TestAddrsOneFamilyIsEnough(t *testing.T) {
	s, r, _ := start(t, dns.Config{})
	s.Add("v4.test. 60 IN A 192.0.2.1", "half.test. 60 IN A 192.0.2.2")
	s.Fail("half.test", "AAAA", dnstest.Fault{Rcode: mdns.RcodeServerFailure})
	got, err := r.Addrs(t.Context(), "v4.test")
	if err != nil || got.Partial != nil {
		t.Errorf("v4 only: err %v, partial %v; want neither: NODATA is no failure", err, got.Partial)
	}
	got, err = r.Addrs(t.Context(), "half.test")
	if err != nil || dns.ClassOf(got.Partial) != dns.ServFail {
		t.Errorf("AAAA fails: err %v, partial %v; want addresses and the failure noted", err, got.Partial)
	}
}

// A failure of one family must not hide behind the other's plain absence.
func TestAddrsReportsTheFailureNotTheAbsence(t *testing.T) {
	s, r, _ := start(t, dns.Config{})
	s.Add("x.test. 60 IN TXT x")
	s.Fail("x.test", "AAAA", dnstest.Fault{Rcode: mdns.RcodeServerFailure})
	if _, err := r.Addrs(t.Context(), "x.test"); dns.ClassOf(err) != dns.ServFail {
		t.Errorf("class %q, want servfail", dns.ClassOf(err))
	}
}

func TestFailureClasses(t *testing.T) {
	s, r, _ := start(t, dns.Config{Timeout: 500 * time.Millisecond, Attempts: 1})
	s.Add("nodata.test. 60 IN A 192.0.2.1", "formerr.test. 60 IN TXT x")
	s.Fail("servfail.test", "*", dnstest.Fault{Rcode: mdns.RcodeServerFailure})
	s.Fail("refused.test", "*", dnstest.Fault{Rcode: mdns.RcodeRefused})
	s.Fail("notimp.test", "*", dnstest.Fault{Rcode: mdns.RcodeNotImplemented})
	s.Fail("silent.test", "*", dnstest.Fault{Drop: true})
	s.Fail("garbage.test", "*", dnstest.Fault{Raw: garbage})
	s.Fail("formerr.test", "TXT", dnstest.Fault{NoEDNS: true})
	for _, c := range []struct {
		name string
		want dns.Class
	}{
		{"absent.test", dns.NXDomain},
		{"nodata.test", dns.NoData},
		{"servfail.test", dns.ServFail},
		{"notimp.test", dns.ServFail},
		{"refused.test", dns.Refused},
		{"silent.test", dns.Timeout},
		{"garbage.test", dns.Malformed},
		{"formerr.test", ""}, // an old server that does not know EDNS is asked without
		{"", dns.BadName},
		{"192.0.2.1", dns.BadName},
		{"a..test", dns.BadName},
		{"*.test", dns.BadName},
		{"sp ace.test", dns.BadName},
		{strings.Repeat("a", 64) + ".test", dns.BadName},
		{strings.Repeat("a.", 127) + "test", dns.BadName},
	} {
		_, err := r.TXT(t.Context(), c.name)
		if got := dns.ClassOf(err); got != c.want {
			t.Errorf("TXT %q: class %q (%v), want %q", c.name, got, err, c.want)
		}
	}
}

// garbage is an answer whose question is right and whose record is cut off.
func garbage(q *mdns.Msg) []byte {
	m := new(mdns.Msg).SetReply(q)
	b, _ := m.Pack()
	b[7] = 1 // one answer is announced
	return append(b, 0xc0)
}

func TestTXTJoinsStringsAndKeepsOctets(t *testing.T) {
	s, r, _ := start(t, dns.Config{})
	s.Add(`t.test. 60 IN TXT "abc" "d\"e\\f" "\001\200"`, "t.test. 60 IN TXT second")
	got, err := r.TXT(t.Context(), "t.test")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"abcd\"e\\f\x01\xc8", "second"}, got.Records); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}

func TestTruncatedAnswerIsAskedOverTCP(t *testing.T) {
	s, r, _ := start(t, dns.Config{})
	for i := range 200 {
		s.Add(fmt.Sprintf("big.test. 60 IN TXT %s%d", strings.Repeat("x", 100), i))
	}
	got, err := r.TXT(t.Context(), "big.test")
	if err != nil || len(got.Records) != 200 {
		t.Fatalf("%d records, err %v; want all 200", len(got.Records), err)
	}
	if q := s.Queries(); len(q) != 2 || q[0].TCP || !q[1].TCP {
		t.Errorf("queries %+v, want UDP then TCP", q)
	}
}

func TestTooManyRecordsAreRefused(t *testing.T) {
	s, r, _ := start(t, dns.Config{MaxRecords: 50})
	for i := range 51 {
		s.Add(fmt.Sprintf("big.test. 60 IN TXT %d", i))
	}
	if _, err := r.TXT(t.Context(), "big.test"); dns.ClassOf(err) != dns.Malformed {
		t.Errorf("class %q, want malformed", dns.ClassOf(err))
	}
}

func TestAliasChain(t *testing.T) {
	for _, partial := range []bool{false, true} {
		t.Run(fmt.Sprintf("partial=%v", partial), func(t *testing.T) {
			s, r, c := start(t, dns.Config{})
			s.Partial(partial)
			s.Add("a.test. 300 IN CNAME B.test.", "b.test. 20 IN CNAME c.test.", "c.test. 600 IN TXT found")
			got, err := r.TXT(t.Context(), "a.test")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{"b.test", "c.test"}, got.Chain); diff != "" {
				t.Errorf("chain (-want +got):\n%s", diff)
			}
			if got.TTL != 20*time.Second {
				t.Errorf("TTL %v, want that of the shortest link, 20s", got.TTL)
			}
			s.Forget()
			c.advance(19 * time.Second)
			if _, err := r.TXT(t.Context(), "a.test"); err != nil || len(s.Queries()) != 0 {
				t.Errorf("19 s later: %d queries, err %v; want the cache", len(s.Queries()), err)
			}
			c.advance(time.Second)
			if _, err := r.TXT(t.Context(), "a.test"); err != nil || len(s.Queries()) == 0 {
				t.Errorf("20 s later: %d queries, err %v; want a new question", len(s.Queries()), err)
			}
		})
	}
}

func TestAliasesThatLeadNowhere(t *testing.T) {
	s, r, _ := start(t, dns.Config{})
	s.Add("self.test. 60 IN CNAME self.test.",
		"x.test. 60 IN CNAME y.test.", "y.test. 60 IN CNAME x.test.",
		"two.test. 60 IN CNAME y.test.", "two.test. 60 IN CNAME z.test.",
		"dead.test. 60 IN CNAME gone.test.",
		`odd.test. 60 IN CNAME sp\032ace.test.`)
	for i := range 20 {
		s.Add(fmt.Sprintf("n%d.test. 60 IN CNAME n%d.test.", i, i+1))
	}
	s.Add("n20.test. 60 IN TXT end")
	for _, partial := range []bool{false, true} {
		s.Partial(partial)
		for name, want := range map[string]dns.Class{
			"self.test": dns.Malformed, "x.test": dns.Malformed, "two.test": dns.Malformed,
			"n0.test": dns.Malformed, "odd.test": dns.Malformed, "dead.test": dns.NXDomain,
		} {
			_, err := r.Session(dns.Limits{MaxAge: dns.NoCache}).TXT(t.Context(), name)
			if dns.ClassOf(err) != want {
				t.Errorf("partial=%v %s: %v, want %s", partial, name, err, want)
			}
		}
	}
}

func TestNegativeAnswersLiveAsTheSOASays(t *testing.T) {
	for _, c := range []struct {
		soa  int
		want time.Duration
	}{{30, 30 * time.Second}, {86400, 5 * time.Minute}, {-1, 5 * time.Second}} {
		s, r, clk := start(t, dns.Config{})
		s.NegativeTTL(c.soa)
		ask := func() int {
			s.Forget()
			if _, err := r.TXT(t.Context(), "absent.test"); dns.ClassOf(err) != dns.NXDomain {
				t.Fatal(err)
			}
			return len(s.Queries())
		}
		if n := ask(); n != 1 {
			t.Errorf("soa %d: first %d queries", c.soa, n)
		}
		clk.advance(c.want - time.Second)
		if n := ask(); n != 0 {
			t.Errorf("soa %d: asked again before %v", c.soa, c.want)
		}
		clk.advance(time.Second)
		if n := ask(); n != 1 {
			t.Errorf("soa %d: not asked again after %v", c.soa, c.want)
		}
	}
}

func TestFailuresAreRememberedFiveSeconds(t *testing.T) {
	s, r, clk := start(t, dns.Config{})
	s.Add("x.test. 60 IN TXT x")
	s.Fail("x.test", "TXT", dnstest.Fault{Rcode: mdns.RcodeServerFailure, Times: 1})
	for i, want := range []dns.Class{dns.ServFail, dns.ServFail, ""} {
		if i == 2 {
			clk.advance(5 * time.Second)
		}
		if _, err := r.TXT(t.Context(), "x.test"); dns.ClassOf(err) != want {
			t.Errorf("lookup %d: %v, want %q", i, err, want)
		}
	}
}

func TestZeroTTLIsNotKept(t *testing.T) {
	s, r, _ := start(t, dns.Config{})
	s.Add("x.test. 0 IN TXT x")
	for range 2 {
		if _, err := r.TXT(t.Context(), "x.test"); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.Count("x.test", "TXT"); n != 2 {
		t.Errorf("%d queries, want 2", n)
	}
}

// Validation must see the present: no positive, negative or failed answer of
// the past may decide it.
func TestSessionAge(t *testing.T) {
	s, r, clk := start(t, dns.Config{})
	fresh := func() *dns.Session { return r.Session(dns.Limits{MaxAge: dns.NoCache}) }
	second := func() *dns.Session { return r.Session(dns.Limits{MaxAge: time.Second}) }
	if _, err := fresh().TXT(t.Context(), "x.test"); dns.ClassOf(err) != dns.NXDomain {
		t.Fatal(err)
	}
	s.Add("x.test. 600 IN TXT one")
	if got, err := fresh().TXT(t.Context(), "x.test"); err != nil || got.Records[0] != "one" {
		t.Fatalf("after adding: %v, %v", got, err)
	}
	s.Remove("x.test")
	s.Add("x.test. 600 IN TXT two")
	if got, _ := second().TXT(t.Context(), "x.test"); got.Records[0] != "one" {
		t.Errorf("within a second: %q, want the answer just received", got.Records)
	}
	clk.advance(1001 * time.Millisecond)
	if got, _ := second().TXT(t.Context(), "x.test"); got.Records[0] != "two" {
		t.Errorf("after a second: %q, want a new answer", got.Records)
	}
	s.Fail("y.test", "TXT", dnstest.Fault{Rcode: mdns.RcodeServerFailure, Times: 1})
	s.Add("y.test. 60 IN TXT y")
	if _, err := second().TXT(t.Context(), "y.test"); dns.ClassOf(err) != dns.ServFail {
		t.Fatal(err)
	}
	if _, err := second().TXT(t.Context(), "y.test"); err != nil {
		t.Errorf("a failure was reused: %v", err)
	}
}

func TestBudgetCountsEveryQuery(t *testing.T) {
	s, r, _ := start(t, dns.Config{})
	s.Partial(true)
	s.Add("a.test. 60 IN CNAME b.test.", "b.test. 60 IN CNAME c.test.", "c.test. 60 IN TXT x")
	if _, err := r.Session(dns.Limits{MaxAge: dns.NoCache, Queries: 2}).TXT(t.Context(), "a.test"); dns.ClassOf(err) != dns.Exhausted {
		t.Errorf("2 queries: %v, want exhausted", err)
	}
	if n := len(s.Queries()); n != 2 {
		t.Errorf("%d queries sent, want 2", n)
	}
	if _, err := r.Session(dns.Limits{MaxAge: dns.NoCache, Queries: 3}).TXT(t.Context(), "a.test"); err != nil {
		t.Errorf("3 queries: %v", err)
	}
}

// One who waits for another's flight must not fail on the other's budget.
func TestForeignBudgetIsNotMine(t *testing.T) {
	s, r, _ := start(t, dns.Config{})
	s.Partial(true)
	s.Add("a.test. 60 IN CNAME b.test.", "b.test. 60 IN TXT x")
	hold := make(chan struct{})
	s.Fail("a.test", "TXT", dnstest.Fault{Hold: hold, Times: 1})
	poor := make(chan error, 1)
	go func() {
		_, err := r.Session(dns.Limits{Queries: 1}).TXT(context.Background(), "a.test")
		poor <- err
	}()
	waitFor(t, func() bool { return s.Count("a.test", "TXT") == 1 })
	rich := make(chan error, 1)
	go func() {
		_, err := r.TXT(context.Background(), "a.test")
		rich <- err
	}()
	close(hold)
	if err := <-poor; dns.ClassOf(err) != dns.Exhausted {
		t.Errorf("poor: %v", err)
	}
	if err := <-rich; err != nil {
		t.Errorf("rich: %v", err)
	}
}

// waitFor yields until cond holds.
func waitFor(t *testing.T, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !cond(); {
		if time.Now().After(end) {
			t.Fatal("condition never became true")
		}
		runtime.Gosched()
	}
}

func TestManyCallersOneQueryAndACallerMayLeave(t *testing.T) {
	s, r, _ := start(t, dns.Config{})
	s.Add("x.test. 60 IN TXT x")
	hold := make(chan struct{})
	s.Fail("x.test", "TXT", dnstest.Fault{Hold: hold})
	ctx, leave := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() { _, err := r.TXT(ctx, "x.test"); first <- err }()
	waitFor(t, func() bool { return s.Count("x.test", "TXT") == 1 })
	var all sync.WaitGroup
	for range 50 {
		all.Add(1)
		go func() {
			defer all.Done()
			if _, err := r.TXT(context.Background(), "x.test"); err != nil {
				t.Error(err)
			}
		}()
	}
	leave()
	if err := <-first; dns.ClassOf(err) != dns.Canceled || !errors.Is(err, context.Canceled) {
		t.Errorf("the one who left: %v", err)
	}
	close(hold)
	all.Wait()
	if n := s.Count("x.test", "TXT"); n != 1 {
		t.Errorf("%d queries, want 1", n)
	}
}

func TestForgedAnswersAreNotTaken(t *testing.T) {
	s, r, _ := start(t, dns.Config{})
	s.Add("id.test. 60 IN TXT true", "name.test. 60 IN TXT true", "casesensitive.test. 60 IN TXT true")
	s.Fail("id.test", "TXT", dnstest.Fault{WrongID: true})
	s.Fail("name.test", "TXT", dnstest.Fault{WrongName: true})
	s.Fail("casesensitive.test", "TXT", dnstest.Fault{NoCase: true})
	for _, name := range []string{"id.test", "name.test", "casesensitive.test"} {
		got, err := r.TXT(t.Context(), name)
		if err != nil || got.Records[0] != "true" {
			t.Errorf("%s: %v, %v", name, got.Records, err)
		}
	}
	tcp := map[string]bool{}
	for _, q := range s.Queries() {
		tcp[q.Name] = tcp[q.Name] || q.TCP
	}
	if diff := cmp.Diff(map[string]bool{"id.test": false, "name.test": true, "casesensitive.test": true}, tcp); diff != "" {
		t.Errorf("asked over TCP (-want +got):\n%s", diff)
	}
}

func TestQueriesAreHardToGuess(t *testing.T) {
	s, r, _ := start(t, dns.Config{})
	ids, ports, cases := map[uint16]bool{}, map[uint16]bool{}, map[string]bool{}
	for range 200 {
		r.Session(dns.Limits{MaxAge: dns.NoCache}).TXT(t.Context(), "abcdefghijklmnop.test")
	}
	for _, q := range s.Queries() {
		if !q.TCP {
			ids[q.ID], ports[q.Port], cases[q.Case] = true, true, true
		}
	}
	if len(ids) < 190 || len(ports) < 3 || len(cases) < 190 {
		t.Errorf("200 queries: %d ids, %d ports, %d letter cases", len(ids), len(ports), len(cases))
	}
}

func TestNextServerWhenOneFails(t *testing.T) {
	for name, f := range map[string]dnstest.Fault{
		"servfail": {Rcode: mdns.RcodeServerFailure}, "refused": {Rcode: mdns.RcodeRefused}, "silent": {Drop: true},
	} {
		good := dnstest.Start(t)
		good.Add("x.test. 60 IN TXT good")
		bad, r, _ := start(t, dns.Config{Servers: []string{good.Addr()}, Timeout: 400 * time.Millisecond})
		bad.Fail("x.test", "*", f)
		if got, err := r.TXT(t.Context(), "x.test"); err != nil || got.Records[0] != "good" {
			t.Errorf("%s: %v", name, err)
		}
		n := len(bad.Queries())
		r.TXT(t.Context(), "y.test")
		if len(bad.Queries()) != n {
			t.Errorf("%s: the server that failed is asked first again", name)
		}
	}
}

func TestClosedPortFailsAtOnce(t *testing.T) {
	gone, err := dnstest.New(dnstest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	r, err := dns.New(dns.Config{Servers: []string{gone.Addr()}, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := r.TXT(t.Context(), "x.test"); dns.ClassOf(err) != dns.Timeout {
		t.Errorf("%v, want a timeout class at once", err)
	}
}

func TestCloseEndsLookups(t *testing.T) {
	s, r, _ := start(t, dns.Config{Timeout: time.Minute})
	s.Fail("x.test", "*", dnstest.Fault{Drop: true})
	done := make(chan error, 1)
	go func() { _, err := r.TXT(context.Background(), "x.test"); done <- err }()
	waitFor(t, func() bool { return len(s.Queries()) > 0 })
	r.Close()
	if err := <-done; dns.ClassOf(err) != dns.Canceled {
		t.Errorf("waiting lookup: %v", err)
	}
	if _, err := r.TXT(t.Context(), "y.test"); dns.ClassOf(err) != dns.Canceled {
		t.Errorf("lookup after close: %v", err)
	}
}

func TestStaticHosts(t *testing.T) {
	s, r, _ := start(t, dns.Config{Hosts: map[string][]netip.Addr{
		"localhost": addrs("127.0.0.1"), "*.localhost": addrs("::1"), "gone.test": nil,
	}})
	for name, want := range map[string][]netip.Addr{"localhost": addrs("127.0.0.1"), "a.b.localhost": addrs("::1")} {
		got, err := r.Addrs(t.Context(), name)
		if err != nil || !got.Static {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		if diff := cmp.Diff(want, got.Addrs, sameAddr); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if _, err := r.Addrs(t.Context(), "gone.test"); dns.ClassOf(err) != dns.NXDomain {
		t.Errorf("gone.test: %v", err)
	}
	if got, err := r.CAA(t.Context(), "a.localhost"); err != nil || !got.Static || len(got.Records) != 0 {
		t.Errorf("CAA of a static name: %v, %v", got, err)
	}
	if n := len(s.Queries()); n != 0 {
		t.Errorf("%d queries for static names", n)
	}
	if _, err := r.Addrs(t.Context(), "xlocalhost"); dns.ClassOf(err) != dns.NXDomain {
		t.Errorf("a name that only ends alike must be asked: %v", err)
	}
}

func TestLocalhostIsNotSpecialUnlessConfigured(t *testing.T) {
	s, r, _ := start(t, dns.Config{})
	if _, err := r.Addrs(t.Context(), "localhost"); dns.ClassOf(err) != dns.NXDomain || s.Count("localhost", "A") != 1 {
		t.Errorf("localhost: %v, want it asked and absent", err)
	}
}

func TestHostsFile(t *testing.T) {
	s := dnstest.Start(t)
	for text, ok := range map[string]bool{
		"# comment\n127.0.0.1 localhost lh # x\n\n::1\tlocalhost\n": true,
		"127.0.0.1\n":                 false,
		"127.0.0.300 x\n":             false,
		"127.0.0.1 b*d\n":             false,
		"localhost 127.0.0.1\n":       false,
		"127.0.0.1 a\nfe80::1%eth0 b": true,
	} {
		file := filepath.Join(t.TempDir(), "hosts")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := dns.New(dns.Config{Servers: []string{s.Addr()}, UseHostsFile: true, HostsFile: file})
		if (err == nil) != ok {
			t.Errorf("%q: err %v, want ok=%v", text, err, ok)
			continue
		}
		if err != nil {
			continue
		}
		if strings.Contains(text, "lh") {
			got, err := r.Addrs(t.Context(), "localhost")
			if diff := cmp.Diff(addrs("127.0.0.1", "::1"), got.Addrs, sameAddr); diff != "" || err != nil {
				t.Errorf("localhost: %v (-want +got):\n%s", err, diff)
			}
		}
		r.Close()
	}
}

func TestNewRefusesMalformedServers(t *testing.T) {
	for _, s := range []string{"", "192.0.2.1", "ns.example:53", "192.0.2.1:0", "[::1]"} {
		if _, err := dns.New(dns.Config{Servers: []string{s}}); err == nil {
			t.Errorf("server %q accepted", s)
		}
	}
}

func TestCacheIsBounded(t *testing.T) {
	_, r, _ := start(t, dns.Config{CacheEntries: 64})
	for i := range 500 {
		r.TXT(t.Context(), fmt.Sprintf("n%d.test", i))
	}
	if n := r.Cached(); n > 64 {
		t.Errorf("%d entries kept, want at most 64", n)
	}
}

func TestErrorTextNeverRepeatsForeignBytes(t *testing.T) {
	_, r, _ := start(t, dns.Config{})
	_, err := r.TXT(t.Context(), "<evil>\x1b[31m\n.test")
	if err == nil || strings.ContainsAny(err.Error(), "\x1b\n<>[") {
		t.Errorf("%q", err)
	}
}
