package renew_test

import (
	"context"
	"testing"
	"time"

	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/fault"
	"chancery/internal/issuer/local"
	"chancery/internal/renew"
)

// A managed certificate is obtained, and renews itself through our own CA.
func TestCertificateRenewsItself(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := context.Background()
		w := newWorld(t, d, t.TempDir(), 24*time.Hour)
		shift := newClock()
		w.start(t, renew.Config{Now: shift.now})
		m, err := w.engine.Create(ctx, renew.Spec{Name: "web", Names: names(t, "web.example.test", "10.1.2.3"), Issuer: "own", Owner: "team web"}, "test")
		must(t, err)
		m = w.until(t, "web", "idle", func(m renew.Managed) bool { return m.State == renew.Idle && m.LiveID != "" })
		first := w.leaf(t, &m)
		if got := first.NotAfter.Sub(first.NotBefore); got != 24*time.Hour-time.Second {
			t.Errorf("it lives for %s", got)
		}
		c, err := w.inventory.Get(ctx, m.CertificateID)
		must(t, err)
		if !c.Managed || c.Owner != "team web" || c.NameCount != 2 {
			t.Errorf("in the inventory it is %+v", c)
		}
		if m.RenewAt.Before(m.WindowStart) || m.RenewAt.After(m.WindowEnd) || m.RenewAt.After(m.NotAfter) {
			t.Errorf("it renews at %s, window %s to %s, ends %s", m.RenewAt, m.WindowStart, m.WindowEnd, m.NotAfter)
		}

		shift.set(m.RenewAt.Sub(time.Now()) + time.Second)
		w.engine.Wake()
		again := w.until(t, "web", "renewed", func(n renew.Managed) bool { return n.State == renew.Idle && n.LiveID != m.LiveID })
		second := w.leaf(t, &again)
		if string(second.RawSubjectPublicKeyInfo) == string(first.RawSubjectPublicKeyInfo) {
			t.Error("the key was used again")
		}
		before, err := w.inventory.Get(ctx, m.CertificateID)
		must(t, err)
		if before.SuccessorID != again.CertificateID {
			t.Errorf("the inventory does not know the successor: %+v", before)
		}
		w.mustHold(t)
	})
}

// The issuer of our own CA signs what its configuration lists, and nothing else.
func TestLocalIssuerIsNarrow(t *testing.T) {
	d := dbtest.Open(t, dbtest.SQLiteURL(t))
	w := newWorld(t, d, t.TempDir(), 24*time.Hour)
	if _, err := w.tryLocal(t, time.Hour, &local.Config{CA: "default"}); !fault.Is(err, fault.Invalid) {
		t.Errorf("an empty list of what is allowed: %v", err)
	}
	own, err := w.tryLocal(t, time.Hour, &local.Config{CA: "default", AllowNames: []string{"*.example.test"}, DenyNames: []string{"no.example.test"}})
	must(t, err)
	w.start(t, renew.Config{Issuers: map[string]*renew.Issuer{"own": {Issuer: own}}})
	for name, ok := range map[string]bool{"a.example.test": true, "*.example.test": true, "example.test": false, "no.example.test": false, "www.example.com": false, "10.0.0.1": false} {
		m, err := w.engine.Create(context.Background(), renew.Spec{Names: names(t, name)}, "test")
		must(t, err)
		m = w.until(t, m.ID, "decided", func(m renew.Managed) bool { return m.State == renew.Idle || m.State == renew.Stopped })
		if (m.State == renew.Idle) != ok {
			t.Errorf("%s is %s: %s", name, m.State, m.Error)
		}
	}
	w.mustHold(t)
}
