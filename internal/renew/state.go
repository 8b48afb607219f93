package renew

import "slices"

// State is where a managed certificate stands.
type State string

// States. Those between due and issued follow the issuer's own steps (RFC 8555
// section 7.1.6 in other words); not every issuer has all of them.
const (
	Due          State = "due"           // a certificate is wanted; key and request are stored from here on
	Ordered      State = "ordered"       // the issuer knows of it
	AuthzPending State = "authz_pending" // challenges are being prepared
	Posted       State = "posted"        // the CA was told to look at them
	Ready        State = "ready"         // every name is proved
	Finalizing   State = "finalizing"    // the request was sent
	Issued       State = "issued"        // the chain is stored, checked against key and names
	Deploying    State = "deploying"     // on its way to its targets
	Verified     State = "verified"      // every target serves it
	Idle         State = "idle"          // nothing to do before the next renewal
	Stopped      State = "stopped"       // failed for good; a person must change something
)

// transitions lists where each state may go. Between due and issued an issuer
// may skip steps, and go back: an order that expired is made again.
var transitions = map[State][]State{
	Due:          {Ordered, AuthzPending, Posted, Ready, Finalizing, Issued, Idle, Stopped},
	Ordered:      {Due, AuthzPending, Posted, Ready, Finalizing, Issued, Idle, Stopped},
	AuthzPending: {Due, Ordered, Posted, Ready, Finalizing, Issued, Idle, Stopped},
	Posted:       {Due, Ordered, AuthzPending, Ready, Finalizing, Issued, Idle, Stopped},
	Ready:        {Due, Ordered, AuthzPending, Posted, Finalizing, Issued, Idle, Stopped},
	Finalizing:   {Due, Ordered, AuthzPending, Posted, Ready, Issued, Idle, Stopped},
	Issued:       {Deploying, Verified, Idle, Stopped},
	Deploying:    {Verified, Idle, Due, Stopped},
	Verified:     {Idle, Due},
	Idle:         {Due, Deploying, Stopped},
	Stopped:      {Due, Idle, Deploying},
}

// States lists every state, in the order of a certificate's life.
var States = []State{Due, Ordered, AuthzPending, Posted, Ready, Finalizing, Issued, Deploying, Verified, Idle, Stopped}

// Valid reports whether s is a known state.
func (s State) Valid() bool { return slices.Contains(States, s) }

// may reports whether a certificate in state s may go to state to. Staying is
// always allowed: a repetition after a crash does so.
func (s State) may(to State) bool { return s == to || slices.Contains(transitions[s], to) }

// issuing reports whether an issuer is at work on it.
func (s State) issuing() bool {
	i := slices.Index(States, s)
	return i >= 0 && i < slices.Index(States, Issued)
}

// stateOf is the state that an issuer's word for its step stands for; a word of
// its own (a commercial CA's "pending") counts as ordered.
func stateOf(step string) State {
	if s := State(step); s.issuing() && s != Due {
		return s
	}
	return Ordered
}
