package fleet

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"strings"

	"chancery/internal/scan/probe"
)

// greet speaks the server's side of STARTTLS and reports whether TLS begins
// now. A server that does not offer it says so.
func greet(c net.Conn, p probe.Protocol, offer bool) bool {
	// Clients wait for the consent, so the buffer holds nothing of TLS; only
	// MySQL's do not.
	g := &greeter{r: bufio.NewReader(c), c: c, offer: offer}
	switch p {
	case probe.SMTP:
		return g.smtp()
	case probe.IMAP:
		g.say("* OK [CAPABILITY IMAP4rev2 STARTTLS] ready\r\n")
		return g.ask("a1 STARTTLS", "* NOOP\r\na1 OK begin\r\n", "a1 BAD unknown command\r\n")
	case probe.POP3:
		g.say("+OK ready\r\n")
		return g.ask("STLS", "+OK begin\r\n", "-ERR unknown command\r\n")
	case probe.FTP:
		g.say("220-welcome\r\n to this server\r\n220 ready\r\n")
		return g.ask("AUTH TLS", "234 begin\r\n", "502 not implemented\r\n")
	case probe.LDAP:
		return g.ldap()
	case probe.XMPP:
		return g.xmpp()
	case probe.Postgres:
		return g.postgres()
	case probe.MySQL:
		return g.mysql()
	}
	return false
}

type greeter struct {
	r     *bufio.Reader
	c     net.Conn
	offer bool
}

func (g *greeter) say(text string) { io.WriteString(g.c, text) }

// ask expects a command and answers it.
func (g *greeter) ask(command, yes, no string) bool {
	line, err := g.r.ReadString('\n')
	if err != nil || !strings.EqualFold(strings.TrimSpace(line), command) || !g.offer {
		g.say(no)
		return false
	}
	g.say(yes)
	return true
}

func (g *greeter) smtp() bool {
	g.say("220 fleet.test ESMTP\r\n")
	line, err := g.r.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "EHLO ") {
		g.say("500 what?\r\n")
		return false
	}
	if !g.offer {
		g.say("250-fleet.test\r\n250 SIZE 1000\r\n")
		return false
	}
	g.say("250-fleet.test\r\n250-STARTTLS\r\n250 SIZE 1000\r\n")
	return g.ask("STARTTLS", "220 begin\r\n", "454 no\r\n")
}

// ldap answers an ExtendedRequest with lengths in the long form, as some
// servers do.
func (g *greeter) ldap() bool {
	var head [2]byte
	if _, err := io.ReadFull(g.r, head[:]); err != nil || head[0] != 0x30 || head[1] >= 0x80 {
		return false
	}
	body := make([]byte, head[1])
	if _, err := io.ReadFull(g.r, body); err != nil || !bytes.Contains(body, []byte("1.3.6.1.4.1.1466.20037")) {
		return false
	}
	code := byte(0)
	if !g.offer {
		code = 2 // protocolError
	}
	g.say(string([]byte{0x30, 0x84, 0, 0, 0, 0x10, 2, 1, 1, 0x78, 0x84, 0, 0, 0, 7, 10, 1, code, 4, 0, 4, 0}))
	return g.offer
}

func (g *greeter) xmpp() bool {
	if !g.tag("<stream:stream") {
		return false
	}
	g.say("<?xml version='1.0'?><stream:stream from='fleet.test' id='1' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>")
	if !g.offer {
		g.say("<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/></stream:features>")
		return false
	}
	g.say("<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls></stream:features>")
	if !g.tag("<starttls") {
		return false
	}
	g.say("<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
	return true
}

// tag reads up to the end of an element that begins with name.
func (g *greeter) tag(name string) bool {
	for {
		text, err := g.r.ReadString('>')
		if err != nil {
			return false
		}
		if strings.Contains(text, name) {
			return true
		}
	}
}

func (g *greeter) postgres() bool {
	var request [8]byte
	if _, err := io.ReadFull(g.r, request[:]); err != nil || binary.BigEndian.Uint32(request[4:]) != 80877103 {
		return false
	}
	if !g.offer {
		g.say("N")
		return false
	}
	g.say("S")
	return true
}

func (g *greeter) mysql() bool {
	capabilities := uint16(1<<9 | 1<<15)
	if g.offer {
		capabilities |= 1 << 11
	}
	body := append([]byte{10}, "8.4.0-fleet\x00\x01\x00\x00\x0012345678\x00"...)
	body = binary.LittleEndian.AppendUint16(body, capabilities)
	body = append(body, 45, 2, 0, 0, 0, 21)
	body = append(body, make([]byte, 10+13)...)
	g.c.Write(append([]byte{byte(len(body)), 0, 0, 0}, body...))
	if !g.offer {
		return false
	}
	var request [36]byte
	_, err := io.ReadFull(g.c, request[:])
	return err == nil && request[3] == 1 && binary.LittleEndian.Uint32(request[4:])&(1<<11) != 0
}
