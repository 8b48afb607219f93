package ca_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/ca"
	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

// find returns the first names of everything that fits, in pages of size limit.
func find(t *testing.T, q db.Q, text string, limit int) (names []string) {
	t.Helper()
	query, err := ca.ParseQuery(text, time.Now())
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	seen := map[string]bool{}
	for after := ""; ; {
		page, err := ca.Find(context.Background(), q, query, after, limit)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if len(page.Certificates) > limit {
			t.Fatalf("%q: a page of %d has %d rows", text, limit, len(page.Certificates))
		}
		for _, c := range page.Certificates {
			if seen[c.ID] {
				t.Fatalf("%q: %v comes twice", text, c.Names)
			}
			seen[c.ID] = true
			names = append(names, c.Names[0])
		}
		if after = page.Next; after == "" {
			return names
		}
	}
}

func TestFind(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := context.Background()
		w := newWorld(t, d, pki.P256)
		issue := func(names ...string) *ca.Certificate {
			var ids []pki.Identifier
			for _, n := range names {
				if strings.Contains(n, ":") {
					ids = append(ids, pki.Identifier{Type: pki.IP, Value: n})
				} else {
					ids = append(ids, dns(n))
				}
			}
			c, err := w.Issue(ctx, request(t, pki.P256, ids...))
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		a := issue("a.example.test", "z.example.test")
		issue("b.example.test")
		issue("*.example.test")
		deep := issue("x.y.example.test")
		issue("notexample.test")
		issue("example.test")
		issue("2001:db8::1")
		if _, err := w.Revoke(ctx, ca.Revocation{CertificateID: deep.ID, Reason: pki.Superseded, Actor: "test"}); err != nil {
			t.Fatal(err)
		}
		own := []string{"default OCSP " + time.Now().Format("2006-01-02"), "default issuing CA " + time.Now().Format("2006"), "default root CA " + time.Now().Format("2006")}
		leaves := []string{"2001:db8::1", "example.test", "notexample.test", "x.y.example.test", "*.example.test", "b.example.test", "a.example.test"}
		for _, c := range []struct {
			query string
			want  []string
		}{
			{"", append(slices.Clone(leaves), own...)},
			{"profile:tls", leaves},
			{"a.example.test", []string{"a.example.test"}},
			{"name:A.Example.Test.", []string{"a.example.test"}},
			{"*.example.test", []string{"*.example.test", "a.example.test", "b.example.test", "x.y.example.test"}},
			{"example.test", []string{"example.test"}},
			{"2001:db8::1", []string{"2001:db8::1"}},
			{"name:2001:0db8::1", []string{"2001:db8::1"}},
			{"*.example.test status:issued", []string{"*.example.test", "a.example.test", "b.example.test"}},
			{"status:revoked", []string{"x.y.example.test"}},
			{"status:expired", nil},
			{"status:intent", nil},
			{"status:abandoned", nil},
			{"serial:" + a.Serial.Hex(), []string{"a.example.test"}},
			{a.Serial.Hex() + " status:revoked", nil},
			{"expires:<91d profile:tls", slices.Sorted(slices.Values(leaves))},
			{"expires:<30d profile:tls", nil},
			{"expires:>89d expires:<91d b.example.test", []string{"b.example.test"}},
			{"issued:<1h profile:tls", leaves},
			{"issued:>1h", nil},
			{"ca:other", nil},
			{"key:p256 notexample.test", []string{"notexample.test"}},
			{"key:rsa-2048", nil},
			{"order:" + db.NewID(time.Now()), nil},
			{"account:" + db.NewID(time.Now()), nil},
		} {
			for _, limit := range []int{1, 2, 3, 50, ca.MaxPage} {
				got := find(t, d.Read(), c.query, limit)
				if strings.HasPrefix(c.query, "expires:<91d") { // notAfter ties are broken by id
					got = slices.Sorted(slices.Values(got))
				}
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Errorf("%q in pages of %d (-want +got):\n%s", c.query, limit, diff)
				}
			}
		}
	})
}

func TestFindRefuses(t *testing.T) {
	d := dbtest.Open(t, dbtest.SQLiteURL(t))
	now := time.Now()
	all, _ := ca.ParseQuery("", now)
	for _, limit := range []int{-1, 0, ca.MaxPage + 1} {
		if _, err := ca.Find(context.Background(), d.Read(), all, "", limit); !fault.Is(err, fault.Invalid) {
			t.Errorf("limit %d: %v", limit, err)
		}
	}
	for _, cursor := range []string{"x", "!!!", "e30", strings.Repeat("A", 5000), "bnVsbA"} {
		if _, err := ca.Find(context.Background(), d.Read(), all, cursor, 10); !fault.Is(err, fault.Invalid) {
			t.Errorf("cursor %.20q: %v", cursor, err)
		}
	}
	for query, says := range map[string]string{
		"owner:pay":                 "known are: name, serial",
		"status:bad":                "issued expired revoked",
		"key:dsa":                   "p256",
		"expires:14d":               "expires:<14d",
		"expires:<":                 "expires:<14d",
		"expires:<0d":               "expires:<14d",
		"expires:<999999999999d":    "expires:<14d",
		"issued:<2026-13-01":        "issued:<14d",
		"name:":                     "without a space",
		"name:a name:b":             "twice",
		"expires:<1d expires:<2d":   "twice on the same side",
		"serial:xyz":                "not hexadecimal",
		"order:1":                   "not an id",
		strings.Repeat("a ", 600):   "longer than",
		"expires:<1\x00d":           "expires:<14d",
		"a.example.test b.example.": "twice",
	} {
		if _, err := ca.ParseQuery(query, now); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%.40q: error %v does not say %q", query, err, says)
		}
	}
}

// A cursor belongs to the query whose page gave it.
func TestCursorOfAnotherQuery(t *testing.T) {
	w := newWorld(t, dbtest.Open(t, dbtest.SQLiteURL(t)), pki.P256)
	all, _ := ca.ParseQuery("", time.Now())
	page, err := ca.Find(context.Background(), w.db.Read(), all, "", 1)
	if err != nil || page.Next == "" {
		t.Fatal(page, err)
	}
	other, _ := ca.ParseQuery("ca:default", time.Now())
	if _, err := ca.Find(context.Background(), w.db.Read(), other, page.Next, 1); !fault.Is(err, fault.Invalid) {
		t.Fatalf("the cursor of another query was taken: %v", err)
	}
}

// Filters that no index serves look at a bounded number of rows per page.
func TestFindIsBounded(t *testing.T) {
	w := newWorld(t, dbtest.Open(t, dbtest.SQLiteURL(t)), pki.P256)
	bulk(t, w, 9000)
	query, _ := ca.ParseQuery("ca:nobody", time.Now())
	pages := 0
	for after := ""; ; pages++ {
		page, err := ca.Find(context.Background(), w.db.Read(), query, after, 10)
		if err != nil || len(page.Certificates) > 0 {
			t.Fatal(page, err)
		}
		if after = page.Next; after == "" {
			break
		}
	}
	if pages != 2 {
		t.Errorf("9003 rows were looked at in %d pages, not in 3 of 4000", pages+1)
	}
}

var bulkCertificates = db.BulkInsert("catest.insert_certificates", "certificate", false, "id", "authority_id", "serial", "state", "ca", "profile",
	"profile_hash", "names", "key_type", "spki_hash", "evidence", "tbs_hash", "shard", "not_before", "not_after", "created_at", "issued_at")

// bulk adds rows that are good enough for listings.
func bulk(t testing.TB, w *world, n int) {
	t.Helper()
	now := time.Now()
	rows := make([][]any, n)
	for i := range rows {
		rows[i] = []any{db.NewID(now), w.root.ID, fmt.Sprintf("%034x", i+1), "issued", "default", "tls", "x", fmt.Sprintf(`["h%d.test"]`, i), "p256",
			[]byte{1}, "[]", []byte{1}, 0, now, now.Add(time.Duration(i) * time.Minute), now, now}
	}
	err := w.db.Write(context.Background(), func(tx *db.Tx) error { return tx.Insert(context.Background(), bulkCertificates, rows) })
	if err != nil {
		t.Fatal(err)
	}
}

func TestListingsUseIndexes(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		for _, s := range db.Statements() {
			if !strings.HasPrefix(s.Name, "ca.list_") && !strings.HasPrefix(s.Name, "ca.count_") || s.FullScan {
				continue
			}
			plan, err := d.Explain(context.Background(), s)
			if err != nil {
				t.Fatal(s.Name, err)
			}
			for line := range strings.Lines(plan) {
				if strings.Contains(line, "SCAN certificate") && !strings.Contains(line, "INDEX") || strings.Contains(line, "Seq Scan on certificate") {
					t.Errorf("%s reads the whole table:\n%s", s.Name, plan)
				}
			}
		}
	})
}

func FuzzParseQuery(f *testing.F) {
	for _, s := range []string{"", "*.a.test", "serial:01:02", "expires:<14d issued:>2026-01-01", "status:revoked ca:x key:rsa-2048", "2001:db8::1", "a:b:c", "expires:<"} {
		f.Add(s)
	}
	now := time.Now()
	f.Fuzz(func(t *testing.T, s string) {
		q, err := ca.ParseQuery(s, now)
		if err != nil && !fault.Is(err, fault.Invalid) && !fault.Is(err, fault.Malformed) {
			t.Fatalf("%q: %v", s, err)
		}
		_ = q
	})
}
