package main

import (
	"strings"
	"testing"

	"chancery/internal/api"
)

// TestRenewCommands runs every command about renewals against the program
// itself, whose engine does the work.
func TestRenewCommands(t *testing.T) {
	s, _ := startDev(t)
	if got := s.ok("order", "web.test", "--dry-run"); !strings.HasPrefix(got, "would obtain a certificate for web.test") {
		t.Error(got)
	}
	var m api.Managed
	decode(t, s.ok("order", "web.test", "www.web.test", "10.1.2.3", "--name", "web", "--owner", "team web", "--endpoint", "web.test:443", "--reuse-key", "--json"), &m)
	if m.State != "idle" || len(m.Names) != 3 || m.KeyPolicy != "reuse" || m.Certificate == "" || m.RenewAt == nil {
		t.Errorf("%+v", m)
	}
	if _, errs := s.out(exitProblems, "order", "www.example.com"); !strings.Contains(errs, "does not allow www.example.com") || !strings.Contains(errs, "certs explain www.example.com") {
		t.Error(errs)
	}
	s.out(exitUsage, "order")
	s.out(exitUsage, "order", "a.test", "--target", "edge,novalue")
	if _, errs := s.out(exitFailed, "order", "a.test", "--target", "edge"); !strings.Contains(errs, "[target.edge]") {
		t.Error(errs)
	}
	if got := s.ok("renew", "list"); strings.Count(got, "\n") != 3 {
		t.Error(got)
	}
	if got := s.ok("renew", "list", "--trouble"); !strings.Contains(got, "permanent") || strings.Contains(got, "web.test") {
		t.Error(got)
	}
	if got := s.ok("certs", "explain", "web"); !strings.Contains(got, "issued: local issued a certificate until") || !strings.Contains(got, "serve: ") {
		t.Error(got)
	}
	if got := s.ok("renew", "pause", "web"); got != "web\tidle\n" {
		t.Error(got)
	}
	if _, errs := s.out(exitFailed, "renew", "now", "web"); !strings.Contains(errs, "paused; resume it first") {
		t.Error(errs)
	}
	s.ok("renew", "resume", "web")
	s.ok("renew", "now", "web", "--dry-run")
	s.ok("renew", "now", "web")
	if got := s.ok("renew", "now", "--owner", "team web", "--dry-run"); got != "would renew 1 certificates at once\n" {
		t.Error(got)
	}
	s.ok("renew", "now", "--owner", "team web")
	s.out(exitUsage, "renew", "now", "web", "--owner", "team web")
	if got := s.ok("renew", "plan", "--days", "100", "--lifetime", "47d", "--issuer", "local", "--import", "1000"); !strings.Contains(got, "1001 certificates") && !strings.Contains(got, "1002 certificates") {
		t.Error(got)
	}
	if got := s.ok("renew", "drill", "--issuer", "local", "--limit", "1"); !strings.Contains(got, "total\t1\ndone\t") {
		t.Error(got)
	}
	s.out(exitUsage, "renew", "drill")
	if got := s.ok("renew", "drift"); !strings.Contains(got, "web.test\t443\t") {
		t.Error(got)
	}
	for _, args := range [][]string{{"deployments"}, {"deployments", "--failing", "--target", "edge"}, {"batches"}, {"batches", "--target", "edge"}} {
		if got := s.ok(append(append([]string{"renew"}, args...), "--json")...); strings.TrimSpace(got) != "[]" {
			t.Errorf("%v, without a target: %s", args, got)
		}
	}
	queues(t, s)
	s.ok("renew", "remove", "web", "--dry-run")
	s.ok("renew", "remove", "web")
	s.out(exitFailed, "renew", "show", "web")
	if got := s.ok("renew", "adopt", m.Certificate, "--name", "again", "--issuer", "local"); !strings.Contains(got, "state\tidle") || !strings.Contains(got, "owner\tteam web") {
		t.Error(got)
	}
}

// queues stops and starts what waits for an issuer.
func queues(t *testing.T, s *shell) {
	t.Helper()
	if got := s.ok("queue", "list"); !strings.Contains(got, "local\t0\t0\t32/32\topen") {
		t.Error(got)
	}
	s.ok("queue", "drain", "local", "--dry-run")
	if got := s.ok("queue", "drain", "local"); !strings.Contains(got, "0/32\tpaused") {
		t.Error(got)
	}
	if got := s.ok("queue", "resume", "local"); !strings.Contains(got, "32/32\topen") {
		t.Error(got)
	}
	s.ok("queue", "reset", "local")
	s.out(exitFailed, "queue", "move", "local", "nobody")
	s.out(exitFailed, "queue", "drain", "target/edge")
	s.out(exitUsage, "queue", "drain", "lane/edge")
}
