package challenge_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"chancery/internal/acme/challenge"
	"chancery/internal/fault"
)

// votes makes observations: a letter each, upper case in region 1, lower case
// in region 2; a agrees, d disagrees, s is silent.
func votes(s string) []challenge.Observation {
	kinds := map[byte]challenge.Verdict{'a': challenge.Agrees, 'd': challenge.Disagrees, 's': challenge.Silent}
	var out []challenge.Observation
	for i, c := range []byte(s) {
		o := challenge.Observation{Perspective: fmt.Sprintf("p%d", i), Region: "one", Verdict: kinds[c|0x20]}
		if c >= 'a' {
			o.Region = "two"
		}
		if o.Verdict == challenge.Disagrees {
			o.Code, o.Problem = fault.Connection, "connection refused"
		}
		out = append(out, o)
	}
	return out
}

// The rule of Baseline Requirements section 3.2.2.9.
func TestQuorum(t *testing.T) {
	for _, c := range []struct {
		votes string
		want  fault.Code // "" is a quorum
	}{
		{"Aa", ""}, {"AaAaA", ""}, {"AaAaAa", ""},
		{"AaD", ""}, {"AaAaD", ""}, {"AaAaS", ""}, // one of up to 5
		{"AaAdD", fault.Connection}, {"AaAdS", fault.Unavailable}, {"AaAsS", fault.Unavailable},
		{"AaAaDd", ""}, {"AaAaDs", ""}, {"AaAaSs", ""}, // two of 6 and more
		{"AaAdDd", fault.Connection}, {"AaADSs", fault.Unavailable}, {"AaAaAadDD", fault.Connection},
		{"AAAA", fault.Unavailable}, {"AAAd", fault.Connection}, {"AAAs", fault.Unavailable}, // one region
		{"Ad", fault.Connection}, {"As", fault.Unavailable}, // one that agrees is one region
		{"dd", fault.Connection}, {"ss", fault.Unavailable},
		{"", fault.ServerInternal}, {"A", fault.ServerInternal},
	} {
		got, err := challenge.Judge(votes(c.votes))
		if c.want == "" {
			if err != nil || got.Remotes != len(c.votes) || len(got.Agreed) != strings.Count(strings.ToLower(c.votes), "a") || len(got.Regions) != 2 {
				t.Errorf("%s: %+v, %v", c.votes, got, err)
			}
			continue
		}
		if !fault.Is(err, c.want) || got.Remotes != 0 {
			t.Errorf("%s: %+v, %v; want %s", c.votes, got, err, c.want)
		}
	}
	if n := challenge.MayDisagree(1); n != 0 {
		t.Errorf("of one perspective %d may disagree", n)
	}
}

// Disagreements of different kinds have no kind in common; each is told.
func TestDisagreementIsExplained(t *testing.T) {
	all := votes("AaAdD")
	all[4].Code, all[4].Problem = fault.DNS, "NXDOMAIN"
	_, err := challenge.Judge(all)
	if !fault.Is(err, fault.Unauthorized) || !strings.Contains(err.Error(), "p3: connection refused; p4: NXDOMAIN") {
		t.Errorf("%v", err)
	}
}

// Observations confirm what was proved here; they make nothing of nothing.
func TestCorroborateMakesNoProof(t *testing.T) {
	if p, c, err := challenge.Corroborate(challenge.Proof{}, challenge.Clearance{}, votes("AaAaA")); err == nil || p.Valid() || !c.At().IsZero() {
		t.Errorf("%v %v %v", p, c, err)
	}
	if c, err := challenge.CorroborateCAA(challenge.Clearance{}, votes("AaAaA")); err == nil || !c.At().IsZero() {
		t.Errorf("%v %v", c, err)
	}
	w := newWorld(t)
	w.dns.Add("_acme-challenge.example.test. 60 IN TXT " + challenge.DNS01Value(keyAuth))
	p, err := challenge.NewDNS01(w.cfg).Validate(context.Background(), request(name("example.test")))
	if err != nil {
		t.Fatal(err)
	}
	checker, err := challenge.NewCAA(challenge.CAAConfig{Resolver: w.cfg.Resolver})
	if err != nil {
		t.Fatal(err)
	}
	c, err := checker.Check(context.Background(), p.Identifier(), challenge.DNS01, p.AccountURL())
	if err != nil {
		t.Fatal(err)
	}
	if q, d, err := challenge.Corroborate(p, c, votes("Add")); err == nil || q.Valid() || !d.At().IsZero() {
		t.Errorf("without a quorum: %v %v %v", q, d, err)
	}
	q, d, err := challenge.Corroborate(p, c, votes("AaAaD"))
	if err != nil || q.Corroboration().Remotes != 5 || len(q.Corroboration().Agreed) != 4 || d.Corroboration().Remotes != 5 {
		t.Fatalf("%v %v %v", q, d, err)
	}
	if p.Corroboration().Remotes != 0 {
		t.Error("the proof before it changed")
	}
	seal, err := challenge.NewSealer(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	text, err := seal.Seal(q)
	if err != nil {
		t.Fatal(err)
	}
	if back, err := seal.Open(text); err != nil || back.Corroboration().Remotes != 5 {
		t.Errorf("%v %v", back, err)
	}
}
