package probe

import (
	"bytes"
	"encoding/binary"
	"io"
	"slices"
	"strings"
)

// Protocol is what is spoken before TLS begins.
type Protocol string

// Protocols. TLS begins at once; the others say STARTTLS first.
const (
	TLS      Protocol = "tls"
	SMTP     Protocol = "smtp"     // RFC 3207
	IMAP     Protocol = "imap"     // RFC 9051 section 6.2.1
	POP3     Protocol = "pop3"     // RFC 2595 section 4
	FTP      Protocol = "ftp"      // RFC 4217
	LDAP     Protocol = "ldap"     // RFC 4511 section 4.14
	XMPP     Protocol = "xmpp"     // RFC 6120 section 5, client to server
	Postgres Protocol = "postgres" // SSLRequest
	MySQL    Protocol = "mysql"    // SSLRequest after the greeting
)

// Protocols lists every protocol.
func Protocols() []Protocol {
	return []Protocol{TLS, SMTP, IMAP, POP3, FTP, LDAP, XMPP, Postgres, MySQL}
}

// Valid reports whether p is a known protocol.
func (p Protocol) Valid() bool { return slices.Contains(Protocols(), p) }

// DefaultPort is the registered port on which p is spoken.
func (p Protocol) DefaultPort() uint16 {
	switch p {
	case SMTP:
		return 587
	case IMAP:
		return 143
	case POP3:
		return 110
	case FTP:
		return 21
	case LDAP:
		return 389
	case XMPP:
		return 5222
	case Postgres:
		return 5432
	case MySQL:
		return 3306
	}
	return 443
}

// ProtocolOf guesses the protocol from a port: STARTTLS where the port is
// registered for a protocol in the clear, TLS otherwise.
func ProtocolOf(port uint16) Protocol {
	switch port {
	case 25, 587, 2525:
		return SMTP
	case 5269:
		return XMPP
	}
	for _, p := range Protocols() {
		if p.DefaultPort() == port {
			return p
		}
	}
	return TLS
}

// Bounds of what is read before TLS begins.
const (
	maxLine  = 4096
	maxLines = 64
	maxXML   = 16 << 10
)

// StartTLS brings c to the point where the TLS handshake begins. name is the
// server's name, for XMPP. Octets that the peer sends after its consent are an
// error: they would be read as if they came through TLS (CVE-2011-0411).
func StartTLS(c *Conn, p Protocol, name string) *Failure {
	if p == TLS {
		return nil
	}
	f := startTLS(c, p, name)
	if f == nil && len(c.pending) > 0 {
		return fail(StartTLSFailed, "sends more before the handshake")
	}
	return f
}

// startTLS speaks p on rw up to the consent of the peer. It reads through no
// buffer of its own, so nothing of the handshake is lost.
func startTLS(rw io.ReadWriter, p Protocol, name string) *Failure {
	d := dialogue{rw: rw}
	switch p {
	case SMTP:
		d.reply("220").send("EHLO scan.invalid\r\n").offer("250", "STARTTLS").send("STARTTLS\r\n").reply("220")
	case FTP:
		d.reply("220").send("AUTH TLS\r\n").reply("234")
	case IMAP:
		d.line("* OK").send("a1 STARTTLS\r\n").tagged("a1 OK")
	case POP3:
		d.line("+OK").send("STLS\r\n").line("+OK")
	case LDAP:
		d.ldap()
	case XMPP:
		d.xmpp(name)
	case Postgres:
		d.postgres()
	case MySQL:
		d.mysql()
	}
	return d.failure
}

// dialogue is a conversation that stops at its first failure.
type dialogue struct {
	rw      io.ReadWriter
	failure *Failure
}

// refuse ends the dialogue.
func (d *dialogue) refuse(reason string) *dialogue {
	if d.failure == nil {
		d.failure = fail(StartTLSFailed, reason)
	}
	return d
}

// check ends the dialogue if err is not nil.
func (d *dialogue) check(err error) bool {
	if err != nil && d.failure == nil {
		d.failure = streamFailure(err)
	}
	return d.failure == nil
}

// send writes text.
func (d *dialogue) send(text string) *dialogue {
	if d.failure == nil {
		_, err := io.WriteString(d.rw, text)
		d.check(err)
	}
	return d
}

// read reads exactly n octets.
func (d *dialogue) read(n int) []byte {
	b := make([]byte, n)
	if d.failure == nil {
		_, err := io.ReadFull(d.rw, b)
		d.check(err)
	}
	return b
}

// text reads one line, without its end.
func (d *dialogue) text() string {
	var line []byte
	for d.failure == nil {
		b := d.read(1) // served from Conn's buffer
		if b[0] == '\n' {
			break
		}
		if line = append(line, b[0]); len(line) > maxLine {
			d.refuse("a line is too long")
		}
	}
	return strings.TrimSuffix(string(line), "\r")
}

// line expects one line that begins with prefix, in any case.
func (d *dialogue) line(prefix string) *dialogue {
	if s := d.text(); d.failure == nil && !begins(s, prefix) {
		d.refuse("does not agree to STARTTLS")
	}
	return d
}

// tagged skips untagged lines (IMAP) and expects one that begins with prefix.
func (d *dialogue) tagged(prefix string) *dialogue {
	for range maxLines {
		s := d.text()
		if d.failure != nil || begins(s, prefix) {
			return d
		}
		if !begins(s, "* ") {
			break
		}
	}
	return d.refuse("does not agree to STARTTLS")
}

// reply expects a reply with the code, of one or many lines (RFC 5321 section
// 4.2.1, RFC 959 section 4.2).
func (d *dialogue) reply(code string) *dialogue { return d.offer(code, "") }

// offer expects such a reply in which a line is the keyword, unless it is "".
func (d *dialogue) offer(code, keyword string) *dialogue {
	found := keyword == ""
	for range maxLines {
		s := d.text()
		if d.failure != nil {
			return d
		}
		if len(s) >= 4 {
			found = found || strings.EqualFold(strings.TrimSpace(s[4:]), keyword)
		}
		last := begins(s, code+" ") || s == code
		switch {
		case last && found:
			return d
		case last:
			return d.refuse("does not offer STARTTLS")
		case len(s) >= 4 && s[3] == ' ' && isDigits(s[:3]):
			return d.refuse("does not agree to STARTTLS")
		}
	}
	return d.refuse("does not end its reply")
}

func begins(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

func isDigits(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' }) < 0
}

// ldapStartTLS is message 1, an ExtendedRequest for 1.3.6.1.4.1.1466.20037.
const ldapStartTLS = "\x30\x1d\x02\x01\x01\x77\x18\x80\x161.3.6.1.4.1.1466.20037"

// ldap sends StartTLS and reads the ExtendedResponse.
func (d *dialogue) ldap() {
	msg := d.send(ldapStartTLS).read(2)
	if d.failure != nil {
		return
	}
	n := int(msg[1])
	if msg[0] != 0x30 || n == 0x80 || n > 0x84 {
		d.refuse("answers something other than LDAP")
		return
	}
	if n > 0x80 { // long form
		length := d.read(n - 0x80)
		msg, n = append(msg, length...), 0
		for _, b := range length {
			n = n<<8 | int(b)
		}
	}
	if n > maxLine {
		d.refuse("answers something other than LDAP")
		return
	}
	msg = append(msg, d.read(n)...)
	if d.failure == nil && !ldapAgrees(msg) {
		d.refuse("does not agree to STARTTLS")
	}
}

// ldapAgrees reports whether msg is a successful ExtendedResponse to message 1.
// Lengths may be in any BER form, which servers use.
func ldapAgrees(msg []byte) bool {
	body, rest, ok := berValue(msg, 0x30)
	if !ok || len(rest) > 0 {
		return false
	}
	id, body, ok := berValue(body, 0x02)
	if !ok || len(id) != 1 || id[0] != 1 {
		return false
	}
	op, _, ok := berValue(body, 0x78)
	if !ok {
		return false
	}
	code, _, ok := berValue(op, 0x0a)
	return ok && len(code) == 1 && code[0] == 0
}

// berValue returns the content of the first element of b, which must have the
// tag, and what follows it.
func berValue(b []byte, tag byte) (value, rest []byte, ok bool) {
	if len(b) < 2 || b[0] != tag {
		return nil, nil, false
	}
	n, at := int(b[1]), 2
	if n >= 0x81 && n <= 0x84 && len(b) >= 2+n-0x80 {
		at += n - 0x80
		n = 0
		for _, c := range b[2:at] {
			n = n<<8 | int(c)
		}
	} else if n >= 0x80 {
		return nil, nil, false
	}
	if n < 0 || n > len(b)-at {
		return nil, nil, false
	}
	return b[at : at+n], b[at+n:], true
}

// xmpp opens a stream and asks for TLS (RFC 6120 section 5.4.2).
func (d *dialogue) xmpp(name string) {
	if strings.ContainsAny(name, `'"<>&`) {
		d.refuse("the name cannot stand in XML")
		return
	}
	d.send("<?xml version='1.0'?><stream:stream to='" + name + "' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>")
	if !d.until("</stream:features>", "<stream:features/>", "<stream:error") {
		return
	}
	d.send("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
	d.until("<proceed", "<failure")
	for d.failure == nil { // to the end of the element
		if d.read(1)[0] == '>' {
			return
		}
	}
}

// until reads up to the first of the texts, and reports whether it is one that
// means to go on: the others are refusals.
func (d *dialogue) until(want string, refusals ...string) bool {
	var b []byte
	for d.failure == nil {
		b = append(b, d.read(1)...)
		if bytes.HasSuffix(b, []byte(want)) {
			break
		}
		for _, r := range refusals {
			if bytes.HasSuffix(b, []byte(r)) {
				d.refuse("does not agree to STARTTLS")
			}
		}
		if len(b) > maxXML {
			d.refuse("says too much")
		}
	}
	if d.failure == nil && want == "</stream:features>" && !bytes.Contains(b, []byte("urn:ietf:params:xml:ns:xmpp-tls")) {
		d.refuse("does not offer STARTTLS")
	}
	return d.failure == nil
}

// postgres sends SSLRequest and expects 'S'.
func (d *dialogue) postgres() {
	answer := d.send("\x00\x00\x00\x08\x04\xd2\x16\x2f").read(1)
	if d.failure == nil && answer[0] != 'S' {
		d.refuse("does not agree to TLS")
	}
}

// Capabilities of MySQL's handshake.
const (
	mysqlProtocol41 = 1 << 9
	mysqlSSL        = 1 << 11
	mysqlSecure     = 1 << 15
)

// mysql reads the greeting (protocol 10) and sends an SSLRequest.
func (d *dialogue) mysql() {
	head := d.read(4)
	n := int(head[0]) | int(head[1])<<8 | int(head[2])<<16
	if d.failure == nil && (n == 0 || n > maxLine) {
		d.refuse("answers something other than MySQL")
	}
	if d.failure != nil {
		return
	}
	body := d.read(n)
	if d.failure == nil && !mysqlOffers(body) {
		d.refuse("does not offer TLS")
	}
	request := make([]byte, 4+32)
	request[0], request[3] = 32, head[3]+1
	binary.LittleEndian.PutUint32(request[4:], mysqlProtocol41|mysqlSSL|mysqlSecure)
	binary.LittleEndian.PutUint32(request[8:], 1<<24) // largest packet
	request[12] = 45                                  // utf8mb4
	d.send(string(request))
}

// mysqlOffers reports whether a greeting offers TLS: protocol version,
// NUL-terminated server version, thread id (4), salt (8), zero, capabilities.
func mysqlOffers(greeting []byte) bool {
	if len(greeting) == 0 || greeting[0] != 10 {
		return false
	}
	_, after, ok := bytes.Cut(greeting[1:], []byte{0})
	if !ok || len(after) < 4+8+1+2 {
		return false
	}
	return binary.LittleEndian.Uint16(after[13:])&mysqlSSL != 0
}
