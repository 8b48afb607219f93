package verdict

import (
	"crypto/x509"
	"slices"
	"time"

	"chancery/internal/pki"
)

// Problem is one thing that is wrong with what an endpoint serves.
type Problem string

// Problems, the gravest first.
const (
	Revoked       Problem = "revoked"
	Expired       Problem = "expired"
	NotYetValid   Problem = "not-yet-valid"
	WrongHost     Problem = "wrong-host"     // the certificate is for other names
	SelfSigned    Problem = "self-signed"    // the leaf signed itself and is in no root set
	Incomplete    Problem = "incomplete"     // a certificate between the leaf and a root is not served
	Untrusted     Problem = "untrusted"      // no root set leads to it
	IssuerExpired Problem = "issuer-expired" // a CA certificate of the only trusted chain is out of its dates
	WrongUsage    Problem = "wrong-usage"    // the certificate is not for servers
	Unproven      Problem = "key-unproven"   // the endpoint did not prove that it holds the key
	WeakKey       Problem = "weak-key"
	WeakSignature Problem = "weak-signature"
	Expiring      Problem = "expiring" // ends within the warning period
)

// Problems lists every problem, the gravest first.
func Problems() []Problem {
	return []Problem{Revoked, Expired, NotYetValid, WrongHost, SelfSigned, Incomplete, Untrusted, IssuerExpired, WrongUsage, Unproven, WeakKey, WeakSignature, Expiring}
}

// Valid reports whether p is a known problem.
func (p Problem) Valid() bool { return slices.Contains(Problems(), p) }

// Trust is what one root set says of a chain. It ignores the dates of the
// leaf, which are problems of their own.
type Trust string

// Trusted is the good outcome; the others are the problem of that name.
const Trusted Trust = "trusted"

// SetTrust is the trust by one root set.
type SetTrust struct {
	Set   string `json:"set"`
	Trust Trust  `json:"trust"`
}

// Verdict is the judgement of one chain at one endpoint.
type Verdict struct {
	Problems    []Problem  // in the order of Problems(), without duplicates
	Trust       []SetTrust // per root set, in the order of the configuration
	Issuer      *x509.Certificate
	Fingerprint [32]byte // of the leaf
	PostQuantum bool     // the leaf's key and signature withstand quantum computers
}

// Add puts p in its place among the problems of v.
func (v *Verdict) Add(p Problem) {
	if slices.Contains(v.Problems, p) {
		return
	}
	order := Problems()
	rank := slices.Index(order, p)
	at := len(v.Problems)
	for i, other := range v.Problems {
		if slices.Index(order, other) > rank {
			at = i
			break
		}
	}
	v.Problems = slices.Insert(v.Problems, at, p)
}

// Trusted reports whether any root set trusts the chain.
func (v *Verdict) Trusted() bool { return trusted(v.Trust) }

func trusted(list []SetTrust) bool {
	return slices.ContainsFunc(list, func(s SetTrust) bool { return s.Trust == Trusted })
}

// Judge returns the verdict on chain, leaf first, as served by an endpoint
// that was asked for name (a host name or an address; "" when it was asked for
// nothing, and then no name can be wrong). warn is the warning period of
// Expiring, 0 for none.
func (j *Judge) Judge(chain []*x509.Certificate, name string, warn time.Duration, now time.Time) Verdict {
	leaf := chain[0]
	known := j.leaf(chain, now)
	v := Verdict{Trust: known.trust, Issuer: known.issuer, Fingerprint: known.fingerprint, PostQuantum: known.postQuantum}
	v.Problems = append(make([]Problem, 0, len(known.problems)+2), known.problems...)
	switch {
	case now.After(leaf.NotAfter):
		v.Add(Expired)
	case now.Before(leaf.NotBefore):
		v.Add(NotYetValid)
	case warn > 0 && now.Add(warn).After(leaf.NotAfter):
		v.Add(Expiring)
	}
	if name != "" && leaf.VerifyHostname(name) != nil {
		v.Add(WrongHost)
	}
	return v
}

// inherent are the problems that a leaf has whoever serves it.
func inherent(leaf *x509.Certificate) []Problem {
	var out []Problem
	if weakKey(leaf) {
		out = append(out, WeakKey)
	}
	if weakSignature(leaf) {
		out = append(out, WeakSignature)
	}
	if len(leaf.ExtKeyUsage)+len(leaf.UnknownExtKeyUsage) > 0 && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth) && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny) {
		out = append(out, WrongUsage)
	}
	return out
}

// postQuantum reports whether key and signature are of a kind that withstands
// quantum computers.
func postQuantum(leaf *x509.Certificate) bool {
	switch leaf.SignatureAlgorithm {
	case x509.MLDSA44, x509.MLDSA65, x509.MLDSA87:
		t, err := pki.KeyTypeOf(leaf.PublicKey)
		return err == nil && t.PostQuantum()
	}
	return false
}

// weakSignature reports whether the signature on cert could be forged: MD5
// and SHA-1 collide.
func weakSignature(cert *x509.Certificate) bool {
	switch cert.SignatureAlgorithm {
	case x509.MD2WithRSA, x509.MD5WithRSA, x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.DSAWithSHA1:
		return true
	}
	return false
}
