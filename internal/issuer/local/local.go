// Package local is the issuer of our own certificate authorities: it issues in
// this process, through the steps that every certificate of ours takes. No
// validation is made; the names that its configuration lists are the operator's
// own (see ca.Operator).
package local

import (
	"context"
	"crypto/x509"
	"errors"
	"time"

	"chancery/internal/ca"
	"chancery/internal/fault"
	"chancery/internal/issuer"
	"chancery/internal/pki"
)

// Config is an [issuer.NAME] section of kind "local".
type Config struct {
	CA         string   `toml:"ca" doc:"Name of the [ca.NAME] that issues."`
	Profile    string   `toml:"profile" doc:"Profile of certificates that ask for none. Empty: the default one of the CA."`
	AllowNames []string `toml:"allow_names" doc:"Patterns of the names that the operator answers for: example.com (that name), *.example.com (all below it) or 10.0.0.0/8. Nothing else is issued, and an empty list allows nothing. The rules of the CA and of the profile hold as well."`
	DenyNames  []string `toml:"deny_names" doc:"Patterns of what is never issued; they win over allow_names."`
}

// Authorities is what the program knows of its own CAs.
type Authorities struct {
	Service *ca.Service
	// Describe returns what holds for a [ca.NAME]: Profiles, Default, Also and
	// ProfileAlso of the configuration, or an error when there is no such CA.
	Describe func(name string) (ca.OperatorConfig, error)
	OnIssue  func(ctx context.Context, c *ca.Certificate)
}

// Kind returns the plug-in.
func Kind(a Authorities) issuer.Kind {
	return issuer.Kind{Name: "local", Doc: "A certificate authority of this installation, for names that the operator manages.",
		Config: func() any { return &Config{CA: "default"} },
		Open:   func(env issuer.Env, config any) (issuer.Issuer, error) { return open(a, env, config) }}
}

// local is an opened issuer.
type local struct{ op *ca.Operator }

func open(a Authorities, env issuer.Env, config any) (issuer.Issuer, error) {
	c, ok := config.(*Config)
	if !ok {
		return nil, errors.New("open issuer " + env.Name + ": not a configuration of kind local")
	}
	oc, err := a.Describe(c.CA)
	if err != nil {
		return nil, err
	}
	oc.Name, oc.CA, oc.OnIssue = env.Name, c.CA, a.OnIssue
	if c.Profile != "" {
		oc.Default = c.Profile
	}
	if oc.Names.Allow, err = pki.ParsePatterns(c.AllowNames); err != nil {
		return nil, err
	}
	if oc.Names.Deny, err = pki.ParsePatterns(c.DenyNames); err != nil {
		return nil, err
	}
	op, err := ca.NewOperator(a.Service, oc)
	if err != nil {
		return nil, err
	}
	return &local{op}, nil
}

// Issue implements issuer.Issuer. A repetition with the same ID returns the
// same certificate, so no state is kept.
func (l *local) Issue(ctx context.Context, r *issuer.Request) (issuer.Reply, error) {
	chain, err := l.op.Issue(ctx, ca.OperatorRequest{ID: r.ID, CSR: r.CSR, Profile: r.Profile, NotAfter: r.NotAfter})
	if err != nil {
		return issuer.Reply{}, classify(err)
	}
	return issuer.Reply{Chain: chain}, nil
}

// classify says what has to wait: a refusal stays one until somebody changes
// something, all else is the authority's (or the database's) trouble.
func classify(err error) error {
	var f *fault.Error
	if !errors.As(err, &f) {
		return err
	}
	switch f.Code {
	case fault.RejectedIdentifier, fault.UnsupportedIdentifier, fault.BadCSR, fault.BadPublicKey, fault.InvalidProfile,
		fault.Unauthorized, fault.Malformed, fault.Invalid, fault.NotFound:
		return &issuer.Error{Class: issuer.Permanent, Err: err}
	case fault.RateLimited:
		return &issuer.Error{Class: issuer.Throttled, RetryAfter: f.RetryAfter, Err: err}
	}
	return &issuer.Error{Class: issuer.Unavailable, RetryAfter: f.RetryAfter, Err: err}
}

// infoPoll is how often a window should be asked for: an incident must reach
// every certificate long before it is revoked.
const infoPoll = 6 * time.Hour

// RenewalInfo implements issuer.Informer.
func (l *local) RenewalInfo(ctx context.Context, leaf *x509.Certificate) (issuer.RenewalInfo, error) {
	now := time.Now()
	start, end, url, err := l.op.RenewalWindow(ctx, leaf, now)
	return issuer.RenewalInfo{Start: start, End: end, Explanation: url, RetryAfter: now.Add(infoPoll)}, err
}

// Revoke implements issuer.Revoker.
func (l *local) Revoke(ctx context.Context, leaf *x509.Certificate, reason int) error {
	return l.op.Revoke(ctx, leaf, reason)
}
