package acme_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"chancery/internal/issuer"
	"chancery/internal/issuer/acme"
	"chancery/internal/issuer/issuertest"
)

func TestOurOwnServer(t *testing.T) {
	w := newWorld(t)
	w.runOurs(t)
	i := w.open(t, nil)
	if err := i.(issuer.Checker).Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	var first [][]byte
	for n, names := range [][]string{{"one.example.test"}, {"a.example.test", "b.example.test", "*.c.example.test", "*.a.example.test"}, {"127.0.0.1"}} {
		t.Run(fmt.Sprint(names), func(t *testing.T) {
			w.names(names...)
			chain := issue(t, i, issuertest.NewRequest(t, id(n), names...))
			if n == 0 {
				first = chain
			}
			if len(chain) < 2 {
				t.Errorf("the chain has %d certificates", len(chain))
			}
		})
	}
	leaf := parse(t, first[0])
	t.Run("renewal information", func(t *testing.T) {
		info, err := i.(issuer.Informer).RenewalInfo(t.Context(), leaf)
		if err != nil || !info.Start.Before(info.End) || info.RetryAfter.Before(time.Now()) {
			t.Errorf("%+v, %v", info, err)
		}
	})
	t.Run("a renewal says what it replaces", func(t *testing.T) {
		for n := range 2 { // the second is refused once, with 409
			r := issuertest.NewRequest(t, id(10+n), "one.example.test")
			r.Replaces = leaf.Raw
			issue(t, i, r)
		}
	})
	t.Run("revocation", func(t *testing.T) {
		for range 2 {
			if err := i.(issuer.Revoker).Revoke(t.Context(), leaf, 4); err != nil {
				t.Fatal(err)
			}
		}
	})
	t.Run("a name that leads nowhere is a failed validation", func(t *testing.T) {
		_, err := i.Issue(t.Context(), issuertest.NewRequest(t, id(20), "nowhere.invalid-zone.test"))
		e := issuertest.WantClass(t, err, issuer.Validation)
		if e.Identifier != "nowhere.invalid-zone.test" {
			t.Errorf("error %+v", e)
		}
	})
}

func TestMistakesAreFoundEarly(t *testing.T) {
	short := filepath.Join(t.TempDir(), "short")
	if err := os.WriteFile(short, []byte("abc\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]acme.Config{
		"no directory":       {},
		"unknown CA":         {Directory: "letsencript"},
		"in the clear":       {Directory: "http://ca.example/directory"},
		"binding is missing": {Directory: "zerossl"},
		"no key file":        {Directory: "letsencrypt", EABKeyID: "k"},
		"short key":          {Directory: "letsencrypt", EABKeyID: "k", EABKeyFile: short},
		"key type":           {Directory: "letsencrypt", KeyType: "dsa"},
		"contact":            {Directory: "letsencrypt", Contact: []string{"Ops <ops@example.com>"}},
		"roots":              {Directory: "letsencrypt", RootsFile: "/nonexistent"},
	} {
		store := &issuertest.Store{}
		if _, err := acme.Kind.Open(issuer.Env{Name: "x", Log: slog.New(slog.DiscardHandler), Keep: store.Keep, Kept: store.Kept}, &c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	for _, p := range acme.Presets() {
		c := acme.Config{Directory: p.Name}
		store := &issuertest.Store{}
		if _, err := acme.Kind.Open(issuer.Env{Name: "x", Log: slog.New(slog.DiscardHandler), Keep: store.Keep, Kept: store.Kept}, &c); (err != nil) != p.EAB {
			t.Errorf("%s: %v", p.Name, err)
		}
	}
}

// cpu is what this process has used so far.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkOrder measures what an order of one name costs this process: the
// client with its responder, over TLS to our own server in another process.
func BenchmarkOrder(b *testing.B) {
	w := newWorld(b)
	w.runOursWith(b, b.N)
	i := w.open(b, nil)
	if err := i.(issuer.Checker).Check(context.Background()); err != nil {
		b.Fatal(err)
	}
	requests := make([]*issuer.Request, b.N)
	for n := range requests {
		requests[n] = issuertest.NewRequest(b, id(n), fmt.Sprintf("h%d.example.test", n))
	}
	work := make(chan *issuer.Request)
	var all sync.WaitGroup
	b.ResetTimer()
	begin := cpu(b)
	for range 8 {
		all.Go(func() {
			for r := range work {
				if reply, err := i.Issue(context.Background(), r); err != nil || len(reply.Chain) == 0 {
					b.Errorf("%v, ask again at %s", err, reply.PollAt)
				}
			}
		})
	}
	for _, r := range requests {
		work <- r
	}
	close(work)
	all.Wait()
	b.ReportMetric(float64((cpu(b)-begin).Microseconds())/float64(b.N), "client-cpu-µs/order")
}
