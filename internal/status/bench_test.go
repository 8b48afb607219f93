package status

import (
	"context"
	"crypto"
	"encoding/base64"
	"testing"
	"time"

	"chancery/internal/pki"
)

// filled is a world whose table has n more serials than its database.
func filled(b *testing.B, n int) (*world, *book) {
	w := newWorld(b, sqlite(b)).load()
	_, err := w.renewResponders(b.Context())
	must(b, err)
	book := w.book(w.issuing.ID)
	for i := range n {
		f, _ := newFact(serialOf(i), time.Now(), time.Now().Add(90*24*time.Hour), time.Time{}, 0)
		book.put(f)
	}
	return w, book
}

// BenchmarkAnswer is the way from a request's bytes to an answer's.
func BenchmarkAnswer(b *testing.B) {
	w, _ := filled(b, 10_000)
	_, err := w.presign(b.Context())
	must(b, err)
	der := pki.EncodeOCSPRequest(w.hashes(), crypto.SHA1, nil, serialOf(77))
	text := base64.StdEncoding.EncodeToString(der)
	sc := new(scratch)
	answer := func(b *testing.B) {
		must(b, pki.ParseOCSPRequest(sc.raw, &sc.req))
		if a, err := w.answer(b.Context(), w.issuing.ID, sc); err != nil || len(a.der) == 0 {
			b.Fatal(err)
		}
	}
	b.Run("POST", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			sc.raw = append(sc.raw[:0], der...)
			answer(b)
		}
	})
	b.Run("GET", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			must(b, sc.decodeGET(text))
			answer(b)
		}
	})
}

// BenchmarkPresign signs answers ahead of time; ns/op is per answer.
func BenchmarkPresign(b *testing.B) {
	w, book := filled(b, 1000)
	f, _, _, _ := book.get([]byte(serialOf(1)), bySHA1, nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := w.renew(b.Context(), book, &f, bySHA1); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkScan looks through 100,000 answers that are all fresh, as every tick
// of the signer does.
func BenchmarkScan(b *testing.B) {
	w, _ := filled(b, 100_000)
	for n := 1; n > 0; {
		c, err := w.presign(b.Context())
		must(b, err)
		n = c.Claimed
	}
	for b.Loop() {
		if n, err := w.presign(b.Context()); err != nil || n.Claimed != 0 {
			b.Fatal(n, err)
		}
	}
}

// BenchmarkCRL builds a list of 100,000 entries and checks it against the one
// before; nothing is published.
func BenchmarkCRL(b *testing.B) {
	w, book := filled(b, 0)
	c := book.crls[0]
	for i := range 100_000 {
		f, _ := newFact(serialOf(i), time.Now(), time.Now().Add(90*24*time.Hour), time.Now(), pki.Superseded)
		book.put(f)
		c.add(&f)
	}
	next, err := w.build(context.Background(), book, c, book.auth.Load(), time.Now())
	must(b, err)
	c.install(next.next, next.known)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.build(context.Background(), book, c, book.auth.Load(), time.Now()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(next.next.der)), "CRL-bytes")
}
