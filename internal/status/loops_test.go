package status

import (
	"context"
	"crypto"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"chancery/internal/audit"
	"chancery/internal/ca"
	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/loop"
	"chancery/internal/pki"
)

// live runs loops until the test ends.
func live(t *testing.T, loops ...loop.Every) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, l := range loops {
		wg.Go(func() {
			if err := l.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(func() { stop(); wg.Wait() })
}

// eventually looks again and again until ok, and returns how long it took.
func eventually(t *testing.T, what string, ok func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for !ok() {
		if <-again.C; time.Since(start) > 20*time.Second {
			t.Fatalf("%s: not after %s", what, time.Since(start))
		}
	}
	return time.Since(start)
}

// TestLoopsCarryARevocation: as a whole installation runs, with nobody ticking.
func TestLoopsCarryARevocation(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		a := newWorld(t, d, withShards(2))
		b := a.replica(Config{})
		sequence := loop.Every{Name: "sequence", Interval: 100 * time.Millisecond, Tick: func(ctx context.Context) (loop.Count, error) {
			_, err := audit.Sequence(ctx, d, 1000)
			return loop.Count{}, err
		}}
		live(t, append(append(a.Loops(), b.Loops()...), sequence)...)
		for _, w := range []*world{a, b} {
			took := eventually(t, "ready", func() bool { return w.Ready(t.Context()) == nil })
			eventually(t, "CRLs", func() bool {
				return w.get("/crl/"+w.issuing.ID+"/0.crl").status == 200 && w.get("/crl/"+w.issuing.ID+"/1.crl").status == 200
			})
			t.Logf("ready after %s", took)
		}
		c, leaf := a.issue(true)
		seen := eventually(t, "good everywhere", func() bool { return len(b.post(requestFor(a, c.Serial)).body) > 100 })
		if got := b.ask(leaf); got.Status != ocsp.Good {
			t.Errorf("%+v", got)
		}
		a.revoke(c, pki.KeyCompromise, true)
		revoked := eventually(t, "revoked everywhere", func() bool { return b.ask(leaf).Status == ocsp.Revoked })
		listed := eventually(t, "listed everywhere", func() bool { _, ok := b.listed(c.Shard)[c.Serial]; return ok })
		t.Logf("another replica knows of the certificate after %s, of the revocation after %s, lists it after %s more", seen, revoked, listed)
		eventually(t, "a delegated responder", func() bool {
			_, ok := a.ca.Responder(a.issuing)
			return ok
		})
	})
}

func requestFor(w *world, serials ...pki.Serial) []byte {
	return pki.EncodeOCSPRequest(w.hashes(), crypto.SHA1, nil, serials...)
}

// TestSigningOnDemandIsBounded: answers made for one client alone wait for a
// slot of theirs, and then for another day; answers for everybody do not.
func TestSigningOnDemandIsBounded(t *testing.T) {
	w := newWorld(t, sqlite(t)).load()
	c, leaf := w.issue(true)
	for range cap(w.liveSlots) {
		w.liveSlots <- struct{}{}
	}
	if got := w.refused(w.post(requestFor(w, c.Serial, c.Serial))); got != "tryLater" {
		t.Errorf("%q", got)
	}
	if got := w.ask(leaf); got.Status != ocsp.Good { // signed now, in a slot of its own
		t.Errorf("%+v", got)
	}
}

// TestNoncesAreLimited: a second has so many answers with a nonce; who asks
// without one is served all the same.
func TestNoncesAreLimited(t *testing.T) {
	w := newWorld(t, sqlite(t), func(c *Config, _ *ca.Spec) { c.EchoNonce, c.LiveRate = true, 3 })
	w.clock = time.Now()
	w.load()
	c, leaf := w.issue(true)
	nonce := func() reply {
		return w.post(pki.EncodeOCSPRequest(w.hashes(), crypto.SHA1, []byte("0123456789abcdef0123456789abcdef"), c.Serial))
	}
	for i := range 3 {
		if got := w.parse(leaf, nonce()); got.Status != ocsp.Good {
			t.Errorf("answer %d: %+v", i, got)
		}
	}
	if got := w.refused(nonce()); got != "tryLater" {
		t.Errorf("%q", got)
	}
	if got := w.ask(leaf); got.Status != ocsp.Good {
		t.Errorf("%+v", got)
	}
	w.clock = w.clock.Add(time.Second)
	if got := w.parse(leaf, nonce()); got.Status != ocsp.Good {
		t.Errorf("a second later: %+v", got)
	}
}

func TestConfigIsChecked(t *testing.T) {
	w := newWorld(t, sqlite(t))
	for _, cfg := range []Config{{Validity: time.Minute}, {CRLValidity: time.Hour, CRLRefresh: time.Hour}} {
		cfg.CA, cfg.DB = w.ca, w.db
		if _, err := New(cfg); err == nil {
			t.Errorf("%+v is accepted", cfg)
		}
	}
	if _, err := New(Config{CA: w.ca, DB: w.db, Validity: time.Hour, CRLValidity: 2 * time.Hour}); err != nil {
		t.Error(err)
	}
	if err := w.Revoked(t.Context(), &ca.Certificate{AuthorityID: "nobody"}); err == nil {
		t.Error("a revocation of nobody's certificate is accepted")
	}
}
