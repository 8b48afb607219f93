package challenge

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"chancery/internal/dns"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

// acmeProtocol is the ALPN name of tls-alpn-01 (RFC 8737 section 6.2).
const acmeProtocol = "acme-tls/1"

var (
	oidACMEIdentifier = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 31} // RFC 8737 section 6.1
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
)

// TLSALPN01Validator is the tls-alpn-01 method (RFC 8737, for addresses
// RFC 8738): a self-signed certificate shown under a protocol name that no
// ordinary server speaks.
type TLSALPN01Validator struct{ prover }

// NewTLSALPN01 returns the tls-alpn-01 validator.
func NewTLSALPN01(c Config) *TLSALPN01Validator { return &TLSALPN01Validator{newProver(c)} }

// Type returns "tls-alpn-01".
func (v *TLSALPN01Validator) Type() Type { return TLSALPN01 }

// Supports reports whether id is a DNS name without wildcard, or an address.
func (v *TLSALPN01Validator) Supports(id pki.Identifier) bool { return isHost(id) }

// isHost reports whether id names one host that can be connected to.
func isHost(id pki.Identifier) bool {
	_, wild := split(id)
	return (id.Type == pki.DNS || id.Type == pki.IP) && !wild && id.Value != ""
}

// Validate connects, completes a handshake and examines the certificate. No
// application data is exchanged (RFC 8737 section 4).
func (v *TLSALPN01Validator) Validate(ctx context.Context, req Request) (Proof, error) {
	if err := check(v, req); err != nil {
		return Proof{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, v.cfg.Timeout)
	defer cancel()
	h, err := hostOf(req.Identifier)
	if err != nil {
		return Proof{}, err
	}
	step := Step{Hostname: serverName(h), Port: v.cfg.TLSALPN01Port}
	session := v.cfg.Resolver.Session(dns.Limits{MaxAge: addrMaxAge, Queries: v.cfg.MaxQueries})
	if err := v.handshake(ctx, session, h, &step, req.KeyAuthorization); err != nil {
		return Proof{}, &failure{err, []Step{step}}
	}
	return v.prove(TLSALPN01, req, []Step{step}), nil
}

// handshake connects to h and examines what it shows.
func (v *TLSALPN01Validator) handshake(ctx context.Context, s *dns.Session, h host, step *Step, keyAuthorization string) error {
	conn, err := v.connect(ctx, s, h, step)
	if err != nil {
		return err
	}
	defer v.guard(ctx, conn)()
	client := tls.Client(conn, &tls.Config{
		ServerName:         step.Hostname,
		NextProtos:         []string{acmeProtocol},
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, // the certificate is self-signed and examined below
		// Nothing secret is exchanged, so the cheap curves will do.
		CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP256, tls.CurveP384},
	})
	where := h.name + " (" + netip.AddrPortFrom(step.Used, step.Port).String() + ")"
	if err := client.HandshakeContext(ctx); err != nil {
		return handshakeFault(err, where)
	}
	return examine(client.ConnectionState(), h, keyAuthorization, where)
}

// handshakeFault says what went wrong before there was a certificate to see.
func handshakeFault(err error, where string) error {
	const advice = "it must speak TLS 1.2 or later and offer the protocol " + acmeProtocol
	var op *net.OpError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &op) && op.Op == "remote error": // crypto/tls: an alert; its text is a constant
		return fault.Wrap(err, fault.TLS, "%s ended the handshake with the alert %s; %s", where, quote(op.Err.Error()), advice)
	case errors.As(err, &record):
		return fault.Wrap(err, fault.TLS, "%s does not speak TLS", where)
	}
	if why := reason(err); why != unknownReason {
		return fault.Wrap(err, fault.Connection, "%s: TLS handshake: %s", where, why)
	}
	return fault.Wrap(err, fault.TLS, "%s: the TLS handshake failed; %s", where, advice)
}

// serverName returns the SNI: the name, or for an address its reverse name
// (RFC 8738 section 6), because SNI cannot carry addresses.
func serverName(h host) string {
	if !h.addr.IsValid() {
		return h.name
	}
	return reverseName(h.addr)
}

// reverseName returns the in-addr.arpa or ip6.arpa name of an address.
func reverseName(a netip.Addr) string {
	raw := a.AsSlice()
	var b strings.Builder
	for i := len(raw) - 1; i >= 0; i-- {
		if a.Is4() {
			b.WriteString(strconv.Itoa(int(raw[i])) + ".")
			continue
		}
		const digits = "0123456789abcdef"
		b.Write([]byte{digits[raw[i]&0xf], '.', digits[raw[i]>>4], '.'})
	}
	if a.Is4() {
		return b.String() + "in-addr.arpa"
	}
	return b.String() + "ip6.arpa"
}

// examine applies RFC 8737 section 3 to what the server showed.
func examine(state tls.ConnectionState, h host, keyAuthorization, where string) error {
	wrong := func(format string, args ...any) error {
		return fault.New(fault.IncorrectResponse, "the tls-alpn-01 answer of %s is wrong: "+format, append([]any{where}, args...)...)
	}
	switch {
	case state.Version < tls.VersionTLS12:
		return fault.New(fault.TLS, "%s speaks a TLS version before 1.2", where)
	case state.NegotiatedProtocol != acmeProtocol:
		return fault.New(fault.TLS, "%s did not negotiate the protocol %s", where, acmeProtocol)
	case len(state.PeerCertificates) != 1:
		return wrong("it shows %d certificates instead of one", len(state.PeerCertificates))
	}
	cert := state.PeerCertificates[0]
	if !selfSigned(cert) {
		return wrong("the certificate is not self-signed")
	}
	if why := onlyName(cert, h); why != "" {
		return wrong("%s", why)
	}
	if why := hasDigest(cert, sha256.Sum256([]byte(keyAuthorization))); why != "" {
		return wrong("%s", why)
	}
	return nil
}

// selfSigned reports whether cert is signed by its own key under its own name.
func selfSigned(cert *x509.Certificate) bool {
	return bytes.Equal(cert.RawSubject, cert.RawIssuer) &&
		cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature) == nil
}

// extension returns the one extension with this OID and how many there are.
func extension(cert *x509.Certificate, oid asn1.ObjectIdentifier) (value []byte, critical bool, n int) {
	for _, e := range cert.Extensions {
		if e.Id.Equal(oid) {
			value, critical = e.Value, e.Critical
			n++
		}
	}
	return value, critical, n
}

// onlyName returns why the subjectAltName is not exactly h, or "". It reads
// the DER itself: names of kinds that crypto/x509 skips count too.
func onlyName(cert *x509.Certificate, h host) (why string) {
	der, _, n := extension(cert, oidSubjectAltName)
	if n != 1 {
		return "the certificate must have one subjectAltName extension"
	}
	in := cryptobyte.String(der)
	var names, value cryptobyte.String
	var tag cbasn1.Tag
	if !in.ReadASN1(&names, cbasn1.SEQUENCE) || !in.Empty() || !names.ReadAnyASN1(&value, &tag) {
		return "the subjectAltName cannot be parsed"
	}
	if !names.Empty() {
		return "the subjectAltName must hold one name only"
	}
	const dnsName, ipAddress = 2, 7
	if h.addr.IsValid() {
		if tag != cbasn1.Tag(ipAddress).ContextSpecific() || !bytes.Equal(value, h.addr.AsSlice()) {
			return "the name in the subjectAltName is not the iPAddress " + h.name
		}
		return ""
	}
	if tag != cbasn1.Tag(dnsName).ContextSpecific() || len(value) != len(h.name) || !strings.EqualFold(string(value), h.name) {
		return "the name in the subjectAltName is not the dNSName " + h.name
	}
	return ""
}

// hasDigest returns why the acmeIdentifier extension does not carry want, or "".
func hasDigest(cert *x509.Certificate, want [sha256.Size]byte) (why string) {
	der, critical, n := extension(cert, oidACMEIdentifier)
	switch {
	case n != 1:
		return "the certificate must have one acmeIdentifier extension (1.3.6.1.5.5.7.1.31)"
	case !critical:
		return "the acmeIdentifier extension must be critical"
	}
	got, ok := parseACMEIdentifier(der)
	if !ok {
		return "the acmeIdentifier extension is not an OCTET STRING of 32 octets"
	}
	if subtle.ConstantTimeCompare(got, want[:]) != 1 {
		return "the acmeIdentifier extension has the digest of another key authorization"
	}
	return ""
}

// parseACMEIdentifier reads the extension: Authorization ::= OCTET STRING
// (SIZE (32)) in DER, nothing before or after.
func parseACMEIdentifier(der []byte) ([]byte, bool) {
	in := cryptobyte.String(der)
	var digest cryptobyte.String
	if !in.ReadASN1(&digest, cbasn1.OCTET_STRING) || !in.Empty() || len(digest) != sha256.Size {
		return nil, false
	}
	return digest, true
}
