package perspective_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"chancery/internal/acme/challenge"
	"chancery/internal/acme/perspective"
	"chancery/internal/acme/perspective/perspectivetest"
	"chancery/internal/dns"
	"chancery/internal/dns/dnstest"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

const (
	token   = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"
	keyAuth = token + ".9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"
	account = "https://ca.test/acme/default/account/1"
)

// world is a primary and five perspectives, each with a DNS server of its own.
type world struct {
	key      *perspective.Key
	registry *challenge.Registry
	resolver *dns.Resolver
	home     *dnstest.Server
	dns      []*dnstest.Server
	remotes  []perspective.Remote
	stop     []func()
	metrics  *prometheus.Registry
}

func newWorld(t *testing.T, regions ...string) *world {
	t.Helper()
	w := &world{key: perspectivetest.Key(t), home: dnstest.Start(t), metrics: prometheus.NewRegistry()}
	w.registry, w.resolver = perspectivetest.Registry(t, perspectivetest.Where{DNS: w.home.Addr()})
	for i, region := range regions {
		d := dnstest.Start(t)
		r, stop := perspectivetest.Start(t, w.key, perspectivetest.Where{Name: fmt.Sprintf("p%d", i), Region: region, DNS: d.Addr()})
		w.dns, w.remotes, w.stop = append(w.dns, d), append(w.remotes, r), append(w.stop, stop)
	}
	w.publish(-1, "")
	for i := range w.dns {
		w.publish(i, "")
	}
	return w
}

// publish puts the applicant's record, or another one, where one perspective
// (-1: the primary) looks.
func (w *world) publish(i int, value string) {
	d := w.home
	if i >= 0 {
		d = w.dns[i]
	}
	if value == "" {
		value = challenge.DNS01Value(keyAuth)
	}
	d.Remove("_acme-challenge.victim.test.")
	d.Add("_acme-challenge.victim.test. 60 IN TXT " + value)
}

func (w *world) set(t *testing.T, change ...func(*perspective.Config)) *perspective.Set {
	t.Helper()
	cfg := perspective.Config{Remotes: w.remotes, Key: w.key, Timeout: 5 * time.Second, Settle: 5 * time.Second}
	for _, f := range change {
		f(&cfg)
	}
	s, err := perspective.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func question() perspective.Question {
	return perspective.Question{Method: challenge.DNS01, Issuers: []string{"ca.test"}, Request: challenge.Request{
		Identifier: pki.Identifier{Type: pki.DNS, Value: "victim.test"}, Token: token, KeyAuthorization: keyAuth, AccountURL: account}}
}

// validate is what the server does: it looks for itself while it asks.
func (w *world) validate(t *testing.T, s *perspective.Set, q perspective.Question) (challenge.Proof, *perspective.Record, error) {
	t.Helper()
	ctx := context.Background()
	round := s.Ask(ctx, q)
	defer round.Stop()
	p, err := w.registry.Validate(ctx, q.Method, q.Request)
	if err != nil {
		t.Fatalf("the primary's own validation: %v", err)
	}
	checker, err := challenge.NewCAA(challenge.CAAConfig{Resolver: w.resolver, Domains: q.Issuers})
	if err != nil {
		t.Fatal(err)
	}
	c, err := checker.Check(ctx, q.Request.Identifier, q.Method, account)
	if err != nil {
		t.Fatalf("the primary's own CAA check: %v", err)
	}
	p, _, record, err := round.Confirm(p, c)
	return p, record, err
}

func verdicts(r *perspective.Record) string {
	var b strings.Builder
	for _, o := range r.Observations {
		fmt.Fprintf(&b, "%s %s; ", o.Perspective, o.Verdict)
	}
	return b.String()
}

func TestAllPerspectivesAgree(t *testing.T) {
	w := newWorld(t, "eu", "us", "eu", "us", "ap")
	p, record, err := w.validate(t, w.set(t, func(c *perspective.Config) { c.Metrics = w.metrics }), question())
	if err != nil {
		t.Fatal(err)
	}
	want := challenge.Corroboration{Remotes: 5, Agreed: []string{"p0", "p1", "p2", "p3", "p4"}, Regions: []string{"eu", "us", "ap"}}
	if d := cmp.Diff(want, p.Corroboration()); d != "" {
		t.Error(d)
	}
	o := record.Observations[0]
	if !record.Corroborated || len(record.Observations) != 5 || o.Region != "eu" || len(o.Steps) != 1 || o.Steps[0].Query != "_acme-challenge.victim.test" || o.At.IsZero() {
		t.Errorf("%+v", record)
	}
	if got := w.counters(t); got["chancery_perspective_rounds_total corroborated"] != 1 || got["chancery_perspective_answers_total agrees p4"] != 1 {
		t.Errorf("%v", got)
	}
}

// counters gathers the counters by name and label values.
func (w *world) counters(t *testing.T) map[string]float64 {
	t.Helper()
	families, err := w.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var values []string
			for _, l := range m.GetLabel() {
				values = append(values, l.GetValue())
			}
			slices.Sort(values)
			out[f.GetName()+" "+strings.Join(values, " ")] = m.GetCounter().GetValue()
		}
	}
	return out
}

// One of five may be deceived; two may not, and the primary is told apart by
// nobody agreeing with it.
func TestDeceivedPerspectives(t *testing.T) {
	w := newWorld(t, "eu", "us", "eu", "us", "ap")
	s := w.set(t)
	w.publish(1, "attacker")
	if _, record, err := w.validate(t, s, question()); err != nil || verdicts(record) != "p0 agrees; p1 disagrees; p2 agrees; p3 agrees; p4 agrees; " {
		t.Fatalf("one of five: %v", err)
	}
	w.publish(3, "attacker")
	p, record, err := w.validate(t, s, question())
	if !fault.Is(err, fault.IncorrectResponse) || p.Valid() || record.Corroborated || !strings.Contains(err.Error(), "p1: ") || !strings.Contains(err.Error(), "p3: ") {
		t.Fatalf("two of five: %v %v", p, err)
	}
	for i := range w.dns {
		w.publish(i, "owner")
	}
	if p, _, err := w.validate(t, s, question()); err == nil || p.Valid() {
		t.Fatalf("deceived primary: %v %v", p, err)
	}
}

// A perspective that sees the proof and forbidding CAA records disagrees.
func TestPerspectivesCheckCAA(t *testing.T) {
	w := newWorld(t, "eu", "us", "ap")
	s := w.set(t)
	w.dns[0].Add(`victim.test. 60 IN CAA 0 issue "other.test"`)
	if _, record, err := w.validate(t, s, question()); err != nil || record.Observations[0].Code != fault.CAA {
		t.Fatalf("one of three: %v", err)
	}
	w = newWorld(t, "eu", "us", "ap") // answers are kept for a moment
	s = w.set(t)
	w.dns[0].Add(`victim.test. 60 IN CAA 0 issue "other.test"`)
	w.dns[1].Add(`victim.test. 60 IN CAA 0 issue "other.test"`)
	if _, _, err := w.validate(t, s, question()); !fault.Is(err, fault.CAA) {
		t.Fatalf("two of three: %v", err)
	}
	q := question()
	q.CAAOnly = true
	checker, err := challenge.NewCAA(challenge.CAAConfig{Resolver: w.resolver, Domains: q.Issuers})
	if err != nil {
		t.Fatal(err)
	}
	mine, err := checker.Check(context.Background(), q.Request.Identifier, q.Method, account)
	if err != nil {
		t.Fatal(err)
	}
	if c, record, err := s.Ask(context.Background(), q).ConfirmCAA(mine); !fault.Is(err, fault.CAA) || !c.At().IsZero() || record.Corroborated || !record.CAAOnly {
		t.Errorf("CAA alone: %v %v", c, err)
	}
	w = newWorld(t, "eu", "us", "ap")
	s = w.set(t)
	w.dns[1].Add(`victim.test. 60 IN CAA 0 issue "ca.test"`)
	c, record, err := s.Ask(context.Background(), q).ConfirmCAA(mine)
	if err != nil || c.Corroboration().Remotes != 3 || record.Observations[1].CAAFound != "victim.test" || len(record.Observations[1].CAARecords) != 1 {
		t.Errorf("CAA alone: %v %+v", err, record)
	}
}

// A perspective that is gone is one that disagrees; two are no verdict, so the
// applicant may try again.
func TestDeadPerspectives(t *testing.T) {
	w := newWorld(t, "eu", "us", "eu", "us")
	s := w.set(t)
	w.stop[0]()
	if _, record, err := w.validate(t, s, question()); err != nil || record.Observations[0].Verdict != challenge.Silent {
		t.Fatalf("one of four: %v", err)
	}
	w.stop[1]()
	if p, _, err := w.validate(t, s, question()); !fault.Is(err, fault.Unavailable) || p.Valid() {
		t.Fatalf("two of four: %v", err)
	}
}

// A slow perspective costs no more than the time to settle, and counts as one
// that disagrees.
func TestSlowPerspective(t *testing.T) {
	w := newWorld(t, "eu", "us", "eu")
	hold := make(chan struct{})
	defer close(hold)
	w.dns[0].Fail("_acme-challenge.victim.test", "TXT", dnstest.Fault{Hold: hold})
	s := w.set(t, func(c *perspective.Config) { c.Timeout, c.Settle = time.Minute, time.Millisecond })
	_, record, err := w.validate(t, s, question())
	if err != nil || record.Observations[0].Verdict != challenge.Silent || !strings.Contains(record.Observations[0].Problem, "before the others") {
		t.Fatalf("%v %+v", err, record)
	}
	w.dns[1].Fail("_acme-challenge.victim.test", "TXT", dnstest.Fault{Hold: hold})
	s = w.set(t, func(c *perspective.Config) { c.Timeout = 200 * time.Millisecond })
	if _, record, err := w.validate(t, s, question()); !fault.Is(err, fault.Unavailable) || record.Corroborated {
		t.Fatalf("two of three: %v", err)
	}
}

// Agreement in one region alone is none.
func TestRegionsRule(t *testing.T) {
	w := newWorld(t, "eu", "eu", "eu", "us")
	w.publish(3, "attacker")
	if _, _, err := w.validate(t, w.set(t), question()); !fault.Is(err, fault.IncorrectResponse) {
		t.Errorf("%v", err)
	}
}

func TestImpossibleSets(t *testing.T) {
	key := perspectivetest.Key(t)
	one := perspective.Remote{Name: "a", Region: "eu", URL: "https://a.test", Pin: key.Pin()}
	two, same, plain, again := one, one, one, one
	two.Name, two.Region = "b", "us"
	same.Name = "c"
	plain.Name, plain.Region, plain.URL = "d", "us", "http://d.test"
	again.Region = "us"
	for what, list := range map[string][]perspective.Remote{"one": {one}, "one region": {one, same}, "http": {one, plain}, "a name twice": {one, again}} {
		if s, err := perspective.New(perspective.Config{Key: key, Remotes: list}); !fault.Is(err, fault.Invalid) || s != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if s, err := perspective.New(perspective.Config{Key: key, Remotes: []perspective.Remote{one, two}}); err != nil || s.Len() != 2 {
		t.Errorf("%v", err)
	}
	none, err := perspective.New(perspective.Config{})
	if none != nil || err != nil || none.Len() != 0 || none.Ask(context.Background(), question()) != nil {
		t.Errorf("none: %v %v", none, err)
	}
}

// Neither end talks to a key that it was not told of.
func TestPinnedKeys(t *testing.T) {
	w := newWorld(t, "eu", "us")
	stranger := w.set(t, func(c *perspective.Config) { c.Key = perspectivetest.Key(t) })
	if _, record, err := w.validate(t, stranger, question()); !fault.Is(err, fault.Unavailable) || record.Observations[0].Verdict != challenge.Silent {
		t.Errorf("an agent answers a stranger: %v", err)
	}
	impostor := w.set(t, func(c *perspective.Config) {
		c.Remotes = append([]perspective.Remote(nil), c.Remotes...)
		c.Remotes[0].Pin, c.Remotes[1].Pin = c.Remotes[1].Pin, c.Remotes[0].Pin
	})
	if _, _, err := w.validate(t, impostor, question()); !fault.Is(err, fault.Unavailable) {
		t.Errorf("we believe an impostor: %v", err)
	}
	renamed := w.set(t, func(c *perspective.Config) {
		c.Remotes = append([]perspective.Remote(nil), c.Remotes...)
		c.Remotes[0].Region = "moon"
	})
	if _, _, err := w.validate(t, renamed, question()); err == nil {
		t.Error("a perspective counts for a region that it does not call its own")
	}
	bare := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	if resp, err := bare.Get(w.remotes[0].URL); err == nil {
		resp.Body.Close()
		t.Error("an agent talks to a client without a key")
	}
}

// Only names and addresses are out there to be looked at.
func TestNothingToSee(t *testing.T) {
	w := newWorld(t, "eu", "us")
	s, q := w.set(t), question()
	q.Request.Identifier = pki.Identifier{Type: pki.IP, Value: "192.0.2.1"}
	q.CAAOnly = true
	if s.Ask(context.Background(), q) != nil {
		t.Error("the CAA records of an address are asked for")
	}
	q.Request.Identifier = pki.Identifier{Type: "permanent-identifier", Value: "x"}
	if s.Ask(context.Background(), q) != nil {
		t.Error("a device is looked for on the network")
	}
}

func TestKeyFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "perspective.key")
	k, err := perspective.OpenKey(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := perspective.OpenKey(path)
	if err != nil || again.Pin() != k.Pin() {
		t.Errorf("%v %v", again, err)
	}
	if pin, err := perspective.ParsePin(string(k.Pin())); err != nil || pin != k.Pin() {
		t.Errorf("%v %v", pin, err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", st, err)
	}
	for _, bad := range []string{"", "nonsense", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := perspective.OpenKey(path); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for _, bad := range []string{"", "sha256/", "sha256/AAAA", "sha1/" + strings.TrimPrefix(string(k.Pin()), "sha256/"), string(k.Pin()) + "="} {
		if _, err := perspective.ParsePin(bad); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// What an agent is asked is judged before anybody is contacted.
func TestAgentRefusesNonsense(t *testing.T) {
	w := newWorld(t, "eu", "us")
	conf, err := perspective.ClientTLS(w.key, w.remotes[0].Pin)
	if err != nil {
		t.Fatal(err)
	}
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: conf}}
	defer c.CloseIdleConnections()
	for _, body := range []string{"", "{}", "[]", `{"method":"dns-01","method":"dns-01"}`, `{"extra":1}`,
		`{"method":"dns-01","identifier_type":"dns","identifier":"a..b","account":"x","issuers":[]}`,
		`{"method":"","identifier_type":"dns","identifier":"a.test","account":"x","issuers":[]}`,
		`{"method":"dns-01","identifier_type":"dns","identifier":"a.test","account":"","issuers":[]}`,
		`{"method":"dns-01","identifier_type":"dns","identifier":"a.test","account":"x","issuers":["-"]}`,
		`"` + strings.Repeat("x", 70000) + `"`} {
		resp, err := c.Post(w.remotes[0].URL+"/perspective/v1/observe", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode < 400 || resp.StatusCode >= 500 {
			t.Errorf("%.80s: %d %s", body, resp.StatusCode, text)
		}
	}
	if n := len(w.dns[0].Queries()); n != 0 {
		t.Errorf("%d DNS queries were made", n)
	}
}
