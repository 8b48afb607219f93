package probe

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
)

// Alert descriptions that mean "not with this offer" (RFC 8446 section 6.2).
const (
	alertHandshakeFailure = 40
	alertProtocolVersion  = 70
	alertInternalError    = 80
	alertUnrecognizedName = 112
)

var groups12 = []uint16{groupX25519, 23, 24, 25}

// Fetch asks for the certificates of an endpoint that may speak TLS 1.2 and
// stops after they came: no key exchange, no proof. An endpoint without TLS
// 1.2 answers with an alert; FetchAny then learns its certificates too.
func Fetch(c *Conn, name string) (*Peer, *Failure) {
	h := hello{name: name, versions: []uint16{tls.VersionTLS12}, want: wantAny, groups: groups12}
	return h.fetch(c)
}

// FetchAny is Fetch for every version from TLS 1.0 to 1.3; with TLS 1.3 it
// makes a key exchange, as certificates are encrypted there.
func FetchAny(c *Conn, name string) (*Peer, *Failure) { return fetchKind(c, name, wantAny) }

// NeedsAny reports whether f, of Fetch, may be cured by FetchAny on a new
// connection.
func (f *Failure) NeedsAny() bool {
	return f != nil && f.Class == Alert && (f.Alert == alertProtocolVersion || f.Alert == alertHandshakeFailure)
}

// fetchKind fetches with whatever version, but only the kinds of key in want.
func fetchKind(c *Conn, name string, want int) (*Peer, *Failure) {
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, &Failure{Class: Local, Reason: "cannot make a key", cause: err}
	}
	h := hello{
		name: name, versions: []uint16{tls.VersionTLS13, tls.VersionTLS12, tls.VersionTLS11, tls.VersionTLS10},
		want: want, groups: []uint16{groupX25519}, share: key.PublicKey().Bytes(),
	}
	return h.fetchWith(c, key)
}

// fetch sends h, whose versions end at TLS 1.2, and reads up to the
// certificates.
func (h *hello) fetch(c *Conn) (*Peer, *Failure) { return h.fetchWith(c, nil) }

func (h *hello) fetchWith(c *Conn, key *ecdh.PrivateKey) (*Peer, *Failure) {
	in, sh, msg, sent, f := h.exchange(c)
	if f != nil {
		return nil, f
	}
	p := &Peer{Version: sh.version, Cipher: sh.suite, Group: tls.CurveID(sh.group)}
	tls13 := sh.version == tls.VersionTLS13
	if tls13 {
		if sh.retry || sh.group != groupX25519 || key == nil || sh.suite != suiteAES128SHA {
			return nil, fail(BadTLS, "chooses what was not offered")
		}
		open, err := opener(key, sh, sent, msg)
		if err != nil {
			return nil, &Failure{Class: BadTLS, Reason: "its key share is not valid", cause: err}
		}
		in.open = open
	}
	return p, p.readCertificate(in, tls13)
}

// readCertificate reads messages up to the Certificate.
func (p *Peer) readCertificate(in *handshake, tls13 bool) *Failure {
	for range maxMessages {
		msg, f := in.next()
		if f != nil {
			return f
		}
		switch {
		case msg[0] == typeCertRequest:
			p.ClientAuth = true
		case msg[0] == typeEncryptedExts && tls13:
		case msg[0] == typeCertificate:
			raw, ok := parseCertificate(msg, tls13)
			if !ok {
				return fail(BadTLS, "its Certificate message is malformed")
			}
			p.Raw = raw
			return nil
		default:
			return fail(BadTLS, "sends an unexpected handshake message")
		}
	}
	return fail(BadTLS, "sends too many handshake messages")
}

// exchange sends the hello and reads the ServerHello. msg is a copy of the
// latter, sent the former.
func (h *hello) exchange(c *Conn) (in *handshake, sh serverHello, msg, sent []byte, f *Failure) {
	sent = h.marshal()
	if _, err := c.Write(record(sent)); err != nil {
		return nil, sh, nil, nil, streamFailure(err)
	}
	in = &handshake{r: c}
	first, f := in.next()
	if f != nil {
		return nil, sh, nil, nil, f
	}
	sh, ok := parseServerHello(first)
	if !ok {
		return nil, sh, nil, nil, fail(BadTLS, "its ServerHello is malformed")
	}
	if !h.has(sh.version) && !(h.versions[0] > sh.version && sh.version >= tls.VersionTLS10 && len(h.versions) == 1) {
		return nil, sh, nil, nil, fail(BadTLS, "chooses a version that was not offered")
	}
	return in, sh, bytes.Clone(first), sent, nil
}
