package rfc2136_test

import (
	"testing"
	"time"

	"chancery/internal/acme/solver"
	"chancery/internal/acme/solver/rfc2136"
	"chancery/internal/acme/solver/solvertest"
)

func TestProvider(t *testing.T) {
	for name, start := range map[string]func(testing.TB, string) *solvertest.DNSServer{"bind": solvertest.StartBIND, "powerdns": solvertest.StartPowerDNS} {
		t.Run(name, func(t *testing.T) {
			s := start(t, "example.test")
			key := solvertest.File(t, solvertest.TSIGKey)
			p := solvertest.Open(t, rfc2136.Kind, &rfc2136.Config{Server: s.Addr.String(), KeyFile: key, Timeout: 5 * time.Second})
			solvertest.Run(t, solvertest.Suite{Provider: p, Zone: "example.test", Values: s.Values})

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
			t.Run("a wrong key is refused", func(t *testing.T) {
				for _, c := range []rfc2136.Config{
					{Server: s.Addr.String(), Timeout: 5 * time.Second},
					{Server: s.Addr.String(), KeyFile: key, KeyName: "other", Timeout: 5 * time.Second},
					{Server: s.Addr.String(), KeyFile: solvertest.File(t, "d3Jvbmctd3Jvbmctd3Jvbmctd3Jvbmc=\n"), KeyName: "chancery", Timeout: 5 * time.Second},
				} {
					err := solvertest.Open(t, rfc2136.Kind, &c).Apply(t.Context(), "example.test", []solver.Record{{Name: "x.example.test", Value: "v"}}, nil)
					if err == nil {
						t.Errorf("%+v: no error", c)
					}
				}
			})
			t.Run("a bare secret does", func(t *testing.T) {
				c := &rfc2136.Config{Server: s.Addr.String(), KeyFile: solvertest.File(t, "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTEyMzQ=\n"), KeyName: "chancery", Algorithm: "HMAC-SHA256"}
				r := []solver.Record{{Name: "bare.example.test", Value: "v"}}
				if err := solvertest.Open(t, rfc2136.Kind, c).Apply(t.Context(), "example.test", r, nil); err != nil {
					t.Fatal(err)
				}
				if v := s.Values(t, "bare.example.test"); len(v) != 1 {
					t.Errorf("values %q", v)
				}
			})
		})
	}
}

func TestMistakesAreFoundEarly(t *testing.T) {
	for name, c := range map[string]rfc2136.Config{
		"no server":     {},
		"no key file":   {Server: "127.0.0.1", KeyName: "k"},
		"no such file":  {Server: "127.0.0.1", KeyFile: "/nonexistent"},
		"no key name":   {Server: "127.0.0.1", KeyFile: solvertest.File(t, "c2VjcmV0")},
		"not base64":    {Server: "127.0.0.1", KeyName: "k", KeyFile: solvertest.File(t, "not base64")},
		"bad algorithm": {Server: "127.0.0.1", KeyFile: solvertest.File(t, solvertest.TSIGKey), Algorithm: "md5"},
	} {
		if _, err := rfc2136.Kind.Open(solver.Env{}, &c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
