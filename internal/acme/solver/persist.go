package solver

import (
	"context"
	"fmt"
	"strings"

	"chancery/internal/dns"
	"chancery/internal/issuer"
)

// verifyPersist looks for a standing record (dns-persist-01): nothing is
// changed, and a record that is missing is for a person to add.
func (s *Solver) verifyPersist(ctx context.Context, r issuer.Response) error {
	fail := func(class issuer.Class, err error) error {
		return &issuer.Error{Class: class, Identifier: r.Identifier.Value, Provider: "dns", Err: err}
	}
	if s.cfg.Resolver == nil {
		return fail(issuer.Permanent, fmt.Errorf("there is no resolver to look for %s", r.Record))
	}
	accept := strings.Split(r.Value, "\n")
	a, err := s.cfg.Resolver.Session(dns.Limits{MaxAge: dns.NoCache}).TXT(ctx, r.Record)
	if err != nil && !dns.ClassOf(err).Authoritative() {
		return fail(issuer.Provider, err)
	}
	for _, have := range a.Records {
		for _, want := range accept {
			if sameRecord(have, want) {
				return nil
			}
		}
	}
	return fail(issuer.Permanent, fmt.Errorf("%s has no record for this account; add: %s. IN TXT %s", r.Record, r.Record, Quote(accept[0])))
}

// sameRecord compares two dns-persist-01 records: the issuer, and the
// parameters that want has, in any order and with any space. A record for the
// wildcard serves the name, too; one that has ended is left to the CA to judge.
func sameRecord(have, want string) bool {
	hi, hp := persistParts(have)
	wi, wp := persistParts(want)
	if hi != wi || hi == "" {
		return false
	}
	for k, v := range wp {
		if hp[k] != v {
			return false
		}
	}
	return true
}

func persistParts(s string) (string, map[string]string) {
	issuerName, rest, _ := strings.Cut(s, ";")
	params := map[string]string{}
	for p := range strings.SplitSeq(rest, ";") {
		k, v, _ := strings.Cut(strings.TrimSpace(p), "=")
		if k = strings.ToLower(strings.TrimSpace(k)); k != "" {
			params[k] = strings.TrimSpace(v)
		}
	}
	return strings.ToLower(strings.TrimSuffix(strings.TrimSpace(issuerName), ".")), params
}
