// Package solvertest is the suite that every kind of DNS provider passes.
package solvertest

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/acme/solver"
	"chancery/internal/issuer/issuertest"
)

// Suite is a provider and a way to look at what it did.
type Suite struct {
	Provider solver.Provider
	Zone     string // that exists at the server
	// Values returns the TXT values of a name as the server has them now.
	Values func(t testing.TB, name string) []string
	// Changes counts the requests so far that change something; nil: unknown.
	Changes func() int
	// BatchChanges is the most such requests that 40 names may take; 1 if 0.
	BatchChanges int
	// Front, if the provider talks HTTP, is what the provider reaches the API
	// through; the suite makes it fail.
	Front *Front
	// BadZone is whether a change of a zone that the server does not have is an
	// error; true but for providers that know no zones.
	AnyZone bool
}

// Run runs the suite.
func Run(t *testing.T, s Suite) {
	t.Run("values of one name come and go one by one", func(t *testing.T) { s.oneName(t) })
	t.Run("a repeated change is no error", func(t *testing.T) { s.repeated(t) })
	t.Run("one call adds and removes", func(t *testing.T) { s.both(t) })
	t.Run("many names are few requests", func(t *testing.T) { s.batch(t) })
	t.Run("the end of the context is an error", func(t *testing.T) { s.cancelled(t) })
	if !s.AnyZone {
		t.Run("a zone that is not there is an error", func(t *testing.T) {
			if err := s.Provider.Apply(t.Context(), "no-such-zone.test", []solver.Record{{Name: "_acme-challenge.no-such-zone.test", Value: "v", TTL: time.Minute}}, nil); err == nil {
				t.Error("no error")
			}
		})
	}
	if s.Front != nil {
		t.Run("throttles, outages and bad credentials", func(t *testing.T) { s.failures(t) })
	}
}

func (s *Suite) record(label, value string) solver.Record {
	return solver.Record{Name: "_acme-challenge." + label + "." + s.Zone, Value: value, TTL: time.Minute}
}

func (s *Suite) apply(t *testing.T, add, remove []solver.Record) {
	t.Helper()
	if err := s.Provider.Apply(t.Context(), s.Zone, add, remove); err != nil {
		t.Fatal(err)
	}
}

func (s *Suite) want(t *testing.T, name string, values ...string) {
	t.Helper()
	got := slices.Sorted(slices.Values(s.Values(t, name)))
	slices.Sort(values)
	if diff := cmp.Diff(strings.Join(values, " "), strings.Join(got, " ")); diff != "" {
		t.Fatalf("values of %s (-want +got):\n%s", name, diff)
	}
}

func (s *Suite) oneName(t *testing.T) {
	a, b := s.record("one", "value-A_1"), s.record("one", "value-B_2")
	s.apply(t, []solver.Record{a}, nil)
	s.want(t, a.Name, a.Value)
	s.apply(t, []solver.Record{b}, nil) // a wildcard and its base share a name
	s.want(t, a.Name, a.Value, b.Value)
	s.apply(t, nil, []solver.Record{a})
	s.want(t, a.Name, b.Value)
	s.apply(t, nil, []solver.Record{b})
	s.want(t, a.Name)
}

func (s *Suite) repeated(t *testing.T) {
	a := s.record("again", "v1")
	for range 2 {
		s.apply(t, []solver.Record{a}, nil)
		s.want(t, a.Name, a.Value)
	}
	for range 2 {
		s.apply(t, nil, []solver.Record{a})
		s.want(t, a.Name)
	}
	s.apply(t, nil, nil)
}

func (s *Suite) both(t *testing.T) {
	a, b, c := s.record("both", "old"), s.record("both", "new"), s.record("beside", "x")
	s.apply(t, []solver.Record{a}, nil)
	s.apply(t, []solver.Record{b, c}, []solver.Record{a})
	s.want(t, a.Name, b.Value)
	s.want(t, c.Name, c.Value)
	s.apply(t, nil, []solver.Record{b, c})
	s.want(t, a.Name)
}

func (s *Suite) batch(t *testing.T) {
	var list []solver.Record
	for i := range 40 {
		list = append(list, s.record(fmt.Sprintf("n%d", i), fmt.Sprintf("value%d", i)), s.record(fmt.Sprintf("n%d", i), "second"))
	}
	before := 0
	if s.Changes != nil {
		before = s.Changes()
	}
	s.apply(t, list, nil)
	if s.Changes != nil {
		if n := s.Changes() - before; n > max(s.BatchChanges, 1) {
			t.Errorf("40 names took %d changing requests", n)
		}
	}
	for i := range 40 {
		s.want(t, list[2*i].Name, list[2*i].Value, "second")
	}
	s.apply(t, nil, list)
	for i := range 40 {
		s.want(t, list[2*i].Name)
	}
}

func (s *Suite) cancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Provider.Apply(ctx, s.Zone, []solver.Record{s.record("late", "v")}, nil); err == nil {
		t.Error("no error")
	}
}

func (s *Suite) failures(t *testing.T) {
	a := s.record("fails", "v")
	s.Front.Fail(1, http.StatusTooManyRequests, "1")
	s.apply(t, []solver.Record{a}, nil) // waited for
	s.want(t, a.Name, a.Value)
	for _, tc := range []struct {
		status int
		after  string
	}{{http.StatusTooManyRequests, "3600"}, {http.StatusServiceUnavailable, "60"}, {http.StatusUnauthorized, ""}, {http.StatusForbidden, ""}} {
		s.Front.Fail(-1, tc.status, tc.after)
		if err := s.Provider.Apply(t.Context(), s.Zone, nil, []solver.Record{a}); err == nil {
			t.Errorf("status %d is no error", tc.status)
		}
	}
	s.Front.Fail(0, 0, "")
	s.apply(t, nil, []solver.Record{a})
	s.want(t, a.Name)
}

// Front is an HTTP server before an API, that refuses requests on demand.
type Front = issuertest.Front

// NewFront serves api through a Front until the test ends.
func NewFront(t testing.TB, api http.Handler) *Front { return issuertest.NewFront(t, api) }

// Open opens a provider by its kind, with settings changed by set.
func Open(t testing.TB, k solver.Kind, config any) solver.Provider {
	t.Helper()
	p, err := k.Open(solver.Env{Name: "test"}, config)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// File writes a file for the test and returns its path.
func File(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
