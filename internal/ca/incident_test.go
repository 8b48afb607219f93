package ca_test

import (
	"context"
	"encoding/hex"
	"testing"
	"time"

	"chancery/internal/audit"
	"chancery/internal/ca"
	"chancery/internal/ca/catest"
	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

// fill stores n certificates of the world's CA and returns their ids.
func (w *world) fill(t *testing.T, spec catest.Spec) []string {
	t.Helper()
	a, err := w.Issuing("default")
	must(t, err)
	spec.Authority, spec.URLs, spec.Names = a, w.URLs(), true
	ids, _, err := catest.Fill(t.Context(), w.db, spec)
	must(t, err)
	return ids
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// revoked counts those of ids that are revoked.
func (w *world) revoked(t *testing.T, ids []string) (n int) {
	t.Helper()
	for _, id := range ids {
		c, err := ca.Get(t.Context(), w.db.Read(), id)
		must(t, err)
		if !c.RevokedAt.IsZero() {
			n++
		}
	}
	return n
}

// run works on incidents until nothing is due.
func (w *world) run(t *testing.T) (changed int) {
	t.Helper()
	for {
		n, err := w.RunIncidents(t.Context())
		must(t, err)
		changed += n.Done
		if !n.More {
			return changed
		}
	}
}

func (w *world) incident(t *testing.T, id string) ca.Incident {
	t.Helper()
	i, err := ca.GetIncident(t.Context(), w.db.Read(), id)
	must(t, err)
	return i
}

// past moves an incident back in time, as if d had gone by.
func (w *world) past(t *testing.T, id string, d time.Duration) {
	t.Helper()
	must(t, w.db.Write(t.Context(), func(tx *db.Tx) error {
		_, err := tx.Exec(t.Context(), qPastForTest, id, d)
		return err
	}))
}

var qPastForTest = db.SQL("ca_test.move_incident", `UPDATE incident SET created_at = created_at - $2, pass_at = pass_at - $2,
	revoke_at = revoke_at - $2, due_at = due_at - $2 WHERE id = $1`)

// affected reports whether the renewal window of a certificate is past.
func (w *world) affected(t *testing.T, id string) (url string, ok bool) {
	t.Helper()
	c, err := ca.Get(t.Context(), w.db.Read(), id)
	must(t, err)
	since, url, ok, err := w.Explanation(t.Context(), &c, time.Now())
	must(t, err)
	if ok && since.After(time.Now()) {
		t.Errorf("to be renewed since %s", since)
	}
	return url, ok
}

func TestRevokeMany(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, pki.P256)
		ids := w.fill(t, catest.Spec{N: 1200})
		r := ca.Revocation{Reason: pki.KeyCompromise, Actor: "token:ops", BlockKey: true}
		for _, want := range []int{700, 500, 0} { // what is revoked already is not revoked again
			n := min(700, len(ids))
			if want < 700 {
				n = len(ids)
			}
			done, err := w.RevokeMany(t.Context(), append(ids[:n:n], "nobody"), r)
			must(t, err)
			if len(done) != want {
				t.Fatalf("%d revoked, want %d", len(done), want)
			}
			for _, c := range done {
				got, err := ca.Get(t.Context(), d.Read(), c.ID)
				must(t, err)
				if got.Reason != pki.KeyCompromise || got.RevokedBy != "token:ops" || !got.RevokedAt.Equal(c.RevokedAt) || got.Serial != c.Serial || got.Shard != c.Shard {
					t.Fatalf("%+v, told %+v", got, c)
				}
			}
		}
		recs, err := audit.BySubject(t.Context(), d.Read(), "certificate:"+ids[0], "", 10)
		must(t, err)
		if len(recs) != 1 || recs[0].Kind != "certificate.revoke" || recs[0].Actor != "token:ops" {
			t.Errorf("journal: %+v", recs)
		}
		c, err := ca.Get(t.Context(), d.Read(), ids[0])
		must(t, err)
		cert, err := c.X509()
		must(t, err)
		if err := ca.Blocked(t.Context(), d.Read(), pki.SPKIHash(cert.RawSubjectPublicKeyInfo)); !fault.Is(err, fault.BadPublicKey) {
			t.Errorf("the key is not blocked: %v", err)
		}
		r.Reason = pki.CertificateHold
		if _, err := w.RevokeMany(t.Context(), ids, r); !fault.Is(err, fault.BadRevocationReason) {
			t.Errorf("%v", err)
		}
	})
}

// TestIncidentWarnsThenRevokes: windows move at once, the revocation comes at
// its time, and only to the certificates that were selected.
func TestIncidentWarnsThenRevokes(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, pki.P256)
		hit := w.fill(t, catest.Spec{N: 1300, AccountID: db.NewID(time.Now())})
		others := w.fill(t, catest.Spec{N: 5})
		c, err := ca.Get(t.Context(), d.Read(), hit[0])
		must(t, err)
		_, err = w.RevokeMany(t.Context(), hit[7:8], ca.Revocation{Actor: "test"})
		must(t, err)
		sel := ca.Selection{Query: "account:" + c.AccountID + " profile:tls authority:" + c.AuthorityID}
		plan, err := ca.PlanIncident(t.Context(), d.Read(), sel, 0, time.Now())
		must(t, err)
		if plan.Matched != 1299 || len(plan.Sample) != 20 {
			t.Errorf("plan: %d, sample of %d", plan.Matched, len(plan.Sample))
		}
		i, err := w.CreateIncident(t.Context(), ca.IncidentSpec{Name: "wrong policy", ExplanationURL: "https://ca.example/incident/1", Selection: sel,
			Reason: pki.Superseded, RevokeAt: time.Now().Add(time.Hour), Actor: "test"})
		must(t, err)
		if changed := w.run(t); changed != 1299 {
			t.Errorf("%d marked", changed)
		}
		if got := w.incident(t, i.ID); got.State != ca.IncidentWaiting || got.Marked != 1299 || w.revoked(t, hit) != 1 {
			t.Errorf("%+v", got)
		}
		if url, ok := w.affected(t, hit[3]); !ok || url != "https://ca.example/incident/1" {
			t.Errorf("window: %v, %q", ok, url)
		}
		if _, ok := w.affected(t, others[0]); ok {
			t.Error("the window of another certificate moved")
		}
		_, err = w.RevokeMany(t.Context(), hit[9:11], ca.Revocation{Actor: "test"})
		must(t, err)
		w.past(t, i.ID, time.Hour)
		w.run(t)
		got := w.incident(t, i.ID)
		if got.State != ca.IncidentDone || got.Revoked != 1297 || got.Skipped != 2 || got.FinishedAt.IsZero() {
			t.Errorf("%+v", got)
		}
		if w.revoked(t, hit) != len(hit) || w.revoked(t, others) != 0 {
			t.Errorf("%d and %d revoked", w.revoked(t, hit), w.revoked(t, others))
		}
		w.mustHoldJournal(t, i.ID, 1297)
	})
}

// mustHoldJournal counts the certificates in the batches of an incident.
func (w *world) mustHoldJournal(t *testing.T, id string, want int) {
	t.Helper()
	recs, err := audit.BySubject(t.Context(), w.db.Read(), "incident:"+id, "", 1000)
	must(t, err)
	seen := map[string]bool{}
	for i := range recs {
		if recs[i].Kind != ca.RevokeBatch {
			continue
		}
		ids, reason, err := ca.BatchOf(&recs[i])
		must(t, err)
		if reason != "superseded" && reason != "keyCompromise" {
			t.Errorf("reason %q", reason)
		}
		for _, id := range ids {
			if seen[id] {
				t.Errorf("%s was revoked twice", id)
			}
			seen[id] = true
		}
	}
	if len(seen) != want {
		t.Errorf("%d in the journal, want %d", len(seen), want)
	}
}

// TestIncidentSurvivesAnything: it is cut off again and again, by another
// replica taking over, and ends with each certificate revoked once.
func TestIncidentSurvivesAnything(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, pki.P256)
		ids := w.fill(t, catest.Spec{N: 1600, IssuedAt: time.Now().Add(-24 * time.Hour)})
		c, err := ca.Get(t.Context(), d.Read(), ids[0])
		must(t, err)
		cert, err := c.X509()
		must(t, err)
		key := pki.SPKIHash(cert.RawSubjectPublicKeyInfo)
		i, err := w.CreateIncident(t.Context(), ca.IncidentSpec{Name: "key leaked", Selection: ca.Selection{Query: "spki:" + hex.EncodeToString(key[:])},
			Reason: pki.KeyCompromise, BlockKeys: true, Actor: "test"})
		must(t, err)
		cut := 0
		for after := time.Millisecond; w.incident(t, i.ID).State.Open(); after *= 2 {
			ctx, stop := context.WithTimeout(t.Context(), after)
			if _, err := w.RunIncidents(ctx); err != nil {
				cut++
			}
			stop()
			w.past(t, i.ID, time.Minute) // the lease ends
		}
		if cut == 0 {
			t.Error("it was never cut off")
		}
		got := w.incident(t, i.ID)
		if got.Marked != 1600 || got.Revoked != 1600 || got.Skipped != 0 || w.revoked(t, ids) != 1600 {
			t.Errorf("cut off %d times: %+v", cut, got)
		}
		w.mustHoldJournal(t, i.ID, 1600)
		if err := ca.Blocked(t.Context(), d.Read(), key); err == nil {
			t.Error("the key is not blocked")
		}
	})
}

// TestIncidentLooksAgain: a certificate whose issuance was under way when the
// incident was made is found by the last look.
func TestIncidentLooksAgain(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, pki.P256)
		before := time.Now().Add(-10 * time.Minute)
		ids := w.fill(t, catest.Spec{N: 3, IssuedAt: before})
		i, err := w.CreateIncident(t.Context(), ca.IncidentSpec{Name: "bad profile", Selection: ca.Selection{Query: "*.seed.example issued:<1d"},
			Reason: pki.Superseded, Actor: "test"})
		must(t, err)
		w.run(t)
		if got := w.incident(t, i.ID); got.State != ca.IncidentWaiting || got.Revoked != 3 {
			t.Errorf("%+v", got)
		}
		late := w.fill(t, catest.Spec{N: 2, IssuedAt: before, Name: func(i int) string { return "late.seed.example" }})
		later := w.fill(t, catest.Spec{N: 2}) // made after the incident: not its business
		w.past(t, i.ID, 3*time.Minute)
		w.run(t)
		if got := w.incident(t, i.ID); got.State != ca.IncidentDone || got.Revoked != 5 || w.revoked(t, append(ids, late...)) != 5 || w.revoked(t, later) != 0 {
			t.Errorf("%+v", got)
		}
	})
}

// TestIncidentsThatOverlap: a certificate is revoked with the one that is due
// first, and comes back to the other when that is cancelled.
func TestIncidentsThatOverlap(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, pki.P256)
		ids := w.fill(t, catest.Spec{N: 4})
		create := func(name string, in time.Duration, of ...string) *ca.Incident {
			i, err := w.CreateIncident(t.Context(), ca.IncidentSpec{Name: name, ExplanationURL: "https://x.example/" + name, Selection: ca.Selection{Certificates: of},
				Reason: pki.Superseded, RevokeAt: time.Now().Add(in), Actor: "test"})
			must(t, err)
			w.run(t)
			return i
		}
		later := create("later", 48*time.Hour, ids[:3]...)
		sooner := create("sooner", time.Hour, ids[1:]...)
		last := create("last", 72*time.Hour, ids...)
		for i, want := range []string{"later", "sooner", "sooner", "sooner"} {
			if url, _ := w.affected(t, ids[i]); url != "https://x.example/"+want {
				t.Errorf("certificate %d: %q", i, url)
			}
		}
		must(t, w.CancelIncident(t.Context(), sooner.ID, "test"))
		if err := w.CancelIncident(t.Context(), sooner.ID, "test"); !fault.Is(err, fault.Conflict) {
			t.Errorf("%v", err)
		}
		w.run(t)
		for i, want := range []string{"later", "later", "later", "last"} {
			if url, _ := w.affected(t, ids[i]); url != "https://x.example/"+want {
				t.Errorf("after the cancellation, certificate %d: %q", i, url)
			}
		}
		w.past(t, later.ID, 49*time.Hour)
		w.run(t)
		if w.revoked(t, ids[:3]) != 3 || w.revoked(t, ids[3:]) != 0 {
			t.Errorf("%+v", w.incident(t, later.ID))
		}
		must(t, w.CancelIncident(t.Context(), last.ID, "test"))
		w.run(t)
		if _, ok := w.affected(t, ids[3]); ok || w.revoked(t, ids[3:]) != 0 {
			t.Error("a cancelled incident still counts")
		}
		all, err := ca.ListIncidents(t.Context(), d.Read(), "", 10)
		must(t, err)
		if len(all) != 3 || all[0].ID != last.ID || all[0].State != ca.IncidentCancelled {
			t.Errorf("%+v", all)
		}
	})
}

func TestIncidentSpecIsChecked(t *testing.T) {
	w := newWorld(t, dbtest.Open(t, dbtest.SQLiteURL(t)), pki.P256)
	good := ca.IncidentSpec{Name: "x", Selection: ca.Selection{Query: "ca:default"}, Actor: "test"}
	for name, spoil := range map[string]func(*ca.IncidentSpec){
		"no name":        func(s *ca.IncidentSpec) { s.Name = "" },
		"no selection":   func(s *ca.IncidentSpec) { s.Selection = ca.Selection{} },
		"two selections": func(s *ca.IncidentSpec) { s.Selection.Certificates = []string{db.NewID(time.Now())} },
		"bad query":      func(s *ca.IncidentSpec) { s.Selection.Query = "spki:xyz" },
		"bad id":         func(s *ca.IncidentSpec) { s.Selection = ca.Selection{Certificates: []string{"1"}} },
		"bad URL":        func(s *ca.IncidentSpec) { s.ExplanationURL = "javascript:alert(1)" },
		"bad reason":     func(s *ca.IncidentSpec) { s.Reason = pki.CertificateHold },
		"blocked keys":   func(s *ca.IncidentSpec) { s.BlockKeys = true },
	} {
		spec := good
		spoil(&spec)
		if _, err := w.CreateIncident(t.Context(), spec); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := ca.GetIncident(t.Context(), w.db.Read(), "nobody"); !fault.Is(err, fault.NotFound) {
		t.Errorf("%v", err)
	}
}
