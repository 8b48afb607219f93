package server

import (
	"encoding/json/v2"
	"testing"
	"time"

	"chancery/internal/acme"
	"chancery/internal/acme/challenge"
	"chancery/internal/fault"
)

// What is written by hand is what encoding/json writes.
func TestStoredTextsAreJSON(t *testing.T) {
	problem := acme.NewProblem(fault.New(fault.DNS, `"quoted" <text>`))
	for _, list := range [][]Challenge{
		{},
		{{Type: challenge.HTTP01, Token: "abc_-", State: acme.ChallengePending}},
		{{Type: challenge.DNS01, Token: "x", State: acme.ChallengeValid, Validated: time.Date(2026, 11, 22, 9, 0, 0, 123456789, time.UTC)},
			{Type: challenge.DNSPersist01, State: acme.ChallengeInvalid, Validated: time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC), Error: problem}},
	} {
		want, err := json.Marshal(list)
		if got := encodeChallenges(list); err != nil || got != string(want) {
			t.Errorf("%s, encoding/json writes %s (%v)", got, want, err)
		}
	}
	for _, ids := range [][]string{{}, {"a"}, {"a", "b"}} {
		want, err := json.Marshal(ids)
		if got := encodeIDs(ids); err != nil || got != string(want) {
			t.Errorf("%s, encoding/json writes %s (%v)", got, want, err)
		}
	}
}
