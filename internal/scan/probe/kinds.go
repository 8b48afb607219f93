package probe

import (
	"crypto/tls"
	"slices"
)

// Open makes a new connection to the endpoint under examination, ready for
// TLS. Dual and Features need several.
type Open func() (*Conn, *Failure)

// Duals are the certificates of an endpoint by kind of key.
type Duals struct {
	ECDSA, RSA [][]byte // as sent, leaf first; nil when it has none of the kind
}

// Dual asks for an ECDSA and then for an RSA certificate. An endpoint that
// answers either with an alert has none of that kind; any other failure is
// returned, as then we do not know.
func Dual(open Open, name string) (Duals, *Failure) {
	var d Duals
	var f *Failure
	if d.ECDSA, f = only(open, name, wantECDSA); f != nil {
		return d, f
	}
	d.RSA, f = only(open, name, wantRSA)
	return d, f
}

// only fetches a certificate of one kind of key.
func only(open Open, name string, want int) ([][]byte, *Failure) {
	c, f := open()
	if f != nil {
		return nil, f
	}
	defer c.Close()
	p, f := fetchKind(c, name, want)
	if f != nil && f.declines() {
		return nil, nil
	}
	if f != nil {
		return nil, f
	}
	return p.Raw, nil
}

// declines reports whether f is how an endpoint says no to an offer.
func (f *Failure) declines() bool {
	switch f.Class {
	case Alert:
		return f.Alert != alertUnrecognizedName && f.Alert != alertInternalError
	case Reset: // some implementations close instead of alerting
		return true
	}
	return false
}

// Support is what an endpoint can do.
type Support struct {
	Versions []uint16 // protocol versions it accepts, rising: tls.VersionTLS10, ...
	Hybrid   uint16   // its post-quantum key exchange group, or 0; see HybridName
}

// HybridName names a post-quantum group, or returns "".
func HybridName(group uint16) string {
	switch group {
	case groupX25519M:
		return "X25519MLKEM768"
	case groupP256M:
		return "SecP256r1MLKEM768"
	case groupP384M:
		return "SecP384r1MLKEM1024"
	}
	return ""
}

// Features finds out versions and post-quantum groups, one connection each,
// stopped after the ServerHello.
func Features(open Open, name string) (Support, *Failure) {
	var s Support
	for v := uint16(tls.VersionTLS10); v <= tls.VersionTLS13; v++ {
		h := hello{name: name, versions: []uint16{v}, want: wantAny, groups: groups12}
		sh, f := h.ask(open)
		if f != nil && !f.declines() {
			return s, f
		}
		if f == nil && sh.version == v {
			s.Versions = append(s.Versions, v)
		}
	}
	if !slices.Contains(s.Versions, tls.VersionTLS13) {
		return s, nil
	}
	// Without a key share, an endpoint that knows one of the groups asks for
	// it in a HelloRetryRequest: the answer without the arithmetic.
	h := hello{name: name, versions: []uint16{tls.VersionTLS13}, want: wantAny, groups: []uint16{groupX25519M, groupP384M, groupP256M}}
	sh, f := h.ask(open)
	if f != nil && !f.declines() {
		return s, f
	}
	if f == nil && sh.retry && HybridName(sh.group) != "" {
		s.Hybrid = sh.group
	}
	return s, nil
}

// ask sends h on a new connection and returns the answer.
func (h *hello) ask(open Open) (serverHello, *Failure) {
	c, f := open()
	if f != nil {
		return serverHello{}, f
	}
	defer c.Close()
	_, sh, _, _, f := h.exchange(c)
	return sh, f
}
