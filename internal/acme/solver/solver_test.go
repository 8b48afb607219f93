package solver_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/acme/solver"
	"chancery/internal/dns"
	"chancery/internal/dns/dnstest"
	"chancery/internal/issuer"
	"chancery/internal/issuer/issuertest"
	"chancery/internal/pki"
)

// world is a solver in front of a DNS server whose zones two accounts change.
type world struct {
	*solver.Solver
	t   testing.TB
	dns *dnstest.Server

	mu    sync.Mutex
	calls []call
	err   error         // of the next calls
	hide  bool          // change nothing, and say that all is well
	hold  chan struct{} // wait for it before a change
	set   map[string][]string
}

// call is one change set as a provider saw it.
type call struct {
	Account, Zone string
	Add, Remove   int
}

// account is a provider that changes the world's DNS server.
type account struct {
	w    *world
	name string
}

func (a account) Apply(_ context.Context, zone string, add, remove []solver.Record) error {
	w := a.w
	w.mu.Lock()
	hold := w.hold
	w.mu.Unlock()
	if hold != nil {
		<-hold
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls = append(w.calls, call{a.name, zone, len(add), len(remove)})
	if w.err != nil || w.hide {
		return w.err
	}
	for _, s := range solver.Sets(add, remove) {
		w.set[s.Name], _ = s.Merge(w.set[s.Name])
		w.dns.Remove(s.Name)
		for _, v := range w.set[s.Name] {
			w.dns.Add(fmt.Sprintf("%s. 60 IN TXT %s", s.Name, solver.Quote(v)))
		}
	}
	return nil
}

func (w *world) seen() []call {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.calls)
}

func newWorld(t testing.TB, change func(*solver.Config)) *world {
	t.Helper()
	w := &world{t: t, dns: dnstest.Start(t), set: map[string][]string{}}
	w.dns.NegativeTTL(0)
	for _, z := range []string{"a.test", "b.test", "auth.test"} {
		w.dns.Add(z+". 60 IN SOA ns.a.test. admin.a.test. 1 60 60 60 0", z+". 60 IN NS ns.a.test.")
	}
	r, err := dns.New(dns.Config{Servers: []string{w.dns.Addr()}, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	servers := []netip.AddrPort{netip.MustParseAddrPort(w.dns.Addr())}
	c := solver.Config{Resolver: r, Window: 100 * time.Millisecond, MaxWindow: time.Second, Linger: 50 * time.Millisecond, Routes: []solver.Route{
		{Account: "one", Zones: []string{"a.test", "b.test"}, Provider: account{w, "one"}, Nameservers: servers, Wait: 5 * time.Second},
		{Account: "rest", Provider: account{w, "rest"}, Nameservers: servers, Wait: 5 * time.Second},
	}}
	if change != nil {
		change(&c)
	}
	if w.Solver, err = solver.New(c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close(context.Background()) })
	return w
}

// txt is a dns-01 response.
func txt(name, value string) issuer.Response {
	return issuer.Response{Type: solver.DNS01, Identifier: pki.Identifier{Type: pki.DNS, Value: name}, Token: "t", Record: "_acme-challenge." + strings.TrimPrefix(name, "*."), Value: value}
}

// eventually looks again and again until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for begin := time.Now(); !ok(); <-tick.C {
		if time.Since(begin) > 10*time.Second {
			t.Fatalf("%s: not within 10 s", what)
		}
	}
}

func TestOneChangeForManyOrders(t *testing.T) {
	w := newWorld(t, nil)
	var all sync.WaitGroup
	cleans := make([]func(), 300)
	for i := range cleans {
		all.Go(func() {
			zone := []string{"a.test", "b.test"}[i%2]
			clean, err := w.Present(context.Background(), []issuer.Response{txt(fmt.Sprintf("h%d.%s", i, zone), "v"), txt(fmt.Sprintf("*.h%d.%s", i, zone), "w")})
			if err != nil {
				t.Error(err)
				return
			}
			cleans[i] = clean
		})
	}
	all.Wait()
	added := map[string]int{}
	for _, c := range w.seen() {
		added[c.Zone] += c.Add
	}
	if diff := cmp.Diff(map[string]int{"a.test": 300, "b.test": 300}, added); diff != "" {
		t.Errorf("records by zone (-want +got):\n%s", diff)
	}
	if n := len(w.seen()); n > 6 { // two, unless this machine is slow
		t.Errorf("300 orders took %d change sets", n)
	}
	for _, f := range cleans {
		f()
	}
	eventually(t, "all is removed", func() bool {
		n := 0
		for _, c := range w.seen() {
			n += c.Remove
		}
		return n == 600
	})
}

func TestSharedRecordStaysUntilNobodyWantsIt(t *testing.T) {
	w := newWorld(t, nil)
	r := []issuer.Response{txt("x.a.test", "same")}
	first, err := w.Present(context.Background(), r)
	if err != nil {
		t.Fatal(err)
	}
	second, err := w.Present(context.Background(), r)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(w.seen()); n != 1 {
		t.Errorf("a record that is visible took another change: %v", w.seen())
	}
	first()
	first() // is once
	other, err := w.Present(context.Background(), []issuer.Response{txt("y.a.test", "v")})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range w.seen() {
		if c.Remove > 0 {
			t.Fatal("it was removed while an order needs it")
		}
	}
	second()
	other()
	eventually(t, "both are removed", func() bool { return w.seen()[len(w.seen())-1].Remove == 2 })
	if n := len(w.seen()); n != 3 {
		t.Errorf("%d changes, want 3: %v", n, w.seen())
	}
}

func TestUrgent(t *testing.T) {
	w := newWorld(t, func(c *solver.Config) { c.Window, c.MaxWindow = time.Hour, time.Hour })
	r := txt("x.a.test", "v")
	waiting := make(chan error, 1)
	go func() {
		_, err := w.Present(context.Background(), []issuer.Response{r})
		waiting <- err
	}()
	urgent := txt("y.a.test", "v")
	urgent.Urgent = true
	eventually(t, "the first waits", func() bool { return w.dns.Count("_acme-challenge.x.a.test", "SOA") > 0 })
	if _, err := w.Present(context.Background(), []issuer.Response{urgent}); err != nil {
		t.Fatal(err)
	}
	r.Urgent = true // should it have come after the change
	if _, err := w.Present(context.Background(), []issuer.Response{r}); err != nil {
		t.Fatal(err)
	}
	if err := <-waiting; err != nil {
		t.Fatal(err)
	}
}

func TestDelegatedChallenge(t *testing.T) {
	w := newWorld(t, nil)
	w.dns.Add("_acme-challenge.www.a.test. 60 IN CNAME hop.b.test.", "hop.b.test. 60 IN CNAME abc.auth.test.")
	clean, err := w.Present(context.Background(), []issuer.Response{txt("www.a.test", "v")})
	if err != nil {
		t.Fatal(err)
	}
	defer clean()
	if diff := cmp.Diff([]call{{"rest", "auth.test", 1, 0}}, w.seen()); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	if v := w.set["abc.auth.test"]; !slices.Equal(v, []string{"v"}) {
		t.Errorf("the record is elsewhere: %v", w.set)
	}
}

func TestZoneCuts(t *testing.T) {
	w := newWorld(t, nil)
	w.dns.Add("sub.a.test. 60 IN SOA ns.a.test. admin.a.test. 1 60 60 60 0")
	for _, n := range []string{"x.sub.a.test", "x.a.test", "a.test"} {
		if _, err := w.Present(context.Background(), []issuer.Response{txt(n, "v")}); err != nil {
			t.Fatal(err)
		}
	}
	var zones []string
	for _, c := range w.seen() {
		zones = append(zones, c.Zone)
	}
	slices.Sort(zones)
	if diff := cmp.Diff([]string{"a.test", "a.test", "sub.a.test"}, zones); diff != "" {
		t.Errorf("zones (-want +got):\n%s", diff)
	}
}

func TestFailureOfTheProvider(t *testing.T) {
	w := newWorld(t, nil)
	w.err = &issuer.Error{Class: issuer.Throttled, RetryAfter: time.Minute, Err: errors.New("slow down")}
	_, err := w.Present(context.Background(), []issuer.Response{txt("x.a.test", "v")})
	if e := issuertest.WantClass(t, err, issuer.Provider); e.Provider != "dns/one" || e.RetryAfter != time.Minute {
		t.Errorf("error %+v", e)
	}
	w.mu.Lock()
	w.err = nil
	w.mu.Unlock()
	if _, err := w.Present(context.Background(), []issuer.Response{txt("x.a.test", "v")}); err != nil {
		t.Errorf("the next attempt: %v", err)
	}
}

func TestFailedChangeIsCleanedUp(t *testing.T) {
	w := newWorld(t, nil)
	w.err = errors.New("half of it is done")
	_, err := w.Present(context.Background(), []issuer.Response{txt("x.a.test", "v")})
	issuertest.WantClass(t, err, issuer.Provider)
	w.mu.Lock()
	w.err = nil
	w.mu.Unlock()
	eventually(t, "it is removed", func() bool { c := w.seen(); return c[len(c)-1].Remove == 1 })
}

func TestOnlyWhatIsNotVisibleFails(t *testing.T) {
	w := newWorld(t, func(c *solver.Config) { c.Routes[0].Wait = 400 * time.Millisecond })
	w.dns.Fail("_acme-challenge.bad.a.test", "TXT", dnstest.Fault{Rcode: 2})
	var all sync.WaitGroup
	for name, want := range map[string]bool{"bad.a.test": false, "good.a.test": true} {
		all.Go(func() {
			_, err := w.Present(context.Background(), []issuer.Response{txt(name, "v")})
			if (err == nil) != want {
				t.Errorf("%s: %v", name, err)
			}
			if err != nil && !strings.Contains(err.Error(), w.dns.Addr()) {
				t.Errorf("error %v does not name the server", err)
			}
		})
	}
	all.Wait()
}

func TestSlowServersAreWaitedForAndDeadOnesAreNot(t *testing.T) {
	second := dnstest.Start(t)
	w := newWorld(t, func(c *solver.Config) {
		c.Routes[0].Nameservers = append(c.Routes[0].Nameservers, netip.MustParseAddrPort(second.Addr()))
	})
	done := make(chan error, 1)
	go func() {
		_, err := w.Present(context.Background(), []issuer.Response{txt("x.a.test", "v")})
		done <- err
	}()
	eventually(t, "the secondary is asked", func() bool { return second.Count("_acme-challenge.x.a.test", "TXT") > 1 })
	select {
	case <-done:
		t.Fatal("the secondary has not seen it")
	default:
	}
	second.Add(`_acme-challenge.x.a.test. 60 IN TXT "v"`)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	second.Close()
	if _, err := w.Present(context.Background(), []issuer.Response{txt("y.a.test", "v")}); err != nil {
		t.Errorf("with a dead secondary: %v", err)
	}
}

func TestTimeLimitBlamesTheProvider(t *testing.T) {
	w := newWorld(t, nil)
	w.hide = true
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	_, err := w.Present(ctx, []issuer.Response{txt("x.a.test", "v")})
	issuertest.WantClass(t, err, issuer.Provider)
}

func TestRemovalIsRepeated(t *testing.T) {
	w := newWorld(t, nil)
	clean, err := w.Present(context.Background(), []issuer.Response{txt("x.a.test", "v")})
	if err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	w.err = errors.New("down")
	w.mu.Unlock()
	clean()
	eventually(t, "it was tried", func() bool { return len(w.seen()) > 1 })
	w.mu.Lock()
	w.err = nil
	w.mu.Unlock()
	eventually(t, "it is gone", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.set["_acme-challenge.x.a.test"]) == 0
	})
}

func TestCloseRemovesEverything(t *testing.T) {
	w := newWorld(t, func(c *solver.Config) { c.Linger = time.Hour })
	clean, err := w.Present(context.Background(), []issuer.Response{txt("x.a.test", "v")})
	if err != nil {
		t.Fatal(err)
	}
	clean()
	if err := w.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if len(w.set["_acme-challenge.x.a.test"]) != 0 {
		t.Error("the record is left behind")
	}
	if _, err := w.Present(context.Background(), []issuer.Response{txt("y.a.test", "v")}); err == nil {
		t.Error("a closed solver presents")
	}
}

func TestWantedAgainWhileItIsRemoved(t *testing.T) {
	w := newWorld(t, nil)
	r := []issuer.Response{txt("x.a.test", "v")}
	clean, err := w.Present(context.Background(), r)
	if err != nil {
		t.Fatal(err)
	}
	hold := make(chan struct{})
	w.mu.Lock()
	w.hold = hold
	w.mu.Unlock()
	clean()
	time.AfterFunc(200*time.Millisecond, func() { // the removal has begun by then
		w.mu.Lock()
		w.hold = nil
		w.mu.Unlock()
		close(hold)
	})
	again, err := w.Present(context.Background(), r)
	if err != nil {
		t.Fatal(err)
	}
	defer again()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.set["_acme-challenge.x.a.test"]) != 1 {
		t.Error("it is not there")
	}
}

func TestMethods(t *testing.T) {
	persist, err := pki.ParsePatterns([]string{"standing.a.test"})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(c *solver.Config) {
		c.HTTP, c.ALPN, c.Persist = solver.NewHTTP(""), solver.NewALPN(), persist
	})
	for value, want := range map[string]string{
		"x.a.test":        "dns-01 dns-account-01 http-01 tls-alpn-01",
		"*.a.test":        "dns-01 dns-account-01",
		"x.other.test":    "http-01 tls-alpn-01 dns-01 dns-account-01",
		"standing.a.test": "dns-persist-01 dns-01 dns-account-01 http-01 tls-alpn-01",
		"192.0.2.1":       "http-01 tls-alpn-01",
		"nota.test":       "http-01 tls-alpn-01 dns-01 dns-account-01",
	} {
		typ := pki.DNS
		if _, err := netip.ParseAddr(value); err == nil {
			typ = pki.IP
		}
		if got := strings.Join(w.Methods(pki.Identifier{Type: typ, Value: value}), " "); got != want {
			t.Errorf("%s: %s, want %s", value, got, want)
		}
	}
}

func TestPersistIsVerifiedOnly(t *testing.T) {
	w := newWorld(t, nil)
	r := issuer.Response{Type: solver.DNSPersist01, Identifier: pki.Identifier{Type: pki.DNS, Value: "x.a.test"}, Record: "_validation-persist.x.a.test",
		Value: "ca.test; accounturi=https://ca.test/acct/1\nca2.test; accounturi=https://ca.test/acct/1"}
	_, err := w.Present(context.Background(), []issuer.Response{r})
	if e := issuertest.WantClass(t, err, issuer.Permanent); !strings.Contains(e.Error(), `TXT "ca.test; accounturi=https://ca.test/acct/1"`) {
		t.Errorf("error %v does not say what to add", e)
	}
	w.dns.Add(`_validation-persist.x.a.test. 60 IN TXT "CA2.test.;policy=wildcard; AccountURI=https://ca.test/acct/1;persistUntil=9999999999"`)
	clean, err := w.Present(context.Background(), []issuer.Response{r})
	if err != nil {
		t.Fatal(err)
	}
	clean()
	r.Value = "ca.test; accounturi=https://ca.test/acct/2"
	_, err = w.Present(context.Background(), []issuer.Response{r})
	issuertest.WantClass(t, err, issuer.Permanent)
	if n := len(w.seen()); n != 0 {
		t.Errorf("%d changes were made", n)
	}
}

func TestQuote(t *testing.T) {
	for _, v := range []string{"", "plain", `with "quotes" and \`, strings.Repeat("x", 600)} {
		if got := solver.Unquote(solver.Quote(v)); got != v {
			t.Errorf("%q became %q", v, got)
		}
	}
}

// One type of challenge only, and nothing where it cannot be presented.
func TestOnly(t *testing.T) {
	s, err := solver.New(solver.Config{HTTP: solver.NewHTTP(""), ALPN: solver.NewALPN()})
	if err != nil {
		t.Fatal(err)
	}
	id := pki.Identifier{Type: pki.DNS, Value: "www.example.test"}
	for method, want := range map[string]int{solver.HTTP01: 1, solver.TLSALPN01: 1, solver.DNS01: 0} {
		if got := solver.Only(s, method).Methods(id); len(got) != want || want == 1 && got[0] != method {
			t.Errorf("%s: %v", method, got)
		}
	}
}
