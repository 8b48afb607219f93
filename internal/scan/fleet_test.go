package scan_test

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/bench/fleet"
	"chancery/internal/dns"
	"chancery/internal/pki"
	"chancery/internal/scan"
	"chancery/internal/scan/probe"
	"chancery/internal/scan/verdict"
)

// estate starts a fleet and returns the configuration that scans it.
func estate(t testing.TB, cfg fleet.Config) (*fleet.Fleet, scan.Config, []scan.Target) {
	t.Helper()
	f, err := fleet.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	r, err := dns.New(dns.Config{Servers: []string{f.DNS()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(f.Root)
	targets := scan.NewTargets(scan.TargetConfig{})
	for i := range f.Endpoints {
		if err := targets.Add(f.Endpoints[i].Target); err != nil {
			t.Fatal(err)
		}
	}
	judge := verdict.New(verdict.Config{Roots: []verdict.Roots{{Name: "fleet", Pool: pool}}})
	return f, scan.Config{Resolver: r, Judge: judge, Connect: 3 * time.Second, Handshake: 3 * time.Second}, targets.List()
}

// collect runs a scan and returns its results by target.
func collect(t testing.TB, cfg scan.Config, targets []scan.Target) (map[string]scan.Result, scan.Summary) {
	t.Helper()
	s, err := scan.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]scan.Result)
	sum, err := s.Run(t.Context(), targets, func(_ context.Context, batch []scan.Result) error {
		for _, r := range batch {
			if _, twice := got[r.Target.String()]; twice {
				t.Errorf("%s: two results", r.Target)
			}
			got[r.Target.String()] = r
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got, sum
}

// outcome is what a result and the truth have in common.
type outcome struct {
	Class    probe.Class
	Alert    uint8
	Problems []verdict.Problem
	Leaf     string
}

func outcomeOf(r scan.Result) outcome {
	o := outcome{Class: r.Class, Alert: r.Alert, Problems: append([]verdict.Problem{}, r.Verdict.Problems...)}
	if leaf := r.Leaf(); leaf != nil {
		sum := pki.Fingerprint(leaf.Raw)
		o.Leaf = hex.EncodeToString(sum[:])
	}
	return o
}

// truthOf is what a probe of the kind ought to find.
func truthOf(e fleet.Endpoint, revocation bool) outcome {
	o := outcome{Class: e.Class, Alert: e.Alert, Problems: e.Problems, Leaf: e.Leaf}
	if e.Kind == fleet.Revoked && !revocation {
		o.Problems = []verdict.Problem{}
	}
	if e.Class != probe.OK {
		o.Leaf = ""
	}
	return o
}

func TestFindsExactlyWhatIsThere(t *testing.T) {
	for _, kind := range scan.Kinds() {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel() // most of the time is waiting for endpoints that never answer
			f, cfg, targets := estate(t, fleet.Config{Endpoints: 300, Seed: 1})
			cfg.Probe = kind
			revocation := kind == scan.Observe
			if revocation {
				cfg.Revocation = verdict.NewRevocation(http.DefaultClient)
			}
			got, sum := collect(t, cfg, targets)
			classes := make(map[probe.Class]int)
			for _, e := range f.Endpoints {
				r := got[e.Target]
				if diff := cmp.Diff(truthOf(e, revocation), outcomeOf(r)); diff != "" && !(e.Kind == fleet.Dual && r.Class == probe.OK && len(r.Verdict.Problems) == 0) {
					t.Errorf("%s (%s, %s; -want +got):\n%s", e.Target, e.Kind, r.Reason, diff)
				}
				if e.Class == probe.OK && r.Proven != (kind != scan.Fetch) {
					t.Errorf("%s (%s): key proven = %v", e.Target, e.Kind, r.Proven)
				}
				if r.ClientAuth != (e.Kind == fleet.MutualTLS) && kind != scan.Fetch {
					t.Errorf("%s (%s): asks for a client certificate = %v", e.Target, e.Kind, r.ClientAuth)
				}
				classes[e.Class]++
				checkKind(t, kind, e, r)
			}
			if diff := cmp.Diff(classes, sum.Classes); diff != "" || sum.Done != 300 || sum.Remaining != 0 {
				t.Errorf("summary: %d done, %d remaining; classes (-want +got):\n%s", sum.Done, sum.Remaining, diff)
			}
			// A name is asked once; again only when its TTL of seconds ran out
			// before a second attempt, or when an answer was lost.
			if f.Queries() > len(targets)*11/10 {
				t.Errorf("%d DNS queries for %d names", f.Queries(), len(targets))
			}
		})
	}
}

// checkKind checks what only one kind of probe finds.
func checkKind(t *testing.T, kind scan.Kind, e fleet.Endpoint, r scan.Result) {
	t.Helper()
	if e.Class != probe.OK {
		return
	}
	switch kind {
	case scan.Dual:
		if r.Dual == nil || (r.Dual.ECDSA != nil && r.Dual.RSA != nil) != (e.Kind == fleet.Dual) {
			t.Errorf("%s (%s): dual %+v", e.Target, e.Kind, r.Dual != nil)
		}
	case scan.Features:
		want := "[771 772]" // TLS 1.2 and 1.3
		if e.Kind == fleet.TLS12 {
			want = "[771]"
		}
		if r.Support == nil || fmt.Sprint(r.Support.Versions) != want || r.Support.Hybrid != 0 {
			t.Errorf("%s (%s): support %+v, want %s", e.Target, e.Kind, r.Support, want)
		}
	}
}
