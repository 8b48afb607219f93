package probe

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"strings"
	"time"
)

// Peer is what a handshake showed of an endpoint.
type Peer struct {
	Version    uint16      // tls.VersionTLS13, ...
	Cipher     uint16      // cipher suite
	Group      tls.CurveID // key exchange; 0 when not known
	Certs      []*x509.Certificate
	Raw        [][]byte // of Fetch: the certificates as sent, not parsed
	Staple     []byte   // stapled OCSP response, as sent
	Proven     bool     // the endpoint proved that it holds the leaf's key
	ClientAuth bool     // the endpoint asked for a client certificate
}

// Observer makes full handshakes.
type Observer struct {
	suites []uint16
	groups []tls.CurveID
	now    func() time.Time
}

// NewObserver returns an Observer. Its hello offers TLS 1.3 down to 1.0 with
// every cipher suite the library has, so that old endpoints are seen too, and
// a key share for X25519 only: the default hybrid share costs 250 µs and 1 kB
// per connection and says nothing about the certificate.
func NewObserver(now func() time.Time) *Observer {
	o := &Observer{groups: []tls.CurveID{tls.X25519, tls.CurveP256, tls.CurveP384, tls.CurveP521}, now: now}
	for _, list := range [][]*tls.CipherSuite{tls.CipherSuites(), tls.InsecureCipherSuites()} {
		for _, s := range list {
			o.suites = append(o.suites, s.ID)
		}
	}
	return o
}

// Observe makes a full handshake on c and ends it politely. name is the server
// name to ask for, or "" for none. On failure the peer is not nil if it showed
// a certificate first.
//
// An endpoint that demands a client certificate has shown and proven its own
// before it gives up on us: that is a success.
func (o *Observer) Observe(c *Conn, name string) (*Peer, *Failure) {
	p := &Peer{}
	cfg := &tls.Config{
		ServerName:         name,
		InsecureSkipVerify: true, // the judgement comes later, and is more than yes or no
		MinVersion:         tls.VersionTLS10,
		CipherSuites:       o.suites,
		CurvePreferences:   o.groups,
		Time:               o.now,
		VerifyConnection: func(s tls.ConnectionState) error {
			p.take(s)
			return nil
		},
		// Called after the server signed its key exchange; where the key
		// decrypts instead, only the end of the handshake proves it.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			p.ClientAuth = true
			p.Proven = !strings.HasPrefix(tls.CipherSuiteName(p.Cipher), "TLS_RSA_")
			return &tls.Certificate{}, nil
		},
	}
	conn := tls.Client(c, cfg)
	if err := conn.Handshake(); err != nil {
		return p.despite(handshakeFailure(err))
	}
	p.take(conn.ConnectionState())
	p.Proven = true
	conn.CloseWrite()
	return p, nil
}

// take copies what s shows.
func (p *Peer) take(s tls.ConnectionState) {
	p.Version, p.Cipher, p.Group = s.Version, s.CipherSuite, s.CurveID
	p.Certs, p.Staple = s.PeerCertificates, s.OCSPResponse
}

// despite returns what is left of a handshake that failed.
func (p *Peer) despite(f *Failure) (*Peer, *Failure) {
	if len(p.Certs) == 0 {
		return nil, f
	}
	if p.ClientAuth && p.Proven && (f.Class == Alert || f.Class == Reset) {
		return p, nil
	}
	p.Proven = false
	return p, f
}

var _ net.Conn = (*Conn)(nil)
