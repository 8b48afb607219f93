package powerdns_test

import (
	"testing"
	"time"

	"chancery/internal/acme/solver"
	"chancery/internal/acme/solver/powerdns"
	"chancery/internal/acme/solver/solvertest"
)

func TestProvider(t *testing.T) {
	s := solvertest.StartPowerDNS(t, "example.test")
	front := solvertest.NewFront(t, s.Proxy())
	open := func(key string) solver.Provider {
		return solvertest.Open(t, powerdns.Kind, &powerdns.Config{URL: front.URL, KeyFile: solvertest.File(t, key), ServerID: "localhost", Timeout: 10 * time.Second})
	}
	p := open(solvertest.APIKey)
	solvertest.Run(t, solvertest.Suite{Provider: p, Zone: "example.test", Values: s.Values, Front: front, Changes: front.Changes})
	t.Run("values of others stay", func(t *testing.T) {
		r := []solver.Record{{Name: "_acme-challenge.keep.example.test", Value: "ours", TTL: time.Minute}}
		if err := p.Apply(t.Context(), "example.test", r, nil); err != nil {
			t.Fatal(err)
		}
		if err := p.Apply(t.Context(), "example.test", nil, r); err != nil {
			t.Fatal(err)
		}
		if v := s.Values(t, r[0].Name); len(v) != 1 || v[0] != "foreign" {
			t.Errorf("left: %q", v)
		}
	})
	t.Run("check", func(t *testing.T) {
		if err := p.(solver.Checker).Check(t.Context()); err != nil {
			t.Error(err)
		}
		if err := open("wrong").(solver.Checker).Check(t.Context()); err == nil {
			t.Error("a wrong key is accepted")
		}
	})
}
