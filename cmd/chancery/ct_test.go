package main

import (
	"strings"
	"testing"
)

// The commands about sources and logs answer on a server that has none.
func TestSourcesAndLogsOnTheCommandLine(t *testing.T) {
	s, _ := startDev(t)
	for _, args := range [][]string{{"scan", "sources", "list"}, {"ct", "logs", "list"}, {"ct", "findings", "list"}, {"ct", "findings", "list", "--state", "open"}} {
		if out := s.ok(append(args, "--json")...); strings.TrimSpace(out) != "[]" {
			t.Errorf("%v: %s", args, out)
		}
	}
	if out := s.ok("scan", "sources", "kinds", "-o", "tsv"); strings.Count(out, "\n") < 5 || !strings.Contains(out, "aws-acm\t") || !strings.Contains(out, "vault-pki\t") {
		t.Error(out)
	}
	for _, args := range [][]string{{"scan", "sources", "check", "x"}, {"scan", "sources", "run", "x"}, {"scan", "sources", "items", "x"}, {"ct", "logs", "show", "x"}, {"ct", "logs", "reset", "x"}, {"ct", "findings", "ack", "x", "-m", "y"}, {"ct", "findings", "dismiss", "x"}, {"ct", "findings", "adopt", "x", "--owner", "pay"}} {
		if _, errs := s.out(exitFailed, args...); !strings.Contains(errs, "x") {
			t.Errorf("%v: %s", args, errs)
		}
	}
	s.out(exitUsage, "ct", "logs")
	if _, errs := s.out(exitUsage, "ct", "findings", "adopt", "x"); !strings.Contains(errs, "owner") {
		t.Errorf("nobody's: %s", errs)
	}
	s.out(exitUsage, "scan", "sources", "run")
}
