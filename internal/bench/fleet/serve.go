package fleet

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"io"
	"net"
	"time"

	"chancery/internal/scan/probe"
)

// connectionTime bounds a connection, whatever the peer does.
const connectionTime = 15 * time.Second

// served is how an endpoint serves TLS.
type served struct {
	kind  Kind
	certs []*tls.Certificate
}

func newServed(kind Kind, certs []*tls.Certificate) *served { return &served{kind, certs} }

// fingerprint names the first certificate.
func (s *served) fingerprint() string {
	if len(s.certs) == 0 {
		return ""
	}
	sum := sha256.Sum256(s.certs[0].Certificate[0])
	return hex.EncodeToString(sum[:])
}

// config is the TLS configuration of one connection.
func (s *served) config() *tls.Config {
	cfg := &tls.Config{GetCertificate: s.choose, CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP256}}
	switch s.kind {
	case MutualTLS:
		cfg.ClientAuth = tls.RequireAnyClientCert
	case TLS12:
		cfg.MaxVersion = tls.VersionTLS12
	}
	return cfg
}

// choose returns the first certificate that the client can use.
func (s *served) choose(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	for _, c := range s.certs {
		if len(s.certs) == 1 || hello.SupportsCertificate(c) == nil {
			return c, nil
		}
	}
	return nil, nil // crypto/tls answers with handshake_failure
}

// accept serves one port.
func (f *Fleet) accept(l net.Listener, p probe.Protocol) {
	for {
		c, err := l.Accept()
		if err != nil {
			select {
			case <-f.closed:
				return
			case <-time.After(5 * time.Millisecond): // out of descriptors
				continue
			}
		}
		go f.serve(c.(*net.TCPConn), p)
	}
}

// serve is one connection.
func (f *Fleet) serve(c *net.TCPConn, p probe.Protocol) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(connectionTime))
	i := indexOf(c.LocalAddr().(*net.TCPAddr).AddrPort().Addr())
	if i < 0 || i >= len(f.Endpoints) {
		return
	}
	e := &f.Endpoints[i]
	if e.delay > 0 {
		time.Sleep(e.delay)
	}
	if e.misbehave(c) {
		return
	}
	if p != probe.TLS && !greet(c, p, e.Kind != StartTLSRefused) {
		return
	}
	conn := tls.Server(c, e.served.config())
	if conn.Handshake() != nil {
		return
	}
	var one [1]byte
	conn.Read(one[:]) // until the client leaves
}

// misbehave does what endpoints of some kinds do instead of a handshake.
func (e *Endpoint) misbehave(c *net.TCPConn) bool {
	switch e.Kind {
	case Silent:
		io.Copy(io.Discard, c)
	case Drip:
		drip(c)
	case Reset:
		hello(c)
		c.SetLinger(0)
	case Garbage:
		io.WriteString(c, "SSH-2.0-OpenSSH_9.9\r\n")
		hello(c)
	case AlertKind:
		hello(c)
		c.Write([]byte{21, 3, 3, 0, 2, 2, alertHandshake})
	default:
		return false
	}
	return true
}

// hello reads a little of what the client says.
func hello(c net.Conn) {
	var b [2048]byte
	c.Read(b[:])
}

// drip sends a record that never ends.
func drip(c net.Conn) {
	hello(c)
	out := []byte{22, 3, 3, 0x40, 0, 2, 0, 0x3f, 0xfc, 3, 3}
	for i := 0; ; i++ {
		b := byte(0)
		if i < len(out) {
			b = out[i]
		}
		if _, err := c.Write([]byte{b}); err != nil {
			return
		}
		time.Sleep(dripEvery)
	}
}
