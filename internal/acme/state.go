package acme

import "slices"

// OrderStatus is the state of an order (RFC 8555 section 7.1.6).
type OrderStatus string

// Order states. OrderCanceled is of RFC 8739 section 3.1.2.
const (
	OrderPending    OrderStatus = "pending"
	OrderReady      OrderStatus = "ready"
	OrderProcessing OrderStatus = "processing"
	OrderValid      OrderStatus = "valid"
	OrderInvalid    OrderStatus = "invalid"
	OrderCanceled   OrderStatus = "canceled"
)

// AuthorizationStatus is the state of an authorization (RFC 8555 section 7.1.6).
type AuthorizationStatus string

// Authorization states.
const (
	AuthorizationPending     AuthorizationStatus = "pending"
	AuthorizationValid       AuthorizationStatus = "valid"
	AuthorizationInvalid     AuthorizationStatus = "invalid"
	AuthorizationDeactivated AuthorizationStatus = "deactivated"
	AuthorizationExpired     AuthorizationStatus = "expired"
	AuthorizationRevoked     AuthorizationStatus = "revoked"
)

// ChallengeStatus is the state of a challenge (RFC 8555 section 7.1.6).
type ChallengeStatus string

// Challenge states.
const (
	ChallengePending    ChallengeStatus = "pending"
	ChallengeProcessing ChallengeStatus = "processing"
	ChallengeValid      ChallengeStatus = "valid"
	ChallengeInvalid    ChallengeStatus = "invalid"
)

// AccountStatus is the state of an account (RFC 8555 section 7.1.6).
type AccountStatus string

// Account states: deactivated is the client's wish, revoked the server's.
const (
	AccountValid       AccountStatus = "valid"
	AccountDeactivated AccountStatus = "deactivated"
	AccountRevoked     AccountStatus = "revoked"
)

// transitions are the state machines of RFC 8555 section 7.1.6, one table per
// object. Every state is a key; a state without successors is final.
//
// Two places are wider than the diagrams of the RFC. A challenge may go from
// pending to its result at once, because the reply to the challenge POST may
// carry the result and processing is then never seen. A pending authorization
// may be deactivated by its owner (section 7.5.2) and may expire (7.1.4).
var (
	orderTransitions = map[OrderStatus][]OrderStatus{
		OrderPending:    {OrderReady, OrderInvalid},
		OrderReady:      {OrderProcessing, OrderInvalid},
		OrderProcessing: {OrderValid, OrderInvalid},
		OrderValid:      {OrderCanceled}, // an auto-renewing order only
		OrderInvalid:    nil,
		OrderCanceled:   nil,
	}
	authorizationTransitions = map[AuthorizationStatus][]AuthorizationStatus{
		AuthorizationPending:     {AuthorizationValid, AuthorizationInvalid, AuthorizationDeactivated, AuthorizationExpired},
		AuthorizationValid:       {AuthorizationExpired, AuthorizationDeactivated, AuthorizationRevoked},
		AuthorizationInvalid:     nil,
		AuthorizationDeactivated: nil,
		AuthorizationExpired:     nil,
		AuthorizationRevoked:     nil,
	}
	challengeTransitions = map[ChallengeStatus][]ChallengeStatus{
		ChallengePending:    {ChallengeProcessing, ChallengeValid, ChallengeInvalid},
		ChallengeProcessing: {ChallengeValid, ChallengeInvalid},
		ChallengeValid:      nil,
		ChallengeInvalid:    nil,
	}
	accountTransitions = map[AccountStatus][]AccountStatus{
		AccountValid:       {AccountDeactivated, AccountRevoked},
		AccountDeactivated: nil,
		AccountRevoked:     nil,
	}
)

// permits reports whether table lets from become to. Staying is no transition.
func permits[S comparable](table map[S][]S, from, to S) bool {
	return slices.Contains(table[from], to)
}

// known reports whether s is a state of table.
func known[S comparable](table map[S][]S, s S) bool {
	_, ok := table[s]
	return ok
}

// final reports whether s is a state of table that nothing leaves.
func final[S comparable](table map[S][]S, s S) bool {
	next, ok := table[s]
	return ok && len(next) == 0
}

// Valid reports whether s is a known state (not whether the order is valid).
func (s OrderStatus) Valid() bool { return known(orderTransitions, s) }

// CanBecome reports whether an order in state s may change to next.
func (s OrderStatus) CanBecome(next OrderStatus) bool { return permits(orderTransitions, s, next) }

// Final reports whether nothing can change s. A valid order is not final: one
// that renews itself can be canceled.
func (s OrderStatus) Final() bool { return final(orderTransitions, s) }

// Valid reports whether s is a known state.
func (s AuthorizationStatus) Valid() bool { return known(authorizationTransitions, s) }

// CanBecome reports whether an authorization in state s may change to next.
func (s AuthorizationStatus) CanBecome(next AuthorizationStatus) bool {
	return permits(authorizationTransitions, s, next)
}

// Final reports whether nothing can change s.
func (s AuthorizationStatus) Final() bool { return final(authorizationTransitions, s) }

// Valid reports whether s is a known state.
func (s ChallengeStatus) Valid() bool { return known(challengeTransitions, s) }

// CanBecome reports whether a challenge in state s may change to next.
func (s ChallengeStatus) CanBecome(next ChallengeStatus) bool {
	return permits(challengeTransitions, s, next)
}

// Final reports whether nothing can change s.
func (s ChallengeStatus) Final() bool { return final(challengeTransitions, s) }

// Valid reports whether s is a known state.
func (s AccountStatus) Valid() bool { return known(accountTransitions, s) }

// CanBecome reports whether an account in state s may change to next.
func (s AccountStatus) CanBecome(next AccountStatus) bool {
	return permits(accountTransitions, s, next)
}

// Final reports whether nothing can change s.
func (s AccountStatus) Final() bool { return final(accountTransitions, s) }
