package ca_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chancery/internal/ca"
	"chancery/internal/db/dbtest"
	"chancery/internal/fault"
	"chancery/internal/keys"
	"chancery/internal/pki"
)

const day = 24 * time.Hour

func TestTermsFollowTheDate(t *testing.T) { // Baseline Requirements, ballot SC-081v3
	for _, c := range []struct {
		now           string
		period, reuse time.Duration
		remotes       int // ballot SC-067v3
	}{
		{"2025-09-14T23:59:59Z", 398 * day, 398 * day, 0},
		{"2025-09-15T00:00:00Z", 398 * day, 398 * day, 2},
		{"2026-03-14T23:59:59Z", 398 * day, 398 * day, 2},
		{"2026-03-15T00:00:00Z", 200 * day, 200 * day, 3},
		{"2026-06-15T00:00:00Z", 200 * day, 200 * day, 4},
		{"2026-11-22T00:00:00Z", 200 * day, 200 * day, 4},
		{"2026-12-14T23:59:59Z", 200 * day, 200 * day, 4},
		{"2026-12-15T00:00:00Z", 200 * day, 200 * day, 5},
		{"2027-03-14T23:59:59Z", 200 * day, 200 * day, 5},
		{"2027-03-15T00:00:00Z", 100 * day, 100 * day, 5},
		{"2029-03-14T23:59:59Z", 100 * day, 100 * day, 5},
		{"2029-03-15T00:00:00Z", 47 * day, 10 * day, 5},
		{"2040-01-01T00:00:00Z", 47 * day, 10 * day, 5},
	} {
		now, err := time.Parse(time.RFC3339, c.now)
		if err != nil {
			t.Fatal(err)
		}
		if got := ca.PublicWebPKI.At(now); got != (ca.Terms{MaxPeriod: c.period, MaxReuse: c.reuse, MinRemotes: c.remotes}) {
			t.Errorf("%s: %+v", c.now, got)
		}
		for _, own := range []ca.Trust{ca.Private, ""} {
			if got := own.At(now); got != (ca.Terms{}) {
				t.Errorf("%q at %s: %+v", own, c.now, got)
			}
		}
	}
	if m := (ca.Terms{MaxPeriod: 47 * day, MaxReuse: 10 * day}); m.Period(90*day) != 47*day || m.Period(6*day) != 6*day || m.Reuse(30*day) != 10*day {
		t.Error("terms loosen, or do not tighten")
	}
	if m := (ca.Terms{}); m.Period(900*day) != 900*day || m.Reuse(900*day) != 900*day {
		t.Error("no terms tighten")
	}
}

// The trust profile holds at the issuance, whatever profile and order say.
func TestTrustHoldsAtIssuance(t *testing.T) {
	ctx := context.Background()
	for trust, want := range map[ca.Trust]time.Duration{ca.Private: 300 * day, ca.PublicWebPKI: ca.PublicWebPKI.At(time.Now()).MaxPeriod} {
		pass, err := keys.NewPassphrase([]byte("correct horse battery"))
		if err != nil {
			t.Fatal(err)
		}
		store, err := keys.OpenFileStore(filepath.Join(t.TempDir(), "keys"), pass)
		if err != nil {
			t.Fatal(err)
		}
		s, err := ca.Open(ctx, ca.Config{DB: dbtest.Open(t, dbtest.SQLiteURL(t)), Keys: store, URLs: ca.URLs{Base: "http://localhost"},
			Trust: map[string]ca.Trust{"default": trust}})
		if err != nil {
			t.Fatal(err)
		}
		root, err := s.CreateRoot(ctx, ca.Spec{CA: "default", KeyType: pki.P256, Organization: "Test"}, "test")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.CreateIssuing(ctx, root.ID, ca.Spec{CA: "default", KeyType: pki.P256}, "test"); err != nil {
			t.Fatal(err)
		}
		long := ca.DefaultProfiles()[0]
		long.Period = 300 * day
		registered, err := s.Register(ctx, []ca.Profile{long})
		if err != nil {
			t.Fatal(err)
		}
		req := request(t, pki.P256, dns("a.example.test"))
		req.Profile = registered[long.Name]
		c, err := s.Issue(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		if life := c.NotAfter.Sub(c.NotBefore) + time.Second; life != want || c.ProfileHash != req.Profile.Hash() {
			t.Errorf("%s: the certificate lives %s, want %s", trust, life, want)
		}
		req = request(t, pki.P256, dns("b.example.test"))
		req.Profile, req.NotAfter = registered[long.Name], time.Now().Add(250*day)
		if _, err := s.Issue(ctx, req); (err == nil) != (trust == ca.Private) || err != nil && !fault.Is(err, fault.Malformed) {
			t.Errorf("%s: 250 days on request: %v", trust, err)
		}
		old := request(t, pki.P256, dns("c.example.test"))
		at := time.Now().Add(-201 * day)
		if old.Grant, err = ca.NewGrant([]ca.Evidence{{Name: dns("c.example.test"), Method: "dns-01", Reference: "authz", ValidatedAt: at,
			ExpiresAt: time.Now().Add(time.Hour), CAAAt: time.Now(), Remotes: 5}}); err != nil {
			t.Fatal(err)
		}
		old.Profile = registered[long.Name]
		if _, err := s.Issue(ctx, old); (err == nil) != (trust == ca.Private) || err != nil && !fault.Is(err, fault.Unauthorized) {
			t.Errorf("%s: a proof of 201 days ago: %v", trust, err)
		}
		alone := request(t, pki.P256, dns("d.example.test"))
		if alone.Grant, err = ca.NewGrant([]ca.Evidence{{Name: dns("d.example.test"), Method: "dns-01", Reference: "authz", ValidatedAt: time.Now(),
			ExpiresAt: time.Now().Add(time.Hour), CAAAt: time.Now(), Remotes: 2}}); err != nil {
			t.Fatal(err)
		}
		alone.Profile = registered[long.Name]
		if _, err := s.Issue(ctx, alone); (err == nil) != (trust == ca.Private) || err != nil && !strings.Contains(err.Error(), "confirmed by 2 remote network perspectives") {
			t.Errorf("%s: a proof that two perspectives confirmed: %v", trust, err)
		}
	}
}
