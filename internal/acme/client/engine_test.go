package client_test

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/acme/client"
	"chancery/internal/fault"
	"chancery/internal/issuer"
	"chancery/internal/issuer/issuertest"
	"chancery/internal/pki"
)

// world is an engine in front of an ACME CA in memory.
type world struct {
	*client.Engine
	t       testing.TB
	ca      *issuertest.ACME
	store   *issuertest.Store
	solver  *issuertest.Solver
	account *client.Account
	cfg     client.EngineConfig
	acct    client.AccountConfig
}

func newWorld(t testing.TB, opts ...func(w *world)) *world {
	t.Helper()
	w := &world{t: t, ca: issuertest.NewACME(t), store: &issuertest.Store{}, solver: &issuertest.Solver{}}
	w.ca.Validate = w.solver.Check
	for _, o := range opts {
		o(w)
	}
	w.restart()
	return w
}

// restart is what a crash leaves: the store and nothing else.
func (w *world) restart() {
	w.t.Helper()
	c, err := client.New(client.Config{Directory: w.ca.URL})
	if err != nil {
		w.t.Fatal(err)
	}
	w.acct.Client, w.acct.Keep, w.acct.Kept = c, w.store.Keep, w.store.Kept
	if w.account, err = client.NewAccount(w.acct); err != nil {
		w.t.Fatal(err)
	}
	cfg := w.cfg
	cfg.Account, cfg.Solver = w.account, w.solver
	w.Engine = client.NewEngine(cfg)
}

func (w *world) mustIssue(r *issuer.Request) *x509.Certificate {
	w.t.Helper()
	reply, err := w.Issue(context.Background(), r)
	if err != nil {
		w.t.Fatal(err)
	}
	return leafOf(w.t, r, reply)
}

// leafOf checks a reply against what was asked for.
func leafOf(t testing.TB, r *issuer.Request, reply issuer.Reply) *x509.Certificate {
	t.Helper()
	if len(reply.Chain) == 0 {
		t.Fatalf("no chain, ask again at %s", reply.PollAt)
	}
	if _, err := issuer.Accept(r, reply.Chain); err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(reply.Chain[0])
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

func TestOneNameTakesFiveRequestsAndNoPoll(t *testing.T) {
	w := newWorld(t)
	w.mustIssue(issuertest.NewRequest(t, "first", "a.test"))
	want := []string{"directory", "new-nonce", "new-account", "new-order", "authorization", "challenge", "finalize", "certificate"}
	if diff := cmp.Diff(want, w.ca.Ops()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	w.mustIssue(issuertest.NewRequest(t, "second", "b.test"))
	if diff := cmp.Diff(append(want, want[3:]...), w.ca.Ops()); diff != "" {
		t.Errorf("the second order (-want +got):\n%s", diff)
	}
	if n := w.solver.Live(); n != 0 {
		t.Errorf("%d responses are left behind", n)
	}
}

func TestAllChallengesArePostedBeforeTheOrderIsLookedAt(t *testing.T) {
	w := newWorld(t)
	w.ca.Set(func(a *issuertest.ACME) { a.Looks, a.Processing = 1, 1 })
	w.mustIssue(issuertest.NewRequest(t, "many", "a.test", "b.test", "*.c.test", "d.test", "e.test", "192.0.2.1"))
	ops := w.ca.Ops()
	last := slices.Index(ops, "order")
	if posted := len(slices.DeleteFunc(slices.Clone(ops[:last]), func(s string) bool { return s != "challenge" })); posted != 6 {
		t.Errorf("%d challenges were posted before the first look at the order: %v", posted, ops)
	}
	if n := w.ca.Count("authorization"); n != 6 {
		t.Errorf("%d looks at authorizations, want one each", n)
	}
	if w.solver.Presents != 1 {
		t.Errorf("responses were presented in %d steps", w.solver.Presents)
	}
}

// TestResumeAtEveryRequest loses the answer of, or never sends, each request
// of an order in turn, restarts, and expects a certificate from one finalized
// order.
func TestResumeAtEveryRequest(t *testing.T) {
	for _, op := range []string{"directory", "new-nonce", "new-account", "new-order", "authorization", "challenge", "order", "finalize", "certificate"} {
		for _, lost := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s lost=%t", op, lost), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				w.ca.Set(func(a *issuertest.ACME) { a.Looks = 1 })
				w.ca.Fail(issuertest.Fault{Op: op, Times: 1, Lost: lost, Down: !lost})
				r := issuertest.NewRequest(t, "crash", "a.test", "b.test")
				// A HEAD request has no effect, and net/http itself repeats it.
				if _, err := w.Issue(context.Background(), r); op != "new-nonce" {
					issuertest.WantClass(t, err, issuer.Unavailable)
				}
				w.restart()
				w.mustIssue(r)
				signed := w.ca.Count("finalize")
				if want := map[bool]int{true: 1, false: 2}[lost || op != "finalize"]; signed != want && op != "new-nonce" {
					t.Errorf("the request was sent %d times, want %d", signed, want)
				}
			})
		}
	}
}

// TestResumeAfterEveryStep stops with a lost lease at each saved step.
func TestResumeAfterEveryStep(t *testing.T) {
	for _, stop := range []string{client.StepOrdered, client.StepPosted, client.StepFinalizing} {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s stored=%t", stop, after), func(t *testing.T) {
				w := newWorld(t)
				r := issuertest.NewRequest(t, "lease", "a.test")
				errLost := errors.New("lease lost")
				save, steps := r.Save, []string{}
				r.Save = func(ctx context.Context, s issuer.State) error {
					steps = append(steps, s.Step)
					if after {
						save(ctx, s)
					}
					if s.Step == stop {
						return errLost
					}
					return save(ctx, s)
				}
				if _, err := w.Issue(context.Background(), r); !errors.Is(err, errLost) {
					t.Fatalf("error %v", err)
				}
				if stop == client.StepPosted && w.ca.Count("challenge") != 0 || stop == client.StepFinalizing && w.ca.Count("finalize") != 0 {
					t.Error("the step was taken before it was saved")
				}
				r.Save = save
				w.restart()
				w.mustIssue(r)
			})
		}
	}
}

func TestAnOrderThatIsGoneIsMadeAgain(t *testing.T) {
	w := newWorld(t)
	r := issuertest.NewRequest(t, "gone", "a.test")
	w.ca.Fail(issuertest.Fault{Op: "authorization", Times: 1, Status: 500, Type: fault.ServerInternal})
	_, err := w.Issue(context.Background(), r)
	issuertest.WantClass(t, err, issuer.Unavailable)
	w.ca.Forget() // accounts, too: a test CA that was started again
	w.mustIssue(r)
	if n := w.ca.Count("new-account"); n != 2 {
		t.Errorf("the account was opened %d times, want 2", n)
	}
}

func TestFailedValidation(t *testing.T) {
	w := newWorld(t)
	w.ca.Set(func(a *issuertest.ACME) {
		a.Looks = 1
		a.Validate = func(_ string, id pki.Identifier, _, _ string) error {
			if id.Value == "bad.test" {
				return errors.New("saw the wrong page")
			}
			return nil
		}
	})
	r := issuertest.NewRequest(t, "invalid", "bad.test", "good.test")
	_, err := w.Issue(context.Background(), r)
	e := issuertest.WantClass(t, err, issuer.Validation)
	if e.Identifier != "bad.test" || !strings.Contains(e.Error(), "saw the wrong page") {
		t.Errorf("error %v about %q", e, e.Identifier)
	}
	if w.solver.Live() != 0 {
		t.Error("responses are left behind")
	}
	w.ca.Set(func(a *issuertest.ACME) { a.Validate = nil })
	w.mustIssue(r) // the same state leads to a new order
	if n := w.ca.Count("new-order"); n != 2 {
		t.Errorf("%d orders, want 2", n)
	}
}

func TestWrongCertificatesAreNeverReturned(t *testing.T) {
	for name, s := range map[string]issuertest.Sabotage{"key": {Key: true}, "names": {Names: true}, "no certificate": {Chain: true}, "50 certificates": {Long: true}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.ca.Set(func(a *issuertest.ACME) { a.Sabotage = s })
			reply, err := w.Issue(context.Background(), issuertest.NewRequest(t, "wrong", "a.test"))
			issuertest.WantClass(t, err, issuer.Mismatch)
			if reply.Chain != nil {
				t.Error("it was returned")
			}
		})
	}
}

func TestChainIsServedWithoutRootAndRubbish(t *testing.T) {
	w := newWorld(t)
	r := issuertest.NewRequest(t, "chain", "a.test")
	chain, err := w.ca.Sign(r.CSR, issuertest.Sabotage{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := issuer.Accept(r, [][]byte{chain[0], w.ca.Other.Raw, w.ca.Root.Raw, chain[1]})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(chain, got); diff != "" {
		t.Errorf("chain (-want +got):\n%s", diff)
	}
}

func TestPreferredChain(t *testing.T) {
	for want, root := range map[string]string{"": "Test Root", "Other Root": "Other Root", "Test Root": "Test Root", "None Such": "Test Root"} {
		w := newWorld(t, func(w *world) { w.cfg.Chain = want })
		w.ca.Set(func(a *issuertest.ACME) { a.Alternate = true })
		reply, err := w.Issue(context.Background(), issuertest.NewRequest(t, "alt", "a.test"))
		if err != nil {
			t.Fatal(err)
		}
		top, err := x509.ParseCertificate(reply.Chain[len(reply.Chain)-1])
		if err != nil {
			t.Fatal(err)
		}
		if top.Issuer.CommonName != root {
			t.Errorf("chain %q wanted: it leads to %s", want, top.Issuer.CommonName)
		}
	}
}

func TestRetryAfterIsHonoured(t *testing.T) {
	for name, header := range map[string]string{"seconds": "120", "date": time.Now().Add(120 * time.Second).UTC().Format(http.TimeFormat)} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.ca.Set(func(a *issuertest.ACME) { a.Processing = 5 })
			w.ca.Fail(issuertest.Fault{Op: "finalize", RetryAfter: header})
			r := issuertest.NewRequest(t, "slow", "a.test")
			begin := time.Now()
			reply, err := w.Issue(context.Background(), r)
			if err != nil {
				t.Fatal(err)
			}
			if d := reply.PollAt.Sub(begin); d < 115*time.Second || d > 125*time.Second {
				t.Errorf("asked again after %s", d)
			}
			if n := w.ca.Count("order"); n != 0 {
				t.Errorf("the order was looked at %d times before", n)
			}
			if w.solver.Live() != 1 {
				t.Error("the response is gone while the CA is not done")
			}
			w.ca.Set(func(a *issuertest.ACME) { a.Processing = 0 })
			w.mustIssue(r)
			if w.solver.Live() != 0 {
				t.Error("the response is left behind")
			}
		})
	}
}

func TestReplaces(t *testing.T) {
	w := newWorld(t)
	first := w.mustIssue(issuertest.NewRequest(t, "first", "a.test"))
	second := issuertest.NewRequest(t, "second", "a.test")
	second.Replaces = first.Raw
	// The answer of new-order is lost, so the CA knows of a successor that we
	// do not, and says 409 to the next one (RFC 9773 section 5).
	w.ca.Fail(issuertest.Fault{Op: "new-order", Times: 1, Lost: true})
	_, err := w.Issue(context.Background(), second)
	issuertest.WantClass(t, err, issuer.Unavailable)
	w.mustIssue(second)
	if n := w.ca.Count("new-order"); n != 4 {
		t.Errorf("%d orders, want 4: one, one lost, one refused, one without replaces", n)
	}
}

func TestNonces(t *testing.T) {
	t.Run("one that is refused is replaced by that of the refusal", func(t *testing.T) {
		w := newWorld(t)
		w.ca.Fail(issuertest.Fault{Op: "new-order", Times: 3, BadNonce: true})
		w.mustIssue(issuertest.NewRequest(t, "a", "a.test"))
		if n := w.ca.Count("new-nonce"); n != 1 {
			t.Errorf("%d nonces were fetched, want 1", n)
		}
	})
	t.Run("a CA that takes none is unavailable", func(t *testing.T) {
		w := newWorld(t)
		w.ca.Fail(issuertest.Fault{Op: "new-order", BadNonce: true})
		_, err := w.Issue(context.Background(), issuertest.NewRequest(t, "b", "a.test"))
		issuertest.WantClass(t, err, issuer.Unavailable)
		if n := w.ca.Count("new-order"); n != 6 {
			t.Errorf("sent %d times, want 6", n)
		}
	})
	t.Run("replies without one", func(t *testing.T) {
		w := newWorld(t)
		for _, op := range []string{"new-account", "new-order", "challenge"} {
			w.ca.Fail(issuertest.Fault{Op: op, NoNonce: true})
		}
		w.mustIssue(issuertest.NewRequest(t, "c", "a.test"))
	})
}

func TestAccountIsMadeOnce(t *testing.T) {
	w := newWorld(t)
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			r := issuertest.NewRequest(t, fmt.Sprint("r", i), fmt.Sprintf("a%d.test", i))
			if _, err := w.Issue(context.Background(), r); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	w.restart()
	w.mustIssue(issuertest.NewRequest(t, "later", "b.test"))
	if n := w.ca.Count("new-account"); n != 1 {
		t.Errorf("%d accounts were opened", n)
	}
	if err := w.account.Check(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestLostAccountAnswerFindsTheAccountAgain(t *testing.T) {
	w := newWorld(t)
	w.ca.Fail(issuertest.Fault{Op: "new-account", Times: 1, Lost: true})
	issuertest.WantClass(t, w.account.Check(context.Background()), issuer.Unavailable)
	w.restart()
	if err := w.account.Check(context.Background()); err != nil {
		t.Fatal(err)
	}
	keys := map[string]bool{}
	w.ca.Set(func(a *issuertest.ACME) {
		for _, k := range a.AccountKeys() {
			keys[k] = true
		}
	})
	if len(keys) != 1 {
		t.Errorf("%d keys were registered, want 1", len(keys))
	}
}

func TestExternalAccountBinding(t *testing.T) {
	secret := []byte("0123456789abcdef0123456789abcdef")
	eab := func(kid string, key []byte) func(w *world) {
		return func(w *world) {
			w.ca.EAB = map[string][]byte{"kid-1": secret}
			w.acct.EAB = client.EAB{KeyID: kid, Key: key}
		}
	}
	newWorld(t, eab("kid-1", secret)).mustIssue(issuertest.NewRequest(t, "a", "a.test"))
	_, err := newWorld(t, eab("kid-1", []byte("fedcba9876543210fedcba9876543210"))).Issue(context.Background(), issuertest.NewRequest(t, "b", "a.test"))
	issuertest.WantClass(t, err, issuer.Permanent)
	_, err = newWorld(t, eab("", nil)).Issue(context.Background(), issuertest.NewRequest(t, "c", "a.test"))
	if e := issuertest.WantClass(t, err, issuer.Permanent); !strings.Contains(e.Error(), "eab_key_id") {
		t.Errorf("error %v does not say what to set", e)
	}
}

func TestProfiles(t *testing.T) {
	w := newWorld(t, func(w *world) { w.cfg.Profile = "short" })
	w.ca.Set(func(a *issuertest.ACME) { a.Profiles = map[string]string{"short": "6 days", "tls": "45 days"} })
	w.mustIssue(issuertest.NewRequest(t, "a", "a.test"))
	r := issuertest.NewRequest(t, "b", "a.test")
	r.Profile = "none"
	_, err := w.Issue(context.Background(), r)
	if e := issuertest.WantClass(t, err, issuer.Permanent); !strings.Contains(e.Error(), "short, tls") {
		t.Errorf("error %v does not list the profiles", e)
	}
}

func TestNoMethodForAName(t *testing.T) {
	w := newWorld(t, func(w *world) { w.solver.List = []string{"tls-alpn-01"} })
	_, err := w.Issue(context.Background(), issuertest.NewRequest(t, "a", "a.test"))
	if e := issuertest.WantClass(t, err, issuer.Permanent); e.Identifier != "a.test" || !strings.Contains(e.Error(), "http-01, dns-01") {
		t.Errorf("error %v", e)
	}
}

func TestProviderFailureIsPassedOn(t *testing.T) {
	w := newWorld(t, func(w *world) {
		w.solver.Err = &issuer.Error{Class: issuer.Provider, Provider: "dns/main", Err: errors.New("quota")}
	})
	_, err := w.Issue(context.Background(), issuertest.NewRequest(t, "a", "a.test"))
	if e := issuertest.WantClass(t, err, issuer.Provider); e.Provider != "dns/main" {
		t.Errorf("error %+v", e)
	}
	if w.ca.Count("challenge") != 0 {
		t.Error("the CA was told to look at nothing")
	}
}

func TestRenewalInfo(t *testing.T) {
	w := newWorld(t)
	leaf := w.mustIssue(issuertest.NewRequest(t, "a", "a.test"))
	start := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	w.ca.Set(func(a *issuertest.ACME) { a.Window = [2]time.Time{start, start.Add(time.Hour)} })
	w.ca.Fail(issuertest.Fault{Op: "renewal-info", RetryAfter: "21600"})
	c := w.acct.Client
	got, err := c.RenewalInfo(context.Background(), leaf)
	if err != nil {
		t.Fatal(err)
	}
	if !got.Start.Equal(start) || !got.End.Equal(start.Add(time.Hour)) || got.Explanation != "https://ca.test/why" || time.Until(got.RetryAfter) < 5*time.Hour {
		t.Errorf("renewal information %+v", got)
	}
	w.ca.Set(func(a *issuertest.ACME) { a.Window = [2]time.Time{start, start} })
	if _, err := c.RenewalInfo(context.Background(), leaf); err == nil {
		t.Error("a window without a span is accepted (RFC 9773 section 4.2)")
	}
}

func TestRevoke(t *testing.T) {
	w := newWorld(t)
	leaf := w.mustIssue(issuertest.NewRequest(t, "a", "a.test"))
	for range 2 { // the second time is no error
		if err := w.account.Revoke(context.Background(), leaf, 4); err != nil {
			t.Fatal(err)
		}
	}
	w.ca.Set(func(a *issuertest.ACME) {
		if got, ok := a.Revoked[base64.RawURLEncoding.EncodeToString(leaf.Raw)]; !ok || got != 4 {
			t.Errorf("revoked %v, reason %d", ok, got)
		}
	})
}

func TestConnectionsAreKept(t *testing.T) {
	w := newWorld(t)
	const n = 32
	wave := func(round int) {
		var all sync.WaitGroup
		for i := range n {
			all.Go(func() {
				if _, err := w.Issue(context.Background(), issuertest.NewRequest(t, fmt.Sprint(round, i), fmt.Sprintf("a%d.test", i))); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}
	for round := range 3 {
		wave(round)
	}
	// The default of two idle connections per host would open about one per
	// request, and there were 480 requests.
	if opened := w.ca.Conns(); opened > 3*n {
		t.Errorf("%d orders at once opened %d connections", n, opened)
	}
}
