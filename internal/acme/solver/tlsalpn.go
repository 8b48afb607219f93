package solver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"chancery/internal/pki"
)

// alpnProtocol is the protocol of tls-alpn-01 (RFC 8737 section 6.2).
const alpnProtocol = "acme-tls/1"

// oidACMEIdentifier is the extension with the digest (RFC 8737 section 3).
var oidACMEIdentifier = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 31}

// ALPN answers tls-alpn-01 challenges of all orders, on a listener of its own
// or within a TLS server through ConfigForClient.
type ALPN struct {
	mu    sync.RWMutex
	certs map[string]alpnCert // by server name
}

type alpnCert struct {
	cert             *tls.Certificate
	keyAuthorization string
	refs             int
}

// NewALPN returns a responder.
func NewALPN() *ALPN { return &ALPN{certs: map[string]alpnCert{}} }

// Add makes a response visible until the returned function is called. One name
// can have one response at a time: the last.
func (a *ALPN) Add(id pki.Identifier, keyAuthorization string) (func(), error) {
	name := serverName(id)
	if name == "" {
		return nil, fmt.Errorf("present tls-alpn-01: %s cannot be proved so", id)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.certs[name]
	if c.keyAuthorization != keyAuthorization {
		cert, err := alpnCertificate(id, keyAuthorization)
		if err != nil {
			return nil, fmt.Errorf("present tls-alpn-01: %w", err)
		}
		c = alpnCert{cert: cert, keyAuthorization: keyAuthorization}
	}
	c.refs++
	a.certs[name] = c
	return sync.OnceFunc(func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		c := a.certs[name]
		if c.keyAuthorization != keyAuthorization {
			return
		}
		if c.refs--; c.refs > 0 {
			a.certs[name] = c
		} else {
			delete(a.certs, name)
		}
	}), nil
}

// serverName is what a CA asks for: the name, or that of the reverse zone for
// an address (RFC 8738 section 6).
func serverName(id pki.Identifier) string {
	if id.Type != pki.IP {
		if strings.HasPrefix(id.Value, "*.") {
			return ""
		}
		return id.Value
	}
	rev, err := dns.ReverseAddr(id.Value)
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(rev, ".")
}

// alpnCertificate makes the self-signed certificate of RFC 8737 section 3.
func alpnCertificate(id pki.Identifier, keyAuthorization string) (*tls.Certificate, error) {
	sum := sha256.Sum256([]byte(keyAuthorization))
	value, err := asn1.Marshal(sum[:])
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ACME challenge"}, NotBefore: time.Now().Add(-24 * time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), ExtraExtensions: []pkix.Extension{{Id: oidACMEIdentifier, Critical: true, Value: value}}}
	if id.Type == pki.IP {
		tmpl.IPAddresses = []net.IP{net.IP(id.Addr().AsSlice())}
	} else {
		tmpl.DNSNames = []string{id.Value}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// ConfigForClient returns the configuration for a CA's handshake, and nil for
// any other: it fits tls.Config.GetConfigForClient of an existing server.
func (a *ALPN) ConfigForClient(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	if !slices.Contains(hello.SupportedProtos, alpnProtocol) {
		return nil, nil
	}
	a.mu.RLock()
	c := a.certs[strings.ToLower(hello.ServerName)]
	a.mu.RUnlock()
	if c.cert == nil {
		return nil, errors.New("no challenge is open for this name")
	}
	return &tls.Config{Certificates: []tls.Certificate{*c.cert}, NextProtos: []string{alpnProtocol}, MinVersion: tls.VersionTLS12}, nil
}

// maxHandshakes bounds the handshakes at once of Serve.
const maxHandshakes = 256

// Serve answers on a listener of its own until ctx ends. It closes ln.
func (a *ALPN) Serve(ctx context.Context, ln net.Listener) error {
	defer ln.Close()
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		if c, err := a.ConfigForClient(h); c != nil || err != nil {
			return c, err
		}
		return nil, errors.New("only acme-tls/1 is spoken here")
	}}
	slots := make(chan struct{}, maxHandshakes)
	for {
		conn, err := ln.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept tls-alpn-01: %w", err)
		}
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(10 * time.Second))
			tls.Server(conn, cfg).HandshakeContext(ctx) // RFC 8737 section 3: nothing follows
		}()
	}
}
