package bench

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"net"
	"strings"
	"time"

	"chancery/internal/acme/challenge"
	"chancery/internal/keys"
	"chancery/internal/pki"
)

// acmeProtocol is the ALPN name of tls-alpn-01 (RFC 8737 section 6.2).
const acmeProtocol = "acme-tls/1"

// tlsALPN01 answers tls-alpn-01 (RFC 8737). All its certificates share a key.
type tlsALPN01 struct {
	names *table[string] // name: key authorization
	key   *ecdsa.PrivateKey
}

func newTLSALPN01(addr string) (*responder, error) {
	key, err := keys.Generate(pki.P256)
	if err != nil {
		return nil, err
	}
	ln, err := listen(challenge.TLSALPN01, addr)
	if err != nil {
		return nil, err
	}
	t := &tlsALPN01{names: newTable[string](), key: key.(*ecdsa.PrivateKey)}
	cfg := &tls.Config{NextProtos: []string{acmeProtocol}, GetCertificate: t.certificate, MinVersion: tls.VersionTLS12}
	go serveConns(ln, func(conn net.Conn) {
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		// The proof is the handshake; what follows does not matter.
		if err := tls.Server(conn, cfg).Handshake(); err != nil {
			return
		}
	})
	return &responder{
		kind:    challenge.TLSALPN01,
		present: func(name, _, keyAuthorization string) { t.names.set(strings.ToLower(name), keyAuthorization) },
		forget:  func(name, _ string) { t.names.drop(strings.ToLower(name)) },
		close:   ln.Close,
		addr:    ln.Addr().String(),
	}, nil
}

// certificate makes the proof for the name that the validator asks for.
func (t *tlsALPN01) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := strings.ToLower(hello.ServerName)
	keyAuthorization, ok := t.names.get(name)
	if !ok {
		return nil, fmt.Errorf("no challenge is pending for %q", name)
	}
	sum := sha256.Sum256([]byte(keyAuthorization))
	value, err := asn1.Marshal(sum[:])
	if err != nil {
		return nil, fmt.Errorf("encode proof: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "acme challenge"}, DNSNames: []string{name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 31}, Critical: true, Value: value}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, t.key.Public(), t.key)
	if err != nil {
		return nil, fmt.Errorf("make proof: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: t.key}, nil
}
