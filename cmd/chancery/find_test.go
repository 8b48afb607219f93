package main

import (
	"encoding/csv"
	"os"
	"strings"
	"testing"
	"time"

	"chancery/internal/api"
	"chancery/internal/bench/fleet"
	"chancery/internal/scan/probe"
)

// eventually looks again and again until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for begin := time.Now(); !ok(); <-again.C {
		if time.Since(begin) > 30*time.Second {
			t.Fatalf("%s: not within 30 s", what)
		}
	}
}

// A scan of an estate fills the inventory; owners, tags and views sort it; a
// schedule scans what is known again. All by the command line.
func TestFindOnTheCommandLine(t *testing.T) {
	s, _ := startDev(t)
	f, args := smallEstate(t, fleet.Config{Endpoints: 60, Seed: 7})
	answering, leaves := 0, map[string]bool{}
	for _, e := range f.Endpoints {
		if e.Class == probe.OK {
			answering++
			leaves[e.Leaf] = true
		}
	}
	s.out(exitProblems, append(args, "--store")...)
	var places []api.Endpoint
	decode(t, s.ok("certs", "endpoints", "--limit", "0", "--json"), &places)
	with := 0
	for _, p := range places {
		if p.Certificate != "" {
			with++
		}
	}
	if len(places) != 60 || with != answering {
		t.Errorf("%d of 60 endpoints, %d of %d with a certificate", len(places), with, answering)
	}
	var found []api.Known
	decode(t, s.ok("certs", "list", "source:scan", "ca:no", "--limit", "0", "--json"), &found)
	for _, c := range found {
		delete(leaves, c.Fingerprint)
	}
	if len(leaves) > 0 {
		t.Errorf("%d served certificates are not in the inventory", len(leaves))
	}
	var failing []api.Endpoint
	if decode(t, s.ok("certs", "endpoints", "--failing", "--json", "--limit", "0"), &failing); len(failing) == 0 {
		t.Error("no endpoint is failing")
	}

	// Plan, refuse, do, and do again.
	if plan := s.ok("certs", "edit", "source:scan", "ca:no", "--owner", "pay", "--dry-run"); !strings.Contains(plan, "would edit") {
		t.Error(plan)
	}
	if _, errs := s.out(exitUsage, "certs", "edit", "source:scan", "ca:no", "--owner", "pay"); !strings.Contains(errs, "--yes") {
		t.Error(errs)
	}
	if done := s.ok("certs", "edit", "source:scan", "ca:no", "--owner", "pay", "--yes", "--key", "request-1", "-o", "tsv"); !strings.Contains(done, "changed") {
		t.Error(done)
	}
	s.ok("certs", "tag", "app=shop", "owner:pay", "--yes")
	rows, err := csv.NewReader(strings.NewReader(s.ok("certs", "export", "owner:pay", "tag:app=shop"))).ReadAll()
	if err != nil || len(rows) != len(found)+1 || rows[0][0] != "names" {
		t.Errorf("%d of %d rows, %v", len(rows)-1, len(found), err)
	}
	s.ok("certs", "tag", "app-", "tag:app=shop", "--yes")
	if left := s.ok("certs", "list", "tag:app=shop", "--json"); strings.TrimSpace(left) != "[]" {
		t.Error(left)
	}
	if facets := s.ok("certs", "facets", "--by", "owner", "-o", "tsv"); !strings.Contains(facets, "owner\tpay\t") {
		t.Error(facets)
	}
	s.ok("certs", "timeline", "owner:pay", "--by", "owner", "-o", "tsv")
	s.ok("certs", "views", "save", "soon", "owner:pay", "expires:<14d")
	s.ok("certs", "views", "save", "soon", "owner:pay", "expires:<7d")
	if views := s.ok("certs", "views", "list", "-o", "tsv"); !strings.Contains(views, "soon\towner:pay expires:<7d") {
		t.Error(views)
	}
	s.ok("certs", "views", "delete", "soon")
	importing(t, s)
	scheduled(t, s)
}

// importing imports a chain and a table.
func importing(t *testing.T, s *shell) {
	t.Helper()
	s.ok("certs", "get", "localhost", "--out", s.path("chain.pem"))
	if got := s.ok("certs", "import", s.path("chain.pem"), "--tag", "from=file", "-o", "tsv"); !strings.Contains(got, "\tpem\t0\t") {
		t.Error(got)
	}
	check := func(name, text string) string {
		if err := os.WriteFile(s.path(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return s.path(name)
	}
	s.ok("certs", "import", check("owners.csv", "name,owner\nlocalhost,platform\n"))
	if shown := s.ok("certs", "show", "localhost", "-o", "tsv"); !strings.Contains(shown, "owner\tplatform") || !strings.Contains(shown, "tags\tfrom=file") {
		t.Error(shown)
	}
	if _, errs := s.out(exitPartial, "certs", "import", check("x.bin", "nothing"), s.path("chain.pem")); !strings.Contains(errs, "x.bin") {
		t.Error(errs)
	}
	s.out(exitFailed, "certs", "import", s.path("missing.pem"))
}

// scheduled lets the server scan its own listener.
func scheduled(t *testing.T, s *shell) {
	t.Helper()
	var ready struct{ API string }
	text, err := os.ReadFile(s.path("ready.json"))
	if err != nil {
		t.Fatal(err)
	}
	decode(t, string(text), &ready)
	host := strings.TrimSuffix(strings.TrimPrefix(ready.API, "https://"), "/api/v1")
	s.ok("scan", "schedules", "add", "self", "tls://"+host, "--every", "1d")
	s.out(exitFailed, "scan", "schedules", "add", "self", "tls://"+host)
	var passes []api.Pass
	eventually(t, "the pass is done", func() bool {
		decode(t, s.ok("scan", "passes", "list", "--schedule", "self", "--json"), &passes)
		return len(passes) == 1 && passes[0].State == "done"
	})
	if p := passes[0]; p.Targets != 1 || p.Left != 0 || p.Summary.Healthy != 1 {
		t.Errorf("%+v", p)
	}
	if shown := s.ok("scan", "passes", "show", passes[0].ID, "-o", "tsv"); !strings.Contains(shown, "class\tok 1") {
		t.Error(shown)
	}
	if shown := s.ok("certs", "show", "localhost", "-o", "tsv"); !strings.Contains(shown, "served\t"+host) {
		t.Error(shown)
	}
	s.ok("scan", "schedules", "run", "self")
	if all := s.ok("scan", "schedules", "list", "-o", "tsv"); !strings.Contains(all, "self\t1d\tobserve") {
		t.Error(all)
	}
	s.ok("scan", "schedules", "delete", "self")
}
