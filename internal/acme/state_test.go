package acme

import "testing"

// machine checks a state machine over every pair of its states (RFC 8555
// section 7.1.6): exactly the edges in want exist, and a state is final when
// it is not the start of any.
func machine[S interface {
	comparable
	Valid() bool
	Final() bool
	CanBecome(S) bool
}](t *testing.T, states []S, want map[[2]S]bool) {
	t.Helper()
	var unknown S
	if unknown.Valid() || unknown.Final() {
		t.Errorf("the empty state counts as a state")
	}
	for _, from := range states {
		if !from.Valid() {
			t.Errorf("%v is not valid", from)
		}
		leaves := false
		for _, to := range states {
			leaves = leaves || want[[2]S{from, to}]
			if got := from.CanBecome(to); got != want[[2]S{from, to}] {
				t.Errorf("%v to %v: %v, want %v", from, to, got, !got)
			}
		}
		if from.Final() == leaves {
			t.Errorf("%v final: %v", from, from.Final())
		}
		if from.CanBecome(unknown) || unknown.CanBecome(from) {
			t.Errorf("an unknown state has an edge with %v", from)
		}
	}
}

func TestOrderMachine(t *testing.T) { // RFC 8555 section 7.1.6, RFC 8739 section 3.1.2
	machine(t, []OrderStatus{"pending", "ready", "processing", "valid", "invalid", "canceled"}, map[[2]OrderStatus]bool{
		{"pending", "ready"}: true, {"pending", "invalid"}: true,
		{"ready", "processing"}: true, {"ready", "invalid"}: true,
		{"processing", "valid"}: true, {"processing", "invalid"}: true,
		{"valid", "canceled"}: true,
	})
}

func TestAuthorizationMachine(t *testing.T) { // RFC 8555 sections 7.1.4, 7.1.6 and 7.5.2
	machine(t, []AuthorizationStatus{"pending", "valid", "invalid", "deactivated", "expired", "revoked"}, map[[2]AuthorizationStatus]bool{
		{"pending", "valid"}: true, {"pending", "invalid"}: true, {"pending", "deactivated"}: true, {"pending", "expired"}: true,
		{"valid", "expired"}: true, {"valid", "deactivated"}: true, {"valid", "revoked"}: true,
	})
}

func TestChallengeMachine(t *testing.T) { // RFC 8555 sections 7.1.6 and 8
	machine(t, []ChallengeStatus{"pending", "processing", "valid", "invalid"}, map[[2]ChallengeStatus]bool{
		{"pending", "processing"}: true, {"pending", "valid"}: true, {"pending", "invalid"}: true,
		{"processing", "valid"}: true, {"processing", "invalid"}: true,
	})
}

func TestAccountMachine(t *testing.T) { // RFC 8555 section 7.1.6
	machine(t, []AccountStatus{"valid", "deactivated", "revoked"}, map[[2]AccountStatus]bool{
		{"valid", "deactivated"}: true, {"valid", "revoked"}: true,
	})
}
