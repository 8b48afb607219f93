package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"chancery/internal/api"
	"chancery/internal/ca"
	"chancery/internal/ca/catest"
	"chancery/internal/db"
)

// stock stores n certificates of the server's own authority, beside it.
func (s *shell) stock(n int) (serials []string) {
	s.t.Helper()
	d, err := db.Open(s.t.Context(), db.Config{URL: filepath.Join(s.path("data"), "chancery.db")})
	if err != nil {
		s.t.Fatal(err)
	}
	defer d.Close()
	service, err := ca.Open(s.t.Context(), ca.Config{DB: d, URLs: ca.URLs{Base: "http://localhost:1"}})
	if err != nil {
		s.t.Fatal(err)
	}
	var issuing *ca.Authority
	for _, a := range service.Authorities() {
		if a.Role == ca.RoleIssuing {
			issuing = a
		}
	}
	_, made, err := catest.Fill(s.t.Context(), d, catest.Spec{Authority: issuing, URLs: service.URLs(), N: n, Names: true, IssuedAt: time.Now().Add(-time.Minute)})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, serial := range made {
		serials = append(serials, serial.Hex())
	}
	return serials
}

// The life of an incident on the command line: plan, refusal without --yes,
// creation from a query and from a file, watching, cancelling.
func TestIncidentsOnTheCommandLine(t *testing.T) {
	s, _ := startDev(t)
	serials := s.stock(40)
	file := s.path("serials.txt")
	if err := os.WriteFile(file, []byte("# leaked\n"+strings.Join(serials[:12], "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	base := []string{"certs", "revoke", "--incident", "leaked keys", "--file", file, "--reason", "keyCompromise"}
	if plan := s.ok(append(base, "--dry-run")...); !strings.Contains(plan, "would renew early and revoke 12 certificates; these are 12 of them") {
		t.Error(plan)
	}
	if plan, errs := s.out(exitUsage, base...); !strings.Contains(errs, "12 certificates; add --yes") || !strings.Contains(plan, serials[0]) {
		t.Error(plan, errs)
	}
	if none := s.ok("certs", "incidents", "list", "-o", "tsv"); strings.Count(none, "\n") != 1 {
		t.Errorf("a plan made an incident: %s", none)
	}

	// With time to renew: windows move, nothing is revoked, it can be cancelled.
	var made api.Incident
	decode(t, s.ok(append(base, "--at", "5d", "--explanation", "https://pki.test/7", "--yes", "--json")...), &made)
	if made.Listed != 12 || made.Reason != "keyCompromise" || time.Until(made.RevokeAt) < 119*time.Hour {
		t.Errorf("%+v", made)
	}
	s.until(made.ID, func(i api.Incident) bool { return i.State == ca.IncidentWaiting && i.Marked == 12 })
	if shown := s.ok("certs", "show", serials[0], "-o", "tsv"); !strings.Contains(shown, "incident\t"+made.ID) || !strings.Contains(shown, "incident.create by token:") {
		t.Error(shown)
	}
	if dry := s.ok("certs", "incidents", "cancel", made.ID, "--dry-run"); dry != "would cancel the incident \"leaked keys\", of 12 certificates\n" {
		t.Error(dry)
	}
	s.ok("certs", "incidents", "cancel", made.ID)
	s.ok("certs", "incidents", "cancel", made.ID)
	if out, errs := s.out(exitOK, "certs", "incidents", "watch", made.ID, "-o", "tsv"); !strings.Contains(errs, "cancelled: 12 certificates, 0 revoked") || !strings.Contains(out, "state\tcancelled") {
		t.Error(out, errs)
	}

	// At once, by a query.
	decode(t, s.ok("certs", "revoke", "--incident", "bad profile", "--query", "*.seed.example", "--reason", "superseded", "--yes", "--json"), &made)
	s.until(made.ID, func(i api.Incident) bool { return i.Revoked == 40 })
	if shown := s.ok("certs", "show", serials[39], "-o", "tsv"); !regexp.MustCompile(`event\t\S+ certificate.revoke_batch by token:\w+ \(incident:` + made.ID).MatchString(shown) {
		t.Error(shown)
	}
	if _, errs := s.out(exitFailed, "certs", "incidents", "cancel", made.ID); !strings.Contains(errs, "has revoked 40 certificates") {
		t.Error(errs)
	}
	if list := s.ok("certs", "incidents", "list", "-o", "table"); !regexp.MustCompile(`bad profile +(waiting|revoking) +superseded`).MatchString(list) || strings.Count(list, "\n") != 3 {
		t.Error(list)
	}
	if none := s.ok("certs", "revoke", "--incident", "again", "--query", "*.seed.example"); !strings.Contains(none, "revoke 0 certificates") {
		t.Error(none)
	}
	if _, errs := s.out(exitFailed, "certs", "incidents", "show", "nothing"); !strings.Contains(errs, `there is no incident "nothing"`) {
		t.Error(errs)
	}
	if _, errs := s.out(exitOK, "certs", "findings"); !strings.Contains(errs, "look") && !strings.Contains(errs, "not run yet") {
		t.Error(errs)
	}
}

// until asks about an incident until it is as wanted.
func (s *shell) until(id string, ok func(api.Incident) bool) {
	s.t.Helper()
	var i api.Incident
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		decode(s.t, s.ok("certs", "incidents", "show", id, "--json"), &i)
		if ok(i) {
			return
		}
	}
	s.t.Fatalf("the incident came to %+v", i)
}

// A terminal sees a bar that never lies about what is left.
func TestIncidentProgress(t *testing.T) {
	at := time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC)
	for want, i := range map[string]api.Incident{
		"[                        ]   0%  finding certificates: 500 so far, their renewal windows have moved":         {State: ca.IncidentMarking, Marked: 500},
		"[                        ]   0%  9 certificates are to be renewed; they are revoked at 2027-01-02T03:04:05Z": {State: ca.IncidentWaiting, Marked: 9, RevokeAt: at},
		"[============            ]  50%  revoking: 5 of 10":                                                          {State: ca.IncidentRevoking, Marked: 10, Revoked: 4, Skipped: 1},
		"[========================] 100%  10 of 10 revoked; a last look for certificates that were under way follows": {State: ca.IncidentWaiting, Marked: 10, Revoked: 10},
		"[========================] 100%  done: 10 certificates, 9 revoked, 1 by others":                              {State: ca.IncidentDone, Marked: 10, Revoked: 9, Skipped: 1},
	} {
		if got := progressBar(&i); got != want {
			t.Errorf("%s\nwant\n%s", got, want)
		}
	}
	var plain strings.Builder
	w := watcher{w: &plain}
	for n := range int64(3) {
		w.show(&api.Incident{State: ca.IncidentRevoking, Marked: 3, Revoked: n})
	}
	if plain.String() != "revoking: 0 of 3\n" {
		t.Errorf("a log gets a line for each stage: %q", plain.String())
	}
}
