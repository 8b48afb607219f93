package ca_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"chancery/internal/ca"
	"chancery/internal/ca/catest"
	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

// kinds are what a certificate's history tells.
func (w *world) kinds(t *testing.T, id string) (kinds []string) {
	t.Helper()
	c, err := ca.Get(t.Context(), w.db.Read(), id)
	must(t, err)
	records, err := ca.History(t.Context(), w.db.Read(), &c)
	must(t, err)
	for _, r := range records {
		kinds = append(kinds, string(r.Kind))
	}
	return kinds
}

// TestHistoryTellsOfIncidents: of several incidents the one that it belongs to,
// and of that the entry that revoked this certificate, wherever it stands.
func TestHistoryTellsOfIncidents(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, pki.P256)
		ids := w.fill(t, catest.Spec{N: 2600, Journal: true, IssuedAt: time.Now().Add(-time.Hour)})
		own := []string{"certificate.intend", "certificate.issue"}
		alone, last := ids[0], ids[2599]
		off, err := w.CreateIncident(t.Context(), ca.IncidentSpec{Name: "false alarm", Selection: ca.Selection{Certificates: ids[:1]}, Reason: pki.Superseded,
			Actor: "test", RevokeAt: time.Now().Add(time.Hour)})
		must(t, err)
		w.run(t)
		must(t, w.CancelIncident(t.Context(), off.ID, "test"))
		if got, want := w.kinds(t, alone), append(slices.Clone(own), "incident.create", "incident.cancel"); !slices.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
		_, err = w.Revoke(t.Context(), ca.Revocation{CertificateID: alone, Reason: pki.Superseded, Actor: "test"})
		must(t, err)
		_, err = w.CreateIncident(t.Context(), ca.IncidentSpec{Name: "real", Selection: ca.Selection{Query: "*.seed.example"}, Reason: pki.Superseded, Actor: "test"})
		must(t, err)
		w.run(t)
		if got, want := w.kinds(t, alone), append(slices.Clone(own), "incident.create", "incident.cancel", "certificate.revoke"); !slices.Equal(got, want) {
			t.Errorf("revoked by itself: %v, want %v", got, want)
		}
		for _, id := range []string{ids[1], ids[1300], last} {
			if got, want := w.kinds(t, id), append(slices.Clone(own), "incident.create", "certificate.revoke_batch"); !slices.Equal(got, want) {
				t.Errorf("%v, want %v", got, want)
			}
		}
	})
}

// TestResolveCertificates: ids and serials in every spelling, and what names
// nothing.
func TestResolveCertificates(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, pki.P256)
		ids := w.fill(t, catest.Spec{N: 600})
		var refs []string
		for i, id := range ids {
			c, err := ca.Get(t.Context(), d.Read(), id)
			must(t, err)
			hex := c.Serial.Hex()
			colons := strings.Join(slices.Collect(func(yield func(string) bool) {
				for at := 0; at < len(hex) && yield(hex[at:at+2]); at += 2 {
				}
			}), ":")
			refs = append(refs, []string{id, hex, strings.ToUpper(hex), colons}[i%4])
		}
		got, err := ca.ResolveCertificates(t.Context(), d.Read(), append(refs, refs[:3]...))
		slices.Sort(ids)
		if err != nil || !slices.Equal(got, ids) {
			t.Errorf("%d of %d, %v", len(got), len(ids), err)
		}
		bad := []string{"", "00", "zz", "not a serial\x00", db.NewID(time.Now()), strings.Repeat("f", 5000), "www.example.com"}
		_, err = ca.ResolveCertificates(t.Context(), d.Read(), append(bad, refs...))
		if !fault.Is(err, fault.NotFound) || !strings.Contains(err.Error(), "7 of 607") || strings.ContainsRune(err.Error(), 0) || len(err.Error()) > 600 {
			t.Errorf("%v", err)
		}
	})
}
