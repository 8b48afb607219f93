package ca

import (
	"bytes"
	"encoding/json/v2"
	"time"

	"chancery/internal/fault"
	"chancery/internal/pki"
)

// caaLifetime is how old a CAA check may be at signing (RFC 8659 section 4.1
// leaves it to policy; the Baseline Requirements section 3.2.2.8 say 8 hours,
// and callers re-check after 7 so that queueing cannot exceed it).
const caaLifetime = 8 * time.Hour

// Evidence says why one name may be certified. It is stored with the
// certificate, and `doctor issuance` checks it against the instant of signing.
type Evidence struct {
	Name        pki.Identifier `json:"name"`                 // wildcard included
	Method      string         `json:"method"`               // validation method, or "operator", "internal"
	Reference   string         `json:"reference"`            // authorization id, token id or component
	ValidatedAt time.Time      `json:"validated_at"`         // when control was shown
	ExpiresAt   time.Time      `json:"expires_at"`           // last instant at which it counts
	CAAAt       time.Time      `json:"caa_at,omitzero"`      // last CAA check of this very name
	CAAExempt   bool           `json:"caa_exempt,omitempty"` // addresses, internal and operator grants
	Remotes     int            `json:"remotes,omitzero"`     // remote perspectives that were asked and made a quorum
	Key         []byte         `json:"key,omitempty"`        // SHA-256 of the SubjectPublicKeyInfo that alone may be certified; nil: any
}

// Methods of evidence that was not had by validation.
const (
	MethodOperator = "operator"
	MethodInternal = "internal"
)

// Grant is the right to issue one certificate for a set of names. Its zero
// value grants nothing. Only NewGrant makes one, and a house test keeps the
// list of NewGrant's callers: those that hold validated authorizations.
type Grant struct {
	names    []pki.Identifier
	evidence []Evidence
}

// NewGrant returns a grant for exactly the names that evidence covers. Each
// piece must be complete: an absent method, reference or instant is an error,
// never a default.
func NewGrant(evidence []Evidence) (Grant, error) {
	if len(evidence) == 0 {
		return Grant{}, fault.New(fault.Unauthorized, "no name is authorized")
	}
	g := Grant{evidence: evidence}
	for i := range evidence {
		e := &evidence[i]
		if !e.Name.Type.Valid() || e.Method == "" || e.Reference == "" || e.ValidatedAt.IsZero() || !e.ExpiresAt.After(e.ValidatedAt) {
			return Grant{}, fault.New(fault.Unauthorized, "the authorization of %s is incomplete", e.Name.Value)
		}
		if e.CAAAt.IsZero() && !e.CAAExempt {
			return Grant{}, fault.New(fault.CAA, "CAA of %s was not checked", e.Name.Value)
		}
		g.names = append(g.names, e.Name)
	}
	return g, nil
}

// Names returns the granted names in the order of the evidence.
func (g Grant) Names() []pki.Identifier { return g.names }

// check reports whether every piece of evidence counts at now, each by itself.
func (g Grant) check(now time.Time) error {
	if len(g.names) == 0 {
		return fault.New(fault.Unauthorized, "no name is authorized")
	}
	for i := range g.evidence {
		if err := g.evidence[i].check(now); err != nil {
			return err
		}
	}
	return nil
}

func (e *Evidence) check(now time.Time) error {
	if now.After(e.ExpiresAt) || now.Before(e.ValidatedAt.Add(-time.Minute)) {
		return fault.New(fault.Unauthorized, "the authorization of %s is not valid now; validate it again", e.Name.Value)
	}
	if !e.CAAExempt && now.Sub(e.CAAAt) > caaLifetime {
		return fault.New(fault.CAA, "the CAA check of %s is too old; try again", e.Name.Value)
	}
	return nil
}

// checkKey reports whether the key with this hash is the one that each piece
// of evidence is about. An attestation speaks for the key that it attests.
func (g Grant) checkKey(spkiHash [32]byte) error {
	for i := range g.evidence {
		if e := &g.evidence[i]; e.Key != nil && !bytes.Equal(e.Key, spkiHash[:]) {
			return fault.New(fault.BadCSR, "the key in the certificate request is not the one that was attested for %s; make a new order for this key", e.Name.Value)
		}
	}
	return nil
}

// encode returns the evidence as stored JSON.
func (g Grant) encode() (string, error) {
	b, err := json.Marshal(g.evidence, json.Deterministic(true))
	return string(b), err
}
