package verdict

import (
	"bytes"
	"crypto/x509"
	"errors"
	"sync"
	"time"
)

// issuers is what a server sent after a leaf, verified once for all leaves.
type issuers struct {
	certs []*x509.Certificate
	pool  *x509.CertPool
	at    time.Time
	weak  []Problem

	mu     sync.Mutex
	trusts map[int]*issuerTrust // by index in certs
}

// issuerTrust is the verdict of every root set on one issuer.
type issuerTrust struct {
	trust []SetTrust
	// constrained: a CA in the chain has name constraints, so the verdict
	// depends on the leaf's names and may not be shared.
	constrained bool
}

// above returns the entry of what followed a leaf.
func (j *Judge) above(rest []*x509.Certificate, key [32]byte, now time.Time) *issuers {
	if known, ok := j.chains.get(key); ok && now.Sub(known.at).Abs() < chainAge {
		return known
	}
	s := &issuers{certs: rest, pool: x509.NewCertPool(), at: now, trusts: map[int]*issuerTrust{}}
	for _, c := range rest {
		s.pool.AddCert(c)
		if selfIssued(c) {
			continue // the signature of a root is not what makes it trusted
		}
		if weakSignature(c) {
			s.weak = append(s.weak, WeakSignature)
		}
		if weakKey(c) {
			s.weak = append(s.weak, WeakKey)
		}
	}
	j.chains.put(key, s)
	return s
}

func selfIssued(c *x509.Certificate) bool { return bytes.Equal(c.RawIssuer, c.RawSubject) }

// trust returns what each root set says of chain, and the certificate that
// signed the leaf if it was served or is the leaf itself.
func (j *Judge) trust(chain []*x509.Certificate, key [32]byte, now time.Time) ([]SetTrust, *x509.Certificate) {
	leaf := chain[0]
	s := j.above(chain[1:], key, now)
	at := s.signerOf(leaf)
	if at < 0 {
		return j.direct(leaf, s, now)
	}
	issuer := s.certs[at]
	if len(leaf.UnhandledCriticalExtensions) > 0 { // RFC 5280 section 4.2: must be rejected
		return j.all(Trust(Untrusted)), issuer
	}
	t := j.issuer(s, at, now)
	if t.constrained {
		trust := make([]SetTrust, len(j.cfg.Roots))
		for i, set := range j.cfg.Roots {
			t, _ := j.full(leaf, s, set.Pool, now)
			trust[i] = SetTrust{set.Name, t}
		}
		return trust, issuer
	}
	return t.trust, issuer
}

// signerOf returns the index of the certificate that signed leaf, or -1.
func (s *issuers) signerOf(leaf *x509.Certificate) int {
	for i, c := range s.certs {
		if bytes.Equal(c.RawSubject, leaf.RawIssuer) && signs(c, leaf) {
			return i
		}
	}
	return -1
}

// signs reports whether parent signed child. Weak algorithms, which the
// library refuses, count as signed: they are a problem of their own, and
// should not hide behind "untrusted".
func signs(parent, child *x509.Certificate) bool {
	if len(child.AuthorityKeyId) > 0 && len(parent.SubjectKeyId) > 0 && !bytes.Equal(child.AuthorityKeyId, parent.SubjectKeyId) {
		return false
	}
	err := parent.CheckSignature(child.SignatureAlgorithm, child.RawTBSCertificate, child.Signature)
	var insecure x509.InsecureAlgorithmError
	return err == nil || errors.As(err, &insecure)
}

// direct judges a leaf whose signer was not served: a root, the leaf itself,
// or a certificate that is missing.
func (j *Judge) direct(leaf *x509.Certificate, s *issuers, now time.Time) ([]SetTrust, *x509.Certificate) {
	otherwise, issuer := Trust(Incomplete), (*x509.Certificate)(nil)
	if selfIssued(leaf) && signs(leaf, leaf) {
		otherwise, issuer = Trust(SelfSigned), leaf
	}
	out := make([]SetTrust, len(j.cfg.Roots))
	for i, set := range j.cfg.Roots {
		out[i] = SetTrust{set.Name, otherwise}
		if t, root := j.full(leaf, s, set.Pool, now); t == Trusted || t == Trust(IssuerExpired) {
			out[i].Trust = t
			if root != nil {
				issuer = root
			}
		}
	}
	return out, issuer
}

// all gives every set the same trust.
func (j *Judge) all(t Trust) []SetTrust {
	out := make([]SetTrust, len(j.cfg.Roots))
	for i, set := range j.cfg.Roots {
		out[i] = SetTrust{set.Name, t}
	}
	return out
}

// full verifies leaf itself, at a moment within its dates, and returns its
// issuer in a chain that is trusted.
func (j *Judge) full(leaf *x509.Certificate, s *issuers, roots *x509.CertPool, now time.Time) (Trust, *x509.Certificate) {
	if now.After(leaf.NotAfter) {
		now = leaf.NotAfter
	}
	if now.Before(leaf.NotBefore) {
		now = leaf.NotBefore
	}
	chains, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: s.pool, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return j.explain(err), nil
	}
	return Trusted, chains[0][min(1, len(chains[0])-1)]
}

// explain turns an error of x509.Verify into a trust.
func (j *Judge) explain(err error) Trust {
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
		return Trust(IssuerExpired)
	}
	return Trust(Untrusted)
}

// issuer returns the verdicts on certs[at], verified once. The lock is held
// meanwhile: whoever needs the same answer waits for it instead of computing.
func (j *Judge) issuer(s *issuers, at int, now time.Time) *issuerTrust {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.trusts[at]; t != nil {
		return t
	}
	t := &issuerTrust{}
	for _, set := range j.cfg.Roots {
		trust, constrained := j.issuerBy(s, s.certs[at], set.Pool, now)
		t.trust = append(t.trust, SetTrust{set.Name, trust})
		t.constrained = t.constrained || constrained
	}
	s.trusts[at] = t
	return t
}

// issuerBy verifies one issuer against one root set.
func (j *Judge) issuerBy(s *issuers, issuer *x509.Certificate, roots *x509.CertPool, now time.Time) (trust Trust, constrained bool) {
	if !mayIssue(issuer) {
		return Trust(Untrusted), false
	}
	usages := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	chains, err := issuer.Verify(x509.VerifyOptions{Roots: roots, Intermediates: s.pool, CurrentTime: now, KeyUsages: usages})
	if err == nil {
		short := false
		for _, chain := range chains {
			if constrains(chain) {
				return Trusted, true
			}
			short = short || longEnough(chain)
		}
		if !short {
			return Trust(Untrusted), false
		}
		return Trusted, false
	}
	if trust = j.explain(err); trust != Trust(Untrusted) || j.cfg.Known == nil {
		return trust, false
	}
	with := j.cfg.Known.Clone()
	for _, c := range s.certs {
		with.AddCert(c)
	}
	if _, err := issuer.Verify(x509.VerifyOptions{Roots: roots, Intermediates: with, CurrentTime: now, KeyUsages: usages}); err == nil {
		return Trust(Incomplete), false
	}
	return trust, false
}

// mayIssue reports whether c may sign certificates at all (RFC 5280 section
// 6.1.4 k, l, n); x509.Verify checks that of parents only.
func mayIssue(c *x509.Certificate) bool {
	return c.BasicConstraintsValid && c.IsCA && (c.KeyUsage == 0 || c.KeyUsage&x509.KeyUsageCertSign != 0)
}

// longEnough reports whether each path length constraint allows the CAs below
// it. The chain begins with the issuer of the leaf, which x509.Verify took for
// a leaf.
func longEnough(chain []*x509.Certificate) bool {
	for below, c := range chain {
		if c.MaxPathLen >= 0 && (c.MaxPathLen > 0 || c.MaxPathLenZero) && below > c.MaxPathLen {
			return false
		}
	}
	return true
}

// constrains reports whether a CA of the chain restricts names.
func constrains(chain []*x509.Certificate) bool {
	for _, c := range chain {
		if len(c.PermittedDNSDomains)+len(c.ExcludedDNSDomains)+len(c.PermittedIPRanges)+len(c.ExcludedIPRanges)+
			len(c.PermittedEmailAddresses)+len(c.ExcludedEmailAddresses)+len(c.PermittedURIDomains)+len(c.ExcludedURIDomains) > 0 {
			return true
		}
	}
	return false
}
