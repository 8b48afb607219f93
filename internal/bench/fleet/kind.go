package fleet

import (
	"math"
	"math/rand/v2"
	"time"

	"chancery/internal/scan/probe"
	"chancery/internal/scan/verdict"
)

// Kind is what is particular about an endpoint.
type Kind string

// Kinds of endpoint.
const (
	P256            Kind = "p256"
	RSA2048         Kind = "rsa2048"
	P384            Kind = "p384"
	Wildcard        Kind = "wildcard" // one certificate for 200 names
	Dual            Kind = "dual"     // an ECDSA and an RSA certificate
	TLS12           Kind = "tls12"    // no TLS 1.3
	MutualTLS       Kind = "mutual-tls"
	Expired         Kind = "expired"
	NotYetValid     Kind = "not-yet-valid"
	SelfSigned      Kind = "self-signed"
	WrongHost       Kind = "wrong-host"
	NoIntermediate  Kind = "no-intermediate"
	UnknownRoot     Kind = "unknown-root"
	Revoked         Kind = "revoked"
	WeakKey         Kind = "weak-key"
	StartTLS        Kind = "starttls"
	StartTLSRefused Kind = "starttls-refused"
	Refused         Kind = "refused"
	Dropped         Kind = "dropped" // SYNs are not answered
	Silent          Kind = "silent"
	Drip            Kind = "drip" // one octet now and then
	Reset           Kind = "reset"
	Garbage         Kind = "garbage"
	AlertKind       Kind = "alert"
	NXDomain        Kind = "nxdomain"
	ServFail        Kind = "servfail"
	alertHandshake       = 40
	wildcardNames        = 200
	dripEvery            = 400 * time.Millisecond
)

// share is how many of a thousand endpoints are of a kind. About 1.4 % never
// answer. What is left over is P256.
type share struct {
	kind  Kind
	mille int
	class probe.Class
	fault verdict.Problem
}

// mix is the estate.
func mix() []share {
	return []share{
		{RSA2048, 150, probe.OK, ""}, {P384, 40, probe.OK, ""}, {Wildcard, 60, probe.OK, ""}, {Dual, 10, probe.OK, ""},
		{TLS12, 25, probe.OK, ""}, {MutualTLS, 15, probe.OK, ""},
		{Expired, 20, probe.OK, verdict.Expired}, {NotYetValid, 5, probe.OK, verdict.NotYetValid},
		{SelfSigned, 25, probe.OK, verdict.SelfSigned}, {WrongHost, 20, probe.OK, verdict.WrongHost},
		{NoIntermediate, 15, probe.OK, verdict.Incomplete}, {UnknownRoot, 8, probe.OK, verdict.Untrusted},
		{Revoked, 10, probe.OK, verdict.Revoked}, {WeakKey, 4, probe.OK, verdict.WeakKey},
		{StartTLS, 24, probe.OK, ""}, {StartTLSRefused, 2, probe.StartTLSFailed, ""},
		{Refused, 12, probe.Refused, ""}, {Dropped, 6, probe.TimeoutConnect, ""}, {Silent, 5, probe.TimeoutTLS, ""},
		{Drip, 3, probe.TimeoutTLS, ""}, {Reset, 5, probe.Reset, ""}, {Garbage, 4, probe.NotTLS, ""},
		{AlertKind, 4, probe.Alert, ""}, {NXDomain, 6, probe.DNSNX, ""}, {ServFail, 2, probe.DNSFail, ""},
	}
}

// plan returns the share of each of n endpoints, in random order: at least one
// of each kind if n allows, or only sound ones if live.
func plan(n int, live bool, random *rand.Rand) []share {
	out := make([]share, 0, n)
	for _, s := range mix() {
		if live && (s.class != probe.OK || s.fault != "" || s.kind == StartTLS) {
			continue
		}
		for range max(1, n*s.mille/1000) {
			if len(out) < n {
				out = append(out, s)
			}
		}
	}
	for len(out) < n {
		out = append(out, share{P256, 0, probe.OK, ""})
	}
	random.Shuffle(n, func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// Delay is a log-normal distribution of delays, cut at its ends.
type Delay struct{ Min, Median, Max time.Duration }

// draw returns one delay. Half of the logarithms lie within the distance from
// the median to the nearer end.
func (d Delay) draw(random *rand.Rand) time.Duration {
	if d.Median <= 0 {
		return 0
	}
	sigma := math.Log(float64(d.Max)/float64(d.Median)) / 2
	v := time.Duration(float64(d.Median) * math.Exp(random.NormFloat64()*sigma))
	return min(max(v, d.Min), d.Max)
}

// Delays of a fleet.
type Delays struct{ DNS, TCP, Handshake Delay }

// WideArea are the delays of an estate that is spread over the world.
func WideArea() Delays {
	const ms = time.Millisecond
	return Delays{DNS: Delay{8 * ms, 15 * ms, 40 * ms}, TCP: Delay{20 * ms, 60 * ms, 120 * ms}, Handshake: Delay{80 * ms, 140 * ms, 300 * ms}}
}
