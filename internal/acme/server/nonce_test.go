package server

import (
	"encoding/base64"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

func TestNonceIsGoodExactlyOnce(t *testing.T) { // RFC 8555 section 6.5
	n := newNonces([32]byte{1}, 7, 1024)
	for range 5000 { // several laps around the ring
		s := n.Issue()
		if v, owner := n.Redeem(s); v != nonceOK || owner != 7 {
			t.Fatalf("first use of %q: %v of %d, want ok of 7", s, v, owner)
		}
		if v, _ := n.Redeem(s); v != nonceStale {
			t.Fatalf("second use of %q: %v, want stale", s, v)
		}
	}
}

func TestNonceAlphabet(t *testing.T) { // RFC 8555 section 6.5.1: base64url characters only
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	n := newNonces([32]byte{}, 1<<32-1, 64)
	for range 200 {
		if s := n.Issue(); len(s) != nonceChars || strings.Trim(s, alphabet) != "" {
			t.Fatalf("nonce %q: want %d characters of base64url", s, nonceChars)
		}
	}
}

func TestNonceWholeWindowMayBeOut(t *testing.T) {
	const window = 4096
	n := newNonces([32]byte{1}, 1, window)
	for range window / 3 { // do not start at a word boundary
		n.Redeem(n.Issue())
	}
	out := make([]string, window-wordCounters)
	for i := range out {
		out[i] = n.Issue()
	}
	for i := range out { // newest first is the worst order
		if v, _ := n.Redeem(out[len(out)-1-i]); v != nonceOK {
			t.Fatalf("nonce %d of %d out at once: %v, want ok", len(out)-1-i, len(out), v)
		}
	}
}

func TestNonceOvertakenByWindowIsStale(t *testing.T) {
	const window = 1024
	n := newNonces([32]byte{1}, 1, window)
	old := n.Issue()
	for range 2 * window {
		n.Redeem(n.Issue())
	}
	if v, _ := n.Redeem(old); v != nonceStale {
		t.Errorf("nonce overtaken by two windows: %v, want stale", v)
	}
}

func TestNonceOldLapCannotUndoNewOne(t *testing.T) {
	const window = 64
	n := newNonces([32]byte{1}, 1, window)
	old := n.Issue()
	for range window - 1 {
		n.Issue()
	}
	same := n.Issue() // has the bit of old, one lap later
	if v, _ := n.Redeem(same); v != nonceOK {
		t.Fatalf("new lap: %v, want ok", v)
	}
	if v, _ := n.Redeem(old); v != nonceStale {
		t.Fatalf("old lap after the new one: %v, want stale", v)
	}
	if v, _ := n.Redeem(same); v != nonceStale {
		t.Fatalf("new lap again: %v, want stale", v)
	}
}

func TestNonceForeignReplicaIsNamed(t *testing.T) {
	a, b := newNonces([32]byte{1}, 1, 64), newNonces([32]byte{1}, 2, 64)
	s := b.Issue()
	if v, owner := a.Redeem(s); v != nonceForeign || owner != 2 {
		t.Fatalf("foreign nonce: %v of %d, want foreign of 2", v, owner)
	}
	if v, _ := b.Redeem(s); v != nonceOK {
		t.Fatalf("at its owner: %v, want ok", v)
	}
}

func TestNonceFromBeforeRestartIsInvalid(t *testing.T) {
	before := newNonces([32]byte{1}, 1, 64)
	var out []string
	for range 64 {
		out = append(out, before.Issue())
	}
	after := newNonces([32]byte{1}, 1, 64) // same key, same replica
	for _, s := range out {
		after.Issue()
		if v, _ := after.Redeem(s); v != nonceInvalid {
			t.Fatalf("nonce from before the restart: %v, want invalid", v)
		}
	}
}

func TestNonceForgeriesAreInvalid(t *testing.T) {
	n := newNonces([32]byte{1}, 1, 64)
	good := n.Issue()
	raw, err := base64.RawURLEncoding.DecodeString(good)
	if err != nil {
		t.Fatal(err)
	}
	for bit := 32; bit < 8*len(raw); bit++ {
		forged := append([]byte(nil), raw...)
		forged[bit/8] ^= 1 << (bit % 8)
		if v, _ := n.Redeem(base64.RawURLEncoding.EncodeToString(forged)); v != nonceInvalid {
			t.Fatalf("bit %d turned: %v, want invalid", bit, v)
		}
	}
	for _, s := range []string{"", "x", good[:26], good + "A", good[:26] + "=", good[:26] + "\n", good[:26] + "+", strings.Repeat("A", 1<<16)} {
		if v, _ := n.Redeem(s); v != nonceInvalid {
			t.Errorf("%.40q: %v, want invalid", s, v)
		}
	}
	if v, _ := n.Redeem(good); v != nonceOK {
		t.Errorf("the good one after all forgeries: %v, want ok", v)
	}
}

// Many goroutines redeem each nonce several times at once: each nonce must be
// accepted once, never twice, and never be refused before it was accepted.
func TestNonceConcurrentUse(t *testing.T) {
	const workers, each, tries = 16, 2000, 4
	n := newNonces([32]byte{1}, 1, 1<<16)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range each {
				s := n.Issue()
				var ok atomic.Int32
				var race sync.WaitGroup
				for range tries {
					race.Go(func() {
						if v, _ := n.Redeem(s); v == nonceOK {
							ok.Add(1)
						}
					})
				}
				race.Wait()
				if got := ok.Load(); got != 1 {
					t.Errorf("nonce accepted %d times, want once", got)
					return
				}
			}
		})
	}
	wg.Wait()
	if got := n.issued.Load(); got != workers*each {
		t.Errorf("issued %d nonces, want %d", got, workers*each)
	}
}

func TestNonceWindowIsRounded(t *testing.T) {
	for _, tt := range []struct{ window, words int }{{-1, 2}, {0, 2}, {64, 2}, {65, 4}, {1 << 20, 1 << 15}, {1<<20 + 1, 1 << 16}} {
		if got := len(newNonces([32]byte{}, 0, tt.window).ring); got != tt.words {
			t.Errorf("window %d: %d words, want %d", tt.window, got, tt.words)
		}
	}
}

func TestNonceVerdictNames(t *testing.T) {
	for v, want := range map[nonceVerdict]string{nonceOK: "ok", nonceStale: "stale", nonceInvalid: "invalid", nonceForeign: "foreign", 0: "verdict(0)"} {
		if got := v.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func FuzzNonceRedeem(f *testing.F) {
	n := newNonces([32]byte{1}, 0, 64)
	f.Add("")
	f.Add(strings.Repeat("A", nonceChars))
	f.Add(newNonces([32]byte{1}, 0, 64).Issue())
	f.Fuzz(func(t *testing.T, s string) {
		if v, _ := n.Redeem(s); v == nonceOK || v == nonceStale {
			t.Errorf("%q was never issued, yet %v", s, v)
		}
	})
}

func BenchmarkNonceIssueRedeem(b *testing.B) {
	n := newNonces([32]byte{1}, 1, 1<<20)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if v, _ := n.Redeem(n.Issue()); v != nonceOK {
				b.Error(v)
			}
		}
	})
}
