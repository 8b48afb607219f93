package inventory_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math/big"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"chancery/internal/db/dbtest"
	"chancery/internal/fault"
	"chancery/internal/inventory"
	"chancery/internal/pki"
)

func TestMain(m *testing.M) { os.Exit(dbtest.Main(m)) }

var epoch = time.Date(2026, 3, 10, 12, 30, 0, 0, time.UTC)

const day = 24 * time.Hour

// described returns the description of an invented certificate; equal seeds
// give equal certificates.
func described(seed int, notAfter time.Time, names ...string) *pki.Metadata {
	sum := sha256.Sum256(fmt.Appendf(nil, "certificate %d", seed))
	m := &pki.Metadata{Fingerprint: sum, SPKIHash: sha256.Sum256(fmt.Appendf(nil, "key %d", seed)), Issuer: "CN=Test CA 1,O=Test", Key: "p256",
		SignatureAlgo: "ECDSA-SHA256", NotBefore: notAfter.Add(-90 * day), NotAfter: notAfter, Names: names,
		Serial: pki.SerialFromBig(new(big.Int).SetBytes(sum[:16]))}
	if len(names) > 0 {
		m.CommonName = names[0]
	}
	return m
}

// seen is an observation of a described certificate.
func seen(m *pki.Metadata, source inventory.Source) inventory.Observation {
	return inventory.Observation{Metadata: m, Source: source, SeenAt: epoch}
}

// put stores observations and fails the test when one is refused.
func put(t testing.TB, s *inventory.Store, obs ...inventory.Observation) inventory.Result {
	t.Helper()
	res, err := s.Put(context.Background(), obs, epoch)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range res.Refused {
		t.Fatalf("observation %d: %v", e.Index, e.Err)
	}
	return res
}

func get(t testing.TB, s *inventory.Store, ref string) inventory.Detail {
	t.Helper()
	d, err := s.Get(context.Background(), ref)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func filter(t testing.TB, text string) inventory.Filter {
	t.Helper()
	f, err := inventory.Parse(text, epoch)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// walkAll pages through a query and returns every row.
func walkAll(t testing.TB, s *inventory.Store, q inventory.Query) []inventory.Certificate {
	t.Helper()
	var out []inventory.Certificate
	for range 10000 {
		p, err := s.List(context.Background(), q)
		if err != nil {
			t.Fatal(err)
		}
		if out = append(out, p.Certificates...); p.Next == "" {
			return out
		}
		q.Cursor = p.Next
	}
	t.Fatal("the pages do not end")
	return nil
}

func wantFault(t testing.TB, err error, code fault.Code) {
	t.Helper()
	if !fault.Is(err, code) {
		t.Fatalf("error = %v, want %s", err, code)
	}
}

// estate stores n random certificates and returns the random source.
func estate(t testing.TB, s *inventory.Store, n int, seed uint64) *rand.Rand {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed, 1))
	var obs []inventory.Observation
	for i := range n {
		obs = append(obs, randomObservation(rnd, i))
	}
	put(t, s, obs...)
	return rnd
}

func pick[T any](rnd *rand.Rand, vs ...T) T { return vs[rnd.IntN(len(vs))] }

// randomObservation invents certificate i; much of it comes from few values,
// so that conditions, chains and roll-up cells meet.
func randomObservation(rnd *rand.Rand, i int) inventory.Observation {
	owner := pick(rnd, "", "pay", "shop", "mail")
	names := []string{fmt.Sprintf("h%d.%s.example.com", rnd.IntN(20), pick(rnd, "pay", "shop", "a.pay"))}
	if rnd.IntN(3) == 0 {
		names = append(names, fmt.Sprintf("z%d.pay.example.com", rnd.IntN(5)))
	}
	m := described(i, epoch.Add(time.Duration(rnd.IntN(200*24)-20*24)*time.Hour), names...)
	m.Key = pick(rnd, "p256", "rsa2048", "rsa1024")
	m.Issuer = pick(rnd, "CN=Test CA 1,O=Test", "CN=Other CA,O=Else")
	o := seen(m, pick(rnd, inventory.FromScan, inventory.FromImport, inventory.FromCA))
	o.Owner, o.Team, o.Environment = owner, pick(rnd, "", "t1", "t2"), pick(rnd, "prod", "test")
	o.Managed = rnd.IntN(3) == 0
	if rnd.IntN(4) == 0 {
		o.Tags = map[string]string{"app": pick(rnd, "a", "b")}
	}
	if rnd.IntN(10) == 0 {
		o.RevokedAt = epoch.Add(-day)
	}
	if rnd.IntN(3) == 0 {
		o.Endpoint = &inventory.Sighting{Host: names[0], Port: pick(rnd, 443, 8443), SNI: names[0], Probe: "observe"}
	}
	return o
}
