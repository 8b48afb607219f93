// Package renew keeps managed certificates alive: it decides when each is
// renewed, obtains the next one from its issuer, has it deployed, and says why
// it did what it did.
//
// # Rows, not goroutines
//
// Everything that waits is a row of managed_schedule or managed_target with an
// instant. A claim moves the instant to the end of a lease and sets a token;
// every later write of the holder checks the token in its own transaction, and
// zero rows mean that the lease was lost and the work must stop. A process that
// dies leaves nothing to clean up: its rows become due again. Any number of
// replicas run the same code without knowing of each other.
//
// # Lanes
//
// Rows wait in lanes: certificates by what is to be done (check, issue) and at
// which issuer, deployments by target. Each lane is claimed for itself, never
// beyond its free slots, so that a CA that is down or a target that fails stops
// nobody else. What a lane shares (a breaker, a pause, a sleeping budget) is a
// row of renew_lane that is locked for the moment of the claim: caps hold
// across replicas.
//
// # One committed row before each side effect
//
// An issuance is a state machine (see transitions). Key and request are stored,
// sealed, before anything is ordered; an issuer commits what it knows through
// issuer.Request.Save before each step that a repetition must know of; the
// chain is stored before anything is deployed. The crash tests kill the process
// at every arrow.
//
// Failures say what has to wait (see rule.Decide): the budget of an account, a CA, a
// DNS provider, one certificate, or a person.
package renew
