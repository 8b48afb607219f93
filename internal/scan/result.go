package scan

import (
	"crypto/tls"
	"crypto/x509"
	"net/netip"
	"time"

	"chancery/internal/scan/probe"
	"chancery/internal/scan/verdict"
)

// Result is what was learned about one target. Exactly one is delivered for
// each target that was not skipped.
type Result struct {
	Target   Target
	At       time.Time // when the last attempt began
	Class    probe.Class
	Alert    uint8  // TLS alert, when Class is alert
	Reason   string // for people
	Attempts int    // 2 when a suspected fault of our own was tried again
	Addr     netip.AddrPort
	TTL      time.Duration // how long the address was good for; 0 for a bare address
	Times    Times

	// With a certificate. A failure may have one too: the endpoint showed it
	// before the handshake broke.
	Version    uint16
	Cipher     uint16
	Group      tls.CurveID
	Proven     bool // the endpoint proved that it holds the key
	ClientAuth bool // it asks for a client certificate
	Chain      []*x509.Certificate
	Verdict    verdict.Verdict
	Revocation verdict.Status // "" when not asked

	Dual    *probe.Duals   // of the dual probe
	Support *probe.Support // of the features probe
}

// Leaf returns the endpoint's certificate, or nil.
func (r *Result) Leaf() *x509.Certificate {
	if len(r.Chain) == 0 {
		return nil
	}
	return r.Chain[0]
}

// Healthy reports whether the endpoint answered and nothing is wrong with its
// certificate.
func (r *Result) Healthy() bool { return r.Class == probe.OK && len(r.Verdict.Problems) == 0 }

// Times are the phases of the last attempt. A phase that was not reached is 0.
type Times struct {
	DNS   time.Duration // waited for the name; 0 for a bare address
	TCP   time.Duration // to connect
	TLS   time.Duration // STARTTLS and handshake, computing included
	Wait  time.Duration // of TLS, what the peer let us wait
	Parse time.Duration // to parse and judge
}
