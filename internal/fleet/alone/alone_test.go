package alone

import (
	"context"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"chancery/internal/deploy"
	"chancery/internal/fault"
	"chancery/internal/issuer"
	"chancery/internal/issuer/issuertest"
	"chancery/internal/pki"
)

// ca is an issuer that fails as it is told, and counts.
type ca struct {
	*issuertest.Authority
	mu       sync.Mutex
	fail     error
	poll     int // how often it asks for time first
	calls    int
	replaced [][]byte
	wrong    issuertest.Sabotage
	info     issuer.RenewalInfo
}

// Issue implements issuer.Issuer.
func (c *ca) Issue(ctx context.Context, r *issuer.Request) (issuer.Reply, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls++
	if c.fail != nil {
		return issuer.Reply{}, c.fail
	}
	if err := r.Save(ctx, issuer.State{Step: "ordered", Data: []byte(`{"order":"` + r.ID + `"}`)}); err != nil {
		return issuer.Reply{}, err
	}
	if c.poll > 0 {
		c.poll--
		return issuer.Reply{PollAt: time.Now()}, nil
	}
	c.replaced = append(c.replaced, r.Replaces)
	chain, err := c.Sign(r.CSR, c.wrong)
	return issuer.Reply{Chain: chain}, err
}

// RenewalInfo implements issuer.Informer.
func (c *ca) RenewalInfo(context.Context, *x509.Certificate) (issuer.RenewalInfo, error) {
	if c.info.Start.IsZero() {
		return c.info, errors.New("down")
	}
	return c.info, nil
}

// shelf is a target that counts its batches, and refuses what it is told.
type shelf struct {
	batches [][]string
	refuse  error
}

// Stage implements deploy.Target.
func (s *shelf) Stage(_ context.Context, items []deploy.Item) (deploy.Staged, error) {
	var ids []string
	for _, i := range items {
		ids = append(ids, i.ID)
	}
	slices.Sort(ids)
	s.batches = append(s.batches, ids)
	return staged{s}, nil
}

type staged struct{ *shelf }

func (s staged) Apply(context.Context) error                      { return s.refuse }
func (s staged) Verify(context.Context) (map[string]error, error) { return nil, nil }
func (s staged) Commit(context.Context) error                     { return nil }
func (s staged) Rollback(context.Context) error                   { return nil }

// host is a machine of a test, with a clock that is moved.
type host struct {
	t     *testing.T
	r     *Runner
	first *ca
	other *ca
	shelf *shelf
	ahead time.Duration
}

// newHost has certificates "a" and "b", from first, with other to fall back to.
func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{t: t, first: &ca{Authority: issuertest.NewAuthority(t)}, other: &ca{Authority: issuertest.NewAuthority(t)}, shelf: &shelf{}}
	h.open(t.TempDir())
	return h
}

func (h *host) open(state string, change ...func(*Config)) {
	h.t.Helper()
	issuers := []*Issuer{{Name: "first", Issuer: h.first}, {Name: "other", Issuer: h.other}}
	c := Config{State: state, Now: func() time.Time { return time.Now().Add(h.ahead) }, Targets: map[string]*Target{"shelf": {Target: h.shelf, Collect: 15 * time.Minute}}}
	for _, n := range []string{"a", "b"} {
		c.Certificates = append(c.Certificates, Certificate{Name: n, ID: n, KeyType: pki.P256, Issuers: issuers, Targets: []string{"shelf"}, Names: []pki.Identifier{{Type: pki.DNS, Value: n + ".example.test"}}})
	}
	for _, f := range change {
		f(&c)
	}
	var err error
	if h.r, err = New(c); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) once(force ...string) []Result {
	h.t.Helper()
	out, err := h.r.Once(h.t.Context(), force)
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}

// Both certificates are one batch; nothing is done twice; what is renewed names
// its predecessor, and those whose windows are open share the reload.
func TestTwoCertificatesOneReload(t *testing.T) {
	h := newHost(t)
	h.first.poll = 2 // one pass each
	for _, r := range h.once() {
		if r.State != Served || !r.Renewed || !slices.Equal(r.Deployed, []string{"shelf"}) {
			t.Errorf("%+v", r)
		}
	}
	h.once()
	if len(h.shelf.batches) != 1 || h.first.calls != 4 {
		t.Fatalf("batches %v after %d calls", h.shelf.batches, h.first.calls)
	}
	list := h.r.List()
	h.ahead = max(time.Until(list[0].RenewAt), time.Until(list[1].RenewAt)) + time.Minute
	for _, r := range h.once() {
		if !r.Renewed {
			t.Errorf("%+v", r)
		}
	}
	if len(h.shelf.batches) != 2 || len(h.shelf.batches[1]) != 2 || len(h.first.replaced) != 4 || h.first.replaced[3] == nil {
		t.Errorf("batches %v, %d predecessors", h.shelf.batches, len(h.first.replaced))
	}
}

// The issuer's window counts (RFC 9773), and one in the past is now.
func TestWindowOfTheIssuer(t *testing.T) {
	h := newHost(t)
	h.once()
	h.first.info = issuer.RenewalInfo{Start: time.Now().Add(-2 * time.Hour), End: time.Now().Add(-time.Hour), Explanation: "https://ca.test/why"}
	h.ahead = 7 * time.Hour // its first question is at most six hours later
	for _, r := range h.once() {
		if !r.Renewed {
			t.Errorf("%+v", r)
		}
	}
}

// What each class of failure makes wait, and what a person's word undoes.
func TestFailures(t *testing.T) {
	h := newHost(t)
	h.first.fail = &issuer.Error{Class: issuer.Throttled, RetryAfter: time.Hour, Err: errors.New("too many")}
	out := h.once()
	if out[0].State != Failed || time.Until(out[0].RetryAt) < 50*time.Minute {
		t.Fatalf("%+v", out[0])
	}
	calls := h.first.calls
	h.once("*")
	if h.first.calls != calls {
		t.Error("a CA that said how long to wait was asked before")
	}

	h.ahead = 2 * time.Hour
	h.first.fail = &issuer.Error{Class: issuer.Permanent, Err: errors.New("policy forbids")}
	if out = h.once(); out[0].State != Stopped || !strings.Contains(out[0].Error, "policy forbids") {
		t.Fatalf("%+v", out[0])
	}
	h.ahead, h.first.fail = 40*24*time.Hour, nil
	if out = h.once(); out[0].State != Stopped {
		t.Errorf("tried without a reason: %+v", out[0])
	}
	h.ahead = 3 * time.Hour
	if out = h.once("a"); out[0].State != Served || out[1].State != Stopped {
		t.Errorf("%+v", out)
	}
	// A changed section is a reason, too.
	h.open(h.r.cfg.State, func(c *Config) { c.Certificates[1].KeyType = pki.P384 })
	if out = h.once(); out[1].State != Served {
		t.Errorf("%+v", out[1])
	}
	if _, err := h.r.Once(t.Context(), []string{"nobody"}); !fault.Is(err, fault.Invalid) {
		t.Errorf("%v", err)
	}
}

// A CA that is down for long is left for the next one; a certificate for
// another key is never deployed.
func TestFallbackAndMismatch(t *testing.T) {
	h := newHost(t)
	h.first.fail = &issuer.Error{Class: issuer.Unavailable, Err: errors.New("connection refused")}
	if out := h.once(); out[0].State != Failed || h.other.calls != 0 {
		t.Fatalf("%+v", out[0])
	}
	h.ahead = 20 * time.Minute
	for _, r := range h.once() {
		if r.State != Served || r.Issuer != "other" {
			t.Errorf("%+v", r)
		}
	}
	h.first.fail, h.first.wrong = nil, issuertest.Sabotage{Key: true}
	served := len(h.shelf.batches)
	for _, r := range h.once("*") {
		if r.State != Stopped || r.Renewed {
			t.Errorf("%+v", r)
		}
	}
	if len(h.shelf.batches) != served {
		t.Error("a certificate for another key was deployed")
	}
}

// A target that refuses has its own ladder; the certificate is not ordered
// again for it. Outside of its window it is left alone.
func TestTargetRefuses(t *testing.T) {
	h := newHost(t)
	h.shelf.refuse = errors.New("nginx: configuration file test failed")
	out := h.once()
	if out[0].State != Failed || !strings.Contains(out[0].Error, "test failed") || out[0].RetryAt.IsZero() {
		t.Fatalf("%+v", out[0])
	}
	tried := len(h.shelf.batches)
	h.once()
	if len(h.shelf.batches) != tried {
		t.Error("it was tried again before its time")
	}
	h.ahead, h.shelf.refuse = 10*time.Minute, nil
	if out = h.once(); out[0].State != Served || h.first.calls != 2 {
		t.Errorf("%+v after %d orders", out[0], h.first.calls)
	}
	closed := time.Now().UTC().Add(6*time.Hour).Format("15:04") + "-" + time.Now().UTC().Add(7*time.Hour).Format("15:04") + " UTC"
	w, err := deploy.ParseWindow(closed)
	if err != nil {
		t.Fatal(err)
	}
	h.open(t.TempDir(), func(c *Config) { c.Targets["shelf"].Options.Windows = []deploy.Window{w} })
	h.ahead = 0
	if out = h.once(); out[0].State != Pending || out[0].Error != "" || time.Until(out[0].RetryAt) < 5*time.Hour {
		t.Errorf("outside of the window: %+v", out[0])
	}
}

// One program works in a state directory, and a damaged file stops its own
// certificate and no other.
func TestStateDirectory(t *testing.T) {
	h := newHost(t)
	h.once()
	lock, err := h.r.lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.r.Once(t.Context(), nil); !fault.Is(err, fault.Unavailable) {
		t.Errorf("two at once: %v", err)
	}
	lock.Release()
	if err := os.WriteFile(filepath.Join(h.r.cfg.State, "certificates", "a.json"), []byte(`{"certificate":{}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := h.once("b"); out[0].State != Failed || out[1].State != Served || !out[1].Renewed {
		t.Errorf("%+v", out)
	}
	store := Store{h.r.cfg.State, "first"}
	for _, bad := range []string{"", "../x", "a/b", "A"} {
		if err := store.Keep(t.Context(), bad, nil); err == nil {
			t.Errorf("%q was kept", bad)
		}
	}
}

// A run that stays ends with its context, and does its work before.
func TestRun(t *testing.T) {
	h := newHost(t)
	ctx, cancel := context.WithCancel(t.Context())
	opened, closed := 0, make(chan struct{})
	h.open(t.TempDir(), func(c *Config) {
		c.Respond = func() (func() error, error) {
			opened++
			return func() error { close(closed); cancel(); return nil }, nil
		}
	})
	if err := h.r.Run(ctx); err != nil {
		t.Fatal(err)
	}
	<-closed
	if opened != 1 || h.r.List()[1].SHA256 == "" {
		t.Errorf("opened %d times, %+v", opened, h.r.List())
	}
}

// What a section says about the key and the date of a certificate.
func TestKeyAndDate(t *testing.T) {
	h := newHost(t)
	h.open(t.TempDir(), func(c *Config) {
		c.Certificates[0].ReuseKey, c.Certificates[0].KeyType = true, pki.P384
		c.Certificates[1].RenewBefore = 80 * 24 * time.Hour // of 90 days
	})
	keys := func() (out []string) {
		for _, it := range h.r.load() {
			leaf, err := it.rec.Live.parse()
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, string(leaf.RawSubjectPublicKeyInfo))
		}
		return out
	}
	first := h.once()
	if left := first[1].NotAfter.Sub(first[1].RenewAt); left < 70*24*time.Hour || first[0].NotAfter.Sub(first[0].RenewAt) > 31*24*time.Hour {
		t.Errorf("it is renewed %s before its end: %+v", left, first)
	}
	before := keys()
	h.once("*")
	after := keys()
	if before[0] != after[0] || before[1] == after[1] {
		t.Error("reuse_key keeps the key, and nothing else does")
	}
	if kt, err := pki.KeyTypeOf(h.leaf(0).PublicKey); err != nil || kt != pki.P384 {
		t.Errorf("%s, %v", kt, err)
	}
}

func (h *host) leaf(i int) *x509.Certificate {
	h.t.Helper()
	leaf, err := h.r.load()[i].rec.Live.parse()
	if err != nil {
		h.t.Fatal(err)
	}
	return leaf
}
