package server

import (
	"context"

	"chancery/internal/fault"
	"chancery/internal/pki"
)

// NamePolicy says which identifiers may be certified, by patterns (see
// pki.ParsePattern). The zero value lets everything pass.
type NamePolicy struct {
	// Allow lists what may be certified; nil: anything, empty: nothing.
	Allow []pki.Pattern

	// Deny lists what may not; it wins over Allow.
	Deny []pki.Pattern

	// Shadow logs what would be refused, and refuses nothing: to try a policy
	// before it holds.
	Shadow bool
}

// refusal returns why p refuses id, or "".
func (p *NamePolicy) refusal(id pki.Identifier) string {
	switch {
	case pki.MatchAny(p.Deny, id):
		return "it is denied"
	case p.Allow != nil && !pki.MatchAny(p.Allow, id):
		return "it is not among what is allowed"
	}
	return ""
}

// named checks id against the policies of the CA and of the profile.
func (s *Server) named(ctx context.Context, a *authority, p *Profile, id pki.Identifier) error {
	for _, policy := range []struct {
		of   string
		name string
		rule *NamePolicy
	}{{"CA", a.name, &a.Names}, {"profile", p.Name, &p.Names}} {
		why := policy.rule.refusal(id)
		switch {
		case why == "":
		case policy.rule.Shadow:
			s.log.WarnContext(ctx, "identifier policy would refuse", "of", policy.of, "policy", policy.name, "identifier", id.Value, "reason", why)
		default:
			return fault.New(fault.RejectedIdentifier, "the policy of %s %s does not allow %s: %s", policy.of, policy.name, id.Value, why)
		}
	}
	return nil
}

// namedAll checks the identifiers of an order against the policies that hold
// now, which may be stricter than when it was made. A profile that its CA does
// not offer any more has none.
func (s *Server) namedAll(ctx context.Context, a *authority, o *Order) error {
	p := a.profiles[o.Profile]
	if p == nil {
		p = &Profile{Profile: a.standard.Profile}
	}
	for _, id := range o.Identifiers {
		if err := s.named(ctx, a, p, id); err != nil {
			return err
		}
	}
	return nil
}
