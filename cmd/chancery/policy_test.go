package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"chancery/internal/api"
	"chancery/internal/bench/fleet"
)

// TestPoliciesOnTheCommandLine tries a policy on what a scan found, stores it,
// and writes the bill of materials of the same certificates.
func TestPoliciesOnTheCommandLine(t *testing.T) {
	s, _ := startDev(t)
	_, args := smallEstate(t, fleet.Config{Endpoints: 60, Seed: 7})
	s.out(exitProblems, append(args, "--store")...)
	var active []api.Known
	decode(t, s.ok("certs", "list", "status:active", "key:p256", "source:scan", "--limit", "0", "--json"), &active)
	if len(active) == 0 {
		t.Fatal("nothing to judge")
	}
	tried, errs := s.out(exitProblems, "certs", "policy", "set", "no-p256", "key:p256", "source:scan", "--dry-run", "--json")
	var r api.PolicyReport
	decode(t, tried, &r)
	if r.Violations != (api.Count{Count: int64(len(active)), Exact: true}) || !strings.Contains(errs, "certificates violate it") || !strings.Contains(errs, "chancery certs list") {
		t.Errorf("%+v, want %d violations; %s", r, len(active), errs)
	}
	if out := s.ok("certs", "policy", "list", "-o", "tsv"); strings.Contains(out, "no-p256") {
		t.Errorf("a dry run stored it: %s", out)
	}
	s.ok("certs", "policy", "set", "no-p256", "key:p256", "source:scan", "--severity", "critical")
	s.ok("certs", "policy", "set", "no-one", "owner:somebody", "--note", "ask first")
	var all []api.Policy
	if decode(t, s.ok("certs", "policy", "list", "--json"), &all); len(all) != 2 || all[0].Name != "no-one" || all[1].Mode != "shadow" || all[1].Severity != "critical" {
		t.Errorf("%+v", all)
	}
	if out, _ := s.out(exitProblems, "certs", "policy", "check", "no-p256"); !strings.Contains(out, "violations") {
		t.Error(out)
	}
	s.ok("certs", "policy", "check", "no-one")
	s.out(exitFailed, "certs", "policy", "check", "no-such")
	if _, errs := s.out(exitFailed, "certs", "policy", "set", "owned", "owner:none", "--mode", "enforce"); !strings.Contains(errs, "cannot be enforced") {
		t.Error(errs)
	}
	s.ok("certs", "policy", "delete", "no-p256", "--dry-run")
	s.ok("certs", "policy", "delete", "no-p256")
	s.out(exitFailed, "certs", "policy", "delete", "no-p256")

	file := s.path("estate.cdx.json")
	s.ok("certs", "export", "status:active", "key:p256", "source:scan", "-o", "cbom", "--out", file)
	var bom struct {
		SpecVersion string
		Components  []struct {
			CryptoProperties struct{ AssetType string }
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &bom); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, c := range bom.Components {
		if c.CryptoProperties.AssetType == "certificate" {
			n++
		}
	}
	if bom.SpecVersion != "1.6" || n != len(active) {
		t.Errorf("%s: %d certificates, want %d", bom.SpecVersion, n, len(active))
	}
}
