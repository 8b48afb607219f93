package issuertest

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"chancery/internal/issuer"
)

// Backend is what a fake of a CA's API needs behind its own protocol. Its
// fields are read and changed under Lock.
type Backend struct {
	*Authority
	sync.Mutex
	Sabotage  Sabotage
	Looks     int  // how often a new order is asked for before it is issued
	Reject    bool // new orders are given up
	Orders    []*Order
	RevokedBy map[string]int // serial in lower-case hex -> times
}

// Order is one order of a Backend.
type Order struct {
	Ref      string // what the client wants it to be found by
	CSR      []byte // DER
	Chain    [][]byte
	Rejected bool
	looks    int
}

// NewBackend returns an empty backend.
func NewBackend(t testing.TB) *Backend {
	return &Backend{Authority: NewAuthority(t), RevokedBy: map[string]int{}}
}

// Submit adds an order for a request in PEM and returns its number, from 1. It
// is called under Lock.
func (b *Backend) Submit(csr, ref string) (int, error) {
	block, _ := pem.Decode([]byte(csr))
	if block == nil {
		return 0, errors.New("the request is not PEM")
	}
	chain, err := b.Sign(block.Bytes, b.Sabotage)
	if err != nil {
		return 0, err
	}
	b.Orders = append(b.Orders, &Order{Ref: ref, CSR: block.Bytes, Chain: chain, Rejected: b.Reject, looks: b.Looks})
	return len(b.Orders), nil
}

// Look asks for an order once: done says that its chain may be had. It is
// called under Lock.
func (b *Backend) Look(n int) (o *Order, done bool) {
	if n < 1 || n > len(b.Orders) {
		return nil, false
	}
	o = b.Orders[n-1]
	if o.looks > 0 {
		o.looks--
		return o, false
	}
	return o, !o.Rejected
}

// Set changes the backend.
func (b *Backend) Set(f func(b *Backend)) {
	b.Lock()
	defer b.Unlock()
	f(b)
}

// Count returns how many orders there are.
func (b *Backend) Count() int {
	b.Lock()
	defer b.Unlock()
	return len(b.Orders)
}

// PEM returns certificates in PEM.
func PEM(chain ...[]byte) string {
	out := ""
	for _, der := range chain {
		out += string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	return out
}

// Suite is a kind of issuer in front of a fake of its CA.
type Suite struct {
	Backend *Backend
	Front   *Front // what the issuer reaches the API through; nil: none
	// Open opens the issuer, as after a restart. deadline is that of all
	// issuers; credentials are those that the API does not know if bad.
	Open func(t testing.TB, deadline time.Duration, bad bool) (issuer.Issuer, error)
	// Async is whether the CA may answer later, Finds whether a lost order is
	// found again, Revokes and Checks what else the kind can do.
	Async, Finds, Revokes, Checks bool
	Skips                         int // changing requests before the order, such as a sign-in
}

// Env is what an issuer gets from a test.
func Env(deadline time.Duration) issuer.Env {
	store := &Store{}
	return issuer.Env{Name: "test", Log: slog.New(slog.DiscardHandler), Keep: store.Keep, Kept: store.Kept, Deadline: deadline}
}

func (s *Suite) open(t testing.TB) issuer.Issuer {
	t.Helper()
	i, err := s.Open(t, time.Hour, false)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// Run runs the suite.
func Run(t *testing.T, s Suite) {
	t.Run("a certificate", func(t *testing.T) { s.issue(t) })
	t.Run("a wrong certificate is never returned", func(t *testing.T) { s.wrong(t) })
	t.Run("a lost lease stops before anything is ordered", func(t *testing.T) { s.lease(t) })
	if s.Async {
		t.Run("an order that takes time survives restarts", func(t *testing.T) { s.pending(t) })
		t.Run("after the deadline people are told", func(t *testing.T) { s.deadline(t) })
		t.Run("an order that is given up is permanent", func(t *testing.T) { s.rejected(t) })
	}
	if s.Finds {
		t.Run("an order whose answer was lost is found again", func(t *testing.T) { s.lost(t) })
	}
	if s.Front != nil {
		t.Run("throttles and outages", func(t *testing.T) { s.outages(t) })
		t.Run("wrong credentials are permanent", func(t *testing.T) { s.credentials(t) })
	}
	if s.Revokes {
		t.Run("revocation", func(t *testing.T) { s.revoke(t) })
	}
}

func (s *Suite) must(t *testing.T, i issuer.Issuer, r *issuer.Request) *x509.Certificate {
	t.Helper()
	reply, err := i.Issue(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if len(reply.Chain) != 2 {
		t.Fatalf("%d certificates, ask again at %s; want leaf and issuing CA", len(reply.Chain), reply.PollAt)
	}
	leaf, err := x509.ParseCertificate(reply.Chain[0])
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

func (s *Suite) issue(t *testing.T) {
	s.must(t, s.open(t), NewRequest(t, "suite-issue", "b.example.test", "a.example.test", "*.w.example.test"))
	if s.Checks {
		if err := s.open(t).(issuer.Checker).Check(t.Context()); err != nil {
			t.Errorf("check: %v", err)
		}
	}
}

func (s *Suite) wrong(t *testing.T) {
	for name, bad := range map[string]Sabotage{"key": {Key: true}, "names": {Names: true}, "no certificate": {Chain: true}} {
		s.Backend.Set(func(b *Backend) { b.Sabotage = bad })
		reply, err := s.open(t).Issue(t.Context(), NewRequest(t, "suite-wrong", "a.example.test"))
		if reply.Chain != nil {
			t.Errorf("%s: it was returned", name)
		}
		WantClass(t, err, issuer.Mismatch)
	}
	s.Backend.Set(func(b *Backend) { b.Sabotage = Sabotage{} })
}

func (s *Suite) lease(t *testing.T) {
	r, before, errLost := NewRequest(t, "suite-lease", "a.example.test"), s.Backend.Count(), errors.New("lease lost")
	r.Save = func(context.Context, issuer.State) error { return errLost }
	if _, err := s.open(t).Issue(t.Context(), r); !errors.Is(err, errLost) {
		t.Errorf("error %v", err)
	}
	if s.Backend.Count() != before {
		t.Error("something was ordered")
	}
}

func (s *Suite) pending(t *testing.T) {
	s.Backend.Set(func(b *Backend) { b.Looks = 2 })
	defer s.Backend.Set(func(b *Backend) { b.Looks = 0 })
	r, before := NewRequest(t, "suite-pending", "a.example.test"), s.Backend.Count()
	for look := range 3 {
		reply, err := s.open(t).Issue(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if len(reply.Chain) > 0 {
			break
		}
		if look == 2 || time.Until(reply.PollAt) <= 0 || time.Until(reply.PollAt) > time.Hour {
			t.Fatalf("look %d: no chain, ask again at %s", look, reply.PollAt)
		}
	}
	if n := s.Backend.Count() - before; n != 1 {
		t.Errorf("%d orders were made", n)
	}
}

func (s *Suite) deadline(t *testing.T) {
	s.Backend.Set(func(b *Backend) { b.Looks = 1 })
	defer s.Backend.Set(func(b *Backend) { b.Looks = 0 })
	i, err := s.Open(t, time.Nanosecond, false)
	if err != nil {
		t.Fatal(err)
	}
	r, before := NewRequest(t, "suite-deadline", "a.example.test"), s.Backend.Count()
	_, err = i.Issue(t.Context(), r)
	WantClass(t, err, issuer.Permanent)
	s.must(t, i, r) // a late certificate is taken all the same
	if n := s.Backend.Count() - before; n != 1 {
		t.Errorf("%d orders were made", n)
	}
}

func (s *Suite) rejected(t *testing.T) {
	s.Backend.Set(func(b *Backend) { b.Reject = true })
	r := NewRequest(t, "suite-rejected", "a.example.test")
	_, err := s.open(t).Issue(t.Context(), r)
	WantClass(t, err, issuer.Permanent)
	s.Backend.Set(func(b *Backend) { b.Reject = false })
	s.must(t, s.open(t), r) // the next attempt is a new order
}

func (s *Suite) lost(t *testing.T) {
	r, before := NewRequest(t, "suite-lost", "a.example.test"), s.Backend.Count()
	s.Front.Lose(1 + s.Skips)
	_, err := s.open(t).Issue(t.Context(), r)
	WantClass(t, err, issuer.Unavailable)
	s.must(t, s.open(t), r)
	if n := s.Backend.Count() - before; n != 1 {
		t.Errorf("%d orders were made", n)
	}
}

func (s *Suite) outages(t *testing.T) {
	defer s.Front.Fail(0, 0, "")
	for _, tc := range []struct {
		status int
		after  string
		class  issuer.Class
		wait   time.Duration
	}{
		{http.StatusTooManyRequests, "3600", issuer.Throttled, time.Hour},
		{http.StatusServiceUnavailable, "120", issuer.Unavailable, 2 * time.Minute},
		{http.StatusInternalServerError, "", issuer.Unavailable, 0},
		{Broken, "", issuer.Unavailable, 0},
	} {
		s.Front.Fail(-1, tc.status, tc.after)
		_, err := s.open(t).Issue(t.Context(), NewRequest(t, "suite-outage", "a.example.test"))
		if e := WantClass(t, err, tc.class); e.RetryAfter != tc.wait {
			t.Errorf("status %d: retry after %s, want %s", tc.status, e.RetryAfter, tc.wait)
		}
	}
	s.Front.Fail(1, http.StatusTooManyRequests, "1")
	s.must(t, s.open(t), NewRequest(t, "suite-throttle", "a.example.test")) // a short throttle is waited for
}

func (s *Suite) credentials(t *testing.T) {
	i, err := s.Open(t, time.Hour, true)
	if err != nil {
		t.Fatal(err)
	}
	before := s.Backend.Count()
	_, err = i.Issue(t.Context(), NewRequest(t, "suite-credentials", "a.example.test"))
	WantClass(t, err, issuer.Permanent)
	if s.Backend.Count() != before {
		t.Error("something was ordered")
	}
	if s.Checks {
		WantClass(t, i.(issuer.Checker).Check(t.Context()), issuer.Permanent)
	}
}

func (s *Suite) revoke(t *testing.T) {
	leaf := s.must(t, s.open(t), NewRequest(t, "suite-revoke", "r.example.test"))
	for range 2 { // the second time is no error
		if err := s.open(t).(issuer.Revoker).Revoke(t.Context(), leaf, 4); err != nil {
			t.Fatal(err)
		}
	}
	s.Backend.Set(func(b *Backend) {
		if b.RevokedBy[Serial(leaf)] == 0 {
			t.Errorf("serial %s is not revoked: %v", Serial(leaf), b.RevokedBy)
		}
	})
}

// Serial returns a serial number in lower-case hex of whole octets.
func Serial(c *x509.Certificate) string {
	const digits = "0123456789abcdef"
	out := ""
	for _, b := range c.SerialNumber.Bytes() {
		out += string(digits[b>>4]) + string(digits[b&15])
	}
	return out
}

// File writes a file for the test and returns its path.
func File(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
