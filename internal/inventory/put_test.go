package inventory_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/fault"
	"chancery/internal/inventory"
)

// selfSigned returns a real certificate.
func selfSigned(t testing.TB, cn string, names ...string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(0x1234), Subject: pkix.Name{CommonName: cn}, DNSNames: names,
		NotBefore: epoch.Add(-day), NotAfter: epoch.Add(30 * day)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestPutKeepsWhatACertificateSays(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := context.Background()
		s := inventory.New(d)
		der := selfSigned(t, "Caf\u00e9 \x01", "www.example.com", "EXAMPLE.com")
		o := inventory.Observation{DER: der, Source: inventory.FromImport, SeenAt: epoch, Owner: "pay", Tags: map[string]string{"app": "shop"}}
		res := put(t, s, o)
		if res.New != 1 || res.Known != 0 || !db.ValidID(res.IDs[0]) {
			t.Fatalf("%+v", res)
		}
		c := get(t, s, res.IDs[0])
		if c.Issuer != "self-signed" || c.KeyType != "p256" || c.Serial != "1234" || c.Status != inventory.Active || c.Owner != "pay" ||
			c.NameCount != 2 || !c.NotAfter.Equal(epoch.Add(30*day)) {
			t.Errorf("%+v", c)
		}
		if diff := cmp.Diff([]string{"app=shop"}, c.Tags); diff != "" {
			t.Error(diff)
		}
		back, err := s.DER(ctx, strings.ToUpper(c.Fingerprint))
		if err != nil || !bytes.Equal(back, der) {
			t.Errorf("DER: %d bytes, %v", len(back), err)
		}
		if res := put(t, s, o); res.New+res.Changed != 0 || res.Known != 1 || res.IDs[0] != c.ID {
			t.Errorf("the same again: %+v", res)
		}
	})
}

// Bad items are refused one by one, with reasons; the others are stored.
func TestPutRefusesItemsNotBatches(t *testing.T) {
	s := inventory.New(dbtest.Open(t, dbtest.SQLiteURL(t)))
	good := seen(described(1, epoch.Add(day), "a.example.com"), inventory.FromScan)
	bad := func(change func(*inventory.Observation)) inventory.Observation {
		o := seen(described(2, epoch.Add(day), "b.example.com"), inventory.FromScan)
		change(&o)
		return o
	}
	type ob = inventory.Observation
	obs := []ob{
		good,
		bad(func(o *ob) { o.Metadata, o.DER = nil, []byte("not DER") }),
		bad(func(o *ob) { o.Metadata, o.DER = nil, make([]byte, inventory.MaxDER+1) }),
		bad(func(o *ob) { o.Metadata = nil }),
		bad(func(o *ob) { o.Fingerprint = strings.Repeat("0", 64) }),
		bad(func(o *ob) { o.Metadata, o.Fingerprint = nil, strings.Repeat("0", 64) }),
		bad(func(o *ob) { o.Metadata, o.Fingerprint = nil, "xyz" }),
		bad(func(o *ob) { o.Source = 0 }),
		bad(func(o *ob) { o.Source = inventory.FromCT | inventory.FromScan }),
		bad(func(o *ob) { o.SeenAt = time.Time{} }),
		bad(func(o *ob) { o.Owner = "none" }),
		bad(func(o *ob) { o.Team = "a\nb" }),
		bad(func(o *ob) { o.Environment = strings.Repeat("x", 256) }),
		bad(func(o *ob) { o.Tags = map[string]string{"A B": "c"} }),
		bad(func(o *ob) { o.Endpoint = &inventory.Sighting{Host: "a b", Port: 443, Probe: "observe"} }),
		bad(func(o *ob) { o.Endpoint = &inventory.Sighting{Host: "a.example", Port: 0, Probe: "observe"} }),
		bad(func(o *ob) { o.Endpoint = &inventory.Sighting{Host: "a.example", Port: 1} }),
		bad(func(o *ob) {
			o.Endpoint = &inventory.Sighting{Host: "a.example", Port: 1, Probe: "observe", Address: "x"}
		}),
		bad(func(o *ob) {
			o.Metadata, o.Endpoint = nil, &inventory.Sighting{Host: "a.example", Port: 1, Probe: "observe"}
		}),
	}
	res, err := s.Put(context.Background(), obs, epoch)
	if err != nil || res.New != 1 || len(res.Refused) != len(obs)-1 {
		t.Fatalf("%d new, %d of %d refused, %v", res.New, len(res.Refused), len(obs)-1, err)
	}
	for _, e := range res.Refused {
		if fault.As(e.Err).Code == fault.ServerInternal || obs[e.Index].Source == good.Source && e.Index == 0 {
			t.Errorf("item %d: %v", e.Index, e.Err)
		}
	}
	if _, err := s.Put(context.Background(), make([]ob, inventory.MaxBatch+1), epoch); !fault.Is(err, fault.TooLarge) {
		t.Error(err)
	}
}

// A certificate with absurdly many or long names is kept; what is not
// searchable is still counted.
func TestHostileNames(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		s := inventory.New(d)
		var names []string
		for i := range inventory.MaxNames + 500 {
			names = append(names, fmt.Sprintf("n%05d.example.com", i))
		}
		names = append(names, strings.Repeat("x", 300), "nul\x00byte", "bad\xffutf8", "")
		res := put(t, s, seen(described(1, epoch.Add(day), names...), inventory.FromScan))
		c := get(t, s, res.IDs[0])
		if c.NameCount != len(names) || len(c.AllNames) != inventory.MaxNames || len(c.Names) == 0 || len(c.Names) > 100 {
			t.Fatalf("%d names counted, %d kept, %d shown", c.NameCount, len(c.AllNames), len(c.Names))
		}
	})
}

// What a later observation knows better fills gaps and never overwrites.
func TestPutMergesKnowledge(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := context.Background()
		s := inventory.New(d)
		m := described(1, epoch.Add(day), "a.example.com")
		id := put(t, s, seen(m, inventory.FromScan)).IDs[0]
		second := seen(m, inventory.FromCloud)
		second.Owner, second.Managed = "pay", true
		third := seen(m, inventory.FromCloud)
		third.Owner, third.Team = "shop", "core"
		if res := put(t, s, second, third); res.Changed != 1 || res.IDs[0] != id || res.IDs[1] != id {
			t.Fatalf("%+v", res)
		}
		revoked := seen(m, inventory.FromCT)
		revoked.RevokedAt = epoch
		put(t, s, revoked)
		c := get(t, s, id)
		if c.Owner != "pay" || c.Team != "core" || !c.Managed || c.Status != inventory.Revoked || c.Source != inventory.FromScan|inventory.FromCloud|inventory.FromCT {
			t.Fatalf("%+v", c)
		}
		checkRollups(t, d, s)
		if n, err := s.Count(ctx, filter(t, "status:revoked owner:pay")); err != nil || n.N != 1 {
			t.Fatal(n, err)
		}
	})
}

func TestLastSeenMovesForwardByTheHour(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := context.Background()
		s := inventory.New(d)
		m := described(1, epoch.Add(day), "a.example.com")
		id := put(t, s, seen(m, inventory.FromScan)).IDs[0]
		fp := get(t, s, id).Fingerprint
		before, err := s.Version(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, step := range []struct{ at, want time.Duration }{
			{30 * time.Minute, 0}, {2 * time.Hour, 2 * time.Hour}, {time.Hour, 2 * time.Hour}, {4 * time.Hour, 4 * time.Hour},
		} {
			put(t, s, inventory.Observation{Fingerprint: fp, Source: inventory.FromScan, SeenAt: epoch.Add(step.at)})
			if got := get(t, s, id).LastSeenAt; !got.Equal(epoch.Add(step.want)) {
				t.Errorf("seen at +%v: last seen %v", step.at, got.Sub(epoch))
			}
		}
		if after, err := s.Version(ctx); err != nil || after <= before {
			t.Errorf("version %d, then %d, %v", before, after, err)
		}
	})
}

// Renewals are chained by names, key kind and owner, in the order of their
// beginning, whatever the order in which they become known.
func TestSuccessors(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := context.Background()
		s := inventory.New(d)
		cert := func(seed int, months int, change func(*inventory.Observation)) inventory.Observation {
			o := seen(described(seed, epoch.Add(day).AddDate(0, months, 0), "www.example.com"), inventory.FromScan)
			o.Owner = "pay"
			if change != nil {
				change(&o)
			}
			return o
		}
		third, first := put(t, s, cert(3, 2, nil)).IDs[0], put(t, s, cert(1, 0, nil)).IDs[0]
		second := put(t, s, cert(2, 1, nil), cert(4, 3, func(o *inventory.Observation) { o.Metadata.Key = "rsa2048" }),
			cert(5, 3, func(o *inventory.Observation) { o.Owner = "shop" }), cert(6, 3, func(o *inventory.Observation) { o.Metadata.SelfIssued = true })).IDs[0]
		chain := func() (out []string) {
			for id := first; id != ""; id = get(t, s, id).SuccessorID {
				out = append(out, fmt.Sprint(map[string]int{first: 1, second: 2, third: 3}[id], " ", get(t, s, id).Status))
			}
			return out
		}
		want := func(step string, want ...string) {
			t.Helper()
			if diff := cmp.Diff(want, chain()); diff != "" {
				t.Errorf("%s: %s", step, diff)
			}
			checkRollups(t, d, s)
		}
		want("known", "1 superseded", "2 superseded", "3 active")
		check := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		check(s.Revoke(ctx, second, epoch, epoch))
		want("second revoked", "1 superseded", "3 active")
		check(s.Retire(ctx, third, epoch))
		want("third retired", "1 active")
		check(s.Restore(ctx, third, epoch))
		want("third restored", "1 superseded", "3 active")
		if n, err := s.Sweep(ctx, epoch.Add(2*day), 10); err != nil || n != 1 {
			t.Fatal(n, err)
		}
		want("first expired", "1 expired", "3 active")
		_, err := s.Apply(ctx, inventory.BulkEdit{Key: "give", Query: "id:" + third, Edit: inventory.Edit{Owner: new("mail")}, Actor: "test"}, epoch.Add(2*day))
		check(err)
		want("third given away", "1 expired")
		if n, err := s.Purge(ctx, epoch.Add(30*day), epoch.Add(60*day), 100); err != nil || n != 1 {
			t.Fatal(n, err)
		}
		_, err = s.Get(ctx, first)
		wantFault(t, err, fault.NotFound)
		checkRollups(t, d, s)
	})
}
